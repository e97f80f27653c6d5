"""A sealed pack on standard input comes out on standard output as its tar stream: ``python -m recovery.packs.decrypt_worker``.

A process of its own, because age's library hands over its data in pieces of 8 KiB and needs the interpreter's lock for
each: in one process it would take turns with the code that looks at the data, and one processor would stand idle.

The identities are in the environment. The last line on standard error is a JSON object: what went through, or what was
wrong with it; then the exit status is :data:`UNREADABLE`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyrage
import zstandard

IDENTITIES = "RECOVERY_IDENTITIES"
"""Environment variable with the age identities, separated by spaces."""
UNREADABLE = 3
"""Exit status where the pack can't be read."""
CHUNK = 1 << 20


class Count:
    """Bytes and SHA-256 of what went by."""

    def __init__(self) -> None:
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def add(self, data: Any) -> None:
        """Count data."""
        self.bytes += len(data)
        self.sha256.update(data)


class CountAside(Count):
    """Hashes in a thread while the caller goes on; so what it is given must not change any more."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = ThreadPoolExecutor(1)
        self._hashing: Future[None] = self._thread.submit(lambda: None)

    def add(self, data: bytes) -> None:
        """Count data, once what came before is hashed."""
        self.finish()
        self.bytes += len(data)
        self._hashing = self._thread.submit(self.sha256.update, data)

    def finish(self) -> None:
        """Wait until everything is hashed."""
        self._hashing.result()


class _Source(io.RawIOBase):
    def __init__(self, descriptor: int, count: Count) -> None:
        self._descriptor = descriptor
        self._count = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = os.readv(self._descriptor, [buffer])
        self._count.add(memoryview(buffer)[:size])
        return size


class _Sink(io.RawIOBase):
    """Writes all of it, whatever a pipe takes at once."""

    def __init__(self, descriptor: int, count: CountAside) -> None:
        self._descriptor = descriptor
        self._count = count

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._count.add(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        return len(data)


class _Decompressing(io.RawIOBase):
    def __init__(self, out: _Sink) -> None:
        self._writer = zstandard.ZstdDecompressor().stream_writer(out, write_size=CHUNK, closefd=False)  # type: ignore[arg-type]

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._writer.write(data)
        return len(data)


def unseal(identities: list[Any], source: int, out: int) -> Mapping[str, int | str]:
    """Decrypt and decompress from one descriptor to another; sizes and SHA-256 of both sides."""
    stored, raw = Count(), CountAside()
    with io.BufferedWriter(_Decompressing(_Sink(out, raw)), CHUNK) as plain:
        pyrage.decrypt_io(io.BufferedReader(_Source(source, stored), CHUNK), plain, identities)
    raw.finish()
    return {
        "stored_bytes": stored.bytes,
        "sha256": stored.sha256.hexdigest(),
        "raw_bytes": raw.bytes,
        "raw_sha256": raw.sha256.hexdigest(),
    }


def main() -> int:
    """Unseal, and say how it went."""
    identities = [pyrage.x25519.Identity.from_str(text) for text in os.environ.pop(IDENTITIES).split()]
    try:
        sys.stderr.write(json.dumps(unseal(identities, 0, 1)))
    except (pyrage.DecryptError, zstandard.ZstdError, OSError) as error:
        sys.stderr.write(json.dumps({"error": type(error).__name__, "words": str(error)}))
        return UNREADABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
