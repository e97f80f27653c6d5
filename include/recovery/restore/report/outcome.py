"""Why a restore did not succeed. Told by the journal and the answers, not by task states, which people can set."""

from __future__ import annotations

from recovery.restore import answers, hooks, source_view, state
from recovery.restore.report import drill_proof
from recovery.restore.session import RestoreRun
from recovery.runs.journal_steps import Step


def verdict(run: RestoreRun) -> str:
    """The reason in words; empty if the restore, drill or dry run did what it was asked to."""
    if run.request().dry_run:
        return "" if run.journal.said(Step.PREFLIGHT_DONE) else "The dry run found that the restore would fail: read the log of preflight."
    return drill_proof.verdict(run) if run.request().drill else _of_restore(run)


def _of_restore(run: RestoreRun) -> str:
    if not state.is_over(run):
        safety = f" The data of before is in the safety set {run.safety.manifest().set_id}." if safe(run) else ""
        return (
            f"THE WAY BACK IS NOT COMPLETE: look at what switch_back named. Read the runbook's chapter on a way back that failed.{safety}"
        )
    for gate in run.gates:
        if (no := answers.answer(run, gate)) and no.step == Step.REJECTED:
            back = _back(run, "the data of before is back") if state.in_use(run) else "nothing live was replaced"
            return f"{no.facts['person']} rejected the gate {gate!r}; {back}."
    if run.journal.said(Step.SWITCHED_BACK):
        return f"The switch failed; {_back(run, 'everything was switched back, the data of before is in use')}."
    if not state.in_use(run):
        silent = [gate for gate in run.gates if answers.answered(run, gate) == "unanswered"]
        why = f"nobody answered the gate {silent[0]!r} in time" if silent else _what_failed(run)
        return f"Nothing live was replaced: {why}."
    return _in_use(run)


def _what_failed(run: RestoreRun) -> str:
    failed = run.journal.last(Step.FAILED)
    return f"{failed.facts['what']} failed, its log says why" if failed else "the run was ended by hand, or a worker died"


def safe(run: RestoreRun) -> bool:
    """Whether there is a safety set of the data that was replaced in place."""
    return bool(run.journal.said(Step.SAFE))


def _back(run: RestoreRun, switched: str) -> str:
    if run.in_place:
        if not any(source_view.of(run, source_id).journalled("dropping") for source_id in run.request().sources):
            return "nothing live was replaced"
        return f"the data of before was loaded again from the safety set {run.safety.manifest().set_id}, and proven equal to it"
    return switched


def _in_use(run: RestoreRun) -> str:
    journal = run.journal
    if state.services_down(run):
        return "The restored system is in place, but its SERVICES ARE DOWN: start them by hand."
    if "accept" in run.gates and answers.answered(run, "accept") != "approved":
        aside = f"The safety set {run.safety.manifest().set_id} is" if run.in_place else "The copies of before are"
        return f"The restored system is in use, but nobody accepted it. {aside} still there."
    if not all(journal.said(Step.SETTLED, source_id) for source_id in run.request().sources):
        return "The restored system was accepted, but not everything that waited for it was done."
    if not state.services_started(run):
        return "The restored system was accepted, but its services did not start cleanly."
    if not state.all_checked(run):
        return "The restored system was accepted, but its checks did not all succeed."
    if undone := hooks.undone_after_restore(run):
        return f"The restored system is in use, but these hooks after it failed or did not run: {', '.join(undone)}."
    return ""
