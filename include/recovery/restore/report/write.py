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
from recovery.restore.report.outcome import Outcome, verdict
from recovery.restore.report.text import render
from recovery.restore.session import RestoreSession
from recovery.restore.state import is_over
from recovery.runs.journal_steps import Step
from recovery.sets.records import Record, add_record, release

log = logging.getLogger(__name__)


def finish(session: RestoreSession) -> None:
    """Write the report, release the hold, close the journal, and raise where the restore did not succeed.

    Where the rollback is not complete, the journal stays open and the set held: once the cause is mended, the teardowns
    can be cleared, and go on where they stopped. Until then backups of the plan wait. A dry run leaves nothing at the set.

    Raises:
        RestoreError: with the reason; the report is written all the same.
    """
    if not session.began:
        session.close_unbegun()
        raise RestoreError("No set was chosen, so nothing was restored or changed.", "Look at the first task that failed.")
    if session.journal.closed:
        raise RestoreError("This restore has ended before; its report is written.", "Trigger a new restore.")
    failure = verdict(session)
    reason = " ".join(filter(None, [failure, _left_over(session)]))
    facts = describe(session, reason)
    _write(session, facts)
    over = is_over(session)
    unkept = [] if session.request().dry_run else _keep_with_set(session, facts, over=over, verified=not failure)
    if over:
        session.journal.record(Step.CLOSED, reason=reason, unkept=unkept)
    if unkept:
        reason = f"{reason or 'The restore succeeded, but its report could not be kept.'} {' '.join(unkept)}"
    if reason:
        raise RestoreError(reason, f"Read the report, in this log and in {session.folder / 'report.md'}.")


def _left_over(session: RestoreSession) -> str:
    """What ``discard`` could not remove, in a sentence; empty if nothing is left."""
    said = [entry for entry in session.journal.everything() if entry.step in {Step.DISCARDED, Step.NOT_DISCARDED}]
    if not said or said[-1].step == Step.DISCARDED:
        return ""
    return f"Not everything that was staged could be removed: {'; '.join(said[-1].facts['faults'])}"


def _write(session: RestoreSession, facts: dict[str, Any]) -> None:
    found = session.findings().text if facts["result"] == Outcome.DRY_RUN else ""
    text = render(facts, found)
    write_atomically(session.folder / "report.md", text.encode("utf-8", "surrogateescape"))
    write_atomically(session.folder / "report.json", (json.dumps(facts, indent=1) + "\n").encode())
    log.info("%s", text)


def _keep_with_set(session: RestoreSession, facts: dict[str, Any], *, over: bool, verified: bool) -> list[str]:
    """Add the report to the set and, if the restore is over, release the hold; what did not work, in sentences."""
    unkept = []
    try:
        key = session.context.signing_key()
    except RecoveryError as error:
        log.error("%s", error)
        return [f"Nothing could be signed, so the set has no report, and stays held until maintenance releases it: {error}"]
    text = "restored" if facts["result"] == Outcome.SUCCESS else facts["result"]
    report = Record(
        kind="report", plan=session.plan.plan, set_id=facts["set"], time=now(), by=f"run {session.run_id}", text=text, facts=facts
    )
    held = {entry.facts["destination"]: Record.model_validate(entry.facts["record"]) for entry in session.journal.entries(Step.HOLDING)}
    for destination in session.holders():
        try:
            add_record(destination, report, key)
            if drill_proof.verified(session) if session.request().drill else verified:
                add_record(destination, _proof(session, report), key)
            if over and destination.name in held:
                add_record(
                    destination,
                    release(session.manifest(), held[destination.name].name, now(), f"run {session.run_id}", "the restore has ended"),
                    key,
                )
        except RecoveryError as error:
            log.error("%s", error)
            unkept.append(f"{destination.name} could not take the report or the release of the hold: {error}")
    return unkept


def _proof(session: RestoreSession, report: Record) -> Record:
    """What the restore has verified of the set: of the parts that were asked for, and no more."""
    if session.request().drill:
        return report.model_copy(update={"kind": "proof", "text": drill_proof.summary(session), "facts": drill_proof.facts(session)})
    only = session.request().only
    parts = [f"{source_id} ({', '.join(only[source_id])})" if only.get(source_id) else source_id for source_id in session.request().sources]
    facts = {name: report.facts[name] for name in ("restore", "sources", "only")}
    return report.model_copy(update={"kind": "proof", "text": f"restored and verified: {', '.join(parts)}", "facts": facts})
