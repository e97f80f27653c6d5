"""How a restore ended: its report, in words and as data, kept with the set as a signed record."""

from __future__ import annotations

import json
import logging
from typing import Any

from recovery.common.errors import RecoveryError, RestoreError
from recovery.common.files import write_atomically
from recovery.common.units import now
from recovery.restore.report import drill_proof
from recovery.restore.report.facts import describe
from recovery.restore.report.outcome import verdict
from recovery.restore.report.text import render
from recovery.restore.session import RestoreRun
from recovery.restore.state import is_over
from recovery.runs.journal_steps import Step
from recovery.sets.records import Record, add_record, release

log = logging.getLogger(__name__)


def finish(run: RestoreRun) -> None:
    """Write the report, release the hold, close the journal, and raise where the restore did not succeed.

    Where the way back is not complete, the journal stays open and the set held: once the cause is mended, the teardowns
    can be cleared, and go on where they stopped. Until then backups of the plan wait. A dry run leaves nothing at the set.

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
    _write(run, facts)
    over = is_over(run)
    unkept = [] if run.request().dry_run else _keep_with_set(run, facts, over=over)
    left = run.journal.last(Step.NOT_DISCARDED)
    if left and not any(entry.time > left.time for entry in run.journal.said(Step.DISCARDED)):
        reason = f"{reason} Not everything that was staged could be removed: {'; '.join(left.facts['faults'])}".strip()
    if over:
        run.journal.say(Step.CLOSED, reason=reason, unkept=unkept)
    if unkept:
        reason = f"{reason or 'The restore succeeded, but its report could not be kept.'} {' '.join(unkept)}"
    if reason:
        raise RestoreError(reason, f"Read the report, in this log and in {run.folder / 'report.md'}.")


def _write(run: RestoreRun, facts: dict[str, Any]) -> None:
    found = run.findings().text if facts["result"] == "dry run" else ""
    text = render(facts, found)
    write_atomically(run.folder / "report.md", text.encode("utf-8", "surrogateescape"))
    write_atomically(run.folder / "report.json", (json.dumps(facts, indent=1) + "\n").encode())
    log.info("%s", text)


def _keep_with_set(run: RestoreRun, facts: dict[str, Any], *, over: bool) -> list[str]:
    """Add the report to the set and, if the restore is over, release the hold; what did not work, in sentences."""
    unkept = []
    key = run.context.signing_key()
    text = "restored" if facts["result"] == "success" else facts["result"]
    report = Record(kind="report", plan=run.plan.plan, set_id=facts["set"], time=now(), by=f"run {run.run_id}", text=text, facts=facts)
    held = {entry.facts["destination"]: Record.model_validate(entry.facts["record"]) for entry in run.journal.said(Step.HOLDING)}
    for destination in run.holders():
        try:
            add_record(destination, report, key)
            if _proves(run, facts):
                add_record(destination, _proof(run, report), key)
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


def _proves(run: RestoreRun, facts: dict[str, Any]) -> bool:
    return drill_proof.proven(run) if run.request().drill else facts["result"] == "success"


def _proof(run: RestoreRun, report: Record) -> Record:
    """What the restore has proven of the set: of the parts that were asked for, and no more."""
    if run.request().drill:
        return report.model_copy(update={"kind": "proof", "text": drill_proof.summary(run), "facts": drill_proof.facts(run)})
    only = run.request().only
    parts = [f"{source_id} ({', '.join(only[source_id])})" if only.get(source_id) else source_id for source_id in run.request().sources]
    facts = {name: report.facts[name] for name in ("restore", "sources", "only")}
    return report.model_copy(update={"kind": "proof", "text": f"restored and proven equal: {', '.join(parts)}", "facts": facts})
