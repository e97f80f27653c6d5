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
from recovery.restore.session import RestoreSession
from recovery.restore.state import timed
from recovery.runs import active
from recovery.runs.journal_steps import Step
from recovery.runs.restore_request import Findings

log = logging.getLogger(__name__)


def preflight(session: RestoreSession) -> None:
    """Find out what would fail later, and what the restore would replace: the text of the first gate.

    Raises:
        RestoreError: if something refuses; all refusals are told.
        RecoveryError: if the set can't be fetched, believed or opened.
    """
    with session.changing("preflight"), timed(session, "preflight"):
        if session.journal.entries(Step.STAGING):
            raise RestoreError("Sources are staged already by what preflight found.", "Go on, or trigger a new restore.")
        active.refuse_second(session.plan, session.folder, session.request())  # again: no lock keeps two plans from choosing at one time
        fetch(session)
        facts = gather(session)
        findings = judge(facts)
        _refuse(findings)
        text = preflight_text.render(replace(facts, changes=compare(session)), findings)
        log.info("%s", text)
        targets = {source_id: report.fingerprint for source_id, report in facts.reports.items()}
        found = Findings(text=text, targets=targets, plan=session.plan_digest, request=session.request_digest)
        write_record(session.folder / "findings.json", found)
        session.journal.record(Step.PREFLIGHT_DONE)


def _refuse(findings: Sequence[Judgement]) -> None:
    if refusals := [str(finding) for finding in findings if finding.level == "refusal"]:
        raise RestoreError(
            "The restore would fail:\n- " + "\n- ".join(refusals) + "\n", "Mend these, then trigger a new restore. Nothing was changed."
        )


def fetch(session: RestoreSession) -> None:
    """Fetch what the chosen set says of itself; a source that was stored without being opened is read now.

    Raises:
        RestoreError: if no destination has the whole set, or the identity doesn't open it.
    """
    manifest, fetched = session.manifest(), session.set
    fetched.fetch(session.holders(), session.context.required_decryption_key(), session.request().sources)
    for source_id in session.request().sources:
        if manifest.sources[source_id].level == "stored":
            log.info("%s was stored without being opened; reading it now", source_id)
            for artifact in fetched.artifacts(source_id):
                fetched.make_contents(
                    session.target.reader(source_id), source_id, artifact, source_view.of(session, source_id).read(artifact)
                )
