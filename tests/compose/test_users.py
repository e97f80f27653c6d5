"""The people of docker-compose.yaml, as its environment names them; tests/end_to_end/test_auth_managers.py makes them in Airflow."""

import pytest

from tools.compose import create_users


def test_create_users_reads_users_from_the_environment():
    environ = {"RECOVERY_USER_ALICE": "User:with:colons:in:it", "RECOVERY_USER_BOB": "Op:twelve-letters", "OTHER": "x"}
    assert list(create_users.people(environ)) == [("alice", "User", "with:colons:in:it"), ("bob", "Op", "twelve-letters")]


@pytest.mark.parametrize("value", ["", "User", "User:", "User:too-short", ":long-enough-password"])
def test_create_users_refuses_an_invalid_value_without_repeating_the_password(value):
    with pytest.raises(ValueError, match="RECOVERY_USER_EVE must be") as error:
        list(create_users.people({"RECOVERY_USER_EVE": value}))
    assert not value.partition(":")[2] or value.partition(":")[2] not in str(error.value)
