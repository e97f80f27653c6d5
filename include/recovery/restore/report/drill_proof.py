"""What a drill has proven, how long that took, and whether that is good enough."""

from __future__ import annotations

from typing import Any

from recovery.common.units import human_duration
from recovery.restore.session import RestoreRun
from recovery.restore.state import all_checked, is_over, last_checks, services_started, since_staging, unasked
from recovery.runs.journal import Entry
from recovery.runs.journal_steps import Step

_SLOWEST = 3


def verdict(run: RestoreRun) -> str:
    """Why the drill did not succeed; empty if it did. Told by the journal, not by task states, which people can set."""
    beside = run.journal.last(Step.FAULTS_BESIDE)
    return " ".join([*_faults(run), *(beside.facts["what"] if beside else ())])


def proven(run: RestoreRun) -> bool:
    """Whether the drill has proven its set, whatever else it found."""
    return not _faults(run)


def _faults(run: RestoreRun) -> list[str]:
    return [fault for fault in (_unfinished(run), _late(run), _left_over(run)) if fault]


def _unfinished(run: RestoreRun) -> str:
    unproven = [source_id for source_id in run.request().sources if not since_staging(run, Step.PROVEN, source_id)]
    if unproven:
        return f"It was not proven that the set can be restored: {', '.join(unproven)}. Look at the first task that failed."
    if not services_started(run):
        return "Everything was proven equal to the set, but the switch did not succeed. Look at the first task that failed."
    if not all_checked(run):
        failed = [entry.facts["check"] for entry in last_checks(run) if not entry.facts["ok"]]
        return f"Everything was proven equal to the set and switched, but not every check succeeded: {', '.join(failed) or 'none ran'}."
    return ""


def _late(run: RestoreRun) -> str:
    took, rto = total(run), run.plan.objectives.rto.total_seconds()
    if took is None or took <= rto:
        return ""
    slow = sorted(steps(run), key=lambda entry: -float(entry.facts["seconds"]))[:_SLOWEST]
    named = ", ".join(f"{_name(entry)} {human_duration(entry.facts['seconds'])}" for entry in slow)
    return f"The set was restored in {human_duration(took)}, BEYOND the RTO of {human_duration(rto)}. The slowest steps: {named}."


def _left_over(run: RestoreRun) -> str:
    if not is_over(run):
        return f"The way back failed: not everything in {run.request().target} was switched back. Look at switch_back."
    return "" if run.journal.said(Step.DISCARDED) else "Not everything that the drill made was removed. Look at discard."


def total(run: RestoreRun) -> float | None:
    """Seconds from the choice of the set to the end of the checks: what the RTO is about. None if it did not come so far."""
    begin, end = run.journal.last(Step.CHOSEN), all_checked(run)
    return (end.time - begin.time).total_seconds() if begin and end else None


def steps(run: RestoreRun) -> list[Entry]:
    """The steps that count for the RTO, as the journal timed them."""
    end = all_checked(run)
    return [
        entry for entry in run.journal.said(Step.TOOK) if end is None or entry.time <= end.time or entry.facts["what"] == "check system"
    ]


def _name(entry: Entry) -> str:
    return f"{entry.facts['what']} {entry.source}".strip()


def facts(run: RestoreRun) -> dict[str, Any]:
    """What the proof says, for programs."""
    return {
        "drill": run.id,
        "level": "restored",
        "destination": run.request().destination,
        "target": run.request().target,
        "sources": list(run.request().sources),
        "seconds": {_name(entry): entry.facts["seconds"] for entry in steps(run)},
        "total_seconds": total(run),
        "rto_seconds": run.plan.objectives.rto.total_seconds(),
        "checks": _succeeded(run),
        "unasked": unasked(run),
    }


def _succeeded(run: RestoreRun) -> int:
    return sum(1 for entry in last_checks(run) if entry.facts["ok"])


def summary(run: RestoreRun) -> str:
    """What the proof says, in a sentence."""
    took, request, left_out = total(run), run.request(), unasked(run)
    checks = f"checks asked: {_succeeded(run)}" + (f", not asked here: {', '.join(left_out)}" if left_out else "")
    return (
        f"drilled from {request.destination} into {request.target}, restored and proven equal: {', '.join(request.sources)};"
        f" {human_duration(took or 0)}, the RTO is {human_duration(run.plan.objectives.rto)}; {checks}"
    )
