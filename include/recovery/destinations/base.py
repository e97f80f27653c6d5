"""The one interface of all destinations. ``CONTRIBUTING.md`` says how to add one.

A destination keeps objects under keys such as ``openmanus/20261123T010000Z-4f2a/manifest.json``, below a root of its
own. It knows nothing of sets, manifests or encryption, and never shows an object that was not written to its end.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, NoReturn, Protocol

from recovery.common.errors import DestinationError, RecoveryError

NO_ROOM = 'Make room there, as "A full destination" in docs/how-to/restore-runbook.md says; then clear the task.'
"""What to do about a full destination. A shorter rule frees nothing before an upload: prune runs after it."""

_BUFFER = 1 << 20


class Missing(DestinationError):
    """There is no object under this key."""

    retryable = False


class Refused(DestinationError):
    """The destination will refuse the same thing again, until somebody changes something."""

    retryable = False


class TooLarge(Refused):
    """The object is larger than anything that we write there."""


@dataclass(frozen=True)
class Entry:
    """An object that is there."""

    key: str
    bytes: int
    modified: datetime
    """By the destination's clock, in UTC."""


class Reading(io.RawIOBase):
    """An object while it is read: what goes wrong with it is said in the destination's words, and nothing else is."""

    def __init__(self, source: Source, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._source = source
        self._errors = errors

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read what comes, up to the buffer's size."""
        with self._errors():
            return self._source.readinto(buffer)

    def close(self) -> None:
        """Close the source too."""
        self._source.close()
        super().close()

    def buffered(self) -> IO[bytes]:
        """Itself, read in big pieces."""
        return io.BufferedReader(self, _BUFFER)


class Source(Protocol):
    """What :class:`Reading` reads."""

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Read what comes, up to the buffer's size; 0 at the end."""

    def close(self) -> None:
        """Give it up."""


class Destination(ABC):
    """A place where sets are kept. Its methods may be called from several threads."""

    parallel = 1
    """Objects that are best sent or fetched at the same time."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The plan's name for it."""
        self.confirmed_by: set[str] = set()
        """How it was confirmed that objects arrived, since this was made."""

    @abstractmethod
    def describe(self) -> str:
        """Where it is, for messages: a folder, or ``s3://bucket/prefix``."""

    @abstractmethod
    def put(self, path: Path, key: str, sha256: str, sent: Callable[[int], None]) -> bool:
        """Send a file and confirm that exactly this arrived. Nothing can be seen under the key before all of it is there.

        Where only a look at the object can confirm it, it can be seen meanwhile, and is deleted if it is another one.

        Args:
            path: the file.
            key: where to; what is there with other content is replaced.
            sha256: what the file must be, in hexadecimal.
            sent: told of every piece of bytes that went through.

        Returns:
            False if exactly this was already there, so that nothing was sent.

        Raises:
            DestinationError: if it can't be written, or what arrived is not what the checksum says.
        """

    @abstractmethod
    def open(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """Read an object for the length of a block.

        Raises:
            Missing: if there is none.
            DestinationError: if it can't be read, now or while it is read.
        """

    @abstractmethod
    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object whose key begins with ``prefix``, which is empty or ends with ``/``."""

    @abstractmethod
    def folders(self, prefix: str) -> Iterator[str]:
        """The next part of every key that begins with ``prefix`` and goes on below that part, each once.

        Some places also name folders that have become empty.
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that isn't there is no error. Once this returns they are gone for good."""

    @abstractmethod
    def now(self) -> datetime:
        """The destination's own clock, in UTC, to the second."""

    @abstractmethod
    def try_out(self, key: str) -> str:
        """Try whether an object could be written, and leave none.

        Args:
            key: of the object.

        Returns:
            How it would be confirmed that the object arrived.

        Raises:
            DestinationError: if it could not be written.
        """

    @abstractmethod
    def free_space(self) -> int | None:
        """Bytes that can still be written; None where nobody can know."""

    @abstractmethod
    def sweep(self, prefix: str) -> None:
        """Remove what killed writers left below ``prefix``; what is being written stays."""

    def read(self, key: str, limit: int) -> bytes:
        """A small object as a whole.

        Raises:
            Missing: if there is none.
            TooLarge: if it is larger than ``limit`` bytes.
            DestinationError: if it can't be read.
        """
        with self.open(key) as source:
            data = source.read(limit + 1)
        if len(data) > limit:
            raise TooLarge(f"{key} at {self.describe()} is larger than the {limit} bytes that it may have.", "Look at who wrote it.")
        return data

    def not_as_sent(self, key: str) -> DestinationError:
        """The error of an upload that arrived damaged."""
        return DestinationError(
            f"What arrived as {key} at {self.describe()} is not what was sent: its SHA-256 differs.",
            "Look at the disk or the network on the way, if this happens again.",
        )

    def changed_here(self, path: Path) -> DestinationError:
        """The error of a local file that is not what its checksum says."""
        return Refused(
            f"{path} is not what the manifest says: its SHA-256 differs.",
            "Staging damaged it; check the disk, and start a new backup run.",
        )


class Unusable(Destination):
    """Stands for a destination that can't be used as the plan and its Connection describe it: all that it is asked fails.

    Args:
        name: the plan's name for it.
        reason: what every use says.
    """

    def __init__(self, name: str, reason: RecoveryError) -> None:
        super().__init__(name)
        self._reason = reason

    def describe(self) -> str:
        """The plan's name for it; where it is can't be told."""
        return f"the destination {self.name}"

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise Refused(self._reason.what, self._reason.next_step)

    put = open = list = folders = delete = now = try_out = free_space = sweep = _refuse
