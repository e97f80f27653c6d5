"""The text of the first gate: which set, what is lost, what would be replaced by what, and all that preflight found."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from recovery.common.units import human_size, plain_markdown
from recovery.common.wording import counted
from recovery.packs.content_diff import Change
from recovery.restore.preflight_facts import Facts
from recovery.restore.preflight_rules import CHECKS, ROOM, Judgement
from recovery.sets.manifest import level_name

log = logging.getLogger(__name__)

_SHOWN = 20
_NAMED = 3


def render(facts: Facts, findings: Sequence[Judgement]) -> str:
    """The Markdown that the first gate shows; a dry run ends with it."""
    lines = [_headline(facts), ""]
    lines += [f"- {plain_markdown(fact)}" for fact in facts.choice]
    lines += [f"- ⚠ {plain_markdown(warning)}" for warning in facts.choice_warnings]
    if facts.manifest.note:
        lines.append(f"- Note of the backup: {plain_markdown(facts.manifest.note)}")
    lines.append(f"- {facts.manifest.apart}")
    for source_id in facts.reports:
        lines += _source(facts, source_id, findings)
    if of_checks := _findings(findings, CHECKS):
        lines += ["", "### Checks", "", *of_checks]
    lines += ["", "### Room", "", *_findings(findings, ROOM)]
    if untouched := [source_id for source_id in facts.plan.source_ids if source_id not in facts.reports]:
        lines += ["", f"Not restored and not touched: {', '.join(untouched)}."]
    return "\n".join([*lines, "", _what_a_yes_does(facts)])


def _headline(facts: Facts) -> str:
    request = facts.request
    asks = "tries out, changing nothing, to restore" if request.dry_run else "asks to restore"
    where = "into the **live system**" if facts.into_live else f"into the target **{request.target}**"
    how = "" if request.method == "swap" else f", **{request.method}**"
    return f"**{request.requester or 'Nobody known'}** {asks} **{facts.plan.plan}** from set **{facts.manifest.set_id}** {where}{how}."


def _source(facts: Facts, source_id: str, findings: Sequence[Judgement]) -> list[str]:
    entry = facts.manifest.sources[source_id]
    records = sum(entry.totals.counts.values())
    lines = ["", f"### {source_id}", ""]
    lines += bounded([f"- Only: {plain_markdown(part)}" for part in facts.request.only.get(source_id, ())])
    size = human_size(entry.totals.raw_bytes)
    lines.append(
        f"- {size}, {counted(records, 'record')} in the set; consistency: {entry.consistency}; verified: {level_name(entry.level)}"
    )
    lines += bounded([f"- ⚠ {plain_markdown(warning)}" for warning in entry.warnings])
    lines += _findings(findings, source_id)
    lines.append(f"- Target: `{facts.reports[source_id].fingerprint}`")
    return [*lines, *_changes(facts, facts.changes[source_id])] if source_id in facts.changes else lines


def _findings(findings: Sequence[Judgement], about: str) -> list[str]:
    told = [(finding.level, plain_markdown(finding.text)) for finding in findings if finding.about == about]
    warnings = bounded([f"- ⚠ {text}" for level, text in told if level == "warning"])
    return warnings + bounded([f"- {text}" for level, text in told if level == "fact"])


def _changes(facts: Facts, changes: Sequence[Change]) -> list[str]:
    """A table of what would change; what is equal is only counted."""
    if not any(change.what != "equal" for change in changes):
        return ["", "What is there now is **equal** to the set."]
    what = "what a swap would change" if facts.request.method == "beside" else "what would change"
    lines = ["", f"| {what} | how | how many | size | such as |", "| --- | --- | --- | --- | --- |"]
    for change in changes:
        names = "" if change.what == "equal" else ", ".join(plain_markdown(name) for name in change.names[:_NAMED])
        lines.append(f"| {change.kind} | {change.what} | {change.count:,} | {human_size(change.bytes)} | {names} |")
    return lines


def _what_a_yes_does(facts: Facts) -> str:
    if facts.request.dry_run:
        return "This was a dry run. Nothing was written to any target or destination, and nothing is asked."
    if facts.in_place:
        return (
            "Approving reads the chosen set whole. Nothing live is replaced before the next gate. From there on services are stopped, a"
            " **safety backup** is made of what is there, and that is dropped and the set loaded. A rollback loads that safety set."
        )
    if facts.request.method == "beside":
        return (
            "Approving restores this **beside** the data there, verifies it, and leaves it under names of its own. There is no other gate:"
            " nothing takes the place of anything, and no service is stopped. It stays until somebody drops it; the report says how."
        )
    what, data = ("live", "live data") if facts.into_live else ("there", "data there")
    return f"Approving restores all of this **beside** the {data}. Nothing {what} is replaced before the next gate."


def bounded(lines: list[str]) -> list[str]:
    """What a person can read at night; all of it is in the log."""
    for line in lines[_SHOWN:]:
        log.info("%s", line)
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"- and {len(lines) - _SHOWN} more, in the log of preflight"]
