"""Containers of a server's own image, in which its client tools run: beside the server, in its network, and without its files.

The image is somebody else's, so such a container gets no right at all, and of this worker's folders only those that its tools need.
Its only process waits for the end of a stream that this process holds. So it ends when this process ends, however that happens, and the
Engine then removes it.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from docker.errors import APIError, NotFound
from docker.types import Mount

from recovery.common.errors import ContainerError
from recovery.runners.docker.engine import Container, Engine
from recovery.runners.docker.own import own_containers
from recovery.runners.docker.private_folder import PrivateFolder
from recovery.runners.docker.stream import run

log = logging.getLogger(__name__)

_LABEL = "openmanus-recovery.tools"
"""Has the path, on the Engine's machine, of the folder that the container's maker holds."""
_WAITS = ("sh", "-c", "read _")
_PREFIX = ".tools-"
_NAME = "recovery-tools-"
"""What the names of such containers begin with. An image can have the label, too, and so give it to any container of it."""
_MOST_PROCESSES = 1024
"""More than tools with 64 jobs have."""
_GONE_WITHIN = 60


class SharedFolder:
    """A folder of this process, below staging, that the containers of an Engine see, too: they read what tools are handed there.

    Args:
        engine: the Engine.
        staging: the folder that all workers share.
    """

    def __init__(self, engine: Engine, staging: Path) -> None:
        staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = place_of(engine, staging)
        self._folder = PrivateFolder(staging, _PREFIX)
        self.path = self._folder.path
        self._mark = secrets.token_hex(16)
        (self.path / "mark").write_text(self._mark)
        self.there = place / self.path.name
        """Its path on the Engine's machine."""

    def seen_in(self, engine: Engine, container_id: str) -> bool:
        """Whether a container sees this very folder."""
        return run(engine, container_id, ["cat", str(self.path / "mark")]) == (0, self._mark.encode())

    def close(self) -> None:
        """Remove it."""
        self._folder.close()


def place_of(engine: Engine, path: Path) -> Path:
    """Where a folder of this worker lies on the Engine's machine: at the same path, unless the worker is a container there.

    Raises:
        ContainerError: if the folder is in this worker's container alone.
    """
    found = False
    mounts: list[dict[str, str]] = []
    for number in own_containers():
        with engine.errors("Looking for this worker's own container"), suppress(NotFound):
            details = engine.client.inspect_container(number)
            found, mounts = True, mounts + [each for each in details["Mounts"] if path.is_relative_to(each["Destination"])]
    if not found:
        return path
    if not mounts:
        raise ContainerError(
            f"{path} lies in this worker's own container, where no other container sees it.",
            "Mount a volume or a folder of the machine there: the staging folder of the plan.",
        )
    closest = max(mounts, key=lambda each: len(each["Destination"]))
    return Path(closest["Source"]) / path.relative_to(closest["Destination"])


class Toolbox:
    """A container for client tools, from its start until :meth:`close`.

    Args:
        engine: whose container the server is.
        server: the server's container.
        shared: is mounted read-only.
        reads: a folder that is mounted read-only, too.
        writes: a folder that is mounted to be written to.

    Raises:
        ContainerError: if the Engine refuses, the image has no shell, or the folders are not this worker's.
    """

    def __init__(
        self, engine: Engine, server: Container, shared: SharedFolder, reads: Path | None = None, writes: Path | None = None
    ) -> None:
        self._engine, self._name = engine, f"{_NAME}{secrets.token_hex(6)}"
        folders = [(shared.path, True), *([(reads, True)] if reads else []), *([(writes, False)] if writes else [])]
        with engine.errors(f"Starting a container of the image of {server.name} for its client tools"):
            self.id = str(self._create(server, shared, folders)["Id"])
            try:
                self._stream = engine.client.attach_socket(self.id, {"stdin": 1, "stream": 1})
                engine.client.start(self.id)
            except BaseException:
                _remove(engine, self.id)
                raise
        log.debug("client tools of %s run in %s", server.name, self._name)
        self._held = os.open(reads, os.O_PATH) if reads else None  # so that no other folder gets its number
        try:
            self._prove(server, shared)
        except BaseException:
            self.close()
            raise

    def _prove(self, server: Container, shared: SharedFolder) -> None:
        if not shared.seen_in(self._engine, self.id):
            raise ContainerError(
                f"The containers of {self._engine.address.title} do not see this worker's folder {shared.path.parent}, so the client"
                f" tools of {server.name} can't be used in one.",
                "Install the client tools on the worker, and name their folder in the plan under tools.postgres, or leave it out.",
            )

    def _create(self, server: Container, shared: SharedFolder, folders: Sequence[tuple[Path, bool]]) -> dict[str, Any]:
        client = self._engine.client
        mounts = [Mount(str(path), str(place_of(self._engine, path)), type="bind", read_only=only) for path, only in folders]
        # In place of volumes of the image's, which could be written to, and are filled from the image each time.
        volumes = map(Path, server.details["Config"].get("Volumes") or ())
        mounts += [Mount(str(each), None, type="tmpfs", read_only=True) for each in volumes if each not in dict(folders)]
        host = client.create_host_config(
            network_mode=f"container:{server.id}",
            mounts=mounts,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            read_only=True,
            pids_limit=_MOST_PROCESSES,
            auto_remove=True,
        )
        found: dict[str, Any] = client.create_container(
            server.details["Image"],
            entrypoint=list(_WAITS),
            command=[],
            name=self._name,
            user=f"{os.geteuid()}:{os.getegid()}",
            working_dir="/",
            stdin_open=True,
            labels={_LABEL: str(shared.there)},
            healthcheck={"test": ["NONE"]},
            host_config=host,
            use_config_proxy=False,
        )
        return found

    def close(self) -> None:
        """End all that runs in it, and wait until it is gone.

        Raises:
            ContainerError: if the Engine does not answer.
        """
        with self._engine.errors(f"Removing the container {self._name}"):
            self._stream.close()
            _remove(self._engine, self.id)
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _remove(engine: Engine, container_id: str) -> None:
    """Remove a container, and wait until it is gone."""
    with suppress(NotFound):
        try:
            engine.client.remove_container(container_id, v=True, force=True)
        except APIError as error:
            if error.status_code != requests.codes.conflict:  # the Engine, or another worker, removes it already
                raise
        engine.client.wait(container_id, timeout=_GONE_WITHIN, condition="removed")


def sweep(engine: Engine, shared: SharedFolder) -> None:
    """Remove the containers of workers that were killed: those whose folder, beside ours, is gone.

    Raises:
        ContainerError: if the Engine does not answer.
    """
    with engine.errors("Removing containers for client tools that nobody uses"):
        for each in engine.client.containers(all=True, filters={"label": _LABEL}):
            there, ours = Path(each["Labels"][_LABEL]), [name for name in each["Names"] or () if name.startswith(f"/{_NAME}")]
            if ours and there.parent == shared.there.parent and not (shared.path.parent / there.name).exists():
                log.warning("removing %s, whose task was killed", ours[0].removeprefix("/"))
                _remove(engine, each["Id"])
