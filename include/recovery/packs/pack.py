"""The stream: tar > zstd > age > SHA-256 in one pass with flat memory, and back.

An artifact becomes *packs*: each a whole ``tar.zst.age`` of whole members, filled to about the plan's pack size; a
bigger member has a pack of its own. Stock ``age``, ``zstd`` and ``tar`` open them.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tarfile import TarInfo
from typing import IO, Any, Protocol, Self

import pyrage
import zstandard
from pydantic import BaseModel, ConfigDict

from recovery.common.errors import ArtifactError, SourceError
from recovery.common.held_folder import Reach
from recovery.common.paths import readable
from recovery.common.progress import Progress
from recovery.packs import decrypt_worker, tar_reader
from recovery.packs.artifact import Artifact, Member
from recovery.packs.decrypt_worker import CHUNK, IDENTITIES, UNREADABLE, Count
from recovery.packs.tar_reader import damaged
from recovery.packs.tar_writer import Disturbance, Folders, TarWriter
from recovery.runners.base import failed
from recovery.runners.local import LOCAL, LocalTool

_F_SETPIPE_SZ = 1031
_SMALL = 64 << 10
"""Bytes that headers and small files are read ahead by; what is larger is read without a copy in between."""
_MEMBERS = 100_000


class Pack(BaseModel):
    """One stored file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    """File name, without folder."""
    raw_bytes: int
    """Length of the tar stream."""
    stored_bytes: int
    """Length of the stored file."""
    sha256: str


class Identity(Protocol):
    """An age identity, as pyrage has it."""


def safe_name(name: str) -> str:
    """A name as a file name: letters, digits, ``_``, ``-`` and inner dots stay, every other byte becomes ``%XX``."""
    text = re.sub(rb"[^A-Za-z0-9_.-]", lambda match: b"%%%02X" % match[0][0], name.encode("utf-8", "surrogateescape")).decode()
    return "%2E" + text[1:] if text.startswith(".") else text


def seal(
    artifact: Artifact,
    listing: Iterable[Member],
    out: Path,
    *,
    reach: Reach,
    recipients: Sequence[str],
    pack_size: int,
    level: int,
    packed: Callable[[int, Member], None] = lambda number, member: None,
) -> tuple[list[Pack], list[tuple[bytes, Disturbance]]]:
    """Pack an artifact's members into ``<out>/<artifact>.NNN.tar.zst.age``.

    Args:
        artifact: what is packed.
        listing: its members.
        out: folder for the packs.
        reach: what the members lie in.
        recipients: age public keys.
        pack_size: bytes of tar stream after which the next pack begins.
        level: zstd level.
        packed: told of each member and the number of its pack.

    Returns:
        The packs in order, and the members of a live artifact that changed or vanished while they were read.

    Raises:
        SourceError: if a member can't be read, or was exchanged while it was.
        OSError: if the packs can't be written.
    """
    keys = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
    packs: list[Pack] = []
    changes: list[tuple[bytes, Disturbance]] = []
    folders: Folders = {}
    progress = Progress(f"packing {artifact.name}", artifact.bytes)
    for number, group in enumerate(_fill(listing, pack_size)):
        path = out / f"{safe_name(artifact.name)}.{number:03d}.tar.zst.age"
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            stored = _Hashing(file)
            with _encrypting(stored, keys) as sink, _Compressing(sink, level, progress.add) as stream:
                changes += _write_members(artifact, TarWriter(reach, stream.write, folders), group)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        packs.append(Pack(file=path.name, raw_bytes=stream.raw_bytes, stored_bytes=stored.bytes, sha256=stored.sha256.hexdigest()))
        for member in group:
            packed(number, member)
    return packs, changes


def _fill(members: Iterable[Member], pack_size: int) -> Iterator[list[Member]]:
    pack: list[Member] = []
    size = 0
    for member in members:
        cost = 2048 + member.size
        linked = pack and member.group is not None and member.group == pack[-1].group
        if pack and (size + cost > pack_size or len(pack) >= _MEMBERS) and not linked:
            yield pack
            pack, size = [], 0
        pack.append(member)
        size += cost
    if pack:
        yield pack


def _write_members(artifact: Artifact, writer: TarWriter, group: Iterable[Member]) -> Iterator[tuple[bytes, Disturbance]]:
    for member in group:
        try:
            change = writer.add(member.path)
        except BrokenPipeError:  # what is behind the pipe says why
            raise
        except OSError as error:
            raise _not_packed(artifact, member, f"can't be read: {error.strerror}") from error
        if change and not artifact.live:
            raise _not_packed(artifact, member, f"{change} while it was packed")
        if change:
            yield member.path, change
    writer.close()


def _not_packed(artifact: Artifact, member: Member, why: str) -> SourceError:
    return SourceError(
        f"{artifact.name} could not be packed: {readable(member.path)} {why}.",
        "Make it readable for the worker, or exclude it in the plan.",
    )


class _Compressing:
    """A file that compresses what is written to it, piece by piece of about a megabyte; zstd's threads need no smaller ones."""

    def __init__(self, sink: IO[bytes], level: int, seen: Callable[[int], None]) -> None:
        self._sink = sink
        self._seen = seen
        self._compressor = zstandard.ZstdCompressor(level=level, threads=os.cpu_count() or 1, write_checksum=True).compressobj()
        self._small = bytearray()
        self.raw_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._flush()
            self._sink.write(self._compressor.flush())

    def write(self, data: bytes) -> None:
        self._small += data
        if len(self._small) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        self._sink.write(self._compressor.compress(self._small))
        self.raw_bytes += len(self._small)
        self._seen(len(self._small))
        self._small = bytearray()


def _widen(pipe: IO[bytes]) -> None:
    """Fewer, larger pieces; where the system allows no larger pipe, it goes on with the small one."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe.fileno(), _F_SETPIPE_SZ, CHUNK)


class _Hashing(Count):
    """A file that is written to, and the count and SHA-256 of what went through."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def write(self, data: bytes) -> int:
        self.add(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def _encrypting(out: _Hashing, recipients: Sequence[Any]) -> Iterator[IO[bytes]]:
    """A file to write plain bytes to; ``out`` gets them encrypted, by a thread of its own."""
    read_end, write_end = os.pipe()

    def encrypt() -> None:
        with os.fdopen(read_end, "rb", buffering=CHUNK) as plain:
            pyrage.encrypt_io(plain, out, recipients)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(encrypt)
        try:
            with os.fdopen(write_end, "wb", buffering=0) as sink:
                yield _Whole(sink)  # type: ignore[misc]
        except BrokenPipeError:
            running.result()
            raise
        running.result()


class _Whole:
    """Writes all of what it is given to a pipe, which may take less at once."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._raw.write(view) :]


class PackReader:
    """The tar stream of a pack, decrypted and decompressed by a process of its own; use :func:`open_pack`."""

    def __init__(self, pack: Pack, unsealing: LocalTool, words: list[str]) -> None:
        self._pack = pack
        self._unsealing = unsealing
        self._words = words
        _widen(unsealing.stdout)
        self._stream = io.BufferedReader(unsealing.stdout.raw, _SMALL)  # type: ignore[attr-defined]

    def read(self, size: int, /) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end.

        Raises:
            ArtifactError: if the pack can't be read.
            ToolError: if the process that reads it was killed.
        """
        data = self._stream.read(size)
        if len(data) < size:
            self._refuse_failure()
        return data

    def _refuse_failure(self) -> None:
        status = self._unsealing.wait()
        if status == UNREADABLE:
            raise _why(self._pack, **json.loads(self._words[-1]))
        if status:
            raise failed(self._unsealing, "unsealing", status)

    def finish(self) -> None:
        """Make sure that all of it was read, and that it was the pack of the record.

        Raises:
            ArtifactError: if it is another.
        """
        if self.read(1):
            raise damaged(f"{self._pack.file} holds more than was read")
        found = json.loads(self._words[-1])
        recorded = self._pack.model_dump(exclude={"file"})
        if found != recorded:
            what = "; ".join(f"{fact} is {found[fact]}, recorded {recorded[fact]}" for fact in recorded if found[fact] != recorded[fact])
            raise damaged(f"{self._pack.file} is not what its record says: {what}")


@contextmanager
def open_pack(source: IO[bytes], pack: Pack, identities: Sequence[Identity]) -> Iterator[PackReader]:
    """Read a pack's tar stream for the length of a block, which must read it to its end.

    Args:
        source: the pack, a file.
        pack: its record.
        identities: one of them must open it.

    Raises:
        ArtifactError: if the pack is damaged, is not the one of the record, or no identity opens it.
        ToolError: if the process that reads it could not be started, or was killed.
    """
    words: list[str] = []
    argv = [sys.executable, "-I", decrypt_worker.__file__]
    environment = {IDENTITIES: " ".join(map(str, identities))}
    with LOCAL.tool(argv, env=environment, stdin=source, output=True, may_fail=True, on_line=words.append) as unsealing:
        reader = PackReader(pack, unsealing, words)
        yield reader
        reader.finish()


def _why(pack: Pack, error: str, words: str) -> ArtifactError:
    if error == "DecryptError" and "key" in words.lower():
        return ArtifactError(
            f"The identity does not open {pack.file}: it was not encrypted to it.",
            "Put the identity of one of the set's recipients into the Connection that the plan names under encryption.",
        )
    return damaged(f"{pack.file} can't be read ({error}: {words})")


def read_members(reader: tar_reader.Source) -> Iterator[tuple[TarInfo, IO[bytes] | None]]:
    """Members of a pack's stream with their data, in order; see :func:`recovery.packs.tar_reader.members`."""
    for member in tar_reader.members(reader):
        yield member.info, member.open()
