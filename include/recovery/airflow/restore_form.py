"""The form of a restore in the Airflow UI: its fields, and the request that a filled-in form is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from airflow.sdk import Param

from recovery.airflow.tasks import sources_parameter, text_parameter
from recovery.common.errors import PlanError
from recovery.plan.field_types import LIVE, Method
from recovery.plan.kinds import KINDS
from recovery.plan.model import Plan
from recovery.plan.source_id import kind_of
from recovery.runs.restore_request import Request

_ONLY = "only."


def fields(plan: Plan) -> dict[str, Param]:
    """The parameters of a plan's restore DAG, by name."""
    found = {
        "set": Param("latest", type="string", description="latest, or the id of a set, as in 20261123T010000Z-4f2a.", title="Set"),
        "newest_before": text_parameter(
            "Instead: the newest set of before a moment, with its offset: 2026-11-23T01:00:00+01:00.", title="Newest set before"
        ),
        "sources": sources_parameter(plan.source_ids, "Sources to restore; the others are not touched.", title="Sources"),
        "target": Param(
            LIVE, enum=[LIVE, *plan.targets], description="Where to: the live system, or one of the plan's targets.", title="Target"
        ),
        "method": Param(
            plan.restore_method,
            enum=list(get_args(Method)),
            description="swap: restored beside the live data, verified, then swapped. in place, where there is no room for two copies:"
            " a safety backup first, then dropped and loaded. beside: single tables, verified and left in a schema of their own.",
            title="Method",
        ),
        "config": Param(
            "missing",
            enum=["missing", "all"],
            description="Configuration: bring back only what is missing, or replace what differs too (an old .env has old passwords).",
            title="Configuration",
        ),
        "dry_run": Param(
            False, type="boolean", description="Find out and compare only; nothing is asked, nothing is changed.", title="Dry run"
        ),
        "compare": Param(
            False,
            type="boolean",
            description="Say at the first gate what would change, table by table. Reads all of the live data, which takes its time.",
            title="Compare with the live data",
        ),
        "allow_stale": Param(
            False,
            type="boolean",
            description="Restore latest even if it is older than the RPO allows.",
            title="Allow a set older than the RPO",
        ),
        "overwrite": text_parameter(
            "For a target that is not empty: its name again, to confirm that what it has may be set aside.", title="Overwrite the target"
        ),
    }
    return found | {_ONLY + source_id: _parts(plan, source_id) for source_id in plan.source_ids}


def _parts(plan: Plan, source_id: str) -> Param:
    """What to restore of one source; a text field of one part a line, or a choice of the named paths."""
    offered = plan.source(source_id).choices()
    choices: dict[str, Any] = {"examples": offered} if offered else {}
    return Param(
        [],
        type=["null", "array"],
        items={"type": "string"},
        title=f"Only these parts of {source_id}",
        description=f"{KINDS[kind_of(source_id)].parts} Empty: all of it.",
        section="Parts of sources",
        **choices,
    )


def request(params: Mapping[str, Any], **facts: Any) -> Request:
    """What a filled-in form asks.

    Args:
        params: by the names of :func:`fields`.
        facts: the rest of the request: who, when, which run.

    Raises:
        PlanError: if parts are not texts, or blank.
    """
    plain = {name: value for name, value in params.items() if not name.startswith(_ONLY)}
    plain["overwrite"] = plain["overwrite"] or ""
    only = {
        name.removeprefix(_ONLY): tuple(part.strip() for part in _texts(name, value) if part.strip())
        for name, value in params.items()
        if name.startswith(_ONLY) and value not in (None, [])
    }
    if blank := sorted(source_id for source_id, parts in only.items() if not parts):
        raise PlanError(f"The parts of {', '.join(blank)} are blank lines only.", "Write parts, or empty the field to restore all of it.")
    return Request(**plain, only=only, **facts)


def _texts(name: str, value: object) -> list[str]:
    """The lines of a field, which the API takes as they come."""
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise PlanError(
            f"{name} is {value!r}, which is no list of texts.", 'Write them as in ["2026/03", "*.pdf"]; leave it out for everything.'
        )
    return value
