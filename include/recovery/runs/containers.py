"""The containers of a plan's services: which of them ran is in the journal before the first is stopped, and exactly these start again.

So what was down stays down, and a task that was killed anywhere can be done again by whoever ends the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from itertools import groupby

from recovery.common.connections import Connect
from recovery.common.errors import ContainerError
from recovery.common.faults import Faults
from recovery.common.wording import counted
from recovery.plan.docker import DockerContainer
from recovery.plan.services import Services
from recovery.runners.docker import services as docker
from recovery.runners.docker.engine import Container, Engine, open_engine
from recovery.runners.docker.health import health, wait_until_well
from recovery.runs.journal import Journal
from recovery.runs.journal_steps import Step

log = logging.getLogger(__name__)

_NOT_STARTED = "0001-01-01T00:00:00Z"
"""The Engine's time of the last start of a container that was never started."""


@dataclass(frozen=True)
class Noted:
    """A container of the services, as it was found before they were stopped."""

    connection: str | None
    """Of its Engine."""
    name: str
    project: str
    service: str
    """Of Compose, both; empty if the plan names the container."""
    level: int
    """Those of a lower one stop earlier and start later."""
    ran: bool
    started_at: str
    """As the Engine wrote it, when the container was started last."""
    health: str
    """See :func:`recovery.runners.docker.health.health`."""


EngineOf = Callable[[str | None], Engine]


@contextmanager
def _engines(connect: Connect, timeout: timedelta) -> Iterator[EngineOf]:
    """The Engines of Connections, each opened once; an answer may take a minute longer than a container has to stop."""
    opened: dict[str | None, Engine] = {}
    with ExitStack() as stack:

        def engine_of(connection: str | None) -> Engine:
            if connection not in opened:
                opened[connection] = stack.enter_context(open_engine(connect, connection))
                opened[connection].client.timeout += timeout.total_seconds()
            return opened[connection]

        yield engine_of


def look(services: Services, connect: Connect) -> tuple[list[Noted], list[str]]:
    """The containers of services, those of the lowest level first; and why some can't be stopped, a sentence each.

    Raises:
        ContainerError: if one is missing, or an Engine does not answer.
        ConnectionUnusable: if a Connection is missing or describes no Engine.
    """
    found: list[Noted] = []
    refused: list[str] = []
    with _engines(connect, services.timeout) as engine_of:
        for part in services.in_containers:
            engine = engine_of(part.connection)
            members = docker.members(engine, part)
            refused += docker.refusals(engine, part, members, services.timeout)
            above = max((each.level + 1 for each in found), default=0)
            project = getattr(part, "project", "")
            found += [_noted(each, part.connection, project, above) for each in sorted(members, key=lambda each: each.level)]
    return found, refused


def _noted(member: docker.Member, connection: str | None, project: str, above: int) -> Noted:
    container = member.container
    return Noted(
        connection=connection,
        name=container.name,
        project=project,
        service=member.service,
        level=above + member.level,
        ran=container.status in docker.RUNNING,
        started_at=container.details["State"]["StartedAt"],
        health=health(container),
    )


def noted(journal: Journal) -> list[Noted]:
    """What the journal has of containers. One that ran when they were looked at for the first time counts as one that ran.

    A second look is there after a task that was killed had stopped some of them, or before a rollback.
    """
    merged: dict[tuple[str | None, str], Noted] = {}
    for entry in journal.entries(Step.CONTAINERS_FOUND):
        for facts in entry.facts["containers"]:
            each = Noted(**facts)
            key = each.connection, each.name
            merged[key] = replace(each, ran=each.ran or (key in merged and merged[key].ran))
    return sorted(merged.values(), key=lambda each: each.level)


def note(services: Services, connect: Connect, journal: Journal, *, refusing: bool = True) -> None:
    """Write down which containers run, before anything is stopped.

    Args:
        services: of the plan, or of a target.
        connect: looks Connections up.
        journal: of the run that stops them.
        refusing: whether it is an error if one can't be stopped so that it comes back as it is; else the log says so.

    Raises:
        ContainerError: if so; or if one is missing, or an Engine does not answer.
    """
    found, refused = look(services, connect)
    if refused and refusing:
        raise ContainerError(f"Containers can't be stopped: {'; '.join(refused)}.", "Nothing was stopped. Mend this, then start again.")
    for sentence in refused:
        log.warning("%s", sentence)
    journal.record(Step.CONTAINERS_FOUND, containers=[asdict(each) for each in found])
    for each in found:
        log.info("%s %s", each.name, "runs" if each.ran else "does not run, and stays as it is")


def stop_noted(connect: Connect, journal: Journal, timeout: timedelta) -> None:
    """Stop the containers of the journal that ran: dependents first. All are tried.

    Raises:
        ContainerError: if one does not stop.
    """
    faults = Faults()
    with _engines(connect, timeout) as engine_of:
        for each in noted(journal):
            with faults.noted(each.name):
                for container in engine_of(each.connection).containers(DockerContainer(container=each.name)):
                    if each.ran and container.status in docker.RUNNING:
                        docker.stop(engine_of(each.connection), container)
    _raise(faults, "stopped", "Stop it by hand, or find out why it goes on.")


def start_noted(connect: Connect, journal: Journal, timeout: timedelta) -> None:
    """Start the containers of the journal that ran: dependents last, a level when the one before is well. All are tried: people wait.

    Raises:
        ContainerError: if one does not start, or is not well in time; retryable.
    """
    faults = Faults()
    known = {each.name for each in noted(journal)}
    ran = [each for each in reversed(noted(journal)) if each.ran]
    with _engines(connect, timeout) as engine_of:
        for _, level in groupby(ran, key=lambda each: each.level):
            started: list[tuple[Noted, str]] = []
            for each in level:
                with faults.noted(each.name):
                    for container in _there_now(engine_of(each.connection), each, known):
                        docker.start(engine_of(each.connection), container)
                        started.append((each, container.name))
            for each, name in started:
                with faults.noted(name if each.health != "unhealthy" else f"{name}, which was unhealthy before it was stopped, too"):
                    wait_until_well(engine_of(each.connection), name, timeout)
    _raise(faults, "started", "Read the log of this task. Mend the cause and clear it, or start the containers by hand.")


def _there_now(engine: Engine, each: Noted, known: set[str]) -> list[Container]:
    """What a container is by now: of its name, or of its service if somebody gave that other containers meanwhile."""
    if found := engine.containers(DockerContainer(connection=each.connection, container=each.name)):
        return found
    if each.service:
        others = engine.containers(DockerContainer(connection=each.connection, project=each.project, service=each.service))
        if others:
            log.warning("%s is gone, and its service %s has other containers", each.name, each.service)
            return [other for other in others if other.name not in known]
    raise ContainerError(f"The container {each.name} ran, was stopped, and is gone.", "Create it again; it then runs.")


def _raise(faults: Faults, verb: str, next_step: str) -> None:
    if faults:
        what = f"{counted(len(faults.sentences), 'container')} of the services could not be {verb}: {' '.join(faults.sentences)}"
        raise ContainerError(what, next_step, retryable=True)


def ran_since(services: Services, connect: Connect, journal: Journal) -> list[str]:
    """Names of the containers of services that run, or ran since they were stopped, whoever started them.

    Raises:
        ContainerError: if an Engine does not answer.
    """
    before = {(each.connection, each.name): each.started_at for each in noted(journal)}
    now, _ = look(services, connect)
    return [each.name for each in now if each.ran or each.started_at not in {before.get((each.connection, each.name)), _NOT_STARTED}]
