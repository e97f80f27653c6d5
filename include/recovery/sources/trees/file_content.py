"""The digest of a file's content, which costs as much as the file's data: holes are passed over, wherever they are known.

The same content has the same digest, whatever is a hole: a restored file has its own holes, and may lie on a file system that has none.
So blocks of zeros are left out of what is hashed; a file that has none of them has its plain SHA-256.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable
from typing import IO

from recovery.packs.content_index import Facts

BLOCK = 1 << 16
"""A block of zeros is left out if it is whole, and begins at a multiple of its size."""
DIGESTS = ("sha256", "sparse_sha256")
"""The fact of a file that says what its content is: its SHA-256; or, of one with blocks of zeros, the SHA-256 of all but these,
followed by the SHA-256 of a line for each run of them: ``<position> <length>`` in bytes."""
_CHUNK = 1 << 20
_EMPTY = bytes(BLOCK)


class _Content:
    """What is hashed of a file, from its beginning on."""

    def __init__(self) -> None:
        self._data = hashlib.sha256()
        self._runs = hashlib.sha256()
        self._run = 0
        self._sparse = False
        self.size = 0

    def add(self, chunk: bytes) -> None:
        """Add data; only the last does not end at a block's end."""
        blocks = range(0, len(chunk), BLOCK)
        if not any(chunk.startswith(_EMPTY, block) for block in blocks):
            self._add_data(chunk)
            return
        for block in blocks:
            if chunk.startswith(_EMPTY, block):
                self.leave_out(BLOCK)
            else:
                self._add_data(chunk[block : block + BLOCK])

    def leave_out(self, length: int) -> None:
        """Add blocks of zeros."""
        self._run += length
        self.size += length

    def _add_data(self, data: bytes) -> None:
        self._end_run()
        self._data.update(data)
        self.size += len(data)

    def _end_run(self) -> None:
        if self._run:
            self._runs.update(b"%d %d\n" % (self.size - self._run, self._run))
            self._run = 0
            self._sparse = True

    def facts(self) -> Facts:
        """The digest, under a name that says what it is of."""
        self._end_run()
        if not self._sparse:
            return {"sha256": self._data.hexdigest()}
        self._data.update(self._runs.digest())
        return {"sparse_sha256": self._data.hexdigest()}


def of_content(data: IO[bytes], limit: int, pass_hole: Callable[[int], int] = lambda unit: 0) -> tuple[Facts, int]:
    """The digest of a file's content, and how long that is.

    Args:
        data: the content.
        limit: bytes that are looked at.
        pass_hole: goes over what is left of a hole where ``data`` is read next, in whole units; how many bytes these are.
    """
    content = _Content()
    while (left := limit - content.size) > 0:
        if left >= BLOCK and (hole := pass_hole(BLOCK)):
            content.leave_out(hole)
            continue
        want = min(left, _CHUNK)
        chunk = _exactly(data, want)
        content.add(chunk)
        if len(chunk) < want:
            break
    return content.facts(), content.size


def _exactly(data: IO[bytes], size: int) -> bytes:
    """What is asked for; less only at the end, though a file may hand over less at once: a block must not be cut in two."""
    chunk = data.read(size)
    while 0 < len(chunk) < size and (more := data.read(size - len(chunk))):
        chunk += more
    return chunk


def pass_hole(file: io.FileIO, unit: int) -> int:
    """Go over what is left of a hole in a file on disk, in whole units; how many bytes these are. See :func:`of_content`."""
    here = file.tell()
    try:
        there = file.seek(here, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # the file system knows nothing of holes, or reading says what is wrong
            return 0
        there = max(here, os.fstat(file.fileno()).st_size)
    hole = (there - here) // unit * unit
    file.seek(here + hole)
    return hole
