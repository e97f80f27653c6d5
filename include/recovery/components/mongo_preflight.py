"""What a restore of MongoDB would replace, and what would fail later, found out without changing anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo.errors import OperationFailure

from recovery.components.base import Finding, Preflight, Restore
from recovery.components.mongo_catalog import Namespace, data_name, mark, read_database, split_name
from recovery.components.mongo_client import Client, identity, server, unauthorized, words
from recovery.components.mongo_load import Target
from recovery.components.mongo_users import read_accounts
from recovery.contents import Facts
from recovery.errors import ToolError
from recovery.runners.local import find_tool
from recovery.units import human_duration, human_size

OLDEST = (5, 1)
"""``collMod`` makes an index a TTL index since MongoDB 5.1."""
_LONGEST_NAME = 255
"""Bytes of ``<database>.<collection>``."""
_SERIES_RATE = 20 << 20
"""Bytes a second at which a time series is saved, loaded and proven; loading alone was measured at 35 MiB/s on two cores."""
_COMPRESSED = 0.5
"""What the server's compression leaves of documents at most, of those that it compresses well."""
_NAMED = 10

_NEEDED = {
    "bypassDocumentValidation", "collMod", "collStats", "createCollection", "createIndex", "dropCollection", "find", "insert",
    "listCollections", "listIndexes",
}  # fmt: skip
_NEEDED_BUCKETS = {"createIndex", "dropCollection", "find", "insert"}
_NEEDED_ACCOUNTS = {"createRole", "createUser", "dropRole", "dropUser", "grantRole", "revokeRole", "viewRole", "viewUser"}


@dataclass(frozen=True)
class Planned:
    """What a set has, from its rows."""

    collections: Mapping[str, Facts]
    indexes: Mapping[str, Facts]
    views: Mapping[str, Facts]
    accounts: Mapping[tuple[str, str], Facts]
    whole: frozenset[str]
    """Databases that the set holds whole."""

    def definitions(self) -> Iterator[tuple[str, Mapping[str, Facts]]]:
        """Rows that are staged, by kind."""
        yield from (("collection", self.collections), ("index", self.indexes), ("view", self.views))

    @property
    def names(self) -> set[str]:
        """``<database>.<name>`` of every collection, time series and view."""
        return {*self.collections, *self.views}

    @property
    def databases(self) -> list[str]:
        """Every database it has something of."""
        return sorted({name.partition(".")[0] for name in self.names} | self.whole)

    @property
    def bytes(self) -> int:
        """All documents."""
        return sum(int(facts["bytes"]) for facts in self.collections.values())


def planned(restore: Restore, artifact: str) -> Planned:
    """Read a set's rows."""
    kinds: dict[str, dict[str, Facts]] = {kind: {} for kind in ("collection", "index", "view", "user", "role", "database")}
    for kind, name, facts in restore.rows(artifact, *kinds):
        kinds[kind][name] = facts
    return Planned(
        collections=kinds["collection"],
        indexes=kinds["index"],
        views=kinds["view"],
        accounts={(kind, name): facts for kind in ("user", "role") for name, facts in kinds[kind].items()},
        whole=frozenset(name for name, facts in kinds["database"].items() if facts["whole"]),
    )


def preflight(target: Target, restore: Restore, artifact: str) -> Preflight:
    """See :meth:`recovery.components.base.Component.preflight`."""
    client = target.client
    wanted = planned(restore, artifact)
    live = {database: read_database(client, database) for database in wanted.databases}
    sizes = {namespace.full: _stats(client, namespace) for found in live.values() for namespace in found if namespace.type != "view"}
    refusals = [
        *_server(client),
        *_tools(target),
        *_rights(client, wanted),
        *_names(wanted, live),
    ]
    facts = [
        *_replaced(wanted, live, sizes),
        *_series(wanted, live, sizes),
        *_ttls(wanted),
        *_accounts(client, wanted),
        *_room(client, wanted),
        *_change_streams(client, wanted),
    ]
    saved = sum(sizes[namespace.full][1] for found in live.values() for namespace in found if namespace.type == "timeseries")
    saved += sum(int(row["bytes"]) for row in wanted.collections.values() if row["type"] == "timeseries")
    return Preflight(
        identity=identity(client, target.endpoint),
        findings=(*facts, *refusals),
        bytes_needed={str(restore.folder): wanted.bytes + saved},
    )


def _server(client: Client) -> Iterator[Finding]:
    who = server(client)
    yield Finding("fact", f"MongoDB {who.version_text}, {f'replica set {who.replica_set}' if who.replica_set else 'a standalone server'}.")
    if not who.primary:
        yield Finding("refusal", "The Connection leads to a member that is not the primary: nothing can be written there.")
    if who.version < OLDEST:
        yield Finding(
            "refusal", f"MongoDB {who.version_text} is older than {'.'.join(map(str, OLDEST))}: TTL indexes could not be put on again."
        )
    try:
        shard = client.admin["system.version"].find_one({"_id": "shardIdentity"})
    except OperationFailure as error:
        yield Finding("warning", f"Whether the server is a shard could not be asked: {words(error)}.")
    else:
        if shard:
            yield Finding("refusal", "The server is a shard of a sharded cluster, which can't be restored one shard at a time.")


def _tools(target: Target) -> Iterator[Finding]:
    try:
        find_tool("mongorestore", target.tools)
    except ToolError as error:
        yield Finding("refusal", f"{error.what} {error.next_step}")


def _names(wanted: Planned, live: Mapping[str, Sequence[Namespace]]) -> Iterator[Finding]:
    kinds = {name: str(facts["type"]) for name, facts in wanted.collections.items()} | dict.fromkeys(wanted.views, "view")
    kinds |= {namespace.full: namespace.type for found in live.values() for namespace in found if namespace.type != "view"}
    too_long = []
    for full, kind in kinds.items():
        database, name = split_name(full)
        longest = mark("stage" if kind == "view" else "replaced", "0" * 8, name)
        if _length(database, data_name(longest, kind)) > _LONGEST_NAME:
            too_long.append(full)
    for name in sorted(too_long):
        yield Finding(
            "refusal", f"The name {name} is too long to be staged or set aside beside itself: MongoDB allows {_LONGEST_NAME} bytes."
        )


def _length(database: str, name: str) -> int:
    return len(f"{database}.{name}".encode())


def _replaced(wanted: Planned, live: Mapping[str, Sequence[Namespace]], sizes: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    for database in wanted.databases:
        new = {name: facts for name, facts in wanted.collections.items() if split_name(name)[0] == database}
        text = f"{len(new)} collections with {sum(facts['count'] for facts in new.values()):,} documents"
        text += f" ({human_size(sum(facts['bytes'] for facts in new.values()))})"
        now = [namespace for namespace in live[database] if database in wanted.whole or namespace.full in wanted.names]
        if not live[database]:
            yield Finding("fact", f"The database {database} is not there; it is made anew, with {text}.")
            continue
        old = [sizes[namespace.full] for namespace in now if namespace.type != "view"]
        was = f"{len(old)} collections with about {sum(count for count, _ in old):,} documents ({human_size(sum(size for _, size in old))})"
        yield Finding("fact", f"The database {database}, {was}, is replaced by {text}.")
        extra = [namespace.name for namespace in now if namespace.full not in wanted.names]
        if extra:
            more = f" and {len(extra) - _NAMED} more" if len(extra) > _NAMED else ""
            yield Finding(
                "warning",
                f"Of {database} the set does not have, so they are set aside or dropped as views: {', '.join(extra[:_NAMED])}{more}.",
            )


def _series(wanted: Planned, live: Mapping[str, Sequence[Namespace]], sizes: Mapping[str, tuple[int, int]]) -> Iterator[Finding]:
    new = {name: facts["bytes"] for name, facts in wanted.collections.items() if facts["type"] == "timeseries"}
    affected = [now for found in live.values() for now in found if now.database in wanted.whole or now.full in wanted.names]
    old = {now.full: sizes[now.full][1] for now in affected if now.type == "timeseries"}
    if new or old:
        seconds = (sum(new.values()) + sum(old.values())) / _SERIES_RATE
        yield Finding(
            "warning",
            "Time series can't be renamed; they are saved, dropped and loaded within the switch, "
            f"which takes about {human_duration(seconds)} longer, and as long again to take back: {', '.join(sorted({*new, *old}))}.",
        )


def _ttls(wanted: Planned) -> Iterator[Finding]:
    names = [name for found in (wanted.collections, wanted.indexes) for name, facts in found.items() if facts.get("ttl") is not None]
    if names:
        yield Finding(
            "fact", f"Documents expire only after the restore is accepted, when these TTLs are put on: {', '.join(sorted(names))}."
        )


def _accounts(client: Client, wanted: Planned) -> Iterator[Finding]:
    if not wanted.accounts:
        return
    found = read_accounts(client, ())
    if found is None:
        yield Finding("refusal", "The set has users or roles, and this user may not read those of the server; grant it the role backup.")
        return
    live = {(kind, name): facts for kind, name, facts in found.rows()}
    missing = [f"{kind} {name}" for kind, name in wanted.accounts if (kind, name) not in live]
    other = [f"{kind} {name}" for (kind, name), facts in wanted.accounts.items() if live.get((kind, name), facts) != facts]
    if missing:
        yield Finding("fact", f"Made at the switch, because the server lacks them: {', '.join(missing)}.")
    if other:
        yield Finding("warning", f"Other on the server than in the set, and left as they are: {', '.join(other)}.")


def _room(client: Client, wanted: Planned) -> Iterator[Finding]:
    """Staged data lies beside the live data, compressed by the server's own means; on a full disk the live data stands still too."""
    try:
        stats = client[wanted.databases[0]].command("dbStats")
        if not stats.get("fsTotalSize"):  # a database that is not there has no disk
            stats = client.admin.command("dbStats")
    except OperationFailure as error:
        if not unauthorized(error):
            raise
        yield Finding("fact", "How much room the server's disk has was not asked: the user has no right to dbStats.")
        return
    if not stats.get("fsTotalSize"):
        yield Finding("warning", f"The server does not say what its disk has free; the staged copy needs up to {human_size(wanted.bytes)}.")
        return
    free = int(stats["fsTotalSize"] - stats["fsUsedSize"])
    yield Finding(
        "fact" if free > wanted.bytes else "warning" if free > wanted.bytes * _COMPRESSED else "refusal",
        f"The server's disk has {human_size(free)} free; the staged copy is {human_size(wanted.bytes)} before compression.",
    )


def _change_streams(client: Client, wanted: Planned) -> Iterator[Finding]:
    stage = {"$match": {"cursor.originatingCommand.pipeline.0.$changeStream": {"$exists": True}}}
    try:
        open_now = list(client.admin.aggregate([{"$currentOp": {"allUsers": True, "idleCursors": True}}, stage]))
    except OperationFailure as error:
        if not unauthorized(error):
            raise
        yield Finding("fact", "Open change streams were not looked for: the user has no right to inprog.")
        return
    names = sorted(
        {str(operation["ns"]) for operation in open_now if str(operation["ns"]).partition(".")[0] in {*wanted.databases, "admin"}}
    )
    if names:
        yield Finding(
            "warning", f"Open change streams will see the collections renamed, and those on one collection end: {', '.join(names)}."
        )


def _rights(client: Client, wanted: Planned) -> Iterator[Finding]:
    info = client.admin.command("connectionStatus", showPrivileges=True)["authInfo"]
    if not info["authenticatedUsers"]:
        return
    privileges: Sequence[Mapping[str, Any]] = info["authenticatedUserPrivileges"]
    for database in wanted.databases:
        missing = _NEEDED - _actions(privileges, database, "collection")
        if any(facts["type"] == "timeseries" for name, facts in wanted.collections.items() if split_name(name)[0] == database):
            missing |= _NEEDED_BUCKETS - _actions(privileges, database, "system_buckets")
        if missing:
            yield Finding("refusal", f"The user may not {', '.join(sorted(missing))} in {database}; grant it the roles backup and restore.")
    missing = _NEEDED_ACCOUNTS - _actions(privileges, "admin", "collection")
    if wanted.accounts and missing:
        yield Finding(
            "refusal", f"The set has users or roles, and the user may not {', '.join(sorted(missing))}; grant it the role restore."
        )


def _actions(privileges: Sequence[Mapping[str, Any]], database: str, kind: str) -> set[str]:
    """What is permitted on every collection, or every time series' buckets, of a database."""
    found: set[str] = set()
    for privilege in privileges:
        resource = privilege["resource"]
        if resource.get("anyResource") or (resource.get(kind) == "" and resource.get("db", "") in {"", database}):
            found.update(privilege["actions"])
    return found


def _stats(client: Client, namespace: Namespace) -> tuple[int, int]:
    """``(documents, bytes)`` as the server estimates them; buckets of a time series."""
    try:
        stats = client[namespace.database].command("collStats", namespace.data)
    except OperationFailure as error:
        if not unauthorized(error):
            raise
        return 0, 0
    return int(stats.get("count", 0)), int(stats.get("size", 0))
