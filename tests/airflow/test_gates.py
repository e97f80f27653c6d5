"""What a gate's task makes of answers, without Airflow around it."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from recovery.airflow import tasks
from recovery.airflow.gates import Gate
from recovery.restore import answers, steps
from tests.support.small import Small, forward, to_gate

CONTEXT = {"dag_run": SimpleNamespace(dag_id="small_restore", run_id="restore 1")}


@pytest.fixture
def small(tmp_path, monkeypatch):
    made = Small(tmp_path / "small", "small")
    made.back_up()
    monkeypatch.setenv("RECOVERY_PLANS", str(made.plans))
    monkeypatch.setattr(tasks, "CLIENTS", made.context().clients)
    return made


def gate(small, name):
    return Gate(task_id=name, plan=small.plan(), gate=name, subject="May it?")


def says(option, person="alice"):
    user = {"id": person, "name": person}
    return {"chosen_options": [option], "params_input": {}, "responded_at": datetime.now(UTC), "responded_by_user": user, "timedout": False}


def test_where_nobody_is_left_to_answer_it_fails_with_words(small):
    run = small.restore()
    forward(small, run, "preflight", small.ask(run, requester="alice"))
    asked = gate(small, "plan")
    asked.assigned_users = [user for user in asked.assigned_users if user["id"] == "alice"]
    with pytest.raises(AirflowFailException, match="nobody may answer the gate 'plan'"):
        asked.execute(CONTEXT)


def test_a_no_fails_it_and_asking_again_fails_at_once(small):
    run = small.restore()
    forward(small, run, "check")
    to_gate(run, "accept", person=None)
    with pytest.raises(AirflowFailException, match="alice rejected the gate 'accept'"):
        gate(small, "accept").execute_complete(CONTEXT, says("Reject"))
    with pytest.raises(AirflowFailException, match="alice rejected the gate 'accept'"):
        gate(small, "accept").execute(CONTEXT)
    assert answers.answered(run, "accept") == "rejected"


def test_a_yes_that_is_void_since_checks_began_again_lets_it_ask_again(small):
    run = small.restore()
    forward(small, run, "check")
    to_gate(run, "accept", person=None)
    steps.check_system(run)
    with pytest.raises(AirflowException, match="this changed: checks") as raised:
        gate(small, "accept").execute_complete(CONTEXT, says("Approve"))
    assert not isinstance(raised.value, AirflowFailException), "Airflow tries it again"
