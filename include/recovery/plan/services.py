"""Services: what uses the data, and how it is stopped and started: by Compose, as containers, by commands."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from recovery.plan.docker import ContainerName, DockerContainer, ProjectName, ServiceName
from recovery.plan.field_types import Argv, ConnectionId, Duration, Part


class ComposeServices(Part):
    """Services of a Compose project, with all of their containers."""

    connection: ConnectionId | None = None
    """Connection to the Docker Engine; default: the one whose socket is ``/var/run/docker.sock`` on the worker."""
    project: ProjectName
    """The project's name, as ``docker compose ls`` shows it."""
    stop: Annotated[tuple[ServiceName, ...], Field(min_length=1)]
    """Services to stop, and to start again, in any order: their containers say what depends on what."""

    @property
    def title(self) -> str:
        """What is stopped, for people."""
        return f"the services {', '.join(self.stop)} of the Compose project {self.project}"

    def names(self, container: DockerContainer) -> bool:
        """Whether a container is one of these, as far as its name in the plan tells."""
        return (self.connection, self.project) == (container.connection, container.project) and container.service in self.stop


class NamedContainers(Part):
    """Containers that belong to no Compose project."""

    connection: ConnectionId | None = None
    """Connection to the Docker Engine; default: the one whose socket is ``/var/run/docker.sock`` on the worker."""
    containers: Annotated[tuple[ContainerName, ...], Field(min_length=1)]
    """Their names, in the order of stopping; they start in the opposite order."""

    @property
    def title(self) -> str:
        """What is stopped, for people."""
        return f"the containers {', '.join(self.containers)}"

    def names(self, container: DockerContainer) -> bool:
        """As :meth:`ComposeServices.names`."""
        return self.connection == container.connection and container.container in self.containers


class Services(Part):
    """What uses the data: stopped before the cutover, started after it. Commands, then Compose's, then other containers; then back."""

    stop: tuple[Argv, ...] = ()
    """Commands that stop something."""
    start: tuple[Argv, ...] = ()
    """Commands that start it again."""
    compose: ComposeServices | None = None
    docker: NamedContainers | None = None
    timeout: Duration = timedelta(minutes=5)
    """How long each command may take, each container to stop, and each to be healthy after its start."""
    down_at_most: Duration | None = None
    """How long a cold backup may keep them stopped; without it there are no cold backups."""

    @property
    def in_containers(self) -> tuple[ComposeServices | NamedContainers, ...]:
        """Those that a Docker Engine stops and starts, in the order of stopping."""
        return tuple(part for part in (self.compose, self.docker) if part)

    @property
    def named(self) -> bool:
        """Whether the plan says how anything is stopped."""
        return bool(self.stop or self.in_containers)

    def names(self, container: DockerContainer) -> bool:
        """As :meth:`ComposeServices.names`."""
        return any(part.names(container) for part in self.in_containers)
