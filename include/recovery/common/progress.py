"""How far long work is, for whoever watches its log: a line now and then, never one for each step."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from recovery.common.units import human_duration, human_size

log = logging.getLogger(__name__)

_EVERY = 10.0


class Pace:
    """Says when it is time for the next line.

    Args:
        every: seconds from one line to the next, and to the first.
    """

    def __init__(self, every: float = _EVERY) -> None:
        self._every = every
        self._said = time.monotonic()

    def due(self) -> bool:
        """Whether so many seconds have passed since this was true."""
        now = time.monotonic()
        if now - self._said < self._every:
            return False
        self._said = now
        return True


class Progress:
    """Counts bytes; while they come in, there is a line at most every ten seconds. Threads may share it.

    Args:
        what: is done with them.
        total: how many there will be; 0 if nobody knows.
    """

    def __init__(self, what: str, total: int = 0) -> None:
        self.what = what
        self.total = total
        self.done = 0
        """Bytes so far."""
        self._lock = threading.Lock()
        self._pace = Pace()
        self._started = time.monotonic()

    def add(self, count: int) -> None:
        """Say that so many bytes more are through."""
        with self._lock:
            self.done += count
            line = self.line() if self._pace.due() else ""
        if line:
            log.info("%s", line)

    def counted(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Blocks as they pass."""
        for block in blocks:
            self.add(len(block))
            yield block

    def line(self) -> str:
        """How far it is; a subclass says it in other words, if its work is not only bytes."""
        of = f" of {human_size(self.total)} ({100 * self.done // self.total} %)" if self.total else " so far"
        return f"{self.what}: {human_size(self.done)}{of}, {self.rate}"

    @property
    def seconds(self) -> float:
        """Since it began; never 0."""
        return max(time.monotonic() - self._started, 0.001)

    @property
    def rate(self) -> str:
        """``102.4 MiB/s``, from the beginning until now."""
        return f"{human_size(self.done / self.seconds)}/s"

    def summary(self) -> str:
        """``1.2 GiB in 12 s, 102.4 MiB/s``."""
        return f"{human_size(self.done)} in {human_duration(self.seconds)}, {self.rate}"


@contextmanager
def telling(say: Callable[[], str], every: float = _EVERY) -> Iterator[None]:
    """Log a line every few seconds as long as a block runs, about what a program does that can only be looked at from outside."""
    done = threading.Event()

    def tell() -> None:
        while not done.wait(every):
            log.info("%s", say())

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
