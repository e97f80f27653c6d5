"""Trees of everything that a file system can hold, and helpers to run code as another user."""

# pathlib has no paths of bytes.
# ruff: noqa: PTH101, PTH113, PTH114, PTH115, PTH118, PTH123, PTH211

import codecs
import multiprocessing
import os
import socket
import struct
from pathlib import Path

from recovery.packs.content_index import read_rows

NOBODY = 65534
_OWNER, _USER, _GROUP, _MASK, _OTHER, _ANY = 1, 2, 4, 16, 32, 0xFFFFFFFF
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry) for entry in ((_OWNER, 6, _ANY), (_USER, 6, 4321), (_GROUP, 4, _ANY), (_MASK, 6, _ANY), (_OTHER, 0, _ANY))
)
"""An access control list as Linux keeps it in ``system.posix_acl_access``: another user may read and write."""


def build(folder: Path) -> None:
    """Odd entries of every kind; owners only as root."""
    root = os.fsencode(folder)
    folder.mkdir(parents=True)
    names = [
        b"plain",
        b"with space",
        b"new\nline",
        b"-dash",
        b"\xff\xfe not utf-8",
        b"n" * 255,
        "päper ☂".encode(),
        b"back\\slash",
        b"*?[x]",
    ]
    for number, name in enumerate(names):
        path = os.path.join(root, name)
        with open(path, "wb") as out:
            out.write(name * number)
        os.utime(path, ns=(1, 1_700_000_000_123_456_789 + number))
    (folder / "big").write_bytes(os.urandom(3 << 20))
    (folder / "empty").touch()
    (folder / "old").write_bytes(b"older than time")
    os.utime(folder / "old", ns=(0, -1_500_000_001))
    deep = folder / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    (folder / "empty folder").mkdir()
    _links(folder, deep)
    _sparse(folder / "holes")
    _attributes(folder)
    _modes(folder, deep)


def _links(folder: Path, deep: Path) -> None:
    (folder / "linked").write_bytes(b"one file, three names")
    os.link(folder / "linked", deep / "linked too")
    os.link(folder / "linked", folder / "a" / "0 linked first")
    os.symlink("nowhere/at/all", folder / "dangling")
    os.symlink("/etc/passwd", folder / "absolute")
    os.symlink("../..", folder / "a" / "up")
    os.symlink(b"\xff" * 250, os.fsencode(folder / "odd target"))
    os.symlink("a", folder / "to folder")
    os.link(folder / "dangling", folder / "dangling too", follow_symlinks=False)
    os.mkfifo(folder / "fifo")


def _sparse(path: Path) -> None:
    with path.open("wb") as out:
        out.truncate(64 << 20)
        for position in (0, 5 << 20, 33 << 20):
            out.seek(position)
            out.write(os.urandom(10_000))


def _attributes(folder: Path) -> None:
    os.setxattr(folder / "plain", "user.binary", bytes(range(256)))
    os.setxattr(folder / "plain", "user.a=b%c", b"line\nline\0")
    os.setxattr(folder / "linked", "user.shared", b"by three names")
    os.setxattr(folder / "a", "user.folder", b"")
    os.setxattr(folder / "plain", "system.posix_acl_access", ACL)
    os.setxattr(folder / "a", "system.posix_acl_default", ACL)


def _modes(folder: Path, deep: Path) -> None:
    os.chmod(folder / "empty", 0o400)
    os.chmod(folder / "big", 0o4755)
    if os.geteuid() == 0:
        os.chmod(folder / "empty", 0)
        os.chown(folder / "big", 1234, 4_000_000_000)
        os.chmod(folder / "big", 0o4755)
        os.chown(folder / "dangling", 7, 8, follow_symlinks=False)
        os.chown(deep, 11, 12)
    for place, mode in ((deep, 0o555), (folder / "empty folder", 0o1777), (folder, 0o2750)):
        os.chmod(place, mode)
        os.utime(place, ns=(5, 1_600_000_000_000_000_001))


def make_deep(folder: Path, names: list[str]) -> None:
    """Folders one in the other, however long their path gets."""
    at = os.open(folder, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("file", os.O_CREAT, dir_fd=at))
    os.close(at)


def listen(path: Path) -> socket.socket:
    """A socket in the file system."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    return server


def entries(set_folder: Path, artifact: str) -> dict:
    """The set's entries by path."""
    return {path: facts for _, path, facts in read_rows(set_folder / f"{artifact}.contents.jsonl", "entry")}


def rows(set_folder: Path, artifact: str, kind: str) -> list:
    """The set's rows of a kind."""
    return list(read_rows(set_folder / f"{artifact}.contents.jsonl", kind))


def open_up(folder):
    """Let other users into a test's folder, and into those of pytest above it."""
    for each in (folder, *folder.parents):
        if each.name.startswith(("test_", "popen-", "pytest-")):
            each.chmod(0o755)


def as_nobody(do, *arguments):
    """What a call returns in a process of an unprivileged user; its exception is raised here."""
    if os.geteuid():
        return do(*arguments)
    codecs.lookup("ascii")  # the other user may not be able to read where Python is installed, so nothing is left to import
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def run() -> None:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            theirs.send((True, do(*arguments)))
        except Exception as error:  # noqa: BLE001 - raised by the parent
            theirs.send((False, error))

    process = context.Process(target=run)
    process.start()
    theirs.close()
    try:
        done, result = ours.recv()
    finally:
        process.join()
    if not done:
        raise result
    return result


def snapshot(folder: Path, *, times: bool = True) -> dict:
    """Everything about a tree, read without the code under test; work folders of restores are left out."""
    seen = {}
    for place, folders, files in os.walk(os.fsencode(folder)):
        folders[:] = [name for name in folders if not name.startswith(b".recovery-")]
        for name in [b".", *files, *(name for name in folders if os.path.islink(os.path.join(place, name)))]:
            path = os.path.join(place, name)
            status = os.lstat(path)
            what = [status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns if times else 0]
            if os.path.islink(path):
                what.append(os.readlink(path))
            elif os.path.isfile(path):
                with open(path, "rb") as data:
                    what += [status.st_nlink, data.read()]
            what.append({key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)})
            seen[os.path.relpath(path, os.fsencode(folder))] = what
    return seen
