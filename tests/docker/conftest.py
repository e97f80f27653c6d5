"""A Docker Engine that the tests of this folder share, and docker-compose.yaml started on it with stand-ins for images."""

import shutil
import tempfile
from pathlib import Path

import pytest

from recovery.common.connections import Endpoint
from sandbox.containers.engine import Engine
from sandbox.containers.stack import Stack
from sandbox.containers.stand_ins import StandIns, compose_program

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
def engine(docker_engine):
    """The address of the Engine."""
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
