"""``<plan>_backup``: dump (parallel) > compress > verify > upload > prune, for every plan of the plan folder.

The tasks' work is in ``include/recovery``: ``backup.py`` for one source, ``closing.py`` for the set as a whole.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, Asset, Param, TaskGroup, TriggerRule, task
from airflow.sdk.exceptions import AirflowSkipException

from recovery import alerts, backup, closing, tasks
from recovery.connections import from_airflow
from recovery.plan import Plan
from recovery.plans import load_plan
from recovery.staging import RunRecord


@task
@tasks.in_words
def prepare(plan: str, params: dict[str, Any], dag_run: Any) -> None:
    tasks.check_parameters(params, dag_run)
    staged = tasks.staged_set(load_plan(plan), dag_run)
    asked = {"sources": params["sources"], "note": params["note"], "hold": params["hold"], "allow_empty": params["allow_empty"]}
    closing.prepare(
        staged, RunRecord(plan=plan, set_id=staged.id, run_id=dag_run.run_id, started=dag_run.start_date, **asked), from_airflow
    )


@task
@tasks.in_words
def dump(plan: str, source: str, params: dict[str, Any], dag_run: Any) -> None:
    if source not in params["sources"]:
        raise AirflowSkipException(f"{source} was left out by who started this run.")
    backup.dump(tasks.work(plan, source, dag_run))


@task
@tasks.in_words
def compress(plan: str, source: str, dag_run: Any) -> None:
    backup.compress(tasks.work(plan, source, dag_run))


@task
@tasks.in_words
def verify(plan: str, source: str, dag_run: Any) -> None:
    backup.verify(tasks.work(plan, source, dag_run))


@task(trigger_rule=TriggerRule.ALL_DONE)
@tasks.in_words
def upload(plan: str, destination: str, dag_run: Any) -> None:
    loaded = load_plan(plan)
    closing.upload(loaded, tasks.staged_set(loaded, dag_run), destination, from_airflow)


@task(trigger_rule=TriggerRule.NONE_FAILED)
@tasks.in_words
def prune(plan: str, destination: str, dag_run: Any) -> None:
    loaded = load_plan(plan)
    closing.prune(loaded, tasks.staged_set(loaded, dag_run), destination, from_airflow)


@task(trigger_rule=TriggerRule.NONE_FAILED)
@tasks.in_words
def finish(plan: str, dag_run: Any) -> None:
    loaded = load_plan(plan)
    if not closing.finish(loaded, tasks.staged_set(loaded, dag_run)):
        raise AirflowSkipException("The set lacks the sources that were left out, so it is not announced as a complete one.")


def build(plan: Plan) -> DAG:
    """The backup DAG of a plan."""
    with DAG(
        dag_id=f"{plan.plan}_backup",
        description=f"Back up {plan.plan}: {', '.join(plan.source_ids)}",
        doc_md=tasks.documentation("backup", plan),
        schedule=tasks.schedule(plan),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        default_args=tasks.defaults(plan, retries=plan.retries),
        on_failure_callback=alerts.on_failure(plan, "Backup"),
        on_success_callback=alerts.on_success(plan),
        tags=["recovery", "backup", plan.plan],
        params={
            "sources": tasks.sources_parameter(plan, "Sources to back up. A set without all of them is never the newest good one."),
            "note": Param("", type="string", maxLength=300, description="Why this backup is made; kept with the set."),
            "hold": Param(False, type="boolean", description="Never prune this set, until the hold is released."),
            "allow_empty": Param(False, type="boolean", description="Accept that a source has become empty since the last set."),
        },
    ) as dag:
        begun, verified, uploads = prepare(plan.plan), [], []
        for source in plan.source_ids:
            with TaskGroup(tasks.group_id(source), tooltip=source):
                verified.append(proven := verify(plan.plan, source))
                begun >> dump(plan.plan, source) >> compress(plan.plan, source) >> proven
        for name in plan.destinations:
            uploads.append(sent := upload.override(task_id=f"upload.{name}")(plan.plan, name))
            pruned = prune.override(task_id=f"prune.{name}")(plan.plan, name)
            verified >> sent >> pruned
            verified >> pruned
        [*verified, *uploads] >> finish.override(outlets=[Asset(f"recovery://{plan.plan}/complete-set")])(plan.plan)
    return dag


for each in tasks.plans_to_build("backup"):
    build(each)
