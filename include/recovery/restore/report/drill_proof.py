"""What a drill has verified, how long that took, and whether that is good enough."""

from __future__ import annotations

from typing import Any

from recovery.common.units import human_duration
from recovery.common.wording import shortened
from recovery.restore.session import RestoreSession
from recovery.restore.state import all_checked, is_over, last_checks, services_started, since_staging, unasked
from recovery.runs.journal import Entry
from recovery.runs.journal_steps import Step

_SLOWEST = 3


def verdict(session: RestoreSession) -> str:
    """Why the drill did not succeed; empty if it did. Told by the journal, not by task states, which people can set."""
    beside = session.journal.last(Step.FAULTS_BESIDE)
    return " ".join([*_faults(session), *(beside.facts["what"] if beside else ())])


def verified(session: RestoreSession) -> bool:
    """Whether the drill has verified its set, whatever else it found."""
    return not _faults(session)


def _faults(session: RestoreSession) -> list[str]:
    return [fault for fault in (_unfinished(session), _late(session), _left_over(session)) if fault]


def _unfinished(session: RestoreSession) -> str:
    unproven = [source_id for source_id in session.request().sources if not since_staging(session, Step.VERIFIED, source_id)]
    if unproven:
        return f"It was not verified that the set can be restored: {', '.join(unproven)}. Look at the first task that failed."
    if not services_started(session):
        return "Everything was verified against the set, but the cutover did not succeed. Look at the first task that failed."
    if not all_checked(session):
        failed = [entry.facts["check"] for entry in last_checks(session) if not entry.facts["ok"]]
        return f"Everything was verified against the set and cut over, but not every check succeeded: {', '.join(failed) or 'none ran'}."
    return ""


def _late(session: RestoreSession) -> str:
    took, rto = total(session), session.plan.objectives.rto.total_seconds()
    if took is None or took <= rto:
        return ""
    slow = sorted(steps(session), key=lambda entry: -float(entry.facts["seconds"]))[:_SLOWEST]
    named = ", ".join(f"{_name(entry)} {human_duration(entry.facts['seconds'])}" for entry in slow)
    return f"The set was restored in {human_duration(took)}, BEYOND the RTO of {human_duration(rto)}. The slowest steps: {named}."


def _left_over(session: RestoreSession) -> str:
    if not is_over(session):
        return f"The rollback failed: not everything in {session.request().target} was rolled back. Look at roll_back."
    return "" if session.journal.entries(Step.DISCARDED) else "Not everything that the drill made was removed. Look at discard."


def total(session: RestoreSession) -> float | None:
    """Seconds from the choice of the set to the end of the checks: what the RTO is about. None if it did not come so far."""
    begin, end = session.journal.last(Step.CHOSEN), all_checked(session)
    return (end.time - begin.time).total_seconds() if begin and end else None


def steps(session: RestoreSession) -> list[Entry]:
    """The steps that count for the RTO, as the journal timed them."""
    end = all_checked(session)
    return [
        entry
        for entry in session.journal.entries(Step.TOOK)
        if end is None or entry.time <= end.time or entry.facts["what"] == "check system"
    ]


def _name(entry: Entry) -> str:
    return f"{entry.facts['what']} {entry.source}".strip()


def facts(session: RestoreSession) -> dict[str, Any]:
    """What the verification says, for programs."""
    return {
        "drill": session.id,
        "level": "restored",
        "destination": session.request().destination,
        "target": session.request().target,
        "sources": list(session.request().sources),
        "seconds": {_name(entry): entry.facts["seconds"] for entry in steps(session)},
        "total_seconds": total(session),
        "rto_seconds": session.plan.objectives.rto.total_seconds(),
        "checks": _succeeded(session),
        "unasked": unasked(session),
        "left_out": left_out(session),
    }


def left_out(session: RestoreSession) -> list[str]:
    """What can't be made of the set, so that a restore would ask about it."""
    return [f"{source_id}: {each.name}" for source_id, found in session.left_out(Step.VERIFIED).items() for each in found]


def _succeeded(session: RestoreSession) -> int:
    return sum(1 for entry in last_checks(session) if entry.facts["ok"])


def summary(session: RestoreSession) -> str:
    """What the verification says, in a sentence."""
    took, request, not_asked, lacking = total(session), session.request(), unasked(session), left_out(session)
    checks = f"checks asked: {_succeeded(session)}" + (f", not asked here: {', '.join(not_asked)}" if not_asked else "")
    made = f"a restore would leave out: {shortened(lacking)}" if lacking else "nothing had to be left out"
    return (
        f"drilled from {request.destination} into {request.target}, restored and verified: {', '.join(request.sources)};"
        f" {human_duration(took or 0)}, the RTO is {human_duration(session.plan.objectives.rto)}; {checks}; {made}"
    )
