"""Start a PostgreSQL server for a drill."""

from __future__ import annotations

import logging
import os
import pwd
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from recovery.common.connections import Endpoint
from recovery.common.errors import RestoreError
from recovery.runners import processes
from recovery.runners.base import Runner
from recovery.runners.isolation import INSTEAD, Isolation
from recovery.runners.local_server import LAST_WORDS, ServerFolders, secret, start_server
from recovery.runners.processes import User
from recovery.sources.base import Access
from recovery.sources.postgres.client import Server, tool_major, tool_places

log = logging.getLogger(__name__)

_SUPERUSER = "postgres"
_PORT = 5432
"""Part of the name of its socket, and nothing else."""
_POSTGRES_SETTINGS = (
    "listen_addresses=",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_wal_size=1GB",
    "shared_buffers=64MB",
    "dynamic_shared_memory_type=mmap",  # containers have little of the other kind, and a kill would leave it behind
    "autovacuum=off",
)


class PostgresServer:
    """A PostgreSQL server of what is installed on the worker."""

    endings: Mapping[str, signal.Signals] = {
        "postgres": signal.SIGQUIT,  # at once, without a checkpoint, and without leaving shared memory behind
        "initdb": signal.SIGKILL,
    }

    def start(self, there: ServerFolders, versions: Mapping[str, str], access: Access, isolation: Isolation) -> None:
        """See :meth:`recovery.sources.scratch_server.ScratchServer.start`.

        The same major version is taken, or the next one that is installed.
        """
        programs = postgres_programs(_major(versions.get("postgres", "")), access.tools, isolation.user, access.runner)
        maker = _maker(isolation.user)
        there.make(isolation.user, maker)
        secret(there.password, maker)
        _initdb(programs, there, maker)
        if isolation.user:
            _hand_over(there.data, isolation.user)
        settings = [f"unix_socket_directories={there.sockets}", *_POSTGRES_SETTINGS]
        argv: list[str | Path] = [programs / "postgres", "-D", there.data, "-p", str(_PORT)]
        argv += [part for setting in settings for part in ("-c", setting)]

        def ask() -> None:
            Server(self.endpoint(there), access.tools, access.runner).connect("postgres").close()

        start_server(there, argv, there.sockets / f".s.PGSQL.{_PORT}", ask, isolation)

    def endpoint(self, there: ServerFolders) -> Endpoint:
        """See :meth:`recovery.sources.scratch_server.ScratchServer.endpoint`."""
        return Endpoint(f"scratch {there.name}", str(there.sockets), _PORT, _SUPERUSER, there.password.read_text(), "postgres")


SERVER = PostgresServer()


def _major(version: str) -> int:
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0


def postgres_programs(needed: int, folders: Sequence[Path], user: User | None, runner: Runner) -> Path:
    """The folder with the server of a major version, or of the next newer one: an older one may not take the dump.

    Raises:
        RestoreError: if there is none that this user may run, with what was found where.
    """
    places = tool_places(folders, runner)
    found: dict[Path, int] = {}
    seen: list[str] = []
    for place in places:
        if not all(runner.has(place / name) for name in ("initdb", "postgres")):
            continue
        major = tool_major(place / "postgres", runner) or 0
        if user and not user.runs(place / "postgres"):
            seen.append(f"{place} has version {major}, but is closed to the user that it would run as, who has no rights")
        elif major < needed:
            seen.append(f"{place} has version {major}")
        else:
            found[place] = major
    if not found:
        raise RestoreError(
            f"The programs initdb and postgres of PostgreSQL {needed} or newer are not on this worker."
            f" Looked in {', '.join(map(str, places))}: {'; '.join(seen) or 'nothing there'}.",
            f"Install them (Debian: postgresql-{needed}), name their folder under tools.postgres, {INSTEAD}.",
        )
    chosen = min(found, key=lambda place: found[place])
    log.info("scratch server: PostgreSQL %d of %s; the set needs %d", found[chosen], chosen, needed)
    return chosen


def _maker(user: User | None) -> User | None:
    """Whom initdb runs as, which wants a user with a name: nobody, but in the group of the server's own user.

    Without that group no other program of nobody enters the server's folder, or looks into initdb.
    """
    if user is None:
        return None
    try:
        return User("nobody", pwd.getpwnam("nobody").pw_uid, user.gid)
    except KeyError:
        raise RestoreError("initdb does not run as root, and there is no user nobody.", f"Add one, {INSTEAD}.") from None


def _initdb(programs: Path, there: ServerFolders, user: User | None) -> None:
    argv: list[str | Path] = [programs / "initdb", "-D", there.data, "-U", _SUPERUSER, "-A", "scram-sha-256", f"--pwfile={there.password}"]
    argv += ["-E", "UTF8", "--locale=C", "--no-sync"]
    status, words = processes.run(argv, user)
    if status:
        end = words[-LAST_WORDS:].strip()
        raise RestoreError(f"The scratch server {there.name} could not be made:\n{end}\n", f"Mend the cause, {INSTEAD}.")


def _hand_over(data: Path, user: User) -> None:
    """Give what initdb made to the server's own user."""
    for folder, _, files in os.walk(data):
        for path in (Path(folder), *(Path(folder, name) for name in files)):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
