"""``<plan>_restore``: choose a set, stage it beside the live data, verify it, cutover; three gates, and a rollback.

The work is in ``include/recovery/restore``: ``choose_set.py``, ``preflight.py``, ``steps.py``, ``rollback.py`` and ``report/``; the
gates are in ``include/recovery/airflow/gates.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, TaskGroup, TriggerRule, chain, task

from recovery.airflow import mail, restore_form, tasks
from recovery.airflow.dags import build_all
from recovery.airflow.gates import Gate
from recovery.plan.model import Plan
from recovery.restore import choose_set as restore_choose_set
from recovery.restore import hooks, preflight, rollback, steps
from recovery.restore import safety_backup as restore_safety_backup
from recovery.restore.report import write


@task
@tasks.operator_errors
def choose_set(plan: str, params: dict[str, Any], dag: Any, dag_run: Any) -> None:
    tasks.check_parameters(dag, dag_run)
    tasks.refuse_cleared(dag_run)
    who = dag_run.triggering_user_name or ""
    asked = restore_form.request(params, run_id=dag_run.run_id, requester=who, started=dag_run.start_date)
    restore_choose_set.choose(tasks.restore_session(plan, dag_run), asked)


look_before = tasks.of_restore(preflight.preflight, changes=False)
safety_backup = tasks.of_restore(restore_safety_backup.back_up_live, "safety_backup")
stop_services, start_services = map(tasks.of_restore, (steps.stop_services, steps.start_services))
check_system, finalize = map(tasks.of_restore, (steps.check_system, rollback.finalize))
before = tasks.of_restore(hooks.before_restore)
roll_back, after, discard = (
    tasks.of_restore(step, changes=False).override(
        retries=3, retry_delay=timedelta(seconds=10)
    )  # a worker may die during the rollback, too
    for step in (rollback.roll_back, hooks.after_restore, rollback.discard)
)
write_report = tasks.of_restore(write.finish, "report", changes=False)


def build(plan: Plan) -> DAG:
    """The restore DAG of a plan."""
    with DAG(
        dag_id=f"{plan.plan}_restore",
        description=f"Restore {plan.plan} from a backup set, gate by gate",
        doc_md=tasks.documentation("restore", plan),
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        auto_register=False,  # half a DAG is none
        allowed_run_types=tasks.RUN_TYPES,
        max_active_runs=8,  # a run that waits at a gate must not hold up an emergency; those that go to one place refuse each other
        default_args=tasks.defaults(plan, retries=0, queue=plan.queues.opening) | {"trigger_rule": TriggerRule.NONE_FAILED},
        on_failure_callback=mail.on_failure(plan, "Restore"),
        tags=["recovery", "restore", plan.plan],
    ) as dag:
        approve_plan = Gate(task_id="approve_plan", plan=plan, gate="plan")
        approve_cutover = Gate(task_id="approve_cutover", plan=plan, gate="cutover")
        accept = Gate(task_id="accept", plan=plan, gate="accept", trigger_rule=TriggerRule.ALL_DONE)
        chain(choose_set(plan.plan), look_before.override(outlets=[tasks.to_be_watched(plan)])(plan.plan), approve_plan)
        with TaskGroup("stage_and_verify"):
            for source in plan.source_ids:
                staged = tasks.of_restored_source(steps.stage, f"stage.{source}", plan, source)
                verified = tasks.of_restored_source(steps.verify, f"verify.{source}", plan, source)
                approve_plan >> staged >> verified >> approve_cutover
        with TaskGroup("cutover"):
            cutovers = [tasks.of_restored_source(steps.cut_over, source, plan, source, of_cutover=True) for source in plan.source_ids]
        chain(
            approve_cutover,
            *([before(plan.plan)] if plan.hooks.before_restore else []),
            stop_services(plan.plan),
            safety_backup(plan.plan),
            *cutovers,
            start_services(plan.plan),
            check_system(plan.plan),
            accept,
            finalize(plan.plan),
            roll_back(plan.plan).as_teardown(),
            *([after(plan.plan).as_teardown()] if plan.hooks.after_restore else []),
            discard(plan.plan).as_teardown(),
            write_report(plan.plan).as_teardown(on_failure_fail_dagrun=True),
        )
    return tasks.with_form(dag, restore_form.fields(plan))


dags, faults = build_all("restore", build)
globals().update(dags)  # where Airflow finds them
