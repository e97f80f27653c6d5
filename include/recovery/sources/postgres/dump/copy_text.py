"""COPY texts, and other texts of lines: in blocks, in lines, counted and digested. Nothing is held of a line that is very long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO

import xxhash

from recovery.packs.content_index import Facts, RecordDigest

BLOCK = 512 << 10
"""Bytes read at once: more, and the lines of a block no longer fit the processor's cache, which was a third slower."""
_LONG = 4 * BLOCK
"""Bytes of a line that are held."""


def in_blocks(rows: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes]:
    """Rows of a COPY, which the server sends one by one, in blocks: several rows, or a piece of one."""
    held: list[bytes] = []
    size = 0
    for row in rows:
        for start in range(0, len(row), BLOCK):
            held.append(bytes(memoryview(row)[start : start + BLOCK]))
            size += len(held[-1])
            if size >= BLOCK:
                yield b"".join(held)
                held, size = [], 0
    if held:
        yield b"".join(held)


@dataclass(frozen=True)
class LongLine:
    """A line that is not held, since a value may have hundreds of megabytes."""

    size: int
    digest: str
    """As of a :class:`RecordDigest` of this one record."""


class _Unfinished:
    """A line whose end has not come yet."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._hash: xxhash.xxh3_64 | None = None

    def add(self, part: bytes) -> None:
        self._size += len(part)
        if self._hash is not None:
            self._hash.update(part)
        elif self._size <= _LONG:
            self._parts.append(part)
        else:
            self._hash = xxhash.xxh3_64(b"".join([*self._parts, part]))
            self._parts = []

    def line(self) -> bytes | LongLine:
        return b"".join(self._parts) if self._hash is None else LongLine(self._size, self._hash.hexdigest())

    def __bool__(self) -> bool:
        return self._size > 0


def lines(blocks: Iterable[bytes]) -> Iterator[list[bytes] | LongLine]:
    """Lines of a text, block by block, without their line feeds; what follows the last line feed comes last, if anything."""
    begun = _Unfinished()
    for block in blocks:
        first, *found = block.split(b"\n")
        begun.add(first)
        if not found:
            continue
        line = begun.line()
        begun = _Unfinished()
        begun.add(found.pop())
        if isinstance(line, LongLine):
            yield line
        else:
            found.insert(0, line)
        if found:
            yield found
    if begun:
        line = begun.line()
        yield line if isinstance(line, LongLine) else [line]


def blocks_of(stream: IO[bytes]) -> Iterator[bytes]:
    """A stream in blocks."""
    while block := stream.read(BLOCK):
        yield block


@dataclass
class TableText:
    """Count, digest and size of a table's COPY text: a record is a line without its line feed."""

    digest: RecordDigest = field(default_factory=RecordDigest)
    size: int = 0

    def add(self, found: list[bytes] | LongLine) -> None:
        """Add lines."""
        if isinstance(found, LongLine):
            self.digest.merge(1, found.digest)
            self.size += found.size + 1
        else:
            self.digest.add(found)
            self.size += sum(map(len, found)) + len(found)

    def facts(self) -> Facts:
        """As a row keeps them."""
        return {"count": self.digest.count, "digest": self.digest.hexdigest(), "bytes": self.size}
