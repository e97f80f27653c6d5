"""The steps of a restore, one function a task, from staging to the last check; what follows it is in ``rollback.py``.

Nothing that is live is touched before its replacement stands beside it and was verified against the set. Every step
that changes something takes a lock, verifies the approval that it needs, and says in the journal what it is about to do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from recovery.common.errors import RestoreError, VerificationError
from recovery.common.files import locked
from recovery.common.wording import counted, shortened
from recovery.packs.content_diff import Difference
from recovery.restore import answers, source_view
from recovery.restore.checks import run_check
from recovery.restore.preflight_facts import occupied_locations
from recovery.restore.safety_backup import refuse_if_changed
from recovery.restore.session import RestoreSession
from recovery.restore.source_view import SourceRestore
from recovery.restore.state import in_use, since_staging, timed
from recovery.runs import active, services
from recovery.runs.journal_steps import Step
from recovery.runs.staged_set import staged_sets
from recovery.runs.stalled import services_down
from recovery.sources.base import BesideRestorer, InPlaceRestorer
from recovery.sources.model import LeftOut, Rehearsal

log = logging.getLogger(__name__)

_DIFFERENCES_SHOWN = 20
_NOTHING_TOUCHED = "Nothing live was touched. Choose another set, and keep this one for inspection."


def stage(session: RestoreSession, source_id: str) -> None:
    """Restore a source beside its live data. In place the load is only rehearsed, as far as there is room.

    Raises:
        RecoveryError: if the gate was not approved, the set can't be fetched or opened, or the target refuses.
    """
    with session.changing(source_id), timed(session, "stage", source_id):
        _refuse_after_cutover(session)
        if source_id in session.left_beside:
            raise RestoreError(f"{source_id}: what was restored lies beside the live data, and stays.", "Trigger a new restore.")
        answers.authorise(session, "plan", source_id)
        session.journal.record(Step.STAGING, source_id)
        source_view.of(session, source_id).clean()
        rehearsed = Rehearsal()
        if session.in_place:
            rehearsed = session.target.source(source_id, InPlaceRestorer).rehearse(source_view.of(session, source_id))
        else:
            session.source(source_id).stage(source_view.of(session, source_id))
        if rehearsed.differences:
            raise unequal(session, source_id, rehearsed.differences, _NOTHING_TOUCHED)
        session.journal.record(Step.STAGED, source_id, rehearsed=list(rehearsed.words), whole=rehearsed.whole)


def verify(session: RestoreSession, source_id: str) -> None:
    """Compare what was staged with the set; in place, decode all that the set has of the source. Beside, it then stays.

    Raises:
        VerificationError: if they are not equal, with the differences.
        ApprovalError: beside, if what was approved has changed since.
    """
    with session.changing(source_id), timed(session, "verify", source_id):
        _refuse_after_cutover(session)
        if source_id in session.left_beside:
            log.info("%s: this was done before", source_id)
            return
        if not since_staging(session, Step.STAGED, source_id):
            raise RestoreError(f"{source_id} was not staged; marking the task as success does not stage it.", "Trigger a new restore.")
        if session.in_place:
            _decode(session, source_id)
        elif differences := session.source(source_id).verify_staged(source_view.of(session, source_id)):
            raise unequal(session, source_id, differences, _NOTHING_TOUCHED)
        left_out = session.source(source_id).left_out(source_view.of(session, source_id))
        session.record_left_out(Step.VERIFIED, source_id, left_out)
        for each in left_out:
            log.warning("left out: %s", each.sentence)
        log.info("%s: %s", source_id, "the set can be read whole" if session.in_place else "what was staged is equal to the set")
        if session.beside:
            answers.authorise(session, "plan", source_id)
            session.journal.record(Step.LEAVING_BESIDE, source_id)
            words = session.target.source(source_id, BesideRestorer).leave_beside(source_view.of(session, source_id))
            session.journal.record(Step.LEFT_BESIDE, source_id, words=words)
            log.info("%s: %s", source_id, " ".join(words))


def _decode(session: RestoreSession, source_id: str) -> None:
    for artifact in source_view.of(session, source_id).artifacts():
        records = source_view.of(session, source_id).decode(artifact)
        log.info("%s: %s is whole, %d things in it", source_id, artifact, records)


def _refuse_after_cutover(session: RestoreSession) -> None:
    if session.journal.entries(Step.STOPPING_SERVICES):
        raise RestoreError(
            "The cutover has begun; what was staged is not touched any more.", "Answer the last gate, or trigger a new restore."
        )


def unequal(session: RestoreSession, source_id: str, differences: Sequence[Difference], next_step: str) -> VerificationError:
    """The error of a restore that is not equal to its set; the report names what differs, without any values."""
    names = [f"{difference.kind} {difference.name}" for difference in differences[:_DIFFERENCES_SHOWN]]
    session.journal.record(Step.UNEQUAL, source_id, count=len(differences), names=names)
    shown = shortened(differences, at_most=_DIFFERENCES_SHOWN, between="\n")
    return VerificationError(
        f"{source_id}: the restored data is not equal to the set, in {counted(len(differences), 'thing')}:\n{shown}\n",
        next_step,
    )


def stop_services(session: RestoreSession) -> None:
    """Stop what uses the data.

    Raises:
        ApprovalError: if the cutover was not approved.
        RecoveryError: as :func:`recovery.runs.services.stop`.
    """
    with session.changing("services"), timed(session, "stop services"):
        answers.authorise(session, "cutover")
        _refuse_in_use(session)
        unproven = [source_id for source_id in session.request().sources if not since_staging(session, Step.VERIFIED, source_id)]
        if unproven:
            raise RestoreError(
                f"{', '.join(unproven)} was not verified as it is staged now; marking a task as success does not do its work.",
                "Trigger a new restore.",
            )
        with locked(active.services_lock(session.plan)):
            _take_over(session)  # before the next line: from then on that backup leaves the start to this restore
            session.journal.record(Step.STOPPING_SERVICES)
            services.stop(session.target.services, session.context.clients.connect, session.journal)
            session.journal.record(Step.SERVICES_STOPPED)


def _take_over(session: RestoreSession) -> None:
    """What a cold backup has stopped, and not started yet, would be found down: it runs again after this restore, as it did before."""
    for staged in staged_sets(session.plan) if session.target.live else ():
        if services_down(staged.services):
            log.warning("the backup of set %s has stopped the services; this restore starts them again", staged.id)
            services.take_over(session.journal, staged.services)


def cut_over(session: RestoreSession, source_id: str) -> None:
    """Put what was staged, or in place the set itself, in the place of the live data.

    Raises:
        ApprovalError: if the cutover was not approved, or the target is not the one that was approved.
        RestoreError: if an earlier step did not happen.
    """
    with session.changing(source_id), timed(session, "cut over", source_id):
        answers.authorise(session, "cutover", source_id)
        _refuse_in_use(session)
        if not since_staging(session, Step.VERIFIED, source_id) or not session.journal.entries(Step.SERVICES_STOPPED):
            raise RestoreError(f"{source_id} is not ready to be cut over: an earlier step did not happen.", "Trigger a new restore.")
        if session.in_place and not session.journal.entries(Step.SAFE):
            raise RestoreError("There is no safety set of what is there; marking its task as success makes none.", "Trigger a new restore.")
        _refuse_running(session)
        if not session.journal.entries(Step.CUTTING_OVER, source_id):
            _refuse_filled(session, source_id)
        session.journal.record(Step.CUTTING_OVER, source_id)
        if session.in_place:
            before_drop = partial(refuse_if_changed, session, source_id)
            left_out = replace(session, source_id, source_view.of(session, source_id, before_drop=before_drop))
        else:
            restorer, what = session.source(source_id), source_view.of(session, source_id)
            restorer.swap(what)
            left_out = restorer.left_out(what)
        session.record_left_out(Step.CUT_OVER, source_id, left_out)


def _refuse_running(session: RestoreSession) -> None:
    """A container that somebody started meanwhile, or the Engine when it was started anew itself, would work on half of a system."""
    if running := services.running_again(session.target.services, session.context.clients.connect, session.journal):
        raise RestoreError(f"{shortened(running)} ran since the services were stopped.", "Find out who started it; trigger a new restore.")


def _refuse_filled(session: RestoreSession, source_id: str) -> None:
    """Since preflight looked somebody may have put something into an empty target."""
    if there := occupied_locations(session, source_id):
        raise RestoreError(
            f"{source_id}: the target {session.target.name} was empty and is so no more: {shortened(there)}.",
            f"Trigger a new restore, with {session.target.name} in overwrite if that may be set aside.",
        )


def replace(session: RestoreSession, source_id: str, what: SourceRestore) -> list[LeftOut]:
    """Drop the live data of a source, load what a set has in its place, verify that it is equal, and let users in.

    Returns:
        What can't be made of the set, and is left out.

    Raises:
        VerificationError: if it is not.
    """
    restorer = session.target.source(source_id, InPlaceRestorer)
    restorer.replace(what)
    if differences := restorer.verify_staged(what):
        raise unequal(session, source_id, differences, "The rollback brings what was there before; keep this set for inspection.")
    left_out = restorer.left_out(what)
    _refuse_unapproved(session, source_id, [] if what.rolling_back else left_out)
    restorer.let_in(what)
    return left_out


def _refuse_unapproved(session: RestoreSession, source_id: str, left_out: Sequence[LeftOut]) -> None:
    """Leave nothing out that a rehearsal with all rows could make. After one without rows, the last gate shows it."""
    approved = session.left_out(Step.VERIFIED).get(source_id, [])
    more = [each for each in left_out if each.name not in {other.name for other in approved}]
    if more and session.journal.entries(Step.STAGED, source_id)[-1].facts["whole"]:
        raise RestoreError(
            f"{source_id}: something can't be made that could be made in the rehearsal: {more[0].sentence}",
            "The rollback brings what was there before. Read the log of this task, then trigger a new restore.",
        )


def start_services(session: RestoreSession) -> None:
    """Start what uses the data.

    Raises:
        RestoreError: if a source was not cut over.
        RecoveryError: as :func:`recovery.runs.services.start`; the last gate then asks what to do.
    """
    with session.changing("services"), timed(session, "start services"):
        answers.authorise(session, "cutover")
        _refuse_not_cut_over(session)
        session.journal.record(Step.STARTING_SERVICES)
        services.start(session.target.services, session.context.clients.connect, session.journal)
        session.journal.record(Step.SERVICES_STARTED)


def check_system(session: RestoreSession) -> None:
    """Run the plan's checks on the restored system, all of them.

    Raises:
        RestoreError: if one fails; the last gate then asks what to do.
    """
    with session.changing("services"), timed(session, "check system"):
        _refuse_not_cut_over(session)
        session.journal.record(Step.CHECKING)
        sources = session.request().sources
        if unasked := session.target.unasked(sources):
            session.journal.record(Step.NOT_ASKED, checks=unasked)
            log.info("not asked here: %s", ", ".join(unasked))
        outcomes = []
        for check in session.target.asked(sources):
            outcome = run_check(check, session.target)
            session.journal.record(Step.CHECKED, check=outcome.title, ok=outcome.ok, words=outcome.words)
            outcomes.append(outcome)
        failed = [outcome for outcome in outcomes if not outcome.ok]
        if failed:
            words = "\n".join(f"{outcome.title}: {outcome.words}" for outcome in failed)
            raise RestoreError(
                f"{len(failed)} of {len(outcomes)} checks of the restored system failed:\n{words}\n", "Answer the last gate."
            )
        session.journal.record(Step.ALL_CHECKED, checks=len(outcomes))


def _refuse_in_use(session: RestoreSession) -> None:
    if in_use(session):
        raise RestoreError("The services run again on the restored system; nothing is cut over under them.", "Answer the last gate.")


def _refuse_not_cut_over(session: RestoreSession) -> None:
    missing = [source_id for source_id in session.request().sources if not session.journal.entries(Step.CUT_OVER, source_id)]
    if missing:
        raise RestoreError(
            f"{', '.join(missing)} was not cut over; marking a task as success does not do its work.", "Trigger a new restore."
        )
