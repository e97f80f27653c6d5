"""A report as Markdown, for people: now, and when they sit together afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from recovery.common.units import human_duration, human_moment, parse_moment, plain_markdown
from recovery.common.wording import counted
from recovery.plan.field_types import LIVE
from recovery.restore.report.facts import BY_PEOPLE
from recovery.restore.report.outcome import Outcome

_TITLES = {"restore": "Restore", "drill": "Drill", "dry run": "Dry run"}
_HEADLINES: dict[str, str] = {Outcome.SUCCESS: "SUCCESS", Outcome.DRY_RUN: "DRY RUN: nothing was changed"}
_WITHIN = {True: "within", False: "BEYOND"}


def render(facts: dict[str, Any], found: str = "") -> str:
    """The report as Markdown.

    Args:
        facts: as :func:`recovery.restore.report.facts.describe` gives them.
        found: of a dry run, what it found, in Markdown.
    """
    dry = facts["kind"] == "dry run"
    lines = [f"# {_TITLES[facts['kind']]} {facts['restore']} of {facts['plan']}", "", f"**{_headline(facts['result'])}**", ""]
    lines += _what(facts)
    lines += (
        []
        if dry
        else [*_steps(facts), *_decisions(facts), *_checks(facts), *_differences(facts), *_left_out(facts), *_beside(facts), *_aside(facts)]
    )
    lines += ["", "## What was found", "", found] if found else []
    lines += _by_people(facts) if facts["kind"] == "restore" else []
    return "\n".join(lines).rstrip() + "\n"


def _moment(moment: str) -> str:
    return human_moment(parse_moment(moment))


def _headline(result: str) -> str:
    return _HEADLINES.get(result, f"FAILED: {result}")


def _what(facts: dict[str, Any]) -> Iterator[str]:
    where = "the live system" if facts["target"] == LIVE else f"the target {facts['target']}"
    yield f"- Asked for by {facts['requester'] or 'nobody known'} at {_moment(facts['started'])}; ended {_moment(facts['ended'])}"
    yield f"- Run {facts['run_id']}"
    yield f"- Set {facts['set']}, at {', '.join(facts['destinations'])}, into {where}, method {facts['method']}"
    yield f"- Sources: {', '.join(facts['sources'])}"
    for source_id, parts in facts["only"].items():
        yield f"- Of {source_id} only: {plain_markdown(', '.join(parts))}"
    yield from (f"- ⚠ {plain_markdown(warning)}" for warning in (*facts["warnings"], *facts["not_isolated"]))
    if facts["method"] == "beside":
        yield f"- Nothing live was replaced; the set has all data from before {_moment(facts['set_begins'])}"
    else:
        yield f"- Data loss {_loss(facts['data_loss_seconds'], facts['rpo_seconds'])}: since {_moment(facts['set_begins'])}"
    yield from _durations(facts)


def _loss(loss: float, rpo: float) -> str:
    if loss < 0:
        return f"unknown, since the set is dated {human_duration(-loss)} in the future; the RPO is {human_duration(rpo)}"
    return f"{human_duration(loss)}, {_WITHIN[loss <= rpo]} the RPO of {human_duration(rpo)}"


def _durations(facts: dict[str, Any]) -> Iterator[str]:
    back, rto = facts["back_seconds"], facts["rto_seconds"]
    if back is not None:
        there = f" in {facts['target']}" if facts["kind"] == "drill" else ""
        yield f"- Restored{there} after {human_duration(back)}, {_WITHIN[back <= rto]} the RTO of {human_duration(rto)}"
    waiting = f", {human_duration(facts['waiting_seconds'])} of it waiting for answers" if facts["waiting_seconds"] else ""
    yield f"- Took {human_duration(facts['restore_seconds'])} in all{waiting}"
    if facts["downtime_seconds"] is not None:
        yield f"- Downtime {human_duration(facts['downtime_seconds'])}"


def _steps(facts: dict[str, Any]) -> list[str]:
    rows = [(each["step"], each["source"], human_duration(each["seconds"])) for each in facts["steps"]]
    return _table("Time of each step", ("step", "source", "took"), rows)


def _decisions(facts: dict[str, Any]) -> list[str]:
    rows = [
        (each["gate"], each["answer"], each["person"] or "nobody", _moment(each["time"]), human_duration(each["waited_seconds"]))
        for each in facts["answers"]
    ]
    lines = _table("Who decided", ("gate", "answer", "who", "when", "waited"), rows)
    if not facts["gates"]:
        lines += ["", "Nobody was asked: this target has no gates."] if facts["kind"] == "restore" else []
    return lines


def _checks(facts: dict[str, Any]) -> list[str]:
    lines = [f"- {'✔' if each['ok'] else '✘'} {plain_markdown(each['check'])}" for each in facts["checks"]]
    if facts["unasked"]:
        lines.append(f"- Not asked here: {plain_markdown(', '.join(facts['unasked']))}")
    return ["", "## Checks", "", *lines] if lines else []


def _differences(facts: dict[str, Any]) -> list[str]:
    lines = [
        f"- {each['source']}: not equal to the set in {counted(each['count'], 'thing')}: {plain_markdown(', '.join(each['names']))}"
        for each in facts["differences"]
    ]
    return ["", "## Differences found", "", *lines] if lines else []


def _left_out(facts: dict[str, Any]) -> list[str]:
    lines = [f"- {source_id}: {plain_markdown(name)}" for source_id, names in facts["left_out"].items() for name in names]
    return ["", "## What can't be made again, and was left out", "", "All rows are there.", "", *lines] if lines else []


def _beside(facts: dict[str, Any]) -> list[str]:
    lines = [f"- {source_id}: {plain_markdown(words)}" for source_id, sentences in facts["left_beside"].items() for words in sentences]
    return ["", "## Left beside the live data", "", *lines] if lines else []


def _aside(facts: dict[str, Any]) -> list[str]:
    rows = [
        (each["source"], each["what"], f"`{each['mark']}`", _moment(each["until"]) if each["until"] else "somebody has decided")
        for each in facts["set_aside"]
    ]
    lines = _table("Set aside", ("source", "what", "in its name", "until"), rows)
    if facts["safety_set"]:
        held = "held until maintenance releases it, `keep_replaced` after the end of this restore"
        lines += ["", f"The previous data is in the **safety set {facts['safety_set']}**, {held}."]
    return lines


def _by_people(facts: dict[str, Any]) -> list[str]:
    rows = [(question, facts["by_people"][key]) for key, question in BY_PEOPLE.items()]
    return _table("To be filled in by people", ("question", "answer"), rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return ["", f"## {title}", "", *(_row(cells, widths) for cells in (columns, ["-" * width for width in widths], *rows))]


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """In line with the others: a log shows the table as it is written."""
    return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"
