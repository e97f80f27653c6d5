"""Reading the tar streams that packs hold: GNU tar's ``posix`` format, member by member, without seeking.

The standard library's ``tarfile`` could read them too; this reader hands out each member's raw bytes as well, so that a
guard can look at a member before a single byte of it reaches the tar that extracts, and copies less.
Format: POSIX.1-2001 pax, and "PAX Format, Version 1.0" of sparse files in the GNU tar manual. What GNU tar does not write
when a pack is made (long names of its older format, global headers, foreign keywords) is refused: two readers that
understand a header differently would see different members.
"""

from __future__ import annotations

import io
import re
import tarfile
from array import array
from collections.abc import Iterator
from tarfile import TarInfo
from typing import IO, Protocol

from recovery.common.errors import ArtifactError

BLOCK = 512
_ZEROS = bytes(BLOCK)
_WITHOUT_DATA = frozenset({tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE})
_SIZE = re.compile(rb"[0-7]{11}\0")
_NUMBER = re.compile(r"[0-9]{1,19}")
_TIME = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,9})?")
_KEYWORDS = re.compile(r"path|linkpath|size|uid|gid|mtime|GNU\.sparse\.(major|minor|name|realsize)|SCHILY\.xattr\..+", re.DOTALL)
_SPARSE = frozenset({"GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name", "GNU.sparse.realsize"})
LARGEST_HEADER = 64 << 20
"""Bytes of an extended header that are read; more are never written."""


class Source(Protocol):
    """What a tar stream is read from."""

    def read(self, size: int, /) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end."""


def damaged(what: str) -> ArtifactError:
    """The error of a pack whose bytes are not what they should be."""
    return ArtifactError(
        f"A pack is damaged: {what}.", "Use the copy at another destination, or another set; keep this one for inspection."
    )


class Member:
    """One member of a stream: its header, and its data as long as the next one is not asked for."""

    def __init__(self, info: TarInfo, header: bytes, stored: int, source: Source) -> None:
        self.info = info
        self.header = header
        """The raw header blocks, extended headers included."""
        self._left = stored
        self._padding = -stored % BLOCK
        self._source = source

    def read_stored(self, size: int) -> bytes:
        """The next bytes of the data as they are stored; empty at its end."""
        want = min(size, self._left)
        data = self._source.read(want) if want else b""
        if len(data) < want:
            raise damaged(f"it ends in the middle of {self.info.name!r}")
        self._left -= want
        return data

    def skip(self) -> None:
        """Read past what is left of this member."""
        while self._left:
            self.read_stored(1 << 20)
        if len(self._source.read(self._padding)) < self._padding:
            raise damaged(f"it ends after {self.info.name!r}")
        self._padding = 0

    def raw(self) -> Iterator[bytes]:
        """All its bytes as they are stored, header first, padding last."""
        yield self.header
        while chunk := self.read_stored(1 << 20):
            yield chunk
        yield bytes(self._padding)
        self.skip()

    def open(self) -> IO[bytes] | None:
        """Its data as the file had it, holes filled with zeros; None for a member that has none."""
        if self.info.type in _WITHOUT_DATA:
            return None
        if "GNU.sparse.major" in self.info.pax_headers:
            return SparseFile(self)  # type: ignore[return-value]
        return _Plain(self)  # type: ignore[return-value]


class _Plain(io.RawIOBase):
    """Gives exactly what it is asked for, fewer bytes only at the end; so it needs no buffer around it."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self.readall()
        return self._member.read_stored(size)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._member.read_stored(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class SparseFile(io.RawIOBase):
    """Data of a sparse file: a map of where the data lies, then the data. Gives exactly what it is asked for, as other members do."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._size = member.info.size
        self._position = 0
        self.stored = 0
        """Bytes of data, holes left out."""
        segments = iter(self._read_map())
        self._map = zip(segments, segments, strict=True)
        self._start, self._end = self._size, 0
        self._advance()

    def _read_map(self) -> array[int]:
        """Starts and lengths of the segments, one after another: there may be millions."""
        numbers, segments = self._map_numbers(), array("Q")
        end = 0
        for _ in range(next(numbers)):
            start, length = next(numbers), next(numbers)
            if start < end or start + length > self._size:
                raise self._damaged("the map")
            segments.extend((start, length))
            self.stored += length
            end = start + length
        return segments

    def _map_numbers(self) -> Iterator[int]:
        buffer = b""
        while True:
            line, newline, rest = buffer.partition(b"\n")
            if newline and line.isdigit() and len(line) < 20:
                yield int(line)
                buffer = rest
            elif newline or len(buffer) >= BLOCK or not (block := self._member.read_stored(BLOCK)):
                raise self._damaged("the map")
            else:
                buffer += block

    def _damaged(self, what: str) -> ArtifactError:
        return damaged(f"{what} of the sparse file {self._member.info.name!r} is not as it must be")

    def _advance(self) -> None:
        """Go on to the segment that the next byte is in, or that lies ahead; at the end to none."""
        while self._end <= self._position < self._size:
            start, length = next(self._map, (self._size, 1))
            self._start, self._end = start, start + length

    def pass_hole(self, unit: int) -> int:
        """Go over what is left of a hole here, in whole units; how many bytes these are."""
        hole = max(0, self._start - self._position) // unit * unit
        self._position += hole
        self._advance()
        return hole

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer, with zeros where a hole is; less only at the end."""
        view = memoryview(buffer)[: self._size - self._position]
        filled = 0
        while filled < len(view):
            filled += self._read_piece(view[filled:])
        return filled

    def _read_piece(self, view: memoryview) -> int:
        if self._position < self._start:
            count = min(len(view), self._start - self._position)
            view[:count] = bytes(count)
        else:
            data = self._member.read_stored(min(len(view), self._end - self._position))
            if not data:
                raise self._damaged("the data")
            count = len(data)
            view[:count] = data
        self._position += count
        self._advance()
        return count


def members(source: Source) -> Iterator[Member]:
    """The members of a stream, in order; what the caller leaves of one is skipped. Reads the stream to its very end.

    Raises:
        ArtifactError: if the stream is damaged or ends early.
    """
    while True:
        block = source.read(BLOCK)
        if block == _ZEROS:
            break
        member = _read_member(source, block)
        yield member
        member.skip()
    while chunk := source.read(1 << 20):
        if chunk.count(0) != len(chunk):
            raise damaged("there is something behind its end")


def _read_member(source: Source, block: bytes) -> Member:
    header = block
    extended: dict[str, str] = {}
    info = _parse(block)
    if info.type == tarfile.XHDTYPE:
        if info.size > LARGEST_HEADER:
            raise damaged(f"an extended header has {info.size} bytes")
        data = source.read(info.size + -info.size % BLOCK)
        extended = _parse_extended(data[: info.size])
        block = source.read(BLOCK)
        header += data + block
        info = _parse(block)
    stored = _number(extended, "size", info.size)
    if info.type not in _WITHOUT_DATA | {tarfile.REGTYPE} or (stored and info.type in _WITHOUT_DATA):
        raise damaged(f"{info.name!r} is of a kind that packs don't have")
    if _SPARSE & extended.keys() and not (
        extended.keys() >= _SPARSE and extended["GNU.sparse.major"] + extended["GNU.sparse.minor"] == "10"
    ):
        raise damaged(f"{info.name!r} is a sparse file of another format")
    _apply(info, extended)
    return Member(info, header, stored, source)


def _parse(block: bytes) -> TarInfo:
    if len(block) < BLOCK:
        raise damaged("it ends before its end mark")
    if not _SIZE.fullmatch(block, 124, 136):
        raise damaged("a member's header has no size")
    try:
        return TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise damaged(f"a member's header is not one ({error})") from error


def _parse_extended(data: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        record = data[space + 1 : position + int(digits)] if digits.isdigit() else b""
        key, equals, value = record.partition(b"=")
        name = key.decode("utf-8", "surrogateescape")
        if not equals or not value.endswith(b"\n") or not _KEYWORDS.fullmatch(name) or name in records:
            raise damaged(f"an extended header is not one of ours ({name[:100]!r})")
        records[name] = value[:-1].decode("utf-8", "surrogateescape")
        position += int(digits)
    return records


def _number(extended: dict[str, str], key: str, otherwise: int) -> int:
    text = extended.get(key)
    if text is not None and not _NUMBER.fullmatch(text):
        raise damaged(f"{key} of an extended header is {text[:100]!r}")
    return otherwise if text is None else int(text)


def _apply(info: TarInfo, extended: dict[str, str]) -> None:
    info.pax_headers = extended
    info.name = extended.get("GNU.sparse.name", extended.get("path", info.name))
    if info.name.endswith("/") and not info.isdir():
        raise damaged(f"{info.name!r} is no folder")
    info.name = info.name.rstrip("/")
    info.linkname = extended.get("linkpath", info.linkname)
    info.size = _number(extended, "GNU.sparse.realsize", _number(extended, "size", info.size))
    info.uid = _number(extended, "uid", info.uid)
    info.gid = _number(extended, "gid", info.gid)
    mtime = extended.get("mtime", str(info.mtime))
    if not _TIME.fullmatch(mtime):
        raise damaged(f"the time of {info.name!r} is {mtime[:100]!r}")
    info.mtime = float(mtime)
    if "\0" in info.name + info.linkname:
        raise damaged(f"the name {info.name!r} has a zero byte")
