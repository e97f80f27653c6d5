"""Reading what pg_dump wrote: the table of contents, the COPY texts, the large objects; and what a set keeps of them.

pg_dump's directory format: ``toc.dat``; for every table ``<dump id>.dat``, which is COPY text ended by ``\\.`` and two
empty lines; for every large object ``blob_<oid>.dat``, and ``blobs*.toc`` that lists them. ``toc.dat`` is only ever read
by ``pg_restore``, so that a set which was verified is one that the stock tool reads.
"""

from __future__ import annotations

import base64
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import TarInfo
from typing import IO

import xxhash

from recovery.common.errors import ArtifactError
from recovery.common.wording import shortened
from recovery.packs.content_index import Facts, RecordDigest, Row, read_rows
from recovery.runners.base import Runner
from recovery.sources.postgres.dump.copy_text import LongLine, TableText, blocks_of, lines

_END = [b"\\.", b"", b""]
_ENTRY = re.compile(r"(\d+); (\d+) (\d+) (.*)", re.DOTALL)
"""``<dump id>; <catalog> <number> <what> <schema> <name> <owner>``"""
_DEPENDS = ";\tdepends on:"
_MOST_TOC = 1 << 30
"""Bytes of ``toc.dat``, which is held in memory."""
_RESTRICT = re.compile(rb"^\\restrict (\w+)$", re.MULTILINE)
_ENDINGS = {"globals.sql": b"PostgreSQL database cluster dump complete", "schema.sql": b"PostgreSQL database dump complete"}
_IN_TOC = {
    "table",
    "sequence",
    "view",
    "materialized view",
    "function",
    "procedure",
    "aggregate",
    "trigger",
    "policy",
    "rule",
    "type",
    "enum",
    "domain",
}
"""Kinds of objects that have an entry of their own in the table of contents, under their catalog numbers."""


def damaged(what: str) -> ArtifactError:
    """The error of an artifact that does not hold what pg_dump wrote."""
    return ArtifactError(
        f"A PostgreSQL dump is damaged: {what}.", "Run the backup again; for a stored set, use another copy or another set."
    )


def _read_table(name: str, stream: IO[bytes]) -> Row:
    text = TableText(size=-len(b"\\.\n\n\n"))
    held: list[bytes] = []
    for block in lines(_counted(name, text, blocks_of(stream))):
        if isinstance(block, LongLine):
            text.digest.add(held)
            text.digest.merge(1, block.digest)
            held = []
            continue
        held += block
        last = held[-3:]
        del held[-3:]
        text.digest.add(held)
        held = last
    if held != _END:
        raise damaged(f"{name} does not end where a table's rows end; it is cut off")
    return "member", name, text.facts()


def _counted(name: str, text: TableText, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """COPY text has no NUL; a file that lost its blocks in a power cut is full of them."""
    for block in blocks:
        if b"\0" in block:
            raise damaged(f"{name} holds a NUL byte, which a table's rows never do")
        text.size += len(block)
        yield block


def large_object_record(oid: int, size: int, digest: str) -> bytes:
    """The record of a large object: its number, its size in bytes, the XXH3-128 of its bytes."""
    return f"{oid} {size} {digest}".encode()


def size_record(oid: int, size: int) -> bytes:
    """The record of a large object as a source knows it before it is read: its number and its size in bytes."""
    return b"%d %d" % (oid, size)


@dataclass
class LargeObjects:
    """Digests over large objects: of their content, of their numbers and sizes, and of the numbers that a list has."""

    content: RecordDigest = field(default_factory=RecordDigest)
    present: RecordDigest = field(default_factory=RecordDigest)
    listed: RecordDigest = field(default_factory=RecordDigest)

    def read(self, oid: int, blocks: Iterable[bytes]) -> None:
        """Add one large object's content."""
        size = 0
        content = xxhash.xxh3_128()
        for block in blocks:
            content.update(block)
            size += len(block)
        self.content.add([large_object_record(oid, size, content.hexdigest())])
        self.present.add([size_record(oid, size)])

    def read_list(self, name: str, blocks: Iterable[bytes]) -> None:
        """Add a ``blobs*.toc``: ``<oid> blob_<oid>.dat`` a line."""
        for block in lines(blocks):
            found = [] if isinstance(block, LongLine) else [line.partition(b" ") for line in block]
            if not found or any(not space or file != b"blob_%s.dat" % oid for oid, space, file in found):
                raise damaged(f"{name} has a line that names no large object")
            self.listed.add([oid for oid, _, _ in found])

    def rows(self) -> Iterator[Row]:
        """What a pack held of them; nothing if it held none."""
        if self.present.count or self.listed.count:
            parts = {"content": self.content, "present": self.present, "listed": self.listed}
            yield "large objects", "", {name: [part.count, part.hexdigest()] for name, part in parts.items()}

    def merge(self, facts: Facts) -> None:
        """Add what another pack held."""
        for name, part in (("content", self.content), ("present", self.present), ("listed", self.listed)):
            part.merge(*facts[name])


def read_pack(artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
    """Read a pack of any PostgreSQL artifact; see :meth:`recovery.sources.set_reader.SetReader.read_pack`."""
    large_objects = LargeObjects()
    for info, stream in members:
        name = info.name.removeprefix("./")
        if stream is None:
            raise damaged(f"{artifact} has a member that is no file, {name!r}")
        if re.fullmatch(r"\d+\.dat", name):
            yield _read_table(name, stream)
        elif match := re.fullmatch(r"blob_(\d+)\.dat", name):
            large_objects.read(int(match[1]), blocks_of(stream))
        elif re.fullmatch(r"blobs(_\d+)?\.toc", name):
            large_objects.read_list(name, blocks_of(stream))
        elif name == "toc.dat":
            yield "toc", name, {"zlib": base64.b64encode(zlib.compress(_read_toc(stream))).decode()}
        elif name in _ENDINGS or name == "roles.jsonl":
            yield _read_text(name, stream)
        else:
            raise damaged(f"{artifact} has a member that pg_dump does not write, {name!r}")
    yield from large_objects.rows()


def _read_toc(stream: IO[bytes]) -> bytes:
    found = stream.read(_MOST_TOC + 1)
    if len(found) > _MOST_TOC:
        raise damaged("its table of contents is larger than that of any database")
    return found


def _read_text(name: str, stream: IO[bytes]) -> Row:
    text = TableText()
    last = b""
    for block in lines(blocks_of(stream)):
        text.add(block)
        last = b"" if isinstance(block, LongLine) else (last + b"\n".join(block[-20:]))[-4096:]
    if _ENDINGS.get(name, b"") not in last:
        raise damaged(f"{name} does not end where it should; it is cut off")
    return "member", name, text.facts()


@dataclass(frozen=True)
class Toc:
    """A dump's table of contents."""

    tables: dict[int, str]
    """Data file by the table's number."""
    objects: frozenset[tuple[int, int]]
    """Catalog and number of every object that has an entry."""
    sequences: dict[str, tuple[int, bool]]
    """Last value and whether it was handed out, by name as the catalogs quote it."""


def entries(runner: Runner, bin_folder: Path, folder: Path) -> list[str]:
    """Lines of a dump's table of contents, in the order of a restore, as ``pg_restore --use-list`` takes them.

    Raises:
        ToolError: if pg_restore does not take it for a dump.
    """
    listed = runner.run([bin_folder / "pg_restore", "--list", folder], env={"LC_ALL": "C"}, reads=folder).decode("utf-8", "surrogateescape")
    return [line for line in listed.split("\n") if _ENTRY.match(line)]  # names may have what Python takes for other ends of lines


def dependencies(runner: Runner, bin_folder: Path, folder: Path) -> dict[int, list[int]]:
    """Which entries of a dump's table of contents each one depends on, by their numbers in the dump.

    Raises:
        ToolError: if pg_restore does not take it for a dump.
    """
    argv: list[str | Path] = [bin_folder / "pg_restore", "--list", "--verbose", folder]
    listed = runner.run(argv, env={"LC_ALL": "C"}, reads=folder).decode("utf-8", "surrogateescape")
    found: dict[int, list[int]] = {}
    number = 0
    for line in listed.split("\n"):
        if match := _ENTRY.match(line):
            number = int(match[1])
        elif line.startswith(_DEPENDS):
            found[number] = [int(each) for each in line.removeprefix(_DEPENDS).split()]
    return found


@contextmanager
def use_list(runner: Runner, chosen: Iterable[str]) -> Iterator[str]:
    """The option that makes pg_restore take only some entries, as long as a block runs."""
    with tempfile.NamedTemporaryFile("w", suffix=".list", encoding="utf-8", errors="surrogateescape", dir=runner.scratch) as file:
        file.write("\n".join(chosen) + "\n")
        file.flush()
        yield f"--use-list={file.name}"


def script(runner: Runner, bin_folder: Path, folder: Path, chosen: Iterable[str]) -> bytes:
    """The SQL of some entries, without their owners, in the dump's encoding.

    Raises:
        ToolError: if pg_restore does not take it for a dump.
    """
    with use_list(runner, chosen) as option:
        argv: list[str | Path] = [bin_folder / "pg_restore", "--no-owner", option, "--file=-", folder]
        return unrestricted(runner.run(argv, env={"LC_ALL": "C"}, reads=folder))


def unrestricted(found: bytes) -> bytes:
    """A script without words for psql: they have a key that no name in it can hold."""
    if restricted := _RESTRICT.search(found):
        return re.sub(rb"^\\(?:un)?restrict " + restricted[1] + rb"$", b"", found, flags=re.MULTILINE)
    return found


def read_toc(runner: Runner, bin_folder: Path, folder: Path, codec: str) -> Toc:
    """Read ``toc.dat`` in a folder with pg_restore; names in it are in the database's encoding, ``codec``.

    Raises:
        ToolError: if pg_restore does not take it for a dump.
    """
    tables: dict[int, str] = {}
    objects = set()
    values = []
    for line in entries(runner, bin_folder, folder):
        match = _ENTRY.match(line)
        assert match is not None
        class_oid, oid = int(match[2]), int(match[3])
        if class_oid:
            objects.add((class_oid, oid))
        elif oid and match[4].startswith("TABLE DATA "):
            tables[oid] = f"{match[1]}.dat"
        elif not oid and match[4].startswith("SEQUENCE SET "):
            values.append(line)
    return Toc(tables, frozenset(objects), _sequence_values(runner, bin_folder, folder, values, codec))


def _sequence_values(runner: Runner, bin_folder: Path, folder: Path, chosen: list[str], codec: str) -> dict[str, tuple[int, bool]]:
    if not chosen:
        return {}
    pattern = r"^SELECT pg_catalog\.setval\('((?:[^']|'')*)', (-?\d+), (true|false)\);$"
    found = re.findall(pattern, script(runner, bin_folder, folder, chosen).decode(codec, "surrogateescape"), re.MULTILINE)
    if len(found) != len(chosen):
        raise damaged(f"its table of contents names {len(chosen)} sequences, {len(found)} have a value")
    return {name.replace("''", "'"): (int(value), called == "true") for name, value, called in found}


def uncovered(inventory: Iterable[Row], toc: Toc) -> list[str]:
    """What the source has, by its inventory, and a dump's table of contents has not."""
    missing = []
    for kind, name, facts in inventory:
        at = tuple(facts.get("at", ()))
        configuration = facts.get("extension") is not None
        if _is_dumped(kind, facts) and at[1] not in toc.tables:
            missing.append(f"the rows of table {name}")
        if kind in _IN_TOC and not configuration and at not in toc.objects:
            missing.append(f"{kind} {name}")
        if kind == "sequence" and name not in toc.sequences:
            missing.append(f"the value of sequence {name}")
    return missing


def _is_dumped(kind: str, facts: Facts) -> bool:
    """Whether a dump has the rows of a table; of one whose rows the plan leaves out, the inventory says that it has none."""
    return kind == "table" and facts["data"] and "count" not in facts


def contents(runner: Runner, bin_folder: Path, codec: str, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
    """Rows of a database's artifact; see :meth:`recovery.sources.set_reader.SetReader.contents`.

    Raises:
        ArtifactError: if the inventory has what the artifact has not, or the artifact does not agree with itself.
    """
    found = _Found()
    found.add(read)
    toc = found.toc(runner, bin_folder, codec)
    missing = uncovered(read_rows(inventory), toc)
    missing += [f"the file {file}" for file in toc.tables.values() if file not in found.members]
    if missing:
        raise ArtifactError(
            f"The dump lacks what the source has: {shortened(missing)}.",
            "Look for pg_dump's messages in the log of the dump, then run the backup again.",
        )
    if extra := sorted(found.members.keys() - set(toc.tables.values())):
        raise damaged(f"{shortened(extra)} is in no table of contents")
    for kind, name, facts in read_rows(inventory):
        yield kind, name, _kept(kind, name, facts, toc, found)


@dataclass
class _Found:
    """What all packs of an artifact held."""

    members: dict[str, Facts] = field(default_factory=dict)
    tocs: list[str] = field(default_factory=list)
    large_objects: LargeObjects = field(default_factory=LargeObjects)

    def add(self, rows: Iterable[Row]) -> None:
        for kind, name, facts in rows:
            if kind == "toc":
                self.tocs.append(facts["zlib"])
            elif kind == "large objects":
                self.large_objects.merge(facts)
            elif name in self.members:
                raise damaged(f"{name} is there twice")
            else:
                self.members[name] = facts

    def toc(self, runner: Runner, bin_folder: Path, codec: str) -> Toc:
        if len(self.tocs) != 1:
            raise damaged(f"it has {len(self.tocs)} tables of contents")
        with tempfile.TemporaryDirectory(prefix="recovery-toc-", dir=runner.scratch) as folder:
            (Path(folder) / "toc.dat").write_bytes(zlib.decompress(base64.b64decode(self.tocs[0])))
            return read_toc(runner, bin_folder, Path(folder), codec)


def _kept(kind: str, name: str, facts: Facts, toc: Toc, found: _Found) -> Facts:
    at: list[int] = facts.pop("at", [0, 0])
    if _is_dumped(kind, facts):
        return facts | found.members[toc.tables[at[1]]]
    if kind == "sequence":
        value, called = toc.sequences[name]
        return facts | {"value": value, "called": called}
    if kind == "large objects":
        return facts | _large_object_facts(facts, found.large_objects)
    return facts


def _large_object_facts(facts: Facts, found: LargeObjects) -> Facts:
    for what, part, digest in (("lists", found.listed, facts.pop("numbers")), ("holds", found.present, facts.pop("sizes"))):
        if (part.count, part.hexdigest()) != (facts["count"], digest):
            raise ArtifactError(
                f"The dump {what} {part.count} large objects, the source has {facts['count']}, or others, or of other sizes.",
                "Look for pg_dump's messages in the log of the dump, then run the backup again.",
            )
    return {"digest": found.content.hexdigest()}


def text_contents(inventory: Path, read: Iterable[Row], needed: Iterable[str]) -> Iterator[Row]:
    """Rows of an artifact of SQL texts: the inventory's, and each text's.

    Raises:
        ArtifactError: if a needed text is not there.
    """
    texts = {name: facts for _, name, facts in read}
    for name in needed:
        if name not in texts:
            raise damaged(f"{name} is not in it")
        yield "text", name, texts[name]
    yield from read_rows(inventory)
