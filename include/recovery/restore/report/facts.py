"""What a report says, as plain data; ``docs/reference/format.md`` has the keys.

It is the record that the disaster plan asks for, as far as the machine knows it. A record is signed, but not encrypted:
so it has names, counts and times, and never values of data, arguments of commands, or what they said.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from recovery.common.errors import RecoveryError
from recovery.common.units import iso, now
from recovery.plan.source_id import kind_of
from recovery.restore import state
from recovery.restore.report import drill_proof
from recovery.restore.report.outcome import result, safe
from recovery.restore.session import RestoreSession
from recovery.runs.journal_steps import Step
from recovery.runs.stalled import services_down
from recovery.sources import registry

log = logging.getLogger(__name__)

BY_PEOPLE = {
    "cause": "What happened, and how it was noticed",
    "impact": "Who could not work, from when to when; what was lost for good",
    "told": "Who was told what, and when",
    "learned": "What was slow, unclear or missing; who changes it, until when",
}
"""What no machine knows, and people fill in."""

_ANSWERS = {Step.APPROVED, Step.REJECTED, Step.UNANSWERED}


def describe(session: RestoreSession, reason: str) -> dict[str, Any]:
    """The report of a restore, a drill or a dry run.

    Args:
        session: which.
        reason: why it did not succeed; empty if it did.
    """
    ended = now()
    return (
        _asked(session)
        | {"result": result(session, reason), "ended": iso(ended)}
        | _lost(session)
        | _times(session, ended)
        | {
            "gates": list(session.gates),
            "answers": _answers(session),
            "steps": [
                {"step": entry.facts["what"], "source": entry.source, "seconds": entry.facts["seconds"]}
                for entry in session.journal.entries(Step.TOOK)
            ],
            "checks": [{"check": entry.facts["check"], "ok": entry.facts["ok"]} for entry in state.last_checks(session)],
            "unasked": state.unasked(session),
            "differences": [
                {"source": entry.source, "count": entry.facts["count"], "names": list(map(_clean, entry.facts["names"]))}
                for entry in session.journal.entries(Step.UNEQUAL)
            ],
            "left_out": _left_out(session),
            "set_aside": _set_aside(session, ended),
            "left_beside": session.maybe_left_beside,
            "safety_set": session.safety.manifest().set_id if safe(session) else None,
            "by_people": dict.fromkeys(BY_PEOPLE, ""),
        }
    )


def _left_out(session: RestoreSession) -> dict[str, list[str]]:
    """Of what is in use now; of a drill, of what it has restored and removed again."""
    steps = [Step.VERIFIED, Step.CUT_OVER] + ([] if session.request().drill else [Step.SOURCE_ROLLED_BACK])
    return {source_id: [each.name for each in found] for source_id, found in session.left_out(*steps).items()}


def _clean(name: str) -> str:
    """Names of files may be no Unicode; records are."""
    return name.encode("utf-8", "backslashreplace").decode()


def _asked(session: RestoreSession) -> dict[str, Any]:
    request = session.request()
    return {
        "kind": "dry run" if request.dry_run else "drill" if request.drill else "restore",
        "restore": session.id,
        "run_id": session.run_id,
        "plan": session.plan.plan,
        "requester": request.requester,
        "started": iso(request.started),
        "set": session.manifest().set_id,
        "destinations": [destination.name for destination in session.holders()],
        "sources": list(request.sources),
        "only": {source_id: list(map(_clean, parts)) for source_id, parts in request.only.items() if parts},
        "target": request.target,
        "method": request.method,
        "config": request.config,
        "warnings": list(session.journal.entries(Step.CHOSEN)[-1].facts["warnings"]),
        "not_isolated": _not_isolated(session),
    }


def _not_isolated(session: RestoreSession) -> list[str]:
    """What a worker did not permit of what would keep scratch servers apart from it."""
    started = session.journal.last(Step.SCRATCH_STARTED)
    return list(started.facts["lacks"]) if started else []


def _lost(session: RestoreSession) -> dict[str, Any]:
    """What was written after the set began and before somebody asked for the restore may be lost."""
    manifest, started = session.manifest(), session.request().started
    return {
        "set_begins": iso(manifest.begins),
        "set_ends": iso(manifest.ends),
        "data_loss_seconds": (started - manifest.begins).total_seconds(),
        "rpo_seconds": session.plan.objectives.rpo.total_seconds(),
    }


def _times(session: RestoreSession, ended: datetime) -> dict[str, Any]:
    whole = (ended - session.request().started).total_seconds()
    waiting = sum(each["waited_seconds"] for each in _answers(session))
    return {
        "back_seconds": _back(session),
        "rto_seconds": session.plan.objectives.rto.total_seconds(),
        "downtime_seconds": _downtime(session),
        "restore_seconds": whole,
        "waiting_seconds": waiting,
        "working_seconds": whole - waiting,
    }


def _back(session: RestoreSession) -> float | None:
    """Seconds until the restored system could be used, which is what the RTO is about."""
    if session.request().drill:
        return drill_proof.total(session)
    back = session.journal.last(Step.SERVICES_STARTED)
    return (back.time - session.request().started).total_seconds() if back and state.kept(session) else None


def _downtime(session: RestoreSession) -> float | None:
    """From the stop of the services until they last were started, by whichever way; None if they were not."""
    stopped = session.journal.entries(Step.STOPPING_SERVICES)
    started = [*session.journal.entries(Step.SERVICES_STARTED), *session.journal.entries(Step.SERVICES_STARTED_AGAIN)]
    if not stopped or not started or services_down(session.journal):
        return None
    return (max(entry.time for entry in started) - stopped[0].time).total_seconds()


def _answers(session: RestoreSession) -> list[dict[str, Any]]:
    asked: dict[str, datetime] = {}
    found = []
    for entry in session.journal.everything():
        gate = entry.facts.get("gate")
        if entry.step == Step.ASKED and gate:
            asked[gate] = entry.time
        if entry.step in _ANSWERS and gate:
            waited = (entry.time - asked.get(gate, entry.time)).total_seconds()
            found.append(
                {"gate": gate, "answer": entry.step, "person": entry.facts.get("person"), "time": iso(entry.time), "waited_seconds": waited}
            )
    return found


def _set_aside(session: RestoreSession, ended: datetime) -> list[dict[str, Any]]:
    """Copies that are beside the data now, by source: what they are, the mark in their names, and until when they stay."""
    request = session.request()
    if request.drill or request.dry_run or session.in_place:
        return []
    found = []
    for source_id in request.sources:
        until: str | None = iso(ended + session.plan.keep_replaced)
        if state.kept(session):
            if not _copy_there(session, source_id):
                continue
            what, replaced = "the previous data", True
        elif source_id in state.cut_over_sources(session):
            what, replaced, until = "both copies, until the rollback is complete", True, None
        elif state.may_have_writes(session, source_id):
            what, replaced = "the rejected data, with what was written to it", False
        else:
            continue
        mark = registry.source_class(kind_of(source_id)).mark_of(session.id, replaced=replaced)
        found.append({"source": source_id, "what": what, "mark": mark, "until": until})
    return found


def _copy_there(session: RestoreSession, source_id: str) -> bool:
    """Whether something was there before, and so was set aside; where that can't be told, it is taken to be so."""
    try:
        return session.id in session.source(source_id).replaced_copies()
    except RecoveryError as error:
        log.warning("%s: whether a copy was set aside can't be told: %s", source_id, error)
        return True
