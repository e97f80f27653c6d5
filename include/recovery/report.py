"""How a restore ended: who approved what, what was lost, how long each step took. Kept with the set as a signed record."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from recovery import restore
from recovery.errors import RecoveryError, RestoreError
from recovery.manifest import Manifest
from recovery.records import Record, add_record, release
from recovery.restore_run import RestoreRun
from recovery.staging import write_atomically
from recovery.units import human_duration, iso, now

log = logging.getLogger(__name__)


def finish(run: RestoreRun) -> None:
    """Write the report, release the hold, close the journal, and raise where the restore did not succeed.

    Where the way back is not complete, the journal stays open and the set held: once the cause is mended, the teardowns
    can be cleared, and go on where they stopped. Until then backups of the plan wait.

    Raises:
        RestoreError: with the reason; the report is written all the same.
    """
    if not run.began:
        raise RestoreError("No set was chosen, so nothing was restored or changed.", "Look at the first task that failed.")
    if run.journal.closed:
        raise RestoreError("This restore has ended before; its report is written.", "Trigger a new restore.")
    reason = verdict(run)
    facts = describe(run, reason)
    text = render(facts)
    write_atomically(run.folder / "report.md", text.encode())
    log.info("%s", text)
    open_end = bool(restore.begun_to_switch(run)) and not restore.kept(run)
    unkept = _keep_with_set(run, facts, over=not open_end)
    if left := run.journal.last("not discarded"):
        reason = f"{reason} Not everything that was staged could be removed: {'; '.join(left.facts['faults'])}".strip()
    if not open_end:
        run.journal.say("closed", reason=reason, unkept=unkept)
    if unkept:
        reason = f"{reason or 'The restore succeeded, but its report could not be kept.'} {' '.join(unkept)}"
    if reason:
        raise RestoreError(reason, f"Read the report, in this log and in {run.folder / 'report.md'}.")


def verdict(run: RestoreRun) -> str:
    """Why the restore did not succeed; empty if it did. Told by the journal, not by task states, which people can set."""
    journal = run.journal
    no = journal.last("rejected")
    if no:
        back = "the data of before is back" if restore.in_use(run) else "nothing live was replaced"
        if restore.begun_to_switch(run):
            back = "THE WAY BACK IS NOT COMPLETE"
        return f"{no.facts['person']} rejected the gate {no.facts['gate']!r}; {back}."
    if restore.begun_to_switch(run) and not restore.in_use(run):
        return "The switch failed and THE WAY BACK IS NOT COMPLETE: both copies are still there. Read the runbook's chapter on it."
    if journal.said("switched back"):
        return "The switch failed; everything was switched back, the data of before is in use."
    if not restore.in_use(run):
        silent = journal.last("unanswered")
        why = f"nobody answered the gate {silent.facts['gate']!r} in time" if silent else "a step failed, or the run was ended by hand"
        return f"Nothing live was replaced: {why}."
    return _verdict_in_use(run)


def _verdict_in_use(run: RestoreRun) -> str:
    journal = run.journal
    accepted = any(entry.facts["gate"] == "accept" for entry in journal.said("approved"))
    if not accepted:
        return "The restored system is in use, but nobody accepted it. The copies of before are still there."
    unsettled = [source_id for source_id in run.request().sources if not journal.said("settled", source_id)]
    if unsettled:
        return f"The restored system was accepted, but {', '.join(unsettled)} is not settled."
    if not journal.said("services started"):
        return "The restored system was accepted, but its services did not start cleanly."
    if not journal.said("all checked"):
        return "The restored system was accepted, but its checks did not all succeed."
    return ""


def describe(run: RestoreRun, reason: str) -> dict[str, Any]:
    """The report as plain data."""
    request, manifest = run.request(), run.manifest()
    ended = now()
    downtime = _between(run, "stopping services", "services started")
    return {
        "restore": run.id,
        "run_id": run.run_id,
        "plan": run.plan.plan,
        "set": manifest.set_id,
        "requester": request.requester,
        "sources": list(request.sources),
        "started": iso(request.started),
        "ended": iso(ended),
        "result": reason or "success",
        "answers": [
            {"gate": entry.facts["gate"], "answer": entry.step, "person": entry.facts.get("person"), "time": iso(entry.time)}
            for entry in run.journal.entries()
            if entry.step in {"approved", "rejected", "unanswered"}
        ],
        "steps": [
            {"step": entry.facts["what"], "source": entry.source, "seconds": entry.facts["seconds"]} for entry in run.journal.said("took")
        ],
        "checks": [entry.facts for entry in run.journal.said("checked")],
        "data_loss_seconds": _loss(request.started, manifest),
        "rpo_seconds": run.plan.objectives.rpo.total_seconds(),
        "restore_seconds": (ended - request.started).total_seconds(),
        "working_seconds": sum(entry.facts["seconds"] for entry in run.journal.said("took")),
        "downtime_seconds": downtime,
        "rto_seconds": run.plan.objectives.rto.total_seconds(),
    }


def _loss(started: datetime, manifest: Manifest) -> float:
    return (started - manifest.begins).total_seconds()


def _between(run: RestoreRun, first: str, last: str) -> float | None:
    begin, end = run.journal.last(first), run.journal.last(last)
    return (end.time - begin.time).total_seconds() if begin and end else None


def render(facts: dict[str, Any]) -> str:
    """The report as Markdown."""
    within = {True: "within", False: "BEYOND"}
    loss, rpo, took, rto = (facts[name] for name in ("data_loss_seconds", "rpo_seconds", "restore_seconds", "rto_seconds"))
    lines = [
        f"# Restore {facts['restore']} of {facts['plan']}",
        "",
        f"**{'SUCCESS' if facts['result'] == 'success' else 'FAILED: ' + facts['result']}**",
        "",
        f"- Set {facts['set']}, asked for by {facts['requester']}, run {facts['run_id']}",
        f"- From {facts['started']} to {facts['ended']}",
        f"- Data loss {human_duration(max(loss, 0))}, {within[loss <= rpo]} the RPO of {human_duration(rpo)}",
        f"- Took {human_duration(took)} with the waiting for answers, {within[took <= rto]} the RTO of {human_duration(rto)};"
        f" {human_duration(facts['working_seconds'])} of it was work",
    ]
    if facts["downtime_seconds"] is not None:
        lines.append(f"- Downtime {human_duration(facts['downtime_seconds'])}")
    lines += ["", "| gate | answer | who | when |", "| --- | --- | --- | --- |"]
    lines += [f"| {each['gate']} | {each['answer']} | {each['person'] or 'nobody'} | {each['time']} |" for each in facts["answers"]]
    lines += ["", "| step | source | took |", "| --- | --- | --- |"]
    lines += [f"| {each['step']} | {each['source']} | {human_duration(each['seconds'])} |" for each in facts["steps"]]
    lines += ["", *(f"- {'✔' if each['ok'] else '✘'} {each['command']}: {each['words']}" for each in facts["checks"])]
    return "\n".join(lines).rstrip() + "\n"


def _keep_with_set(run: RestoreRun, facts: dict[str, Any], *, over: bool) -> list[str]:
    """Add the report to the set and, if the restore is over, release the hold; what did not work, in sentences."""
    unkept = []
    key = run.set_key()
    text = "restored" if facts["result"] == "success" else facts["result"]
    report = Record(kind="report", plan=run.plan.plan, set_id=facts["set"], time=now(), by=f"run {run.run_id}", text=text, facts=facts)
    held = {entry.facts["destination"]: Record.model_validate(entry.facts["record"]) for entry in run.journal.said("holding")}
    for destination in run.holders():
        try:
            add_record(destination, report, key)
            if over and destination.name in held:
                add_record(
                    destination,
                    release(run.manifest(), held[destination.name].name, now(), f"run {run.run_id}", "the restore has ended"),
                    key,
                )
        except RecoveryError as error:
            log.error("%s", error)
            unkept.append(f"{destination.name} could not take the report or the release of the hold: {error}")
    return unkept
