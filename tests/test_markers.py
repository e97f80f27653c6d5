"""A test that asks for a server without the mark ``servers`` fails, whichever way it asks."""

import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize("program", ["initdb", "postgres", "mongod", "weed"])
@pytest.mark.parametrize(
    "user",
    [[], ["setpriv", "--reuid=1"], ["/usr/bin/unshare", "--net", "--pid", "/usr/bin/setpriv", "--reuid=1"]],
    ids=["as this user", "as another", "apart"],
)
def test_unmarked_test_that_starts_a_server_fails(program, user):
    with pytest.raises(pytest.fail.Exception, match=rf"{program}, so it needs @pytest\.mark\.servers"):
        subprocess.run([*user, f"/nowhere/bin/{program}"], check=True)


def test_unmarked_test_that_starts_airflow_fails():
    with pytest.raises(pytest.fail.Exception, match=r"@pytest\.mark\.airflow"):
        subprocess.run(["/nowhere/bin/python", "-m", "sandbox.keeper"], check=True)


@pytest.mark.parametrize("name", ["postgres_server", "mongo_server", "s3_server", "server_folder"])
def test_unmarked_test_that_requests_a_server_fixture_fails(request, name):
    with pytest.raises(pytest.fail.Exception, match=rf"the fixture {name}, so it needs @pytest\.mark\.servers"):
        request.getfixturevalue(name)


def test_test_with_a_server_fixture_gets_the_servers_mark(request, server_folder):
    assert request.node.get_closest_marker("servers")
    assert Path(server_folder).is_dir()


@pytest.mark.parametrize("program", ["mongod", "postgres"])
def test_unmarked_test_may_ask_a_server_program_for_its_version(program):
    with pytest.raises(FileNotFoundError):
        subprocess.run([f"/nowhere/bin/{program}", "--version"], check=True)
