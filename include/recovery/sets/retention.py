"""Which sets a destination keeps.

Every rule gives a moment from which on all sets stay; what any rule wants, stays. So a set that is not valid stays as
long as the valid ones around it, and never counts as one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from recovery.common.errors import RetentionError
from recovery.common.units import human_duration
from recovery.plan.field_types import Level
from recovery.plan.model import Retention
from recovery.sets.catalog import ahead
from recovery.sets.manifest import Manifest


@dataclass(frozen=True)
class RetentionDecision:
    """What happens to a set, and why."""

    manifest: Manifest
    keep: bool
    reason: str


def plan_retention(
    manifests: Iterable[Manifest], held: Mapping[str, str], retention: Retention, level: Level, now: datetime
) -> tuple[RetentionDecision, ...]:
    """Decide about every set of one destination, newest first. Changes nothing.

    - ``keep_within``: sets younger than that stay, and the newest valid one that is older, so that every moment of the window
      has a set to go back to.
    - ``keep_last``: the newest valid sets stay, as many as it says, and all that are younger than the oldest of them. While
      there are fewer, everything stays.
    - The newest valid set stays always, held sets stay, and so does a set that is dated in the future: a clock was wrong
      then, and it does not count as the newest.

    Args:
        manifests: of all verified sets.
        held: why, by set id, for the sets with a hold in force.
        retention: the destination's rules.
        level: what must have been verified of a valid set.
        now: this moment.

    Raises:
        RetentionError: if something would be deleted and no valid set be left.
    """
    sets = sorted(manifests, key=lambda manifest: manifest.created, reverse=True)
    trusted = [manifest for manifest in sets if manifest.valid(level) and not ahead(manifest, now)]
    rules = _Rules(retention, trusted, now)
    decisions = tuple(_judge(manifest, held, rules, now) for manifest in sets)
    good_ids = {manifest.set_id for manifest in trusted}
    left = [decision for decision in decisions if decision.keep and decision.manifest.set_id in good_ids]
    if not left and not all(decision.keep for decision in decisions):
        raise RetentionError(
            "Pruning would leave no valid set: none of the sets here is complete and verified.",
            "Repair the backups first; nothing was deleted.",
        )
    return decisions


class _Rules:
    """The moments from which on sets stay."""

    def __init__(self, retention: Retention, valid: Sequence[Manifest], now: datetime) -> None:
        self.within = now - retention.keep_within if retention.keep_within else None
        self.within_text = f"younger than {human_duration(retention.keep_within)}" if retention.keep_within else ""
        self.last_text = f"not older than the newest {retention.keep_last} valid sets"
        self.last: datetime | None = None
        if retention.keep_last is not None:
            self.last = (
                valid[retention.keep_last - 1].created if len(valid) >= retention.keep_last else datetime.min.replace(tzinfo=now.tzinfo)
            )
        self.newest = valid[0].set_id if valid else None
        older = [manifest for manifest in valid if self.within and manifest.created < self.within]
        self.anchor = older[0].set_id if older else None


def _judge(manifest: Manifest, held: Mapping[str, str], rules: _Rules, now: datetime) -> RetentionDecision:
    reasons = (
        (manifest.set_id in held, held.get(manifest.set_id, "")),
        (bool(ahead(manifest, now)), "dated in the future"),
        (rules.within is not None and manifest.created >= rules.within, rules.within_text),
        (rules.last is not None and manifest.created >= rules.last, rules.last_text),
        (manifest.set_id == rules.newest, "the newest valid set"),
        (manifest.set_id == rules.anchor, "the newest valid set before the window"),
    )
    for applies, reason in reasons:
        if applies:
            return RetentionDecision(manifest, True, reason)
    return RetentionDecision(manifest, False, "no rule keeps it")
