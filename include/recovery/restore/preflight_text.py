"""The text of the first gate: which set, what is lost, what would be replaced by what, and all that preflight found."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from recovery.common.units import human_duration, human_size, plain_markdown
from recovery.packs.content_diff import Change
from recovery.restore.session import RestoreRun
from recovery.runs.journal_steps import Step
from recovery.sources.model import Finding, Preflight

log = logging.getLogger(__name__)

_SHOWN = 20
_NAMED = 3


def render(run: RestoreRun, reports: Mapping[str, Preflight], room: Sequence[Finding], changes: Mapping[str, Sequence[Change]]) -> str:
    """The Markdown that the first gate shows; a dry run ends with it.

    Args:
        run: the restore.
        reports: what each source's component found.
        room: what is needed and free.
        changes: what would change, by source; empty if nothing was compared.
    """
    chosen = run.journal.said(Step.CHOSEN)[-1].facts
    manifest = run.manifest()
    lines = [_headline(run), ""]
    lines += [f"- {plain_markdown(fact)}" for fact in chosen["facts"]]
    lines += [f"- ⚠ {plain_markdown(warning)}" for warning in chosen["warnings"]]
    if manifest.note:
        lines.append(f"- Note of the backup: {plain_markdown(manifest.note)}")
    lines.append(f"- The sources' moments lie {human_duration(manifest.skew_seconds)} apart.")
    for source_id, report in reports.items():
        lines += _source(run, source_id, report, changes.get(source_id))
    lines += ["", "### Room", "", *_findings(room)]
    if untouched := [source_id for source_id in run.plan.source_ids if source_id not in reports]:
        lines += ["", f"Not restored and not touched: {', '.join(untouched)}."]
    return "\n".join([*lines, "", _what_a_yes_does(run)])


def _headline(run: RestoreRun) -> str:
    request = run.request()
    asks = "tries out, changing nothing, to restore" if request.dry_run else "asks to restore"
    where = "into the **live system**" if run.place.live else f"into the target **{run.place.name}**"
    how = ", **in place**" if run.in_place else ""
    return f"**{request.requester or 'Nobody known'}** {asks} **{run.plan.plan}** from set **{run.manifest().set_id}** {where}{how}."


def _source(run: RestoreRun, source_id: str, report: Preflight, changes: Sequence[Change] | None) -> list[str]:
    entry = run.manifest().sources[source_id]
    records = sum(entry.totals.counts.values())
    lines = ["", f"### {source_id}", ""]
    if only := run.request().only.get(source_id):
        lines += bounded([f"- Only: {plain_markdown(part)}" for part in only])
    lines.append(f"- {human_size(entry.totals.raw_bytes)}, {records:,} records in the set, {entry.consistency}, verified: {entry.level}")
    lines += bounded([f"- ⚠ {plain_markdown(warning)}" for warning in entry.warnings])
    lines += _findings(report.findings)
    lines.append(f"- Target: `{report.identity}`")
    return lines if changes is None else [*lines, *_changes(changes)]


def _findings(findings: Sequence[Finding]) -> list[str]:
    warnings = bounded([f"- ⚠ {plain_markdown(finding.text)}" for finding in findings if finding.level == "warning"])
    return warnings + bounded([f"- {plain_markdown(finding.text)}" for finding in findings if finding.level == "fact"])


def _changes(changes: Sequence[Change]) -> list[str]:
    """A table of what would change; what is equal is only counted."""
    if not any(change.what != "equal" for change in changes):
        return ["", "What is there now is **equal** to the set."]
    lines = ["", "| what would change | how | how many | size | such as |", "| --- | --- | --- | --- | --- |"]
    for change in changes:
        names = "" if change.what == "equal" else ", ".join(plain_markdown(name) for name in change.names[:_NAMED])
        lines.append(f"| {change.kind} | {change.what} | {change.count:,} | {human_size(change.bytes)} | {names} |")
    return lines


def _what_a_yes_does(run: RestoreRun) -> str:
    if run.request().dry_run:
        return "This was a dry run. Nothing was written to any target or destination, and nothing is asked."
    if run.in_place:
        return (
            "Approving reads the chosen set whole. Nothing live is replaced before the next gate. From there on services are stopped, a"
            " **safety backup** is made of what is there, and that is dropped and the set loaded. The way back is the safety backup."
        )
    what, data = ("live", "live data") if run.place.live else ("there", "data there")
    return f"Approving restores all of this **beside** the {data}. Nothing {what} is replaced before the next gate."


def bounded(lines: list[str]) -> list[str]:
    """What a person can read at night; all of it is in the log."""
    for line in lines[_SHOWN:]:
        log.info("%s", line)
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"- and {len(lines) - _SHOWN} more, in the log of preflight"]
