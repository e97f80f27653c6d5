"""A timer that runs as the main thread uses the processor, and not while it waits or while other threads work; see timer_create(2).

Python's own ``setitimer`` has timers of whole processes only.
"""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_libc = ctypes.CDLL(None, use_errno=True)


class _Event(ctypes.Structure):
    """``struct sigevent``; notify 0 is ``SIGEV_SIGNAL``."""

    _fields_ = (("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("notify", ctypes.c_int), ("rest", ctypes.c_byte * 48))


class _Times(ctypes.Structure):
    """``struct itimerspec``."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_seconds", "every_nanoseconds", "first_seconds", "first_nanoseconds"))


@contextmanager
def thread_timer(call: Callable[[int, FrameType | None], object], every: float) -> Iterator[None]:
    """Call a handler of ``SIGPROF`` for the length of a block, each time that this thread, the main one, has used some seconds more.

    Raises:
        OSError: if the system has no such timer.
    """
    before = signal.signal(signal.SIGPROF, call)
    signal.siginterrupt(signal.SIGPROF, False)  # what waits in the kernel goes on by itself
    timer = ctypes.c_void_p()
    nanoseconds = round(every * 1e9)
    _check(_libc.timer_create(time.CLOCK_THREAD_CPUTIME_ID, ctypes.byref(_Event(signal=signal.SIGPROF)), ctypes.byref(timer)))
    try:
        _check(_libc.timer_settime(timer, 0, ctypes.byref(_Times(0, nanoseconds, 0, nanoseconds)), None))
        yield
    finally:
        _check(_libc.timer_delete(timer))
        signal.signal(signal.SIGPROF, before)


def _check(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), "a timer of a thread's processor time could not be set")
