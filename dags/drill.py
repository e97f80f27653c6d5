"""``<plan>_drill``: restore the newest valid set for practice, elsewhere; the same steps as a restore, without gates.

The work is in ``include/recovery``: ``drill/steps.py`` chooses the set and creates the scratch servers,
``restore/report/drill_proof.py`` judges; the rest is that of a restore.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, CronTriggerTimetable, Param, TaskGroup, TriggerRule, chain, task

from recovery.airflow import mail, tasks
from recovery.airflow.dags import build_all
from recovery.drill import steps as drill_steps
from recovery.plan.model import Plan
from recovery.restore import preflight, rollback
from recovery.restore import steps as restore_steps

IN_TURN = "in turn"


@task.short_circuit
@tasks.operator_errors
def choose_set(plan: str, params: dict[str, Any], dag: Any, dag_run: Any) -> bool:
    tasks.check_parameters(dag, dag_run)
    person = dag_run.triggering_user_name
    asked = drill_steps.DrillRequest(
        person=person or "the schedule",
        by_hand=dag_run.run_type == "manual",
        set=params["set"],
        destination="" if params["destination"] == IN_TURN else params["destination"],
        sources=tuple(params["sources"]),
    )
    return drill_steps.choose_drill(tasks.restore_session(plan, dag_run), asked)


start_scratch = tasks.of_restore(drill_steps.start_scratch)
look_before = tasks.of_restore(preflight.preflight)
stop_services, start_services = map(tasks.of_restore, (restore_steps.stop_services, restore_steps.start_services))
check_system = tasks.of_restore(restore_steps.check_system)
roll_back, discard = (
    tasks.of_restore(step, changes=False).override(retries=3, retry_delay=timedelta(seconds=10))
    for step in (rollback.roll_back, rollback.discard)
)
write_report = tasks.of_restore(drill_steps.finish, "report", changes=False)


def schedule(plan: Plan) -> Any:
    """By the clock, whenever a complete set was made, both, or by hand only, as the plan says."""
    by_clock = CronTriggerTimetable(plan.drill.schedule, timezone=plan.timezone) if plan.drill.schedule else None
    if not plan.drill.on_new_set:
        return by_clock
    sets = [Asset(f"x-recovery://{plan.plan}/complete-set")]
    return AssetOrTimeSchedule(timetable=by_clock, assets=sets) if by_clock else sets


def form(plan: Plan) -> dict[str, Param]:
    """What a drill by hand is asked."""
    return {
        "set": Param("latest", type="string", description="latest, or the id of a set, as in 20261123T010000Z-4f2a."),
        "destination": Param(
            IN_TURN,
            enum=[IN_TURN, *plan.destinations],
            description=f"Destination to fetch the set from; {IN_TURN}: the one whose last drill is the longest ago.",
        ),
        "sources": tasks.sources_parameter(drill_steps.sources(plan), "Sources to restore for practice."),
    }


def build(plan: Plan) -> DAG:
    """The drill DAG of a plan."""
    sources = drill_steps.sources(plan)
    with DAG(
        dag_id=f"{plan.plan}_drill",
        description=f"Verify that the newest set of {plan.plan} can be restored, and how long that takes",
        doc_md=tasks.documentation("drill", plan, drill_steps.destinations(plan)),
        schedule=schedule(plan),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        auto_register=False,  # half a DAG is none
        allowed_run_types=tasks.RUN_TYPES,
        max_active_runs=1,
        default_args=tasks.defaults(plan, retries=0, queue=plan.drill.queue or plan.queues.opening)
        | {"trigger_rule": TriggerRule.NONE_FAILED},
        on_failure_callback=mail.on_failure(plan, "Drill"),
        tags=["recovery", "drill", plan.plan],
    ) as dag:
        looked = look_before(plan.plan)
        stopped = stop_services(plan.plan)
        chain(choose_set.override(retries=plan.retries)(plan.plan), start_scratch(plan.plan), looked)
        with TaskGroup("stage_and_verify"):
            for source in sources:
                staged = tasks.of_restored_source(restore_steps.stage, f"stage.{source}", plan, source)
                verified = tasks.of_restored_source(restore_steps.verify, f"verify.{source}", plan, source)
                looked >> staged >> verified >> stopped
        with TaskGroup("cutover"):
            cutovers = [tasks.of_restored_source(restore_steps.cut_over, source, plan, source) for source in sources]
        chain(
            stopped,
            *cutovers,
            start_services(plan.plan),
            check_system(plan.plan),
            roll_back(plan.plan).as_teardown(),
            discard(plan.plan).as_teardown(),
            write_report.override(on_success_callback=mail.on_left_out(plan))(plan.plan).as_teardown(on_failure_fail_dagrun=True),
        )
    return tasks.with_form(dag, form(plan))


dags, faults = build_all("drill", build)
globals().update(dags)  # where Airflow finds them
