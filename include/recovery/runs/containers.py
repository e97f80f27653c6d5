"""The containers of a plan's services: which of them ran is in the journal before the first is stopped, and exactly these start again.

So what was down stays down, and a task that was killed anywhere can be done again by whoever ends the run. The journal also has the stop of
each container before it begins: an Engine goes on with it when who asked is killed, and would then end what was found running meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from itertools import groupby
from threading import Lock

from recovery.common.connections import Connect
from recovery.common.errors import ContainerError, ContainerUnwell
from recovery.common.extras import extra
from recovery.common.faults import Faults
from recovery.common.wording import counted
from recovery.plan.docker import DockerContainer
from recovery.plan.services import Services
from recovery.runs.journal import Journal
from recovery.runs.journal_steps import Step

with extra("docker", "stopping services in containers"):
    from recovery.runners.docker import services as docker
    from recovery.runners.docker.engine import Container, Engine, open_engine
    from recovery.runners.docker.health import health, wait_until_well

log = logging.getLogger(__name__)

_NOT_STARTED = "0001-01-01T00:00:00Z"
"""The Engine's time of the last start of a container that was never started."""
_AT_ONCE = 10
"""So many containers of a level are stopped or started side by side; the client library keeps as many connections."""


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

    @property
    def key(self) -> tuple[str | None, str]:
        """What tells it from all others: containers of two Engines may have one name."""
        return self.connection, self.name

    @property
    def in_plan(self) -> DockerContainer:
        """As a plan names it."""
        if self.service:
            return DockerContainer(connection=self.connection, project=self.project, service=self.service)
        return DockerContainer(connection=self.connection, container=self.name)


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
            merged[each.key] = replace(each, ran=each.ran or (each.key in merged and merged[each.key].ran))
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
    """Stop the containers of the journal that ran: dependents first, those of one level side by side. All are tried.

    Raises:
        ContainerError: if one does not stop.
    """
    faults = Faults()
    with _engines(connect, timeout) as engine_of:
        _stop(engine_of, journal, [each for each in noted(journal) if each.ran], faults)
    _raise(faults, "stopped", "Stop it by hand, or find out why it goes on.")


def _stop(engine_of: EngineOf, journal: Journal, wanted: Sequence[Noted], faults: Faults) -> None:
    one_by_one = Lock()  # the journal's own lock keeps out other processes, and no other thread

    def record(step: Step, each: Noted) -> None:
        with one_by_one:
            journal.record(step, container=each.key)

    def stop(engine: Engine, each: Noted) -> None:
        for container in engine.containers(DockerContainer(container=each.name)):
            if container.status in docker.RUNNING:
                docker.refuse_own(container)
                record(Step.STOPPING_CONTAINER, each)
                docker.stop(engine, container)
        record(Step.CONTAINER_STOPPED, each)

    for level in _levels(wanted):
        _side_by_side(engine_of, level, stop, faults)


def start_noted(services: Services, connect: Connect, journal: Journal) -> None:
    """Start the containers of the journal that ran: dependents last, a level when the one before is well. All are tried: people wait.

    One that is gone is missed only if the plan still names it.

    Raises:
        ContainerError: if one does not start; retryable.
        ContainerUnwell: if all were started, and one is not well in time.
    """
    faults = Faults()
    found = noted(journal)

    def start(engine: Engine, each: Noted) -> None:
        there = _there_now(engine, each, found)
        if there is None and services.names(each.in_plan):
            raise ContainerError(
                f"The container {each.name} ran, was stopped, and is gone.",
                "Create it again, and it runs; or take it out of the plan's services.",
            )
        for container in there or ():
            name = container.name if each.health != "unhealthy" else f"{container.name}, which was unhealthy before it was stopped, too"
            with faults.noted(name):
                docker.start(engine, container)
                wait_until_well(engine, container.name, services.timeout)

    with _engines(connect, services.timeout) as engine_of:
        _stop(engine_of, journal, _half_stopped(journal), faults)
        for level in _levels(reversed([each for each in found if each.ran])):
            _side_by_side(engine_of, level, start, faults)
    _raise(faults, "started", "Read the log of this task. Mend the cause and clear it, or start the containers by hand.")


def _half_stopped(journal: Journal) -> list[Noted]:
    """Containers of which it is not known whether an Engine still stops them: whoever asked for it was killed, or had no answer."""
    begun: set[tuple[str | None, str]] = set()
    for entry in journal.everything():
        if entry.step == Step.STOPPING_CONTAINER:
            begun.add(tuple(entry.facts["container"]))
        if entry.step == Step.CONTAINER_STOPPED:
            begun.discard(tuple(entry.facts["container"]))
    return [each for each in noted(journal) if each.key in begun]


def _levels(found: Iterable[Noted]) -> Iterator[list[Noted]]:
    return (list(level) for _, level in groupby(found, key=lambda each: each.level))


def _side_by_side(engine_of: EngineOf, level: Sequence[Noted], work: Callable[[Engine, Noted], None], faults: Faults) -> None:
    """Do the same with all containers of a level, at once: each may take as long as the plan allows, and people wait for the last one."""

    def done(given: tuple[Engine, Noted]) -> None:
        with faults.noted(given[1].name):
            work(*given)

    reached: list[tuple[Engine, Noted]] = []
    for each in level:
        with faults.noted(each.name):
            reached.append((engine_of(each.connection), each))
    with ThreadPoolExecutor(_AT_ONCE, "containers") as threads:
        for _ in threads.map(done, reached):
            pass


def _there_now(engine: Engine, each: Noted, found: Sequence[Noted]) -> list[Container] | None:
    """What a container is by now: of its name, or of its service if somebody gave that other containers meanwhile; None if it is gone."""
    if there := engine.containers(DockerContainer(connection=each.connection, container=each.name)):
        return there
    if each.service:
        known = {other.key: other.ran for other in found}
        others = engine.containers(each.in_plan)
        if running := [other for other in others if known.get((each.connection, other.name), True)]:
            log.warning("%s is gone, and its service %s has other containers", each.name, each.service)
            return [other for other in running if (each.connection, other.name) not in known]
    log.warning("%s is gone", each.name)
    return None


def _raise(faults: Faults, verb: str, next_step: str) -> None:
    if faults:
        what = f"{counted(len(faults.sentences), 'container')} of the services could not be {verb}: {' '.join(faults.sentences)}"
        kind = ContainerUnwell if all(isinstance(error, ContainerUnwell) for error in faults.errors) else ContainerError
        raise kind(what, next_step, retryable=True)


def ran_since(services: Services, connect: Connect, journal: Journal) -> list[str]:
    """Names of the containers of services that run, or ran since they were stopped, whoever started them; one-off ones if they run.

    Raises:
        ContainerError: if an Engine does not answer.
    """
    before = {each.key: each.started_at for each in noted(journal)}
    now, _ = look(services, connect)
    ran = [each.name for each in now if each.ran or each.started_at not in {before.get(each.key), _NOT_STARTED}]
    with _engines(connect, services.timeout) as engine_of:
        return ran + [name for part in services.in_containers for name in docker.one_offs(engine_of(part.connection), part)]
