"""Verify a whole set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from recovery.common.errors import ArtifactError, RecoveryError
from recovery.destinations.base import Missing, TooLarge


@dataclass
class Verdict:
    """What came out for one set."""

    set: str
    plan: str = ""
    age_seconds: float | None = None
    """What a restore of it loses."""
    missing: list[str] = field(default_factory=list)
    """Sources that it lacks."""
    unread: bool = False
    """Nobody ever opened it: not when it was made, and not now."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with it."""
    unable: list[str] = field(default_factory=list)
    """What could not be found out."""
    notes: list[str] = field(default_factory=list)
    files: int = 0
    """That were found right, without the manifest and its signature."""
    bytes: int = 0
    """Of these."""
    things: int | None = None
    """Rows, documents, entries and definitions that were read in the packs; null where these were not opened."""

    @property
    def status(self) -> int:
        """The exit status that it amounts to."""
        return 1 if self.faults else 2 if self.unable or self.missing or self.unread else 0

    @property
    def ending(self) -> str:
        """The same in words."""
        if self.faults:
            return "BAD"
        if self.unable:
            return "NOT FULLY VERIFIED"
        return "WHOLE, BUT NOT COMPLETE" if self.missing else "WHOLE, CONTENTS NOT READ" if self.unread else "GOOD"

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Go on after an error; what is wrong with the set is told apart from what could not be found out."""
        try:
            yield
        except (ArtifactError, Missing, TooLarge) as error:
            self.faults.append(error.what)
        except RecoveryError as error:
            self.unable.append(str(error))
