"""How far a restore is, told by its journal and not by task states, which people can set."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from recovery.common.units import human_duration
from recovery.plan.field_types import SCRATCH
from recovery.restore.answers import answered
from recovery.restore.session import RestoreSession
from recovery.runs.journal import Entry
from recovery.runs.journal_steps import Step
from recovery.runs.stalled import services_down

log = logging.getLogger(__name__)


def since_staging(session: RestoreSession, step: Step, source_id: str) -> bool:
    """Whether a step was done with what is staged now: staging anew voids what was done with an earlier copy."""
    steps = [entry.step for entry in session.journal.everything() if entry.source == source_id and entry.step in {Step.STAGING, step}]
    return bool(steps) and steps[-1] == step


def in_use(session: RestoreSession) -> bool:
    """Whether the restored system was handed over: from here on only a person's no takes it back."""
    return bool(session.journal.entries(Step.STARTING_SERVICES))


def turned_down(session: RestoreSession) -> bool:
    """Whether a person refused the restored system at the last gate."""
    return answered(session, "accept") == "rejected"


def kept(session: RestoreSession) -> bool:
    """Whether the restored system stays: it is in use, nobody refused it, and it was not for practice."""
    return in_use(session) and not turned_down(session) and not session.request().drill


def cut_over_sources(session: RestoreSession) -> list[str]:
    """The sources that were cut over, or half cut over, and not rolled back, in the order in which they were cut over."""
    begun = dict.fromkeys(entry.source for entry in session.journal.entries(Step.CUTTING_OVER))
    return [source_id for source_id in begun if not session.journal.entries(Step.SOURCE_ROLLED_BACK, source_id)]


def is_over(session: RestoreSession) -> bool:
    """Whether no rollback has to go on: nothing is cut over that should not be, and no services are down.

    A scratch place never has to be rolled back: it goes with all that is in it.
    """
    return kept(session) or session.request().target == SCRATCH or not (cut_over_sources(session) or services_down(session.journal))


def services_started(session: RestoreSession) -> bool:
    """Whether the services of the restored system started, the last time that this was tried."""
    said = [entry.step for entry in session.journal.everything() if entry.step in {Step.STARTING_SERVICES, Step.SERVICES_STARTED}]
    return bool(said) and said[-1] == Step.SERVICES_STARTED


def last_checks(session: RestoreSession) -> list[Entry]:
    """What the checks said when they were asked last; none if the services were started again since."""
    return [entry for entry in _last_round(session) if entry.step == Step.CHECKED]


def all_checked(session: RestoreSession) -> Entry | None:
    """The end of the last round of checks, if all of them succeeded: what an earlier round said counts no more."""
    return next((entry for entry in _last_round(session) if entry.step == Step.ALL_CHECKED), None)


def _last_round(session: RestoreSession) -> list[Entry]:
    found: list[Entry] = []
    for entry in session.journal.everything():
        if entry.step in {Step.STARTING_SERVICES, Step.CHECKING}:
            found = []
        found.append(entry)
    return found


def unasked(session: RestoreSession) -> list[str]:
    """The checks that make no sense where this restore went, or are of sources that it did not bring."""
    entry = session.journal.last(Step.NOT_ASKED)
    return list(entry.facts["checks"]) if entry else []


def may_have_writes(session: RestoreSession, source_id: str) -> bool:
    """Whether somebody may have written to a restored copy that was rolled back: then it stays for ``keep_replaced``."""
    if kept(session) or not session.journal.entries(Step.CUTTING_OVER, source_id):
        return False
    return not session.request().drill and (in_use(session) or not session.target.services.named)


@contextmanager
def timed(session: RestoreSession, step: str, source_id: str = "") -> Iterator[None]:
    """Say in the journal how long a step took."""
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    session.journal.record(Step.TOOK, source_id, what=step, seconds=round(seconds, 3))
    log.info("%s %s took %s", step, source_id, human_duration(seconds))
