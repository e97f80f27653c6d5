"""Runs whose logical date is in the future: Airflow starts none of their tasks before it, and tells nobody but its scheduler's log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from recovery.common.errors import PlanError
from recovery.common.units import human_moment, now
from recovery.plan.model import Plan

_FAMILIES = ("backup", "restore", "drill", "maintenance")
_SOON = timedelta(minutes=5)
"""So much later a run begins by itself before anybody looks, or the scheduler's clock differs from the worker's."""
_END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)


def refuse_future_runs(plan: Plan) -> None:
    """Look at the plan's DAGs for a run that waits for its logical date.

    Raises:
        PlanError: if there is one.
    """
    dags = [f"{plan.plan}_{family}" for family in _FAMILIES]
    if waiting := [words for dag_id in dags if (words := _future_run(dag_id))]:
        raise PlanError(
            f"The logical date of {', of '.join(waiting)} is in the future. Airflow starts no task of such a run before that date. A"
            " backup or drill that waits keeps all later ones from starting.",
            "Mark that run as failed. If it goes on to show as running, it waits for its teardowns: mark its tasks without a state as"
            " failed, and then the run once more. If it is still needed, trigger another, and leave its logical date as it is.",
        )


def _future_run(dag_id: str) -> str:
    """The running run with the last logical date, if that is in the future; else nothing."""
    from airflow.sdk.execution_time import task_runner  # what a task alone needs, a parse of the DAG does not load
    from airflow.sdk.execution_time.comms import GetPreviousDagRun, PreviousDagRunResult

    latest = GetPreviousDagRun(dag_id=dag_id, logical_date=_END_OF_TIME, state="running")
    found = task_runner.SUPERVISOR_COMMS.send(latest)
    run = found.dag_run if isinstance(found, PreviousDagRunResult) else None
    if run is None or run.logical_date is None or run.logical_date <= now() + _SOON:
        return ""
    return f"run {run.run_id!r} of {dag_id}, {human_moment(run.logical_date)},"
