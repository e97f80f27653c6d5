"""A Docker Engine that the tests of this folder share, servers in containers, and docker-compose.yaml started with stand-ins for images."""

import secrets
import shutil
import tempfile
from pathlib import Path

import pytest

from recovery.common.connections import Endpoint
from recovery.runners.docker import relay
from sandbox.containers.engine import Engine
from sandbox.containers.stack import Stack
from sandbox.containers.stand_ins import StandIns, compose_program
from tests.support.containers import MongoContainer, PostgresContainer, engine_of

QUICK = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
    "AIRFLOW__API__WORKERS": "1",
}
"""What makes Airflow notice at once what it notices after minutes by default."""


@pytest.fixture(scope="session")
def docker_engine():
    with Engine() as found:
        yield found


@pytest.fixture(scope="session")
def engine(docker_engine, stand_ins):
    """The address of the Engine, which has the image that these tests start."""
    stand_ins.python()
    return docker_engine.address


@pytest.fixture(scope="session")
def engine_endpoint(engine):
    """What a Connection to that Engine says."""
    return Endpoint("engine", engine, extra={"tls": False})


@pytest.fixture(scope="session")
def stand_ins(docker_engine):
    return StandIns(docker_engine)


@pytest.fixture(scope="module")
def stack(docker_engine, stand_ins):
    folder = Path(tempfile.mkdtemp(prefix="recovery-stack-"))
    folder.chmod(0o755)
    try:
        with Stack(docker_engine, [compose_program()], folder, stand_ins.all(), {"SAMPLE_SCALE": "0.1"}, QUICK) as started:
            started.write_plan(lambda text: f"{text}retry_delay: 5s\n")
            started.import_connections()
            yield started
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def opened(engine):
    """The Engine, for the tests themselves."""
    with engine_of(engine) as opened:
        yield opened


@pytest.fixture(scope="session")
def container_name():
    """What the names of these tests' containers begin with."""
    return f"reach-{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def postgres_container(opened, server_folder, container_name):
    with PostgresContainer(opened, server_folder / "postgres-container", f"{container_name}-postgres") as server:
        yield server


@pytest.fixture(scope="session")
def image_container(opened, stand_ins, server_folder, container_name):
    """PostgreSQL of the stand-in for the official image, which has its own client tools."""
    place = server_folder / "image-container"
    with PostgresContainer.of_image(stand_ins.postgres(), opened, place, f"{container_name}-image") as server:
        yield server


@pytest.fixture(scope="session")
def mongo_container(opened, server_folder, container_name):
    with MongoContainer(opened, server_folder / "mongo-container", f"{container_name}-mongo") as server:
        yield server


@pytest.fixture
def no_direct_address(monkeypatch):
    """As on a worker that is in no network with the container."""
    monkeypatch.setattr(relay, "direct_address", lambda *_: None)


@pytest.fixture(params=["address", "tunnel"])
def each_way(request):
    """Each way in which a server in a container is reached."""
    if request.param == "tunnel":
        request.getfixturevalue("no_direct_address")
    return request.param
