"""The copies that restores set aside: which there are, and their end after the plan's days."""

from __future__ import annotations

import logging

from recovery.connections import Connect
from recovery.plan import Plan
from recovery.restore import drop_copies
from recovery.restore_run import RestoreRun, now
from recovery.staging import read_record
from recovery.units import human_duration

log = logging.getLogger(__name__)


def ended_restores(plan: Plan, connect: Connect) -> list[RestoreRun]:
    """Every restore that has ended and whose folder is still in staging."""
    from recovery.restore_run import Request

    root = plan.staging.folder / plan.plan / "restores"
    runs = []
    for path in sorted(root.glob("*/request.json")):
        run = RestoreRun(plan, read_record(path, Request).run_id, connect)
        if run.journal.closed:
            runs.append(run)
    return runs


def drop_old(plan: Plan, connect: Connect) -> None:
    """Remove what restores set aside longer ago than ``keep_before``; say what is left.

    Raises:
        RecoveryError: if something can't be removed.
    """
    for run in ended_restores(plan, connect):
        closed = run.journal.said("closed")[-1].time
        age = now() - closed
        if age < plan.keep_before:
            log.info("restore %s ended %s ago; its copies stay for %s", run.id, human_duration(age), human_duration(plan.keep_before - age))
            continue
        drop_copies(run)
