"""Folders that are held by a descriptor: what is done in one is done in that very folder, wherever its path leads by then.

Somebody who may write to a folder may exchange an entry of it for a link to anywhere else, at any moment. So a folder is opened once,
one name after another, and its entries are reached through its descriptor: ``/proc/self/fd/<descriptor>/<name>``
(``proc_pid_fd(5)``). Nothing but that last name is looked up again, and no call here follows a link in its place.
"""

# pathlib has no paths of bytes.

# ruff: noqa: PTH101, PTH102, PTH208

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from recovery.common.trusted_path import REACHED, named, walk_to

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_WAITS = (0.01, 0.1, 0.5, 1.0, 0)
"""Seconds after each try to open a file."""


class Reach(Protocol):
    """What entries are reached through, by their paths below a root: a held folder, or several."""

    def at(self, path: bytes) -> bytes:
        """A path that leads to an entry, and that holds until another one is asked for."""

    def has(self, path: bytes) -> bool:
        """Whether there is an entry."""

    def below(self, path: bytes) -> HeldFolder:
        """Open a folder."""


class HeldFolder:
    """An open folder. It is closed with the last reference to it.

    Args:
        descriptor: of the folder, which belongs to this object from now on.
        path: by which it was reached, for messages.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self.path = path
        self._near: tuple[bytes, int] = (b"", -1)

    def close(self) -> None:
        """Let go of it now, and not with the last reference: a traceback may hold one for long."""
        for descriptor in (self._descriptor, self._near[1]):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor, self._near = -1, (b"", -1)

    __del__ = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a folder by an absolute path, from the root on.

        A link is followed where nobody else could have put it: nobody but root and this user may exchange it, or a folder before it.

        Raises:
            OSError: if it is not there, or is no folder; for a link that somebody else may have put there,
                :class:`recovery.common.trusted_path.ForeignLinkError`.
        """
        descriptor, _ = walk_to(path)
        try:
            return cls(os.open(".", _READ, dir_fd=descriptor), path)
        except OSError as error:
            raise named(error, path) from None
        finally:
            os.close(descriptor)

    def fileno(self) -> int:
        """Its descriptor, for calls that take one."""
        return self._descriptor

    @property
    def through(self) -> Path:
        """A path that leads to this very folder, in this process and in a child that inherits it."""
        return Path(f"/proc/self/fd/{self._descriptor}")

    @property
    def status(self) -> os.stat_result:
        """Of the folder itself."""
        return os.fstat(self._descriptor)

    def at(self, path: bytes) -> bytes:
        """A path that leads to an entry, and that holds until another one is asked for. The entry need not be there.

        Args:
            path: relative to this folder, ``.`` for itself.

        Raises:
            OSError: if there is anything but folders on the way.
        """
        above, _, name = path.rpartition(b"/")
        return b"/proc/self/fd/%d/%s" % (self._reach(above), name)

    def _reach(self, above: bytes) -> int:
        """The descriptor of a folder below; the last one is kept, since its neighbours are asked for next."""
        if not above:
            return self._descriptor
        known, descriptor = self._near
        if above == known:
            return descriptor
        on = descriptor >= 0 and above.startswith(known + b"/")
        reached = _down(descriptor if on else self._descriptor, above[len(known) + 1 :] if on else above, self.path)
        if descriptor >= 0:
            os.close(descriptor)
        self._near = (above, reached)
        return reached

    def has(self, path: bytes) -> bool:
        """Whether there is an entry."""
        try:
            os.lstat(self.at(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def names(self) -> list[bytes]:
        """The names of its entries."""
        return [os.fsencode(name) for name in os.listdir(self._descriptor)]

    def below(self, path: bytes) -> HeldFolder:
        """Open a folder that lies in this one.

        Raises:
            OSError: if it is not there, or it or something on the way is no folder.
        """
        place = self.at(path)
        shown = self.path / os.fsdecode(path)
        try:
            return HeldFolder(os.open(place, _READ), shown)
        except OSError as error:
            raise named(error, shown) from None

    def make(self, path: bytes) -> bool:
        """Make a folder for this user alone; False if there is one.

        Raises:
            OSError: if it can't be made.
        """
        try:
            os.mkdir(self.at(path), 0o700)
        except FileExistsError:
            return False
        return True

    def make_new(self, name: bytes, mode: int) -> HeldFolder:
        """Make a folder with a mode, as far as the umask lets it, and open it; one that is there already is opened.

        Raises:
            OSError: if it can't be made, or is exchanged meanwhile.
        """
        with suppress(FileExistsError):
            os.mkdir(self.at(name), mode)
        return self.below(name)

    def make_way(self, path: bytes) -> bytes:
        """As :meth:`at`, for an entry that comes: the folders above it are made for this user alone, as far as they are missing."""
        try:
            return self.at(path)
        except FileNotFoundError:
            above = path.rpartition(b"/")[0]
            self.make_way(above)
            self.make(above)
            return self.at(path)

    def remove_empty(self, path: bytes) -> bool:
        """Remove a folder if nothing is in it, or mounted there; whether it was removed."""
        return removed_empty(self.at(path))

    def scan(self) -> Iterator[os.DirEntry[str]]:
        """Its entries, as they are read."""
        with os.scandir(self._descriptor) as entries:
            yield from entries

    def sync(self) -> None:
        """Make sure that its entries survive a power cut."""
        os.fsync(self._descriptor)

    def chmod(self, mode: int) -> None:
        """Give the folder itself another mode."""
        os.chmod(self._descriptor, mode)

    def is_closed(self) -> bool:
        """Whether it is this user's, and nobody else's to enter."""
        status = self.status
        return status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == stat.S_IRWXU

    def remove(self, name: bytes) -> None:
        """Remove an entry of this folder with everything below it. One that is gone is no error.

        However deep the tree is; and no link is followed, and no mount entered.

        Raises:
            OSError: if something can't be removed, is mounted, or is moved meanwhile.
        """
        if not _unlinked(self._descriptor, name):
            _remove_tree(self._descriptor, name, self.path)


def open_file(place: bytes) -> int:
    """Open a file to read it: no link, and nothing that is waited for if it became a pipe.

    A lease, such as a file server has on a file that a client of it works with, is given back on demand; that takes moments.

    Raises:
        OSError: if it can't be opened; EAGAIN if somebody does not give a lease back.
    """
    for wait in _WAITS:
        try:
            return os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        except BlockingIOError:
            time.sleep(wait)
    raise OSError(errno.EAGAIN, "Another program has a lease on it, and does not give it back", os.fsdecode(place))


def removed_empty(folder: bytes | str, above: int | None = None) -> bool:
    """Remove a folder by a path of :meth:`HeldFolder.at`, or by its name in a folder that is open; whether it was removed.

    It stays if something is in it, or mounted there; and somebody else may have been quicker.
    """
    try:
        os.rmdir(folder, dir_fd=above)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ENOENT}:
            raise
        return False
    return True


def _down(descriptor: int, path: bytes, root: Path) -> int:
    """Open the folder at the end of a path, one name after another, each of them no link."""
    here = os.dup(descriptor)
    for name in path.split(b"/"):
        try:
            inner = os.open(name, REACHED, dir_fd=here)
        except OSError as error:
            raise named(error, root / os.fsdecode(path)) from None
        finally:
            os.close(here)
        here = inner
    return here


def _remove_tree(folder: int, name: bytes, path: Path) -> None:
    """Remove a folder with all that is in it: neither Python's stack nor the limit of open files holds a deep tree."""
    here, device = os.dup(folder), os.fstat(folder).st_dev
    todo: list[bytes] = [name]
    above: list[tuple[tuple[int, int], list[bytes]]] = []
    try:
        while todo or above:
            if todo:
                inner = _enter(here, todo[-1], device)
                above.append((_identity(here), todo))
            else:
                inner = os.open("..", REACHED, dir_fd=here)
            os.close(here)
            here = inner
            if todo:
                todo = [each for each in _names(here) if not _unlinked(here, each)]
                continue
            was, todo = above.pop()
            if _identity(here) != was:
                raise OSError(errno.EBUSY, "Somebody moves its folders while it is removed", str(path / os.fsdecode(name)))
            os.rmdir(todo.pop(), dir_fd=here)
    except OSError as error:
        raise named(error, path / os.fsdecode(name)) from None
    finally:
        os.close(here)


def _enter(folder: int, name: bytes, device: int) -> int:
    """Open a folder that is to be emptied; this user may have to give itself the right to."""
    inner = os.open(name, REACHED, dir_fd=folder)
    try:
        status = os.fstat(inner)
        if status.st_dev != device:
            raise OSError(errno.EBUSY, "Something is mounted there")
    except OSError:
        os.close(inner)
        raise
    if os.geteuid() and status.st_uid == os.geteuid():
        os.chmod(f"/proc/self/fd/{inner}", stat.S_IRWXU)
    return inner


def _names(folder: int) -> list[bytes]:
    return os.listdir(b"/proc/self/fd/%d" % folder)


def _identity(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


def _unlinked(folder: int, name: bytes) -> bool:
    """Remove an entry, if it is no folder."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return False
    return True
