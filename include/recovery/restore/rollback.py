"""What ends a restore: keeping what was restored, or taking it back; then removing what is not in use."""

from __future__ import annotations

import logging

from recovery.common.errors import ContainerUnwell, RestoreError
from recovery.common.faults import Faults
from recovery.common.files import locked
from recovery.plan.field_types import SCRATCH
from recovery.restore import answers, source_view
from recovery.restore.answers import answered
from recovery.restore.session import RestoreSession
from recovery.restore.state import cut_over_sources, in_use, kept, may_have_writes, timed
from recovery.restore.steps import replace
from recovery.runs import active, services
from recovery.runs.journal_steps import Step
from recovery.runs.stalled import services_down
from recovery.sources.model import LeftOut
from recovery.targets import scratch

log = logging.getLogger(__name__)


def finalize(session: RestoreSession) -> bool:
    """After acceptance, or when nobody answered: what had to wait for it.

    Returns:
        False if the restored system was not handed over, or was for practice, so that there is nothing to keep.

    Raises:
        ApprovalError: if the last gate was neither approved nor left unanswered.
    """
    if not session.began or session.request().drill or not in_use(session):
        return False
    if answered(session, "accept") != "unanswered":
        answers.authorise(session, "accept")
    finalize_sources(session)
    return True


def finalize_sources(session: RestoreSession) -> None:
    """Do for every source what had to wait until the restored system stays; once."""
    for source_id in session.request().sources:
        with session.changing(source_id, forward=False):
            if not session.journal.entries(Step.FINALIZED, source_id):
                answers.same_target(session, source_id)
                session.source(source_id).finalize(source_view.of(session, source_id))
                session.journal.record(Step.FINALIZED, source_id)


def roll_back(session: RestoreSession) -> bool:
    """Take everything back that was cut over, in reverse order, and start the services again, where the restored system doesn't stay.

    Returns:
        False if there was nothing to roll back.

    Raises:
        RecoveryError: if a source can't be rolled back; the others are, and the services stay stopped.
    """
    if not session.began or session.journal.closed:
        return False
    faults = Faults()
    with session.changing("services", forward=False), locked(active.services_lock(session.plan)):
        if kept(session):
            if services_down(session.journal):
                _start_again(session, faults)
            if faults:
                raise _tried_again("The restored system stays, but its services do not start:", faults, "Start them by hand.")
            return False
        session.journal.record(Step.ROLLING_BACK)
        if not session.journal.entries(Step.STOPPING_SERVICES):
            return False
        if in_use(session) and cut_over_sources(session):
            services.stop_again(session.target.services, session.context.clients.connect, session.journal, faults)
    with timed(session, "roll back"):
        _take_all_back(session)
        with session.changing("services", forward=False):
            _start_again(session, faults)
    if faults:
        raise _tried_again("Everything is rolled back, but the services were not stopped or started:", faults, "Start them by hand.")
    return True


def _take_all_back(session: RestoreSession) -> None:
    """Take back what can be taken back, one source after another.

    Raises:
        RestoreError: if a source is not as it was; the services must not start on it.
    """
    faults = Faults()
    for source_id in reversed(session.request().sources):
        with faults.noted(source_id):
            _take_back(session, source_id)
    if faults:
        safe = session.journal.last(Step.SAFE)
        where = f"is in the safety set {safe.facts['set']}" if safe else f"is still there, live or set aside under names with {session.id}"
        words = f"The previous data of these sources {where}. The services stay stopped: what they work on is not whole."
        raise _tried_again("The rollback is not complete:", faults, f"{words} Read the runbook's chapter on a failed rollback.")


def _start_again(session: RestoreSession, faults: Faults) -> None:
    with faults.noted("services"):
        try:
            services.start(session.target.services, session.context.clients.connect, session.journal)
        except ContainerUnwell:  # a fault, but not one that keeps the rollback from being complete
            session.journal.record(Step.SERVICES_STARTED_AGAIN)
            raise
        session.journal.record(Step.SERVICES_STARTED_AGAIN)


def _tried_again(what: str, faults: Faults, next_step: str) -> RestoreError:
    """An error of a teardown: each may be done again, and a moment later may succeed."""
    return RestoreError(what + "\n" + "\n".join(faults.sentences), next_step, retryable=True)


def _take_back(session: RestoreSession, source_id: str) -> None:
    """Under the source's lock, since a cutover whose run was ended by hand may still be at it."""
    with session.changing(source_id, forward=False):
        if source_id in cut_over_sources(session):
            answers.same_target(session, source_id)
            session.journal.record(Step.ROLLING_SOURCE_BACK, source_id)
            left_out: list[LeftOut] = []
            if session.in_place and not source_view.of(session, source_id).recorded_facts("dropping"):
                log.info("%s: nothing was dropped, so nothing is brought back", source_id)
            elif session.in_place:
                left_out = replace(session, source_id, source_view.of_safety_set(session, source_id))
                session.source(source_id).finalize(source_view.of_safety_set(session, source_id))
            else:
                session.source(source_id).roll_back(source_view.of(session, source_id))
            session.record_left_out(Step.SOURCE_ROLLED_BACK, source_id, left_out)


def discard(session: RestoreSession) -> None:
    """Remove what was staged and is not in use, and the scratch folders.

    Where people worked with the restored system before it was refused, its copy stays for ``keep_replaced``: it has their writes.

    Raises:
        RecoveryError: if something can't be removed; the rest is.
    """
    if not session.began or session.journal.closed:
        return
    in_scratch = session.request().target == SCRATCH  # which goes with all that is in it, whatever state that is in
    if not in_scratch and not kept(session) and cut_over_sources(session):
        raise RestoreError(
            "A source could not be rolled back, so nothing is discarded.", "Read the runbook's chapter on a failed rollback."
        )
    if kept(session):
        finalize_sources(session)
    faults = Faults()
    session.journal.record(Step.DISCARDING)
    if in_scratch:
        with faults.noted("the scratch servers"):
            scratch.remove(session.folder)
    for source_id in session.request().sources:
        with session.changing(source_id, forward=False):
            if not in_scratch and _something_staged(session, source_id) and not may_have_writes(session, source_id):
                with faults.noted(source_id):
                    _discard(session, source_id)
            source_view.of(session, source_id).clean()
    if faults:
        session.journal.record(Step.NOT_DISCARDED, faults=faults.sentences)
        raise _tried_again("Not everything staged could be removed:", faults, f"Remove it by hand; its names hold {session.id}.")
    session.journal.record(Step.DISCARDED)


def _something_staged(session: RestoreSession, source_id: str) -> bool:
    """In place, what is staged at first becomes the live data itself once that is dropped."""
    dropped = session.in_place and source_view.of(session, source_id).recorded_facts("dropping")
    return bool(session.journal.entries(Step.STAGING, source_id)) and not dropped


def _discard(session: RestoreSession, source_id: str) -> None:
    answers.same_target(session, source_id)
    session.source(source_id).discard(source_view.of(session, source_id))
