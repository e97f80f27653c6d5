"""Restores that stand still in the middle of their cutover, told by what they left on disk: Airflow runs no task of a paused DAG.

A task that changes something holds a lock of the restore, and its journal grows with each step. While neither is so, and no gate
may be waiting, nothing goes on.
"""

from __future__ import annotations

from datetime import timedelta

from recovery.common.errors import RestoreError, RestoreUnderWay
from recovery.common.files import is_locked
from recovery.common.units import human_duration, now
from recovery.plan.model import Plan
from recovery.runs import active
from recovery.runs.active import ActiveRestore
from recovery.runs.journal import Entry, Journal
from recovery.runs.journal_steps import Step

QUIET = timedelta(minutes=15)
"""From one step of a restore to the next it never takes so long, while it goes on."""

NEXT_STEP = (
    "Unpause that DAG if it is paused, and see that the scheduler runs: the restore then goes on by itself. If it does not, read the"
    " runbook's chapter on a restore that stands still."
)
"""What the operator does about one that stands still."""


def services_down(journal: Journal) -> bool:
    """Whether services were stopped, and not started since."""
    steps = {Step.STOPPING_SERVICES, Step.STARTING_SERVICES, Step.ROLLING_BACK, Step.SERVICES_STARTED, Step.SERVICES_STARTED_AGAIN}
    said = [entry.step for entry in journal.everything() if entry.step in steps]
    return Step.STOPPING_SERVICES in said and said[-1] not in {Step.SERVICES_STARTED, Step.SERVICES_STARTED_AGAIN}


def quiet_for(restore: ActiveRestore) -> timedelta:
    """How long nothing has gone on in a restore; nothing while a task of it holds a lock. This process must hold none of its locks."""
    if any(is_locked(path) for path in (restore.folder / "locks").glob("*")):
        return timedelta()
    return now() - _last(restore.journal).time


def stalled(restore: ActiveRestore) -> str:
    """What there is to say of a restore that has stopped services and stands still; nothing of any other."""
    if restore.journal.closed or not restore.journal.entries(Step.STOPPING_SERVICES):
        return ""
    quiet = quiet_for(restore)
    if quiet <= (QUIET + restore.plan.approvals.timeout if _asks(restore.journal) else QUIET):
        return ""
    state = "Its services are STOPPED" if services_down(restore.journal) else "Its services run, but it has not ended"
    last = _last(restore.journal)
    return (
        f"The {restore}{_run(restore)}, stands still. {state}. Nothing has gone on for {human_duration(quiet)}, since its journal says"
        f" {f'{last.step} {last.source}'.strip()!r}."
    )


def _run(restore: ActiveRestore) -> str:
    if restore.request is None:
        return ""
    family = "drill" if restore.request.drill else "restore"
    return f", run {restore.request.run_id.removeprefix('drill ')!r} of {restore.plan.plan}_{family}"


def _asks(journal: Journal) -> bool:
    """Whether the last gate may be waiting for its answer."""
    said = [entry.step for entry in journal.everything() if entry.facts.get("gate") == "accept"]
    return bool(said) and said[-1] == Step.ASKED


def _last(journal: Journal) -> Entry:
    *_, last = journal.everything()
    return last


def refuse_during_restore(plan: Plan) -> None:
    """A backup must not read a system that a restore has half cut over, or that nobody has accepted yet.

    Raises:
        RestoreUnderWay: if there is such a restore.
        RestoreError: if it stands still, so that waiting for it would only hide that.
    """
    for each in active.into_live(plan):
        if not each.journal.closed and each.journal.entries(Step.STOPPING_SERVICES):
            if words := stalled(each):
                raise RestoreError(f"{words} Until it has ended, no backup is made.", NEXT_STEP)
            raise RestoreUnderWay(
                f"The {each} is between its cutover and its acceptance.",
                "Answer its last gate, or look at its report; a backup that still waits goes on then, one that failed can be cleared.",
            )
