"""Watching the restores and cold backups of a plan from another DAG than theirs, which may be paused."""

from __future__ import annotations

import logging

from recovery.backup.cold import downtime, limit
from recovery.common.errors import RestoreError
from recovery.common.units import human_duration
from recovery.plan.field_types import SCRATCH
from recovery.plan.model import Plan
from recovery.runs.active import recorded_restores
from recovery.runs.staged_set import StagedSet, staged_sets
from recovery.runs.stalled import NEXT_STEP, QUIET, quiet_for, services_down, stalled

log = logging.getLogger(__name__)

_START = "Start them by hand now. Then unpause that DAG if it is paused, and see that the scheduler runs."


def watch(plan: Plan) -> bool:
    """Look at every restore of a plan, at its drills on named targets (scratch servers have no services), and at its cold backups.

    Returns:
        Whether one has to be looked at again: it changes something, has not ended, and was not quiet for longer than a gate may wait.

    Raises:
        RestoreError: if one has stopped services and stands still; it names all of them.
    """
    down = [staged for staged in staged_sets(plan) if services_down(staged.services)]
    left_down = [_left_down(staged) for staged in down if downtime(staged) > limit(plan) + QUIET]
    going_on = [restore for restore in recorded_restores(plan) if restore.changing and restore.target != SCRATCH]
    standing_still = [words for restore in going_on if (words := stalled(restore))]
    if left_down or standing_still:
        raise RestoreError(" ".join(left_down + standing_still), " ".join([_START][: len(left_down)] + [NEXT_STEP][: len(standing_still)]))
    watched = [restore for restore in going_on if quiet_for(restore) <= QUIET + plan.approvals.timeout]
    for restore in going_on:
        log.info("the %s %s", restore, "goes on, or waits at a gate" if restore in watched else "has not ended; nobody goes on with it")
    return bool(watched or down)


def _left_down(staged: StagedSet) -> str:
    return (
        f"The backup of set {staged.id}, run {staged.run().run_id!r} of {staged.plan.plan}_backup, has stopped the services"
        f" {human_duration(downtime(staged))} ago, and nothing starts them."
    )
