"""Staged and live entries change places by rename, one after another, so that a kill at any point is resumed or rolled back.

The units of the exchange, and the metadata of live folders before and after it, are written to the restore's staging folder before
the first rename: nobody but this worker can write there. What happened to a unit is read from the work folder, see
:mod:`recovery.sources.trees.work_folder`: it is staged as long as it lies in ``new``, and set aside once it lies in ``before``. A
rename never replaces anything.
"""

# pathlib has no paths of bytes.

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recovery.common.errors import RestoreError
from recovery.common.files import read_lists, write_atomically
from recovery.common.held_folder import HeldFolder, Reach
from recovery.common.paths import raw, readable, text
from recovery.common.trusted_path import where
from recovery.common.wording import ROLLS_BACK
from recovery.packs.content_index import Facts
from recovery.sources.trees import filesystem
from recovery.sources.trees.entries import of_live
from recovery.sources.trees.places import Places
from recovery.sources.trees.work_folder import BEFORE, LATE, NEW, WorkFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """One entry that changes places, with everything below it."""

    path: bytes
    """Relative to the live root, and to ``new``, ``before`` and ``late``."""
    live: bool
    """Something was there when the exchange was planned."""
    staged: bool
    """The set has it."""


class ExchangePlan:
    """The units of one work folder, on disk.

    Args:
        file: in staging.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def write(self, live: Places, new: HeldFolder, paths: Iterable[bytes], folders: Iterable[tuple[str, Facts | None]]) -> None:
        """Decide what changes places: the entries at these paths, live or staged or both.

        Args:
            live: the live entries.
            new: has the staged ones.
            paths: of the entries.
            folders: live folders that stay, with the facts that they get; None for those that they have.
        """
        units = list(paths)
        reaches: tuple[Reach, ...] = (live, new)
        lines: list[list[object]] = [["unit", text(path), live.has(path), new.has(path)] for path in units]
        lines += [line for path in units for reach in reaches for line in _closed(reach, path)]
        for path, facts in folders:
            folder = live.below(raw(path))  # held, so that inode and facts are those of the same folder
            before = of_live(folder, b".")
            lines.append(["folder", path, folder.status.st_ino, before, facts or before])
        write_atomically(self._file, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def units(self) -> Iterator[Unit]:
        """The units, in order; none if nothing was planned."""
        for path, live, staged in read_lists(self._file, "unit"):
            yield Unit(raw(path), live, staged)

    def closed(self) -> Iterator[tuple[bytes, int, int]]:
        """Folders among the units, live or staged, that let this user write nothing: the path, the inode and the mode."""
        for path, inode, mode in read_lists(self._file, "closed"):
            yield raw(path), inode, mode

    def folders(self) -> Iterator[tuple[bytes, int, Facts, Facts]]:
        """Live folders that get other metadata: the path, the inode, and the facts before and after."""
        for path, inode, before, after in read_lists(self._file, "folder"):
            yield raw(path), inode, before, after


def _closed(reach: Reach, path: bytes) -> Iterator[list[object]]:
    """A line of a folder that has to be opened for a rename."""
    if reach.has(path) and filesystem.is_closed(reach.at(path)):
        status = os.lstat(reach.at(path))
        yield ["closed", text(path), status.st_ino, stat.S_IMODE(status.st_mode)]


class Swap:
    """The exchange of one work folder.

    Args:
        live: the live entries.
        work: the work folder.
        plan: what changes places.
    """

    def __init__(self, live: Places, work: WorkFolder, plan: ExchangePlan) -> None:
        self._live = live
        self._work = work
        self._plan = plan

    def forward(self) -> None:
        """Set the live entries aside and put the staged ones in their place. Done again, it resumes.

        Raises:
            RestoreError: if an entry can't be renamed, or something appeared in its place meanwhile.
        """
        self._each("put in place", self._put)
        self._close()
        for path, inode, _, after in self._plan.folders():
            if not self._give(path, inode, after):
                raise RestoreError(
                    f"{readable(path)} is another folder than the one that this restore compared. It was left alone.",
                    f"Find out who exchanged it. {ROLLS_BACK}",
                )
        filesystem.sync(self._work.home)

    def back(self) -> None:
        """The exact reverse, of a whole or half exchange. Done again, it resumes.

        Raises:
            RestoreError: if an entry can't be renamed.
        """
        self._each("rolled back", self._take_back)
        self._close()
        for path, inode, before, _ in self._plan.folders():
            if not self._give(path, inode, before):
                log.warning("%s is another folder now; it keeps its owner and mode", readable(path))
        filesystem.sync(self._work.home)

    def withdraw(self, paths: Iterable[bytes]) -> None:
        """Move live entries that came after the exchange to the staged ones.

        Raises:
            RestoreError: if an entry can't be renamed.
        """
        for path in paths:
            self._move(self._live.at(path), self._work.make_way(NEW, path))

    def _each(self, what: str, do: Callable[[Unit], None]) -> None:
        count = 0
        for unit in self._plan.units():
            do(unit)
            count += 1
        log.info("%s: %d entries %s", self._work.home.path, count, what)

    def _close(self) -> None:
        """A kill may have left a folder open, as a rename needs it."""
        for path, inode, mode in self._plan.closed():
            with suppress(FileNotFoundError, NotADirectoryError):
                filesystem.close(self._live.at(path), inode, mode)

    def _give(self, path: bytes, inode: int, facts: Facts) -> bool:
        """Give a live folder other metadata, if it is the folder of which the plan speaks."""
        folder = self._live.below(path)
        if folder.status.st_ino != inode:
            return False
        filesystem.set_metadata(folder, facts)
        return True

    def _put(self, unit: Unit) -> None:
        if unit.staged and not self._work.has(NEW, unit.path):
            return
        if unit.live and not self._work.has(BEFORE, unit.path) and self._live.has(unit.path):
            self._move(self._live.at(unit.path), self._work.make_way(BEFORE, unit.path))
        if unit.staged:
            self._move(self._work.at(NEW, unit.path), self._live.make_way(unit.path))

    def _take_back(self, unit: Unit) -> None:
        if unit.staged and not self._work.has(NEW, unit.path) and self._live.has(unit.path):
            self._move(self._live.at(unit.path), self._work.make_way(NEW, unit.path))
        if unit.live and self._work.has(BEFORE, unit.path):
            if self._live.has(unit.path):
                place = readable(where(self._live.at(unit.path)))
                log.warning("%s was written while it was rolled back; it is set aside in %s", place, self._work.path / "late")
                self._move(self._live.at(unit.path), self._work.make_way(LATE, unit.path))
            self._move(self._work.at(BEFORE, unit.path), self._live.make_way(unit.path))
        self._work.tidy(BEFORE, unit.path)

    def _move(self, source: bytes, target: bytes) -> None:
        try:
            filesystem.rename(source, target)
        except FileExistsError as error:
            raise RestoreError(
                f"{readable(where(target))} appeared during the swap: something still writes there.",
                f"Stop what writes there. {ROLLS_BACK}",
            ) from error
        except OSError as error:
            raise RestoreError(
                f"{readable(where(source))} could not be renamed to {readable(where(target))}: {error.strerror}.",
                f"Remove the obstacle. {ROLLS_BACK}",
            ) from error


@dataclass(frozen=True)
class SwapPoint:
    """A folder that gets a work folder, and what is staged in it."""

    home: Path
    """The folder that the work folder lies in; it may be gone."""
    mark: str
    """The name of the work folder."""
    live: Path
    """What the set's paths are relative to, in the live system."""
    starts: tuple[str, ...]
    """The set's named paths that belong here."""
    plan: ExchangePlan
    """What changes places here."""

    @property
    def work(self) -> Path:
        """The work folder, for messages."""
        return self.home / self.mark

    def start_of(self, path: str) -> str | None:
        """The named path that an entry of the set is at or below; None if it belongs elsewhere."""
        return next((start for start in self.starts if start == "." or path == start or path.startswith(start + "/")), None)
