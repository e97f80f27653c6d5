"""``<plan>_maintenance``: once a day, remove the copies that restores set aside, when the plan's days for them are over."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, task

from recovery import alerts, copies, tasks
from recovery.connections import from_airflow
from recovery.plan import Plan
from recovery.plans import load_plan


@task
@tasks.in_words
def drop_old_copies(plan: str) -> None:
    copies.drop_old(load_plan(plan), from_airflow)


def build(plan: Plan) -> DAG:
    """The maintenance DAG of a plan."""
    with DAG(
        dag_id=f"{plan.plan}_maintenance",
        description=f"Remove what restores of {plan.plan} set aside, after {plan.keep_before.days} days",
        doc_md=tasks.documentation("maintenance", plan),
        schedule="@daily",
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        default_args=tasks.defaults(plan, retries=plan.retries),
        on_failure_callback=alerts.on_failure(plan, "Maintenance"),
        tags=["recovery", "maintenance", plan.plan],
    ) as dag:
        drop_old_copies(plan.plan)
    return dag


for each in tasks.plans_to_build("maintenance"):
    build(each)
