"""A test that asks for a server without the mark ``servers`` fails, whichever way it asks."""

import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize("program", ["initdb", "postgres", "mongod", "weed"])
@pytest.mark.parametrize("user", [[], ["setpriv", "--reuid=1"]], ids=["as this user", "as another"])
def test_an_unmarked_test_can_not_start_a_server(program, user):
    with pytest.raises(pytest.fail.Exception, match=rf"{program}, so it needs @pytest\.mark\.servers"):
        subprocess.run([*user, f"/nowhere/bin/{program}"], check=True)


def test_an_unmarked_test_can_not_start_airflow():
    with pytest.raises(pytest.fail.Exception, match=r"@pytest\.mark\.airflow"):
        subprocess.run(["/nowhere/bin/python", "-m", "sandbox.keeper"], check=True)


@pytest.mark.parametrize("name", ["postgres_server", "mongo_server", "s3_server", "server_folder"])
def test_an_unmarked_test_can_not_ask_for_the_fixture_of_a_server(request, name):
    with pytest.raises(pytest.fail.Exception, match=rf"the fixture {name}, so it needs @pytest\.mark\.servers"):
        request.getfixturevalue(name)


def test_a_test_with_the_fixture_of_a_server_is_marked(request, server_folder):
    assert request.node.get_closest_marker("servers")
    assert Path(server_folder).is_dir()


@pytest.mark.parametrize("program", ["mongod", "postgres"])
def test_asking_a_program_for_its_version_starts_no_server(program):
    with pytest.raises(FileNotFoundError):
        subprocess.run([f"/nowhere/bin/{program}", "--version"], check=True)
