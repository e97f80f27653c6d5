"""What the benchmark measures on: servers with data of two sizes, a plan for each, and processes that take the tasks' steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recovery.crypto.key_kit import create_keys
from recovery.runs.context import PlanContext
from recovery.sets.layout import new_set_id
from sandbox import toolchain
from sandbox.bench import data
from sandbox.bench.processes import below, program, resident_bytes
from sandbox.bench.steps import BackupTasks, RestoreTasks, clients, plan_of
from sandbox.servers import Mongo, Postgres, postgres_bin

PROJECT = Path(__file__).parents[2]
APPROVER = "approver"
POSTGRES, MONGO = "postgres.main", "mongo.documents"

_PLAN = """\
plan: {name}
schedule: null
sources:
  postgres: {{main: {{connection: bench_postgres, databases: [{name}]}}}}
  mongo: {{documents: {{connection: bench_mongo, databases: [{name}]}}}}
encryption: {{recipients: [{recipient}], identity: bench_backup_identity}}
signing: bench_backup_signing
destinations: {{local: {{folder: "{folder}/backups", keep_last: 1}}}}
approvals: {{approvers: [{{user: {approver}, name: Approver}}]}}
staging: {{folder: "{folder}/staging"}}
tools: {{postgres: ["{postgres}"], mongo: ["{mongo}"]}}
"""
_EVERY = 0.02


@dataclass
class Memory:
    """Highest resident memory in bytes: of Python processes, and of the tools that they started."""

    python: int = 0
    tools: int = 0

    def look(self, root: int) -> None:
        """Take a sample of a process and all below it."""
        python = tools = 0
        for pid in (root, *below(root)):
            if program(pid).startswith("python"):
                python += resident_bytes(pid)
            else:
                tools += resident_bytes(pid)
        self.python, self.tools = max(self.python, python), max(self.tools, tools)


@dataclass
class Step:
    """What one step took."""

    name: str
    seconds: float
    cpu_seconds: float
    """Of the task's process and the tools that it started, not of the servers."""
    memory: Memory = field(default_factory=Memory)


class Tasks:
    """A process that takes steps; see :mod:`sandbox.bench.steps`.

    Args:
        plan: plan file.
        run: id of the set, or of the restore's run.
        steps: ``<step>:<of>`` each.
        environment: the process's.
        watch: take samples of its memory, which takes a little of the processors' time.
    """

    def __init__(self, plan: Path, run: str, steps: Iterable[str], environment: Mapping[str, str], watch: bool = False) -> None:
        steps = list(steps)
        self.steps: list[Step] = []
        self.idle = 0
        """Resident bytes once everything is imported."""
        self._log = plan.with_suffix(".log").open("a+b")
        self._now = Memory()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sandbox.bench.steps", str(plan), run, *steps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=dict(environment),
            cwd=PROJECT,
        )
        self._what = f"{plan.stem} {' '.join(steps)}"
        self._expected = len(steps)
        self._thread = threading.Thread(target=self._listen)
        self._ready = threading.Event()
        self._watch = watch
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            facts = json.loads(line)
            if "ready" in facts:
                self.idle = facts["ready"]
                self._ready.set()
            elif "begins" in facts:
                self._now = Memory()
            else:
                self.steps.append(Step(facts["ended"], facts["seconds"], facts["cpu_seconds"], self._now))
        self._ready.set()

    def begin(self) -> None:
        """Wait until everything is imported."""
        self._ready.wait()

    def go(self) -> None:
        """Let it take its steps; one that ended already says why in :meth:`end`."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """End it, if it still runs."""
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def end(self) -> None:
        """Wait for its end.

        Raises:
            RuntimeError: if it failed, with its log.
        """
        if self._watch:
            while self._process.poll() is None:
                self._now.look(self._process.pid)
                time.sleep(_EVERY)
        status = self._process.wait()
        self._thread.join()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace")
        self._log.close()
        if status or len(self.steps) != self._expected:
            raise RuntimeError(f"{self._what} ended with {status}:\n{said[-3000:]}")


def task_environment(connections: Mapping[str, Any], folder: Path, plans: Path) -> dict[str, str]:
    """The environment of a process that takes steps: Airflow Connections, an empty home for Airflow below a folder, the plan folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "RECOVERY_"))}
    given = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in connections.items()}
    path = os.pathsep.join([str(PROJECT / "include"), str(PROJECT)])
    places = {"AIRFLOW_HOME": str(folder / "airflow-home"), "RECOVERY_PLANS": str(plans), "PYTHONPATH": path}
    return {**kept, **given, **places, "PYTHONWARNINGS": "ignore"}


@contextmanager
def _plans_in(folder: Path) -> Iterator[None]:
    """Let this process's own steps find the plans of a folder, and not the one that ships."""
    before = os.environ.get("RECOVERY_PLANS")
    os.environ["RECOVERY_PLANS"] = str(folder)
    try:
        yield
    finally:
        del os.environ["RECOVERY_PLANS"]
        if before is not None:
            os.environ["RECOVERY_PLANS"] = before


def take(chains: Iterable[Tasks], then: Iterable[Tasks] = ()) -> float:
    """Let chains run side by side, then others; the seconds from the word to the end. Imports come before."""
    chains, then = list(chains), list(then)
    try:
        for tasks in (*chains, *then):
            tasks.begin()
        started = time.monotonic()
        for group in (chains, then):
            for tasks in group:
                tasks.go()
            for tasks in group:
                tasks.end()
        return time.monotonic() - started
    finally:
        for tasks in (*chains, *then):
            tasks.kill()


class Bed:
    """PostgreSQL and MongoDB with one database in each for every size of data.

    Args:
        folder: everything is in it.
        sizes: scale by name; see :mod:`sandbox.bench.data`. The name is the plan's and the databases' too.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, float]) -> None:
        self.folder = folder
        self.sizes = sizes
        self.backups = folder / "backups"
        self.staging = folder / "staging"
        self.postgres = Postgres(folder / "postgres", options=["max_wal_size=8GB", "shared_buffers=512MB"])
        self.mongo = Mongo(folder / "mongo")
        self.mongo_tools = toolchain.mongo_tools()
        self._servers = ExitStack()
        self._runs = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for server in (self.postgres, self.mongo):
            self._servers.enter_context(server)
        self._servers.enter_context(_plans_in(self.folder))
        self.backups.mkdir()
        keys = create_keys(self.folder / "keys", "bench")
        self._connections = json.loads((keys.folder / "connections.json").read_text()) | {
            "bench_postgres": {
                "conn_type": "postgres", "host": "127.0.0.1", "port": self.postgres.port,
                "login": "postgres", "password": self.postgres.password,
            },
            "bench_mongo": {
                "conn_type": "mongo", "host": "127.0.0.1", "port": self.mongo.port,
                "login": "root", "password": self.mongo.password, "extra": {"authSource": "admin"},
            },
        }  # fmt: skip
        for name in self.sizes:
            values = {"folder": self.folder, "postgres": postgres_bin(18), "mongo": self.mongo_tools, "approver": APPROVER}
            self.plan(name).write_text(_PLAN.format(name=name, recipient=keys.recipient, **values))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._servers.close()

    def fill(self) -> None:
        """Make the data."""
        for name, scale in self.sizes.items():
            data.fill_postgres(self.postgres, name, scale)
            data.fill_mongo(self.mongo, name, scale)

    def plan(self, name: str) -> Path:
        """The plan of a size."""
        return self.folder / f"{name}.yaml"

    def tasks(self, name: str, run: str, *steps: str, watch: bool = False) -> Tasks:
        """A process for a plan."""
        return Tasks(self.plan(name), run, steps, task_environment(self._connections, self.folder, self.folder), watch)

    def backup(self, name: str, run: str) -> BackupTasks:
        """The steps of a backup, in this process: for those that are not measured."""
        return BackupTasks(self._context(name), run)

    def restore(self, name: str, run: str) -> RestoreTasks:
        """The steps of a restore, in this process."""
        return RestoreTasks(self._context(name), run)

    def _context(self, name: str) -> PlanContext:
        return PlanContext(plan_of(self.plan(name)), clients(task_environment(self._connections, self.folder, self.folder)))

    def new_set(self) -> str:
        """An id for another set."""
        self._runs += 1
        return new_set_id(datetime.now(UTC), f"bench {self._runs}")
