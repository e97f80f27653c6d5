"""How far a restore is, told by its journal and not by task states, which people can set."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from recovery.common.units import human_duration
from recovery.plan.field_types import SCRATCH
from recovery.restore.answers import answered
from recovery.restore.session import RestoreRun
from recovery.runs.journal import Entry
from recovery.runs.journal_steps import Step

log = logging.getLogger(__name__)


def since_staging(run: RestoreRun, step: Step, source_id: str) -> bool:
    """Whether a step was done with what is staged now: staging anew voids what was done with an earlier copy."""
    steps = [entry.step for entry in run.journal.entries() if entry.source == source_id and entry.step in {Step.STAGING, step}]
    return bool(steps) and steps[-1] == step


def in_use(run: RestoreRun) -> bool:
    """Whether the restored system was handed over: from here on only a person's no takes it back."""
    return bool(run.journal.said(Step.STARTING_SERVICES))


def turned_down(run: RestoreRun) -> bool:
    """Whether a person refused the restored system at the last gate."""
    return answered(run, "accept") == "rejected"


def kept(run: RestoreRun) -> bool:
    """Whether the restored system stays: it is in use, nobody refused it, and it was not for practice."""
    return in_use(run) and not turned_down(run) and not run.request().drill


def begun_to_switch(run: RestoreRun) -> list[str]:
    """The sources that were switched, or half switched, and not taken back, in the order in which they were switched."""
    switching = dict.fromkeys(entry.source for entry in run.journal.said(Step.SWITCHING))
    return [source_id for source_id in switching if not run.journal.said(Step.SWITCHED_BACK, source_id)]


def services_down(run: RestoreRun) -> bool:
    """Whether services were stopped, and not started since."""
    steps = {Step.STOPPING_SERVICES, Step.STARTING_SERVICES, Step.TURNING_BACK, Step.SERVICES_STARTED, Step.SERVICES_STARTED_AGAIN}
    said = [entry.step for entry in run.journal.entries() if entry.step in steps]
    return Step.STOPPING_SERVICES in said and said[-1] not in {Step.SERVICES_STARTED, Step.SERVICES_STARTED_AGAIN}


def is_over(run: RestoreRun) -> bool:
    """Whether no way back has to go on: nothing is switched that should not be, and no services are down.

    A scratch place never has to be switched back: it goes with all that is in it.
    """
    return kept(run) or run.request().target == SCRATCH or not (begun_to_switch(run) or services_down(run))


def services_started(run: RestoreRun) -> bool:
    """Whether the services of the restored system started, the last time that this was tried."""
    said = [entry.step for entry in run.journal.entries() if entry.step in {Step.STARTING_SERVICES, Step.SERVICES_STARTED}]
    return bool(said) and said[-1] == "services started"


def last_checks(run: RestoreRun) -> list[Entry]:
    """What the checks said when they were asked last; none if the services were started again since."""
    return [entry for entry in _last_round(run) if entry.step == Step.CHECKED]


def all_checked(run: RestoreRun) -> Entry | None:
    """The end of the last round of checks, if all of them succeeded: what an earlier round said counts no more."""
    return next((entry for entry in _last_round(run) if entry.step == Step.ALL_CHECKED), None)


def _last_round(run: RestoreRun) -> list[Entry]:
    found: list[Entry] = []
    for entry in run.journal.entries():
        if entry.step in {Step.STARTING_SERVICES, Step.CHECKING}:
            found = []
        found.append(entry)
    return found


def unasked(run: RestoreRun) -> list[str]:
    """The checks that make no sense where this restore went, or are of sources that it did not bring."""
    entry = run.journal.last(Step.NOT_ASKED)
    return list(entry.facts["checks"]) if entry else []


def may_have_writes(run: RestoreRun, source_id: str) -> bool:
    """Whether somebody may have written to a restored copy that was taken back: then it stays for ``keep_before``."""
    if kept(run) or not run.journal.said(Step.SWITCHING, source_id):
        return False
    return not run.request().drill and (in_use(run) or not run.place.services.stop)


@contextmanager
def timed(run: RestoreRun, step: str, source_id: str = "") -> Iterator[None]:
    """Say in the journal how long a step took."""
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    run.journal.say(Step.TOOK, source_id, what=step, seconds=round(seconds, 3))
    log.info("%s %s took %s", step, source_id, human_duration(seconds))
