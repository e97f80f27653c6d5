"""Files cut into the parts in which they are sent to a bucket, and what a server says of such a file."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_PART = 8 << 20
_LARGEST_PART = 5 << 30
_MOST_PARTS = 1_000
"""What every server takes; Amazon takes 10,000, so that objects of more than 5 TB need no larger parts."""
_THREADS = 4
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Parts:
    """A file and its parts, which all have one size but for the last."""

    path: Path
    size: int
    """Of the file, in bytes."""
    part: int
    """Of a part, in bytes."""
    sha256: str
    """Of the file, in hexadecimal."""
    digests: tuple[bytes, ...]
    """The SHA-256 of each part."""

    @property
    def several(self) -> bool:
        """Whether the file is sent in more than one part."""
        return len(self.digests) > 1

    @property
    def checksum(self) -> str:
        """The SHA-256 that S3 says of the file: of several parts, that of their SHA-256, and how many they are."""
        if not self.several:
            return base64_of(self.digests[0])
        return f"{base64_of(hashlib.sha256(b''.join(self.digests)).digest())}-{len(self.digests)}"

    def etag(self) -> str | None:
        """The ETag that S3 says of the file if it has the MD5 of what arrived: of several parts, that of their MD5, and how many they are.

        The file is read again for it, since few servers make it necessary; None if the file has changed since.
        """
        sha256, digests = _digests(self.path, self.size, self.part, _md5)
        if sha256 != self.sha256:
            return None
        return f"{_md5(b''.join(digests)).hexdigest()}-{len(digests)}" if self.several else digests[0].hex()


def cut(path: Path) -> Parts:
    """Read a file, and cut it into parts."""
    size = path.stat().st_size
    part = part_size(size)
    sha256, digests = _digests(path, size, part, hashlib.sha256)
    return Parts(path, size, part, sha256, digests)


def part_size(size: int) -> int:
    """Bytes of each part but the last, of a file of this many bytes."""
    return min(_LARGEST_PART, max(_PART, math.ceil(size / _MOST_PARTS / _CHUNK) * _CHUNK))


def _digests(path: Path, size: int, part: int, algorithm: Callable[[], hashlib._Hash]) -> tuple[str, tuple[bytes, ...]]:
    """The SHA-256 of a file in hexadecimal, and the digest of each part; an empty file has one part."""
    whole = hashlib.sha256()
    digests = []
    with path.open("rb") as source:
        for start in range(0, max(size, 1), part):
            digest = algorithm()
            left = min(part, size - start)
            while left and (chunk := source.read(min(left, _CHUNK))):
                whole.update(chunk)
                digest.update(chunk)
                left -= len(chunk)
            digests.append(digest.digest())
    return whole.hexdigest(), tuple(digests)


def _md5(data: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)


class Slice(io.RawIOBase):
    """A piece of a file as a file of its own, so that parts are sent without being in memory."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file = file
        self._start = start
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is, since a part may be sent again."""
        return True

    def tell(self) -> int:
        """Where it is read next, from its own start."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go elsewhere in it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read up to the buffer's size."""
        count = min(len(buffer), self._length - self._position)
        data = os.pread(self._file.fileno(), count, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def in_threads(send: Callable[[int], CompletedPartTypeDef], numbers: Iterable[int]) -> list[CompletedPartTypeDef]:
    """Call for every number, a few at once; after a failure no new one is begun."""
    running: set[Future[CompletedPartTypeDef]] = set()
    done: list[CompletedPartTypeDef] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for number in numbers:
            if len(running) == _THREADS:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                done += [future.result() for future in ended]
            running.add(pool.submit(send, number))
        done += [future.result() for future in running]
    return sorted(done, key=lambda part: part["PartNumber"])


def base64_of(digest: bytes) -> str:
    """A checksum as S3 writes it."""
    return base64.b64encode(digest).decode()
