"""Rows of entries: one made from the disk and one made from an archive are equal when the entries are.

A row is ``("entry", path, facts)``. Facts: ``type`` (``file``, ``folder``, ``link``, ``fifo`` or ``hardlink``; ``other``
for a socket or device, which is never in an archive), then

- content: ``size`` in bytes and ``sha256`` or ``sparse_sha256`` of a file (:data:`~recovery.sources.trees.file_content.DIGESTS`),
  ``target`` of a link or hard link;
- metadata: ``mode`` (octal text, not of links), ``uid``, ``gid``, ``mtime`` (nanoseconds since 1970), ``xattrs`` (name to
  value in hexadecimal; access control lists are among them). A hard link has none of its own: its target has them.

A file with holes also says how many bytes are ``stored``; that is not compared.
"""

# pathlib has no paths of bytes.

# ruff: noqa: PTH115, PTH123

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from tarfile import TarInfo
from typing import IO, Any

import xxhash

from recovery.common.errors import ArtifactError
from recovery.common.held_folder import Reach, open_file
from recovery.common.paths import raw, readable, text
from recovery.common.xattrs import OF_THE_HOST, read_xattrs
from recovery.packs.content_diff import Difference, compare
from recovery.packs.content_index import Facts, RecordDigest, Row
from recovery.packs.tar_reader import SparseFile
from recovery.sources.trees.file_content import DIGESTS, of_content, pass_hole
from recovery.sources.trees.walk import EntriesProgress, Found, Walk, in_order

_CONTENT = ("type", "size", *DIGESTS, "target")
_METADATA = ("mode", "uid", "gid", "mtime", "xattrs")
_PAX_XATTR = "SCHILY.xattr."
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL}
_SHOWN = 200
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


# From an archive ----------------------------------------------------------------------------------------------------


def of_members(members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
    """The rows of a pack's members; every file is read to its end and hashed.

    Raises:
        ArtifactError: if a file does not end where its header says, or a member is nothing that a tree holds.
    """
    progress = EntriesProgress("reading back")
    for info, data in members:
        facts = _of_member(info, data)
        progress.entry(info.name, stored(facts))
        yield "entry", info.name, facts


def _of_member(info: TarInfo, data: IO[bytes] | None) -> Facts:
    if info.islnk():
        return {"type": "hardlink", "target": info.linkname}
    facts: Facts = {"uid": info.uid, "gid": info.gid, "mtime": _mtime(info)}
    if xattrs := in_hex(_pax_xattrs(info)):
        facts["xattrs"] = xattrs
    if info.issym():
        return facts | {"type": "link", "target": info.linkname}
    facts["mode"] = _mode(info.mode)
    if info.isdir():
        return facts | {"type": "folder"}
    if info.isfifo():
        return facts | {"type": "fifo"}
    if not info.isreg() or data is None:
        raise ArtifactError(
            f"{readable(info.name)} is neither file, folder, link nor fifo.", "Don't restore this set; find out who made it."
        )
    return facts | {"type": "file"} | _of_data(info, data)


def _of_data(info: TarInfo, data: IO[bytes]) -> Facts:
    sparse = data if isinstance(data, SparseFile) else None
    digest, size = of_content(data, info.size, sparse.pass_hole) if sparse else of_content(data, info.size)
    if size != info.size:
        raise ArtifactError(
            f"{readable(info.name)} has {size} bytes, its header says {info.size}.", "Use another copy of the set, or another set."
        )
    return digest | {"size": size} | ({"stored": sparse.stored} if sparse else {})


def _mtime(info: TarInfo) -> int:
    """In nanoseconds, from the text: a float has not enough digits."""
    return int(Decimal(info.pax_headers.get("mtime", int(info.mtime))).scaleb(9))


def _pax_xattrs(info: TarInfo) -> dict[str, bytes]:
    """A keyword has ``=`` and ``%`` of a name as ``%3D`` and ``%25``, as GNU tar writes them."""
    return {
        key[len(_PAX_XATTR) :].replace("%3D", "=").replace("%25", "%"): raw(value)
        for key, value in info.pax_headers.items()
        if key.startswith(_PAX_XATTR)
    }


# From the disk ------------------------------------------------------------------------------------------------------


def of_walk(walk: Walk, representatives: Collection[bytes] = (), *, in_use: bool = False) -> Iterator[Row]:
    """The rows of everything that a walk comes across; every file is read and hashed.

    Args:
        walk: the look at it.
        representatives: see :func:`recovery.sources.trees.walk.in_order`.
        in_use: pass over what vanishes meanwhile, or becomes something else.
    """
    progress = EntriesProgress(f"reading {walk.root}")
    for found, target, _ in in_order(walk, representatives):
        try:
            facts: Facts = {"type": "hardlink", "target": text(target.path)} if target else of_found(walk.at(found.path), found)
        except OSError as error:
            if not in_use or error.errno not in _GONE:
                raise
            continue
        progress.entry(text(found.path), stored(facts))
        yield "entry", text(found.path), facts


def of_found(path: bytes, found: Found) -> Facts:
    """The facts of an entry on disk; a file is read and hashed.

    Args:
        path: leads to it, and holds while it is read.
        found: the entry.

    Raises:
        OSError: if it vanished or can't be read.
    """
    status = found.status
    facts: Facts = {"type": found.kind, "uid": status.st_uid, "gid": status.st_gid, "mtime": status.st_mtime_ns}
    if xattrs := in_hex(read_xattrs(path)):
        facts["xattrs"] = xattrs
    if found.kind == "link":
        return facts | {"target": text(os.readlink(path))}
    facts["mode"] = _mode(status.st_mode)
    if found.kind == "file":
        facts |= _of_file(path, status.st_size)
        facts |= {"stored": found.stored} if found.stored < facts["size"] else {}
    return facts


def of_live(reach: Reach, path: bytes) -> Facts:
    """The facts of one entry, as it is now.

    Raises:
        OSError: if it is not there or can't be read.
    """
    place = reach.at(path)
    return of_found(place, Found(path, os.lstat(place)))


def _of_file(path: bytes, size: int) -> Facts:
    with _open(path) as data:
        digest, _ = of_content(data, size + 1, partial(pass_hole, data))  # one that grows is not followed without end
        return digest | {"size": os.fstat(data.fileno()).st_size}


def _open(path: bytes) -> io.FileIO:
    """Open a file, and no link that somebody put in its place; nothing is waited for that is a pipe by now."""
    return open(open_file(path), "rb", buffering=0)


def read_file(path: bytes, limit: int) -> bytes:
    """The first bytes of a file itself.

    Raises:
        OSError: if it vanished, or can't be read.
    """
    with _open(path) as data:
        return data.read(limit)


def in_hex(xattrs: Mapping[str, bytes]) -> dict[str, str]:
    """Extended attributes as facts have them."""
    return {name: value.hex() for name, value in sorted(xattrs.items()) if name not in OF_THE_HOST}


def _mode(mode: int) -> str:
    return f"{mode & 0o7777:04o}"


# Digests and comparing ----------------------------------------------------------------------------------------------


COUNTS = ("files", "folders", "links", "fifos", "hardlinks", "bytes", "stored")
"""What :class:`Totals` counts, without the digests: a scan can tell as much before anything is read."""


class Totals:
    """What a tree amounts to: counts, bytes, and two digests, so that damage and a changed owner are told apart."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(COUNTS, 0)
        self._content = RecordDigest()
        self._metadata = RecordDigest()

    def add(self, path: str, facts: Facts) -> None:
        """Count an entry."""
        self._counts[facts["type"] + "s"] += 1
        self._counts["bytes"] += facts.get("size", 0)
        self._counts["stored"] += stored(facts)
        self._content.add([_record(path, facts, _CONTENT)])
        self._metadata.add([_record(path, facts, _METADATA)])

    def facts(self) -> Facts:
        """Of the row ``("tree", name, facts)``."""
        return self._counts | {"content": self._content.hexdigest(), "metadata": self._metadata.hexdigest()}


def stored(facts: Facts) -> int:
    """Bytes that an entry's data take on disk, holes left out."""
    size: int = facts.get("size", 0)
    return int(facts.get("stored", size))


def _record(path: str, facts: Facts, names: Iterable[str]) -> bytes:
    values: list[Any] = [path, *map(facts.get, names)]
    return _encode(values).encode()


def fingerprint(path: str, facts: Facts, names: Iterable[str] = (*_CONTENT, *_METADATA)) -> int:
    """64 bits that stand for a path and its facts: a million of them fit where a million rows would not."""
    return xxhash.xxh3_64_intdigest(_record(path, facts, names))


@dataclass(frozen=True)
class Abilities:
    """What this worker can give to an entry below a folder; the rest can't come back, so it is not compared."""

    owners: bool
    """Any owner and group, and the set-user-id and set-group-id bits that depend on them."""
    xattrs: frozenset[str]
    """Namespaces of extended attributes, such as ``user``."""

    def comparable(self, row: Row) -> Row:
        """A row with only what this worker can set."""
        kind, path, facts = row
        facts = {name: value for name, value in facts.items() if name != "stored"}
        if xattrs := self.settable(facts.pop("xattrs", {})):
            facts["xattrs"] = xattrs
        if not self.owners:
            facts = {name: value for name, value in facts.items() if name not in {"uid", "gid"}}
            if "mode" in facts:
                facts["mode"] = _mode(int(facts["mode"], 8) & 0o1777)
        return kind, path, facts

    def settable(self, xattrs: dict[str, str]) -> dict[str, str]:
        """Those of an entry's extended attributes that this worker can set."""
        return {name: value for name, value in xattrs.items() if name.partition(".")[0] in self.xattrs}


def differences(expected: Callable[[], Iterable[Row]], found: Iterable[Row]) -> list[Difference]:
    """Every entry that is not equal on both sides, by streaming: only what differs is held in memory.

    Args:
        expected: gives the rows of one side, as often as it is called.
        found: the rows of the other side.
    """
    wanted = {fingerprint(path, facts) for _, path, facts in expected()}
    odd: list[Row] = []
    for kind, path, facts in found:
        seen = fingerprint(path, facts)
        if seen in wanted:
            wanted.discard(seen)
        else:
            odd.append((kind, path, facts))
    if not (odd or wanted):
        return []
    every = [
        Difference(one.kind, readable(one.name), readable(one.what))
        for one in compare((row for row in expected() if fingerprint(row[1], row[2]) in wanted), odd)
    ]
    more = [Difference("tree", "all", f"{len(every) - _SHOWN} more differences")] if len(every) > _SHOWN else []
    return every[:_SHOWN] + more
