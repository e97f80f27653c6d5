"""Start a PostgreSQL server for a drill."""

from __future__ import annotations

import logging
import os
import pwd
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from recovery.common.connections import Endpoint
from recovery.common.errors import RestoreError
from recovery.runners import processes
from recovery.runners.base import Runner
from recovery.runners.local_server import INSTEAD, LAST_WORDS, password_of, secret, start_server
from recovery.runners.processes import User
from recovery.sources.base import Access
from recovery.sources.postgres.client import Server, tool_major, tool_places

log = logging.getLogger(__name__)

_SUPERUSER = "postgres"
_POSTGRES_SETTINGS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
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

    def user(self) -> User | None:
        """Whom it runs as, since it refuses root."""
        return _server_user()

    def start(self, folder: Path, versions: Mapping[str, str], access: Access) -> int:
        """See :meth:`recovery.sources.base.ScratchServer.start`. The same major version is taken, or the next one that is installed."""
        user = _server_user()
        programs = postgres_programs(_major(versions.get("postgres", "")), access.tools, user, access.runner)
        password = folder.with_name(f"{folder.name}.password")
        secret(password, user)
        folder.mkdir(mode=0o700)
        if user:
            os.chown(folder, user.uid, user.gid)
        _initdb(programs, folder, password, user)
        settings = [part for setting in _POSTGRES_SETTINGS for part in ("-c", setting)]

        def answers(port: int) -> None:
            Server(self.endpoint(folder, port), access.tools, access.runner).connect("postgres").close()

        return start_server(folder, lambda port: [programs / "postgres", "-D", folder, "-p", str(port), *settings], answers, user)

    def endpoint(self, folder: Path, port: int) -> Endpoint:
        """See :meth:`recovery.sources.base.ScratchServer.endpoint`."""
        return Endpoint(f"scratch {folder.name}", "127.0.0.1", port, _SUPERUSER, password_of(folder), "postgres")


SERVER = PostgresServer()


def _server_user() -> User | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            return User(name, found.pw_uid, found.pw_gid)
    raise RestoreError("PostgreSQL does not run as root, and there is no user postgres or nobody.", f"Add one, {INSTEAD}.")


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
        if user and not (user.enters(place) and user.enters((place / "postgres").resolve().parent)):
            seen.append(f"{place} has version {major}, but is closed to {user.name}, as whom it would run")
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


def _initdb(programs: Path, folder: Path, password: Path, user: User | None) -> None:
    argv: list[str | Path] = [programs / "initdb", "-D", folder, "-U", _SUPERUSER, "-A", "scram-sha-256", f"--pwfile={password}"]
    argv += ["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    status, words = processes.run(argv, user)
    if status:
        end = words[-LAST_WORDS:].strip()
        raise RestoreError(f"The scratch server {folder.name} could not be made:\n{end}\n", f"Mend the cause, {INSTEAD}.")
