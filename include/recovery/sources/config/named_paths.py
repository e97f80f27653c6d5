"""The files and folders that a plan names in the live system, and what named links lead to."""

# pathlib has no paths of bytes.

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from recovery.common.errors import SourceError
from recovery.common.trusted_path import ForeignLinkError, led_to
from recovery.common.wording import shortened
from recovery.plan.excludes import Excludes
from recovery.sources.trees.walk import Walk

TOP = Path("/")
"""What the set's paths are relative to, where the source is live."""


class NamedPaths:
    """The paths of one source.

    Args:
        source: its id, for messages.
        paths: as the plan names them.
        excluded: what of the folders is left out.
    """

    def __init__(self, source: str, paths: Sequence[Path], excluded: Excludes) -> None:
        self._source = source
        self._paths = paths
        self._excluded = excluded

    def all(self) -> list[Path]:
        """What the plan names, and what named links point to.

        Raises:
            SourceError: if that is ``/``, or a link can't be followed.
        """
        named = dict.fromkeys(self._paths)
        named |= {target: None for path in self._paths if path.is_symlink() and (target := self._led_to(path))}
        if TOP in named:
            raise SourceError(f"{self._source} names / itself.", "Name the files and folders that hold settings.")
        return list(named)

    def walk(self, *, damaged: bool) -> Walk:
        """A look at every path.

        Args:
            damaged: whether a path that is not there is no error.

        Raises:
            SourceError: if one is not there, is ``/``, or is named and excluded at once.
        """
        named = self.all()
        foreign = [path for path in self._paths if path.is_symlink() and self._led_to(path) is None]
        if foreign := [path for path in foreign if Path(os.path.realpath(path)) not in named]:
            raise SourceError(
                f"{self._source}: these links are not followed, since other users may exchange them: {shortened(foreign)}.",
                "Name in the plan what they lead to, too.",
            )
        missing = [str(path) for path in named if not os.path.lexists(path)]
        if missing and not damaged:
            raise SourceError(f"{self._source}: not there: {shortened(missing)}.", "Bring them back, or correct the paths in the plan.")
        named = [path for path in named if str(path) not in missing]
        starts = [path for path in named if not any(self._inside(path, other) for other in named)]
        return Walk(TOP, [os.fsencode(path.relative_to(TOP)) for path in starts], self._excluded, gone=missing)

    def _led_to(self, link: Path) -> Path | None:
        """Where a named link leads; None if somebody else may have put it there."""
        try:
            return led_to(link)
        except ForeignLinkError:
            return None
        except OSError as error:
            raise SourceError(f"{self._source}: {link} can't be followed: {error.strerror}.", "Correct the paths in the plan.") from error

    def _inside(self, path: Path, other: Path) -> bool:
        if other not in path.parents:
            return False
        below = path.relative_to(other)
        if any(self._excluded(os.fsencode(part)) for part in (below, *below.parents) if part.name):
            raise SourceError(f"{self._source} names {path}, but excludes it from {other}.", "Correct the plan's paths or exclude.")
        return True
