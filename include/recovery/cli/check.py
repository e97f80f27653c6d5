"""``recovery check``: a plan's destinations are tried out, before the first backup needs them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from recovery.cli.kit import Answer
from recovery.common.connections import Clients
from recovery.common.errors import RecoveryError
from recovery.common.units import human_duration, human_size
from recovery.destinations.base import Destination, Missing
from recovery.plan.model import Plan
from recovery.runs.context import PlanContext
from recovery.sets.catalog import MAX_SKEW


def check(plan: Plan, clients: Clients) -> Answer:
    """Try out every destination of a plan; status 1 if one can't be used. Nothing is left there.

    Args:
        plan: whose destinations.
        clients: looks up the Connections of buckets.
    """
    found = {each.name: _facts(each, f"{plan.plan}/check") for each in PlanContext(plan, clients).destinations()}
    unusable = any("error" in facts for facts in found.values())
    return Answer({"plan": plan.plan, "destinations": found}, [_line(name, facts) for name, facts in found.items()], int(unusable))


def _facts(destination: Destination, key: str) -> dict[str, Any]:
    """What was found, or what went wrong."""
    facts: dict[str, Any] = {"place": destination.describe()}
    try:
        with suppress(Missing):
            destination.read(key, 1)
        facts["confirms_by"] = destination.try_out(key)
        facts["free_bytes"] = destination.free_space()
        apart = abs(destination.now() - datetime.now(UTC))
    except RecoveryError as error:
        return facts | {"error": error.what, "next": error.next_step}
    if apart > MAX_SKEW:
        what = f"Its clock and this machine's are {human_duration(apart)} apart, so nothing is pruned there."
        return facts | {"error": what, "next": "Set the clocks (NTP)."}
    return facts


def _line(name: str, facts: dict[str, Any]) -> str:
    if "error" in facts:
        return f"{name}: NOT USABLE. {facts['error']} Next: {facts['next']}"
    free = facts["free_bytes"]
    room = "" if free is None else f", with {human_size(free)} free"
    return f"{name}: {facts['place']} can be used{room}; it confirms what arrives by {facts['confirms_by']}"
