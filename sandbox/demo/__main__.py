"""``make demo``: back up a sample OpenManus through Airflow, destroy it, restore it gate by gate, and verify that all came back."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from recovery.common.units import human_duration
from sandbox.airflow import Airflow
from sandbox.demo.pictures import Pictures
from sandbox.fingerprints import Fingerprints
from sandbox.person import Person, Refused, Task
from sandbox.system import System

BACKUP, DRILL, RESTORE, MAINTENANCE = (f"openmanus_{each}" for each in ("backup", "drill", "restore", "maintenance"))

_OVER = ("success", "failed", "upstream_failed", "up_for_retry", "awaiting_input")
_SIGNS = {"success": "✔", "skipped": "–", "awaiting_input": "…"}


class DemoError(Exception):
    """The demo could not show what it promises."""


def main() -> int:
    """Run the demo; the exit status is 0 only if everything came back equal."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="recovery-demo-"))
    folder.chmod(0o755)
    screenshots = Path(os.environ["DEMO_SCREENSHOTS"]) if os.environ.get("DEMO_SCREENSHOTS") else None
    try:
        return _demo(folder, screenshots)
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    except (DemoError, TimeoutError, Refused) as error:
        print(f"\n✘ {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _demo(folder: Path, screenshots: Path | None) -> int:
    started = time.monotonic()
    with System(folder, float(os.environ.get("DEMO_SCALE", "1"))) as system:
        with _step("Making a sample OpenManus: PostgreSQL 18, MongoDB, uploads, configuration, S3"):
            system.fill()
        with _step("Taking its fingerprints, independently of what is to be verified"):
            before = system.fingerprint()
        airflow = system.airflow()
        with _step("Starting Airflow"):
            airflow.start()
        try:
            operator, approver = airflow.user("operator"), airflow.user("approver")
            operator.wait_dags(BACKUP, DRILL, RESTORE)
            operator.unpause(BACKUP, DRILL, RESTORE)
            print(
                f"\nAirflow's UI: {airflow.url}  (operator / {airflow.passwords['operator']}, approver / {airflow.passwords['approver']})"
            )
            pictures = Pictures(airflow, screenshots)
            _back_up(operator, pictures)
            _drill(operator, pictures)
            pictures.form("restore_form", RESTORE)
            pictures.form("maintenance_form", MAINTENANCE)
            with _step("\nDisaster: the database and the collections are dropped, uploads and .env deleted"):
                system.disaster()
            took = _restore(operator, approver, pictures)
            with _step("\nTaking the fingerprints again"):
                after = system.fingerprint()
            equal = _equal(before, after)
            print(f"Restored in {human_duration(took)}, approvals included; the RTO is 2 h.")
            print(f"The demo took {human_duration(time.monotonic() - started)}.")
            if sys.stdin.isatty() and os.environ.get("CI") != "true":
                _stay(airflow)
        finally:
            airflow.stop()
    return 0 if equal else 1


def _back_up(operator: Person, pictures: Pictures) -> None:
    print(f"\nBackup: {BACKUP}, triggered by operator")
    run = operator.trigger(BACKUP)
    state = operator.wait_run(BACKUP, run, on_task=_show)
    _refuse(state, operator, BACKUP, run)
    for name in ("upload.local", "upload.offsite"):
        line = next(line["event"] for line in operator.log_lines(BACKUP, run, name) if " holds set " in str(line.get("event")))
        print(f"  {line}")
    groups = [name.removesuffix(".dump") for name in operator.states(BACKUP, run) if name.endswith(".dump")]
    pictures.graph("backup", BACKUP, run, groups)


def _drill(operator: Person, pictures: Pictures) -> None:
    print(f"\nDrill: {DRILL}, triggered by operator: the set is restored into servers of its own, verified, and removed")
    run = operator.trigger(DRILL)
    state = operator.wait_run(DRILL, run, on_task=_show)
    _refuse(state, operator, DRILL, run)
    report = operator.log_text(DRILL, run, "report")
    lines = report[report.index("# Drill") :].splitlines()
    print("\n".join(f"  │ {line}" for line in takewhile(lambda line: not line.startswith("20"), lines)))  # then come lines of the log
    pictures.report("drill_report", DRILL, run)


def _restore(operator: Person, approver: Person, pictures: Pictures) -> float:
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


def _equal(before: dict[str, Fingerprints], after: dict[str, Fingerprints]) -> bool:
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
def _step(what: str) -> Iterator[None]:
    print(f"{what} … ", end="", flush=True)
    started = time.monotonic()
    yield
    print(human_duration(time.monotonic() - started), flush=True)


def _stay(airflow: Airflow) -> None:
    print(f"\nLook around: {airflow.url}")
    for user in ("operator", "approver"):
        print(f"  {user} / {airflow.passwords[user]}")
    print("Ctrl-C stops everything.")
    try:
        while True:
            time.sleep(1)
            airflow.check()
    except KeyboardInterrupt:
        print("\nstopping")


if __name__ == "__main__":
    sys.exit(main())
