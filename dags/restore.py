"""``<plan>_restore``: choose a set, stage it beside the live data, prove it, switch; three gates, and a way back.

The tasks' work is in ``include/recovery``: ``preflight.py``, ``restore.py``, ``report.py``, and ``gates.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, TaskGroup, TriggerRule, chain, task
from airflow.sdk.exceptions import AirflowSkipException

from recovery import alerts, preflight, report, restore, tasks
from recovery.approvals import Gate as GateName
from recovery.gates import Gate
from recovery.plan import Plan
from recovery.restore_run import Request, RestoreRun


def selected(plan: str, source: str, dag_run: Any) -> RestoreRun:
    run = tasks.restore_run(plan, dag_run)
    if source not in run.request().sources:
        raise AirflowSkipException(f"{source} is not among the sources to restore.")
    return run


@task
@tasks.in_words
def choose_set(plan: str, params: dict[str, Any], dag_run: Any) -> None:
    tasks.check_parameters(params, dag_run)
    asked = Request(run_id=dag_run.run_id, requester=dag_run.triggering_user_name or "", started=dag_run.start_date, **params)
    preflight.choose(tasks.restore_run(plan, dag_run), asked)


@task(task_id="preflight")
@tasks.in_words
def look_before(plan: str, dag_run: Any) -> None:
    preflight.preflight(tasks.restore_run(plan, dag_run))


@task
@tasks.in_words
def stage(plan: str, source: str, dag_run: Any) -> None:
    restore.stage(selected(plan, source, dag_run), source)


@task
@tasks.in_words
def prove(plan: str, source: str, dag_run: Any) -> None:
    restore.prove(selected(plan, source, dag_run), source)


@task
@tasks.in_words
def stop_services(plan: str, dag_run: Any) -> None:
    restore.stop_services(tasks.restore_run(plan, dag_run))


@task
@tasks.in_words
def switch(plan: str, source: str, dag_run: Any) -> None:
    restore.switch(selected(plan, source, dag_run), source)


@task
@tasks.in_words
def start_services(plan: str, dag_run: Any) -> None:
    restore.start_services(tasks.restore_run(plan, dag_run))


@task
@tasks.in_words
def check_system(plan: str, dag_run: Any) -> None:
    restore.check_system(tasks.restore_run(plan, dag_run))


@task
@tasks.in_words
def keep(plan: str, dag_run: Any) -> None:
    if not restore.in_use(run := tasks.restore_run(plan, dag_run)):
        raise AirflowSkipException("The restored system was not handed over, so there is nothing to keep.")
    restore.keep(run)


@task
@tasks.in_words
def switch_back(plan: str, dag_run: Any) -> None:
    if not restore.switch_back(tasks.restore_run(plan, dag_run)):
        raise AirflowSkipException("There is nothing to take back.")


@task
@tasks.in_words
def discard(plan: str, dag_run: Any) -> None:
    restore.discard(tasks.restore_run(plan, dag_run))


@task(task_id="report")
@tasks.in_words
def write_report(plan: str, dag_run: Any) -> None:
    report.finish(tasks.restore_run(plan, dag_run))


def build(plan: Plan) -> DAG:
    """The restore DAG of a plan."""
    with DAG(
        dag_id=f"{plan.plan}_restore",
        description=f"Restore {plan.plan} from a backup set, gate by gate",
        doc_md=tasks.documentation("restore", plan),
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        default_args=tasks.defaults(plan, retries=0) | {"trigger_rule": TriggerRule.NONE_FAILED},
        on_failure_callback=alerts.on_failure(plan, "Restore"),
        tags=["recovery", "restore", plan.plan],
        params={
            "set": Param("latest", type="string", description="latest, or the id of a set, as in 20261123T010000Z-4f2a."),
            "newest_before": Param(
                None,
                type=["null", "string"],
                description="Instead: the newest set of before a moment, with its offset: 2026-11-23T01:00:00+01:00.",
            ),
            "sources": tasks.sources_parameter(plan, "Sources to restore; the others are not touched."),
            "config": Param(
                "missing",
                enum=["missing", "all"],
                description="Configuration: bring back only what is missing, or replace what differs too (an old .env has old passwords).",
            ),
            "allow_stale": Param(False, type="boolean", description="Restore latest even if it is older than the RPO allows."),
        },
    ) as dag:
        resumed = {"retries": 3, "retry_delay": timedelta(seconds=10)}  # a worker may die on the way back, too
        chosen, found = choose_set(plan.plan), look_before(plan.plan)
        approve_plan = gate(plan, "plan", "May this set be restored beside the live data?")
        approve_switch = gate(plan, "switch", "May the restored data take the place of the live data?")
        accept = gate(plan, "accept", "Is the restored system as it should be?", trigger_rule=TriggerRule.ALL_DONE)
        with TaskGroup("stage_and_prove"):
            pairs = [(staged_task("stage", stage, plan, source), staged_task("prove", prove, plan, source)) for source in plan.source_ids]
        with TaskGroup("switch"):
            switches = [switch.override(task_id=source)(plan.plan, source) for source in plan.source_ids]
        chain(chosen, found, approve_plan)
        for staged, proven in pairs:
            approve_plan >> staged >> proven >> approve_switch
        chain(
            approve_switch,
            stop_services(plan.plan),
            *switches,
            start_services(plan.plan),
            check_system(plan.plan),
            accept,
            keep(plan.plan),
            switch_back.override(**resumed)(plan.plan).as_teardown(),
            discard.override(**resumed)(plan.plan).as_teardown(),
            write_report(plan.plan).as_teardown(on_failure_fail_dagrun=True),
        )
    return dag


def gate(plan: Plan, name: GateName, subject: str, **kwargs: Any) -> Gate:
    """A gate; it asks again where Airflow lost an answer."""
    return Gate(
        task_id=f"approve_{name}" if name != "accept" else name,
        plan=plan,
        gate=name,
        subject=subject,
        retries=3,
        retry_delay=timedelta(seconds=5),
        **kwargs,
    )


def staged_task(verb: str, function: Any, plan: Plan, source: str) -> Any:
    return function.override(task_id=f"{verb}.{source}")(plan.plan, source)


for each in tasks.plans_to_build("restore"):
    build(each)
