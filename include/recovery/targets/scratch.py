"""Scratch servers and folders that a drill makes for itself, and removes.

::

    <drill.folder or the drill's folder in staging>/recovery-drill-<id>-<random>/
      <source>/              the folder that files or settings are restored to, or that of a server:
        data/
        password             of the server's superuser, mode 0600
        log                  what the server wrote
    /tmp/recovery-<random>/
      <number>/              the server's socket, its only way in; 107 bytes is all that the path of one may have

Where that is, on which worker, and which servers answer is in ``scratch.json`` in the drill's folder.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from signal import Signals

from pydantic import BaseModel, ConfigDict

from recovery.common.connections import Endpoint
from recovery.common.errors import RestoreError, StagingError
from recovery.common.files import locked, read_record, write_record
from recovery.common.held_folder import HeldFolder
from recovery.common.trusted_path import exchangeable
from recovery.plan.field_types import SCRATCH
from recovery.plan.kinds import KINDS
from recovery.plan.model import Plan
from recovery.plan.source_id import kind_of
from recovery.plan.source_settings import TargetSettings
from recovery.runners import isolation, processes
from recovery.runners.isolation import Isolation
from recovery.runners.local_server import ServerFolders
from recovery.runners.processes import User
from recovery.runs.context import PlanContext
from recovery.sources import registry
from recovery.targets.target import RestoreTarget, portable_checks

log = logging.getLogger(__name__)

LOCK = "scratch"
"""The name of the lock of a drill under which its scratch target is made and removed."""
_RECORD = "scratch.json"
_BESIDE = Path("/var/tmp")  # noqa: S108
"""Where the servers' users get to when staging is closed to them; the folder made there shows nobody what is in it."""
_SOCKETS = Path("/tmp")  # noqa: S108


class Scratch(BaseModel):
    """What a drill has made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    """The worker that it is on."""
    root: Path
    sockets: Path
    sources: tuple[str, ...]
    servers: tuple[str, ...] = ()
    """The sources whose servers answer."""

    def folder(self, source_id: str) -> Path:
        """A source's folder: that of its server, or what is restored there."""
        return self.root / source_id

    def server(self, source_id: str) -> ServerFolders:
        """The folders of a source's server."""
        return ServerFolders(self.folder(source_id), self.sockets / str(self.sources.index(source_id)))


def start(context: PlanContext, folder: Path, versions: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """Make the scratch target of a drill: servers that answer, and empty folders. What an earlier try left is removed.

    The caller holds :data:`LOCK`, and has made sure under it that the drill is not being ended.

    Args:
        context: the plan whose drill it is.
        folder: the drill's own in staging.
        versions: of server and tools, as the set's manifest has them, of each source that gets a place.

    Returns:
        What the worker does not permit of what would keep the servers apart from it, a sentence each.

    Raises:
        RestoreError: if a server is not installed or does not start; what was started by then runs until :func:`remove`.
        StagingError: if the folder can't be made.
    """
    _remove(folder)
    servers = {name: server for name in versions if (server := registry.scratch_server(kind_of(name)))}
    apart: dict[str, Isolation] = {}
    for source_id in servers:
        apart[source_id] = isolation.isolate([each.user for each in apart.values()])
    user = next((each.user for each in apart.values()), None)
    sockets = _SOCKETS / f"recovery-{secrets.token_hex(4)}"
    made = Scratch(host=socket.gethostname(), root=_root(context.plan, folder, user), sockets=sockets, sources=tuple(versions))
    write_record(folder / _RECORD, made)  # before anything is made, so that a kill leaves nothing that nobody knows of
    _make(made.root, user, "drill.folder")
    _make(made.sockets, user, str(_SOCKETS))
    for source_id, found in versions.items():
        if source_id not in servers:
            made.folder(source_id).mkdir(mode=0o700)
            continue
        servers[source_id].start(made.server(source_id), found, context.access(source_id), apart[source_id])
        made = made.model_copy(update={"servers": (*made.servers, source_id)})
        write_record(folder / _RECORD, made)
    log.info("the scratch servers and folders are in %s on %s", made.root, made.host)
    lacks = tuple(dict.fromkeys(each for found in apart.values() for each in found.lacks))
    for each in lacks:
        log.warning("%s", each)
    return lacks


def _make(folder: Path, user: User | None, where: str) -> None:
    """Make a folder that its servers' users go through, without seeing what is in it."""
    try:
        folder.mkdir(mode=0o700)
        folder.chmod(0o711 if user else 0o700)
        foreign = exchangeable(folder) if os.geteuid() == 0 else None
    except OSError as error:
        raise StagingError(f"The scratch folder can't be made: {error}.", f"Let {where} be writable for the worker.") from None
    if foreign:
        folder.rmdir()
        raise StagingError(
            f"Other users may write to {foreign}, so they could exchange the scratch folder {folder} for one of their own.",
            f"Give that folder to root alone, or let {where} be another one.",
        )


def _root(plan: Plan, folder: Path, user: User | None) -> Path:
    """The folder to make. The servers' users have to reach it, and staging is often closed to others."""
    base = plan.drill.folder or folder
    if not base.is_dir():
        raise StagingError(f"drill.folder, {base}, is not there.", "Create it on the worker's own disk, or correct the plan.")
    base = base.resolve()
    if user and not user.enters(base):
        if plan.drill.folder:
            raise StagingError(
                f"drill.folder, {base}, can't be entered by the users that its servers get here, which have no other rights.",
                "Let everybody enter it and the folders above it (chmod o+x), or run the worker as another user than root.",
            )
        log.info("%s is closed to the users that its servers get here; %s is taken", base, _BESIDE)
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
        if source_id in made.servers and not processes.runs(made.folder(source_id), _endings()):
            words = made.server(source_id).last_words()
            raise RestoreError(
                f"The scratch server of {source_id} does not run any more; its last words:\n{words}\n", "Trigger a new drill."
            )
    settings = {source_id: _settings(made, source_id) for source_id in made.sources}

    def look_up(connection_id: str) -> Endpoint:
        for source_id in made.servers:
            if connection_id == _connection_id(source_id):
                server = registry.scratch_server(kind_of(source_id))
                assert server
                return server.endpoint(made.server(source_id))
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
    return {program: ending for server in servers for program, ending in server.endings.items()} | dict(isolation.ENDINGS)


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
    for made_folder in (made.root, made.sockets):
        try:
            if made_folder.exists():
                with HeldFolder.open(made_folder.parent) as above:  # what was restored there may be deeper than Python's stack
                    above.remove(os.fsencode(made_folder.name))
        except OSError as error:
            raise StagingError(f"The scratch folder {made_folder} can't be removed: {error}.", "Remove it by hand.") from None
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
            f" remove that folder and {made.sockets}, and then {folder / _RECORD}.",
        )
