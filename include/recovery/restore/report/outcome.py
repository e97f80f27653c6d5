"""Why a restore did not succeed. Told by the journal and the answers, not by task states, which people can set."""

from __future__ import annotations

from enum import StrEnum

from recovery.restore import answers, hooks, source_view, state
from recovery.restore.report import drill_proof
from recovery.restore.session import RestoreSession
from recovery.runs.journal_steps import Step
from recovery.runs.stalled import services_down


class Outcome(StrEnum):
    """How a restore, a drill or a dry run ended, in the values that a report has; a failure has its reason there instead."""

    SUCCESS = "success"
    DRY_RUN = "dry run"


def result(session: RestoreSession, reason: str) -> str:
    """What a report has as its result: an :class:`Outcome`, or why the restore failed."""
    return reason or (Outcome.DRY_RUN if session.request().dry_run else Outcome.SUCCESS)


def verdict(session: RestoreSession) -> str:
    """The reason in words; empty if the restore, drill or dry run did what it was asked to."""
    if session.request().dry_run:
        return (
            ""
            if session.journal.entries(Step.PREFLIGHT_DONE)
            else "The dry run found that the restore would fail: read the log of preflight."
        )
    return drill_proof.verdict(session) if session.request().drill else _of_restore(session)


def _of_restore(session: RestoreSession) -> str:
    if not state.is_over(session):
        safety = f" The previous data is in the safety set {session.safety.manifest().set_id}." if safe(session) else ""
        return f"THE ROLLBACK IS NOT COMPLETE: read the log of roll_back, and the runbook's chapter on a failed rollback.{safety}"
    for gate in session.gates:
        if (no := answers.answer(session, gate)) and no.step == Step.REJECTED:
            back = _back(session, "the previous data is back") if state.in_use(session) else "nothing live was replaced"
            return f"{no.facts['person']} rejected the gate {gate!r}; {back}."
    if session.journal.entries(Step.SOURCE_ROLLED_BACK):
        return f"The cutover failed; {_back(session, 'everything was rolled back, the previous data is in use')}."
    if session.beside and {*session.request().sources} == {*session.left_beside}:
        return ""
    if not state.in_use(session):
        silent = [gate for gate in session.gates if answers.answered(session, gate) == "unanswered"]
        why = f"nobody answered the gate {silent[0]!r} in time" if silent else _what_failed(session)
        return f"Nothing live was replaced: {why}."
    return _in_use(session)


def _what_failed(session: RestoreSession) -> str:
    failed = session.journal.last(Step.FAILED)
    return f"{failed.facts['what']} failed, its log says why" if failed else "the run was ended by hand, or a worker died"


def safe(session: RestoreSession) -> bool:
    """Whether there is a safety set of the data that was replaced in place."""
    return bool(session.journal.entries(Step.SAFE))


def _back(session: RestoreSession, swapped: str) -> str:
    if session.in_place:
        if not any(source_view.of(session, source_id).recorded_facts("dropping") for source_id in session.request().sources):
            return "nothing live was replaced"
        return f"the previous data was loaded again from the safety set {session.safety.manifest().set_id}, and verified against it"
    return swapped


def _in_use(session: RestoreSession) -> str:
    journal = session.journal
    if services_down(session.journal):
        return "The restored system is in place, but its SERVICES ARE DOWN: start them by hand."
    if "accept" in session.gates and answers.answered(session, "accept") != "approved":
        aside = f"The safety set {session.safety.manifest().set_id} is" if session.in_place else "The replaced data is"
        return f"The restored system is in use, but nobody accepted it. {aside} still there."
    came = "was accepted" if "accept" in session.gates else "is in use"
    if not all(journal.entries(Step.FINALIZED, source_id) for source_id in session.request().sources):
        return f"The restored system {came}, but finalize did not end: read its log."
    if not state.services_started(session):
        return f"The restored system {came}, but its services did not start cleanly."
    if not state.all_checked(session):
        return f"The restored system {came}, but its checks did not all succeed."
    if undone := hooks.undone_after_restore(session):
        return f"The restored system is in use, but these hooks after it failed or did not run: {', '.join(undone)}."
    return ""
