"""Patterns of what is left out."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

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
