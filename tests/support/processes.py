"""Processes that must have ended, those that this process starts, and what lies in wait for them in a folder."""

import ctypes
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import traceback
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sandbox.servers import wait_for

_STARTING = {"subprocess.Popen": 1, "os.posix_spawn": 1, "os.exec": 1, "os.system": 0}
"""Python's audit events for a new program, and where its command is among their arguments."""
RECOVERY = Path(sysconfig.get_path("scripts"), "recovery")
"""The command, as it is installed."""
_PROGRAMS = ("python", "python3", "sh", "tar", "rm", "pg_restore", "mongorestore", "openssl", "age", "zstd")
_PR_CAPBSET_DROP, _CAP_SYS_ADMIN = 24, 21
_watching: list[list[list[str]]] = []


def is_running(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to look does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> None:
    wait_for(f"process {pid} to end", lambda: not is_running(pid), 10)


@contextmanager
def started():
    """The command of every program that this process starts during a block, whoever starts it."""
    _listen()
    heard: list[list[str]] = []
    _watching.append(heard)
    try:
        yield heard
    finally:
        _watching.remove(heard)


@cache
def _listen():
    """Once for each process: an audit hook can't be removed."""
    sys.addaudithook(_hear)


def _hear(event, args):
    if event in _STARTING:
        command = args[_STARTING[event]]
        parts = [command] if isinstance(command, str | bytes) else command
        for heard in _watching:
            heard.append([os.fsdecode(part) for part in parts])


def command_lines_with(path):
    """Command lines of everything that has the path in its arguments."""
    listed = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(path) in line]


def servers_in(folder):
    """Names of the database servers that have a folder in their arguments."""
    listed = subprocess.run(["ps", "-wweo", "comm,args"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines() if str(folder) in line} & {"postgres", "mongod"}


def plant(folder: Path, marker: Path) -> None:
    """Put a module under every name that a program of this environment could import, and some programs, into a folder.

    Each of them writes its name into the file ``marker`` once it is run.
    """
    names = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions(), "recovery", "sitecustomize", "usercustomize"}
    for name in names:
        (folder / f"{name}.py").write_text(f"with open({str(marker)!r}, 'a') as out: out.write({name!r} + ' ')\n")
    for name in _PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho program {name} >> '{marker}'\n")
        (folder / name).chmod(0o755)


def in_a_process(work):
    """Do something in a process of its own; its exit status as the kernel tells it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def without_namespaces():
    """Make this process what root is in a container: no program that it starts may give a network of its own to anything."""
    assert ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_ADMIN, 0, 0, 0) == 0
