"""Whether a restore goes where it may: to a target that is not live after all, and empty, and each source to a place of its own."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations, product

from recovery.common.errors import RecoveryError, RestoreError
from recovery.plan.field_types import LIVE, SCRATCH
from recovery.plan.loader import load_plans
from recovery.plan.location import Landing, meet
from recovery.plan.model import Plan
from recovery.restore import source_view
from recovery.restore.session import RestoreRun
from recovery.sources.base import Restorer
from recovery.sources.model import Finding

log = logging.getLogger(__name__)

_SHOWN = 5


@dataclass
class Live:
    """What is live, as far as it can be asked."""

    own: set[Landing] = field(default_factory=set)
    others: dict[str, set[Landing]] = field(default_factory=dict)
    """By the name of another plan of the plan folder."""
    silent: list[str] = field(default_factory=list)
    """What does not answer."""


def live_places(run: RestoreRun, sources: Collection[str]) -> Live:
    """All that is live of the kinds of some sources: what today's plan names, what the set has, and what other plans protect."""
    families = {_family(run.plan, source_id) for source_id in sources}
    found = Live()
    found.own = _owned(run, run.plan, families, found.silent)
    plans = load_plans()
    for plan in plans.good:
        if plan.plan != run.plan.plan:
            found.others[plan.plan] = _owned(run, plan, families, found.silent)
    found.silent += [f"the plan file {broken.path.name}" for broken in plans.broken]
    return found


def _family(plan: Plan, source_id: str) -> str:
    return plan.source(source_id).family


def _owned(run: RestoreRun, plan: Plan, families: Collection[str], silent: list[str]) -> set[Landing]:
    found: set[Landing] = set()
    own = plan.plan == run.plan.plan
    for source_id in plan.source_ids:
        if _family(plan, source_id) not in families:
            continue
        try:
            component = replace(run.context, plan=plan).source(source_id, Restorer)
            found |= component.owns()
            if own and source_id in run.manifest().sources:
                found |= component.lands(source_view.of(run, source_id, whole=True))
        except (RecoveryError, OSError) as error:
            log.warning("%s: %s", source_id, error)
            silent.append(source_id if own else f"{source_id} of the plan {plan.plan}")
    return found


def target_findings(run: RestoreRun, source_id: str, live: Live) -> Iterator[Finding]:
    """What speaks against a target for a source: that it is live after all, or that it is in use."""
    source, component = source_view.of(run, source_id), run.component(source_id)
    lands = component.lands(source)
    if live.silent:
        yield Finding("warning", f"Whether this is the live system can't be compared: {', '.join(live.silent)} does not answer.")
    if same := _meeting(lands, live.own):
        yield Finding(
            "refusal",
            f"the target {run.place.name} is the live system itself ({same}). Correct the plan or the Connection;"
            " if it is a clone of the live server, give its databases other names in the plan.",
        )
    for name, places in live.others.items():
        if same := _meeting(lands, places):
            yield Finding(
                "refusal",
                f"the target {run.place.name} is the live system of the plan {name} ({same}). Correct the plan or the Connection.",
            )
    if _must_be_empty(run) and (there := component.occupied(source)):
        yield Finding(
            "refusal",
            f"the target {run.place.name} is not empty: {_some(there.values())}. Write {run.place.name} into overwrite"
            " if that may be set aside.",
        )


def refuse_filled(run: RestoreRun, source_id: str) -> None:
    """Since preflight looked somebody may have put something into an empty target.

    Raises:
        RestoreError: if so; nobody said that it may be set aside.
    """
    if _must_be_empty(run) and (there := run.component(source_id).occupied(source_view.of(run, source_id))):
        raise RestoreError(
            f"{source_id}: the target {run.place.name} was empty and is so no more: {_some(there.values())}.",
            f"Trigger a new restore, with {run.place.name} in overwrite if that may be set aside.",
        )


def _must_be_empty(run: RestoreRun) -> bool:
    return run.place.name not in {LIVE, SCRATCH, run.request().overwrite}


def meeting_sources(run: RestoreRun, sources: Collection[str]) -> Iterator[str]:
    """Sources of which one would replace what the other has just brought, however both reach it.

    One may lie in another that leaves it out: today's plan excludes it, and the set has nothing there.
    """
    if run.place.name == SCRATCH:
        return
    pairs = [(one, other) for one, other in combinations(sources, 2) if _family(run.plan, one) == _family(run.plan, other)]
    lands = {name: run.component(name).lands(source_view.of(run, name)) for name in {name for pair in pairs for name in pair}}
    for one, other in pairs:
        met = [(mine, theirs) for mine, theirs in product(lands[one], lands[other]) if meet(mine, theirs)]
        placed = [(one, theirs) if len(mine) < len(theirs) else (other, mine) for mine, theirs in met]
        if same := {"/".join(inner) for outer, inner in placed if not run.component(outer).leaves_out(source_view.of(run, outer), inner)}:
            yield (
                f"{one} and {other} would replace each other at {run.place.name} ({_some(sorted(same))}). Correct the plan or the"
                " Connections; if the plan is right and the set older than it, restore one after the other."
            )
        elif gone := {path for outer, inner in placed if run.in_place and (path := run.component(outer).lost_folder(inner))}:
            yield (
                f"{_some(sorted(map(str, gone)))} is gone, and both {one} and {other} need it. Choose method: switch, or restore one after"
                " the other."
            )


def _meeting(lands: Collection[Landing], others: Collection[Landing]) -> str:
    return _some(sorted("/".join(landing) for landing in lands if any(meet(landing, other) for other in others)))


def _some(things: Collection[str]) -> str:
    return ", ".join(list(things)[:_SHOWN]) + (" and more" if len(things) > _SHOWN else "")
