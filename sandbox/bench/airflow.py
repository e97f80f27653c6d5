"""What Airflow adds to a backup: the real DAG on a tiny system, against the same steps called directly."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from recovery.plan.model import Plan
from recovery.sets.layout import new_set_id
from sandbox.bench.bed import Tasks, take, task_environment
from sandbox.bench.steps import plan_of
from sandbox.system import System

DAG = "openmanus_backup"
_SCALE = 0.01
_RUNS = 2


def added(folder: Path) -> dict[str, Any]:
    """Seconds of the DAG's runs and of the steps alone, and the difference of their medians."""
    with System(folder, _SCALE) as system:
        system.fill()
        direct = [_directly(system, number) for number in range(_RUNS)]
        airflow = system.airflow()
        with airflow:
            operator = airflow.user("operator")
            operator.wait_dags(DAG)
            operator.unpause(DAG)
            runs = []
            for _ in range(_RUNS):
                run = operator.trigger(DAG)
                state = operator.wait_run(DAG, run)
                if state != "success":
                    raise RuntimeError(f"{DAG} ended {state}")
                runs.append(_duration(operator.call("GET", f"/dags/{DAG}/dagRuns/{run}")))
            tasks = len(operator.tasks(DAG, run))
    return {"tasks": tasks, "runs": runs, "directly": direct, "adds": median(runs) - median(direct)}


def _duration(run: dict[str, Any]) -> float:
    started, ended = (datetime.fromisoformat(run[key]) for key in ("start_date", "end_date"))
    return (ended - started).total_seconds()


def _directly(system: System, number: int) -> float:
    path = system.plans / "openmanus.yaml"
    plan = plan_of(path)
    environment = task_environment(system.connections(), system.folder)
    run = new_set_id(datetime.now(UTC), f"direct {number}")
    return sum(take([Tasks(path, run, steps, environment) for steps in stage]) for stage in _stages(plan))


def _stages(plan: Plan) -> list[list[list[str]]]:
    """The DAG's tasks in the order of their waiting: chains side by side, one stage after another."""
    return [
        [["prepare:"]],
        [[f"dump:{source}", f"compress:{source}", f"verify:{source}"] for source in plan.source_ids],
        [[f"upload:{name}", f"prune:{name}"] for name in plan.destinations],
        [["finish:"]],
    ]
