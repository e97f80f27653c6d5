"""Sets in a folder: a disk, or a share that every worker mounts."""

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from recovery.common.errors import DestinationError
from recovery.common.files import fsync_folder
from recovery.destinations.base import NO_ROOM, Destination, Entry, Missing, Reading, Refused

log = logging.getLogger(__name__)

_CHUNK = 1 << 23
_DIRECT = 1 << 20
"""Bytes of a direct read; a mapping of memory begins at a page, as direct reads need it."""
_PARTIAL = ".partial-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class Folder(Destination):
    """A folder.

    A file is written under a temporary name, synced, read again, renamed, and its folder synced. Reading again goes past
    this machine's page cache, so it verifies what the file system gives back, not what this process just had in memory; a
    drive's own cache can't be seen through.

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
        self.root = root
        self._mount = mount

    def describe(self) -> str:
        """Its path."""
        return str(self.root)

    def put(self, path: Path, key: str, sha256: str, sent: Callable[[int], None]) -> bool:
        """See :meth:`Destination.put`."""
        target = self._path(key)
        with self._errors(f"write {key}"):
            if target.is_file() and target.stat().st_size == path.stat().st_size and _sha256(target) == sha256:
                return False
            partial, out = self._begin(target.parent)
            try:
                with out:  # renamed before the lock goes, or a sweep would take it
                    self._write(path, partial, out, sha256, key, sent)
                    partial.rename(target)
            finally:
                partial.unlink(missing_ok=True)
            fsync_folder(target.parent)
        return True

    def _begin(self, folder: Path) -> tuple[Path, IO[bytes]]:
        """A temporary file in a folder, locked; until it is, a sweep may take both for what was left, and remove them."""
        while True:
            partial = folder / f"{_PARTIAL}{secrets.token_hex(8)}"
            with suppress(FileNotFoundError):
                self._make_folder(folder)
                out = os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
                fcntl.flock(out, fcntl.LOCK_EX)
                if os.fstat(out.fileno()).st_nlink:
                    return partial, out
                out.close()

    def _write(self, path: Path, partial: Path, out: IO[bytes], sha256: str, key: str, sent: Callable[[int], None]) -> None:
        with path.open("rb") as source:
            # sendfile, not copy_file_range: a reflink would share the blocks, and one bad sector would lose both copies.
            while count := os.sendfile(out.fileno(), source.fileno(), None, _CHUNK):
                sent(count)
            os.fsync(out.fileno())
            if _stored_sha256(partial) != sha256:
                raise self.not_as_sent(key) if _sha256(path) == sha256 else self.changed_here(path)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and its parents below the root, each one synced; the root itself has to be there."""
        if folder.is_dir():
            return
        if folder == self.root:
            raise self._not_there()
        self._make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        fsync_folder(folder.parent)

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """See :meth:`Destination.open`."""
        what = f"read {key}"
        path = self._path(key)
        with self._errors(what):
            try:
                source = io.FileIO(path, opener=_open_at_once)
            except FileNotFoundError:
                raise Missing(f"There is no {key} at {self.describe()}.", "Look at what was removed there, and when.") from None
        with Reading(source, lambda: self._errors(what)).buffered() as reader:
            yield reader

    def list(self, prefix: str) -> Iterator[Entry]:
        """See :meth:`Destination.list`."""
        for path in self._walk(prefix):
            if path.name.startswith(_PARTIAL):
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            yield Entry(path.relative_to(self.root).as_posix(), status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def folders(self, prefix: str) -> Iterator[str]:
        """See :meth:`Destination.folders`. A link is none: who may write here must not lead prune to delete elsewhere."""
        folder = self._path(prefix)
        if folder.is_dir():
            with self._errors(f"list {prefix}"):
                yield from sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink())

    def delete(self, keys: Iterable[str]) -> None:
        """See :meth:`Destination.delete`. Folders that become empty go too."""
        parents = set()
        for key in keys:
            with self._errors(f"delete {key}"):
                path = self._path(key)
                path.unlink(missing_ok=True)
                parents.add(path.parent)
        for folder in parents:
            self._tidy(folder)

    def _tidy(self, folder: Path) -> None:
        """Remove a folder and its parents as far as they are empty; sync the first that is not."""
        while folder != self.root and self._remove_empty(folder):
            folder = folder.parent
        if folder.is_dir():
            fsync_folder(folder)

    def _remove_empty(self, folder: Path) -> bool:
        """Remove a folder unless something is in it, or somebody else was quicker; whether it is removed."""
        with self._errors(f"delete {folder}"):
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ENOENT}:
                    raise
                return False
        return True

    def now(self) -> datetime:
        """See :meth:`Destination.now`. The clock of the file system, which on a share is the server's."""
        probe = self.root / f"{_PARTIAL}{secrets.token_hex(8)}"
        with self._errors("write to it"):
            self._check_root()
            try:
                probe.touch(0o600)
                return datetime.fromtimestamp(probe.stat().st_mtime, UTC)
            finally:
                probe.unlink(missing_ok=True)

    def free_space(self) -> int | None:
        """See :meth:`Destination.free_space`."""
        with self._errors("ask for its free space"):
            self._check_root()
            return shutil.disk_usage(self.root).free

    def sweep(self, prefix: str) -> None:
        """See :meth:`Destination.sweep`."""
        for path in self._walk(prefix):
            if path.name.startswith(_PARTIAL):
                self._remove_abandoned(path)
        top = self._path(prefix)
        for folder, _, _ in os.walk(top, topdown=False, onerror=self._raise):
            if Path(folder) != top:
                self._remove_empty(Path(folder))

    def _remove_abandoned(self, path: Path) -> None:
        with self._errors(f"look at {path}"):
            try:
                with path.open("r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            except (BlockingIOError, FileNotFoundError):  # its writer is at work, or has ended since it was listed
                return
        log.info("%s: removed %s, left by a writer that was killed", self.describe(), path.relative_to(self.root))

    def _walk(self, prefix: str) -> Iterator[Path]:
        for folder, folders, files in os.walk(self._path(prefix), onerror=self._raise):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(files))

    def _raise(self, error: OSError) -> None:
        if error.errno != errno.ENOENT:
            raise self._in_words(error, f"list {error.filename}") from error

    def _check_root(self) -> None:
        if self._mount and not os.path.ismount(self._mount):
            raise Refused(
                f"Nothing is mounted at {self._mount}, so {self.root} is not the destination {self.name}.",
                "Mount it, or correct the mount in the plan; nothing is written where it is missing.",
            )
        if not self.root.is_dir():
            raise self._not_there()

    def _not_there(self) -> Refused:
        return Refused(
            f"The folder {self.root} of the destination {self.name} is not there.", "Create it, or mount the disk that it is on."
        )

    def _path(self, key: str) -> Path:
        """Where an object lies, or would, once it is sure that this is the destination."""
        self._check_root()
        parts = key.split("/")
        if ".." in parts or key.startswith("/"):
            raise Refused(f"{key!r} is not a key.", "Report this: it should never have been asked for.")
        return self.root.joinpath(*parts)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._in_words(error, what) from error

    def _in_words(self, error: OSError, what: str) -> DestinationError:
        said = f"Could not {what} at {self.describe()}: {error.strerror or error}."
        if error.errno in _FULL:
            return DestinationError(said, NO_ROOM)
        if error.errno in _DENIED:
            return Refused(said, "Give the worker's user the right to write there.")
        return DestinationError(said, "Check the disk or the share; the task is tried again.")


def _open_at_once(path: str, flags: int) -> int:
    """Open a file: a pipe of its name would be waited for until somebody writes to it. That a folder is none, the caller finds out."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "It is not a file")
    return descriptor


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _stored_sha256(path: Path) -> str:
    """SHA-256 of what the file system gives back of a synced file, past this machine's page cache.

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
    digest = hashlib.sha256()
    with os.fdopen(descriptor, "rb", buffering=0) as stored, mmap.mmap(-1, _DIRECT) as buffer, memoryview(buffer) as view:
        while count := stored.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()
