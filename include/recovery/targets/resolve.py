"""Where a restore goes: the live system, a target of the plan, or the scratch servers of a drill."""

from __future__ import annotations

from collections.abc import Callable

from recovery.common.errors import PlanError
from recovery.plan.field_types import LIVE, SCRATCH
from recovery.runs.context import PlanContext
from recovery.targets.target import RestoreTarget, portable_checks


def resolve(context: PlanContext, name: str, scratch: Callable[[], RestoreTarget] | None = None) -> RestoreTarget:
    """The live system, a target by its name, or the scratch target.

    Raises:
        PlanError: if the plan has no such target.
    """
    plan = context.plan
    if name == LIVE:
        return RestoreTarget(LIVE, context, gates=("plan", "cutover", "accept"), services=plan.services, checks=plan.checks)
    if name == SCRATCH and scratch is not None:
        return scratch()
    if name not in plan.targets:
        raise PlanError(f"The plan has no target {name!r}.", f"It has {', '.join([LIVE, *plan.targets])}.")
    target = plan.targets[name]
    return RestoreTarget(
        name,
        context,
        settings=dict(target.sources),
        gates=target.gates,
        services=target.services,
        checks=(*portable_checks(plan, dict(target.sources)), *target.checks),
    )
