"""Staged and live entries change places by rename, one after another, so that a kill at any point is resumed or rolled back.

A *work folder* lies on the file system of the live entries and holds

- ``new/``: what was staged, and again after the rollback;
- ``before/``: the live entries that were set aside;
- ``late/``: what somebody wrote in the way of an entry that came back;
- ``exchange.jsonl``: the units of the exchange, and the metadata of live folders before and after it, written before
  the first rename.

What happened to a unit is read from the disk: it is staged as long as it lies in ``new``, and set aside once it lies in
``before``. A rename never replaces anything.
"""

# pathlib has no paths of bytes.

# ruff: noqa: PTH103, PTH120

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recovery.common.errors import RestoreError
from recovery.common.files import fsync_folder, write_atomically
from recovery.common.paths import at, raw, readable, text
from recovery.common.wording import ROLLS_BACK
from recovery.packs.content_index import Facts
from recovery.sources.trees import entries, filesystem
from recovery.sources.trees.walk import Found

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


class Swap:
    """The units of one work folder."""

    def __init__(self, live: Path, work: Path) -> None:
        self.live = live
        self.work = work
        self.new = work / "new"
        self.before = work / "before"
        self.late = work / "late"
        self._plan = work / "exchange.jsonl"
        self._touched: set[bytes] = set()

    def plan(self, paths: Iterable[bytes], folders: Iterable[tuple[str, Facts]]) -> None:
        """Decide, on disk, what changes places: the entries at these paths, live or staged or both.

        Args:
            paths: relative to the live root.
            folders: live folders that stay and get other metadata, with the facts of their rows.
        """
        lines = [["unit", text(path), os.path.lexists(at(self.live, path)), os.path.lexists(at(self.new, path))] for path in paths]
        lines += [["folder", path, self._facts(path), facts] for path, facts in folders]
        write_atomically(self._plan, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def _facts(self, path: str) -> Facts:
        return entries.of_found(self.live, Found(raw(path), os.lstat(at(self.live, raw(path)))))

    def units(self) -> Iterator[Unit]:
        """The units, in order; none if nothing was planned."""
        for path, live, staged in self._lines("unit"):
            yield Unit(raw(path), live, staged)

    def _lines(self, kind: str) -> Iterator[list[Any]]:
        if self._plan.exists():
            with self._plan.open(encoding="ascii") as lines:
                yield from (rest for what, *rest in map(json.loads, lines) if what == kind)

    @property
    def set_aside(self) -> bool:
        """Whether entries that were live lie in ``before``."""
        return any(unit.live and os.path.lexists(at(self.before, unit.path)) for unit in self.units())

    def forward(self) -> None:
        """Set the live entries aside and put the staged ones in their place. Done again, it resumes.

        Raises:
            RestoreError: if an entry can't be renamed, or something appeared in its place meanwhile.
        """
        self._each("put in place", self.units(), self._put)
        self._finish((path, after) for path, _, after in self._lines("folder"))

    def back(self) -> None:
        """The exact reverse, of a whole or half exchange. Done again, it resumes.

        Raises:
            RestoreError: if an entry can't be renamed.
        """
        self._each("rolled back", self.units(), self._take_back)
        self._finish((path, before) for path, before, _ in self._lines("folder"))

    def withdraw(self, paths: Iterable[bytes]) -> None:
        """Move live entries that came after the exchange to the staged ones.

        Raises:
            RestoreError: if an entry can't be renamed.
        """
        for path in paths:
            self._move(at(self.live, path), at(self.new, path))

    def _each(self, what: str, units: Iterable[Unit], do: Callable[[Unit], None]) -> None:
        count = 0
        for unit in units:
            do(unit)
            count += 1
        log.info("%s: %d entries %s", self.work.parent, count, what)

    def _finish(self, folders: Iterable[tuple[str, Facts]]) -> None:
        for path, facts in folders:
            filesystem.set_metadata(folder := at(self.live, raw(path)), facts)
            self._touched.add(folder)
        for folder in self._touched:
            fsync_folder(Path(os.fsdecode(folder)))

    def _put(self, unit: Unit) -> None:
        live, new, before = at(self.live, unit.path), at(self.new, unit.path), at(self.before, unit.path)
        if unit.staged and not os.path.lexists(new):
            return
        if unit.live and not os.path.lexists(before) and os.path.lexists(live):
            self._move(live, before)
        if unit.staged:
            self._move(new, live)

    def _take_back(self, unit: Unit) -> None:
        live, new, before = at(self.live, unit.path), at(self.new, unit.path), at(self.before, unit.path)
        if unit.staged and not os.path.lexists(new) and os.path.lexists(live):
            self._move(live, new)
        if unit.live and os.path.lexists(before):
            if os.path.lexists(live):
                log.warning("%s was written while it was rolled back; it is set aside in %s", readable(live), self.late)
                self._move(live, at(self.late, unit.path))
            self._move(before, live)

    def _move(self, source: bytes, target: bytes) -> None:
        if not os.path.lexists(parent := os.path.dirname(target)):
            os.makedirs(parent, mode=0o700)
        try:
            filesystem.rename(source, target)
        except FileExistsError as error:
            raise RestoreError(
                f"{readable(target)} appeared during the swap: something still writes there.",
                f"Stop what writes there. {ROLLS_BACK}",
            ) from error
        except OSError as error:
            raise RestoreError(
                f"{readable(source)} could not be renamed to {readable(target)}: {error.strerror}.",
                f"Remove the obstacle. {ROLLS_BACK}",
            ) from error
        self._touched |= {os.path.dirname(source), os.path.dirname(target)}


@dataclass(frozen=True)
class SwapPoint:
    """A folder that gets a work folder, and what is staged in it."""

    home: Path
    """The folder that the work folder lies in; it may be gone."""
    work: Path
    live: Path
    """What the set's paths are relative to, in the live system."""
    starts: tuple[str, ...]
    """The set's named paths that belong here."""

    @property
    def swap(self) -> Swap:
        """What changes places here."""
        return Swap(self.live, self.work)

    def start_of(self, path: str) -> str | None:
        """The named path that an entry of the set is at or below; None if it belongs elsewhere."""
        return next((start for start in self.starts if start == "." or path == start or path.startswith(start + "/")), None)
