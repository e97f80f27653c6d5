"""``<plan>_restore``: choose a set, stage it beside the live data, prove it, switch; three gates, and a way back.

The work is in ``include/recovery``: ``preflight.py``, ``restore.py``, ``report.py``, and the gates in ``gates.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param, TaskGroup, TriggerRule, chain, task

from recovery import alerts, preflight, report, restore, tasks
from recovery.gates import Gate
from recovery.plan import Plan
from recovery.restore_run import Request


@task
@tasks.in_words
def choose_set(plan: str, params: dict[str, Any], dag: Any, dag_run: Any) -> None:
    tasks.check_parameters(dag, dag_run)
    tasks.refuse_cleared(dag_run)
    asked = Request(run_id=dag_run.run_id, requester=dag_run.triggering_user_name or "", started=dag_run.start_date, **params)
    preflight.choose(tasks.restore_run(plan, dag_run), asked)


look_before = tasks.of_restore(preflight.preflight)
stop_services, start_services = map(tasks.of_restore, (restore.stop_services, restore.start_services))
check_system, keep = map(tasks.of_restore, (restore.check_system, restore.keep))
switch_back, discard = (
    tasks.of_restore(step).override(retries=3, retry_delay=timedelta(seconds=10))  # a worker may die on the way back, too
    for step in (restore.switch_back, restore.discard)
)
write_report = tasks.of_restore(report.finish, "report")


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
        approve_plan = Gate(task_id="approve_plan", plan=plan, gate="plan", subject="May this set be restored beside the live data?")
        approve_switch = Gate(
            task_id="approve_switch", plan=plan, gate="switch", subject="May the restored data take the place of the live data?"
        )
        accept = Gate(
            task_id="accept", plan=plan, gate="accept", subject="Is the restored system as it should be?", trigger_rule=TriggerRule.ALL_DONE
        )
        chain(choose_set(plan.plan), look_before(plan.plan), approve_plan)
        with TaskGroup("stage_and_prove"):
            for source in plan.source_ids:
                staged = tasks.of_restored_source(restore.stage, f"stage.{source}", plan, source)
                proven = tasks.of_restored_source(restore.prove, f"prove.{source}", plan, source)
                approve_plan >> staged >> proven >> approve_switch
        with TaskGroup("switch"):
            switches = [tasks.of_restored_source(restore.switch, source, plan, source) for source in plan.source_ids]
        chain(
            approve_switch,
            stop_services(plan.plan),
            *switches,
            start_services(plan.plan),
            check_system(plan.plan),
            accept,
            keep(plan.plan),
            switch_back(plan.plan).as_teardown(),
            discard(plan.plan).as_teardown(),
            write_report(plan.plan).as_teardown(on_failure_fail_dagrun=True),
        )
    return dag


for each in tasks.plans_to_build("restore"):
    build(each)
