"""``recovery check``: what a plan names is tried out, before the first backup needs it: destinations, servers, containers of services."""

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
from recovery.runners.ways import Ways
from recovery.runs import services
from recovery.runs.context import PlanContext
from recovery.sets.catalog import MAX_SKEW
from recovery.sources.base import Source


def check(plan: Plan, clients: Clients) -> Answer:
    """Try out all that can be asked: destinations, sources, containers of services; status 1 if one can't be used. Nothing is left there.

    Args:
        plan: whose.
        clients: looks up their Connections.
    """
    with Ways() as ways:
        context = PlanContext(plan, clients, ways=ways)
        found = {each.name: _facts(each, f"{plan.plan}/check") for each in context.destinations()}
        sources = {source_id: facts for source_id in plan.source_ids if (facts := _of_source(context, source_id))}
        stopped = _of_services(context)
    named = [*sources.items(), *([("services", stopped)] if stopped else []), *found.items()]
    lines = [_line(name, facts) for name, facts in named]
    unusable = any("error" in facts for _, facts in named)
    return Answer({"plan": plan.plan, "sources": sources, "services": stopped, "destinations": found}, lines, int(unusable))


def _of_source(context: PlanContext, source_id: str) -> dict[str, Any]:
    """What a source is, or why it can't be used; nothing of one that can't be asked."""
    try:
        place = context.source(source_id, Source).try_out()
    except RecoveryError as error:
        return {"error": error.what, "next": error.next_step}
    return {"place": place} if place else {}


def _of_services(context: PlanContext) -> dict[str, Any]:
    """The containers of the services, or why they can't be stopped; nothing if there are none."""
    try:
        refused = services.foresee(context.plan.services, context.clients.connect)
    except RecoveryError as error:
        return {"error": error.what, "next": error.next_step}
    if refused:
        return {"error": "; ".join(refused) + ".", "next": "Mend this before a cold backup or a restore."}
    titles = [part.title for part in context.plan.services.in_containers]
    return {"place": " and ".join(titles)} if titles else {}


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
    if "free_bytes" not in facts:
        return f"{name}: {facts['place']} can be used"
    free = facts["free_bytes"]
    room = "" if free is None else f", with {human_size(free)} free"
    return f"{name}: {facts['place']} can be used{room}; it confirms what arrives by {facts['confirms_by']}"
