"""Gates as the journal knows them: what was shown, who answered what, and whether that counts."""

from __future__ import annotations

from recovery.approvals import Approval, check_person, read_question, write_signed
from recovery.errors import ApprovalError
from recovery.journal import Entry
from recovery.plan_types import Gate
from recovery.restore_run import RestoreRun
from recovery.staging import write_atomically
from recovery.units import now


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


def answer(run: RestoreRun, gate: Gate) -> Entry | None:
    """The answer that counts of a gate: ``approved``, ``rejected`` or ``unanswered``; asking again voids an earlier one."""
    steps = {"asked", "approved", "rejected", "unanswered"}
    said = [entry for entry in run.journal.entries() if entry.step in steps and entry.facts["gate"] == gate]
    return said[-1] if said and said[-1].step != "asked" else None


def answered(run: RestoreRun, gate: Gate) -> str:
    """The answer of a gate in one word; empty without one."""
    found = answer(run, gate)
    return found.step if found else ""
