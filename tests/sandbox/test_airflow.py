import os
import signal
import tempfile
from pathlib import Path

import pytest

from sandbox.airflow import Airflow
from sandbox.person import Person, Refused
from sandbox.servers import wait_for

pytestmark = pytest.mark.airflow

SOMEWHERE = {"conn_type": "http", "host": "somewhere.example", "password": "not-for-the-log"}


@pytest.fixture(scope="module")
def airflow():
    with (
        tempfile.TemporaryDirectory(prefix="recovery-airflow-") as folder,
        Airflow(
            Path(folder) / "airflow",
            dags=Path(__file__).parent / "dags",
            connections={"somewhere": SOMEWHERE},
            environment={"GREETING": "good morning"},
        ) as server,
    ):
        server.admin.wait_dags("trial", "long")
        server.admin.unpause("trial", "long")
        yield server


def sleepers() -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if (folder / "cmdline").read_bytes() == b"sleep\x004321\x00":
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def test_sandbox_airflow_runs_a_dag_with_a_gate_from_trigger_to_end(airflow):
    operator, alice = airflow.user("operator"), airflow.user("alice")
    told = []
    run = operator.trigger("trial", {"word": "please"})
    gate = operator.wait_gate("trial", run, on_task=told.append)
    assert (gate.task_id, gate.subject, gate.assigned) == ("gate", "Go on?", ("alice",))
    assert [(task.task_id, task.state) for task in told][-1] == ("gate", "awaiting_input")
    assert operator.xcom("trial", run, "say") == ["please", SOMEWHERE["host"], SOMEWHERE["password"], "good morning"]
    for name in ("operator", "bob", "carol"):
        with pytest.raises(Refused) as refused:
            airflow.user(name).answer(gate, at_once=True)
        assert refused.value.status == 403

    while gate := operator.next_gate("trial", run):  # Airflow asks again if it lost the answer
        alice.answer(gate)
    assert operator.wait_run("trial", run) == "failed"
    assert operator.states("trial", run) == {"say": "success", "gate": "success", "fail": "failed"}
    assert operator.xcom("trial", run, "gate")["responded_by_user"]["id"] == "alice"
    assert operator.gates() == []

    said = operator.log_text("trial", run, "say")
    assert "hello from operator" in said
    assert SOMEWHERE["password"] not in said
    assert "ValueError: on purpose" in operator.log_text("trial", run, "fail")

    assert operator.clear("trial", run, only_failed=True) == ["fail"]
    operator.wait_run("trial", run)
    assert operator.tasks("trial", run)["fail"].try_number == 2


def test_sandbox_airflow_operator_marks_tasks_and_runs_and_writes_xcoms(airflow):
    operator = airflow.user("operator")
    run = operator.trigger("trial")
    operator.wait_gate("trial", run)
    operator.write_xcom("trial", run, "gate", "chosen_options", ["Approve"])
    operator.write_xcom("trial", run, "gate", "chosen_options", ["Reject"])
    assert operator.xcom("trial", run, "gate", "chosen_options") == ["Reject"]
    operator.mark_task("trial", run, "gate", "success")
    assert operator.wait_task("trial", run, "fail", ["failed"]).try_number == 1

    other = operator.trigger("trial")
    operator.wait_gate("trial", other)
    operator.mark_run("trial", other, "failed")
    assert operator.wait_run("trial", other) == "failed"
    assert {run, other} <= set(operator.run_ids("trial"))


def test_sandbox_airflow_connections_are_changed_by_the_admin_only(airflow):
    airflow.admin.put_connection("elsewhere", SOMEWHERE)
    airflow.admin.put_connection("elsewhere", {**SOMEWHERE, "host": "moved.example", "extra": {"a": 1}})
    assert airflow.admin.call("GET", "/connections/elsewhere")["host"] == "moved.example"
    with pytest.raises(Refused):
        airflow.user("operator").put_connection("elsewhere", SOMEWHERE)
    airflow.admin.drop_connection("elsewhere")


def test_sandbox_airflow_refuses_a_wrong_password_and_reports_a_missing_dag(airflow):
    with pytest.raises(Refused) as refused:
        Person(airflow.url, "operator", "guess")
    assert refused.value.status == 401
    with pytest.raises(TimeoutError, match="no DAG missing"):
        airflow.admin.wait_dags("missing", timeout=0)
    assert airflow.admin.import_errors() == {}


def test_sandbox_airflow_screenshot_is_a_png_file(airflow, tmp_path):
    picture = tmp_path / "page.png"
    airflow.screenshot("/dags/trial", picture, text="trial")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_sandbox_airflow_ends_all_processes_when_the_scheduler_is_killed(airflow):
    """Last in this file: what is left of the server is of no use to other tests."""
    operator = airflow.user("operator")
    operator.trigger("long")
    wait_for("the task's program to run", lambda: bool(sleepers()))
    (pid,) = (int(line.rpartition("pid=")[2]) for line in airflow.component_log("keeper").splitlines() if line.startswith("scheduler "))
    os.kill(pid, signal.SIGKILL)
    wait_for("what tasks started to end", lambda: not sleepers())
    wait_for("the keeper to end", lambda: "ended by itself" in airflow.component_log("keeper") and airflow._keeper.poll() is not None)
    with pytest.raises(RuntimeError, match="scheduler ended by itself"):
        airflow.check()
