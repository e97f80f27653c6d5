"""The steps of a restore, one function a task: stage, prove, switch, and the way back.

Nothing that is live is touched before its replacement stands beside it and was proven equal to the set. Every step
that changes something takes a lock, verifies the approval that it needs, and says in the journal what it is about to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from recovery.approvals import Approval, Gate, check_person, read_question, write_signed
from recovery.contents import Difference
from recovery.errors import ApprovalError, ProofError, RestoreError
from recovery.journal import Entry
from recovery.restore_run import RestoreRun
from recovery.services import run_all, run_one
from recovery.staging import write_atomically
from recovery.units import human_duration, now

log = logging.getLogger(__name__)

_DIFFERENCES_SHOWN = 20


def stage(run: RestoreRun, source_id: str) -> None:
    """Restore a source beside its live data.

    Raises:
        RecoveryError: if the gate was not approved, the set can't be fetched or opened, or the target refuses.
    """
    with run.changing(source_id), _timed(run, "stage", source_id):
        _refuse_after_switch(run)
        run.authorise("plan", source_id)
        run.journal.say("staging", source_id)
        run.source(source_id).clean()
        run.component(source_id).stage(run.source(source_id))
        run.journal.say("staged", source_id)


def prove(run: RestoreRun, source_id: str) -> None:
    """Compare what was staged with the set.

    Raises:
        ProofError: if they are not equal, with the differences.
    """
    with run.changing(source_id), _timed(run, "prove", source_id):
        _refuse_after_switch(run)
        if not since_staging(run, "staged", source_id):
            raise RestoreError(f"{source_id} was not staged; marking the task as success does not stage it.", "Trigger a new restore.")
        differences = run.component(source_id).prove(run.source(source_id))
        if differences:
            raise unequal(source_id, differences)
        run.journal.say("proven", source_id)
        log.info("%s: what was staged is equal to the set", source_id)


def since_staging(run: RestoreRun, step: str, source_id: str) -> bool:
    """Whether a step was done with what is staged now: staging anew voids what was done with an earlier copy."""
    steps = [entry.step for entry in run.journal.entries() if entry.source == source_id and entry.step in {"staging", step}]
    return bool(steps) and steps[-1] == step


def _refuse_after_switch(run: RestoreRun) -> None:
    if run.journal.said("stopping services"):
        raise RestoreError(
            "The switch has begun; what was staged is not touched any more.", "Answer the last gate, or trigger a new restore."
        )


def unequal(source_id: str, differences: list[Difference]) -> ProofError:
    """The error of a restore that is not equal to its set."""
    shown = "\n".join(str(difference) for difference in differences[:_DIFFERENCES_SHOWN])
    more = f"\nand {len(differences) - _DIFFERENCES_SHOWN} more" if len(differences) > _DIFFERENCES_SHOWN else ""
    return ProofError(
        f"{source_id}: what was restored is not equal to the set, in {len(differences)} things:\n{shown}{more}\n",
        "Nothing live was touched. Choose another set, and keep this one for inspection.",
    )


def show(run: RestoreRun, gate: Gate, text: str) -> None:
    """Keep the text that a gate is about to show. Asking again voids an earlier answer.

    Raises:
        RestoreError: if this restore has ended, or what the gate is about has not happened.
    """
    with run.changing(f"gate-{gate}"):
        run.gate_file(gate, ".md").parent.mkdir(exist_ok=True)
        run.gate_file(gate, ".json").unlink(missing_ok=True)
        write_atomically(run.gate_file(gate, ".md"), text.encode("utf-8", "surrogateescape"))
        write_signed(run.gate_file(gate, ".asked.json"), run.question(gate), run.signing_key())
        run.journal.say("asked", gate=gate)


def approve(run: RestoreRun, gate: Gate, person: str) -> None:
    """Turn a person's yes into a signed approval.

    Raises:
        ApprovalError: if this person may not approve, or something changed since the gate was shown.
    """
    with run.changing(f"gate-{gate}"):
        check_person(person, run.request().requester, run.plan.approvals)
        key = run.signing_key()
        question = read_question(run.gate_file(gate, ".asked.json"), key.verify_key)
        if changed := question.changed(run.question(gate)):
            raise ApprovalError(
                f"Since the gate {gate} was shown, this changed: {', '.join(changed)}; {person} approved something else.",
                "Trigger a new restore, and have it approved as it is now.",
            )
        write_signed(run.gate_file(gate, ".json"), Approval(question=question, approver=person, answered=now()), key)
        run.journal.say("approved", gate=gate, person=person)


def reject(run: RestoreRun, gate: Gate, person: str | None) -> None:
    """Remember a person's no, or that nobody answered in time (``None``)."""
    with run.changing(f"gate-{gate}"):
        run.journal.say("unanswered" if person is None else "rejected", gate=gate, person=person)


def stop_services(run: RestoreRun) -> None:
    """Stop what uses the data.

    Raises:
        ApprovalError: if the switch was not approved.
        ToolError: if a command fails.
    """
    with run.changing("services"), _timed(run, "stop services"):
        run.authorise("switch")
        _refuse_in_use(run)
        unproven = [source_id for source_id in run.request().sources if not since_staging(run, "proven", source_id)]
        if unproven:
            raise RestoreError(
                f"{', '.join(unproven)} was not proven as it is staged now; marking a task as success does not do its work.",
                "Trigger a new restore.",
            )
        run.journal.say("stopping services")
        run_all(run.plan.services.stop, run.plan.services)
        run.journal.say("services stopped")


def switch(run: RestoreRun, source_id: str) -> None:
    """Put what was staged in the place of the live data.

    Raises:
        ApprovalError: if the switch was not approved, or the target is not the one that was approved.
        RestoreError: if an earlier step did not happen.
    """
    with run.changing(source_id), _timed(run, "switch", source_id):
        run.authorise("switch", source_id)
        _refuse_in_use(run)
        if not since_staging(run, "proven", source_id) or not run.journal.said("services stopped"):
            raise RestoreError(f"{source_id} is not ready to be switched: an earlier step did not happen.", "Trigger a new restore.")
        run.journal.say("switching", source_id)
        run.component(source_id).switch(run.source(source_id))
        run.journal.say("switched", source_id)


def start_services(run: RestoreRun) -> None:
    """Start what uses the data.

    Raises:
        RestoreError: if a source was not switched.
        ToolError: if a command fails; the last gate then asks what to do.
    """
    with run.changing("services"), _timed(run, "start services"):
        run.authorise("switch")
        _all_said(run, "switched")
        run.journal.say("starting services")
        run_all(run.plan.services.start, run.plan.services)
        run.journal.say("services started")


def check_system(run: RestoreRun) -> None:
    """Run the plan's checks on the restored system, all of them.

    Raises:
        RestoreError: if one fails; the last gate then asks what to do.
    """
    with run.changing("services"), _timed(run, "check system"):
        _all_said(run, "switched")
        outcomes = [run_one(command, run.plan.services) for command in run.plan.services.check]
        for outcome in outcomes:
            run.journal.say("checked", command=outcome.command, ok=outcome.ok, words=outcome.words)
        failed = [outcome for outcome in outcomes if not outcome.ok]
        if failed:
            words = "\n".join(f"{outcome.command}: {outcome.words}" for outcome in failed)
            raise RestoreError(
                f"{len(failed)} of {len(outcomes)} checks of the restored system failed:\n{words}\n", "Answer the last gate."
            )
        run.journal.say("all checked", checks=len(outcomes))


def _refuse_in_use(run: RestoreRun) -> None:
    if in_use(run):
        raise RestoreError("The services run again on the restored system; nothing is switched under them.", "Answer the last gate.")


def _all_said(run: RestoreRun, step: str) -> None:
    missing = [source_id for source_id in run.request().sources if not run.journal.said(step, source_id)]
    if missing:
        raise RestoreError(
            f"{', '.join(missing)} was not {step}; marking a task as success does not do its work.", "Trigger a new restore."
        )


def in_use(run: RestoreRun) -> bool:
    """Whether the restored system was handed over: from here on only a person's no takes it back."""
    return bool(run.journal.said("starting services"))


def answer(run: RestoreRun, gate: Gate) -> Entry | None:
    """The answer that counts of a gate: ``approved``, ``rejected`` or ``unanswered``; asking again voids an earlier one."""
    steps = {"asked", "approved", "rejected", "unanswered"}
    said = [entry for entry in run.journal.entries() if entry.step in steps and entry.facts["gate"] == gate]
    return said[-1] if said and said[-1].step != "asked" else None


def answered(run: RestoreRun, gate: Gate) -> str:
    """The answer of a gate in one word; empty without one."""
    found = answer(run, gate)
    return found.step if found else ""


def turned_down(run: RestoreRun) -> bool:
    """Whether a person refused the restored system at the last gate."""
    return answered(run, "accept") == "rejected"


def kept(run: RestoreRun) -> bool:
    """Whether the restored system stays: it is in use, and nobody refused it."""
    return in_use(run) and not turned_down(run)


def keep(run: RestoreRun) -> bool:
    """After acceptance, or when nobody answered: what had to wait for it.

    Returns:
        False if the restored system was not handed over, so that there is nothing to keep.

    Raises:
        ApprovalError: if the last gate was neither approved nor left unanswered.
    """
    if not in_use(run):
        return False
    if answered(run, "accept") != "unanswered":
        run.authorise("accept")
    settle(run)
    return True


def settle(run: RestoreRun) -> None:
    """Do for every source what had to wait until the restored system stays; once."""
    for source_id in run.request().sources:
        with run.changing(source_id, forward=False):
            if not run.journal.said("settled", source_id):
                run.same_target(source_id)
                run.component(source_id).settle(run.source(source_id))
                run.journal.say("settled", source_id)


def begun_to_switch(run: RestoreRun) -> list[str]:
    """The sources that were switched, or half switched, and not taken back, in the order in which they were switched."""
    switching = dict.fromkeys(entry.source for entry in run.journal.said("switching"))
    return [source_id for source_id in switching if not run.journal.said("switched back", source_id)]


def switch_back(run: RestoreRun) -> bool:
    """Take everything back that was switched, in reverse order, and start the services again, where the restored system doesn't stay.

    Returns:
        False if there was nothing to take back.

    Raises:
        RecoveryError: if a source can't be taken back; the others are, and the services are started.
    """
    if not run.began or run.journal.closed:
        return False
    faults = []
    with run.changing("services", forward=False):
        if kept(run):
            faults += _started_again(run) if services_down(run) else []
            if faults:
                raise _tried_again("The restored system stays, but its services do not start:", faults, "Start them by hand.")
            return False
        run.journal.say("turning back")
        if not run.journal.said("stopping services"):
            return False
        if in_use(run):
            faults += _faults("services", lambda: run_all(run.plan.services.stop, run.plan.services))
    with _timed(run, "switch back"):
        for source_id in reversed(run.request().sources):
            faults += _faults(source_id, partial(_take_back, run, source_id))
        with run.changing("services", forward=False):
            faults += _started_again(run)
    if faults:
        words = "What is named still has both copies. Read the runbook's chapter on a way back that failed."
        raise _tried_again("The way back is not complete:", faults, words)
    return True


def services_down(run: RestoreRun) -> bool:
    """Whether services were stopped, and not started since."""
    steps = ("stopping services", "starting services", "turning back", "services started", "services started again")
    said = [entry.step for entry in run.journal.entries() if entry.step in steps]
    return "stopping services" in said and said[-1] not in {"services started", "services started again"}


def _started_again(run: RestoreRun) -> list[str]:
    faults = _faults("services", lambda: run_all(run.plan.services.start, run.plan.services))
    if not faults:
        run.journal.say("services started again")
    return faults


def _tried_again(what: str, faults: list[str], next_step: str) -> RestoreError:
    """An error of a teardown: each may be done again, and a moment later may succeed."""
    error = RestoreError(what + "\n" + "\n".join(faults), next_step)
    error.retryable = True
    return error


def _take_back(run: RestoreRun, source_id: str) -> None:
    """Under the source's lock, since a switch whose run was ended by hand may still be at it."""
    with run.changing(source_id, forward=False):
        if source_id in begun_to_switch(run):
            run.same_target(source_id)
            run.journal.say("switching back", source_id)
            run.component(source_id).switch_back(run.source(source_id))
            run.journal.say("switched back", source_id)


def _faults(what: str, action: Callable[[], None]) -> list[str]:
    """Do it; a failure must not keep the rest from being taken back."""
    try:
        action()
    except Exception as error:
        log.exception("%s failed", what)
        return [f"{what}: {error}"]
    return []


def discard(run: RestoreRun) -> None:
    """Remove what was staged and is not in use, and the scratch folders.

    Where people worked with the restored system before it was refused, its copy stays for ``keep_before``: it has their writes.

    Raises:
        RecoveryError: if something can't be removed; the rest is.
    """
    if not run.began or run.journal.closed:
        return
    if not kept(run) and begun_to_switch(run):
        raise RestoreError(
            "A source could not be switched back, so nothing is discarded.", "Read the runbook's chapter on a way back that failed."
        )
    if kept(run):
        settle(run)
    faults = []
    run.journal.say("discarding")
    for source_id in run.request().sources:
        with run.changing(source_id, forward=False):
            if run.journal.said("staging", source_id) and not may_have_writes(run, source_id):
                faults += _faults(source_id, partial(_discard, run, source_id))
            run.source(source_id).clean()
    if faults:
        run.journal.say("not discarded", faults=faults)
        raise _tried_again("Not everything staged could be removed:", faults, f"Remove it by hand; its names hold {run.id}.")
    run.journal.say("discarded")


def may_have_writes(run: RestoreRun, source_id: str) -> bool:
    """Whether somebody may have written to a restored copy that was taken back: then it stays for ``keep_before``."""
    if kept(run) or not run.journal.said("switching", source_id):
        return False
    return in_use(run) or not run.plan.services.stop


def _discard(run: RestoreRun, source_id: str) -> None:
    run.same_target(source_id)
    run.component(source_id).discard(run.source(source_id))


@contextmanager
def _timed(run: RestoreRun, step: str, source_id: str = "") -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    run.journal.say("took", source_id, what=step, seconds=round(seconds, 3))
    log.info("%s %s took %s", step, source_id, human_duration(seconds))
