"""A sealed pack on standard input comes out on standard output as its tar stream.

It is run by its path in an isolated Python, ``python -I decrypt_worker.py``: with the identities in its hands, it imports
nothing from a folder where others may write, and nothing of this project.

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
import struct
import sys
from collections.abc import Mapping
from typing import Any

import pyrage
import zstandard

IDENTITIES = "RECOVERY_IDENTITIES"
"""Environment variable with the age identities, separated by spaces."""
UNREADABLE = 3
"""Exit status where the pack can't be read."""
CHUNK = 1 << 20
_SKIPPED = 1 << 18
_BEHIND = struct.pack("<II", 0x184D2A50, _SKIPPED) + b"\xff" * _SKIPPED
"""A skippable frame (RFC 8878, 3.1.2), longer than a block: nothing comes of it behind a whole frame; in one that was cut off its
bytes are no blocks, which is an error. The library does not say otherwise that a frame has not ended."""


class Count:
    """Bytes and SHA-256 of what went by."""

    def __init__(self) -> None:
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def add(self, data: Any) -> None:
        """Count data."""
        self.bytes += len(data)
        self.sha256.update(data)


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

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.bytes += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        return len(data)


class _Decompressing(io.RawIOBase):
    """Takes a frame of zstd that has a checksum, and not less than all of it."""

    def __init__(self, out: _Sink) -> None:
        self._begun = False
        self._writer = zstandard.ZstdDecompressor().stream_writer(out, write_size=CHUNK, closefd=False)  # type: ignore[arg-type]

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self._begun and not zstandard.get_frame_parameters(data).has_checksum:
            raise zstandard.ZstdError("its frame has no checksum")
        self._begun = True
        self._writer.write(data)
        return len(data)

    def finish(self) -> None:
        """Refuse what was cut off."""
        self.write(_BEHIND)


def unseal(identities: list[Any], source: int, out: int) -> Mapping[str, int | str]:
    """Decrypt and decompress from one descriptor to another; sizes of both sides, and the SHA-256 of what was stored."""
    stored, raw = Count(), _Sink(out)
    decompressing = _Decompressing(raw)
    with io.BufferedWriter(decompressing, CHUNK) as plain:
        pyrage.decrypt_io(io.BufferedReader(_Source(source, stored), CHUNK), plain, identities)
        plain.flush()
        decompressing.finish()
    return {"stored_bytes": stored.bytes, "sha256": stored.sha256.hexdigest(), "raw_bytes": raw.bytes}


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
