"""What of a live tree is removed to make room for a set's, remembered so that it can be done again, and rolled back with another set.

The file has ``["unit", path, there]`` for each entry that goes with everything below it, and whether it was there;
``["folder", path, inode, facts]`` for each live folder that stays but has entries removed and loaded in it, with what it was
like before. It is written before anything is removed, and these only get more: whichever set comes next, what was
replaced once is replaced again. ``["stayed", path]`` is a folder in a unit that had to stay though the set does not have
it, as found the last time.
"""

# pathlib has no paths of bytes.

# ruff: noqa: PTH118

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from recovery.common.errors import RestoreError
from recovery.common.files import read_lists, write_atomically
from recovery.common.held_folder import HeldFolder
from recovery.common.paths import raw, readable, text
from recovery.common.wording import ROLLS_BACK
from recovery.packs.content_index import Facts
from recovery.sources.trees import entries, filesystem
from recovery.sources.trees.places import Places
from recovery.sources.trees.selection import at_or_below, ways
from recovery.sources.trees.walk import Walk

log = logging.getLogger(__name__)


class InPlace:
    """The entries of one live tree that are replaced in place."""

    def __init__(self, live: Places, file: Path) -> None:
        self.live = live
        self._file = file
        self._kept: dict[str, int] = {}

    @property
    def begun(self) -> bool:
        """Whether it is known what is replaced."""
        return self._file.exists()

    @property
    def units(self) -> dict[str, bool]:
        """The entries that are replaced, each with everything below it, and whether they were there when that was planned."""
        return dict(read_lists(self._file, "unit"))

    @property
    def folders(self) -> dict[str, tuple[int, Facts]]:
        """Live folders that stay: the inode of each, and what it was like before."""
        return {path: (inode, facts) for path, inode, facts in read_lists(self._file, "folder")}

    @property
    def stayed(self) -> frozenset[str]:
        """Folders in units that had to stay though the set does not have them."""
        return frozenset(path for (path,) in read_lists(self._file, "stayed"))

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
            before | {text(path): self.live.has(path) for path in units if text(path) not in before},
            known | {path: self._folder(raw(path)) for path in folders if path not in known},
        )

    def _write(self, units: dict[str, bool], folders: dict[str, tuple[int, Facts]], stayed: Iterable[str] = ()) -> None:
        lines: list[list[object]] = [["unit", path, there] for path, there in units.items()]
        lines += [["folder", path, inode, facts] for path, (inode, facts) in folders.items()]
        lines += [["stayed", path] for path in stayed]
        write_atomically(self._file, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def _folder(self, path: bytes) -> tuple[int, Facts]:
        folder = self.live.below(path)
        return folder.status.st_ino, entries.of_live(folder, b".")

    def clear(self, stays: Callable[[bytes], bool]) -> set[str]:
        """Remove the units from the live tree, but for sockets, devices, mounts, and what ``stays``.

        Returns:
            the folders of units that stay because something in them does.
        """
        self._kept = {}
        for unit in map(raw, self.units):
            if self.live.has(unit):
                walk = Walk(self.live.root, [unit], partial(_stays, stays, unit), reach=self.live)
                self._kept |= {text(path): inode for path, inode in filesystem.clear(walk).items()}
        return set(self._kept)

    def bring(self, new: HeldFolder) -> None:
        """Move what was unpacked to its places; into folders that stay, entry by entry.

        Args:
            new: has it, by its paths below the live root.

        Raises:
            RestoreError: if something is in the place of an entry.
        """
        above = {start for unit in self.units for start in ways(unit)} - self.units.keys()
        pending = [b""]
        while pending:
            folder = pending.pop()
            for name in new.below(folder or b".").names():
                path = os.path.join(folder, name)
                if (text(path) in self._kept or text(path) in above) and _is_folder(new, path) and self.live.has(path):
                    pending.append(path)
                else:
                    self.put(new, path)

    def put(self, new: HeldFolder, path: bytes) -> None:
        """Move one entry to its place.

        Raises:
            RestoreError: if something is there.
        """
        try:
            filesystem.rename(new.at(path), self.live.at(path))
        except FileExistsError:
            raise RestoreError(
                f"{readable(path)} appeared in {self.live.root} while it was replaced: something still writes there.",
                f"Stop what writes there. {ROLLS_BACK}",
            ) from None

    def finish(self, folders: Iterable[tuple[str, Facts]], stayed: Iterable[str] = ()) -> None:
        """Give folders what a set says of them, and those that stay what they were like before; then write everything to disk.

        Args:
            folders: what the set says.
            stayed: folders of units that stay though the set does not have them.
        """
        self._write(self.units, self.folders, stayed)
        inodes = {path: inode for path, (inode, _) in self.folders.items()} | self._kept
        for path, facts in (*((path, facts) for path, (_, facts) in self.folders.items()), *folders):
            if not self.live.has(raw(path)) or not _is_folder(self.live, raw(path)):
                continue
            folder = self.live.below(raw(path))
            if folder.status.st_ino == inodes[path]:
                filesystem.set_metadata(folder, facts)
            else:
                log.warning("%s is another folder than before; it keeps its owner and mode", readable(path))
        for home in self.live.held:
            filesystem.sync(home)


def _is_folder(reach: Places | HeldFolder, path: bytes) -> bool:
    return stat.S_ISDIR(os.lstat(reach.at(path)).st_mode)


def _stays(stays: Callable[[bytes], bool], unit: bytes, below: bytes) -> bool:
    return stays(os.path.join(unit, below))
