"""Streams of BSON documents: cut into records, checked, counted and digested.

A document is its length (int32, little endian, itself included), its elements, and a zero byte
(https://bsonspec.org/spec.html). A dump file is documents end to end and nothing else, so a file that lost or gained
a byte no longer ends where a document does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import IO

from recovery.packs.content_index import Facts, RecordDigest

BLOCK = 1 << 20
"""Bytes read at a time: measured, larger blocks are no faster and fall out of the processor's cache."""

_LARGEST = 16 * 1024 * 1024 + 16 * 1024
"""What the server itself accepts: 16 MiB and room for a command around it (BSONObjMaxInternalSize)."""

_length = Struct("<i").unpack_from


class DamagedBson(ValueError):
    """Bytes that are no stream of documents; says where."""


def split(block: bytes) -> tuple[list[bytes], int]:
    """The whole documents at the start of a block, and how many bytes they are.

    Raises:
        DamagedBson: if a length can't be one, or a document does not end with its zero byte.
    """
    documents: list[bytes] = []
    add = documents.append
    position, end = 0, len(block)
    while position + 4 <= end:
        (length,) = _length(block, position)
        following = position + length
        if length < 5 or length > _LARGEST:
            raise DamagedBson(f"a document's length is {length} at byte {position}")
        if following > end:
            break
        if block[following - 1]:
            raise DamagedBson(f"a document does not end at byte {following} as its length says")
        add(block[position:following])
        position = following
    return documents, position


def documents(blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Documents of a stream that comes in blocks of any size, a list at a time.

    Raises:
        DamagedBson: if the stream is damaged, or ends within a document.
    """
    rest = b""
    done = 0
    for block in blocks:
        whole = rest + block if rest else block
        try:
            found, used = split(whole)
        except DamagedBson as error:
            raise DamagedBson(f"{error} after {done} bytes") from None
        rest = whole[used:]
        done += used
        if found:
            yield found
    if rest:
        raise DamagedBson(f"it ends within a document, {len(rest)} bytes after byte {done}")


def blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """A file in blocks."""
    while block := stream.read(BLOCK):
        yield block


def digest(stream: Iterable[bytes]) -> Facts:
    """``count``, ``digest`` and ``bytes`` of a stream of documents that comes in blocks.

    Raises:
        DamagedBson: as :func:`documents`.
    """
    records = RecordDigest()
    size = 0
    for found in documents(stream):
        records.add(found)
        size += sum(map(len, found))
    return {"count": records.count, "digest": records.hexdigest(), "bytes": size}
