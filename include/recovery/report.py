"""How a restore ended: who approved what, what was lost, how long each step took. Kept with the set as a signed record."""

from __future__ import annotations

import logging
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from recovery import restore
from recovery.approvals import Gate
from recovery.errors import RecoveryError, RestoreError
from recovery.manifest import Manifest
from recovery.records import Record, add_record, release
from recovery.restore_run import RestoreRun
from recovery.staging import write_atomically
from recovery.units import human_duration, iso, now

log = logging.getLogger(__name__)

GATES: tuple[Gate, ...] = get_args(Gate)


def finish(run: RestoreRun) -> None:
    """Write the report, release the hold, close the journal, and raise where the restore did not succeed.

    Where the way back is not complete, the journal stays open and the set held: once the cause is mended, the teardowns
    can be cleared, and go on where they stopped. Until then backups of the plan wait.

    Raises:
        RestoreError: with the reason; the report is written all the same.
    """
    if not run.began:
        run.close_unbegun()
        raise RestoreError("No set was chosen, so nothing was restored or changed.", "Look at the first task that failed.")
    if run.journal.closed:
        raise RestoreError("This restore has ended before; its report is written.", "Trigger a new restore.")
    reason = verdict(run)
    facts = describe(run, reason)
    text = render(facts)
    write_atomically(run.folder / "report.md", text.encode())
    log.info("%s", text)
    goes_on = open_end(run)
    unkept = _keep_with_set(run, facts, over=not goes_on)
    left = run.journal.last("not discarded")
    if left and not any(entry.time > left.time for entry in run.journal.said("discarded")):
        reason = f"{reason} Not everything that was staged could be removed: {'; '.join(left.facts['faults'])}".strip()
    if not goes_on:
        run.journal.say("closed", reason=reason, unkept=unkept)
    if unkept:
        reason = f"{reason or 'The restore succeeded, but its report could not be kept.'} {' '.join(unkept)}"
    if reason:
        raise RestoreError(reason, f"Read the report, in this log and in {run.folder / 'report.md'}.")


def verdict(run: RestoreRun) -> str:
    """Why the restore did not succeed; empty if it did. Told by the journal, not by task states, which people can set."""
    if open_end(run):
        return "THE WAY BACK IS NOT COMPLETE: look at what switch_back named. Read the runbook's chapter on a way back that failed."
    for gate in GATES:
        if (no := restore.answer(run, gate)) and no.step == "rejected":
            back = "the data of before is back" if restore.in_use(run) else "nothing live was replaced"
            return f"{no.facts['person']} rejected the gate {gate!r}; {back}."
    if run.journal.said("switched back"):
        return "The switch failed; everything was switched back, the data of before is in use."
    if not restore.in_use(run):
        silent = [gate for gate in GATES if restore.answered(run, gate) == "unanswered"]
        why = f"nobody answered the gate {silent[0]!r} in time" if silent else "a step failed, or the run was ended by hand"
        return f"Nothing live was replaced: {why}."
    return _verdict_in_use(run)


def open_end(run: RestoreRun) -> bool:
    """Whether the way back has to go on: something is switched that should not be, or services are down."""
    return not restore.kept(run) and (bool(restore.begun_to_switch(run)) or restore.services_down(run))


def _verdict_in_use(run: RestoreRun) -> str:
    journal = run.journal
    if restore.services_down(run):
        return "The restored system is in place, but its SERVICES ARE DOWN: start them by hand."
    if restore.answered(run, "accept") != "approved":
        return "The restored system is in use, but nobody accepted it. The copies of before are still there."
    if not _settled(run):
        return "The restored system was accepted, but not everything that waited for it was done."
    if not journal.said("services started"):
        return "The restored system was accepted, but its services did not start cleanly."
    if not journal.said("all checked"):
        return "The restored system was accepted, but its checks did not all succeed."
    return ""


def _settled(run: RestoreRun) -> bool:
    return all(run.journal.said("settled", source_id) for source_id in run.request().sources)


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
        "checks": [{"command": _program(entry.facts["command"]), "ok": entry.facts["ok"]} for entry in run.journal.said("checked")],
        "data_loss_seconds": _loss(request.started, manifest),
        "rpo_seconds": run.plan.objectives.rpo.total_seconds(),
        "restore_seconds": (ended - request.started).total_seconds(),
        "working_seconds": sum(entry.facts["seconds"] for entry in run.journal.said("took")),
        "downtime_seconds": downtime,
        "rto_seconds": run.plan.objectives.rto.total_seconds(),
    }


def _program(command: str) -> str:
    """Only the program of a command: its arguments and its words may hold secrets, and a record is not encrypted."""
    return Path(shlex.split(command)[0]).name


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
    lines += ["", *(f"- {'✔' if each['ok'] else '✘'} {each['command']}" for each in facts["checks"])]
    return "\n".join(lines).rstrip() + "\n"


def _keep_with_set(run: RestoreRun, facts: dict[str, Any], *, over: bool) -> list[str]:
    """Add the report to the set and, if the restore is over, release the hold; what did not work, in sentences."""
    unkept = []
    key = run.set_key()
    text = "restored" if facts["result"] == "success" else facts["result"]
    report = Record(kind="report", plan=run.plan.plan, set_id=facts["set"], time=now(), by=f"run {run.run_id}", text=text, facts=facts)
    proof = report.model_copy(update={"kind": "proof", "text": f"restored and proven equal: {', '.join(facts['sources'])}", "facts": {}})
    held = {entry.facts["destination"]: Record.model_validate(entry.facts["record"]) for entry in run.journal.said("holding")}
    for destination in run.holders():
        try:
            add_record(destination, report, key)
            if facts["result"] == "success":
                add_record(destination, proof, key)
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
