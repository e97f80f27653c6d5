"""What a step's process, and the programs that it starts, spend processor time on; for ``make bench ARGS=--profile``."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from recovery.packs import decrypt_worker
from sandbox.bench.stacks import sampled

FOLDER = "BENCH_PROFILE"
"""Environment variable with a folder, for a process that is to be profiled."""
OWN = "python"
"""The process that takes the steps."""
WORKER = "decrypt_worker"
"""The process that decrypts packs."""
OTHERS = "other programs"
START = "start of Python"
"""What a process used before its profile began, and after it."""


@dataclass
class Profile:
    """Core-seconds of a block."""

    programs: dict[str, float] = field(default_factory=dict)
    """By program. What a program waited for is its own."""
    functions: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of those programs that are this project's own Python, by function."""


class CountedPopen(subprocess.Popen[Any]):
    """A child that says, once it was waited for, what it and its own children used: exactly, however short its life was."""

    seen: ClassVar[list[tuple[str, float]]] = []
    """Programs that have ended, and what each used; :func:`profiled` gives another list."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self.returncode is None and timeout is None:
            _, status, usage = os.wait4(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
            self.seen.append((self._name, usage.ru_utime + usage.ru_stime))
        return super().wait(timeout)

    @property
    def _name(self) -> str:
        """File name of the program; of a script that this Python runs, its own."""
        args: Any = self.args
        argv = [Path(os.fsdecode(part)) for part in (args if isinstance(args, list | tuple) else [args])]
        return argv[-1].stem if argv[0] == Path(sys.executable) else argv[0].name


@contextmanager
def profiled(folder: Path) -> Iterator[Profile]:
    """Where the processor time of a block goes, once it has ended. No other block may be profiled meanwhile.

    Args:
        folder: where processes that decrypt packs may write.
    """
    profile = Profile()
    popen, worker = subprocess.Popen, decrypt_worker.__file__
    CountedPopen.seen = []
    children, own = _children(), time.process_time()
    subprocess.Popen = CountedPopen  # type: ignore[misc]
    decrypt_worker.__file__ = str(Path(__file__).with_name("profiled_worker.py"))
    try:
        with sampled() as functions:
            yield profile
    finally:
        subprocess.Popen = popen  # type: ignore[misc]
        decrypt_worker.__file__ = worker
    profile.programs = _programs(CountedPopen.seen, _children() - children) | {OWN: time.process_time() - own}
    profile.functions[OWN] = functions
    if WORKER in profile.programs:
        profile.functions[WORKER] = _of_workers(folder, profile.programs[WORKER])


def _programs(seen: Iterable[tuple[str, float]], everything: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, used in seen:
        name = WORKER if name == "profiled_worker" else name
        found[name] = found.get(name, 0.0) + used
    rest = everything - sum(found.values())
    return found | ({OTHERS: rest} if rest > 0.001 else {})


def _of_workers(folder: Path, together: float) -> dict[str, float]:
    functions: dict[str, float] = {}
    for path in folder.iterdir():
        for where, used in json.loads(path.read_text()).items():
            functions[where] = functions.get(where, 0.0) + used
        path.unlink()
    return functions | {START: together - sum(functions.values())}


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
