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
from typing import IO, Any, Protocol

import pyrage
import zstandard
from pydantic import BaseModel, ConfigDict

from recovery.common.errors import ArtifactError, SourceError
from recovery.common.progress import Progress
from recovery.packs import decrypt_worker, tar_reader
from recovery.packs.artifact import Artifact, Member
from recovery.packs.decrypt_worker import CHUNK, IDENTITIES, UNREADABLE, Count
from recovery.packs.tar_reader import damaged
from recovery.runners.local import LOCAL, LocalTool, failed

_F_SETPIPE_SZ = 1031
_SMALL = 64 << 10
"""Bytes that headers and small files are read ahead by; what is larger is read without a copy in between."""
_MEMBERS = 100_000
_TOLERATED = re.compile(
    r": (file changed as we read it|File removed before we read it|File shrank by \d+ bytes?; padding with zeros"
    r"|(Warning: )?Cannot (stat|open): (No such file or directory|Not a directory))$"
    r"|^Exiting with failure status due to previous errors$"
)
_PREFIX = re.compile(r"^\S*tar: ")


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
    recipients: Sequence[str],
    pack_size: int,
    level: int,
    packed: Callable[[int, Member], None] = lambda number, member: None,
) -> tuple[list[Pack], list[str]]:
    """Pack an artifact's members into ``<out>/<artifact>.NNN.tar.zst.age``.

    Args:
        artifact: what is packed.
        listing: its members.
        out: folder for the packs.
        recipients: age public keys.
        pack_size: bytes of tar stream after which the next pack begins.
        level: zstd level.
        packed: told of each member and the number of its pack.

    Returns:
        The packs in order, and what tar said of a live artifact's members that changed or vanished.

    Raises:
        SourceError: if a member can't be read.
        ToolError: if tar is missing.
        OSError: if the packs can't be written.
    """
    keys = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
    packs: list[Pack] = []
    said: list[str] = []
    names = out / f"{safe_name(artifact.name)}.members"
    progress = Progress(f"packing {artifact.name}", artifact.bytes)
    for number, group in enumerate(_fill(listing, pack_size)):
        names.write_bytes(b"".join(member.path + b"\0" for member in group))
        path = out / f"{safe_name(artifact.name)}.{number:03d}.tar.zst.age"
        packs.append(_seal_pack(artifact, names, path, keys, level, said.append))
        for member in group:
            packed(number, member)
        progress.add(packs[-1].raw_bytes)
    names.unlink(missing_ok=True)
    return packs, said


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


def _seal_pack(
    artifact: Artifact, names: Path, path: Path, recipients: Sequence[Any], level: int, tolerated: Callable[[str], None]
) -> Pack:
    argv = [LOCAL.find_tool("tar"), "--create", "--format=posix", "--pax-option=delete=atime,delete=ctime", "--numeric-owner", "--xattrs"]
    argv += ["--xattrs-include=*", "--blocking-factor=512", "--no-recursion", f"--directory={artifact.root}"]
    argv += ["--sparse", "--ignore-failed-read"] if artifact.live else []
    argv += ["--null", "--verbatim-files-from", f"--files-from={names}", "--file=-"]
    words: list[str] = []
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file, LOCAL.tool(argv, env={"LC_ALL": "C"}, output=True, may_fail=True, on_line=words.append) as tar:
        stored = _Hashing(file)
        raw_bytes = 0
        with _encrypting(stored, recipients) as sink:
            compressor = zstandard.ZstdCompressor(level=level, threads=os.cpu_count() or 1, write_checksum=True).compressobj()
            _widen(tar.stdout)
            while chunk := os.read(tar.stdout.fileno(), CHUNK):
                raw_bytes += len(chunk)
                sink.write(compressor.compress(chunk))
            sink.write(compressor.flush())
        status = tar.wait()
        file.flush()
        os.fsync(file.fileno())
    _judge(artifact, status, words, tolerated)
    partial.rename(path)
    return Pack(file=path.name, raw_bytes=raw_bytes, stored_bytes=stored.bytes, sha256=stored.sha256.hexdigest())


def _widen(pipe: IO[bytes]) -> None:
    """Fewer, larger pieces; where the system allows no larger pipe, it goes on with the small one."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe.fileno(), _F_SETPIPE_SZ, CHUNK)


def _judge(artifact: Artifact, status: int, words: list[str], tolerated: Callable[[str], None]) -> None:
    """Tar's exit status tells too little: a file that shrank is filled with zeros and exits 0. So its words decide."""
    for line in (_PREFIX.sub("", word) for word in words):
        if not (artifact.live and _TOLERATED.search(line)):
            raise SourceError(
                f"{artifact.name} could not be packed; tar said: {line}", "Make it readable for the worker, or exclude it in the plan."
            )
        if not line.startswith("Exiting"):
            tolerated(line)
    if status not in {0, 1, 2} or (status and not words):
        raise SourceError(f"{artifact.name} could not be packed; tar ended with status {status}.", "See the log above; try again.")


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
