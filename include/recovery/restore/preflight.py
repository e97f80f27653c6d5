"""The first steps of a restore, which change nothing: choose a set, and find out what would fail later."""

from __future__ import annotations

import logging
from dataclasses import replace

from recovery.common.errors import RecoveryError, RestoreError
from recovery.common.files import write_record
from recovery.packs.content_diff import Change
from recovery.plan.field_types import LIVE, SCRATCH
from recovery.restore import capacity, isolation, preflight_text, source_view
from recovery.restore.session import RestoreRun
from recovery.restore.state import timed
from recovery.runs import active
from recovery.runs.journal_steps import Step
from recovery.runs.restore_request import Findings
from recovery.sources.model import Preflight

log = logging.getLogger(__name__)


def preflight(run: RestoreRun) -> None:
    """Find out what would fail later, and what the restore would replace: the text of the first gate.

    Raises:
        RestoreError: if something refuses; all refusals are told.
        RecoveryError: if the set can't be fetched, believed or opened.
    """
    with run.changing("preflight"), timed(run, "preflight"):
        if run.journal.said(Step.STAGING):
            raise RestoreError("Sources are staged already by what preflight found.", "Go on, or trigger a new restore.")
        active.refuse_second(run.plan, run.folder, run.request())  # again: no lock keeps two plans from choosing at one time
        fetch(run)
        reports: dict[str, Preflight] = {}
        refusals: list[str] = []
        for source_id in run.request().sources:
            log.info("preflight of %s", source_id)
            try:
                reports[source_id] = run.component(source_id).preflight(source_view.of(run, source_id))
            except RecoveryError as error:
                refusals.append(f"{source_id}: {error}")
        refusals += _look_around(run, reports)
        for source_id in reports:
            refusals += [f"{source_id}: {finding.text}" for finding in reports[source_id].findings if finding.level == "refusal"]
        needs = list(capacity.findings(run, reports))
        refusals += [finding.text for finding in needs if finding.level == "refusal"]
        if refusals:
            raise RestoreError(
                "The restore would fail:\n- " + "\n- ".join(refusals) + "\n", "Mend these, then trigger a new restore. Nothing was changed."
            )
        text = preflight_text.render(run, reports, needs, _compared(run))
        log.info("%s", text)
        targets = {name: report.identity for name, report in reports.items()}
        found = Findings(text=text, targets=targets, plan=run.plan_digest, request=run.request_digest)
        write_record(run.folder / "findings.json", found)
        run.journal.say(Step.PREFLIGHT_DONE)


def _look_around(run: RestoreRun, reports: dict[str, Preflight]) -> list[str]:
    """Add what speaks against the place of sources that nothing else speaks against; refusals that are not of one source alone."""
    fit = [source_id for source_id, report in reports.items() if all(finding.level != "refusal" for finding in report.findings)]
    if run.place.name not in {LIVE, SCRATCH}:
        live = isolation.live_places(run, fit)
        for source_id in fit:
            report = reports[source_id]
            reports[source_id] = replace(report, findings=(*report.findings, *isolation.target_findings(run, source_id, live)))
    return list(isolation.meeting_sources(run, fit))


def fetch(run: RestoreRun) -> None:
    """Fetch what the chosen set says of itself; a source that was stored without being opened is read now.

    Raises:
        RestoreError: if no destination has the whole set, or the identity doesn't open it.
    """
    manifest, fetched = run.manifest(), run.set
    fetched.fetch(run.holders(), run.context.required_decryption_key(), run.request().sources)
    for source_id in run.request().sources:
        if manifest.sources[source_id].level == "stored":
            log.info("%s was stored without being opened; reading it now", source_id)
            for artifact in fetched.artifacts(source_id):
                fetched.make_contents(run.context.reader(source_id), source_id, artifact, source_view.of(run, source_id).read(artifact))


def _compared(run: RestoreRun) -> dict[str, list[Change]]:
    """What the restore would change, source by source, if somebody wants to know."""
    request = run.request()
    if not (request.compare or request.dry_run):
        return {}
    found = {}
    for source_id in request.sources:
        log.info("comparing %s with the set", source_id)
        found[source_id] = run.component(source_id).compare(source_view.of(run, source_id))
    return found
