"""The temporary PostgreSQL and MongoDB servers of a drill, made of what is installed on the worker.

They listen on a Unix socket only, ask for a password, keep little in memory, and are quick where a real server is careful:
what a power cut would lose of them is of no use to anybody.
"""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from recovery.common.errors import RecoveryError, RestoreError
from recovery.runners import processes
from recovery.runners.isolation import INSTEAD, Isolation
from recovery.runners.processes import User

log = logging.getLogger(__name__)

_ANSWERS_WITHIN = 60.0
LAST_WORDS = 2000


@dataclass(frozen=True)
class ServerFolders:
    """Where a server of a drill lives."""

    folder: Path
    """Its own, by the name of its source; has everything else."""
    sockets: Path
    """Where its socket is: somewhere else, since a socket's path has to be short."""

    @property
    def name(self) -> str:
        """Its source's id."""
        return self.folder.name

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.folder / "data"

    @property
    def password(self) -> Path:
        """The file with the password of its superuser."""
        return self.folder / "password"

    @property
    def log(self) -> Path:
        """What it writes."""
        return self.folder / "log"

    def make(self, user: User | None, owner: User | None = None) -> None:
        """Make the folders: its own, which nobody but its user's group enters, and those of data and socket.

        Args:
            user: whom the server runs as; None for this process's own user.
            owner: whom the data folder belongs to, if not to that user.
        """
        self.folder.mkdir(mode=0o700)
        if user:
            os.chown(self.folder, -1, user.gid)
            self.folder.chmod(0o710)
        for path, whose in ((self.data, owner or user), (self.sockets, user)):
            path.mkdir(mode=0o700)
            if whose:
                os.chown(path, whose.uid, whose.gid)

    def last_words(self) -> str:
        """The end of what the server wrote."""
        return self.log.read_text(errors="replace")[-LAST_WORDS:].strip() if self.log.exists() else "it wrote nothing"


def secret(path: Path, user: User | None) -> str:
    """A new password in a file that only this user, or the given one, and root can read."""
    made = secrets.token_hex(24)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(made)
        if user:
            os.fchown(out.fileno(), user.uid, user.gid)
    return made


def start_server(there: ServerFolders, argv: Sequence[str | Path], socket: Path, ask: Callable[[], None], isolation: Isolation) -> None:
    """Start a server and wait until it answers.

    Args:
        there: its folders.
        argv: its command.
        socket: where it will listen.
        ask: raises an error that is retryable as long as the server does not answer.
        isolation: what keeps it apart.

    Raises:
        RestoreError: if it ends instead, with its last words, or takes too long.
    """
    process = processes.start([*isolation.command, *argv], there.log)
    wait_until(partial(_ended_or_answers, process, socket, ask), f"the scratch server {there.name}")
    if process.poll() is not None:
        raise RestoreError(f"The scratch server {there.name} does not start:\n{there.last_words()}\n", f"Mend the cause, {INSTEAD}.")
    process.returncode = 0  # it stays, and nobody here waits for its end
    log.info("scratch server %s answers at %s", there.name, socket)


def _ended_or_answers(process: subprocess.Popen[bytes], socket: Path, ask: Callable[[], None]) -> bool:
    return process.poll() is not None or (socket.exists() and _answers(ask))


def _answers(ask: Callable[[], None]) -> bool:
    """Whether a server answers; one that listens may still say that it is starting."""
    try:
        ask()
    except RecoveryError as error:
        if not error.retryable:
            raise
        return False
    return True


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
