"""What ends a restore: keeping what was restored, or taking it back; then removing what is not in use."""

from __future__ import annotations

import logging

from recovery.common.errors import RestoreError
from recovery.common.faults import Faults
from recovery.plan.field_types import SCRATCH
from recovery.restore import answers, source_view
from recovery.restore.answers import answered
from recovery.restore.session import RestoreRun
from recovery.restore.state import begun_to_switch, in_use, kept, may_have_writes, services_down, timed
from recovery.restore.steps import replace
from recovery.runners.commands import run_all
from recovery.runs.journal_steps import Step
from recovery.targets import scratch

log = logging.getLogger(__name__)


def keep(run: RestoreRun) -> bool:
    """After acceptance, or when nobody answered: what had to wait for it.

    Returns:
        False if the restored system was not handed over, or was for practice, so that there is nothing to keep.

    Raises:
        ApprovalError: if the last gate was neither approved nor left unanswered.
    """
    if not run.began or run.request().drill or not in_use(run):
        return False
    if answered(run, "accept") != "unanswered":
        answers.authorise(run, "accept")
    settle(run)
    return True


def settle(run: RestoreRun) -> None:
    """Do for every source what had to wait until the restored system stays; once."""
    for source_id in run.request().sources:
        with run.changing(source_id, forward=False):
            if not run.journal.said(Step.SETTLED, source_id):
                answers.same_target(run, source_id)
                run.component(source_id).settle(source_view.of(run, source_id))
                run.journal.say(Step.SETTLED, source_id)


def switch_back(run: RestoreRun) -> bool:
    """Take everything back that was switched, in reverse order, and start the services again, where the restored system doesn't stay.

    Returns:
        False if there was nothing to take back.

    Raises:
        RecoveryError: if a source can't be taken back; the others are, and the services are started.
    """
    if not run.began or run.journal.closed:
        return False
    faults = Faults()
    with run.changing("services", forward=False):
        if kept(run):
            if services_down(run):
                _start_again(run, faults)
            if faults:
                raise _tried_again("The restored system stays, but its services do not start:", faults, "Start them by hand.")
            return False
        run.journal.say(Step.TURNING_BACK)
        if not run.journal.said(Step.STOPPING_SERVICES):
            return False
        if in_use(run):
            with faults.noted("services"):
                run_all(run.place.services.stop, run.place.services)
    with timed(run, "switch back"):
        for source_id in reversed(run.request().sources):
            with faults.noted(source_id):
                _take_back(run, source_id)
        with run.changing("services", forward=False):
            _start_again(run, faults)
    if faults:
        safe = run.journal.last(Step.SAFE)
        where = f"is in the safety set {safe.facts['set']}" if safe else "is still there, live or set aside"
        words = f"The data of before of what is named {where}. Read the runbook's chapter on a way back that failed."
        raise _tried_again("The way back is not complete:", faults, words)
    return True


def _start_again(run: RestoreRun, faults: Faults) -> None:
    with faults.noted("services"):
        run_all(run.place.services.start, run.place.services)
        run.journal.say(Step.SERVICES_STARTED_AGAIN)


def _tried_again(what: str, faults: Faults, next_step: str) -> RestoreError:
    """An error of a teardown: each may be done again, and a moment later may succeed."""
    return RestoreError(what + "\n" + "\n".join(faults.sentences), next_step, retryable=True)


def _take_back(run: RestoreRun, source_id: str) -> None:
    """Under the source's lock, since a switch whose run was ended by hand may still be at it."""
    with run.changing(source_id, forward=False):
        if source_id in begun_to_switch(run):
            answers.same_target(run, source_id)
            run.journal.say(Step.SWITCHING_BACK, source_id)
            if run.in_place and not source_view.of(run, source_id).journalled("dropping"):
                log.info("%s: nothing was dropped, so nothing is brought back", source_id)
            elif run.in_place:
                replace(run, source_id, source_view.of_safety_set(run, source_id))
                run.component(source_id).settle(source_view.of_safety_set(run, source_id))
            else:
                run.component(source_id).switch_back(source_view.of(run, source_id))
            run.journal.say(Step.SWITCHED_BACK, source_id)


def discard(run: RestoreRun) -> None:
    """Remove what was staged and is not in use, and the scratch folders.

    Where people worked with the restored system before it was refused, its copy stays for ``keep_before``: it has their writes.

    Raises:
        RecoveryError: if something can't be removed; the rest is.
    """
    if not run.began or run.journal.closed:
        return
    in_scratch = run.request().target == SCRATCH  # which goes with all that is in it, whatever state that is in
    if not in_scratch and not kept(run) and begun_to_switch(run):
        raise RestoreError(
            "A source could not be switched back, so nothing is discarded.", "Read the runbook's chapter on a way back that failed."
        )
    if kept(run):
        settle(run)
    faults = Faults()
    run.journal.say(Step.DISCARDING)
    if in_scratch:
        with faults.noted("the scratch place"):
            scratch.remove(run.folder)
    for source_id in run.request().sources:
        with run.changing(source_id, forward=False):
            if not in_scratch and _something_staged(run, source_id) and not may_have_writes(run, source_id):
                with faults.noted(source_id):
                    _discard(run, source_id)
            source_view.of(run, source_id).clean()
    if faults:
        run.journal.say(Step.NOT_DISCARDED, faults=faults.sentences)
        raise _tried_again("Not everything staged could be removed:", faults, f"Remove it by hand; its names hold {run.id}.")
    run.journal.say(Step.DISCARDED)


def _something_staged(run: RestoreRun, source_id: str) -> bool:
    """In place, what is staged at first becomes the live data itself once that is dropped."""
    dropped = run.in_place and source_view.of(run, source_id).journalled("dropping")
    return bool(run.journal.said(Step.STAGING, source_id)) and not dropped


def _discard(run: RestoreRun, source_id: str) -> None:
    answers.same_target(run, source_id)
    run.component(source_id).discard(source_view.of(run, source_id))
