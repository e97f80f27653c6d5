"""Writing the tar streams that packs hold: each member through the held folder that it lies in, and no link followed on the way.

GNU tar would look up each name of a listing from the root on: whoever may exchange a folder for a link while it reads has it pack what
lies elsewhere. Format: POSIX.1-2001 pax, as :mod:`recovery.packs.tar_reader` reads it, and "PAX Format, Version 1.0" of sparse files in
the GNU tar manual, so that stock tools unpack it.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import tarfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import starmap
from typing import Literal

from recovery.common.errors import SourceError
from recovery.common.held_folder import Reach, open_file
from recovery.common.paths import readable
from recovery.common.xattrs import read_xattrs
from recovery.packs.tar_reader import BLOCK, LARGEST_HEADER

Disturbance = Literal["changed", "vanished"]
"""What happened to an entry while it was read: a file may be torn; or there is none any more."""

Folders = dict[bytes, tuple[tuple[int, ...], ...]]
"""By its path, which folders lay there when an entry was read through it: one, unless somebody exchanges them. Of each the device, the
inode, the owner, the group and the mode."""

_CHUNK = 1 << 20
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
_LINKED = {tarfile.REGTYPE, tarfile.SYMTYPE}
_FIELDS = struct.Struct("100s8s8s8s12s12s8s1s100s8s247x")
_BLANKS = b" " * 8
"""In the place of the checksum while it is computed."""
_MAGIC = b"ustar\x0000"
_CAPABILITY = "security.capability"
_PUT_RIGHT = "Find out who may write there, and put it right; then clear the dump task of this source."
_END = bytes(2 * BLOCK)
_NAME = 100
_LARGEST_ID = 0o7777777
_LARGEST_SIZE = 0o77777777777


class TarWriter:
    """A tar stream.

    Args:
        reach: what its members lie in.
        write: takes the stream.
        folders: what the streams before this one, of the same tree, were read through.
    """

    def __init__(self, reach: Reach, write: Callable[[bytes], object], folders: Folders | None = None) -> None:
        self._reach = reach
        self._write = write
        self._links: dict[tuple[int, int], bytes] = {}
        self._folders: Folders = {} if folders is None else folders
        self._above = b""

    def add(self, path: bytes) -> Disturbance | None:
        """Write a member; what happened to it meanwhile. What vanished is not written, what shrank is filled up with zeros.

        Raises:
            OSError: if it can't be read. The stream may end within it then.
            SourceError: if somebody exchanged a folder, or wrote to a file with rights of its own, in such a way that a restore would
                give rights away.
        """
        try:
            self._note_folders(path)
            found = _look(self._reach, path)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return "vanished"
        if found is None:
            return "vanished"
        with found:
            return self._write_found(found)

    def close(self) -> None:
        """Write the end of the archive."""
        self._write(_END)

    def _note_folders(self, path: bytes) -> None:
        """Remember the folders that lead to an entry: whoever owns one above may put others in their place, one after another."""
        near = above = path.rpartition(b"/")[0]
        if above == self._above:
            return
        here = os.open(self._reach.at(path).rpartition(b"/")[0], os.O_PATH)
        try:
            while above:
                folder, known = _folder(os.fstat(here)), self._folders.get(above, ())
                if folder not in known:
                    self._folders[above] = (*known, folder)
                above = above.rpartition(b"/")[0]
                here = _replaced(here, os.open("..", os.O_PATH, dir_fd=here))
        finally:
            os.close(here)
        self._above = near

    def _refuse_mixture(self, path: bytes, status: os.stat_result) -> None:
        """Refuse the rights of a folder for entries that another one with other rights had: whom it kept out they would let in."""
        folder = _folder(status)
        for other in self._folders.pop(path, ()):
            if other[:2] != folder[:2] and other[2:] != folder[2:]:
                raise SourceError(f"{readable(path)} was exchanged for another folder while it was packed.", _PUT_RIGHT)

    def _write_found(self, found: _Found) -> Disturbance | None:
        if found.kind == tarfile.DIRTYPE:
            self._refuse_mixture(found.path, found.status)
        if found.kind in _LINKED and found.status.st_nlink > 1:
            first = self._links.setdefault((found.status.st_dev, found.status.st_ino), found.path)
            if first is not found.path:
                self._write(_Header(found.path, tarfile.LNKTYPE, found.status, target=first).blocks())
                return None
        header = _Header(found.path, found.kind, found.status, target=found.target, xattrs=found.xattrs)
        if found.kind != tarfile.REGTYPE:
            header.name += b"/" if found.kind == tarfile.DIRTYPE else b""
            self._write(header.blocks())
            return None
        holes = _map(found.segments) if found.segments != _whole(found.status.st_size) else b""
        if holes:
            header.records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": found.path}
            header.records[b"GNU.sparse.realsize"] = b"%d" % found.status.st_size
        header.size = len(holes) + sum(length for _, length in _pairs(found.segments))
        self._write(header.blocks())
        self._write(holes)
        whole = True
        for segment in _pairs(found.segments):
            whole &= self._write_data(found.descriptor, *segment)
        self._write(bytes(-header.size % BLOCK))
        after = os.fstat(found.descriptor)
        _refuse_disarmed(found, after)
        same = (after.st_ctime_ns, after.st_size) == (found.status.st_ctime_ns, found.status.st_size)
        return None if same and whole else "changed"

    def _write_data(self, descriptor: int, start: int, length: int) -> bool:
        """Write a piece of a file, and zeros for what it lacks; whether it had all."""
        os.lseek(descriptor, start, os.SEEK_SET)
        left = length
        while left and (data := os.read(descriptor, min(left, _CHUNK))):
            self._write(data)
            left -= len(data)
        for position in range(0, left, _CHUNK):
            self._write(bytes(min(_CHUNK, left - position)))
        return not left


@dataclass(frozen=True)
class _Found:
    """What lies at a path, looked at before anything of it is written."""

    path: bytes
    kind: bytes
    status: os.stat_result
    xattrs: dict[str, bytes]
    target: bytes = b""
    """Of a link."""
    descriptor: int = -1
    """Of a file that is open."""
    segments: array[int] = field(default_factory=lambda: array("Q"))
    """Where a file has data: start and length of each segment, of which there may be millions; an empty one at its end if a hole is
    there."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _look(reach: Reach, path: bytes) -> _Found | None:
    """What lies at a path; None if it is nothing that an archive holds: a socket or device that came in the place of what was listed."""
    here = os.open(reach.at(path), os.O_PATH | os.O_NOFOLLOW)
    try:
        status = os.fstat(here)
        kind = _TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return None
        if kind == tarfile.REGTYPE:
            return _open(reach, path)
        target = os.readlink(b"", dir_fd=here) if kind == tarfile.SYMTYPE else b""
        return _Found(path, kind, status, read_xattrs(here), target)
    finally:
        os.close(here)


def _replaced(descriptor: int, by: int) -> int:
    os.close(descriptor)
    return by


def _folder(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, *_rights(status)


def _rights(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_uid, status.st_gid, status.st_mode


def _refuse_disarmed(found: _Found, after: os.stat_result) -> None:
    """Refuse a file that had rights of its own, and lost them while it was read.

    Linux takes them away before it writes anything by another user. What was read may be that user's, and would come back with them.
    """
    armed = found.status.st_mode & (stat.S_ISUID | stat.S_ISGID) or _CAPABILITY in found.xattrs
    capability = read_xattrs(found.descriptor).get(_CAPABILITY) if armed else None
    if armed and (_rights(after), capability) != (_rights(found.status), found.xattrs.get(_CAPABILITY)):
        what = "lost its setuid or setgid bit, or its capabilities, while it was packed: somebody wrote to it"
        raise SourceError(f"{readable(found.path)} {what}.", _PUT_RIGHT)


def _open(reach: Reach, path: bytes) -> _Found | None:
    descriptor = open_file(reach.at(path))
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            holes = status.st_blocks * 512 < status.st_size
            segments = _segments(descriptor, status.st_size) if holes else _whole(status.st_size)
            return _Found(path, tarfile.REGTYPE, status, read_xattrs(descriptor), descriptor=descriptor, segments=segments)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


@dataclass
class _Header:
    """The header of a member; an extended one comes before it, for what the plain one has no room for."""

    name: bytes
    kind: bytes
    status: os.stat_result
    target: bytes = b""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    size: int = 0
    records: dict[bytes, bytes] = field(default_factory=dict)

    def blocks(self) -> bytes:
        """Its blocks."""
        status, extended = self.status, b"".join(starmap(_record, self._extended()))
        ids = _within(status.st_uid, _LARGEST_ID), _within(status.st_gid, _LARGEST_ID)
        time = _within(status.st_mtime_ns // 10**9, _LARGEST_SIZE)
        own = _block(self.name, self.kind, stat.S_IMODE(status.st_mode), *ids, _within(self.size, _LARGEST_SIZE), time, self.target)
        if len(extended) > LARGEST_HEADER:
            raise OSError(errno.E2BIG, f"Its extended attributes are larger than {LARGEST_HEADER >> 20} MiB")
        return _extension(len(extended)) + extended + bytes(-len(extended) % BLOCK) + own if extended else own

    def _extended(self) -> Iterator[tuple[bytes, bytes]]:
        if _is_long(self.name) and b"GNU.sparse.name" not in self.records:
            yield b"path", self.name
        if _is_long(self.target):
            yield b"linkpath", self.target
        if self.size > _LARGEST_SIZE:
            yield b"size", b"%d" % self.size
        for key, number in ((b"uid", self.status.st_uid), (b"gid", self.status.st_gid)):
            if number > _LARGEST_ID:
                yield key, b"%d" % number
        seconds, rest = divmod(self.status.st_mtime_ns, 10**9)
        if rest or not 0 <= seconds <= _LARGEST_SIZE:
            yield b"mtime", _time(self.status.st_mtime_ns)
        yield from self.records.items()
        for name, value in self.xattrs.items():
            yield b"SCHILY.xattr." + os.fsencode(name.replace("%", "%25").replace("=", "%3D")), value


def _block(name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, time: int, target: bytes) -> bytes:
    """A header block, ``ustar``; see ``pax(1)`` of POSIX.1-2001. Longer names are cut: an extended header has them whole."""
    numbers = b"%07o" % mode, b"%07o" % uid, b"%07o" % gid, b"%011o" % size, b"%011o" % time
    block = _FIELDS.pack(name, *numbers, _BLANKS, kind, target, _MAGIC)
    return b"%b%06o\0%b" % (block[:148], sum(block[:265]), block[155:])


@cache
def _extension(size: int) -> bytes:
    """The header block of an extended header."""
    return _block(b"PaxHeader", tarfile.XHDTYPE, 0o600, 0, 0, size, 0, b"")


def _within(number: int, largest: int) -> int:
    """What a field can hold; an extended header has what it can't."""
    return number if 0 <= number <= largest else 0


def _is_long(name: bytes) -> bool:
    return len(name) > _NAME or not name.isascii()


def _time(nanoseconds: int) -> bytes:
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    return b"%s%d.%09d" % (b"-" if nanoseconds < 0 else b"", seconds, rest)


def _record(key: bytes, value: bytes) -> bytes:
    """``<length> <key>=<value>`` and a line feed, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _whole(size: int) -> array[int]:
    return array("Q", (0, size))


def _pairs(segments: array[int]) -> Iterator[tuple[int, int]]:
    numbers = iter(segments)
    return zip(numbers, numbers, strict=True)


def _segments(descriptor: int, size: int) -> array[int]:
    """See :attr:`_Found.segments`."""
    segments = array("Q")
    end = 0
    while end < size:
        start = min(_sought(descriptor, end, os.SEEK_DATA, size), size)
        if start == size:
            break
        end = min(_sought(descriptor, start, os.SEEK_HOLE, size), size)
        segments.extend((start, end - start))
    if end < size:
        segments.extend((size, 0))
    return segments


def _sought(descriptor: int, position: int, what: int, end: int) -> int:
    """Where the next data or hole is; the end if the file has none, for example since it is shorter by now."""
    try:
        return os.lseek(descriptor, position, what)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return end


def _map(segments: array[int]) -> bytes:
    text = bytearray(b"%d\n" % (len(segments) // 2))
    for segment in _pairs(segments):
        text += b"%d\n%d\n" % segment
    return bytes(text + bytes(-len(text) % BLOCK))
