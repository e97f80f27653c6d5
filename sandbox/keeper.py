"""Runs several programs as one: when one ends, or whoever started the keeper is gone, everything they ever started ends too.

A process group does not reach Airflow's tasks, which have groups of their own, and a signal does not come when the parent
is killed. So the keeper is a process in between. Its standard input is a pipe that closes with its parent, and orphaned
descendants become its children (``PR_SET_CHILD_SUBREAPER``, prctl(2)), so that none escapes.

Run as ``python -m sandbox.keeper LOG_FOLDER '[["name", ["program", "argument"]], ...]'``. It prints what it started and
which program ended by itself.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 3.0


def main() -> int:
    """Run the programs until one of them ends or standard input closes; the exit status is 0 only in the second case."""
    logs, programs = Path(sys.argv[1]), json.loads(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    started = {_start(argv, logs / f"{name}.log"): name for name, argv in programs}
    for pid, name in started.items():
        print(f"{name} runs with pid={pid}", flush=True)
    try:
        ended = _watch(started)
    finally:
        _end(started)
    if ended:
        print(f"{ended} ended by itself", flush=True)
    return 1 if ended else 0


def _start(argv: list[str], log: Path) -> int:
    with log.open("ab") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, preexec_fn=_plain_signals
        )
    process.returncode = 0  # reaped below, with the orphans; Popen must not wait for it too
    return process.pid


def _plain_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _watch(started: dict[int, str]) -> str | None:
    while True:
        readable, _, _ = select.select([0], [], [], 0.5)
        if readable and not os.read(0, 1024):
            return None
        for pid in _reap():
            if pid in started:
                return started[pid]


def _reap() -> Iterable[int]:
    with suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            yield pid


def _end(started: Iterable[int]) -> None:
    for pid in started:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    while _descendants():
        if time.monotonic() > deadline:
            for pid in _descendants():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        list(_reap())
        time.sleep(0.05)


def _descendants() -> list[int]:
    """Process ids of everything below this process, zombies left out."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            # "pid (name) state ppid ...", and a name may hold spaces and brackets
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(folder.name))
    found, todo = [], [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


if __name__ == "__main__":
    sys.exit(main())
