"""Waiting for an answer no longer than is allowed, whoever answers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import timedelta
from threading import Thread
from typing import TypeVar

from recovery.common.errors import SourceUnreachable
from recovery.common.units import human_duration

T = TypeVar("T")


def within(timeout: timedelta, action: Callable[[], T]) -> T:
    """Do something in a thread of its own, and wait for it: servers may hang, or answer a byte a second.

    When the time is over the thread is left behind: what it waits for ends by a timeout of its own, or with this process.

    Raises:
        SourceUnreachable: if it is not done in time.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)

    Thread(target=run, name="within", daemon=True).start()
    if not wait([future], timeout.total_seconds()).done:
        raise SourceUnreachable(f"There was no answer within {human_duration(timeout)}.", "Look at the server, or allow more time.")
    return future.result()
