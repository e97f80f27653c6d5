"""What ``/proc`` says of processes: resident memory, processor time, children. See proc(5)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


class Spent(NamedTuple):
    """What something took."""

    seconds: float
    cpu_seconds: float
    """Of all processors together."""


def resident_bytes(pid: int) -> int:
    """What a process has in memory now; 0 if it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def program(pid: int) -> str:
    """File name of the program that a process runs; empty if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/exe").readlink().name
    return ""


def cpu_seconds(pid: int) -> float:
    """Of a process, and of all its children that have ended and were waited for; 0 if it has ended."""
    return sum(_fields(pid)) / _TICK


def _fields(pid: int) -> list[int]:
    """Ticks that a process used, in user mode and in the kernel; and those of its children that it waited for."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return list(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return []


def tree_cpu_seconds(*roots: int) -> float:
    """Of processes and all that they ever started, as long as everything was waited for from within."""
    return sum(map(_tree_cpu_seconds, roots))


def _tree_cpu_seconds(root: int) -> float:
    """A child that ends while it looks would be counted twice or not at all, so it looks again then."""
    while True:
        before, found = _fields(root)[2:], sum(cpu_seconds(pid) for pid in (root, *below(root)))
        if _fields(root)[2:] == before:
            return found


def below(pid: int) -> Iterator[int]:
    """Children of a process, and theirs."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from below(child)
