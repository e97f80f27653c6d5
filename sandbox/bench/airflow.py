"""What Airflow adds to a backup: the real DAG on a tiny system, against the same steps called directly."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from recovery.plan.model import Plan
from recovery.sets.layout import new_set_id
from sandbox.bench.processes import Spent, tree_cpu_seconds
from sandbox.bench.steps import plan_of
from sandbox.bench.tasks import Tasks, take, task_environment
from sandbox.system import System

DAG = "openmanus_backup"
_SCALE = 0.01
_RUNS = 2


def added(folder: Path) -> dict[str, Any]:
    """What the DAG's runs took and the steps alone, and the difference of their medians, in seconds and in processor seconds.

    Those of a run are of all Airflow processes and the metadata server; the system's own servers count neither here nor there.
    """
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
                before = tree_cpu_seconds(*airflow.roots)
                run = operator.trigger(DAG)
                state = operator.wait_run(DAG, run)
                if state != "success":
                    raise RuntimeError(f"{DAG} ended {state}")
                used = tree_cpu_seconds(*airflow.roots) - before
                runs.append(Spent(_duration(operator.call("GET", f"/dags/{DAG}/dagRuns/{run}")), used))
            tasks = len(operator.tasks(DAG, run))
    added = [median(run) - median(alone) for run, alone in zip(zip(*runs, strict=True), zip(*direct, strict=True), strict=True)]
    return {"tasks": tasks, "runs": runs, "directly": direct, "adds": Spent(*added)}


def _duration(run: dict[str, Any]) -> float:
    started, ended = (datetime.fromisoformat(run[key]) for key in ("start_date", "end_date"))
    return (ended - started).total_seconds()


def _directly(system: System, number: int) -> Spent:
    path = system.plans / "openmanus.yaml"
    plan = plan_of(path)
    environment = task_environment(system.connections(), system.folder, system.plans)
    run = new_set_id(datetime.now(UTC), f"direct {number}")
    seconds = used = 0.0
    for stage in _stages(plan):
        chains = [Tasks(path, run, steps, environment) for steps in stage]
        seconds += take(chains)
        used += sum(step.cpu_seconds for chain in chains for step in chain.steps)
    return Spent(seconds, used)


def _stages(plan: Plan) -> list[list[list[str]]]:
    """The DAG's tasks in the order of their waiting: chains side by side, one stage after another."""
    return [
        [["prepare:"]],
        [[f"dump:{source}", f"compress:{source}", f"verify:{source}"] for source in plan.source_ids],
        [[f"upload:{name}", f"prune:{name}"] for name in plan.destinations],
        [["finish:"]],
    ]
