"""Scratch servers and folders that a drill makes for itself, and removes.

::

    <drill.folder or the drill's folder in staging>/recovery-drill-<id>-<random>/
      <source>/              data folder of a server, or the folder that files or settings are restored to
      <source>.password      of the server's superuser, mode 0600
      <source>.log           what the server wrote

Where it is, on which worker, and on which ports the servers answer is in ``scratch.json`` in the drill's folder.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from signal import Signals

from pydantic import BaseModel, ConfigDict

from recovery.common.connections import Endpoint
from recovery.common.errors import RestoreError, StagingError
from recovery.common.files import locked, read_record, write_record
from recovery.plan.field_types import SCRATCH
from recovery.plan.kinds import KINDS
from recovery.plan.model import Plan
from recovery.plan.source_id import kind_of
from recovery.plan.source_settings import TargetSettings
from recovery.runners import local_server, processes
from recovery.runners.processes import User
from recovery.runs.context import PlanContext
from recovery.sources import registry
from recovery.targets.target import RestoreTarget, portable_checks

log = logging.getLogger(__name__)

LOCK = "scratch"
"""The name of the lock of a drill under which its scratch target is made and removed."""
_RECORD = "scratch.json"
_BESIDE = Path("/var/tmp")  # noqa: S108
"""Where PostgreSQL's user gets to when staging is closed to it; the folder made there is open to that user and root alone."""


class Scratch(BaseModel):
    """What a drill has made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    """The worker that it is on."""
    root: Path
    sources: tuple[str, ...]
    ports: dict[str, int] = {}
    """Of the servers that answer, by source."""

    def folder(self, source_id: str) -> Path:
        """A source's folder: data of its server, or what is restored there."""
        return self.root / source_id


def start(context: PlanContext, folder: Path, versions: Mapping[str, Mapping[str, str]]) -> None:
    """Make the scratch target of a drill: servers that answer, and empty folders. What an earlier try left is removed.

    The caller holds :data:`LOCK`, and has made sure under it that the drill is not being ended.

    Args:
        context: the plan whose drill it is.
        folder: the drill's own in staging.
        versions: of server and tools, as the set's manifest has them, of each source that gets a place.

    Raises:
        RestoreError: if a server is not installed or does not start; what was started by then runs until :func:`remove`.
        StagingError: if the folder can't be made.
    """
    _remove(folder)
    servers = {name: server for name in versions if (server := registry.scratch_server(kind_of(name)))}
    user = next(filter(None, (server.user() for server in servers.values())), None)
    made = Scratch(host=socket.gethostname(), root=_root(context.plan, folder, user), sources=tuple(versions))
    write_record(folder / _RECORD, made)  # before anything is made, so that a kill leaves nothing that nobody knows of
    try:
        made.root.mkdir(mode=0o700)
        made.root.chmod(0o711 if user else 0o700)
    except OSError as error:
        raise StagingError(f"The scratch folder can't be made: {error}.", "Let drill.folder be writable for the worker.") from None
    for source_id, found in versions.items():
        if source_id not in servers:
            made.folder(source_id).mkdir(mode=0o700)
            continue
        port = servers[source_id].start(made.folder(source_id), found, context.access(source_id))
        made = made.model_copy(update={"ports": made.ports | {source_id: port}})
        write_record(folder / _RECORD, made)
    log.info("the scratch servers and folders are in %s on %s", made.root, made.host)


def _root(plan: Plan, folder: Path, user: User | None) -> Path:
    """The folder to make. PostgreSQL's user has to reach it, and staging is often closed to others."""
    base = plan.drill.folder or folder
    if not base.is_dir():
        raise StagingError(f"drill.folder, {base}, is not there.", "Create it on the worker's own disk, or correct the plan.")
    base = base.resolve()
    if user and not user.enters(base):
        if plan.drill.folder:
            raise StagingError(
                f"drill.folder, {base}, can't be entered by {user.name}, as whom its servers run here.",
                "Let everybody enter it and the folders above it (chmod o+x), or run the worker as another user than root.",
            )
        log.info("%s is closed to %s, as whom its servers run here; %s is taken", base, user.name, _BESIDE)
        base = _BESIDE
    return base / f"recovery-drill-{folder.name}-{secrets.token_hex(4)}"  # nobody can be there first


def target(context: PlanContext, folder: Path) -> RestoreTarget:
    """The scratch target of a drill, whose servers run.

    Raises:
        RestoreError: if it is on another worker, was not made, or a server has ended.
    """
    made = _read(folder)
    if made is None:
        raise RestoreError("The scratch servers and folders are not there.", "Read the log of start_scratch; then trigger a new drill.")
    _refuse_other_worker(made, folder)
    for source_id in made.sources:
        if source_id in made.ports and not processes.runs(made.folder(source_id), _endings()):
            words = local_server.last_words(made.folder(source_id))
            raise RestoreError(
                f"The scratch server of {source_id} does not run any more; its last words:\n{words}\n", "Trigger a new drill."
            )
    settings = {source_id: _settings(made, source_id) for source_id in made.sources}

    def look_up(connection_id: str) -> Endpoint:
        for source_id, port in made.ports.items():
            if connection_id == _connection_id(source_id):
                server = registry.scratch_server(kind_of(source_id))
                assert server
                return server.endpoint(made.folder(source_id), port)
        return context.endpoint(connection_id)

    there = replace(context, clients=replace(context.clients, connect=look_up))
    return RestoreTarget(SCRATCH, there, settings=settings, checks=portable_checks(context.plan, settings))


def _connection_id(source_id: str) -> str:
    return f"scratch {source_id}"


def _settings(made: Scratch, source_id: str) -> TargetSettings:
    return KINDS[kind_of(source_id)].target.in_scratch(_connection_id(source_id), made.folder(source_id))


def _endings() -> dict[str, Signals]:
    """The programs of all scratch servers, and how each is ended."""
    servers = filter(None, map(registry.scratch_server, KINDS))
    return {program: ending for server in servers for program, ending in server.endings.items()}


def remove(folder: Path) -> None:
    """End the servers and remove everything, once no start of them is under way. Done again, or where nothing was made, it does no harm.

    Raises:
        RestoreError: if it is on another worker.
        StagingError: if something can't be removed.
    """
    with locked(folder / "locks" / LOCK):
        _remove(folder)


def _remove(folder: Path) -> None:
    made = _read(folder)
    if made is None:
        return
    _refuse_other_worker(made, folder)
    processes.end_all(made.root, _endings())
    try:
        if made.root.exists():
            shutil.rmtree(made.root)
    except OSError as error:
        raise StagingError(f"The scratch folder {made.root} can't be removed: {error}.", "Remove it by hand.") from None
    (folder / _RECORD).unlink()
    log.info("the scratch servers have ended, %s is removed", made.root)


def _read(folder: Path) -> Scratch | None:
    path = folder / _RECORD
    return read_record(path, Scratch) if path.exists() else None


def _refuse_other_worker(made: Scratch, folder: Path) -> None:
    host = socket.gethostname()
    if made.host != host:
        raise RestoreError(
            f"The scratch servers of this drill are on the worker {made.host}, this task runs on {host}.",
            "Let drill.queue name a queue that one worker alone serves, or let drill.target name a target that all workers reach."
            f" The next drill that runs on {made.host} removes them. If none will, end what works in {made.root} there,"
            f" remove that folder, and then {folder / _RECORD}.",
        )
