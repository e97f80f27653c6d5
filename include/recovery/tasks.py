"""Where Airflow's tasks meet this package: the context of a run becomes plain objects, errors become Airflow's.

The DAG files in ``dags/`` wire these functions; what they call knows nothing of Airflow.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from airflow.sdk import CronTriggerTimetable, Param, get_parsing_context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from recovery.backup import Work
from recovery.connections import from_airflow
from recovery.errors import PlanError, RecoveryError
from recovery.manifest import new_set_id
from recovery.plan import Plan
from recovery.plans import load_plan, load_plans
from recovery.restore_run import RestoreRun
from recovery.staging import StagedSet

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def plans_to_build(family: str) -> Iterator[Plan]:
    """The plans whose DAG of a family is to be built: all of them, or in a task's process only the one that it runs."""
    wanted = get_parsing_context().dag_id
    for plan in load_plans().good:
        if wanted in {None, f"{plan.plan}_{family}"}:
            yield plan


def in_words(function: Callable[P, T]) -> Callable[P, T]:
    """Let a task's error reach the operator as its message alone, and be retried only where that may help."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except RecoveryError as error:
            log.error("%s", error)
            log.debug("where it came from", exc_info=True)
            kind = AirflowException if error.retryable else AirflowFailException
            raise kind(str(error)) from None

    return wrapped


def staged_set(plan: Plan, dag_run: Any) -> StagedSet:
    """The set of a backup run; the same run always has the same."""
    return StagedSet(plan, new_set_id(dag_run.run_after, dag_run.run_id))


def work(plan_name: str, source_id: str, dag_run: Any) -> Work:
    """One source of a backup run."""
    plan = load_plan(plan_name)
    return Work(plan, staged_set(plan, dag_run), source_id, from_airflow)


def restore_run(plan_name: str, dag_run: Any) -> RestoreRun:
    """The restore of a run."""
    return RestoreRun(load_plan(plan_name), dag_run.run_id, from_airflow)


def check_parameters(params: Mapping[str, Any], dag_run: Any) -> None:
    """Refuse parameters that the DAG doesn't know: Airflow itself would silently ignore them.

    Raises:
        PlanError: with the unknown names and the known ones.
    """
    unknown = set(dag_run.conf or {}) - set(params)
    if unknown:
        raise PlanError(
            f"This DAG has no parameter {', '.join(sorted(unknown))}; it has {', '.join(sorted(params))}.",
            "Trigger it again without, or with the right name.",
        )


def schedule(plan: Plan) -> CronTriggerTimetable | None:
    """The plan's cron expression in the plan's timezone; None for runs by hand only."""
    return CronTriggerTimetable(plan.schedule, timezone=plan.timezone) if plan.schedule else None


def defaults(plan: Plan, retries: int) -> dict[str, Any]:
    """What all tasks of a plan's DAG have in common."""
    return {
        "owner": plan.owner,
        "retries": retries,
        "retry_delay": plan.retry_delay,
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": plan.timeout,
    }


def sources_parameter(plan: Plan, description: str) -> Param:
    """A form field to choose sources from; all of them are chosen to begin with."""
    ids = list(plan.source_ids)
    return Param(
        ids, type="array", examples=ids, items={"type": "string", "enum": ids}, uniqueItems=True, minItems=1, description=description
    )


def group_id(source_id: str) -> str:
    """A source's name for a task group, which takes no dots."""
    return source_id.replace(".", "_")


def documentation(family: str, plan: Plan) -> str:
    """The text on a DAG's page: what it does, and what to do when it is red."""
    text = (Path(__file__).parent / "dag_docs" / f"{family}.md").read_text(encoding="utf-8")
    sources = ", ".join(f"`{source_id}`" for source_id in plan.source_ids)
    return text.format(plan=plan.plan, sources=sources, destinations=", ".join(f"`{name}`" for name in plan.destinations))
