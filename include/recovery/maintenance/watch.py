"""Watching the restores of a plan from another DAG than theirs, which may be paused."""

from __future__ import annotations

import logging

from recovery.common.errors import RestoreError
from recovery.plan.field_types import SCRATCH
from recovery.plan.model import Plan
from recovery.runs.active import recorded_restores
from recovery.runs.stalled import NEXT_STEP, QUIET, quiet_for, stalled

log = logging.getLogger(__name__)


def watch(plan: Plan) -> bool:
    """Look at every restore of a plan, and at its drills on named targets: scratch servers have no services.

    Returns:
        Whether one has to be looked at again: it changes something, has not ended, and was not quiet for longer than a gate may wait.

    Raises:
        RestoreError: if one has stopped services and stands still.
    """
    going_on = [restore for restore in recorded_restores(plan) if restore.changing and restore.target != SCRATCH]
    if alarms := [words for restore in going_on if (words := stalled(restore))]:
        raise RestoreError(" ".join(alarms), NEXT_STEP)
    watched = [restore for restore in going_on if quiet_for(restore) <= QUIET + plan.approvals.timeout]
    for restore in going_on:
        log.info("the %s %s", restore, "goes on, or waits at a gate" if restore in watched else "has not ended; nobody goes on with it")
    return bool(watched)
