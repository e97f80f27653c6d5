"""Sets in a folder: a disk, or a share that every worker mounts."""

# pathlib has no paths of bytes.

# ruff: noqa: PTH104, PTH108, PTH118, PTH120

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import logging
import mmap
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from recovery.common.errors import DestinationError
from recovery.common.held_folder import HeldFolder
from recovery.common.paths import readable
from recovery.destinations.base import NO_ROOM, Destination, Entry, Missing, Reading, Refused

log = logging.getLogger(__name__)

_CONFIRMED_BY = "reading it back"
_CHUNK = 1 << 23
_DIRECT = 1 << 20
"""Bytes of a direct read; a mapping of memory begins at a page, as direct reads need it."""
_PARTIAL = ".partial-"
_TRIES = 100
"""Temporary files of which a sweep took each before it was locked: one sweep takes few of them, only somebody on purpose so many."""
_DEEPEST = 16
"""Folders in folders; a set has four."""
_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""The last day that Python knows. Anybody may give a file a later one."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class Folder(Destination):
    """A folder.

    A file is written under a temporary name, synced, read again, renamed, and its folder synced. Reading again goes past
    this machine's page cache, so it verifies what the file system gives back, not what this process just had in memory; a
    drive's own cache can't be seen through.

    Somebody else may be allowed to write here, too: below the root nothing is reached through a link.

    A temporary file is locked by its writer, so one that isn't was left by a writer that was killed. An empty folder was left by
    one, too; a writer makes it again if it needs it.

    Args:
        name: the plan's name for it.
        root: the folder, which has to be there.
        mount: what has to be a mount point whenever the folder is used: the folder or one above it. Without, nobody can tell a
            disk from the empty folder that is left where it isn't mounted.
    """

    def __init__(self, name: str, root: Path, mount: Path | None = None) -> None:
        super().__init__(name)
        self.confirmed_by.add(_CONFIRMED_BY)
        self.root = root
        self._mount = mount

    def describe(self) -> str:
        """Its path."""
        return str(self.root)

    def put(self, path: Path, key: str, sha256: str, sent: Callable[[int], None]) -> bool:
        """See :meth:`Destination.put`."""
        above, name = os.path.split(self._name(key))
        with self._held(f"write {key}") as root:
            if _is_there(root, self._name(key), path.stat().st_size, sha256):
                return False
            folder, partial, out = self._begin(above)
            with folder:
                try:
                    with out:  # renamed before the lock goes, or a sweep would take it
                        self._write(path, out, sha256, key, sent)
                        os.rename(folder.at(partial), folder.at(name))
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(folder.at(partial))
                folder.sync()
        return True

    def _begin(self, above: bytes) -> tuple[HeldFolder, bytes, IO[bytes]]:
        """A temporary file in a folder, locked; until it is, a sweep may take both for what was left, and remove them."""
        for _ in range(_TRIES):
            partial = f"{_PARTIAL}{secrets.token_hex(8)}".encode()
            with suppress(FileNotFoundError), self._root() as root:
                self._make_folder(root, above)
                folder = root.below(above or b".")
                out = os.fdopen(os.open(folder.at(partial), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
                fcntl.flock(out, fcntl.LOCK_EX)
                if os.fstat(out.fileno()).st_nlink:
                    return folder, partial, out
                out.close()
        raise DestinationError(
            f"Somebody removes what is written to {os.path.join(self.describe(), readable(above))}: {_TRIES} new files were gone at once.",
            "Find out which program deletes files there, and stop it.",
        )

    def _write(self, path: Path, out: IO[bytes], sha256: str, key: str, sent: Callable[[int], None]) -> None:
        with path.open("rb") as source:
            # sendfile, not copy_file_range: a reflink would share the blocks, and one bad sector would lose both copies.
            while count := os.sendfile(out.fileno(), source.fileno(), None, _CHUNK):
                sent(count)
            os.fsync(out.fileno())
            size = os.fstat(source.fileno()).st_size
            if _stored_sha256(Path(f"/proc/self/fd/{out.fileno()}"), size) != sha256:
                with path.open("rb", buffering=0) as again:
                    raise self.not_as_sent(key) if _sha256(again, size) == sha256 else self.changed_here(path)

    def _make_folder(self, root: HeldFolder, folder: bytes) -> None:
        """Make a folder and its parents below the root, each one synced."""
        if not folder or root.has(folder):
            return
        above = os.path.dirname(folder)
        self._make_folder(root, above)
        root.make(folder)
        root.below(above or b".").sync()

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """See :meth:`Destination.open`."""
        what = f"read {key}"
        with self._held(what) as root:
            try:
                source = io.FileIO(os.fsdecode(root.at(self._name(key))), opener=_open_at_once)
            except FileNotFoundError:
                raise Missing(f"There is no {key} at {self.describe()}.", "Look at what was removed there, and when.") from None
        with Reading(source, lambda: self._errors(what)).buffered() as reader:
            yield reader

    def list(self, prefix: str) -> Iterator[Entry]:
        """See :meth:`Destination.list`."""
        for folder, name, key in self._walk(prefix):
            if name.startswith(_PARTIAL):
                continue
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield Entry(key, status.st_size, datetime.fromtimestamp(min(max(status.st_mtime, 0), _LATEST), UTC))

    def folders(self, prefix: str) -> Iterator[str]:
        """See :meth:`Destination.folders`. A link is none: who may write here must not lead prune to delete elsewhere."""
        with self._held(f"list {prefix}") as root:
            with suppress(FileNotFoundError), root.below(self._name(prefix)) as folder:
                yield from sorted(entry.name for entry in folder.scan() if entry.is_dir(follow_symlinks=False))

    def delete(self, keys: Iterable[str]) -> None:
        """See :meth:`Destination.delete`. Folders that become empty go too."""
        parents = set()
        for key in keys:
            with self._held(f"delete {key}") as root:
                with suppress(FileNotFoundError):
                    os.unlink(root.at(self._name(key)))
                parents.add(os.path.dirname(self._name(key)))
        for folder in parents:
            with self._held(f"delete {os.fsdecode(folder)}") as root:
                _tidy(root, folder)

    def now(self) -> datetime:
        """See :meth:`Destination.now`. The clock of the file system, which on a share is the server's."""
        probe = f"{_PARTIAL}{secrets.token_hex(8)}".encode()
        with self._held("write to it") as root:
            descriptor = os.open(root.at(probe), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                return datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC)
            finally:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    os.unlink(root.at(probe))

    def try_out(self, key: str) -> str:
        """See :meth:`Destination.try_out`. A file is made at the top, so that no folder is left."""
        self.now()
        return _CONFIRMED_BY

    def free_space(self) -> int | None:
        """See :meth:`Destination.free_space`."""
        with self._held("ask for its free space") as root:
            return shutil.disk_usage(root.fileno()).free

    def sweep(self, prefix: str) -> None:
        """See :meth:`Destination.sweep`."""
        for folder, name, key in self._walk(prefix):
            if name.startswith(_PARTIAL):
                with self._errors(f"look at {key}"):
                    if _removed_abandoned(folder, name):
                        log.info("%s: removed %s, left by a writer that was killed", self.describe(), readable(key))
        with self._top(prefix) as top:
            if top is None:
                return
            for path in reversed([path for path, _, _ in self._folders(top, prefix) if path != "."]):
                with self._errors(f"delete {os.path.join(prefix, path)}"), suppress(FileNotFoundError, NotADirectoryError):  # a link stays
                    top.remove_empty(os.fsencode(path))

    def _walk(self, prefix: str) -> Iterator[tuple[int, str, str]]:
        """Every entry below that is no folder: the descriptor of its folder, which is good until the next, its name, and its key."""
        with self._top(prefix) as top:
            for path, folder, names in self._folders(top, prefix) if top else ():
                for name in names:
                    yield folder.fileno(), name, os.path.normpath(os.path.join(prefix, path, name))

    def _folders(self, top: HeldFolder, prefix: str) -> Iterator[tuple[str, HeldFolder, Sequence[str]]]:
        """Each folder, outer ones first: its path below the top, itself until the next, and the names in it of what is no folder.

        Deeper ones than any set has are not entered: who may write here must not have us follow them without end.
        """
        pending = ["."]
        while pending:
            path = pending.pop()
            with self._errors(f"list {os.path.normpath(os.path.join(prefix, path))}"):
                try:
                    folder = top.below(os.fsencode(path))
                except FileNotFoundError:
                    continue
                inner = {entry.name: entry.is_dir(follow_symlinks=False) for entry in folder.scan()}
            if path.count("/") < _DEEPEST:
                pending += [os.path.normpath(os.path.join(path, name)) for name in sorted(inner, reverse=True) if inner[name]]
            yield path, folder, sorted(name for name, is_folder in inner.items() if not is_folder)

    @contextmanager
    def _top(self, prefix: str) -> Iterator[HeldFolder | None]:
        """Hold the folder of a prefix; None if it is not there."""
        with self._held(f"list {prefix}") as root:
            try:
                top = root.below(self._name(prefix))
            except FileNotFoundError:
                top = None
        with top or nullcontext():
            yield top

    @contextmanager
    def _held(self, what: str) -> Iterator[HeldFolder]:
        """Hold the root for something that is done, once it is sure that this is the destination."""
        with self._errors(what), self._root() as root:
            yield root

    def _root(self) -> HeldFolder:
        if self._mount and not os.path.ismount(self._mount):
            raise Refused(
                f"Nothing is mounted at {self._mount}, so {self.root} is not the destination {self.name}.",
                "Mount it, or correct the mount in the plan; nothing is written where it is missing.",
            )
        try:
            return HeldFolder.open(self.root.absolute())
        except (FileNotFoundError, NotADirectoryError):
            raise Refused(
                f"The folder {self.root} of the destination {self.name} is not there.", "Create it, or mount the disk that it is on."
            ) from None

    def _name(self, key: str) -> bytes:
        """Where an object lies, or would, below the root."""
        parts = key.split("/")
        if ".." in parts or key.startswith("/"):
            raise Refused(f"{key!r} is not a key.", "Report this: it should never have been asked for.")
        return os.fsencode("/".join(filter(None, parts)) or ".")

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._in_words(error, what) from error

    def _in_words(self, error: OSError, what: str) -> DestinationError:
        said = f"Could not {readable(what)} at {self.describe()}: {error.strerror or error}."
        if error.errno in _FULL:
            return DestinationError(said, NO_ROOM)
        if error.errno in _DENIED:
            return Refused(said, "Give the worker's user the right to write there.")
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            return Refused(said, "A file or a symbolic link is in the place of something else. Find out who put it there.")
        return DestinationError(said, "Check the disk or the share.")


def _tidy(root: HeldFolder, folder: bytes) -> None:
    """Remove a folder and its parents as far as they are empty; sync the first that is not."""
    with suppress(FileNotFoundError):
        while folder and root.remove_empty(folder):
            folder = os.path.dirname(folder)
        root.below(folder or b".").sync()


def _removed_abandoned(folder: int, name: str) -> bool:
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:  # its writer has ended since it was listed
        return False
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:
            raise
        os.unlink(name, dir_fd=folder)  # a link or socket, which no writer of ours made
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
    except (BlockingIOError, FileNotFoundError):  # its writer is at work, or has ended
        return False
    finally:
        os.close(descriptor)
    return True


def _is_there(root: HeldFolder, name: bytes, size: int, sha256: str) -> bool:
    """Whether exactly this file is there already."""
    if not root.has(name) or not stat.S_ISREG(os.lstat(root.at(name)).st_mode):
        return False
    with io.FileIO(os.fsdecode(root.at(name)), opener=_open_at_once) as there:
        return os.fstat(there.fileno()).st_size == size and _sha256(there, size) == sha256


def _open_at_once(path: str, flags: int) -> int:
    """Open a file itself, and no link.

    A pipe of its name would be waited for until somebody writes to it. That a folder is none, the caller finds out.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "It is not a file")
    return descriptor


def _sha256(source: io.FileIO, size: int) -> str:
    """SHA-256 of a file that should have a size. One that somebody lengthens is not followed without end."""
    digest, left = hashlib.sha256(), size + 1
    while left and (chunk := source.read(min(left, _DIRECT))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def _stored_sha256(path: Path, size: int) -> str:
    """SHA-256 of what the file system gives back of a synced file, past this machine's page cache; see :func:`_sha256`.

    Direct reads take a tenth of the processor time that dropping the pages and reading them in again does, but not every
    file system has them.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    digest, done = hashlib.sha256(), 0
    with os.fdopen(descriptor, "rb", buffering=0) as stored, mmap.mmap(-1, _DIRECT) as buffer, memoryview(buffer) as view:
        while done <= size and (count := stored.readinto(buffer)):
            digest.update(view[:count])
            done += count
    return digest.hexdigest()
