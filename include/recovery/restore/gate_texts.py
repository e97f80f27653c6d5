"""The texts that gates show: what was found, what happens on a yes, and what on a no."""

from __future__ import annotations

from recovery.common.units import human_duration, iso, plain_markdown
from recovery.plan.field_types import Gate
from recovery.restore.session import RestoreRun
from recovery.restore.state import all_checked, last_checks, services_started
from recovery.runs.journal_steps import Step


def gate_text(run: RestoreRun, gate: Gate) -> str:
    """The Markdown that a gate shows."""
    match gate:
        case "plan":
            return run.findings().text
        case "switch":
            return _switch(run)
        case "accept":
            return _accept(run)


def _switch(run: RestoreRun) -> str:
    sources = run.request().sources
    services = run.place.services
    lines = _ready_in_place(run) if run.in_place else _ready(run)
    stop = (
        ", ".join(" ".join(command) for command in services.stop)
        or "⚠ none are named in the plan: stop what writes to the data yourself first"
    )
    where = "live data" if run.place.live else f"data of the target {run.place.name}"
    how = (
        f"makes a safety backup of the {where}, then **drops** it and loads the set"
        if run.in_place
        else f"puts the restored data in the place of the {where}"
    )
    lines += ["", f"**Approve** stops the services and {how}. That is the downtime.", ""]
    lines += [f"- Services stopped and started: {stop}", f"- In this order: {', '.join(sources)}"]
    if run.in_place:
        lines.append("- The way back is to load the safety backup, which takes about as long again; the last gate can order it.")
    else:
        lines.append(f"- The data of now is set aside for {human_duration(run.plan.keep_before)}; the last gate can bring it back.")
    lines += ["", "**Reject**, or no answer, discards what was staged. Nothing live was touched so far."]
    return "\n".join(lines)


def _ready(run: RestoreRun) -> list[str]:
    lines = ["Everything was restored beside the data that is there and **proven equal to the set**:", ""]
    for source_id in run.request().sources:
        lines.append(f"- {source_id}: staged in {_took(run, 'stage', source_id)}, proven in {_took(run, 'prove', source_id)}")
    return lines


def _ready_in_place(run: RestoreRun) -> list[str]:
    lines = ["The chosen set was **read whole**, and found to be what its manifest says:", ""]
    return lines + [f"- {source_id}: in {_took(run, 'prove', source_id)}" for source_id in run.request().sources]


def _accept(run: RestoreRun) -> str:
    lines = ["The restored system is **in use**.", ""]
    checks = last_checks(run)
    lines += [
        f"- {'✔' if entry.facts['ok'] else '✘ FAILED'} {plain_markdown(entry.facts['check'] + ': ' + entry.facts['words'])}"
        for entry in checks
    ]
    if not run.place.checks:
        lines.append("- The plan names no checks: look at the system yourself.")
    elif all(entry.facts["ok"] for entry in checks) and not all_checked(run):
        lines.append("- ✘ FAILED: the checks did not run to their end.")
    if not services_started(run):
        lines.append("- ✘ FAILED: the services did not start; see the task's log.")
    lines.append("- Airflow never changes this text: if `check_system` ran again after it was written, its log has what counts.")
    started = run.journal.said(Step.STARTING_SERVICES)[0].time
    aside = f"The safety set {run.safety.manifest().set_id} stays held" if run.in_place else "The data of before stays aside"
    lines += ["", f"**Approve** keeps it. {aside} for {human_duration(run.plan.keep_before)}.", ""]
    writes = "those writes are lost" if run.in_place else "the refused copy is set aside with those writes"
    lines.append(
        f"**Reject** stops the services and brings the data of before back. What was written since {iso(started)} is not in it; {writes}."
    )
    lines += ["", f"**No answer** in {human_duration(run.plan.approvals.timeout)} keeps it too, but the run ends as failed."]
    return "\n".join(lines)


def _took(run: RestoreRun, step: str, source_id: str) -> str:
    seconds = [entry.facts["seconds"] for entry in run.journal.said(Step.TOOK, source_id) if entry.facts["what"] == step]
    return human_duration(seconds[-1]) if seconds else "an unknown time"
