"""Reading the tar streams that packs hold: GNU tar's ``posix`` format, member by member, without seeking.

The standard library's ``tarfile`` could read them too; this reader hands out each member's raw bytes as well, so that a
guard can look at a member before a single byte of it reaches the tar that extracts, and copies less.
Format: POSIX.1-2001 pax, and "PAX Format, Version 1.0" of sparse files in the GNU tar manual.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from tarfile import TarInfo
from typing import IO, Protocol

from recovery.errors import ArtifactError

BLOCK = 512
_ZEROS = bytes(BLOCK)
_WITHOUT_DATA = frozenset({tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE})


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
        self._segments: Iterator[tuple[int, int]] | None = None

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
            return io.BufferedReader(_Sparse(self), 1 << 20)
        return io.BufferedReader(_Plain(self), 1 << 20)


class _Plain(io.RawIOBase):
    def __init__(self, member: Member) -> None:
        self._member = member

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._member.read_stored(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Sparse(io.RawIOBase):
    """Data of a sparse file: a map of where the data lies, then the data."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._size = member.info.size
        self._position = 0
        self._map = self._read_map()
        self._segment = next(self._map, (self._size, 0))

    def _read_map(self) -> Iterator[tuple[int, int]]:
        buffer = b""
        numbers: list[int] = []
        while not numbers or len(numbers) < 1 + 2 * numbers[0]:
            line, newline, rest = buffer.partition(b"\n")
            if newline:
                if not line.isdigit():
                    raise damaged(f"the map of the sparse file {self._member.info.name!r} is not one")
                numbers.append(int(line))
                buffer = rest
            else:
                block = self._member.read_stored(BLOCK)
                if not block:
                    raise damaged(f"the map of the sparse file {self._member.info.name!r} has no end")
                buffer += block
        return iter(zip(numbers[1::2], numbers[2::2], strict=True))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        start, length = self._segment
        if self._position < start:
            count = min(len(buffer), start - self._position)
            buffer[:count] = bytes(count)
        else:
            while length == self._position - start and self._position < self._size:
                start, length = self._segment = next(self._map, (self._size, 0))
                if self._position < start:
                    return self.readinto(buffer)
            data = self._member.read_stored(min(len(buffer), start + length - self._position))
            buffer[: len(data)] = data
            count = len(data)
        self._position += count
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
    while info.type == tarfile.XHDTYPE:
        data = source.read(info.size + -info.size % BLOCK)
        extended |= _parse_extended(data[: info.size])
        block = source.read(BLOCK)
        header += data + block
        info = _parse(block)
    stored = int(extended.get("size", info.size))
    _apply(info, extended)
    return Member(info, header, 0 if info.type in _WITHOUT_DATA else stored, source)


def _parse(block: bytes) -> TarInfo:
    if len(block) < BLOCK:
        raise damaged("it ends before its end mark")
    try:
        return TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise damaged(f"a member's header is not one ({error})") from error


def _parse_extended(data: bytes) -> dict[str, str]:
    records = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position)
        digits = data[position:space]
        if space < 0 or not digits.isdigit():
            raise damaged("an extended header is not one")
        record = data[space + 1 : position + int(digits)]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise damaged("an extended header is not one")
        records[key.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        position += int(digits)
    return records


def _apply(info: TarInfo, extended: dict[str, str]) -> None:
    info.pax_headers = extended
    info.name = extended.get("GNU.sparse.name", extended.get("path", info.name)).rstrip("/")
    info.linkname = extended.get("linkpath", info.linkname)
    info.size = int(extended.get("GNU.sparse.realsize", extended.get("size", info.size)))
    info.uid = int(extended.get("uid", info.uid))
    info.gid = int(extended.get("gid", info.gid))
    info.mtime = float(extended.get("mtime", info.mtime))
