"""The temporary PostgreSQL and MongoDB servers of a drill, made of what is installed on the worker.

They listen on loopback only, ask for a password, keep little in memory, and are quick where a real server is careful:
what a power cut would lose of them is of no use to anybody.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from recovery.common.errors import RecoveryError, RestoreError
from recovery.runners import processes
from recovery.runners.processes import User

log = logging.getLogger(__name__)

INSTEAD = "or let drill.target name a target whose server is there"
_ANSWERS_WITHIN = 60.0
_TRIES = 3
LAST_WORDS = 2000


def secret(path: Path, user: User | None = None) -> str:
    """A new password in a file that only this user, or the given one, and root can read."""
    made = secrets.token_hex(24)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(made)
        if user:
            os.fchown(out.fileno(), user.uid, user.gid)
    return made


def password_of(folder: Path) -> str:
    """The password of a server's superuser, by its data folder."""
    return folder.with_name(f"{folder.name}.password").read_text()


def last_words(folder: Path) -> str:
    """The end of what a server wrote into its log."""
    words = folder.with_name(f"{folder.name}.log")
    return words.read_text(errors="replace")[-LAST_WORDS:].strip() if words.exists() else "it wrote nothing"


def start_server(folder: Path, argv: Callable[[int], Sequence[str | Path]], ask: Callable[[int], None], user: User | None) -> int:
    """Start a server on a free port and wait until it answers; if somebody else took the port meanwhile, it ends, and gets another."""
    for _ in range(_TRIES):
        port = free_port()
        process = processes.start(argv(port), folder.with_name(f"{folder.name}.log"), user)
        wait_until(partial(_ended_or_answers, process, ask, port), f"the scratch server {folder.name}")
        if process.poll() is None:
            process.returncode = 0  # it stays, and nobody here waits for its end
            log.info("scratch server %s answers on port %d", folder.name, port)
            return port
    raise RestoreError(f"The scratch server {folder.name} does not start:\n{last_words(folder)}\n", f"Mend the cause, {INSTEAD}.")


def _ended_or_answers(process: subprocess.Popen[bytes], ask: Callable[[int], None], port: int) -> bool:
    return process.poll() is not None or _answers(ask, port)


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


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a server is ready.

    Raises:
        RestoreError: if it takes longer than a minute.
    """
    deadline = time.monotonic() + _ANSWERS_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise RestoreError(f"Waited {_ANSWERS_WITHIN:.0f} s for {what} to answer, in vain.", "Look at the load of this worker.")
        time.sleep(0.05)


def free_port() -> int:
    """A loopback port nobody listens on, below those that outgoing connections get, where a closed one could hold it."""
    while True:
        port = 10000 + secrets.randbelow(20000)
        with suppress(OSError), closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", port))
            return port
