"""Gates: what was shown, who answered what, and whether that counts for what is about to be done."""

from __future__ import annotations

from datetime import datetime

from recovery.common.errors import ApprovalError
from recovery.common.files import write_atomically
from recovery.common.units import now
from recovery.crypto.signing import SigningKey
from recovery.plan.field_types import LIVE, Gate
from recovery.restore import source_view
from recovery.restore.approvals import Approval, Question, check_person, digest, read_approval, read_question, write_signed
from recovery.restore.session import RestoreSession
from recovery.runs.journal import Entry
from recovery.runs.journal_steps import Step


def show(session: RestoreSession, gate: Gate, text: str) -> None:
    """Keep the text that a gate is about to show. Asking again voids an earlier yes.

    Raises:
        RestoreError: if this restore has ended, or what the gate is about has not happened.
        ApprovalError: if somebody rejected this gate before; or if the plan or the request changed since preflight judged them, until
            they are carried out.
    """
    with session.changing(f"gate-{gate}"):
        _refuse_rejected(session, gate)
        if gate != "accept":
            _same_as_preflight(session)
        session.gate_file(gate, ".md").parent.mkdir(exist_ok=True)
        session.gate_file(gate, ".json").unlink(missing_ok=True)
        write_atomically(session.gate_file(gate, ".md"), text.encode("utf-8", "surrogateescape"))
        write_signed(session.gate_file(gate, ".asked.json"), question_now(session, gate), _key(session))
        session.journal.record(Step.ASKED, gate=gate)


def approve(session: RestoreSession, gate: Gate, person: str, user_id: str = "") -> None:
    """Turn a person's yes into a signed approval.

    Args:
        session: the restore.
        gate: which.
        person: the user name.
        user_id: the id of the person in the auth manager; without, only an approver can be recognised whom the plan gives no id.

    Raises:
        ApprovalError: if this person may not approve, somebody rejected the gate before, or something changed since it was shown;
            for a wrong person, or where only checks began again, the gate may ask again.
    """
    with session.changing(f"gate-{gate}"):
        _refuse_rejected(session, gate)
        check_person(person, user_id, session.request().requester, session.plan.approvals)
        key = _key(session)
        question = read_question(session.gate_file(gate, ".asked.json"), key.verify_key)
        if changed := question.changed(question_now(session, gate)):
            raise _approved_something_else(gate, person, changed)
        write_signed(session.gate_file(gate, ".json"), Approval(question=question, approver=person, answered=now()), key)
        session.journal.record(Step.APPROVED, gate=gate, person=person)


def _approved_something_else(gate: Gate, person: str, changed: list[str]) -> ApprovalError:
    again = changed == ["checks"]
    return ApprovalError(
        f"Since the gate {gate} was shown, this changed: {', '.join(changed)}; {person} approved something else.",
        "Read the log of check_system, then answer again." if again else "Trigger a new restore, and have it approved as it is now.",
        retryable=again,
    )


def reject(session: RestoreSession, gate: Gate, person: str | None, user_id: str = "") -> None:
    """Remember a person's no, which is final, or that nobody answered in time (``None``). ``user_id`` is as for :func:`approve`.

    Raises:
        ApprovalError: if this person may not answer; the gate may ask again.
    """
    with session.changing(f"gate-{gate}"):
        if person is not None:
            check_person(person, user_id, session.request().requester, session.plan.approvals)
        session.journal.record(Step.UNANSWERED if person is None else Step.REJECTED, gate=gate, person=person)


def answer(session: RestoreSession, gate: Gate) -> Entry | None:
    """The answer that counts of a gate: ``approved``, ``rejected`` or ``unanswered``.

    A person's no is final. Other answers are void once the gate asks again, or checks begin again of what the last gate is about.
    """
    said = _said(session, gate)
    for entry in said:
        if entry.step == Step.REJECTED:
            return entry
    return said[-1] if said and said[-1].step in {Step.APPROVED, Step.UNANSWERED} else None


def asking_since(session: RestoreSession, gate: Gate) -> datetime | None:
    """When a gate first asked what nobody has answered since, however often it asked again; None if it waits for no answer."""
    since = None
    for entry in _said(session, gate):
        since = (since or entry.time) if entry.step == Step.ASKED else None
    return since


def times_asked(session: RestoreSession, gate: Gate) -> int:
    """How often a gate was shown."""
    return sum(entry.step == Step.ASKED for entry in _said(session, gate))


def _refuse_rejected(session: RestoreSession, gate: Gate) -> None:
    if (no := answer(session, gate)) and no.step == Step.REJECTED:
        raise ApprovalError(f"{no.facts['person']} rejected the gate {gate!r}.", "Let this run end; then trigger a new restore.")


def _said(session: RestoreSession, gate: Gate) -> list[Entry]:
    """What the journal says of a gate; checks that begin again are a new question at the last one."""
    return [
        each for each in session.journal.everything() if each.facts.get("gate") == gate or (each.step == Step.CHECKING and gate == "accept")
    ]


def answered(session: RestoreSession, gate: Gate) -> str:
    """The answer of a gate in one word; empty without one."""
    found = answer(session, gate)
    return found.step if found else ""


def authorise(session: RestoreSession, gate: Gate, source_id: str | None = None) -> None:
    """Verify the approval that a change needs, and that nothing it was given for has changed since.

    A gate that the place of this restore does not have needs none; the target must be the same all the same.

    Args:
        gate: the gate whose approval is needed.
        source_id: whose target is looked at again; None for changes that have none.

    Raises:
        ApprovalError: if the gate was not approved, or the plan, the findings or the target are not those of then.
    """
    if session.request().dry_run:
        raise ApprovalError("This is a dry run: nothing is changed.", "Trigger a restore without dry_run.")
    if session.request().drill and session.request().target == LIVE:
        raise ApprovalError("A drill never goes into the live system.", "Trigger a restore.")
    if gate in session.gates:
        _check_approval(session, gate)
    else:
        _same_as_preflight(session)
    if source_id:
        same_target(session, source_id)


def _key(session: RestoreSession) -> SigningKey:
    """What approvals are signed with."""
    return SigningKey.from_endpoint(session.context.endpoint(session.plan.approvals.signing or session.plan.signing))


def _same_as_preflight(session: RestoreSession) -> None:
    """Nobody is asked about, and nothing is done for, a plan and a request that preflight did not judge."""
    found = session.findings()
    then, now = (found.plan, found.request), (session.plan_digest, session.request_digest)
    if then != now:
        what = " and ".join(name for name, old, new in zip(("plan", "request"), then, now, strict=True) if old != new)
        raise ApprovalError(f"Since preflight looked, the {what} changed.", "Trigger a new restore.")


def _check_approval(session: RestoreSession, gate: Gate) -> None:
    approval = read_approval(session.gate_file(gate, ".json"), _key(session).verify_key)
    if changed := approval.question.changed(question_now(session, gate)):
        raise ApprovalError(
            f"Since {approval.approver} approved the gate {gate}, this changed: {', '.join(changed)}; the approval is void.",
            "Trigger a new restore, and have it approved as it is now.",
        )


def question_now(session: RestoreSession, gate: Gate) -> Question:
    """What a gate asks, as everything is now.

    Raises:
        ApprovalError: if the text that it showed is gone.
    """
    shown = session.gate_file(gate, ".md")
    if not shown.exists():
        raise ApprovalError(f"The text that the gate {gate} showed is gone.", "Trigger a new restore.")
    return Question(
        run_id=session.run_id,
        gate=gate,
        set_id=session.manifest().set_id,
        plan=session.plan_digest,
        request=session.request_digest,
        text=digest(shown.read_text(encoding="utf-8", errors="surrogateescape")),
        targets=session.findings().targets,
        left_out={source_id: [each.name for each in found] for source_id, found in session.left_out(Step.VERIFIED).items()}
        if gate == "cutover"
        else {},
        checks=len(session.journal.entries(Step.CHECKING)) if gate == "accept" else 0,
    )


def same_target(session: RestoreSession, source_id: str) -> None:
    """Make sure that a source's target is the one that preflight found, and the gates showed.

    Raises:
        ApprovalError: if it is another one.
    """
    approved = session.findings().targets.get(source_id)
    found = session.source(source_id).fingerprint(source_view.of(session, source_id))
    if found != approved:
        raise ApprovalError(
            f"The target of {source_id} is not the one that was approved: it was {approved}, now it is {found}.",
            "Put the Connection or the path back as it was, or trigger a new restore for the new target.",
        )
