"""What the demo shows, on whichever Airflow it runs: a backup, a drill, a restore gate by gate, and the comparison."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile

from recovery.common.units import human_duration
from sandbox.demo.pictures import Pictures
from sandbox.fingerprints import Fingerprints
from sandbox.person import Person, Task

BACKUP, DRILL, RESTORE, MAINTENANCE = (f"openmanus_{each}" for each in ("backup", "drill", "restore", "maintenance"))

_OVER = ("success", "failed", "upstream_failed", "up_for_retry", "awaiting_input")
_SIGNS = {"success": "✔", "skipped": "–", "awaiting_input": "…"}


class DemoError(Exception):
    """The demo could not show what it promises."""


def back_up(operator: Person, pictures: Pictures) -> None:
    """Back up, and print where the set is."""
    print(f"\nBackup: {BACKUP}, triggered by operator")
    run = operator.trigger(BACKUP)
    state = operator.wait_run(BACKUP, run, on_task=_show)
    _refuse(state, operator, BACKUP, run)
    for name in ("upload.local", "upload.offsite"):
        line = next(line["event"] for line in operator.log_lines(BACKUP, run, name) if " holds set " in str(line.get("event")))
        print(f"  {line}")
    groups = [name.removesuffix(".dump") for name in operator.states(BACKUP, run) if name.endswith(".dump")]
    pictures.graph("backup", BACKUP, run, groups)


def drill(operator: Person, pictures: Pictures) -> None:
    """Drill the newest set, and print the report."""
    print(f"\nDrill: {DRILL}, triggered by operator: the set is restored into servers of its own, verified, and removed")
    run = operator.trigger(DRILL)
    state = operator.wait_run(DRILL, run, on_task=_show)
    _refuse(state, operator, DRILL, run)
    report = operator.log_text(DRILL, run, "report")
    lines = report[report.index("# Drill") :].splitlines()
    print("\n".join(f"  │ {line}" for line in takewhile(lambda line: not line.startswith("20"), lines)))  # then come lines of the log
    pictures.report("drill_report", DRILL, run)


def restore(operator: Person, approver: Person, pictures: Pictures) -> float:
    """Restore, printing and approving each gate; how long it took, in seconds."""
    print(f"\nRestore: {RESTORE}, triggered by operator, approved by approver")
    started = time.monotonic()
    run = operator.trigger(RESTORE)
    while gate := approver.next_gate(RESTORE, run, on_task=_show):
        print(f"\n  ── {gate.subject}\n")
        print("\n".join(f"  │ {line}" for line in re.sub(r"\\(\W|_)", r"\1", gate.body).splitlines()))
        pictures.gate(gate)
        approver.answer(gate)
        print("\n  approver: Approve\n")
    state = approver.run_state(RESTORE, run)
    _refuse(state, operator, RESTORE, run)
    pictures.report("restore_report", RESTORE, run)
    return time.monotonic() - started


def _refuse(state: str, operator: Person, dag_id: str, run: str) -> None:
    if state == "success":
        return
    words = []
    for task_id, task_state in operator.states(dag_id, run).items():
        if task_state == "failed":
            words.append(f"--- {task_id}\n{operator.log_text(dag_id, run, task_id)[-3000:]}")
    raise DemoError(f"{dag_id} ended {state}\n" + "\n".join(words))


def _show(task: Task) -> None:
    if task.state in _OVER:
        print(f"  {_SIGNS.get(task.state, '✘')} {task.task_id:<42} {task.state:<16} {human_duration(task.seconds)}", flush=True)


def equal(before: dict[str, Fingerprints], after: dict[str, Fingerprints]) -> bool:
    """Print both fingerprints side by side; whether they are equal."""
    print(f"\n{'source':<18}{'what':<34}{'before':>10}{'after':>10}  {'digest before':<14}{'digest after':<14}")
    equal = True
    for source, things in before.items():
        for name in sorted(things.keys() | after[source].keys()):
            old, new = things.get(name, (0, "missing")), after[source].get(name, (0, "missing"))
            equal = equal and old == new
            sign = "✔" if old == new else "✘ DIFFERENT"
            print(f"{source:<18}{name[:32]:<34}{old[0]:>10}{new[0]:>10}  {old[1][:12]:<14}{new[1][:12]:<14}{sign}")
    print(f"\n{'✔ EQUAL: everything came back; data loss: none' if equal else '✘ NOT EQUAL'}")
    return equal


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print what a block does, and how long it took."""
    print(f"{what} … ", end="", flush=True)
    started = time.monotonic()
    yield
    print(human_duration(time.monotonic() - started), flush=True)
