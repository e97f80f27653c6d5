"""Gaps: times without any set that are longer than the RPO explains. Missed backups leave one, and so does a clock that jumps ahead.

A set shows the clock of its run, whether or not it is valid. So a clock that jumps shows as a gap between two sets, and nobody can
tell it from missed backups but a person, who confirms the gap by a signed record beside the set before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from recovery.common.units import human_duration, iso
from recovery.crypto.signing import VerifyKey
from recovery.destinations.base import Destination
from recovery.sets.catalog import ahead
from recovery.sets.manifest import Manifest
from recovery.sets.records import read_records


@dataclass(frozen=True)
class Gap:
    """A time without any set."""

    before: Manifest
    """The last set before it."""
    until: datetime
    """When the next set was made, or now."""

    def __str__(self) -> str:
        length = human_duration(self.until - self.before.created)
        return f"after set {self.before.set_id}, from {iso(self.before.created)} to {iso(self.until)}, {length}"


def longest_wait(rpo: timedelta) -> timedelta:
    """How far apart two sets may be: the RPO, and the half of it for which a backup waits while a restore is under way."""
    return rpo * 3 / 2


def find_gaps(manifests: Iterable[Manifest], *, rpo: timedelta, now: datetime) -> list[Gap]:
    """The gaps between the sets of one destination and after the newest of them, newest first.

    Sets that are dated in the future don't count.

    Args:
        manifests: of all verified sets.
        rpo: the plan's objective.
        now: this moment.
    """
    past = sorted((each for each in manifests if not ahead(each, now)), key=lambda each: each.created, reverse=True)
    ends = [now, *(each.created for each in past)]
    return [Gap(before, until) for before, until in zip(past, ends, strict=False) if until - before.created > longest_wait(rpo)]


def unconfirmed(gaps: Iterable[Gap], destination: Destination, key: VerifyKey, *, rpo: timedelta) -> list[Gap]:
    """Those that nobody has confirmed at a destination. Who confirms one has seen the earlier ones too.

    Args:
        gaps: as :func:`find_gaps` gives them.
        destination: whose sets they lie between.
        key: from the plan.
        rpo: as for :func:`find_gaps`.

    Raises:
        DestinationError: if the records of a set can't be read.
    """
    left = []
    for gap in gaps:
        confirmations = read_records(destination, gap.before.path, key, gap.before).of("confirmation")
        if any(gap.until - each.time <= longest_wait(rpo) for each in confirmations):
            break
        left.append(gap)
    return left
