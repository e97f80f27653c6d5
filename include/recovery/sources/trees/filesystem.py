"""What Linux knows about files that Python's standard library has no call for, and what a rename would refuse."""

# pathlib has no paths of bytes.

# ruff: noqa: PTH101, PTH104, PTH108, PTH118

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from recovery.common.errors import RestoreError
from recovery.common.held_folder import HeldFolder, removed_empty
from recovery.common.paths import at, readable, text
from recovery.common.trusted_path import REACHED
from recovery.common.wording import ROLLS_BACK, shortened
from recovery.common.xattrs import read_xattrs
from recovery.packs.content_index import Facts
from recovery.plan.location import Location, overlap
from recovery.sources.trees.entries import Abilities, in_hex
from recovery.sources.trees.walk import Found, Walk

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_FSGETXATTR = 0x801C581F
_IMMUTABLE_OR_APPEND = 0x10 | 0x20
_PROJECT_INHERITED = 0x200
_MINIMAL_ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, 6, 0xFFFFFFFF) for tag in (0x01, 0x04, 0x20))
_PROBES = {"user.recovery": b"1", "trusted.recovery": b"1", "security.recovery": b"1", "system.posix_acl_access": _MINIMAL_ACL}


def rename(source: bytes, target: bytes) -> None:
    """Rename, and replace nothing: ``renameat2(2)`` with RENAME_NOREPLACE, where the file system has it.

    A folder of this user in which this user may not write, such as a read-only one, is opened for that moment.

    Raises:
        OSError: as the system says; ``FileExistsError`` if the target exists.
    """
    try:
        _rename(source, target)
    except PermissionError:
        if not is_closed(source):
            raise
        with _opened(source):
            _rename(source, target)


def _rename(source: bytes, target: bytes) -> None:
    if _libc.renameat2(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    if number not in {errno.EINVAL, errno.ENOSYS}:
        raise OSError(number, os.strerror(number), source, None, target)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source, None, target)
    os.rename(source, target)


def is_closed(path: bytes) -> bool:
    """Whether an entry is a folder of this user that lets this user write nothing."""
    status = os.lstat(path)
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return own and not os.access(path, os.W_OK, effective_ids=True)


@contextmanager
def _opened(folder: bytes) -> Iterator[None]:
    """Let this user write to a folder of its own: that moves to another folder only with the right to, since its ``..`` changes."""
    descriptor = os.open(folder, REACHED)
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", mode | stat.S_IWUSR)
        yield
        os.chmod(f"/proc/self/fd/{descriptor}", mode)
    finally:
        os.close(descriptor)


def close(folder: bytes, inode: int, mode: int) -> None:
    """Give a folder that was opened for a rename its mode back; another one that lies there by now keeps its own.

    Raises:
        OSError: if none is there.
    """
    descriptor = os.open(folder, REACHED)
    try:
        if os.fstat(descriptor).st_ino == inode:
            os.chmod(f"/proc/self/fd/{descriptor}", mode)
    finally:
        os.close(descriptor)


def sync(folder: HeldFolder) -> None:
    """Write everything of a folder's file system to disk (``syncfs(2)``).

    Raises:
        OSError: if writing failed.
    """
    if _libc.syncfs(folder.fileno()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder.path))


@dataclass(frozen=True)
class Mount:
    """What is mounted somewhere, as this process sees it: a line of ``proc_pid_mountinfo(5)``."""

    number: str
    device: str
    root: str
    """The folder of the file system that is mounted."""
    point: str
    """Where."""
    kind: str
    source: str
    options: str


def mounts() -> Iterator[Mount]:
    """Everything that is mounted."""
    return read_mounts(Path("/proc/self/mountinfo").read_bytes())


def read_mounts(lines: bytes) -> Iterator[Mount]:
    """Lines of ``proc_pid_mountinfo(5)``."""
    for line in lines.splitlines():
        number, _, device, root, point, *rest = (text(re.sub(rb"\\([0-7]{3})", _byte, word)) for word in line.split(b" "))
        yield Mount(number, device, root, point, *rest[rest.index("-") + 1 :][:3])


def _byte(octal: re.Match[bytes]) -> bytes:
    return bytes([int(octal[1], 8)])


def _mount(folder: Path) -> Mount:
    descriptor = os.open(folder, os.O_PATH)
    try:
        words = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split()
    finally:
        os.close(descriptor)
    number = words[words.index("mnt_id:") + 1]
    if found := next((mount for mount in mounts() if mount.number == number), None):
        return found
    raise RestoreError(f"The mount of {folder} is not in /proc/self/mountinfo.", "Run the worker with /proc mounted.")


def mount_of(folder: Path) -> str:
    """The mount that a folder lies in, as ``<type> <source> <root>``.

    Unlike a device number it is the same after a reboot and on every worker that mounts the same export. Where the source
    is only a word, what makes one such file system another is added: an overlay's upper folder, the device of a tmpfs.
    """
    mount = _mount(folder)
    upper = [option for option in mount.options.split(",") if option.startswith("upperdir=")]
    return " ".join([mount.kind, mount.source, mount.root, *upper, *([mount.device] if mount.kind in {"tmpfs", "ramfs"} else [])])


def mounts_below(folder: Path) -> list[str]:
    """Mount points below a folder, the folder itself not among them."""
    prefix = os.path.realpath(folder).rstrip("/") + "/"
    return sorted(mount.point for mount in mounts() if mount.point.startswith(prefix))


def mounts_in_the_way(path: Path, home: Path) -> Iterator[str]:
    """Mounts at, in, or above an entry, but below the folder that it is set aside in."""
    inside = os.path.realpath(home).rstrip("/") + "/"
    entry = os.path.join(os.path.realpath(path.parent), path.name)
    for point in (mount.point for mount in mounts()):
        if point == entry:
            yield f"{path} is a mount point of its own, which can't be renamed: mount its folder instead, or restore it by hand"
        elif point.startswith(entry + "/") or (entry.startswith(point + "/") and point.startswith(inside)):
            yield f"{point} is a mount point, so {path} can't be swapped by rename"


def location(path: Path) -> Location:
    """A path without links in it; see :data:`recovery.plan.location.Location`."""
    return ("files", *Path(os.path.realpath(path)).parts)


def locations(path: Path) -> set[Location]:
    """A path without links in it, and the same in its file system, which may be mounted at several places."""
    real = Path(os.path.realpath(path))
    mount = _mount(nearest(real))
    return {location(real), ("files", f"device {mount.device}", *Path(_root(mount), real.relative_to(mount.point)).parts)}


def nested(one: Path, other: Path) -> bool:
    """Whether one of two folders lies in the other, however it is reached."""
    first, second = locations(one), locations(other)
    return not first & second and any(overlap(mine, theirs) for mine in first for theirs in second)


def _root(mount: Mount) -> str:
    """The folder of a mount's device that is mounted. Of NFS, Linux says ``/`` whatever it is; ``<host>:<path>`` has it."""
    return mount.source[mount.source.find(":/") + 1 :] if mount.kind in {"nfs", "nfs4"} else mount.root


def nearest(folder: Path) -> Path:
    """A folder, or if it is gone the nearest parent that exists."""
    return next(point for point in (folder, *folder.parents) if point.exists())


@contextmanager
def keeping_mtime(folder: HeldFolder) -> Iterator[None]:
    """Give a folder its modification time back after our own work folder came or went in it."""
    before = folder.status
    yield
    if os.geteuid() in {0, before.st_uid}:
        os.utime(folder.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))


def remove(folder: HeldFolder, name: bytes) -> None:
    """Remove an entry with everything in it, and nothing that is mounted there. One that is gone is no error.

    Raises:
        RestoreError: if something is mounted below it.
        OSError: if an entry can't be looked at, or removed.
    """
    path = folder.through.readlink() / os.fsdecode(name)
    if below := mounts_below(path):
        raise RestoreError(f"{path} has mount points in it: {', '.join(below)}.", f"Unmount them. {ROLLS_BACK}")
    folder.remove(name)


def clear(walk: Walk) -> dict[bytes, int]:
    """Remove all that a walk comes across.

    Returns:
        The folders that stay, since something is mounted there or lies in them that the walk leaves out, and their inodes.

    Raises:
        RestoreError: if something can't be looked at.
        OSError: if an entry can't be removed.
    """
    folders: list[Found] = []
    for found in walk:
        if found.kind != "folder":
            with suppress(FileNotFoundError):
                os.unlink(walk.at(found.path))
            continue
        folders.append(found)
        if os.geteuid() and found.status.st_uid == os.geteuid():
            walk.below(found.path).chmod(stat.S_IRWXU)
    if walk.problems:
        raise RestoreError(f"Not all of {walk.root} can be removed: {shortened(walk.problems)}.", "Give this worker the right to.")
    return {found.path: found.status.st_ino for found in reversed(folders) if not removed_empty(walk.at(found.path))}


# Metadata -----------------------------------------------------------------------------------------------------------


def abilities(folder: Path) -> Abilities:
    """What this worker can set on entries of a folder, tried on a nameless file that leaves no trace (``O_TMPFILE``)."""
    owners = os.geteuid() == 0
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:
        return Abilities(owners, frozenset({"user", "trusted", "security", "system"} if owners else {"user"}))
    try:
        return Abilities(owners, frozenset(name.partition(".")[0] for name, value in _PROBES.items() if _settable(descriptor, name, value)))
    finally:
        os.close(descriptor)


def _settable(descriptor: int, name: str, value: bytes) -> bool:
    try:
        os.setxattr(descriptor, name, value)
    except OSError:
        return False
    return True


def set_metadata(folder: HeldFolder, facts: Facts) -> None:
    """Give a live folder the owner, mode, extended attributes and time of a row, as far as this worker can.

    Raises:
        OSError: if the system refuses what it allowed when it was tried.
    """
    able, here = abilities(folder.through), folder.fileno()
    if able.owners:
        os.chown(here, facts["uid"], facts["gid"])
    elif folder.status.st_uid != os.geteuid():
        return
    wanted, have = able.settable(facts.get("xattrs", {})), able.settable(in_hex(read_xattrs(folder.at(b"."))))
    for name in have.keys() - wanted.keys():
        os.removexattr(here, name)
    for name, value in wanted.items():
        os.setxattr(here, name, bytes.fromhex(value))
    folder.chmod(int(facts["mode"], 8))
    os.utime(here, ns=(folder.status.st_atime_ns, facts["mtime"]))


# What a rename would refuse -----------------------------------------------------------------------------------------


def obstacles(folder: Path, names: Iterable[bytes], *, renamed: bool = True) -> Iterator[str]:
    """Why entries of a folder can't be moved to another folder inside it, or removed, in words; nothing if all can.

    Rights, the sticky bit, immutable and append-only marks (``FS_IOC_GETFLAGS``), and project quotas, across which a
    rename is refused as if it were another file system (``FS_IOC_FSGETXATTR``).
    """
    root = os.geteuid() == 0
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        yield f"{folder} is not writable for this worker"
        return
    try:
        held = HeldFolder.open(folder)
    except OSError as error:
        yield f"{folder} can't be opened: {error.strerror}"
        return
    status = held.status
    flags, project, inherited = _marks(held.at(b"."), status)
    if flags:
        yield f"{folder} is marked immutable or append-only (lsattr shows it)"
    sticky = not root and status.st_mode & stat.S_ISVTX and status.st_uid != os.geteuid()
    for name in names:
        path, place = at(folder, name), held.at(name)
        try:
            entry = os.lstat(place)
        except FileNotFoundError:  # it went since it was listed
            continue
        is_folder = stat.S_ISDIR(entry.st_mode)
        if sticky and entry.st_uid != os.geteuid():
            yield f"{readable(path)} belongs to another user, and {folder} is sticky"
        if is_folder and entry.st_uid != os.geteuid() and not os.access(place, os.W_OK, effective_ids=True):
            yield f"{readable(path)} is not writable for this worker, so it can't be moved"
        flags, its_project, _ = _marks(place, entry)
        if flags:
            yield f"{readable(path)} is marked immutable or append-only (lsattr shows it)"
        if renamed and inherited and its_project != project:
            yield f"{readable(path)} belongs to another project quota than {folder}, so it can't be renamed"


def keeps_all(path: bytes, status: os.stat_result) -> bool:
    """Whether an entry is a folder of another user from which this user may remove nothing."""
    return stat.S_ISDIR(status.st_mode) and status.st_uid != os.geteuid() and not os.access(path, os.W_OK | os.X_OK, effective_ids=True)


def is_fixed(path: bytes, status: os.stat_result) -> bool:
    """Whether an entry is marked immutable or append-only."""
    return bool(_marks(path, status)[0])


def _marks(path: bytes, status: os.stat_result) -> tuple[int, int, bool]:
    """Immutable and append-only flags, the project, and whether new entries inherit it; zeros where there is no such thing."""
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return 0, 0, False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return 0, 0, False
    try:
        flags = _ask(descriptor, _FS_IOC_GETFLAGS, 8)[0]
        extended = _ask(descriptor, _FS_IOC_FSGETXATTR, 28)
        return flags & _IMMUTABLE_OR_APPEND, extended[3], bool(extended[0] & _PROJECT_INHERITED)
    finally:
        os.close(descriptor)


def _ask(descriptor: int, request: int, size: int) -> array.array[int]:
    answer = array.array("I", bytes(size))
    try:
        fcntl.ioctl(descriptor, request, answer, True)
    except OSError:
        return array.array("I", bytes(size))
    return answer
