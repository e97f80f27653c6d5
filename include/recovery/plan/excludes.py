"""Patterns of what is left out."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from recovery.common.paths import text


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
        self._paths = [_steps(parts) for parts in paths]

    def __call__(self, path: bytes) -> bool:
        """Whether the entry at a path below the folder is left out."""
        parts = text(path).split("/")
        if self._name is not None and self._name.match(parts[-1]):
            return True
        return any(_fits_whole(parts, steps) for steps in self._paths)

    def topmost(self, path: bytes) -> int:
        """How many parts of a path lead to the first entry on the way to it that is left out; 0 if none is."""
        parts = text(path).split("/")
        names = (self._name is not None and self._name.match(part) is not None for part in parts)
        ways = zip_longest(names, *(_fits(parts, steps) for steps in self._paths))
        return next((depth for depth, fits in enumerate(ways, 1) if any(fits)), 0)


_Steps = Sequence[re.Pattern[str] | None]
"""A pattern part by part; None for ``**``, of which several in a row are one."""


def _steps(parts: Sequence[str]) -> _Steps:
    kept = [part for part, before in zip(parts, ["", *parts], strict=False) if not part == before == "**"]
    return [None if part == "**" else re.compile(fnmatch.translate(part)) for part in kept]


def _fits_whole(parts: Sequence[str], steps: _Steps) -> bool:
    if None in steps:
        return list(_fits(parts, steps))[len(parts) - 1 :] == [True]
    return len(parts) == len(steps) and all(step.match(part) for part, step in zip(parts, steps, strict=True) if step)


def _fits(parts: Sequence[str], steps: _Steps) -> Iterator[bool]:
    """After each part of a path, whether the pattern fits the path up to it; as long as it may.

    All ways are gone at once: with several ``**``, to try one after another would never end.
    """
    reached = _past_any({0}, steps)
    for part in parts:
        ahead = [(at, steps[at]) for at in reached if at < len(steps)]
        reached = _past_any({at if step is None else at + 1 for at, step in ahead if step is None or step.match(part)}, steps)
        if not reached:
            return
        yield len(steps) in reached


def _past_any(reached: set[int], steps: _Steps) -> set[int]:
    """With those where a ``**`` stands for no folder."""
    return reached | {at + 1 for at in reached if at < len(steps) and steps[at] is None}
