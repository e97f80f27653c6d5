"""Servers that many tests share, each started when the first test asks for it."""

import tempfile
from pathlib import Path

import pytest

from sandbox.servers import S3, Mongo, Postgres, mailbox


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
def smtp():
    with mailbox() as box:
        yield box


def pytest_collection_modifyitems(items):
    """Fast ones first: those that start a whole Airflow come last."""
    items.sort(key=lambda item: ("end_to_end" in item.path.parts, "sources" in item.path.parts))
