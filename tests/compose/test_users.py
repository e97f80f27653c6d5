"""The people of docker-compose.yaml, made in a real Airflow with the FAB auth manager."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sandbox.airflow import PROJECT, Airflow
from sandbox.person import Refused
from tools.compose import create_users


def test_create_users_reads_users_from_the_environment():
    environ = {"RECOVERY_USER_ALICE": "User:with:colons:in:it", "RECOVERY_USER_BOB": "Op:twelve-letters", "OTHER": "x"}
    assert list(create_users.people(environ)) == [("alice", "User", "with:colons:in:it"), ("bob", "Op", "twelve-letters")]


@pytest.mark.parametrize("value", ["", "User", "User:", "User:too-short", ":long-enough-password"])
def test_create_users_refuses_an_invalid_value_without_repeating_the_password(value):
    with pytest.raises(ValueError, match="RECOVERY_USER_EVE must be") as error:
        list(create_users.people({"RECOVERY_USER_EVE": value}))
    assert not value.partition(":")[2] or value.partition(":")[2] not in str(error.value)


@pytest.mark.airflow
def test_gate_with_fab_auth_manager_is_answered_only_by_the_assigned_user():
    with tempfile.TemporaryDirectory(prefix="recovery-fab-") as folder:
        airflow = Airflow(
            Path(folder) / "airflow",
            dags=PROJECT / "tests" / "sandbox" / "dags",
            connections={"somewhere": {"conn_type": "http", "host": "somewhere.example", "password": "not-for-the-log"}},
            environment={"GREETING": "good morning"},
            settings={"core.auth_manager": "recovery.airflow.auth_manager.FabAuthManagerByName"},
        )
        with airflow:
            roles = {"admin": "Admin", "operator": "User", "alice": "User", "bob": "User"}
            people = {f"RECOVERY_USER_{name.upper()}": f"{role}:{airflow.passwords[name]}" for name, role in roles.items()}
            command = [sys.executable, PROJECT / "tools/compose/create_users.py"]
            for _ in range(2):
                done = subprocess.run(command, env={**airflow.environment(), **people}, capture_output=True, text=True, check=True)
                assert not any(password in done.stdout + done.stderr for password in airflow.passwords.values())
            assert "alice exists already" in done.stdout

            airflow.admin.wait_dags("trial")
            operator = airflow.user("operator")
            operator.unpause("trial")
            run = operator.trigger("trial")
            gate = operator.wait_gate("trial", run)
            for name in ("operator", "bob"):
                with pytest.raises(Refused) as refused:
                    airflow.user(name).answer(gate)
                assert refused.value.status == 403
            while gate := operator.next_gate("trial", run):  # Airflow asks again if it lost the answer
                airflow.user("alice").answer(gate)
            assert operator.xcom("trial", run, "gate")["responded_by_user"]["name"] == "alice"
            assert operator.call("GET", f"/dags/trial/dagRuns/{run}")["triggering_user_name"] == "operator"
