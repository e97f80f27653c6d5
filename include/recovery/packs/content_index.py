"""What an artifact holds: rows of facts, and the digest of records.

A *row* is ``(kind, name, facts)``: ``("table", "public.customers", {"count": 1000, "digest": "00af…"})``. Inventories
and contents are both rows, one JSON array a line on disk, so that a tree of a million files needs no memory.
Names of files that are not UTF-8 are kept by Python's ``surrogateescape``, which JSON escapes as ``\\udcXX``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

Facts = dict[str, Any]
Row = tuple[str, str, Facts]

_MASK = (1 << 64) - 1


class RecordDigest:
    """Sum modulo 2^64 of the XXH3-64 of each record: independent of order, so it survives a restore.

    It finds damage and loss, not an attacker: SHA-256 and the signature are for that.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0

    def add(self, records: Collection[bytes]) -> None:
        """Count and add records."""
        self.count += len(records)
        self._sum = (self._sum + sum(map(xxhash.xxh3_64_intdigest, records))) & _MASK

    def merge(self, count: int, hexdigest: str) -> None:
        """Add the result of another digest over other records."""
        self.count += count
        self._sum = (self._sum + int(hexdigest, 16)) & _MASK

    def hexdigest(self) -> str:
        """16 hexadecimal digits; ``0000000000000000`` of no records."""
        return f"{self._sum:016x}"


@contextmanager
def row_file(path: Path) -> Iterator[Callable[[Row], None]]:
    """A file that rows are written to as they come, one JSON array a line."""
    encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
    with path.open("w", encoding="ascii") as out:
        yield lambda row: out.writelines((encode(row), "\n"))
        out.flush()
        os.fsync(out.fileno())


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows to a file, as :func:`row_file` does."""
    with row_file(path) as write:
        for row in rows:
            write(row)


def read_rows(path: Path, *kinds: str) -> Iterator[Row]:
    """Rows of a file, all or only those of some kinds, as they are read."""
    wanted = tuple(f"[{json.dumps(kind)}," for kind in kinds) or "["
    with path.open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith(wanted):  # reading a line costs ten times as much as passing over it
                kind, name, facts = json.loads(line)
                yield kind, name, facts
