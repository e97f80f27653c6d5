"""Walking a folder: which entries it has, which are left out, and in what order they are packed.

Paths are bytes relative to a root, ``.`` for the root itself, because a file system has bytes; rows have the same as
text, UTF-8 with ``surrogateescape``.
"""

# ruff: noqa: PTH116, PTH118

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from recovery.common.held_folder import HeldFolder, Reach
from recovery.common.paths import PATH_MAX, at, readable, shown
from recovery.common.progress import Progress
from recovery.common.units import human_size
from recovery.plan.excludes import Excludes
from recovery.sources.trees.places import Places

_MARK = re.compile(rb"\.recovery-[0-9a-f]{8}(-.*)?", re.DOTALL)
_ENOUGH = 1000
"""After so many problems a walk goes no further. Nothing is done with what it saw, and their names may be long."""
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo"}


def is_mark(name: bytes) -> bool:
    """Whether a name is a restore's work folder, ``.recovery-<id>`` or ``.recovery-<id>-<source>``: never part of a source."""
    return _MARK.fullmatch(name) is not None


def mark(restore_id: str, source: str = "") -> str:
    """The name of a restore's work folder."""
    return f".recovery-{restore_id}-{source}" if source else f".recovery-{restore_id}"


def marked_id(name: bytes, source: str = "") -> str | None:
    """The restore id of a work folder's name; None for any other name, and for the folder of another source."""
    restore_id = name[len(b".recovery-") :][:8].decode("ascii", "replace")
    return restore_id if is_mark(name) and name == mark(restore_id, source).encode() else None


@dataclass(frozen=True, slots=True)
class Found:
    """An entry that a walk came across."""

    path: bytes
    status: os.stat_result
    """Of the entry itself: links are not followed."""

    @property
    def kind(self) -> str:
        """``file``, ``folder``, ``link`` or ``fifo``; ``other`` for sockets and devices."""
        return _KINDS.get(stat.S_IFMT(self.status.st_mode), "other")

    @property
    def stored(self) -> int:
        """Bytes that a file takes on disk, holes left out; 0 for anything else."""
        return min(self.status.st_size, self.status.st_blocks * 512) if self.kind == "file" else 0


Landmark = dict[str, int]
"""What tells a folder from another one that lies at its place later: ``inode``, and ``mounted``, whether it is on another file
system than the folder that it lies in. Both stay what they are when a file system is mounted again, or by another worker, which
gives its device another number. Nothing of what is no folder: programs replace files."""


def landmark(point: bytes, status: os.stat_result) -> Landmark:
    """What to know a folder by; an automount is looked into, so that it is what it is while it is read.

    Raises:
        OSError: if it, or the folder that it lies in, can't be looked at.
    """
    if not stat.S_ISDIR(status.st_mode):
        return {}
    status = os.stat(os.path.join(point, b"."))
    return {"inode": status.st_ino, "mounted": status.st_dev != os.stat(os.path.join(point, b"..")).st_dev}


@dataclass
class Walk:
    """One look at everything below some start points: iterate over it once, then ask what it could not see.

    Folders on other file systems that are mounted below are walked too: uploads often are mounts. What lies so deep that no path leads
    to it is a problem, and not entered: trees deeper than that cost more memory than there is. An entry that
    vanishes while the walk looks is not there. Below a start point no link is followed, and neither is one that comes meanwhile.
    """

    root: Path
    starts: Sequence[bytes] = (b".",)
    excluded: Callable[[bytes], bool] = field(default_factory=lambda: Excludes(()))
    """Asked with paths below the start point."""
    passed: Callable[[bytes], bool] | None = None
    """Asked with whole paths: what is only walked through, and not told of."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, each with the reason."""
    left_out: list[str] = field(default_factory=list)
    """Sockets and devices, which no archive holds: the program that made them makes them again."""
    look_alikes: list[str] = field(default_factory=list)
    """What is left out because it is named like a restore's work folder, and does not look like one of this worker's."""
    gone: list[str] = field(default_factory=list)
    """What the source names and is not there, where that is to be said and is no error."""
    landmarks: dict[bytes, Landmark] = field(default_factory=dict)
    """The start points, and the folders below at which the file system changes."""

    reach: Reach | None = None
    """What the entries are reached through, where it is held already; else the folders that the start points lie in are opened."""

    def at(self, path: bytes) -> bytes:
        """A path that leads to an entry, and that holds until another one is asked for."""
        return self._reach.at(path)

    def below(self, path: bytes) -> HeldFolder:
        """Open a folder that this walk came across."""
        return self._reach.below(path)

    @cached_property
    def _reach(self) -> Reach:
        return self.reach or Places.above(self.root, self.starts)

    def __iter__(self) -> Iterator[Found]:
        for start in self.starts:
            try:
                status = os.lstat(self.at(start))
                self.landmarks[start] = landmark(self.at(start), status)
            except OSError as error:
                self._problem(start, error)
                continue
            yield from self._judged(Found(start, status))
            if stat.S_ISDIR(status.st_mode):
                yield from self._below(start, status.st_dev)

    def _below(self, start: bytes, device: int) -> Iterator[Found]:
        pending = [(b"", device)]
        while pending:
            folder, device = pending.pop()
            for entry in self._entries(start, folder):
                if len(self.problems) >= _ENOUGH:
                    return
                below = folder + os.fsencode(entry.name)
                path = _join(start, below)
                if self.excluded(below) or self._is_work_folder(entry, path):
                    continue
                if len(at(self.root, path)) > PATH_MAX:
                    self._problem(path, OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)))
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                    is_folder = stat.S_ISDIR(status.st_mode)
                    if is_folder and status.st_dev != device:
                        self.landmarks[path] = landmark(self.at(path), status)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._problem(path, error)
                    continue
                yield from self._judged(Found(path, status))
                if is_folder:
                    pending.append((below + b"/", status.st_dev))

    def _is_work_folder(self, entry: os.DirEntry[str], path: bytes) -> bool:
        if not is_mark(os.fsencode(entry.name)):
            return False
        with suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if (status.st_mode, status.st_uid) != (stat.S_IFDIR | stat.S_IRWXU, os.geteuid()):
                self.look_alikes.append(shown(self.root, path))
        return True

    def _entries(self, start: bytes, folder: bytes) -> Iterator[os.DirEntry[str]]:
        path = _join(start, folder).rstrip(b"/")
        try:
            yield from self._reach.below(path).scan()
        except (FileNotFoundError, NotADirectoryError) as error:
            if not folder:
                self._problem(path, error)
        except OSError as error:
            self._problem(path, error)

    def _judged(self, found: Found) -> Iterator[Found]:
        if self.passed is not None and self.passed(found.path):
            return
        if found.kind != "other":
            yield found
        else:
            self.left_out.append(shown(self.root, found.path))

    def _problem(self, path: bytes, error: OSError) -> None:
        self.problems.append(f"{shown(self.root, path)} ({error.strerror})")


class EntriesProgress(Progress):
    """Entries of a tree, one by one."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.entries = 0
        self._path = ""

    def entry(self, path: str, size: int) -> None:
        """Count an entry and its bytes."""
        self.entries += 1
        self._path = path
        self.add(size)

    def line(self) -> str:
        """How many there were, and which is the latest."""
        return f"{self.what}: {self.entries} entries, {human_size(self.done)} so far, {self.rate}, now at {readable(self._path)}"


def _join(start: bytes, below: bytes) -> bytes:
    if start == b".":
        return below or start
    return start + b"/" + below if below else start


def in_order(entries: Iterable[Found], representatives: Collection[bytes] = ()) -> Iterator[tuple[Found, Found | None, int | None]]:
    """Entries in the order of packing, each with the entry that it is a hard link to, and its group's number.

    Hard links of one file come one after another, led by their representative: the first by name, or the one that the
    other side has as such. Folders come last, the inner ones first, so that unpacking in this order, even in several
    goes, leaves them the times and modes that they had. Only folders and entries with several links are remembered.
    Fifos are not linked again: a pack has each as its own.
    """
    folders: list[Found] = []
    groups: dict[tuple[int, int], list[Found]] = {}
    for found in entries:
        if found.kind == "folder":
            folders.append(found)
        elif found.status.st_nlink > 1 and found.kind != "fifo":
            groups.setdefault((found.status.st_dev, found.status.st_ino), []).append(found)
        else:
            yield found, None, None
    for number, group in enumerate(groups.values()):
        group.sort(key=lambda found: (found.path not in representatives, found.path))
        for found in group:
            yield found, None if found is group[0] else group[0], number
    for found in reversed(folders):
        yield found, None, None
