"""What the functions of this process spend processor time on.

The main thread is looked at whenever it has used the processor for some milliseconds more: a timer runs on its own clock. A timer of the
process, or another thread that looks, would find it where it waits or lets go of the interpreter's lock. What a pool's thread used is
read from that thread's clock, for each call as a whole; what is left is of threads that Python does not know. So all sums are exact, and
only the split of the main thread's own time is a sample. Tracers such as ``cProfile`` cost time for each call, and would make functions
with many calls look dear.

Only the standard library is needed, since the process that decrypts packs has little more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dis import opmap
from types import FrameType
from typing import Any

from sandbox.bench.thread_timer import thread_timer

_EVERY = 0.004
"""Seconds of processor time; the kernel looks no more often than at its own ticks."""
_OURS = ("recovery.", "sandbox.")
OTHER_THREADS = "other threads, such as zstd's"
"""Those that are in no pool of Python's."""
PROFILE = "this profile itself"
"""What a process imported for its profile alone."""


@contextmanager
def sampled() -> Iterator[dict[str, float]]:
    """Core-seconds of this process in a block by function, once it has ended; the block is the main thread's."""
    found: dict[str, float] = {}
    seen: list[tuple[str, float]] = []
    process, main = time.process_time(), time.thread_time()

    def look(number: int, frame: FrameType | None) -> None:
        nonlocal main
        now = time.thread_time()
        seen.append((_where(frame), now - main))
        main = now

    with _counted_pools(seen), thread_timer(look, _EVERY):
        yield found
        look(0, None)
    used = time.process_time() - process
    for where, seconds in seen:
        found[where] = found.get(where, 0.0) + seconds
    if (rest := used - sum(found.values())) > 0:
        found[OTHER_THREADS] = rest


@contextmanager
def _counted_pools(seen: list[tuple[str, float]]) -> Iterator[None]:
    """Note what each call that is submitted to a pool of threads uses, once it has ended."""
    submit = ThreadPoolExecutor.submit

    def counted(pool: ThreadPoolExecutor, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        def run() -> Any:
            before = time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                seen.append((_called(call), time.thread_time() - before))  # which threads may do at the same time

        return submit(pool, run)

    ThreadPoolExecutor.submit = counted  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]


def _where(leaf: FrameType | None) -> str:
    """The innermost function of ours, and which library works for it, if one does."""
    if leaf and leaf.f_back and leaf.f_code.co_code[leaf.f_lasti] == opmap["RESUME"]:
        leaf = leaf.f_back  # it has only just begun, so the time is its caller's
    frame = leaf
    while frame and not _module(frame).startswith(_OURS):
        frame = frame.f_back
    library = _module(leaf).partition(".")[0] if leaf else ""
    if frame is None:
        return library or __name__
    name = _name(_module(frame), frame.f_code.co_qualname)
    return name if frame is leaf else f"{name} > {library}"


def _called(call: Callable[..., Any]) -> str:
    """A function, or an object that is called like one."""
    return _name(call.__module__, getattr(call, "__qualname__", type(call).__qualname__))


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _name(module: str, function: str) -> str:
    return f"{module.removeprefix('recovery.')}:{function.replace('<locals>.', '')}"
