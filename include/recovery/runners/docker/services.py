"""The containers of a plan's services: found, with what forbids to stop them; stopped; started until they are well."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from recovery.common.errors import ContainerError
from recovery.common.units import human_duration
from recovery.plan.docker import DockerContainer
from recovery.plan.services import ComposeServices, NamedContainers
from recovery.runners.docker.engine import ONE_OFF, PROJECT, SERVICE, Container, Engine
from recovery.runners.docker.order import depends_on, stopping_levels
from recovery.runners.docker.own import own_containers

log = logging.getLogger(__name__)

RUNNING = {"running", "restarting", "paused"}
"""States of a container whose program has not ended."""
_SWARM = "com.docker.swarm.service.name"
_USUAL_GRACE = 10
"""Seconds from the request to end to the kill, if the container does not say."""
_KILLED = 137


@dataclass(frozen=True)
class Member:
    """A container of the plan's services, running or not."""

    container: Container
    service: str
    """Of Compose; empty if the plan names the container."""
    level: int
    """Those of a lower one stop earlier."""


def members(engine: Engine, part: ComposeServices | NamedContainers) -> list[Member]:
    """The containers that a part of a plan names.

    Raises:
        ContainerError: if one is missing, services depend on each other, or the Engine does not answer.
    """
    return list(_of_project(engine, part) if isinstance(part, ComposeServices) else _by_name(engine, part))


def _of_project(engine: Engine, part: ComposeServices) -> Iterator[Member]:
    with engine.errors(f"Looking for the Compose project {part.project}"):
        listed = engine.client.containers(all=True, filters={"label": [f"{PROJECT}={part.project}"]})
    dependencies: dict[str, set[str]] = {}
    for each in listed:
        dependencies.setdefault(each["Labels"].get(SERVICE, ""), set()).update(depends_on(each["Labels"]))
    levels = stopping_levels(dependencies)
    for service in dict.fromkeys(part.stop):
        named = DockerContainer(connection=part.connection, project=part.project, service=service)
        found = engine.containers(named)
        if not found:
            raise ContainerError(
                f"There is no container of {named.title}.",
                "Correct services.compose in the plan, or create its containers: docker compose up --no-start.",
            )
        yield from (Member(each, service, levels.get(service, 0)) for each in found)  # 0 of a service that came after the list


def _by_name(engine: Engine, part: NamedContainers) -> Iterator[Member]:
    for level, name in enumerate(dict.fromkeys(part.containers)):
        found = engine.containers(DockerContainer(connection=part.connection, container=name))
        if not found:
            raise ContainerError(f"There is no container {name}.", "Correct services.docker in the plan, or create the container.")
        yield Member(found[0], "", level)


def refusals(engine: Engine, part: ComposeServices | NamedContainers, found: Sequence[Member], timeout: timedelta) -> Iterator[str]:
    """Why containers can't be stopped so that they come back as they are, a sentence each."""
    own = own_containers()
    for each in (member.container for member in found if member.container.status in RUNNING):
        host, labels = each.details["HostConfig"], each.details["Config"].get("Labels") or {}
        if each.id in own:
            yield f"{each.name} is where this worker runs, or whose network it uses: leave it out of the plan's services"
        if each.status == "paused":
            yield f"{each.name} is paused: unpause it, or stop it yourself"
        if host.get("AutoRemove"):
            yield f"{each.name} is removed when it stops (--rm): create it without"
        if _SWARM in labels:
            yield f"{each.name} belongs to a Swarm service, which replaces it: stop that by a command"
        if _grace(each) < timedelta():
            yield f"{each.name} has no limit of time to stop (--stop-timeout): give it one"
        if _grace(each) > timeout:
            yield f"{each.name} has {human_duration(_grace(each))} to stop, longer than services.timeout: raise that"
    yield from (f"{name} is a one-off container (docker compose run) and runs: wait until it ends" for name in one_offs(engine, part))


def _grace(container: Container) -> timedelta:
    """The time from the request to end to the kill; less than nothing if the Engine waits for ever."""
    seconds = container.details["Config"].get("StopTimeout")
    return timedelta(seconds=_USUAL_GRACE if seconds is None else seconds)


def one_offs(engine: Engine, part: ComposeServices | NamedContainers) -> list[str]:
    """Names of running containers that somebody has started for once, with the program and data of a service.

    Raises:
        ContainerError: if the Engine does not answer.
    """
    if isinstance(part, NamedContainers):
        return []
    with engine.errors(f"Looking for the Compose project {part.project}"):
        listed = engine.client.containers(filters={"label": [f"{PROJECT}={part.project}", f"{ONE_OFF}=True"]})
    return sorted(each["Names"][0].removeprefix("/") for each in listed if each["Labels"].get(SERVICE) in part.stop)


def refuse_own(container: Container) -> None:
    """Refuse to stop the container in which this process runs.

    Raises:
        ContainerError: if it is that one.
    """
    if container.id in own_containers():
        raise ContainerError(f"{container.name} is where this worker runs.", "Leave it out of the plan's services.")


def stop(engine: Engine, container: Container) -> None:
    """Stop a container, and wait for its end. A restart policy does not start it again, unless the Engine itself is started anew.

    Raises:
        ContainerError: if it does not stop.
    """
    begun = time.monotonic()
    log.info("stopping %s; it has %s before it is killed", container.name, human_duration(_grace(container)))
    with engine.errors(f"Stopping {container.name}"):
        engine.client.stop(container.id)
    found = engine.containers(DockerContainer(container=container.name))
    if found and found[0].status in RUNNING:
        raise ContainerError(f"{container.name} is {found[0].status} after it was stopped.", "Find out who starts it again.")
    took = human_duration(time.monotonic() - begun)
    if found and found[0].details["State"]["ExitCode"] == _KILLED:
        log.warning("%s was killed after %s: it did not end when it was asked to", container.name, took)
    else:
        log.info("%s has stopped after %s", container.name, took)


def start(engine: Engine, container: Container) -> None:
    """Start a container, unless it runs.

    Raises:
        ContainerError: if the Engine can't start it; retryable.
    """
    if container.status in RUNNING:
        log.info("%s is %s already", container.name, container.status)
        return
    log.info("starting %s", container.name)
    try:
        with engine.errors(f"Starting {container.name}"):
            engine.client.start(container.id)
    except ContainerError as error:
        raise ContainerError(error.what, error.next_step, retryable=True) from error
