"""The temporary PostgreSQL and MongoDB servers of a drill, made of what is installed on the worker.

They listen on loopback only, ask for a password, keep little in memory, and are quick where a real server is careful:
what a power cut would lose of them is of no use to anybody.
"""

from __future__ import annotations

import logging
import os
import pwd
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from recovery import daemons
from recovery.connections import Endpoint
from recovery.daemons import User
from recovery.errors import RecoveryError, RestoreError, ToolError
from recovery.runners.local import die_with_parent, find_tool

log = logging.getLogger(__name__)

_INSTEAD = "or let drill.target name a target whose server is there"
_ANSWERS_WITHIN = 60.0
_TRIES = 3
_LAST_WORDS = 2000
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
_MONGO_SETTINGS = (
    ("--bind_ip", "127.0.0.1"),
    ("--nounixsocket",),
    ("--replSet", "drill"),
    ("--oplogSize", "128"),
    ("--wiredTigerCacheSizeGB", "0.25"),
    ("--setParameter", "diagnosticDataCollectionEnabled=false"),
)
_SUPERUSERS = {"postgres": "postgres", "mongo": "root"}


def superuser(kind: str) -> str:
    """The name of a scratch server's superuser."""
    return _SUPERUSERS[kind]


def server_user() -> User | None:
    """Whom PostgreSQL runs as, since it refuses root; None for this process's own user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            return User(name, found.pw_uid, found.pw_gid)
    raise RestoreError("PostgreSQL does not run as root, and there is no user postgres or nobody.", f"Add one, {_INSTEAD}.")


def reachable(folder: Path, user: User) -> bool:
    """Whether a user may enter a folder and those above it."""
    return all(_enters(each, user) for each in (folder, *folder.parents))


def _enters(folder: Path, user: User) -> bool:
    status = folder.stat()
    shift = 6 if status.st_uid == user.uid else 3 if status.st_gid == user.gid else 0
    return bool(status.st_mode >> shift & 1)


def secret(path: Path, user: User | None = None) -> str:
    """A new password in a file that only this user, or the given one, and root can read."""
    made = secrets.token_hex(24)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(made)
        if user:
            os.fchown(out.fileno(), user.uid, user.gid)
    return made


# PostgreSQL -----------------------------------------------------------------------------------------------------------


def start_postgres(folder: Path, version: str, folders: Sequence[Path]) -> int:
    """Make and start a PostgreSQL server whose data folder this is; beside it ``<folder>.password`` and ``<folder>.log``.

    Args:
        folder: its data folder, which is not there yet.
        version: of the server that the set comes from. The same major version is taken, or the next one that is installed.
        folders: the plan's folders of PostgreSQL's programs.

    Returns:
        Its port.

    Raises:
        RestoreError: if no such server is installed, or it does not start.
    """
    user = server_user()
    programs = postgres_programs(_major(version), folders, user)
    password = folder.with_name(f"{folder.name}.password")
    secret(password, user)
    folder.mkdir(mode=0o700)
    if user:
        os.chown(folder, user.uid, user.gid)
    _initdb(programs, folder, password, user)
    settings = [part for setting in _POSTGRES_SETTINGS for part in ("-c", setting)]

    def answers(port: int) -> None:
        from recovery.components.postgres.client import Server

        Server(endpoint("postgres", folder, port), folders).connect("postgres").close()

    return _start(folder, lambda port: [programs / "postgres", "-D", folder, "-p", str(port), *settings], answers, user)


def _major(version: str) -> int:
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0


def postgres_programs(needed: int, folders: Sequence[Path], user: User | None) -> Path:
    """The folder with the server of a major version, or of the next newer one: an older one may not take the dump.

    Raises:
        RestoreError: if there is none that this user may run, with what was found where.
    """
    from recovery.components.postgres.client import tool_major, tool_places

    places = tool_places(folders)
    found: dict[Path, int] = {}
    seen: list[str] = []
    for place in places:
        if not all(os.access(place / name, os.X_OK) for name in ("initdb", "postgres")):
            continue
        major = tool_major(str(place / "postgres"), (place / "postgres").stat().st_mtime) or 0
        if user and not (reachable(place, user) and reachable((place / "postgres").resolve().parent, user)):
            seen.append(f"{place} has version {major}, but is closed to {user.name}, as whom it would run")
        elif major < needed:
            seen.append(f"{place} has version {major}")
        else:
            found[place] = major
    if not found:
        raise RestoreError(
            f"The programs initdb and postgres of PostgreSQL {needed} or newer are not on this worker."
            f" Looked in {', '.join(map(str, places))}: {'; '.join(seen) or 'nothing there'}.",
            f"Install them (Debian: postgresql-{needed}), name their folder under tools.postgres, {_INSTEAD}.",
        )
    chosen = min(found, key=lambda place: found[place])
    log.info("scratch server: PostgreSQL %d of %s; the set needs %d", found[chosen], chosen, needed)
    return chosen


def _initdb(programs: Path, folder: Path, password: Path, user: User | None) -> None:
    argv = [programs / "initdb", "-D", folder, "-U", superuser("postgres"), "-A", "scram-sha-256", f"--pwfile={password}"]
    argv += ["-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    done = subprocess.run(
        [str(part) for part in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        env=daemons.environment(),
        cwd="/",
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
        preexec_fn=die_with_parent,
    )
    if done.returncode:
        words = done.stdout.decode("utf-8", "replace")[-_LAST_WORDS:].strip()
        raise RestoreError(f"The scratch server {folder.name} could not be made:\n{words}\n", f"Mend the cause, {_INSTEAD}.")


# MongoDB --------------------------------------------------------------------------------------------------------------


def start_mongo(folder: Path, folders: Sequence[Path]) -> int:
    """Make and start a replica set of one whose data folder this is; beside it ``.password``, ``.key`` and ``.log``.

    Args:
        folder: its data folder, which is not there yet.
        folders: the plan's folders of MongoDB's programs.

    Returns:
        Its port.

    Raises:
        RestoreError: if no ``mongod`` is installed, or it does not start.
    """
    try:
        program = find_tool("mongod", folders)
    except ToolError as error:
        raise RestoreError(error.what, f"Install it on this worker, name its folder under tools.mongo, {_INSTEAD}.") from None
    log.info("scratch server: %s", program)
    folder.mkdir(mode=0o700)
    password = secret(folder.with_name(f"{folder.name}.password"))
    key = folder.with_name(f"{folder.name}.key")
    secret(key)
    settings = [part for setting in _MONGO_SETTINGS for part in setting]
    return _start(
        folder,
        lambda port: [program, "--dbpath", folder, "--port", str(port), "--keyFile", key, *settings],
        lambda port: _initiated(folder, port, password),
        None,
    )


def _initiated(folder: Path, port: int, password: str) -> None:
    """Make it a primary, and its superuser; only a client on the same machine may do that, and only once."""
    from recovery.components.mongo.client import connect

    alone = Endpoint(folder.name, "127.0.0.1", port, extra={"directConnection": True})
    with connect(alone) as client:
        if not client.admin.command("hello").get("setName"):
            member = {"_id": 0, "host": f"127.0.0.1:{port}"}
            client.admin.command("replSetInitiate", {"_id": "drill", "members": [member]})
        _wait(lambda: bool(client.admin.command("hello")["isWritablePrimary"]), f"the scratch server {folder.name}")
        client.admin.command("createUser", superuser("mongo"), pwd=password, roles=["root"])


# Both -----------------------------------------------------------------------------------------------------------------


def endpoint(kind: str, folder: Path, port: int) -> Endpoint:
    """How a scratch server is reached, by its data folder."""
    password = folder.with_name(f"{folder.name}.password").read_text()
    extra = {"authSource": "admin", "directConnection": True} if kind == "mongo" else {}
    schema = "" if kind == "mongo" else "postgres"
    return Endpoint(f"scratch {folder.name}", "127.0.0.1", port, superuser(kind), password, schema, extra)


def last_words(folder: Path) -> str:
    """The end of what a server wrote into its log."""
    words = folder.with_name(f"{folder.name}.log")
    return words.read_text(errors="replace")[-_LAST_WORDS:].strip() if words.exists() else "it wrote nothing"


def _start(folder: Path, argv: Callable[[int], Sequence[str | Path]], ask: Callable[[int], None], user: User | None) -> int:
    """Start a server on a free port and wait until it answers; if somebody else took the port meanwhile, it ends, and gets another."""
    for _ in range(_TRIES):
        port = _free_port()
        process = daemons.start(argv(port), folder.with_name(f"{folder.name}.log"), user)
        _wait(lambda process=process, port=port: process.poll() is not None or _answers(ask, port), f"the scratch server {folder.name}")  # type: ignore[misc]
        if process.poll() is None:
            process.returncode = 0  # it stays, and nobody here waits for its end
            log.info("scratch server %s answers on port %d", folder.name, port)
            return port
    raise RestoreError(f"The scratch server {folder.name} does not start:\n{last_words(folder)}\n", f"Mend the cause, {_INSTEAD}.")


def _answers(ask: Callable[[int], None], port: int) -> bool:
    """Whether a server answers; one that listens may still say that it is starting."""
    if not _listens(port):
        return False
    try:
        ask(port)
    except RecoveryError as error:
        if not error.retryable:
            raise
        return False
    return True


def _listens(port: int) -> bool:
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), 1)):
        return True
    return False


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _ANSWERS_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise RestoreError(f"Waited {_ANSWERS_WITHIN:.0f} s for {what} to answer, in vain.", "Look at the load of this worker.")
        time.sleep(0.05)


def _free_port() -> int:
    """A loopback port nobody listens on, below those that outgoing connections get."""
    while True:
        port = 10000 + secrets.randbelow(20000)
        with suppress(OSError), closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", port))
            return port
