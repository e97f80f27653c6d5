"""Where Airflow's tasks meet this package: the context of a run becomes plain objects, errors become Airflow's.

The DAG files in ``dags/`` wire these functions; what they call knows nothing of Airflow.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param, TriggerRule, task
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    DownstreamTasksSkipped,
)

from recovery.airflow.connections import CLIENTS
from recovery.backup.steps import Work
from recovery.common.errors import ApprovalError, PlanError, RecoveryError, RestoreError, RestoreUnderWay, StagingError
from recovery.common.units import human_duration
from recovery.plan.loader import load_plan
from recovery.plan.model import Plan
from recovery.plan.source_settings import ServerSettings
from recovery.restore.session import RestoreSession
from recovery.runners.ways import Ways
from recovery.runs.context import PlanContext
from recovery.runs.journal_steps import Step
from recovery.runs.staged_set import StagedSet
from recovery.sets.layout import new_set_id

log = logging.getLogger(__name__)

RUN_TYPES: Any = ("manual", "scheduled", "asset_triggered", "operator_triggered")
"""Runs that Airflow may make. A backfill would back up or drill what is there today, under days of the past and side by side; that an
asset be materialized would do so without its parameters."""

_WAYS = Ways()
"""The ways to servers in containers that this process has found; those of a step end with it."""
_LOOK_AGAIN = timedelta(minutes=2)
_WATCH_EVERY = timedelta(minutes=5)

P = ParamSpec("P")
T = TypeVar("T")


def operator_errors(function: Callable[P, T]) -> Callable[P, T]:
    """Let a task's error reach the operator as its message alone, and be retried only where that may help; close what it has opened."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except RecoveryError as error:
            log.error("%s", error)
            log.debug("where it came from", exc_info=True)
            kind = AirflowException if error.retryable else AirflowFailException
            raise kind(str(error)) from None
        finally:
            _WAYS.close()

    wrapped.__signature__ = inspect.signature(function)  # type: ignore[attr-defined] # Airflow asks three times a task: a tenth of a parse
    return wrapped


@contextmanager
def waiting_for_restores(plan: Plan, dag_run: Any) -> Iterator[None]:
    """Look again later while a restore is under way, for half of the plan's RPO: a backup that only waits must not do so unnoticed.

    Raises:
        RestoreUnderWay: if it has waited longer.
    """
    try:
        yield
    except RestoreUnderWay as error:
        if datetime.now(UTC) - dag_run.start_date > plan.objectives.rpo / 2:
            raise
        log.warning("%s", error)
        look_again(_LOOK_AGAIN)


def look_again(pause: timedelta = _WATCH_EVERY) -> NoReturn:
    """End this task for now; Airflow runs it again after a pause, and it takes no slot meanwhile."""
    log.info("looking again in %s", human_duration(pause))
    raise AirflowRescheduleException(datetime.now(UTC) + pause) from None  # type: ignore[no-untyped-call]


def context(plan_name: str) -> PlanContext:
    """A plan as it is now, with what Airflow knows of what it names."""
    return PlanContext(load_plan(plan_name), CLIENTS, ways=_WAYS)


def staged_set(loaded: PlanContext, dag_run: Any) -> StagedSet:
    """The set of a backup run; the same run always has the same."""
    return StagedSet(loaded.plan, new_set_id(dag_run.run_after, dag_run.run_id))


def restore_session(plan_name: str, dag_run: Any) -> RestoreSession:
    """The restore of a run, or the drill: ids of both never meet."""
    run_id = f"drill {dag_run.run_id}" if dag_run.dag_id == f"{plan_name}_drill" else dag_run.run_id
    return RestoreSession(context(plan_name), run_id)


def of_source(step: Callable[[Work], object]) -> Any:
    """A task that does a step of a backup for one source: call it with the plan's name and the source's id."""

    @task(task_id=step.__name__)
    @operator_errors
    def run(plan: str, source: str, dag_run: Any, ti: Any) -> None:
        loaded = context(plan)
        staged = staged_set(loaded, dag_run)
        if source not in staged.run().sources:
            raise AirflowSkipException(f"{source} was left out by who started this run.")
        skip_if_false(step(Work(loaded, staged, source, last_try=ti.try_number > ti.max_tries)))

    return run


def of_destination(step: Callable[[PlanContext, StagedSet, str], object], trigger_rule: TriggerRule) -> Any:
    """A task that does a step of a backup for one destination: call it with the plan's name and the destination's."""

    @task(trigger_rule=trigger_rule)
    @operator_errors
    def run(plan: str, destination: str, dag_run: Any) -> None:
        loaded = context(plan)
        skip_if_false(step(loaded, staged_set(loaded, dag_run), destination))

    return run


def of_restore(step: Callable[[RestoreSession], object], task_id: str = "", *, changes: bool = True) -> Any:
    """A task that does a step of a restore: call it with the plan's name.

    Those that change anything belong to the cutover, so they are skipped where there is none.
    """

    name = task_id or step.__name__

    @task(task_id=name)
    @operator_errors
    def run(plan: str, dag_run: Any, ti: Any) -> None:
        restore = restore_session(plan, dag_run)
        refuse_lost(restore, ti)
        if changes:
            skip_dry_run(restore)
            skip_without_cutover(restore)
        with failure_noted(restore, name):
            done = step(restore)
        skip_if_false(done)

    return run


def of_restored_source(
    step: Callable[[RestoreSession, str], object], task_id: str, plan: Plan, source: str, *, of_cutover: bool = False
) -> Any:
    """A task that does a step of a restore for one source, placed in the graph. One of the cutover is skipped where there is none."""

    @task(task_id=task_id)
    @operator_errors
    def run(plan: str, source: str, dag_run: Any = None, ti: Any = None) -> None:
        restore = restore_session(plan, dag_run)
        if source not in restore.request().sources:
            raise AirflowSkipException(f"{source} is not among the sources to restore.")
        skip_dry_run(restore)
        if of_cutover:
            skip_without_cutover(restore)
        with failure_noted(restore, ti.task_id):
            done = step(restore, source)
        skip_if_false(done)

    return run(plan.plan, source)


def refuse_lost(restore: RestoreSession, ti: Any) -> None:
    """Refuse to take a restore whose folder can't be found for one that never began.

    Raises:
        RestoreError: if there is no journal although a set was chosen.
    """
    if restore.began or restore.journal.closed:
        return
    if _succeeded(ti, "choose_set"):
        raise RestoreError(
            f"{restore.folder} is not there, though this restore has chosen a set: what it has changed is not known here.",
            "Let the plan's staging folder be the one that it was, and this worker see it. Then clear this task and those after it.",
            retryable=True,
        )


def refuse_lost_set(staged: StagedSet, ti: Any) -> None:
    """Refuse to take a cold backup whose folder can't be found for one that has stopped nothing.

    Raises:
        StagingError: if there is no record of the run although its services were stopped.
    """
    if staged.begun:
        return
    if _succeeded(ti, "stop_services"):
        raise StagingError(
            f"{staged.folder} is not there, though this backup has stopped the services: they may be STOPPED.",
            "Start them by hand. Let the plan's staging folder be the one that it was, and this worker see it.",
            retryable=True,
        )


def _succeeded(ti: Any, task_id: str) -> bool:
    """Whether another task of a task's run is a success by now."""
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id], task_ids=[task_id])[ti.run_id]
    return bool(states.get(task_id) == "success")


@contextmanager
def failure_noted(restore: RestoreSession, step: str) -> Iterator[None]:
    """Say in the journal which step failed, for the report. What it said is in its log alone: it may have values of the data in it."""
    try:
        yield
    except Exception:
        with suppress(OSError, RecoveryError):  # what the step said is what the operator has to read
            if restore.began and not restore.journal.closed:
                restore.journal.record(Step.FAILED, what=step)
        raise


def skip_dry_run(restore: RestoreSession) -> None:
    """Skip the task in a dry run."""
    if restore.request().dry_run:
        raise AirflowSkipException("This is a dry run: nothing is changed.")


def skip_without_cutover(restore: RestoreSession) -> None:
    """Skip the task if nothing is cut over."""
    if restore.beside:
        raise AirflowSkipException("With method beside nothing is cut over: what was restored stays beside the live data.")


def skip_if_false(done: object) -> None:
    """A step returns False where there was nothing to do for it."""
    if done is False:
        raise AirflowSkipException("There was nothing to do; see the log above.")


def skip_ahead(*task_ids: str) -> NoReturn:
    """End this task with success, and skip others of its run before they start: a task that finds out by itself costs a process."""
    raise DownstreamTasksSkipped(tasks=list(task_ids))  # type: ignore[no-untyped-call]


def failed_before(ti: Any) -> list[str]:
    """The tasks of a task's run that failed by themselves, and not because of another."""
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id])[ti.run_id]
    return [task_id for task_id, state in states.items() if state == "failed" and task_id != ti.task_id]


def check_parameters(dag: Any, dag_run: Any) -> None:
    """Refuse parameters that the DAG doesn't know, which Airflow hands to the tasks all the same, and what is no text.

    Raises:
        PlanError: with the unknown names and the known ones, or with the names of parameters that have half a character.
    """
    if broken := [ascii(name) for name, value in (dag_run.conf or {}).items() if not _can_be_written([name, value])]:
        raise PlanError(
            f"The parameter {', '.join(broken)} has half of a character (a lone surrogate, as \\ud800 in JSON), which is no text.",
            "Write it again without, and trigger a new run.",
        )
    unknown = set(dag_run.conf or {}) - set(dag.params)
    if unknown:
        raise PlanError(
            f"This DAG has no parameter {', '.join(sorted(unknown))}; it has {', '.join(sorted(dag.params))}.",
            "Trigger it again without, or with the right name.",
        )


def _can_be_written(value: object) -> bool:
    """Whether all texts of a value can be encoded: JSON may have halves of characters."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_cleared(dag_run: Any) -> None:
    """Refuse to begin again in the name of who triggered the run: whoever cleared it could then approve their own restore.

    Raises:
        ApprovalError: if the run was cleared.
    """
    if dag_run.clear_number:
        raise ApprovalError("This run was cleared, so who asked for it is not known.", "Trigger a new restore.")


def to_be_watched(plan: Plan) -> Asset:
    """What a restore emits when it begins to look at its target, and a cold backup when services are stopped: maintenance then watches."""
    return Asset(f"x-recovery://{plan.plan}/to-be-watched")


def only_watches(dag_run: Any) -> bool:
    """Whether a run of maintenance is there to watch a restore or a cold backup, and for nothing else."""
    return bool(dag_run.run_type == "asset_triggered")


def schedule(plan: Plan) -> CronTriggerTimetable | None:
    """The plan's cron expression in the plan's timezone; None for runs by hand only."""
    return CronTriggerTimetable(plan.schedule, timezone=plan.timezone) if plan.schedule else None


def in_queue(queue: str | None) -> dict[str, Any]:
    """The arguments of a task for a queue of the plan; none leaves Airflow's own."""
    return {"queue": queue} if queue else {}


def of_dump(plan: Plan, source_id: str) -> dict[str, Any]:
    """The arguments of a source's dump.

    When there are fewer slots than tasks, snapshots go first, since scans hold a slot and wait for them.
    """
    source = plan.source(source_id)
    pool = {"pool": source.pool} if isinstance(source, ServerSettings) and source.pool else {}
    return pool | {"priority_weight": 10 if source.snapshot else 1, "trigger_rule": TriggerRule.NONE_FAILED}


def defaults(plan: Plan, retries: int, queue: str | None) -> dict[str, Any]:
    """What all tasks of a plan's DAG have in common."""
    return in_queue(queue) | {
        "owner": plan.owner,
        "retries": retries,
        "retry_delay": plan.retry_delay,
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": plan.timeout,
    }


def sources_parameter(sources: Iterable[str], description: str, **schema: Any) -> Param:
    """A form field to choose sources from; all of them are chosen to begin with."""
    ids = list(sources)
    choices: dict[str, Any] = {"examples": ids, "items": {"type": "string", "enum": ids}, "uniqueItems": True, "minItems": 1}
    return Param(ids, type="array", description=description, **choices, **schema)


def text_parameter(description: str, **schema: Any) -> Param:
    """A form field for a text that may be left empty, which the UI sends as null: of an empty text it says that the field is required."""
    return Param(None, type=["null", "string"], description=description, **schema)


def with_form(dag: DAG, form: Mapping[str, Param]) -> DAG:
    """The DAG with its params, given to it when all of its tasks are there. Airflow checks the defaults, as it does at construction.

    Not before: Airflow copies the params that a DAG has by then into each new task, deeply and four times over. That was a third of a
    parse, and most of what was then stored. A task without any of its own is run with its DAG's all the same.
    """
    dag.params = ParamsDict(form)
    return dag


SERVICES_PRIORITY = 1_000_000
"""Weight of what starts services again: it takes the next free slot, before any other task of any DAG, since people wait."""


def group_id(source_id: str) -> str:
    """A source's name for a task group, which takes no dots."""
    return source_id.replace(".", "_")


def documentation(family: str, plan: Plan, destinations: Iterable[str] = ()) -> str:
    """The text on a DAG's page: what it does, and what to do when it is red."""
    text = (Path(__file__).parent / "dag_docs" / f"{family}.md").read_text(encoding="utf-8")
    sources = ", ".join(f"`{source_id}`" for source_id in plan.source_ids)
    return text.format(plan=plan.plan, sources=sources, destinations=", ".join(f"`{name}`" for name in destinations or plan.destinations))
