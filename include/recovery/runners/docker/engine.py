"""A Docker Engine, and the container that a plan names there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests
from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.tls import TLSConfig

from recovery.common.connections import Connect
from recovery.common.errors import ContainerError
from recovery.plan.docker import DockerContainer
from recovery.runners.docker.address import LOCAL_SOCKET, EngineAddress, address_of

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
ONE_OFF = "com.docker.compose.oneoff"
"""Labels that Compose gives its containers; the last is ``True`` for those of ``compose run``."""
ASK_THE_PROXY = "Look whether a proxy of the Engine's socket permits this call."
"""What to do if a call is forbidden."""
_PATIENCE = 60
"""Seconds that an answer may take."""


@dataclass(frozen=True)
class Container:
    """A container, as it was when it was looked at."""

    id: str
    name: str
    status: str
    """``running``, ``paused``, ``restarting``, ``exited``, ``created``, ``removing`` or ``dead``."""
    details: Mapping[str, Any] = field(repr=False)
    """All that the Engine says of it. Its environment is there too, so this is for no message and no log."""


class Engine:
    """A Docker Engine; close it, or use it as a context."""

    def __init__(self, address: EngineAddress) -> None:
        """Connect to it.

        Raises:
            ContainerError: if it does not answer, or is none; retryable.
        """
        self.address = address
        with self.errors("Connecting to it"):
            with self._client(None) as asked:
                version = str(asked.version(api_version=False)["ApiVersion"])
            self.client = self._client(version)

    def _client(self, version: str | None) -> Any:
        tls = self.address.ca and TLSConfig(
            client_cert=(str(self.address.certificate), str(self.address.key)), ca_cert=str(self.address.ca), verify=True
        )
        client = APIClient(self.address.url, version or "1.41", timeout=_PATIENCE, tls=tls or False)
        client.trust_env = False  # the environment has the proxy and the certificates of other addresses
        return client

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn what the client library raises into errors of this project.

        Args:
            doing: what is being done, as the beginning of a sentence.

        Raises:
            ContainerError: if the Engine does not answer, which is retryable, or refuses.
        """
        try:
            yield
        except APIError as error:
            said = f"{self.address.title} answers: {str(error.explanation or error).strip().rstrip('.')}"
            next_step = ASK_THE_PROXY if error.status_code == requests.codes.forbidden else "Read what it said."
            raise ContainerError(f"{doing} failed. {_capital(said)}.", next_step, retryable=error.is_server_error()) from error
        except (DockerException, requests.RequestException, OSError, ValueError, KeyError) as error:
            raise ContainerError(
                f"{doing} failed. {_capital(self.address.title)} at {self.address.url} does not answer as one: {error}.",
                "Look whether the Engine runs, and whether this worker's user may use its socket or certificates.",
                retryable=True,
            ) from error

    def containers(self, named: DockerContainer) -> list[Container]:
        """All containers that a plan's words fit, running or not, by name; more than one only of a Compose service.

        Raises:
            ContainerError: if the Engine does not answer.
        """
        with self.errors(f"Looking for {named.title}"):
            if named.container:
                ids = [named.container]
            else:
                labels = [f"{PROJECT}={named.project}", f"{SERVICE}={named.service}"]
                found = self.client.containers(all=True, filters={"label": labels})
                ids = [each["Id"] for each in found if each["Labels"].get(ONE_OFF) != "True"]
            looked_at = [each for each in map(self._look, ids) if each]
        # The Engine takes ids for names, too.
        return sorted((each for each in looked_at if named.container in {None, each.name}), key=lambda each: each.name)

    def _look(self, name: str) -> Container | None:
        try:
            details = self.client.inspect_container(name)
        except NotFound:
            return None  # never there, or gone by now
        return Container(details["Id"], details["Name"].removeprefix("/"), details["State"]["Status"], details)

    def container(self, named: DockerContainer) -> Container:
        """The one running container that a plan names.

        Raises:
            ContainerError: if there is none, none that runs, or several; or if the Engine does not answer.
        """
        found = self.containers(named)
        if not found:
            raise ContainerError(
                f"{_capital(self.address.title)} has no such container: {named.title}.",
                "Create it, or correct the name in the plan; docker ps --all lists the names. An id is not a name.",
                retryable=True,
            )
        running = [each for each in found if each.status == "running"]
        if not running:
            states = ", ".join(f"{each.name} is {each.status}" for each in found)
            raise ContainerError(f"{_capital(named.title)} does not run: {states}.", "Start it.", retryable=True)
        if len(running) > 1:
            names = ", ".join(each.name for each in running)
            raise ContainerError(f"{_capital(named.title)} runs several containers: {names}.", "Name one of them in the plan.")
        return running[0]


def open_engine(connect: Connect, connection: str | None) -> Engine:
    """The Engine of a Connection, or the local one.

    Raises:
        ConnectionUnusable: if the Connection is missing or describes no Engine.
        ContainerError: if the Engine does not answer.
    """
    return Engine(address_of(connect(connection) if connection else LOCAL_SOCKET))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
