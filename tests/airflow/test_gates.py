"""What a gate's task makes of answers, without Airflow around it."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from recovery.airflow import tasks
from recovery.airflow.gates import Gate
from recovery.restore import answers, steps
from tests.support.restore_driver import run_until, show_gate
from tests.support.system import SampleSystem

CONTEXT = {"dag_run": SimpleNamespace(dag_id="small_restore", run_id="restore 1")}


@pytest.fixture
def system(tmp_path, monkeypatch):
    made = SampleSystem(tmp_path / "small", "small")
    made.back_up()
    monkeypatch.setenv("RECOVERY_PLANS", str(made.plans))
    monkeypatch.setattr(tasks, "CLIENTS", made.context().clients)
    return made


def gate(system, name):
    return Gate(task_id=name, plan=system.plan(), gate=name)


def says(option, person="alice"):
    user = {"id": person, "name": person}
    return {"chosen_options": [option], "params_input": {}, "responded_at": datetime.now(UTC), "responded_by_user": user, "timedout": False}


def test_gate_fails_when_the_requester_is_the_only_approver(system):
    run = system.restore()
    run_until(system, run, "preflight", system.ask(run, requester="alice"))
    asked = gate(system, "plan")
    asked.assigned_users = [user for user in asked.assigned_users if user["id"] == "alice"]
    with pytest.raises(AirflowFailException, match="nobody may answer the gate 'plan'"):
        asked.execute(CONTEXT)


def test_rejected_gate_fails_and_fails_at_once_when_executed_again(system):
    run = system.restore()
    run_until(system, run, "check")
    show_gate(run, "accept")
    with pytest.raises(AirflowFailException, match="alice rejected the gate 'accept'"):
        gate(system, "accept").execute_complete(CONTEXT, says("Reject"))
    with pytest.raises(AirflowFailException, match="alice rejected the gate 'accept'"):
        gate(system, "accept").execute(CONTEXT)
    assert answers.answered(run, "accept") == "rejected"


def test_accept_gate_is_retried_when_checks_began_again_before_the_approval(system):
    run = system.restore()
    run_until(system, run, "check")
    show_gate(run, "accept")
    steps.check_system(run)
    with pytest.raises(AirflowException, match="this changed: checks") as raised:
        gate(system, "accept").execute_complete(CONTEXT, says("Approve"))
    assert not isinstance(raised.value, AirflowFailException), "Airflow tries it again"
