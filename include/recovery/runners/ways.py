"""The ways to servers in containers, and to the client tools in them: each is found once in a step, and closed with it."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from recovery.common.connections import Connect
from recovery.common.extras import extra
from recovery.plan.docker import DockerContainer
from recovery.runners.base import Runner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Way:
    """How a server in a container is reached."""

    place: str
    """The container as the plan names it: the same in every step, whatever its address and its id are."""
    address: str = ""
    """The container's own address; empty if there is a tunnel."""
    socket: Path | None = None
    """The tunnel's end on this worker."""
    inside: str = ""
    """The address at which the server answers its container itself."""


class Ways:
    """The ways that the steps of a process have found. Closed, it finds them anew."""

    def __init__(self) -> None:
        self._found: dict[tuple[DockerContainer, int, str], Way] = {}
        self._runners: dict[DockerContainer, Runner] = {}
        self._open = ExitStack()
        self._lock = Lock()

    def __enter__(self) -> Ways:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all tunnels and tools."""
        with self._lock:
            self._found.clear()
            self._runners.clear()
            self._open.close()

    def to(self, named: DockerContainer, connect: Connect, port: int, socket_name: str) -> Way:
        """The way to a server: the container's own address if this worker gets there, else a tunnel.

        Args:
            named: the container.
            connect: looks up the Connection to its Engine.
            port: of the server, inside the container.
            socket_name: what a tunnel's socket is called, as the server's clients want it.

        Raises:
            ConnectionUnusable: if the Connection to the Engine is missing, or describes none.
            ContainerError: if the Engine does not answer, the container does not run, or nothing leads to the server.
            PlanError: if the extra is not installed.
        """
        key = (named, port, socket_name)
        with self._lock:
            if key not in self._found:
                self._found[key] = self._find(named, connect, port, socket_name)
            return self._found[key]

    def tools(self, named: DockerContainer, connect: Connect, staging: Path) -> Runner:
        """What runs the client tools of a server's own image, beside the server.

        Args:
            named: the server's container.
            connect: looks up the Connection to its Engine.
            staging: the folder that all workers share.

        Raises:
            ConnectionUnusable: if the Connection to the Engine is missing, or describes none.
            ContainerError: if the Engine does not answer, or the container does not run.
        """
        with self._lock:
            if named not in self._runners:
                self._runners[named] = self._runner(named, connect, staging)
            return self._runners[named]

    def _runner(self, named: DockerContainer, connect: Connect, staging: Path) -> Runner:
        with extra("docker", named.title):
            from recovery.runners.docker.engine import open_engine
            from recovery.runners.docker.tools import ContainerRunner

        with ExitStack() as opened:
            engine = opened.enter_context(open_engine(connect, named.connection))
            runner = ContainerRunner(engine, engine.container(named), staging)
            opened.pop_all()
            self._open.callback(runner.close)
            return runner

    def _find(self, named: DockerContainer, connect: Connect, port: int, socket_name: str) -> Way:
        with extra("docker", named.title):
            from recovery.runners.docker import relay
            from recovery.runners.docker.engine import open_engine
            from recovery.runners.docker.tunnel import Tunnel

        with ExitStack() as opened:
            engine = opened.enter_context(open_engine(connect, named.connection))
            container = engine.container(named)
            if address := relay.direct_address(engine, container, port):
                log.info("%s is reached at its own address, %s", named.title, address)
                return Way(named.place, address, inside=address)
            chosen = relay.find_relay(engine, container, port)
            tunnel = Tunnel(engine, container, chosen, socket_name)
            opened.callback(tunnel.close)
            log.info("%s is reached by a tunnel: %s in %s relays to %s", named.title, chosen.name, container.name, chosen.address)
            self._open.enter_context(opened.pop_all())
            return Way(named.place, socket=tunnel.socket, inside=chosen.address)
