"""A container, as a plan names it: by its own name, or by Compose's names of project and service. Its id changes, so no plan has it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from recovery.plan.field_types import ConnectionId, Part

ContainerName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,250}$", description="Name of a container.")]
ProjectName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,249}$", description="Name of a Compose project.")]
ServiceName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,250}$", description="Name of a service of a Compose project.")]


class DockerContainer(Part):
    """One container of a Docker Engine."""

    connection: ConnectionId | None = None
    """Connection to the Engine; default: the one whose socket is ``/var/run/docker.sock`` on the worker."""
    container: ContainerName | None = None
    """The container's name."""
    project: ProjectName | None = None
    """Instead of a name, with ``service``: the Compose project that it belongs to."""
    service: ServiceName | None = None
    """Instead of a name, with ``project``: the service that it runs."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if (self.project is None) != (self.service is None) or (self.container is None) == (self.service is None):
            raise ValueError("write either container, or project and service")
        return self

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"the container {self.container}" if self.container else f"the service {self.service} of the Compose project {self.project}"

    @property
    def place(self) -> str:
        """The same with its Engine, for what compares servers."""
        return f"{self.title} of the Engine {self.connection}" if self.connection else self.title


class Reach(Part):
    """How a server is reached that has no address which workers know."""

    docker: DockerContainer
    """The container that it runs in."""
