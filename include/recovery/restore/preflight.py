"""Preflight: what would fail later is found out before anything is changed, and told at the first gate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from recovery.common.errors import RestoreError
from recovery.common.files import write_record
from recovery.restore import preflight_text, source_view
from recovery.restore.preflight_facts import compare, gather
from recovery.restore.preflight_rules import Judgement, judge
from recovery.restore.session import RestoreRun
from recovery.restore.state import timed
from recovery.runs import active
from recovery.runs.journal_steps import Step
from recovery.runs.restore_request import Findings

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
        facts = gather(run)
        findings = judge(facts)
        _refuse(findings)
        text = preflight_text.render(replace(facts, changes=compare(run)), findings)
        log.info("%s", text)
        targets = {source_id: report.identity for source_id, report in facts.reports.items()}
        found = Findings(text=text, targets=targets, plan=run.plan_digest, request=run.request_digest)
        write_record(run.folder / "findings.json", found)
        run.journal.say(Step.PREFLIGHT_DONE)


def _refuse(findings: Sequence[Judgement]) -> None:
    if refusals := [str(finding) for finding in findings if finding.level == "refusal"]:
        raise RestoreError(
            "The restore would fail:\n- " + "\n- ".join(refusals) + "\n", "Mend these, then trigger a new restore. Nothing was changed."
        )


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
