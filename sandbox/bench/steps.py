"""Tasks of a run, one after another in a process of its own, as the benchmark starts it: it imports, says so, and waits.

Arguments: plan file, id of the set or of the restore's run, then ``<step>:<source, destination or nothing>``. Prints a
JSON object a line: ``{"ready": <resident bytes>}``, then for each step when it begins and what it took. ``make bench
ARGS='--against COMMIT'`` starts this module of another commit: keys may be added here, and none changed.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recovery.airflow.connections import s3_client
from recovery.backup import finalize
from recovery.backup import steps as backup_steps
from recovery.backup import upload as backup_upload
from recovery.common.connections import Clients, Endpoint
from recovery.common.files import write_record
from recovery.packs.content_index import read_rows, write_rows
from recovery.plan.loader import BrokenPlan, read_plan
from recovery.plan.model import Plan
from recovery.restore import answers, choose_set, preflight, rollback
from recovery.restore import steps as restore_steps
from recovery.restore.gate_texts import gate_text
from recovery.restore.session import RestoreSession
from recovery.runs.context import PlanContext
from recovery.runs.restore_request import Request
from recovery.runs.staged_set import RunRecord, StagedSet
from sandbox.bench.processes import resident_bytes
from sandbox.bench.profiled import FOLDER, profiled


def clients(environment: Mapping[str, str]) -> Clients:
    """The Airflow Connections that an environment has, without Airflow but for S3."""

    def connect(connection_id: str) -> Endpoint:
        fields = json.loads(environment[f"AIRFLOW_CONN_{connection_id.upper()}"])
        return Endpoint(connection_id, **{key: value for key, value in fields.items() if key not in {"conn_type", "description"}})

    return Clients(connect, s3_client)


class BackupTasks:
    """What the tasks of the backup DAG call."""

    def __init__(self, context: PlanContext, set_id: str) -> None:
        self._context = context
        self._plan = context.plan
        self._staged = StagedSet(context.plan, set_id)

    def _work(self, source_id: str) -> backup_steps.Work:
        return backup_steps.Work(self._context, self._staged, source_id)

    def prepare(self, _: str) -> None:
        """Begin the run."""
        record = RunRecord(
            plan=self._plan.plan,
            set_id=self._staged.id,
            run_id=self._staged.id,
            started=datetime.now(UTC),
            sources=tuple(self._plan.source_ids),
        )
        finalize.prepare(self._context, self._staged, record)

    def dump(self, source_id: str) -> None:
        """Dump a source."""
        backup_steps.dump(self._work(source_id))

    def compress(self, source_id: str) -> None:
        """Make its packs."""
        backup_steps.compress(self._work(source_id))

    def verify(self, source_id: str) -> None:
        """Verify them."""
        backup_steps.verify(self._work(source_id))

    def trust(self, source_id: str) -> None:
        """Take them for good without reading them, which only a benchmark does."""
        work = self._work(source_id)
        artifacts = list(work.sealed_record().packs)
        for artifact in artifacts:
            write_rows(work.contents(artifact), read_rows(work.inventory(artifact)))
        write_record(work.folder / "verified.json", backup_steps.Verified(level="stored", counts=dict.fromkeys(artifacts, 0)))

    def upload(self, destination: str) -> None:
        """Close the set and bring it to a destination."""
        backup_upload.upload(self._context, self._staged, destination)

    def prune(self, destination: str) -> None:
        """Apply the destination's retention."""
        backup_upload.prune(self._context, self._staged, destination)

    def finish(self, _: str) -> None:
        """End the run."""
        backup_upload.finish(self._context, self._staged, self._staged.run().sources)


class RestoreTasks:
    """What the tasks of the restore DAG call, as far as a restore beside the live data goes."""

    def __init__(self, context: PlanContext, run_id: str) -> None:
        self._plan = context.plan
        self._run = RestoreSession(context, run_id)

    def choose(self, approver: str) -> None:
        """Choose the newest set, look at the targets, and approve the first gate."""
        asked = Request(run_id=self._run.run_id, requester="operator", started=datetime.now(UTC), sources=tuple(self._plan.source_ids))
        choose_set.choose(self._run, asked)
        preflight.preflight(self._run)
        answers.show(self._run, "plan", gate_text(self._run, "plan"))
        answers.approve(self._run, "plan", approver)

    def stage(self, source_id: str) -> None:
        """Restore a source beside its live data."""
        restore_steps.stage(self._run, source_id)

    def verify_staged(self, source_id: str) -> None:
        """Compare it with the set."""
        restore_steps.verify(self._run, source_id)

    def discard(self, _: str) -> None:
        """Remove what was staged."""
        rollback.discard(self._run)


def plan_of(path: Path) -> Plan:
    """The plan of a file that is known to be good."""
    plan = read_plan(path)
    if isinstance(plan, BrokenPlan):
        raise SystemExit(str(plan))
    return plan


def main(plan_file: str, run_id: str, *steps: str) -> None:
    """Say that everything is imported, wait for a line, then take the steps."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    plan = plan_of(Path(plan_file))
    if any(place.s3 for place in plan.destinations.values()):
        import airflow.providers.amazon.aws.hooks.s3  # noqa: F401
    _say(ready=resident_bytes(os.getpid()))
    if not sys.stdin.readline():
        return
    for step in steps:
        name, _, of = step.partition(":")
        tasks = (RestoreTasks if hasattr(RestoreTasks, name) else BackupTasks)(PlanContext(plan, clients(os.environ)), run_id)
        _say(begins=name)
        _say(ended=name, **_measured(getattr(tasks, name), of))


def _measured(step: Callable[[str], None], of: str) -> dict[str, Any]:
    cpu, started = _cpu_seconds(), time.monotonic()
    if folder := os.environ.get(FOLDER):
        with profiled(Path(folder)) as profile:
            step(of)
        found = asdict(profile)
    else:
        found = {}
        step(of)
    return {"seconds": round(time.monotonic() - started, 3), "cpu_seconds": round(_cpu_seconds() - cpu, 3), **found}


def _cpu_seconds() -> float:
    """Of this process and of all its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _say(**facts: object) -> None:
    _REPORT.write(json.dumps(facts).encode() + b"\n")


if __name__ == "__main__":
    _REPORT = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # Airflow prints on stdout what it logs
    main(*sys.argv[1:])
