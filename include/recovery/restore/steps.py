"""The steps of a restore, one function a task, from staging to the last check; what follows it is in ``way_back``.

Nothing that is live is touched before its replacement stands beside it and was proven equal to the set. Every step
that changes something takes a lock, verifies the approval that it needs, and says in the journal what it is about to do.
"""

from __future__ import annotations

import logging
from functools import partial

from recovery.common.errors import ProofError, RestoreError
from recovery.common.wording import shortened
from recovery.packs.content_diff import Difference
from recovery.restore import answers, source_view
from recovery.restore.checks import ask
from recovery.restore.preflight_facts import occupied
from recovery.restore.safety_backup import refuse_unsaved
from recovery.restore.session import RestoreRun
from recovery.restore.source_view import SourceRestore
from recovery.restore.state import in_use, since_staging, timed
from recovery.runners.commands import run_all
from recovery.runs.journal_steps import Step
from recovery.sources.base import InPlaceRestorer

log = logging.getLogger(__name__)

_DIFFERENCES_SHOWN = 20


def stage(run: RestoreRun, source_id: str) -> None:
    """Restore a source beside its live data. In place there is nothing to stage.

    Raises:
        RecoveryError: if the gate was not approved, the set can't be fetched or opened, or the target refuses.
    """
    with run.changing(source_id), timed(run, "stage", source_id):
        _refuse_after_switch(run)
        answers.authorise(run, "plan", source_id)
        run.journal.say(Step.STAGING, source_id)
        source_view.of(run, source_id).clean()
        if not run.in_place:
            run.component(source_id).stage(source_view.of(run, source_id))
        run.journal.say(Step.STAGED, source_id)


def prove(run: RestoreRun, source_id: str) -> None:
    """Compare what was staged with the set; in place, decode all that the set has of the source.

    Raises:
        ProofError: if they are not equal, with the differences.
    """
    with run.changing(source_id), timed(run, "prove", source_id):
        _refuse_after_switch(run)
        if not since_staging(run, Step.STAGED, source_id):
            raise RestoreError(f"{source_id} was not staged; marking the task as success does not stage it.", "Trigger a new restore.")
        if run.in_place:
            _decode(run, source_id)
        elif differences := run.component(source_id).prove(source_view.of(run, source_id)):
            raise unequal(run, source_id, differences, "Nothing live was touched. Choose another set, and keep this one for inspection.")
        run.journal.say(Step.PROVEN, source_id)
        log.info("%s: %s", source_id, "the set can be read whole" if run.in_place else "what was staged is equal to the set")


def _decode(run: RestoreRun, source_id: str) -> None:
    for artifact in source_view.of(run, source_id).artifacts():
        records = source_view.of(run, source_id).decode(artifact)
        log.info("%s: %s is whole, %d things in it", source_id, artifact, records)


def _refuse_after_switch(run: RestoreRun) -> None:
    if run.journal.said(Step.STOPPING_SERVICES):
        raise RestoreError(
            "The switch has begun; what was staged is not touched any more.", "Answer the last gate, or trigger a new restore."
        )


def unequal(run: RestoreRun, source_id: str, differences: list[Difference], next_step: str) -> ProofError:
    """The error of a restore that is not equal to its set; the report names what differs, without any values."""
    names = [f"{difference.kind} {difference.name}" for difference in differences[:_DIFFERENCES_SHOWN]]
    run.journal.say(Step.UNEQUAL, source_id, count=len(differences), names=names)
    shown = shortened(differences, at_most=_DIFFERENCES_SHOWN, between="\n")
    return ProofError(
        f"{source_id}: what was restored is not equal to the set, in {len(differences)} things:\n{shown}\n",
        next_step,
    )


def stop_services(run: RestoreRun) -> None:
    """Stop what uses the data.

    Raises:
        ApprovalError: if the switch was not approved.
        ToolError: if a command fails.
    """
    with run.changing("services"), timed(run, "stop services"):
        answers.authorise(run, "switch")
        _refuse_in_use(run)
        unproven = [source_id for source_id in run.request().sources if not since_staging(run, Step.PROVEN, source_id)]
        if unproven:
            raise RestoreError(
                f"{', '.join(unproven)} was not proven as it is staged now; marking a task as success does not do its work.",
                "Trigger a new restore.",
            )
        run.journal.say(Step.STOPPING_SERVICES)
        run_all(run.place.services.stop, run.place.services)
        run.journal.say(Step.SERVICES_STOPPED)


def switch(run: RestoreRun, source_id: str) -> None:
    """Put what was staged, or in place the set itself, in the place of the live data.

    Raises:
        ApprovalError: if the switch was not approved, or the target is not the one that was approved.
        RestoreError: if an earlier step did not happen.
    """
    with run.changing(source_id), timed(run, "switch", source_id):
        answers.authorise(run, "switch", source_id)
        _refuse_in_use(run)
        if not since_staging(run, Step.PROVEN, source_id) or not run.journal.said(Step.SERVICES_STOPPED):
            raise RestoreError(f"{source_id} is not ready to be switched: an earlier step did not happen.", "Trigger a new restore.")
        if run.in_place and not run.journal.said(Step.SAFE):
            raise RestoreError("There is no safety set of what is there; marking its task as success makes none.", "Trigger a new restore.")
        if not run.journal.said(Step.SWITCHING, source_id):
            _refuse_filled(run, source_id)
        run.journal.say(Step.SWITCHING, source_id)
        if run.in_place:
            replace(run, source_id, source_view.of(run, source_id, before_drop=partial(refuse_unsaved, run, source_id)))
        else:
            run.component(source_id).switch(source_view.of(run, source_id))
        run.journal.say(Step.SWITCHED, source_id)


def _refuse_filled(run: RestoreRun, source_id: str) -> None:
    """Since preflight looked somebody may have put something into an empty target."""
    if there := occupied(run, source_id):
        raise RestoreError(
            f"{source_id}: the target {run.place.name} was empty and is so no more: {shortened(there)}.",
            f"Trigger a new restore, with {run.place.name} in overwrite if that may be set aside.",
        )


def replace(run: RestoreRun, source_id: str, what: SourceRestore) -> None:
    """Drop the live data of a source, load what a set has in its place, and prove that it is equal.

    Raises:
        ProofError: if it is not.
    """
    component = run.place.source(source_id, InPlaceRestorer)
    component.replace(what)
    if differences := component.prove(what):
        raise unequal(run, source_id, differences, "The way back brings what was there before; keep this set for inspection.")


def start_services(run: RestoreRun) -> None:
    """Start what uses the data.

    Raises:
        RestoreError: if a source was not switched.
        ToolError: if a command fails; the last gate then asks what to do.
    """
    with run.changing("services"), timed(run, "start services"):
        answers.authorise(run, "switch")
        _all_said(run, Step.SWITCHED)
        run.journal.say(Step.STARTING_SERVICES)
        run_all(run.place.services.start, run.place.services)
        run.journal.say(Step.SERVICES_STARTED)


def check_system(run: RestoreRun) -> None:
    """Run the plan's checks on the restored system, all of them.

    Raises:
        RestoreError: if one fails; the last gate then asks what to do.
    """
    with run.changing("services"), timed(run, "check system"):
        _all_said(run, Step.SWITCHED)
        run.journal.say(Step.CHECKING)
        sources = run.request().sources
        if unasked := run.place.unasked(sources):
            run.journal.say(Step.NOT_ASKED, checks=unasked)
            log.info("not asked here: %s", ", ".join(unasked))
        outcomes = []
        for check in run.place.asked(sources):
            outcome = ask(check, run.place)
            run.journal.say(Step.CHECKED, check=outcome.title, ok=outcome.ok, words=outcome.words)
            outcomes.append(outcome)
        failed = [outcome for outcome in outcomes if not outcome.ok]
        if failed:
            words = "\n".join(f"{outcome.title}: {outcome.words}" for outcome in failed)
            raise RestoreError(
                f"{len(failed)} of {len(outcomes)} checks of the restored system failed:\n{words}\n", "Answer the last gate."
            )
        run.journal.say(Step.ALL_CHECKED, checks=len(outcomes))


def _refuse_in_use(run: RestoreRun) -> None:
    if in_use(run):
        raise RestoreError("The services run again on the restored system; nothing is switched under them.", "Answer the last gate.")


def _all_said(run: RestoreRun, step: Step) -> None:
    missing = [source_id for source_id in run.request().sources if not run.journal.said(step, source_id)]
    if missing:
        raise RestoreError(
            f"{', '.join(missing)} was not {step}; marking a task as success does not do its work.", "Trigger a new restore."
        )
