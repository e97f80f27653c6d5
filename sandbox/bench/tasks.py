"""Processes that take the tasks' steps, and what each step took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox.bench.processes import below, program, resident_bytes, tree_cpu_seconds

PROJECT = Path(__file__).parents[2]
"""The tree that this module is of."""
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
    server_cpu_seconds: float
    """Of the servers that the process was said to use."""
    memory: Memory = field(default_factory=Memory)
    programs: Mapping[str, float] = field(default_factory=dict)
    """See :class:`sandbox.bench.profiled.Profile`; empty if it was not asked for."""
    functions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The same."""


class Tasks:
    """A process that takes steps; see :mod:`sandbox.bench.steps`.

    Args:
        plan: plan file.
        run: id of the set, or of the restore's run.
        steps: ``<step>:<of>`` each.
        environment: the process's.
        tree: the checked-out project whose steps they are.
        servers: process ids of the servers that no other process uses meanwhile.
        watch: take samples of its memory, which takes a little of the processors' time.
    """

    def __init__(
        self,
        plan: Path,
        run: str,
        steps: Iterable[str],
        environment: Mapping[str, str],
        *,
        tree: Path = PROJECT,
        servers: Sequence[int] = (),
        watch: bool = False,
    ) -> None:
        steps = list(steps)
        self.steps: list[Step] = []
        self.idle = 0
        """Resident bytes once everything is imported."""
        self._log = plan.with_suffix(".log").open("a+b")
        self._now = Memory()
        self._servers = servers
        self._servers_before = 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sandbox.bench.steps", str(plan), run, *steps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=dict(environment),
            cwd=tree,
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
                self._now, self._servers_before = Memory(), tree_cpu_seconds(*self._servers)
            else:
                servers = tree_cpu_seconds(*self._servers) - self._servers_before
                found = {key: facts[key] for key in ("programs", "functions") if key in facts}
                self.steps.append(Step(facts["ended"], facts["seconds"], facts["cpu_seconds"], servers, self._now, **found))
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


def task_environment(connections: Mapping[str, Any], folder: Path, plans: Path, tree: Path = PROJECT) -> dict[str, str]:
    """The environment of a process that takes steps: Airflow Connections, an empty home for Airflow below a folder, the plan folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "RECOVERY_"))}
    given = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in connections.items()}
    path = os.pathsep.join([str(tree / "include"), str(tree)])
    places = {"AIRFLOW_HOME": str(folder / "airflow-home"), "RECOVERY_PLANS": str(plans), "PYTHONPATH": path}
    return {**kept, **given, **places, "PYTHONWARNINGS": "ignore"}
