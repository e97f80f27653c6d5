"""What keeps a scratch server apart from the worker, since code that a set brings runs in it.

Its users, its network and its rights are its own, where the kernel permits that; ``unshare`` and ``setpriv`` see to it.
"""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recovery.common.errors import RestoreError, ToolError
from recovery.runners import processes
from recovery.runners.local import LOCAL
from recovery.runners.processes import User

INSTEAD = "or let drill.target name a target whose server is there"
ENDINGS: Mapping[str, signal.Signals] = {"unshare": signal.SIGKILL, "setpriv": signal.SIGKILL}
"""The programs that start the server, or wait for its end, and how each is ended."""
_NAMESPACES = ("--net", "--ipc", "--pid", "--fork", "--kill-child")
"""The server is the first process of its namespace: it sends signals to no other one, and its children end with it."""
_UNNAMED = range(61184, 65520)
"""Where systemd takes the users of its services from that have no name: no person is there, and containers have them, too."""

_SHARED_USER = "The scratch servers run as the worker's own user. Code of the set that breaks out of one can read all that the worker can."
_SHARED_NETWORK = (
    "The scratch servers share the worker's network. Code of the set that opens connections can reach it."
    " Code that breaks out of a server can leave programs running."
)


@dataclass(frozen=True)
class Isolation:
    """How one server is started."""

    user: User | None
    """Whom it runs as, and nobody else; None: as this process's own user."""
    command: tuple[str, ...]
    """What starts it: to be put in front of its own command."""
    lacks: tuple[str, ...]
    """What this worker does not permit, and what that means; a sentence each."""


def isolate(besides: Collection[User | None] = ()) -> Isolation:
    """Find out what this worker permits, for one server.

    A worker that is root gives the server a user without a name, so that it shares files and processes with nobody. Its
    network has no address at all, not even of loopback, so its clients come in by a Unix socket. No process that it started
    outlives it.

    Args:
        besides: the users of other servers, which may not run yet.

    Raises:
        RestoreError: if the programs that do it are missing, or can't even take its rights away.
    """
    user = _own_user({each.uid for each in besides if each})
    rights = [_program("setpriv"), "--no-new-privs", "--inh-caps=-all"]
    rights += [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"] if user else []
    apart = [_program("unshare"), *_NAMESPACES, *([] if user else ["--user", "--map-current-user"])]
    lacks = [] if user else [_SHARED_USER]
    if refused := _refusal([*apart, *rights]):
        lacks.append(f"{_SHARED_NETWORK} The worker refuses them a network of their own: {refused}")
        apart = []
        if refused := _refusal(rights):
            raise RestoreError(f"The rights of a scratch server can't be taken away: {refused}", f"Mend the cause, {INSTEAD}.")
    return Isolation(user, (*apart, *rights), tuple(lacks))


def _program(name: str) -> str:
    try:
        return LOCAL.find_tool(name)
    except ToolError as error:
        raise RestoreError(error.what, f"Install util-linux on this worker, {INSTEAD}.") from None


def _refusal(command: Sequence[str]) -> str:
    """What the worker says against a command that would start a server; empty if nothing."""
    status, words = processes.run([*command, _program("true")])
    return f"{words.strip() or f'exit status {status}'}." if status else ""


def _own_user(besides: Collection[int]) -> User | None:
    """A user without a name and without a process."""
    if os.geteuid() != 0:
        return None
    taken = _working() | set(besides)
    while True:
        number = _UNNAMED[secrets.randbelow(len(_UNNAMED))]
        if number not in taken and not _known(pwd.getpwuid, number) and not _known(grp.getgrgid, number):
            return User(f"user {number}", number, number)


def _known(look_up: Callable[[int], object], number: int) -> bool:
    try:
        look_up(number)
    except KeyError:
        return False
    return True


def _working() -> set[int]:
    """The users that have processes."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add(entry.stat().st_uid)
            except FileNotFoundError:
                continue  # it has ended
    return found
