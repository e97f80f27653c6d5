"""What it takes to parse the DAG folder with few plans and with many, and to serialize the DAGs, as Airflow's DAG processor does.

Run as ``python -m sandbox.bench.parse PLAN_FOLDER`` it does so in its own process, and prints what it took as one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from recovery.plan.loader import DEFAULT_FOLDER
from sandbox.bench.processes import Spent
from sandbox.bench.tasks import PROJECT, task_environment

COUNTS = (1, 20, 200)
"""Numbers of plans that are measured."""

T = TypeVar("T")


def parse(folder: Path, counts: Sequence[int] = COUNTS) -> dict[str, dict[str, Any]]:
    """What it took, by number of plans, each in a process of its own: copies of the plan that ships, with names of their own."""
    return {str(count): _in_a_process(folder / str(count), count) for count in counts}


def _in_a_process(folder: Path, count: int) -> dict[str, Any]:
    import pyrage

    plans = folder / "plans"
    plans.mkdir(parents=True)
    text = (DEFAULT_FOLDER / "openmanus.yaml").read_text()
    for number in range(count):
        (plans / f"plan_{number}.yaml").write_text(text.replace("plan: openmanus", f"plan: plan_{number}"))
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    environment = task_environment({}, folder, plans) | {"AIRFLOW__CORE__LOAD_EXAMPLES": "False", "OPENMANUS_RECIPIENT": recipient}
    argv = [sys.executable, "-m", "sandbox.bench.parse", str(plans)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=PROJECT)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(plans: Path) -> dict[str, Any]:
    """Import what the DAG files import, parse them, serialize their DAGs.

    Raises:
        RuntimeError: if a DAG file has an error.
    """
    imports, _ = _measured(lambda: _import(plans.parent))
    parsing, bag = _measured(lambda: _bag(plans))
    if bag.import_errors:
        raise RuntimeError(f"The DAG folder has errors: {bag.import_errors}")
    storing, stored = _measured(lambda: _serialized(bag))
    return {"imports": imports, "parse": parsing, "serialize": storing, "bytes": len(stored), "dags": len(bag.dags)}


def _import(no_plans: Path) -> None:
    from airflow.sdk import Param

    _bag(no_plans)
    Param("", type="string").resolve()  # Airflow imports jsonschema when it checks the first field


def _bag(plans: Path) -> Any:
    from airflow.dag_processing.dagbag import DagBag

    os.environ["RECOVERY_PLANS"] = str(plans)
    return DagBag(PROJECT / "dags")


def _serialized(bag: Any) -> str:
    from airflow.serialization.serialized_objects import DagSerialization

    return json.dumps([DagSerialization.to_dict(dag) for dag in bag.dags.values()])


def _measured(work: Callable[[], T]) -> tuple[Spent, T]:
    started, before = time.monotonic(), time.process_time()
    done = work()
    return Spent(time.monotonic() - started, time.process_time() - before), done


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
