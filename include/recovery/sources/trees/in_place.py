"""What of a live tree is removed to make room for a set's, remembered so that it can be done again, and rolled back with another set.

The file has ``["unit", path, there]`` for each entry that goes with everything below it, and whether it was there;
``["folder", path, facts]`` for each live folder that stays but has entries removed and loaded in it, with what it was
like before. It is written before anything is removed, and these only get more: whichever set comes next, what was
replaced once is replaced again. ``["stayed", path]`` is a folder in a unit that had to stay though the set does not have
it, as found the last time.
"""

# pathlib has no paths of bytes.

# ruff: noqa: PTH112, PTH118

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from recovery.common.files import write_atomically
from recovery.common.paths import at, raw, text
from recovery.packs.content_index import Facts
from recovery.sources.trees import entries, filesystem
from recovery.sources.trees.selection import at_or_below
from recovery.sources.trees.walk import Found, Walk

_INHERITED = "system.posix_acl_default"


class InPlace:
    """The entries of one live tree that are replaced in place."""

    def __init__(self, live: Path, file: Path) -> None:
        self.live = live
        self._file = file

    @property
    def begun(self) -> bool:
        """Whether it is known what is replaced."""
        return self._file.exists()

    def _lines(self, kind: str) -> Iterator[list[Any]]:
        if self._file.exists():
            with self._file.open(encoding="ascii") as lines:
                yield from (rest for what, *rest in map(json.loads, lines) if what == kind)

    @property
    def units(self) -> dict[str, bool]:
        """The entries that are replaced, each with everything below it, and whether they were there when that was planned."""
        return dict(self._lines("unit"))

    @property
    def folders(self) -> dict[str, Facts]:
        """Live folders that stay, and what they were like before."""
        return dict(self._lines("folder"))

    @property
    def stayed(self) -> frozenset[str]:
        """Folders in units that had to stay though the set does not have them."""
        return frozenset(path for (path,) in self._lines("stayed"))

    def covers(self) -> Callable[[str], bool]:
        """Whether a path is one of the units, or lies below one."""
        return at_or_below(self.units)

    def plan(self, units: Iterable[bytes], folders: Iterable[str] = ()) -> None:
        """Remember, on disk, what is replaced: beside what was before.

        Args:
            units: relative to the live root; there or not.
            folders: live folders that stay as they are, but for their entries.
        """
        known, before = self.folders, self.units
        self._write(
            before | {text(path): os.path.lexists(at(self.live, path)) for path in units if text(path) not in before},
            known | {path: self._facts(path) for path in folders if path not in known},
        )

    def _write(self, units: dict[str, bool], folders: dict[str, Facts], stayed: Iterable[str] = ()) -> None:
        lines: list[list[object]] = [["unit", path, there] for path, there in units.items()]
        lines += [["folder", path, facts] for path, facts in folders.items()]
        lines += [["stayed", path] for path in stayed]
        write_atomically(self._file, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def _facts(self, path: str) -> Facts:
        return entries.of_found(self.live, Found(raw(path), os.lstat(at(self.live, raw(path)))))

    def clear(self, stays: Callable[[bytes], bool]) -> set[str]:
        """Remove the units from the live tree, but for sockets, devices, mounts, and what ``stays``.

        Until :meth:`finish`, the folders that stay hand nothing down to new entries.

        Returns:
            the folders of units that stay because something in them does.
        """
        kept = set()
        for unit in map(raw, self.units):
            if os.path.lexists(at(self.live, unit)):
                walk = Walk(self.live, [unit], partial(_stays, stays, unit))
                kept |= set(map(text, filesystem.clear(walk)))
        for folder in {*kept, *self.folders}:
            path = at(self.live, raw(folder))
            if os.path.lexists(path) and _INHERITED in entries.read_xattrs(path):
                os.removexattr(path, _INHERITED)
        return kept

    def finish(self, folders: Iterable[tuple[str, Facts]], stayed: Iterable[str] = ()) -> None:
        """Give folders what a set says of them, and those that stay what they were like before; then write everything to disk.

        Args:
            folders: what the set says.
            stayed: folders of units that stay though the set does not have them.
        """
        self._write(self.units, self.folders, stayed)
        for path, facts in (*self.folders.items(), *folders):
            if os.path.isdir(folder := at(self.live, raw(path))):
                filesystem.set_metadata(folder, facts)
        filesystem.sync(filesystem.nearest(self.live))


def _stays(stays: Callable[[bytes], bool], unit: bytes, below: bytes) -> bool:
    return stays(os.path.join(unit, below))
