"""Servers that outlive the task that started them: started apart from it, found and ended by the folder that they work in.

A server is known by its command line and working folder, not by a number in a file: that number may be another
process's by now, and a task that is killed between a start and its note leaves none.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recovery.common.errors import StagingError
from recovery.runners.local import die_with_parent

_PATIENCE = 10.0
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH")
"""All that a server gets of the worker's environment, which may have secrets in it."""


@dataclass(frozen=True)
class User:
    """Somebody to run a server as."""

    name: str
    uid: int
    gid: int

    def enters(self, folder: Path) -> bool:
        """Whether this user may enter a folder and those above it."""
        return all(self._enters(each) for each in (folder, *folder.parents))

    def runs(self, program: Path) -> bool:
        """Whether this user may run a program, by its path and where links lead from there."""
        real = program.resolve()
        return self.enters(program.parent) and self.enters(real.parent) and self._enters(real)

    def _enters(self, path: Path) -> bool:
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return bool(status.st_mode >> shift & 1)


def environment() -> dict[str, str]:
    """A server's environment."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {"LC_ALL": "C"}


def start(argv: Sequence[str | Path], words: Path) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, so that it stays when the task ends.

    Args:
        argv: its command; never a secret.
        words: file that gets what it prints.
    """
    with os.fdopen(os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as out:
        return subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment(),
            cwd="/",
            umask=0o077,
            start_new_session=True,
        )


def run(argv: Sequence[str | Path], user: User | None = None) -> tuple[int, str]:
    """Run a program that prepares a server to its end; its exit status, and all that it printed. It ends with this process.

    Args:
        argv: its command; never a secret.
        user: whom it runs as; None for this process's own.
    """
    done = subprocess.run(
        [str(part) for part in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        env=environment(),
        cwd="/",
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
        preexec_fn=die_with_parent,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def runs(folder: Path, programs: Collection[str]) -> bool:
    """Whether one of some programs works in a folder."""
    return any(_below(folder, programs))


def end_all(folder: Path, endings: Mapping[str, signal.Signals]) -> None:
    """End every server that works in a folder or below it, and wait for its end. Done again, it does no harm.

    Args:
        folder: whose servers.
        endings: the programs that are ended, and how. Others that look into the folder, such as a person's shell, are not.

    Raises:
        StagingError: if one does not end.
    """
    started = time.monotonic()
    while found := list(_below(folder, endings)):
        waited = time.monotonic() - started
        if waited > 3 * _PATIENCE:
            raise StagingError(f"Processes {found} in {folder} do not end.", "End them by hand, then clear this task.")
        for pid in found:
            _end(pid, folder, endings, at_once=waited > _PATIENCE)
        time.sleep(0.05)


def _end(pid: int, folder: Path, endings: Mapping[str, signal.Signals], *, at_once: bool) -> None:
    """Send a signal through a handle, so that a number that became another process's meanwhile is not hit."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if program := _program(pid, folder, endings):
                signal.pidfd_send_signal(handle, signal.SIGKILL if at_once else endings[program])
        finally:
            os.close(handle)


def _below(folder: Path, programs: Collection[str]) -> Iterator[int]:
    """Process ids of the servers that work in a folder or below it."""
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _program(int(entry.name), folder, programs))


def _program(pid: int, folder: Path, programs: Collection[str]) -> str | None:
    """The program of a process that works in a folder; None if it is no server or works elsewhere, or has ended."""
    process = Path("/proc", str(pid))
    try:
        program = (process / "comm").read_text().strip()
        if program not in programs:
            return None
        named = [Path(os.fsdecode(part)) for part in (process / "cmdline").read_bytes().split(b"\0") if part.startswith(b"/")]
        with suppress(OSError):  # somebody else's process doesn't show it
            named.append((process / "cwd").readlink())
    except OSError:
        return None  # it ended meanwhile
    return program if any(path.is_relative_to(folder) for path in named) else None
