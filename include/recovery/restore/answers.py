"""Gates: what was shown, who answered what, and whether that counts for what is about to be done."""

from __future__ import annotations

from recovery.common.errors import ApprovalError
from recovery.common.files import write_atomically
from recovery.common.units import now
from recovery.crypto.signing import SigningKey
from recovery.plan.field_types import LIVE, Gate
from recovery.restore import source_view
from recovery.restore.approvals import Approval, Question, check_person, digest, read_approval, read_question, write_signed
from recovery.restore.session import RestoreRun
from recovery.runs.journal import Entry
from recovery.runs.journal_steps import Step


def show(run: RestoreRun, gate: Gate, text: str) -> None:
    """Keep the text that a gate is about to show. Asking again voids an earlier yes.

    Raises:
        RestoreError: if this restore has ended, or what the gate is about has not happened.
        ApprovalError: if somebody rejected this gate before.
    """
    with run.changing(f"gate-{gate}"):
        _refuse_rejected(run, gate)
        run.gate_file(gate, ".md").parent.mkdir(exist_ok=True)
        run.gate_file(gate, ".json").unlink(missing_ok=True)
        write_atomically(run.gate_file(gate, ".md"), text.encode("utf-8", "surrogateescape"))
        write_signed(run.gate_file(gate, ".asked.json"), question_now(run, gate), _key(run))
        run.journal.say(Step.ASKED, gate=gate)


def approve(run: RestoreRun, gate: Gate, person: str) -> None:
    """Turn a person's yes into a signed approval.

    Raises:
        ApprovalError: if this person may not approve, somebody rejected the gate before, or something changed since it was shown;
            where only checks began again, the gate may ask again.
    """
    with run.changing(f"gate-{gate}"):
        _refuse_rejected(run, gate)
        check_person(person, run.request().requester, run.plan.approvals)
        key = _key(run)
        question = read_question(run.gate_file(gate, ".asked.json"), key.verify_key)
        if changed := question.changed(question_now(run, gate)):
            raise _approved_something_else(gate, person, changed)
        write_signed(run.gate_file(gate, ".json"), Approval(question=question, approver=person, answered=now()), key)
        run.journal.say(Step.APPROVED, gate=gate, person=person)


def _approved_something_else(gate: Gate, person: str, changed: list[str]) -> ApprovalError:
    again = changed == ["checks"]
    return ApprovalError(
        f"Since the gate {gate} was shown, this changed: {', '.join(changed)}; {person} approved something else.",
        "Read the log of check_system, then answer again." if again else "Trigger a new restore, and have it approved as it is now.",
        retryable=again,
    )


def reject(run: RestoreRun, gate: Gate, person: str | None) -> None:
    """Remember a person's no, which is final, or that nobody answered in time (``None``).

    Raises:
        ApprovalError: if this person may not answer.
    """
    with run.changing(f"gate-{gate}"):
        if person is not None:
            check_person(person, run.request().requester, run.plan.approvals)
        run.journal.say(Step.UNANSWERED if person is None else Step.REJECTED, gate=gate, person=person)


def answer(run: RestoreRun, gate: Gate) -> Entry | None:
    """The answer that counts of a gate: ``approved``, ``rejected`` or ``unanswered``.

    A person's no is final. Other answers are void once the gate asks again, or checks begin again of what the last gate is about.
    """
    said = [each for each in run.journal.entries() if each.facts.get("gate") == gate or (each.step == Step.CHECKING and gate == "accept")]
    for entry in said:
        if entry.step == Step.REJECTED:
            return entry
    return said[-1] if said and said[-1].step in {Step.APPROVED, Step.UNANSWERED} else None


def _refuse_rejected(run: RestoreRun, gate: Gate) -> None:
    if (no := answer(run, gate)) and no.step == Step.REJECTED:
        raise ApprovalError(f"{no.facts['person']} rejected the gate {gate!r}.", "Let this run end; then trigger a new restore.")


def answered(run: RestoreRun, gate: Gate) -> str:
    """The answer of a gate in one word; empty without one."""
    found = answer(run, gate)
    return found.step if found else ""


def authorise(run: RestoreRun, gate: Gate, source_id: str | None = None) -> None:
    """Verify the approval that a change needs, and that nothing it was given for has changed since.

    A gate that the place of this restore does not have needs none; the target must be the same all the same.

    Args:
        gate: the gate whose approval is needed.
        source_id: whose target is looked at again; None for changes that have none.

    Raises:
        ApprovalError: if the gate was not approved, or the plan, the findings or the target are not those of then.
    """
    if run.request().dry_run:
        raise ApprovalError("This is a dry run: nothing is changed.", "Trigger a restore without dry_run.")
    if run.request().drill and run.request().target == LIVE:
        raise ApprovalError("A drill never goes into the live system.", "Trigger a restore.")
    if gate in run.gates:
        _check_approval(run, gate)
    else:
        _same_wish(run)
    if source_id:
        same_target(run, source_id)


def _key(run: RestoreRun) -> SigningKey:
    """What approvals are signed with."""
    return SigningKey.from_endpoint(run.context.endpoint(run.plan.approvals.signing or run.plan.signing))


def _same_wish(run: RestoreRun) -> None:
    """Where nobody is asked, nothing may change behind preflight's back either."""
    found = run.findings()
    then, now = (found.plan, found.request), (run.plan_digest, run.request_digest)
    if then != now:
        what = " and ".join(name for name, old, new in zip(("plan", "request"), then, now, strict=True) if old != new)
        raise ApprovalError(f"Since preflight looked, the {what} changed.", "Trigger a new restore.")


def _check_approval(run: RestoreRun, gate: Gate) -> None:
    approval = read_approval(run.gate_file(gate, ".json"), _key(run).verify_key)
    if changed := approval.question.changed(question_now(run, gate)):
        raise ApprovalError(
            f"Since {approval.approver} approved the gate {gate}, this changed: {', '.join(changed)}; the approval is void.",
            "Trigger a new restore, and have it approved as it is now.",
        )


def question_now(run: RestoreRun, gate: Gate) -> Question:
    """What a gate asks, as everything is now.

    Raises:
        ApprovalError: if the text that it showed is gone.
    """
    shown = run.gate_file(gate, ".md")
    if not shown.exists():
        raise ApprovalError(f"The text that the gate {gate} showed is gone.", "Trigger a new restore.")
    return Question(
        run_id=run.run_id,
        gate=gate,
        set_id=run.manifest().set_id,
        plan=run.plan_digest,
        request=run.request_digest,
        text=digest(shown.read_text(encoding="utf-8", errors="surrogateescape")),
        targets=run.findings().targets,
        checks=len(run.journal.said(Step.CHECKING)) if gate == "accept" else 0,
    )


def same_target(run: RestoreRun, source_id: str) -> None:
    """Make sure that a source's target is the one that preflight found, and the gates showed.

    Raises:
        ApprovalError: if it is another one.
    """
    approved = run.findings().targets.get(source_id)
    found = run.component(source_id).identity(source_view.of(run, source_id))
    if found != approved:
        raise ApprovalError(
            f"The target of {source_id} is not the one that was approved: it was {approved}, now it is {found}.",
            "Put the Connection or the path back as it was, or trigger a new restore for the new target.",
        )
