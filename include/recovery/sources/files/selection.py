"""What a restore of a folder is about: which entries of the set, and which live ones they take the place of."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from pathlib import Path

from recovery.common.errors import RestoreError
from recovery.common.paths import raw, readable, shown
from recovery.plan.excludes import Excludes
from recovery.sources.base import RestoreView
from recovery.sources.trees.places import Places
from recovery.sources.trees.selection import Entries, Only, Part, at_or_below, ways
from recovery.sources.trees.walk import is_mark


class Selection:
    """The part that was asked for, as far as the plan's ``exclude`` lets it.

    Args:
        root: the live folder.
        excluded: what the plan excludes today.
        restore: what was asked for, and how.
        entries: of the set.
    """

    def __init__(self, root: Path, excluded: Excludes, restore: RestoreView, entries: Entries) -> None:
        self._root = root
        self._excluded = excluded
        self._restore = restore
        self._entries = entries

    def part(self) -> Part:
        """Everything, or what is at or below the topmost entries that a pattern matches; in place, without what :attr:`left_out` has."""
        asked = at_or_below(self.tops) if self._restore.only else None
        if not self.left_out:
            return Part(self._entries, asked)
        return Part(self._entries, lambda path: (asked is None or asked(path)) and not self.excludes(path))

    @cached_property
    def tops(self) -> dict[str, None]:
        """The topmost entries of the set that a pattern matches."""
        only = Only(self._restore.only)
        tops = dict.fromkeys(top for path, _ in self._entries() if (top := only.top(path)) is not None)
        return {top: None for top in tops if not (self._restore.in_place and self.excludes(top))}

    @cached_property
    def left_out(self) -> dict[str, None]:
        """In place, the topmost entries of the set that today's plan excludes: no safety set has the live ones, so these stay."""
        if not (self._restore.in_place and self._excluded.any):
            return {}
        only = Only(self._restore.only)
        asked = (path for path, _ in self._entries() if not self._restore.only or only.top(path) is not None)
        return dict.fromkeys(start for path in asked if (start := self._excluded_start(path)) is not None)

    def excludes(self, path: str) -> bool:
        """Whether the plan excludes an entry of the set, or a folder that it lies in."""
        return self._excluded.any and self._excluded_start(path) is not None

    def _excluded_start(self, path: str) -> str | None:
        return next((start for start in ways(path) if self._excluded(raw(start))), None) if path != "." else None

    def units(self, live: Places) -> list[str]:
        """The entries that change places: the topmost ones that were asked for, or the folders above that the live system lacks.

        Raises:
            RestoreError: if a live entry is something else where the set has a folder.
        """
        known: dict[str, bool] = {}
        return list(dict.fromkeys(self._unit(live, top, known) for top in self.tops))

    def _unit(self, live: Places, top: str, known: dict[str, bool]) -> str:
        for start in ways(top):
            if start == top:
                break
            if start not in known:
                known[start] = self._is_folder(live, start)
            if not known[start]:
                return start
        return top

    def _is_folder(self, live: Places, path: str) -> bool:
        if not live.has(raw(path)):
            return False
        if not stat.S_ISDIR(os.lstat(live.at(raw(path))).st_mode):
            raise RestoreError(
                f"{shown(self._root, path)} is not a folder, but what was asked for lies in a folder of that name.",
                f"Ask for {readable(path)} as a whole, or move it away.",
            )
        return True

    def leaving(self, live: Places, named: Collection[bytes]) -> Iterator[bytes]:
        """Live top-level entries that are replaced: excluded ones stay, unless the set has them."""
        for name in live.below(b".").names() if live.has(b".") else ():
            if not is_mark(name) and (name in named or not self._excluded(name)):
                yield name


def staying(part: Part, excluded: Excludes) -> Callable[[bytes], bool]:
    """Which live entries are left alone: excluded ones, unless the set has them in a part."""
    if not excluded.any:
        return lambda path: False
    ours = {raw(path) for path, _ in part.entries() if excluded(raw(path))}
    return lambda path: path not in ours and excluded(path)
