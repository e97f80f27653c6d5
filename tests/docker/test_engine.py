"""Containers are found by name, on a real Engine."""

import secrets

import pytest

from recovery.common.connections import Endpoint
from recovery.common.errors import ContainerError
from recovery.plan.docker import DockerContainer
from recovery.runners.docker.address import address_of
from recovery.runners.docker.engine import ONE_OFF, PROJECT, SERVICE, Engine

pytestmark = pytest.mark.docker


@pytest.fixture
def opened(engine_endpoint):
    with Engine(address_of(engine_endpoint)) as opened:
        yield opened


@pytest.fixture
def create(opened):
    """Creates a container that only waits, by a name and labels."""
    made = []

    def create(name, *, start=True, **labels):
        container = opened.client.create_container("debian:bookworm", ["sleep", "infinity"], name=name, labels=labels)
        made.append(container["Id"])
        if start:
            opened.client.start(container["Id"])
        return container["Id"]

    yield create
    for each in made:
        opened.client.remove_container(each, force=True)


@pytest.fixture
def name():
    return f"reach-{secrets.token_hex(6)}"


def test_container_is_found_by_its_name_whatever_its_id(opened, create, name):
    named = DockerContainer(container=name)
    first = create(name)
    assert opened.container(named).id == first
    opened.client.rename(first, f"{name}-old")
    second = create(name)
    assert opened.container(named).id == second


def test_service_is_found_by_its_labels_without_one_off_containers(opened, create, name):
    labels = {PROJECT: name, SERVICE: "db"}
    wanted = create(f"{name}-db-1", **labels, **{ONE_OFF: "False"})
    create(f"{name}-db-run", **labels, **{ONE_OFF: "True"})
    create(f"{name}-web-1", **{PROJECT: name, SERVICE: "web"})
    create(f"{name}-db-old", start=False, **labels)
    assert opened.container(DockerContainer(project=name, service="db")).id == wanted


def test_service_of_several_containers_is_an_error_with_their_names(opened, create, name):
    for number in (1, 2):
        create(f"{name}-db-{number}", **{PROJECT: name, SERVICE: "db"})
    with pytest.raises(ContainerError, match=f"runs several containers: {name}-db-1, {name}-db-2"):
        opened.container(DockerContainer(project=name, service="db"))


def test_container_that_does_not_run_is_an_error_with_its_state(opened, create, name):
    made = create(name, start=False)
    with pytest.raises(ContainerError, match=f"does not run: {name} is created") as told:
        opened.container(DockerContainer(container=name))
    assert told.value.retryable
    opened.client.start(made)
    opened.client.pause(made)
    with pytest.raises(ContainerError, match=f"{name} is paused"):
        opened.container(DockerContainer(container=name))


def test_missing_container_is_an_error_and_an_id_is_no_name(opened, create, name):
    made = create(name)
    for wrong in (f"{name}x", made, made[:12]):
        with pytest.raises(ContainerError, match="no such container"):
            opened.container(DockerContainer(container=wrong))
    with pytest.raises(ContainerError, match="no such container"):
        opened.container(DockerContainer(project=name, service="db"))


def test_engine_that_does_not_answer_is_an_error(tmp_path):
    (tmp_path / "docker.sock").touch()
    with pytest.raises(ContainerError, match="does not answer as one") as told:
        Engine(address_of(Endpoint("engine", f"unix://{tmp_path}/docker.sock")))
    assert told.value.retryable
    with pytest.raises(ContainerError, match="does not answer as one"):
        Engine(address_of(Endpoint("engine", "127.0.0.1", 9, extra={"tls": False})))
