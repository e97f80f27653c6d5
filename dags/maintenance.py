"""``<plan>_maintenance``: once a day, remove the copies that restores set aside, when the plan's days for them are over.

A restore that begins, or a cold backup, starts it too: then it watches until that has ended, since a DAG that is paused raises no alarm.
Triggered by hand with a set's id, it also releases the set's holds, or confirms the gap after it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, task

from recovery.airflow import mail, tasks
from recovery.airflow.dags import build_all
from recovery.airflow.future_runs import refuse_future_runs
from recovery.common.errors import RestoreError
from recovery.common.units import human_duration
from recovery.maintenance import gaps, holds, replaced_copies
from recovery.maintenance.watch import watch
from recovery.plan.model import Plan


@task
@tasks.operator_errors
def drop_replaced_data(plan: str, dag_run: Any) -> None:
    tasks.skip_if_false(not tasks.only_watches(dag_run))
    replaced_copies.drop_old_copies(tasks.context(plan))


@task
@tasks.operator_errors
def release_holds(plan: str, params: dict[str, Any], dag: Any, dag_run: Any) -> None:
    tasks.check_parameters(dag, dag_run)
    tasks.skip_if_false(bool(params["release_holds"]))
    holds.release_holds(tasks.context(plan), params["release_holds"], dag_run.triggering_user_name or "nobody known")


@task
@tasks.operator_errors
def confirm_gap(plan: str, params: dict[str, Any], dag: Any, dag_run: Any) -> None:
    tasks.check_parameters(dag, dag_run)
    tasks.skip_if_false(bool(params["confirm_gap"]))
    gaps.confirm_gap(tasks.context(plan), params["confirm_gap"], dag_run.triggering_user_name or "nobody known")


@task
@tasks.operator_errors
def watch_restores(plan: str, dag_run: Any, **context: Any) -> None:
    loaded = tasks.context(plan).plan
    try:
        go_on = watch(loaded)
    except RestoreError as error:
        mail.restore_stalled(loaded, str(error), {"dag_run": dag_run, **context})
        raise
    if go_on and tasks.only_watches(dag_run):
        tasks.look_again()


@task
@tasks.operator_errors
def watch_runs(plan: str, dag_run: Any) -> None:
    tasks.skip_if_false(not tasks.only_watches(dag_run))
    refuse_future_runs(tasks.context(plan).plan)


def build(plan: Plan) -> DAG:
    """The maintenance DAG of a plan."""
    with DAG(
        dag_id=f"{plan.plan}_maintenance",
        description=f"Remove what restores of {plan.plan} set aside, after {human_duration(plan.keep_replaced)}; watch restores",
        doc_md=tasks.documentation("maintenance", plan),
        schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("@daily", timezone="UTC"), assets=[tasks.to_be_watched(plan)]),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        auto_register=False,  # half a DAG is none
        allowed_run_types=tasks.RUN_TYPES,
        max_active_runs=8,  # one that watches a restore must not hold up what somebody triggers meanwhile
        default_args=tasks.defaults(plan, retries=plan.retries, queue=plan.queues.backup),
        on_failure_callback=mail.on_failure(plan, "Maintenance"),
        tags=["recovery", "maintenance", plan.plan],
    ) as dag:
        drop_replaced_data.override(max_active_tis_per_dag=1)(plan.plan)
        release_holds(plan.plan)
        confirm_gap(plan.plan)
        watch_restores(plan.plan)
        watch_runs(plan.plan)
    return tasks.with_form(
        dag,
        {
            "release_holds": tasks.text_parameter("Id of a set that prune may remove again; empty for none."),
            "confirm_gap": tasks.text_parameter(
                "Id of a set after which no set was made for long: you have looked, and no clock is wrong. Empty for none."
            ),
        },
    )


dags, faults = build_all("maintenance", build)
globals().update(dags)  # where Airflow finds them
