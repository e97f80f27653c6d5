"""What a gate's task makes of answers, without Airflow around it."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, TaskAwaitingInput

from recovery.airflow import gates, tasks
from recovery.airflow.gates import Gate
from recovery.common.errors import ToolError
from recovery.plan.model import Approver
from recovery.restore import answers, steps
from recovery.restore.session import RestoreSession
from tests.support.restore_driver import run_until, show_gate
from tests.support.system import SampleSystem

RUN = SimpleNamespace(dag_id="small_restore", run_id="restore 1")


def context(try_number=1):
    ti = SimpleNamespace(id="00000000-0000-0000-0000-000000000000", try_number=try_number)
    return {"dag_run": RUN, "ti": ti, "task_instance": ti}


CONTEXT = context()
NO_ANSWER = {"error": "The response timeout has passed.", "error_type": "timeout"}
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def system(tmp_path, monkeypatch):
    made = SampleSystem(tmp_path / "small", "small")
    made.back_up()
    monkeypatch.setenv("RECOVERY_PLANS", str(made.plans))
    monkeypatch.setattr(tasks, "CLIENTS", made.context().clients)
    return made


@pytest.fixture
def asked(monkeypatch):
    """Every question that Airflow would show."""
    found = []
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **detail: found.append(detail))
    return found


def wait(system, name, try_number=1):
    """Execute a gate that asks; how long Airflow lets it wait."""
    with pytest.raises(TaskAwaitingInput) as waiting:
        gate(system, name).execute(context(try_number))
    return waiting.value.timeout


def wait_on(system, name, at, monkeypatch):
    """How long a gate waits on that got no answer by some time."""
    monkeypatch.setattr(gates, "now", lambda: datetime.now(UTC) + at)
    with pytest.raises(TaskAwaitingInput) as waiting:
        gate(system, name).execute_complete(CONTEXT, NO_ANSWER)
    assert waiting.value.method_name == "execute_complete"
    return waiting.value.timeout


def gate(system, name):
    return Gate(task_id=name, plan=system.plan(), gate=name)


def says(option, person="alice", user_id="3"):
    user = {"id": user_id, "name": person}
    return {"chosen_options": [option], "params_input": {}, "responded_at": datetime.now(UTC), "responded_by_user": user, "timedout": False}


def test_gate_fails_when_the_requester_is_the_only_approver(system):
    run = system.restore()
    run_until(system, run, "preflight", system.ask(run, requester="alice"))
    asked = gate(system, "plan")
    asked.approvers = asked.approvers[:1]
    with pytest.raises(AirflowFailException, match="nobody may answer the gate 'plan'"):
        asked.execute(CONTEXT)


@pytest.mark.parametrize("option", ["Approve", "Reject"])
@pytest.mark.parametrize(("person", "words"), [("bob", "bob asked for this restore"), ("dave", r"dave \(id 3\) is no approver")])
def test_answer_of_a_wrong_person_counts_as_none_and_the_gate_asks_again(system, asked, option, person, words):
    run = system.restore()
    run_until(system, run, "preflight", system.ask(run, requester="bob"))
    wait(system, "plan")
    with pytest.raises(AirflowException, match=words) as raised:
        gate(system, "plan").execute_complete(CONTEXT, says(option, person))
    assert not isinstance(raised.value, AirflowFailException), "Airflow tries it again"
    assert answers.answered(run, "plan") == ""
    wait(system, "plan", 2)
    gate(system, "plan").execute_complete(CONTEXT, says("Approve"))
    assert answers.answered(run, "plan") == "approved"


def test_gate_names_who_may_answer_and_lets_airflow_refuse_others_if_all_ids_are_known(system, asked):
    run = system.restore()
    run_until(system, run, "preflight", system.ask(run, requester="bob"))
    wait(system, "plan")
    shown = gate(system, "plan")
    shown.approvers = tuple(Approver(user=name, id=name, name=name.title()) for name in ("alice", "bob", "carol"))
    with pytest.raises(TaskAwaitingInput):
        shown.execute(CONTEXT)
    by_name, by_id = asked
    assert by_name["body"].endswith("An answer counts if it comes from: Alice")
    assert by_name["assigned_users"] == []
    assert by_id["body"].endswith("An answer counts if it comes from: Alice, Carol")
    assert by_id["assigned_users"] == [{"id": "alice", "name": "Alice"}, {"id": "carol", "name": "Carol"}]


def test_rejected_gate_fails_and_fails_at_once_when_executed_again(system):
    run = system.restore()
    run_until(system, run, "check")
    show_gate(run, "accept")
    with pytest.raises(AirflowFailException, match="alice rejected the gate 'accept'"):
        gate(system, "accept").execute_complete(CONTEXT, says("Reject"))
    with pytest.raises(AirflowFailException, match="alice rejected the gate 'accept'"):
        gate(system, "accept").execute(CONTEXT)
    assert answers.answered(run, "accept") == "rejected"


def test_gate_whose_answers_are_lost_asks_again_until_its_time_has_passed(system, asked, monkeypatch):
    run = system.restore()
    run_until(system, run, "preflight")
    assert system.plan().approvals.timeout == 12 * HOUR
    assert wait(system, "plan") == MINUTE
    for lost in range(1, 30):
        assert timedelta(minutes=59) < wait_on(system, "plan", 11 * HOUR, monkeypatch) <= HOUR
        assert wait(system, "plan", 1 + lost) == MINUTE
    monkeypatch.setattr(gates, "now", lambda: datetime.now(UTC) + 12 * HOUR - MINUTE / 2)
    assert wait(system, "plan", 31) < MINUTE
    assert len(asked) == 31
    monkeypatch.setattr(gates, "now", lambda: datetime.now(UTC) + timedelta(hours=12))
    with pytest.raises(AirflowFailException, match="Nobody answered the gate 'plan' in time"):
        gate(system, "plan").execute(context(32))
    assert len(asked) == 31
    assert answers.answered(run, "plan") == "unanswered"


def test_accept_gate_is_not_shown_again_when_its_time_has_passed(system, asked, monkeypatch):
    run = system.restore()
    run_until(system, run, "check")
    wait(system, "accept")
    monkeypatch.setattr(gates, "now", lambda: datetime.now(UTC) + timedelta(hours=13))
    monkeypatch.setattr(gates.mail, "nobody_accepted", lambda *_: None)
    assert gate(system, "accept").execute(context(2)) is None
    assert (len(asked), answers.answered(run, "accept")) == (1, "unanswered")


def test_gate_has_its_whole_time_again_after_an_answer_or_new_checks(system, asked, monkeypatch):
    run = system.restore()
    run_until(system, run, "check")
    wait(system, "accept")
    monkeypatch.setattr(gates, "now", lambda: datetime.now(UTC) + timedelta(hours=13))
    steps.check_system(run)
    wait(system, "accept", 2)
    assert timedelta(minutes=59) < wait_on(system, "accept", 11 * HOUR, monkeypatch) <= HOUR
    answers.reject(run, "accept", None)
    wait(system, "accept", 3)
    assert timedelta(minutes=59) < wait_on(system, "accept", 11 * HOUR, monkeypatch) <= HOUR


def test_gate_looks_for_an_answer_that_airflow_kept_whenever_it_has_waited_twice_as_long(system, asked, monkeypatch):
    run = system.restore()
    run_until(system, run, "preflight")
    wait(system, "plan")
    looks, at = 0, MINUTE
    while at + timedelta(seconds=1) < 12 * HOUR:
        pause = wait_on(system, "plan", at, monkeypatch)
        assert pause <= at + timedelta(seconds=10)
        looks, at = looks + 1, at + pause
    assert looks < 12
    assert len(asked) == 1, "the question stays, and with it an answer that comes meanwhile"
    monkeypatch.setattr(gates, "now", lambda: datetime.now(UTC) + 12 * HOUR)
    with pytest.raises(AirflowFailException, match="Nobody answered the gate 'plan' in time"):
        gate(system, "plan").execute_complete(CONTEXT, NO_ANSWER)


def test_accept_gate_without_an_answer_asks_again_when_checks_began_again(system, asked):
    run = system.restore()
    run_until(system, run, "check")
    wait(system, "accept")
    steps.check_system(run)
    with pytest.raises(AirflowException, match="it asks again") as raised:
        gate(system, "accept").execute_complete(CONTEXT, NO_ANSWER)
    assert not isinstance(raised.value, AirflowFailException), "Airflow tries it again"


def test_gate_that_can_not_ask_fails_after_four_tries_however_often_it_asked(system, asked, monkeypatch):
    run = system.restore()
    run_until(system, run, "preflight")
    for number in range(1, 8):
        wait(system, "plan", number)

    def fail(*_):
        raise ToolError("It does not answer.", "Wait.")

    monkeypatch.setattr(gates, "gate_text", fail)
    for number in (8, 9, 10, 11):
        with pytest.raises(AirflowException, match=r"It does not answer\.") as failed:
            gate(system, "plan").execute(context(number))
        assert isinstance(failed.value, AirflowFailException) == (number == 11)


def test_accept_gate_is_retried_when_checks_began_again_before_the_approval(system):
    run = system.restore()
    run_until(system, run, "check")
    show_gate(run, "accept")
    steps.check_system(run)
    with pytest.raises(AirflowException, match="this changed: checks") as raised:
        gate(system, "accept").execute_complete(CONTEXT, says("Approve"))
    assert not isinstance(raised.value, AirflowFailException), "Airflow tries it again"


def test_accept_gate_is_skipped_when_no_set_was_chosen(system, asked):
    """It runs whatever came of the tasks before it."""
    with pytest.raises(AirflowSkipException, match="nothing to accept"):
        gate(system, "accept").execute(CONTEXT)
    assert asked == []


@pytest.mark.parametrize(("name", "why"), [("cutover", "nothing is cut over"), ("accept", "nothing to accept")])
def test_gates_of_the_cutover_are_skipped_when_the_method_is_beside(system, asked, monkeypatch, name, why):
    run = system.restore()
    run_until(system, run, "preflight")
    monkeypatch.setattr(RestoreSession, "beside", True)
    with pytest.raises(AirflowSkipException, match=why):
        gate(system, name).execute(CONTEXT)
    assert asked == []
