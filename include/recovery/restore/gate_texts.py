"""The texts that gates show: what was found, what happens on a yes, and what on a no."""

from __future__ import annotations

from recovery.common.units import human_duration, human_moment, plain_markdown
from recovery.plan.field_types import Gate
from recovery.plan.services import Services
from recovery.restore.session import RestoreSession
from recovery.restore.state import all_checked, last_checks, services_started
from recovery.runs.journal_steps import Step
from recovery.runs.stalled import QUIET


def headline(session: RestoreSession, gate: Gate) -> str:
    """The question that a gate asks."""
    data = "the live data" if session.target.live else f"the data of the target {session.target.name}"
    match gate:
        case "plan" if session.beside:
            return f"May parts of this set be restored beside {data}, to stay there?"
        case "plan":
            return f"May this set be read, to replace {data} in place?" if session.in_place else f"May this set be restored beside {data}?"
        case "cutover":
            if session.in_place:
                return f"May {data} be dropped, and the set be loaded in its place?"
            return f"May the restored data take the place of {data}?"
        case "accept":
            return "Is the restored system as it should be?"


def gate_text(session: RestoreSession, gate: Gate) -> str:
    """The Markdown that a gate shows."""
    match gate:
        case "plan":
            return session.findings().text
        case "cutover":
            return _cutover(session)
        case "accept":
            return _accept(session)


def _cutover(session: RestoreSession) -> str:
    sources = session.request().sources
    services = session.target.services
    lines = _ready_in_place(session) if session.in_place else _ready(session)
    where = "live data" if session.target.live else f"data of the target {session.target.name}"
    how = (
        f"makes a safety backup of the {where}, then **drops** it and loads the set"
        if session.in_place
        else f"puts the restored data in the place of the {where}"
    )
    lines += _left_out(session, Step.VERIFIED)
    lines += ["", f"**Approve** stops the services and {how}. That is the downtime.", ""]
    lines += _services(services)
    lines.append(f"- In this order: {', '.join(sources)}")
    if session.in_place:
        lines.append(
            "- The last gate can order the rollback. It is to load the safety backup, which takes about as long again. Only databases of a"
            " server that is known to have room for both are set aside, not dropped, and come back by a rename."
        )
    else:
        lines.append(f"- The data of now is set aside for {human_duration(session.plan.keep_replaced)}; the last gate can bring it back.")
    lines += ["", _pause_warning(session), "", "**Reject**, or no answer, discards what was staged. Nothing live was touched so far."]
    return "\n".join(lines)


def _services(services: Services) -> list[str]:
    if not services.named:
        return ["- ⚠ The plan names no services: stop what writes to the data yourself first."]
    lines = []
    if services.stop:
        stop, start = (plain_markdown(", ".join(map(" ".join, commands))) for commands in (services.stop, services.start))
        started = f"- And started by: {start}" if start else "- ⚠ The plan does not say how to start them."
        lines += [f"- Services are stopped by: {stop}", started]
    lines += [f"- Stopped, and started again if they run now: {plain_markdown(part.title)}" for part in services.in_containers]
    return lines


def _pause_warning(session: RestoreSession) -> str:
    plan = session.plan.plan
    return (
        f"⚠ Don't pause `{plan}_restore` from then on: Airflow starts no task of a paused DAG, so the services would stay down, and"
        f" marking the run as failed would bring nothing back. `{plan}_maintenance` raises an alarm if nothing goes on for"
        f" {human_duration(QUIET)}, unless it is paused too."
    )


def _ready(session: RestoreSession) -> list[str]:
    lines = ["Everything was restored beside the data that is there and **verified against the set**:", ""]
    for source_id in session.request().sources:
        lines.append(f"- {source_id}: staged in {_took(session, 'stage', source_id)}, verified in {_took(session, 'verify', source_id)}")
    return lines


def _ready_in_place(session: RestoreSession) -> list[str]:
    lines = ["The chosen set was **read whole**, and found to be what its manifest says:", ""]
    for source_id in session.request().sources:
        lines.append(f"- {source_id}: in {_took(session, 'verify', source_id)}")
        rehearsed = session.journal.entries(Step.STAGED, source_id)[-1].facts["rehearsed"]
        lines += [f"- {source_id}: {plain_markdown(sentence)}" for sentence in rehearsed]
    return lines


def _left_out(session: RestoreSession, step: Step) -> list[str]:
    found = session.left_out(step)
    if not found:
        return []
    lines = [
        "",
        "⚠ **Not everything of the set can be made again.** No rows are left out. An approval is for exactly these things:",
        "",
    ]
    lines += [f"- {source_id}: {plain_markdown(each.sentence)}" for source_id, each_of in found.items() for each in each_of]
    return [*lines, "", "The set has these definitions: once their cause is mended, make them by hand, or back up again and restore that."]


def _accept(session: RestoreSession) -> str:
    lines = ["The restored system is **in use**.", ""]
    checks = last_checks(session)
    lines += [
        f"- {'✔' if entry.facts['ok'] else '✘ FAILED'} {plain_markdown(entry.facts['check'] + ': ' + entry.facts['words'])}"
        for entry in checks
    ]
    if not session.target.checks:
        lines.append("- The plan names no checks: look at the system yourself.")
    elif all(entry.facts["ok"] for entry in checks) and not all_checked(session):
        lines.append("- ✘ FAILED: the checks did not run to their end.")
    if not services_started(session):
        lines.append("- ✘ FAILED: the services did not start; see the task's log.")
    lines.append("- Airflow never changes this text: if `check_system` ran again after it was written, its log has what counts.")
    lines += _left_out(session, Step.CUT_OVER)
    started = session.journal.entries(Step.STARTING_SERVICES)[0].time
    aside = f"The safety set {session.safety.manifest().set_id} stays held" if session.in_place else "The previous data stays aside"
    lines += ["", f"**Approve** keeps it. {aside} for {human_duration(session.plan.keep_replaced)}.", ""]
    writes = "those writes are lost" if session.in_place else "the rejected data is set aside with those writes"
    lines.append(
        "**Reject** stops the services and brings the previous data back."
        f" What was written since {human_moment(started)} is not in it; {writes}."
    )
    lines += ["", f"**No answer** in {human_duration(session.plan.approvals.timeout)} keeps it too, but the run ends as failed."]
    return "\n".join(lines)


def _took(session: RestoreSession, step: str, source_id: str) -> str:
    seconds = [entry.facts["seconds"] for entry in session.journal.entries(Step.TOOK, source_id) if entry.facts["what"] == step]
    return human_duration(seconds[-1]) if seconds else "an unknown time"
