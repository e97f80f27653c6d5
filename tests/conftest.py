"""Servers that many tests share, each started when the first test asks for it; and the marks of all tests.

The mark ``servers`` is set here on every test with a fixture of :data:`tests.support.server_guard.FIXTURES`. A test that gets a
server in another way has the mark in its own module; one that has not fails.
"""

import tempfile
from pathlib import Path

import pytest

from recovery.destinations.folder import Folder
from sandbox.servers import S3, Mongo, Postgres, mailbox
from tests.support import server_guard
from tests.support.sets import s3_destination

GUARD = server_guard.ServerGuard()
TESTS = Path(__file__).parent
DESTINATIONS = ["folder", pytest.param("s3", marks=pytest.mark.servers)]


def pytest_configure():
    GUARD.install()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    GUARD.item = item
    try:
        return (yield)
    finally:
        GUARD.item = None


@pytest.fixture(scope="session")
def server_folder():
    with tempfile.TemporaryDirectory(prefix="recovery-tests-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_server(server_folder):
    with Postgres(server_folder / "postgres18") as server:
        yield server


@pytest.fixture(scope="session")
def mongo_server(server_folder):
    with Mongo(server_folder / "mongo") as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(server_folder):
    with S3(server_folder / "s3") as server:
        yield server


@pytest.fixture(params=[pytest.param(1, marks=pytest.mark.long, id="each point"), pytest.param(5, id="every fifth point")])
def stride(request):
    """From one point of a kill campaign to the next: ``make test`` takes some of them, ``make test-long`` all."""
    return request.param


@pytest.fixture
def local(tmp_path):
    """An empty folder as a destination."""
    (tmp_path / "there").mkdir()
    return Folder("local", tmp_path / "there")


@pytest.fixture(params=DESTINATIONS)
def destination(request):
    """An empty destination of each kind."""
    return request.getfixturevalue("local") if request.param == "folder" else s3_destination(request.getfixturevalue("s3_server"))


@pytest.fixture
def smtp():
    with mailbox() as box:
        yield box


def pytest_collection_modifyitems(items):
    """Fast ones first: those that start a whole Airflow come last."""
    for item in items:
        if server_guard.FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.servers)
        if TESTS / "compose" in item.path.parents:
            item.add_marker(pytest.mark.compose)
        if TESTS / "docker" in item.path.parents:
            item.add_marker(pytest.mark.docker)
    items.sort(key=lambda item: ("end_to_end" in item.path.parts, "sources" in item.path.parts))
