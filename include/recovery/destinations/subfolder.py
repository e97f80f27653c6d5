"""A destination that is a folder of another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import IO

from recovery.common.errors import DestinationError
from recovery.destinations.base import Destination, Entry, Refused


class Inside(Destination):
    """A part of a destination, a plan's folder or a set's, under the keys that it has at the whole one. Only for reading.

    Args:
        here: the part.
        lacking: the beginning of all keys that the part's own keys lack: ``<plan>/`` or ``<plan>/<set id>/``.
    """

    def __init__(self, here: Destination, lacking: str) -> None:
        super().__init__(here.name)
        self._here = here
        self._lacking = lacking
        self.parallel = here.parallel

    def describe(self) -> str:
        """Where the part is."""
        return self._here.describe()

    def open(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """See :meth:`Destination.open`."""
        return self._here.open(key.removeprefix(self._lacking))

    def list(self, prefix: str) -> Iterator[Entry]:
        """See :meth:`Destination.list`."""
        for entry in self._here.list(prefix.removeprefix(self._lacking)):
            yield Entry(self._lacking + entry.key, entry.bytes, entry.modified)

    def folders(self, prefix: str) -> Iterator[str]:
        """See :meth:`Destination.folders`."""
        return self._here.folders(prefix.removeprefix(self._lacking))

    def put(self, path: Path, key: str, sha256: str, sent: Callable[[int], None]) -> bool:
        """Refused."""
        raise self._read_only()

    def delete(self, keys: Iterable[str]) -> None:
        """Refused."""
        raise self._read_only()

    def sweep(self, prefix: str) -> None:
        """Refused."""
        raise self._read_only()

    def try_out(self, key: str) -> str:
        """Refused."""
        raise self._read_only()

    def now(self) -> datetime:
        """See :meth:`Destination.now`."""
        return self._here.now()

    def free_space(self) -> int | None:
        """See :meth:`Destination.free_space`."""
        return self._here.free_space()

    def _read_only(self) -> DestinationError:
        return Refused(f"{self.describe()} is only read.", "Name the whole destination.")
