"""What a dump of MongoDB holds, read member by member, and whether it covers the inventory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tarfile import TarInfo
from typing import IO

from recovery.common.errors import ArtifactError
from recovery.common.wording import shortened
from recovery.packs.content_index import Facts, Row, read_rows
from recovery.sources.mongo.accounts import account_kind, account_row, decode
from recovery.sources.mongo.catalog import LEFT_OUT, METADATA, Namespace, data_path, from_metadata, rows
from recovery.sources.mongo.raw_bson import DamagedBson, blocks, digest, documents

_PRELUDE = "prelude.json"
"""Versions, which mongodump writes beside its files; nothing that is restored."""
_LARGEST_METADATA = 256 << 20
_NAMED = 10
_ABOUT = frozenset({"database", LEFT_OUT})
"""Kinds of rows that say something about a dump, and that no member has."""


def read_members(members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
    """Rows of members: definitions, accounts, and ``data`` rows of files of documents, named by their paths.

    Raises:
        ArtifactError: if a member is damaged or is none that a dump has.
    """
    for info, stream in members:
        if stream is None:
            if not info.isdir():
                raise _damaged(info.name, "it is neither a file nor a folder")
            continue
        try:
            yield from _read(info, stream)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(info.name, str(error) or type(error).__name__) from error


def _read(info: TarInfo, stream: IO[bytes]) -> Iterator[Row]:
    path = info.name
    kind = account_kind(path)
    if path.endswith(METADATA):
        yield from _definition(path, stream.read(_LARGEST_METADATA))
    elif path.rpartition("/")[2] == _PRELUDE:
        json.loads(stream.read(_LARGEST_METADATA))
    elif not path.endswith(".bson"):
        raise ValueError("it is not a file of a dump")
    elif kind in {"user", "role"}:
        yield from (account_row(kind or "", document) for found in documents(blocks(stream)) for document in decode(found))
    else:
        facts = digest(blocks(stream))
        if facts["bytes"] != info.size:
            raise DamagedBson(f"it has {facts['bytes']} of {info.size} bytes")
        if kind is None:
            yield "data", path, facts


def _definition(path: str, text: bytes) -> Iterator[Row]:
    database, _, file = path.partition("/")
    namespace = from_metadata(database, file.removesuffix(METADATA), text)
    for kind, name, facts in rows(namespace):
        yield (kind, name, facts | {"path": _path(namespace)}) if kind == "collection" else (kind, name, facts)


def _path(namespace: Namespace) -> str:
    return data_path(namespace.database, namespace.name, namespace.type)


def contents(inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
    """Definitions with counts and digests, once every row of the inventory is found among them.

    Raises:
        ArtifactError: if the dump lacks what the inventory has, or what its own definitions speak of.
    """
    data: dict[str, Facts] = {}
    found: dict[tuple[str, str], Facts] = {}
    for kind, name, facts in read:
        if kind == "data":
            data[name] = facts
        else:
            found[kind, name] = facts
    lacking = list(_join(found, data))
    wanted = list(read_rows(inventory))
    lacking += [word for row in wanted if row[0] not in _ABOUT for word in _uncovered(row, found)]
    if lacking:
        raise ArtifactError(
            f"The dump lacks what its source has: {shortened(lacking, at_most=_NAMED, between='; ')}.",
            "Run the backup again; if it happens again, check the rights of the backup user.",
        )
    yield from (row for row in wanted if row[0] in _ABOUT)
    yield from ((kind, name, facts) for (kind, name), facts in sorted(found.items()))


def _join(found: dict[tuple[str, str], Facts], data: dict[str, Facts]) -> Iterator[str]:
    """Give each collection's row the facts of its documents; what has none, or belongs to none, is named."""
    for (kind, name), facts in found.items():
        if kind == "collection":
            path = facts.pop("path")
            if path in data:
                facts |= data.pop(path)
            else:
                yield f"the documents of {name}"
    yield from (f"the definition of {path}" for path in data)


def _uncovered(row: Row, found: dict[tuple[str, str], Facts]) -> Iterator[str]:
    kind, name, facts = row
    there = found.get((kind, name))
    if there is None:
        yield f"{kind} {name}"
        return
    for fact, value in facts.items():
        if there.get(fact) != value:
            yield f"{fact} of {kind} {name} ({there.get(fact)} instead of {value})"


def _damaged(name: str, why: str) -> ArtifactError:
    return ArtifactError(f"{name} in the dump is damaged: {why}.", "Restore another set; run the backup again, and check disk and memory.")
