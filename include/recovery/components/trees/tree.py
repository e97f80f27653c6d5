"""Walking a folder: which entries it has, which are left out, and in what order they are packed.

Paths are bytes relative to a root, ``.`` for the root itself, because a file system has bytes; rows have the same as
text, UTF-8 with ``surrogateescape``.
"""

# pathlib has no paths of bytes.
# ruff: noqa: PTH116, PTH118, PTH120

from __future__ import annotations

import fnmatch
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recovery.units import human_size

log = logging.getLogger(__name__)

_MARK = re.compile(rb"\.recovery-[0-9a-f]{8}(-.*)?", re.DOTALL)
_EVERY = 10.0
"""Seconds between two lines about progress."""
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


def text(path: bytes) -> str:
    """A path as rows and people have it."""
    return path.decode("utf-8", "surrogateescape")


def raw(path: str) -> bytes:
    """A path as the file system has it."""
    return path.encode("utf-8", "surrogateescape")


def at(root: Path, path: bytes) -> bytes:
    """Where an entry lies."""
    return os.path.join(os.fsencode(root), path)


def readable(path: bytes | str) -> str:
    r"""A path for people and logs: what can't be printed is escaped, such as ``\n`` and ``\xff``."""
    decoded = (path if isinstance(path, bytes) else raw(path)).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in decoded)


def shown(root: Path, path: bytes | str) -> str:
    """Where an entry lies, for people."""
    return readable(os.path.normpath(at(root, path if isinstance(path, bytes) else raw(path))))


class Excludes:
    """Shell patterns of what a source leaves out; an excluded folder is left out with everything below it.

    - A pattern without ``/`` is matched with the name of every entry, however deep: ``*.tmp``, ``node_modules``.
    - A pattern with ``/`` is matched with the whole path below the folder, part by part: ``cache/*`` is everything
      directly in the top-level folder ``cache`` (which itself stays, empty), ``*/thumbs`` a ``thumbs`` exactly one
      folder down. A part ``**`` stands for any number of folders, none included: ``**/logs/*.gz``.
    - A ``/`` in front only says that the pattern is a whole path: ``/cache`` is the top-level one. A ``/`` at the end is ignored.
    - ``*``, ``?``, ``[abc]`` and ``[!abc]`` are what they are in :mod:`fnmatch`; upper and lower case differ; names that
      begin with a dot are not special.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        names = [pattern.rstrip("/") for pattern in patterns if "/" not in pattern.rstrip("/")]
        paths = [pattern.strip("/").split("/") for pattern in patterns if "/" in pattern.rstrip("/")]
        self._name = re.compile("|".join(map(fnmatch.translate, names))) if names else None
        self.any = bool(patterns)
        """Whether there are patterns at all."""
        self._paths = [[None if part == "**" else re.compile(fnmatch.translate(part)) for part in parts] for parts in paths]

    def __call__(self, path: bytes) -> bool:
        """Whether the entry at a path below the folder is left out."""
        parts = text(path).split("/")
        if self._name is not None and self._name.match(parts[-1]):
            return True
        return any(_matches(parts, pattern) for pattern in self._paths)


def _matches(parts: Sequence[str], pattern: Sequence[re.Pattern[str] | None]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] is None:
        return any(_matches(parts[skip:], pattern[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and pattern[0].match(parts[0]) is not None and _matches(parts[1:], pattern[1:])


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


Landmark = dict[str, int]
"""What tells a folder from another one that lies at its place later: ``inode``, and ``mounted``, whether it is on another file
system than the folder that it lies in. Both stay what they are when a file system is mounted again, or by another worker, which
gives its device another number. Nothing of what is no folder: programs replace files."""


def landmark(place: bytes, status: os.stat_result) -> Landmark:
    """What to know a folder by; an automount is looked into, so that it is what it is while it is read.

    Raises:
        OSError: if it, or the folder that it lies in, can't be looked at.
    """
    if not stat.S_ISDIR(status.st_mode):
        return {}
    status = os.stat(os.path.join(place, b"."))
    return {"inode": status.st_ino, "mounted": status.st_dev != os.stat(os.path.dirname(os.path.normpath(place))).st_dev}


@dataclass
class Walk:
    """One look at everything below some start points: iterate over it once, then ask what it could not see.

    Folders on other file systems that are mounted below are walked too: uploads often are mounts. An entry that
    vanishes while the walk looks is not there.
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
    gone: list[str] = field(default_factory=list)
    """What the source names and is not there, where that is to be said and is no error."""
    landmarks: dict[bytes, Landmark] = field(default_factory=dict)
    """The start points, and the folders below at which the file system changes."""

    def __iter__(self) -> Iterator[Found]:
        for start in self.starts:
            try:
                status = os.lstat(at(self.root, start))
                self.landmarks[start] = landmark(at(self.root, start), status)
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
                below = folder + entry.name
                if is_mark(entry.name) or self.excluded(below):
                    continue
                path = _join(start, below)
                try:
                    status = entry.stat(follow_symlinks=False)
                    is_folder = stat.S_ISDIR(status.st_mode)
                    if is_folder and status.st_dev != device:
                        self.landmarks[path] = landmark(at(self.root, path), status)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._problem(path, error)
                    continue
                yield from self._judged(Found(path, status))
                if is_folder:
                    pending.append((below + b"/", status.st_dev))

    def _entries(self, start: bytes, folder: bytes) -> Iterator[os.DirEntry[bytes]]:
        path = _join(start, folder).rstrip(b"/")
        try:
            with os.scandir(at(self.root, path)) as entries:
                yield from entries
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


class Progress:
    """Says every now and then how far something is that takes long."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._started = self._said = time.monotonic()
        self.entries = self.bytes = 0

    def add(self, path: str, size: int) -> None:
        """Count an entry and its bytes."""
        self.entries += 1
        self.bytes += size
        now = time.monotonic()
        if now - self._said > _EVERY:
            self._said = now
            rate = human_size(self.bytes / (now - self._started))
            log.info("%s: %d entries, %s so far, %s/s, now at %s", self._doing, self.entries, human_size(self.bytes), rate, readable(path))


def _join(start: bytes, below: bytes) -> bytes:
    if start == b".":
        return below or start
    return start + b"/" + below if below else start


def in_order(entries: Iterable[Found], representatives: Collection[bytes] = ()) -> Iterator[tuple[Found, Found | None, int | None]]:
    """Entries in the order of packing, each with the entry that it is a hard link to, and its group's number.

    Hard links of one file come one after another, led by their representative: the first by name, or the one that the
    other side has as such. Folders come last, the inner ones first, so that unpacking in this order, even in several
    goes, leaves them the times and modes that they had. Only folders and entries with several links are remembered.
    Fifos are not linked again: GNU tar writes each as its own.
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
