"""Somebody who works with Airflow: logs in with a password and does over the REST API what the UI does."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

import httpx

ENDED = ("success", "failed")
"""States of a run that is over."""

Found = TypeVar("Found")

_SETTLED_SECONDS = 2.0
_POLL_SECONDS = 0.5
_REPEATABLE = ("GET", "PUT", "PATCH", "DELETE")


class Refused(Exception):
    """Airflow answered with an error.

    Args:
        status: HTTP status, such as 403.
        detail: what Airflow said.
    """

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        super().__init__(f"Airflow answered {status}: {detail}")


@dataclass(frozen=True)
class Task:
    """A task of a run, as it is now."""

    task_id: str
    state: str
    try_number: int
    started: datetime | None
    ended: datetime | None

    @property
    def seconds(self) -> float:
        """How long its last try ran, or has run by now; 0 before it started."""
        return ((self.ended or datetime.now(UTC)) - self.started).total_seconds() if self.started else 0.0


@dataclass(frozen=True)
class Gate:
    """A task that waits for an answer."""

    dag_id: str
    run_id: str
    task_id: str
    subject: str
    body: str
    options: tuple[str, ...]
    assigned: tuple[str, ...]
    """Ids of those who may answer; empty means everybody."""


class Person:
    """One user's session. Every method raises :class:`Refused` where Airflow says no.

    Args:
        url: address of the API server.
        name: user name.
        password: the user's.
    """

    def __init__(self, url: str, name: str, password: str) -> None:
        self.name = name
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self.token: str = self._call("POST", "/auth/token", {"username": name, "password": password})["access_token"]
        """What a browser has in its ``_token`` cookie."""
        self._seen: dict[tuple[str, str], dict[str, tuple[str, int]]] = {}
        self._http.headers["Authorization"] = f"Bearer {self.token}"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Call the API below ``/api/v2`` and return what it answered, parsed; None for an empty answer."""
        return self._call(method, f"/api/v2{path}", body, **query)

    # DAGs

    def dag_ids(self) -> set[str]:
        """DAGs that Airflow knows and that are in its folder now."""
        return {dag["dag_id"] for dag in self._all("/dags", "dags")}

    def import_errors(self) -> dict[str, str]:
        """What is wrong with DAG files: traceback by file name."""
        return {error["filename"]: error["stack_trace"] for error in self._all("/importErrors", "import_errors")}

    def wait_dags(self, *dag_ids: str, timeout: float = 90) -> None:
        """Wait until Airflow has read these DAGs.

        Raises:
            TimeoutError: if it has not in time; with its import errors.
        """
        deadline = time.monotonic() + timeout
        while missing := set(dag_ids) - self.dag_ids():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no DAG {', '.join(sorted(missing))} after {timeout:.0f} s; import errors: {self.import_errors()}")
            time.sleep(_POLL_SECONDS)

    def unpause(self, *dag_ids: str) -> None:
        """Let DAGs run: a new one is paused, and its runs stay queued."""
        for dag_id in dag_ids:
            self.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def pause(self, *dag_ids: str) -> None:
        """Keep DAGs from starting runs."""
        for dag_id in dag_ids:
            self.call("PATCH", f"/dags/{dag_id}", {"is_paused": True})

    # Runs

    def trigger(self, dag_id: str, params: Mapping[str, Any] | None = None) -> str:
        """Start a run, as this person, and return its id."""
        run_id = f"manual__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}_{uuid.uuid4().hex[:6]}"
        self.call("POST", f"/dags/{dag_id}/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": dict(params or {})})
        return run_id

    def run_state(self, dag_id: str, run_id: str) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        state: str = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"]
        return state

    def run_ids(self, dag_id: str) -> list[str]:
        """Runs of a DAG, oldest first."""
        return [run["dag_run_id"] for run in self._all(f"/dags/{dag_id}/dagRuns", "dag_runs", order_by="run_after")]

    def tasks(self, dag_id: str, run_id: str) -> dict[str, Task]:
        """Every task of a run by its id."""
        found = self._all(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances")
        return {row["task_id"]: _task(row) for row in found}

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """The state of every task of a run; ``none`` where it has none yet."""
        return {task_id: task.state for task_id, task in self.tasks(dag_id, run_id).items()}

    def wait_run(
        self,
        dag_id: str,
        run_id: str,
        states: Collection[str] = ENDED,
        timeout: float = 300,
        on_task: Callable[[Task], None] | None = None,
    ) -> str:
        """Wait until a run has one of these states, and return it.

        Args:
            dag_id: its DAG.
            run_id: the run.
            states: what to wait for.
            timeout: in seconds.
            on_task: told of each task whose state or try changed since this person was last told.

        Raises:
            TimeoutError: if it has none of them in time; with the states of its tasks.
        """

        def reached() -> str | None:
            state = self.run_state(dag_id, run_id)
            if on_task:
                self._tell(dag_id, run_id, on_task)
            return state if state in states else None

        return self._wait(f"{run_id} to be {' or '.join(states)}", dag_id, run_id, reached, timeout)

    def wait_task(self, dag_id: str, run_id: str, task_id: str, states: Collection[str], timeout: float = 120) -> Task:
        """Wait until a task has one of these states.

        Raises:
            TimeoutError: if it has not in time.
        """

        def reached() -> Task | None:
            task = self.tasks(dag_id, run_id)[task_id]
            return task if task.state in states else None

        return self._wait(f"{task_id} to be {' or '.join(states)}", dag_id, run_id, reached, timeout)

    def mark_run(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a run ``success`` or ``failed`` by hand."""
        self.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", {"state": state})

    def mark_task(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task ``success``, ``failed`` or ``skipped`` by hand."""
        self.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}", {"new_state": state})

    def clear(self, dag_id: str, run_id: str, *task_ids: str, only_failed: bool = False, downstream: bool = False) -> list[str]:
        """Clear tasks so that they run again, and return which were cleared; all tasks if none is named."""
        body: dict[str, Any] = {"dry_run": False, "dag_run_id": run_id, "only_failed": only_failed, "include_downstream": downstream}
        if task_ids:
            body["task_ids"] = list(task_ids)
        answer = self.call("POST", f"/dags/{dag_id}/clearTaskInstances", body)
        return [row["task_id"] for row in answer["task_instances"]]

    # What tasks said

    def log_lines(self, dag_id: str, run_id: str, task_id: str, try_number: int | None = None) -> Iterator[dict[str, Any]]:
        """Lines of a task's log (``timestamp``, ``level``, ``event`` ...), of its last try if none is named."""
        attempt = try_number or self.tasks(dag_id, run_id)[task_id].try_number
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        answer = self._send("GET", path, headers={"Accept": "application/x-ndjson"}, params={"full_content": True})
        for line in answer.text.splitlines():
            if line:
                yield json.loads(line)

    def log_text(self, dag_id: str, run_id: str, task_id: str, try_number: int | None = None) -> str:
        """A task's log as one text, tracebacks included."""
        return "\n".join(_plain(line) for line in self.log_lines(dag_id, run_id, task_id, try_number))

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What a task pushed."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.call("GET", path, deserialize=True)["value"]

    def write_xcom(self, dag_id: str, run_id: str, task_id: str, key: str, value: Any) -> None:
        """Write an XCom by hand, over the one that is there if need be."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries"
        try:
            self.call("POST", path, {"key": key, "value": value})
        except Refused as refused:
            if refused.status != 409:
                raise
            self.call("PATCH", f"{path}/{key}", {"value": value})

    # Gates

    def gates(self, dag_id: str = "~", run_id: str = "~") -> list[Gate]:
        """Gates that nobody has answered yet and whose task waits for it, of all DAGs and runs unless named."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/hitlDetails"
        return [_gate(row) for row in self._all(path, "hitl_details", response_received=False, state="awaiting_input")]

    def wait_gate(
        self, dag_id: str, run_id: str, task_id: str | None = None, timeout: float = 300, on_task: Callable[[Task], None] | None = None
    ) -> Gate:
        """Wait until a gate of a run, or the one named, waits for an answer.

        Raises:
            TimeoutError: if none does in time, or the run ends before; with the states of its tasks.
        """

        def reached() -> Gate | None:
            ended = self.run_state(dag_id, run_id) in ENDED
            if on_task:
                self._tell(dag_id, run_id, on_task)
            for gate in self.gates(dag_id, run_id):
                if task_id in (None, gate.task_id):
                    return gate
            if ended:
                self._give_up("ended before its gate", dag_id, run_id)
            return None

        return self._wait(f"{task_id or 'a gate'} to wait for an answer", dag_id, run_id, reached, timeout)

    def next_gate(self, dag_id: str, run_id: str, timeout: float = 300, on_task: Callable[[Task], None] | None = None) -> Gate | None:
        """Wait until some gate of a run waits for an answer; None once the run has ended.

        Airflow sometimes loses an answer and asks again, so whoever answers all gates asks this until there is none.

        Raises:
            TimeoutError: if neither happens in time.
        """

        def reached() -> tuple[Gate | None] | None:
            ended = self.run_state(dag_id, run_id) in ENDED
            if on_task:
                self._tell(dag_id, run_id, on_task)
            gates = self.gates(dag_id, run_id)
            return (gates[0],) if gates else (None,) if ended else None

        return self._wait("a gate or the end", dag_id, run_id, reached, timeout)[0]

    def answer(self, gate: Gate, option: str = "Approve", *, at_once: bool = False) -> None:
        """Answer a gate, as this person.

        Args:
            gate: which.
            option: ``Approve`` or ``Reject``.
            at_once: do not wait the two seconds that a person takes at least: an answer in the first second of a gate
                sometimes meets the scheduler while it still parks the task, which costs the gate a retry.
        """
        if not at_once:
            time.sleep(_SETTLED_SECONDS)
        path = f"/dags/{gate.dag_id}/dagRuns/{gate.run_id}/taskInstances/{gate.task_id}/-1/hitlDetails"
        self.call("PATCH", path, {"chosen_options": [option], "params_input": {}})

    # Connections

    def put_connection(self, connection_id: str, fields: Mapping[str, Any]) -> None:
        """Make or replace a Connection in the metadata database; ``fields`` are as in Airflow's JSON form.

        One that is also given by environment stays as the environment has it.
        """
        body = {"connection_id": connection_id, **fields}
        if isinstance(body.get("extra"), Mapping):
            body["extra"] = json.dumps(body["extra"])
        try:
            self.call("POST", "/connections", body)
        except Refused as refused:
            if refused.status != 409:
                raise
            self.call("PATCH", f"/connections/{connection_id}", body)

    def drop_connection(self, connection_id: str) -> None:
        """Delete a Connection."""
        self.call("DELETE", f"/connections/{connection_id}")

    def _tell(self, dag_id: str, run_id: str, on_task: Callable[[Task], None]) -> None:
        seen = self._seen.setdefault((dag_id, run_id), {})
        changed = [task for task in self.tasks(dag_id, run_id).values() if seen.get(task.task_id) != (task.state, task.try_number)]
        for task in sorted(changed, key=lambda task: (task.started is None, task.started)):
            seen[task.task_id] = (task.state, task.try_number)
            on_task(task)

    def _wait(self, what: str, dag_id: str, run_id: str, reached: Callable[[], Found | None], timeout: float) -> Found:
        deadline = time.monotonic() + timeout
        while (found := reached()) is None:
            if time.monotonic() > deadline:
                self._give_up(f"waited {timeout:.0f} s for {what}", dag_id, run_id)
            time.sleep(_POLL_SECONDS)
        return found

    def _give_up(self, why: str, dag_id: str, run_id: str) -> NoReturn:
        raise TimeoutError(f"{dag_id} {run_id}: {why}; its tasks: {self.states(dag_id, run_id)}")

    def _all(self, path: str, key: str, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self.call("GET", path, limit=100, offset=len(found), **query)
            found += page[key]
            if not page[key] or len(found) >= page["total_entries"]:
                return found

    def _call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        answer = self._send(method, path, json=body, params=query)
        return answer.json() if answer.content else None

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        answer = self._http.request(method, path, **request)
        for pause in (0.2, 1.0, 3.0):
            if answer.status_code < 500 or method not in _REPEATABLE:
                break
            time.sleep(pause)
            answer = self._http.request(method, path, **request)
        if answer.is_error:
            raise Refused(answer.status_code, answer.text[:2000])
        return answer


def _task(row: Mapping[str, Any]) -> Task:
    started, ended = (datetime.fromisoformat(row[key]) if row[key] else None for key in ("start_date", "end_date"))
    return Task(row["task_id"], row["state"] or "none", row["try_number"], started, ended)


def _gate(row: Mapping[str, Any]) -> Gate:
    task = row["task_instance"]
    assigned = tuple(user["id"] for user in row["assigned_users"])
    return Gate(task["dag_id"], task["dag_run_id"], task["task_id"], row["subject"], row["body"] or "", tuple(row["options"]), assigned)


def _plain(line: Mapping[str, Any]) -> str:
    raised = "".join(f"\n{error['exc_type']}: {error['exc_value']}" for error in line.get("error_detail") or [])
    return " ".join(str(line[key]) for key in ("timestamp", "level", "event") if line.get(key)) + raised
