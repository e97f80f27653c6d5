"""What the functions of this process spend processor time on.

A timer runs as this process uses the processor, and its signal goes to the thread that uses it just then. :mod:`faulthandler` writes down
at once what that thread is in, also in code that holds or has let go of the interpreter's lock. A handler in Python would run in the main
thread only, and a thread that looks at others would find them where they let go of the lock; tracers such as ``cProfile`` cost time for
each call, and would make functions with many calls look dear.

Only the standard library is needed, since the process that decrypts packs has little more.
"""

from __future__ import annotations

import ast
import faulthandler
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

_EVERY = 0.004
"""Seconds of processor time; the kernel looks no more often than at its own ticks."""
_HEAD = "Stack (most recent call first):\n"
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in .+$', re.MULTILINE)
_LIBRARY = re.compile(r".*/(?:site-packages|python3\.\d+)/([^/.]+)|<frozen ([^.>]+)")
_PROJECT = Path(__file__).parents[2]
_OURS = {f"{_PROJECT}/include/recovery/": "", f"{_PROJECT}/sandbox/": "sandbox."}
THREADS_OF_LIBRARIES = "threads of libraries"
"""Those that Python does not know, such as zstd's."""


@contextmanager
def sampled() -> Iterator[dict[str, float]]:
    """Core-seconds of this process in a block by function, once it has ended. Their sum is exact, the split over functions a sample."""
    found: dict[str, float] = {}
    with tempfile.TemporaryFile() as file:
        before = time.process_time()
        faulthandler.register(signal.SIGPROF, file, all_threads=False)
        signal.setitimer(signal.ITIMER_PROF, _EVERY, _EVERY)
        try:
            yield found
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            used = time.process_time() - before
            faulthandler.unregister(signal.SIGPROF)
        found |= _shared_out(used, Counter(_where(stack) for stack in _stacks(file)))


def _stacks(file: IO[bytes]) -> list[str]:
    """What each sample found."""
    file.seek(0)
    return file.read().decode(errors="replace").split(_HEAD)[1:]


def _shared_out(used: float, samples: Counter[str]) -> dict[str, float]:
    """A process's core-seconds by function; what no sample found is of threads without any."""
    each = min(_EVERY, used / max(samples.total(), 1))
    found = {where: count * each for where, count in samples.items()}
    rest = used - each * samples.total()
    return found | ({THREADS_OF_LIBRARIES: rest} if rest > 0 else {})


def _where(stack: str) -> str:
    """The innermost function of ours, and which library worked for it, if one did."""
    frames = _FRAME.findall(stack)
    for number, (path, line) in enumerate(frames):
        if module := _module(path):
            return f"{module}:{_function(path, int(line))}" + (f" > {_library(frames[0][0])}" if number else "")
    return _library(frames[0][0]) if frames else THREADS_OF_LIBRARIES


def _function(path: str, line: int) -> str:
    """The function that a line is in, with its class."""
    inside = [(start, name) for start, end, name in _functions(path) if start <= line <= end]
    return max(inside)[1] if inside else "<module>"


@cache
def _functions(path: str) -> list[tuple[int, int, str]]:
    """First line, last line and name of each function of a module."""
    return list(_below(ast.parse(Path(path).read_text())))


def _below(node: ast.AST, name: str = "") -> Iterator[tuple[int, int, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            own = f"{name}.{child.name}".lstrip(".")
            if isinstance(child, ast.FunctionDef):
                yield child.lineno, child.end_lineno or child.lineno, own
            yield from _below(child, own)
        else:
            yield from _below(child, name)


def _module(path: str) -> str:
    for folder, package in _OURS.items():
        if path.startswith(folder):
            return package + path.removeprefix(folder).removesuffix(".py").replace("/", ".")
    return ""


def _library(path: str) -> str:
    match = _LIBRARY.match(path)
    return (match[1] or match[2]) if match else path
