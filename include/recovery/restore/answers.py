"""Gates as the journal knows them: what was shown, who answered what, and whether that counts."""

from __future__ import annotations

from recovery.common.errors import ApprovalError
from recovery.common.files import write_atomically
from recovery.common.units import now
from recovery.plan.field_types import Gate
from recovery.restore.approvals import Approval, check_person, read_question, write_signed
from recovery.restore.session import RestoreRun
from recovery.runs.journal import Entry


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
        write_signed(run.gate_file(gate, ".asked.json"), run.question(gate), run.signing_key())
        run.journal.say("asked", gate=gate)


def approve(run: RestoreRun, gate: Gate, person: str) -> None:
    """Turn a person's yes into a signed approval.

    Raises:
        ApprovalError: if this person may not approve, somebody rejected the gate before, or something changed since it was shown;
            where only checks began again, the gate may ask again.
    """
    with run.changing(f"gate-{gate}"):
        _refuse_rejected(run, gate)
        check_person(person, run.request().requester, run.plan.approvals)
        key = run.signing_key()
        question = read_question(run.gate_file(gate, ".asked.json"), key.verify_key)
        if changed := question.changed(run.question(gate)):
            raise _approved_something_else(gate, person, changed)
        write_signed(run.gate_file(gate, ".json"), Approval(question=question, approver=person, answered=now()), key)
        run.journal.say("approved", gate=gate, person=person)


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
        run.journal.say("unanswered" if person is None else "rejected", gate=gate, person=person)


def answer(run: RestoreRun, gate: Gate) -> Entry | None:
    """The answer that counts of a gate: ``approved``, ``rejected`` or ``unanswered``.

    A person's no is final. Other answers are void once the gate asks again, or checks begin again of what the last gate is about.
    """
    said = [each for each in run.journal.entries() if each.facts.get("gate") == gate or (each.step == "checking" and gate == "accept")]
    for entry in said:
        if entry.step == "rejected":
            return entry
    return said[-1] if said and said[-1].step in {"approved", "unanswered"} else None


def _refuse_rejected(run: RestoreRun, gate: Gate) -> None:
    if (no := answer(run, gate)) and no.step == "rejected":
        raise ApprovalError(f"{no.facts['person']} rejected the gate {gate!r}.", "Let this run end; then trigger a new restore.")


def answered(run: RestoreRun, gate: Gate) -> str:
    """The answer of a gate in one word; empty without one."""
    found = answer(run, gate)
    return found.step if found else ""
