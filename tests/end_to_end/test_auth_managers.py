"""Who may answer a gate with the FAB auth manager, as it is: its ids are numbers, and its people choose the names that others read."""

import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from recovery.restore import answers
from sandbox.airflow import PROJECT, Airflow
from sandbox.person import Refused
from tests.support.system import SampleSystem

DAG = "small_restore"
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
ROLES = {"operator": "user", "alice": "user", "bob": "user", "mallory": "user"}


def id_of(person):
    """The id that the auth manager gives a person, as the token of the session has it."""
    claims = person.token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]


def make_people(airflow, **roles):
    people = {f"RECOVERY_USER_{name.upper()}": f"{role}:{airflow.passwords[name]}" for name, role in roles.items()}
    command = [sys.executable, PROJECT / "tools/compose/create_users.py"]
    done = subprocess.run(command, env={**airflow.environment(), **people}, capture_output=True, text=True, check=True)
    assert not any(password in done.stdout + done.stderr for password in airflow.passwords.values())
    return done.stdout


def said_in_vain(person, run, option, words):
    """Whether a gate that a person answered asks again, and said why."""
    for _ in range(5):  # Airflow may lose an answer
        person.answer(person.wait_gate(DAG, run, "approve_plan"), option)
        person.wait_gate(DAG, run, "approve_plan")
        tries = person.tasks(DAG, run)["approve_plan"].try_number
        if any(words in person.log_text(DAG, run, "approve_plan", number) for number in range(1, tries + 1)):
            return True
    return False


@pytest.fixture(scope="module")
def system():
    with tempfile.TemporaryDirectory(prefix="recovery-fab-") as folder:
        made = SampleSystem(Path(folder) / "small", "small")
        made.back_up()
        yield made


@pytest.fixture(scope="module")
def airflow(system):
    """Airflow with FAB, its people, and one whose user name is the id of an approver."""
    server = Airflow(
        system.folder.parent / "airflow",
        connections=system.connections(),
        users=ROLES,
        environment={"RECOVERY_PLANS": str(system.plans)},
        settings={"core.auth_manager": FAB},
    )
    with server:
        everybody = {"admin": "Admin", **dict.fromkeys(ROLES, "User")}
        assert "alice was made, with the role User" in make_people(server, **everybody)
        assert "alice exists already" in make_people(server, **everybody)
        number = id_of(server.user("bob"))
        server.passwords[number] = server.passwords["mallory"]
        make_people(server, **{number: "User"})
        system.edit_plan("{user: bob,", f'{{id: "{number}",')
        server.admin.wait_dags(DAG)
        server.admin.unpause(DAG)
        yield server


def test_fab_gate_counts_answers_of_approvers_by_user_name_or_id_and_of_nobody_else(airflow, system):
    operator, alice, bob, mallory = map(airflow.user, ("operator", "alice", "bob", "mallory"))
    number = id_of(bob)
    assert number.isdecimal()
    named_like_an_id = airflow.user(number)
    with airflow.metadata.connect("airflow") as database:  # FAB's people may change the first two themselves
        database.execute("UPDATE ab_user SET first_name = 'bob', last_name = '', email = 'alice' WHERE username = 'mallory'")
    run = operator.trigger(DAG)
    assert said_in_vain(operator, run, "Approve", f"operator (id {id_of(operator)}) is no approver of this plan")
    assert said_in_vain(mallory, run, "Reject", f"mallory (id {id_of(mallory)}) is no approver of this plan")
    assert said_in_vain(named_like_an_id, run, "Approve", f"{number} (id {id_of(named_like_an_id)}) is no approver of this plan")
    while (gate := alice.next_gate(DAG, run)) and gate.task_id == "approve_plan":
        alice.answer(gate)
    while gate := bob.next_gate(DAG, run):
        assert gate.task_id == "approve_cutover"
        bob.answer(gate, "Reject")
    restore = system.restore(run)
    people = [(entry.step, entry.facts["person"]) for entry in restore.journal.everything() if "person" in entry.facts]
    assert people == [("approved", "alice"), ("rejected", "bob")]
    assert answers.answered(restore, "plan") == "approved"


def test_fab_requester_answers_no_gate_of_their_own(airflow, system):
    alice, bob = map(airflow.user, ("alice", "bob"))
    run = alice.trigger(DAG)
    gate = alice.wait_gate(DAG, run, "approve_plan")
    assert gate.assigned == (id_of(bob),), "the only one who is left is known by id, so Airflow refuses all others at once"
    with pytest.raises(Refused) as refused:
        alice.answer(gate)
    assert refused.value.status == 403
    while gate := bob.next_gate(DAG, run):
        bob.answer(gate, "Reject")
    assert answers.answered(system.restore(run), "plan") == "rejected"


def test_fab_requester_who_is_an_approver_by_id_answers_in_vain(airflow):
    alice, bob = map(airflow.user, ("alice", "bob"))
    run = bob.trigger(DAG)
    assert said_in_vain(bob, run, "Approve", "bob asked for this restore and can't approve it")
    while gate := alice.next_gate(DAG, run):
        alice.answer(gate, "Reject")
