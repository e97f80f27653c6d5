"""What a MongoDB server says it has: databases, collections, indexes and views, as facts, rows and metadata files.

The same facts can be asked of a server and read from a dump, so that both sides are compared as equals.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote_plus, unquote_plus

from bson import Binary
from bson.json_util import RELAXED_JSON_OPTIONS, dumps
from pymongo.errors import OperationFailure

from recovery.common.errors import SourceError
from recovery.packs.content_index import Facts, Row
from recovery.plan.kinds.mongo import MongoSettings
from recovery.sources.mongo.client import NAMESPACE_NOT_FOUND, Client, listed
from recovery.sources.mongo.extended_json import read_document, write_document

Kind = Literal["collection", "timeseries", "view"]

LEFT_OUT = "left out"
"""Kind of the rows that say what the plan left out of a backup on purpose."""
METADATA = ".metadata.json"
BUCKETS = "system.buckets."
"""What a time series keeps its documents under."""
_MARK = re.compile(r"__(stage|before|replaced)_([0-9a-f]{8})_(.*)", re.DOTALL)
_NEVER = ("config", "local")
LONGEST_NAME = 255
"""Bytes of ``<database>.<collection>``."""
_LONGEST_FILE_STEM = 238


@dataclass(frozen=True)
class Namespace:
    """A collection, time series or view, as the server describes it."""

    database: str
    name: str
    type: Kind
    options: Mapping[str, Any]
    indexes: tuple[Mapping[str, Any], ...] = ()
    uuid: str = ""
    """Of the collection that has the data, so a time series' buckets; empty for a view. A rename keeps it."""

    @property
    def full(self) -> str:
        """``<database>.<name>``."""
        return f"{self.database}.{self.name}"

    @property
    def data(self) -> str:
        """The collection that has the documents; not of a view."""
        return data_name(self.name, self.type)

    @property
    def capped(self) -> bool:
        """Whether it is capped; a snapshot can't read it."""
        return bool(self.options.get("capped"))

    @property
    def temporary(self) -> bool:
        """Whether it is of an ``$out`` that runs: the server drops it when it starts, and lets nobody make one."""
        return bool(self.options.get("temp"))

    @property
    def expires(self) -> bool:
        """Whether the server deletes its documents by their age."""
        return any("expireAfterSeconds" in document for document in (self.options, *self.indexes))


def data_name(name: str, kind: str) -> str:
    """The collection that has the documents of a collection or time series."""
    return BUCKETS + name if kind == "timeseries" else name


def split_name(full: str) -> tuple[str, str]:
    """``(database, name)`` of a full name; a database's name has no dot."""
    database, _, name = full.partition(".")
    return database, name


def mark(kind: Literal["stage", "before", "replaced"], restore_id: str, name: str = "") -> str:
    """The name of a staged or set-aside collection; without ``name``, what all of that restore begin with."""
    return f"__{kind}_{restore_id}_{name}"


def marked_id(name: str) -> tuple[str, str] | None:
    """``(kind, restore id)`` of a staged or set-aside collection's name."""
    match = _MARK.fullmatch(name)
    return (match[1], match[2]) if match else None


def user_databases(client: Client) -> list[str]:
    """Every database that may be a source."""
    listed = client.admin.command("listDatabases", nameOnly=True, authorizedDatabases=False)["databases"]
    return sorted(entry["name"] for entry in listed if entry["name"] not in _NEVER)


def read_database(client: Client, database: str, *, marked: bool = False) -> list[Namespace]:
    """Every collection, time series and view of a database that is its users', in the order of names.

    Left out: ``system.*`` but ``system.js``, what the server keeps for a moment only, and what restores staged or set aside
    (with ``marked``, only those).
    """
    found = {entry["name"]: entry for entry in listed(client, database, "listCollections")}
    wanted = [entry for name, entry in sorted(found.items()) if _is_users(database, name) and (marked_id(name) is not None) == marked]
    return [namespace for entry in wanted if not (namespace := _namespace(client, database, entry, found)).temporary]


def _namespace(client: Client, database: str, entry: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> Namespace:
    kind = cast(Kind, entry["type"])
    indexes: Iterable[Mapping[str, Any]] = ()
    uuid = ""
    if kind != "view":
        uuid = bytes(found.get(data_name(entry["name"], kind), entry)["info"].get("uuid", b"")).hex()
        indexes = _indexes(client, database, entry["name"])
    return Namespace(database, entry["name"], kind, entry["options"], tuple(indexes), uuid)


def _indexes(client: Client, database: str, name: str) -> Iterator[Mapping[str, Any]]:
    try:
        yield from listed(client, database, "listIndexes", name)
    except OperationFailure as error:
        if error.code != NAMESPACE_NOT_FOUND:  # dropped since it was listed
            raise


def _is_users(database: str, name: str) -> bool:
    return (name == "system.js" and database != "admin") or not name.startswith("system.")


def read_catalog(client: Client, settings: MongoSettings, *, damaged: bool = False) -> list[Namespace]:
    """What the settings name: databases, collections, or everything; if ``damaged``, what is left of it.

    Raises:
        SourceError: if a database or collection that is named does not exist, or there is nothing at all.
    """
    databases = named_databases(settings) or user_databases(client)
    if own := sorted(set(databases) & set(_NEVER)):
        raise SourceError(f"The plan names {own[0]}, the server's own database.", "Take it out of the plan; the server makes it anew.")
    found = [namespace for database in databases for namespace in read_database(client, database)]
    if settings.collections:
        found = [namespace for namespace in found if namespace.full in settings.collections]
    missing = missing_of(settings, {namespace.full for namespace in found})
    if missing and not damaged:
        raise SourceError(
            f"The server does not have {', '.join(missing)}, which the plan names.", "Correct the plan, or find out who dropped it."
        )
    if not found and not damaged:
        raise SourceError("The server has no collection at all.", "Check that the Connection leads to the right server.")
    return found


def missing_of(settings: MongoSettings, found: Collection[str]) -> list[str]:
    """What the settings name and is not among ``<database>.<name>`` of what was found."""
    if settings.collections:
        return sorted(set(settings.collections) - set(found))
    return sorted(set(settings.databases) - {split_name(full)[0] for full in found})


def named_databases(settings: MongoSettings) -> tuple[str, ...]:
    """The databases that the settings name, directly or by their collections; empty means all."""
    by_collection = {name.partition(".")[0] for name in settings.collections}
    return tuple(sorted({*settings.databases, *by_collection}))


# Rows -----------------------------------------------------------------------------------------------------------------


def rows(namespace: Namespace) -> Iterator[Row]:
    """The rows of a namespace's definition.

    ``ttl`` is a fact of its own, because what is staged has none: the server would delete old documents. Numbers are
    written as values, not as types: 1 and 1.0 mean the same in an index.
    """
    facts: Facts = {"options": _text(namespace.options, "expireAfterSeconds"), "ttl": _ttl(namespace.options)}
    if namespace.type == "view":
        yield "view", namespace.full, {"options": facts["options"]}
        return
    yield "collection", namespace.full, {"type": namespace.type, **facts}
    for index in namespace.indexes:
        definition = _text(index, "expireAfterSeconds", "v", "ns", "background")
        yield "index", f"{namespace.full}[{index['name']}]", {"definition": definition, "ttl": _ttl(index)}


def _ttl(options: Mapping[str, Any]) -> str | None:
    return dumps(_plain(options["expireAfterSeconds"])) if "expireAfterSeconds" in options else None


def _text(document: Mapping[str, Any], *without: str) -> str:
    """Relaxed Extended JSON; the order of the outer keys says nothing, that of the inner ones does."""
    return dumps({key: _plain(document[key]) for key in sorted(document) if key not in without}, json_options=RELAXED_JSON_OPTIONS)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


# Files ----------------------------------------------------------------------------------------------------------------


def file_stem(name: str) -> str:
    """The file name that mongodump gives a collection, without its ending.

    Bytes are escaped as in a URL's query; what would then be too long for a file name is cut and ends with the
    SHA-1 of the name, which the metadata file has in full (mongo-tools, ``mongodump/prepare.go``, ``outputPath``).
    """
    escaped = quote_plus(name)
    if len(escaped) <= _LONGEST_FILE_STEM:
        return escaped
    digest = base64.urlsafe_b64encode(hashlib.sha1(name.encode(), usedforsecurity=False).digest()).decode().rstrip("=")
    return f"{escaped[:208]}%24{digest}"


def data_path(database: str, name: str, kind: str) -> str:
    """Where, below a dump's root, the documents of a collection or time series lie."""
    return f"{database}/{file_stem(data_name(name, kind))}.bson"


def metadata_path(database: str, name: str) -> str:
    """Where, below a dump's root, a namespace's definition lies."""
    return f"{database}/{file_stem(name)}{METADATA}"


def metadata(namespace: Namespace) -> str:
    """A namespace's definition as mongodump writes it: canonical Extended JSON."""
    document: dict[str, Any] = {"options": namespace.options} if namespace.options else {}
    document["indexes"] = list(namespace.indexes)
    if namespace.uuid and namespace.type == "collection":
        document["uuid"] = namespace.uuid
    document |= {"collectionName": namespace.name, "type": namespace.type}
    return write_document(document)


def from_metadata(database: str, stem: str, text: str | bytes) -> Namespace:
    """Read a metadata file back.

    Raises:
        ValueError: if it is none.
    """
    document = read_document(text)
    if not isinstance(document, dict) or not isinstance(document.get("indexes"), list):
        raise ValueError("it has no list of indexes")
    kind = document.get("type") or ("view" if "viewOn" in document.get("options", {}) else "collection")
    if kind not in {"collection", "timeseries", "view"}:
        raise ValueError(f"its type is {kind!r}")
    name = document.get("collectionName") or unquote_plus(stem)
    return Namespace(database, name, cast(Kind, kind), document.get("options") or {}, tuple(document["indexes"]), document.get("uuid", ""))


def definitions(root: Path) -> list[Namespace]:
    """Every namespace that a dump below ``root`` defines."""
    found = sorted(root.glob(f"*/*{METADATA}"))
    return [from_metadata(path.parent.name, path.name.removesuffix(METADATA), path.read_bytes()) for path in found]


def without_ttl(namespace: Namespace) -> Namespace:
    """The same, with nothing that would let the server delete old documents."""

    def bare(document: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in document.items() if key != "expireAfterSeconds"}

    return replace(namespace, options=bare(namespace.options), indexes=tuple(map(bare, namespace.indexes)))


def by_uuid(client: Client, databases: Collection[str]) -> dict[str, tuple[str, str]]:
    """``(database, name)`` of every collection of some databases by its UUID, whatever it is called now."""
    places = {}
    for database in databases:
        for entry in listed(client, database, "listCollections"):
            uuid = entry.get("info", {}).get("uuid")
            if isinstance(uuid, Binary):
                places[bytes(uuid).hex()] = (database, entry["name"])
    return places
