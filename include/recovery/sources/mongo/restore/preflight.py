"""What a restore of MongoDB would replace, and what would fail later, found out without changing anything."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pymongo.errors import OperationFailure

from recovery.common.errors import ToolError
from recovery.common.units import human_duration, human_size
from recovery.common.wording import counted, shortened
from recovery.plan.kinds.mongo import MongoSettings
from recovery.sources.base import RestoreView
from recovery.sources.model import Finding, Preflight, Space
from recovery.sources.mongo.accounts import reaching, read_accounts
from recovery.sources.mongo.catalog import LEFT_OUT, LONGEST_NAME, Namespace, data_name, mark, read_database, split_name
from recovery.sources.mongo.client import Client, identity, server, unauthorized, words
from recovery.sources.mongo.renames import Names
from recovery.sources.mongo.restore.inspect import estimated, live_within, on_disk
from recovery.sources.mongo.restore.load import Target
from recovery.sources.mongo.restore.selection import Planned, all_rows, chosen, lacking_sources, planned

log = logging.getLogger(__name__)

OLDEST = (5, 1)
"""``collMod`` makes an index a TTL index since MongoDB 5.1."""
_SERIES_RATE = 20 << 20
"""Bytes a second at which a time series is saved, loaded and verified; loading alone was measured at 35 MiB/s on two cores."""
_TELLING = 64 << 20
"""Bytes of documents from which on a database tells how well its documents are compressed."""
_NAMED = 10

_NEEDED = {
    "bypassDocumentValidation", "collMod", "collStats", "createCollection", "createIndex", "dropCollection", "find", "insert",
    "listCollections", "listIndexes",
}  # fmt: skip
_NEEDED_BUCKETS = {"createIndex", "dropCollection", "find", "insert"}
_NEEDED_ACCOUNTS = {"createRole", "createUser", "dropRole", "dropUser", "grantRole", "revokeRole", "viewRole", "viewUser"}


@dataclass(frozen=True)
class _Look:
    """What preflight looks at."""

    target: Target
    restore: RestoreView
    wanted: Planned
    live: Sequence[Namespace]
    """What is there of what would be replaced."""
    sizes: Mapping[str, tuple[int, int]]
    """``(documents, bytes)`` of that, by ``<database>.<name>``; not of views."""

    @property
    def series_bytes(self) -> int:
        """Of time series, those of the set and the live ones."""
        new = sum(int(row["bytes"]) for row in self.wanted.collections.values() if row["type"] == "timeseries")
        return new + sum(self.sizes[now.full][1] for now in self.live if now.type == "timeseries")


def preflight(target: Target, restore: RestoreView, names: Names, settings: MongoSettings) -> Preflight:
    """See :meth:`recovery.sources.base.Restorer.preflight`."""
    client = target.client
    wanted = planned(restore, names)
    live = live_within(client, wanted.scope)
    look = _Look(target, restore, wanted, live, {now.full: estimated(client, now) for now in live if now.type != "view"})
    findings = [
        *_server(client),
        *_replaced(look),
        *_left_out(look, names),
        *_series(look),
        *_views(look),
        *_ttls(wanted),
        *_accounts(look, names),
        *_change_streams(look),
        *_tools(target),
        *_rights(client, wanted),
        *_parts(restore),
        *_names(restore, names),
        *(_unsaved(look, settings) if restore.in_place else _too_long(look)),
    ]
    saved = 0 if restore.in_place else look.series_bytes
    return Preflight(
        fingerprint=identity(client, target.endpoint),
        findings=tuple(findings),
        bytes_needed={str(restore.folder): wanted.bytes + saved},
        second_copy=(replace(_second_copy(look), freed=_freed(look)),),
    )


def _server(client: Client) -> Iterator[Finding]:
    who = server(client)
    yield Finding("fact", f"MongoDB {who.version_text}, {f'replica set {who.replica_set}' if who.replica_set else 'a standalone server'}.")
    if not who.primary:
        yield Finding(
            "refusal",
            "The Connection leads to a member that is not the primary: nothing can be written there. Name the replica set or its primary.",
        )
    if who.version < OLDEST:
        yield Finding(
            "refusal",
            f"MongoDB {who.version_text} is older than {'.'.join(map(str, OLDEST))}: TTL indexes could not be put on again."
            " Restore to a newer server.",
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
        target.tools.find("mongorestore")
    except ToolError as error:
        yield Finding("refusal", f"{error.what} {error.next_step}")


def _parts(restore: RestoreView) -> Iterator[Finding]:
    yield from (Finding("refusal", text) for text in all_rows(restore).missing(restore.only))


def _names(restore: RestoreView, names: Names) -> Iterator[Finding]:
    for fatal, text in names.faults(chosen(restore).names, all_rows(restore).names):
        yield Finding("refusal" if fatal else "warning", text)


def _unsaved(look: _Look, settings: MongoSettings) -> Iterator[Finding]:
    """In place drops only what the safety set has, and that is made of what the plan names today."""
    unsaved = [now.full for now in look.live if not _covered(now, settings)]
    if unsaved:
        yield Finding(
            "refusal",
            "In place would drop what today's plan does not back up, so that no safety set has it:"
            f" {shortened(unsaved, at_most=_NAMED)}. Add it to the plan and back up, or choose method: swap.",
        )


def _covered(now: Namespace, settings: MongoSettings) -> bool:
    if settings.collections:
        return now.full in settings.collections
    return not settings.databases or now.database in settings.databases


def _too_long(look: _Look) -> Iterator[Finding]:
    kinds = {name: str(facts["type"]) for name, facts in look.wanted.collections.items()} | dict.fromkeys(look.wanted.views, "view")
    kinds |= {now.full: now.type for now in look.live if now.type != "view"}
    for full, kind in sorted(kinds.items()):
        database, name = split_name(full)
        longest = mark("stage" if kind == "view" else "replaced", "0" * 8, name)
        if _length(database, data_name(longest, kind)) > LONGEST_NAME:
            yield Finding(
                "refusal",
                f"The name {full} is too long to be staged or set aside beside itself: MongoDB allows {LONGEST_NAME} bytes."
                " Choose method: in place, which renames nothing.",
            )


def _length(database: str, name: str) -> int:
    return len(f"{database}.{name}".encode())


def _replaced(look: _Look) -> Iterator[Finding]:
    wanted = look.wanted
    for database in wanted.databases:
        new = [facts for name, facts in wanted.collections.items() if split_name(name)[0] == database]
        text = _amount([(facts["count"], facts["bytes"]) for facts in new])
        views = sum(split_name(name)[0] == database for name in wanted.views)
        text += f" and {counted(views, 'view')}" if views else ""
        now = [there for there in look.live if there.database == database]
        which = f"The database {database}" if database in wanted.whole else f"What is restored of the database {database}"
        if not now:
            yield Finding("fact", f"{which} is not there; it is made anew, with {text}.")
            continue
        old = [look.sizes[there.full] for there in now if there.type != "view"]
        how = "is dropped, and then replaced" if look.restore.in_place else "is replaced"
        yield Finding("fact", f"{which}, now about {_amount(old)}, {how} by {text}.")
        extra = [there.name for there in now if there.full not in wanted.names]
        if extra:
            fate = "All of it is dropped." if look.restore.in_place else "Collections are set aside, and views are dropped."
            yield Finding("warning", f"{database} has what the set does not have: {shortened(extra, at_most=_NAMED)}. {fate}")


def _left_out(look: _Look, names: Names) -> Iterator[Finding]:
    """What the plan left out of the backup on purpose, and so does not come back."""
    restore = look.restore
    rows = [row for artifact in restore.artifacts() for row in restore.rows(artifact, LEFT_OUT)]
    for _, full, facts in rows:
        if full in restore.only:
            yield Finding("refusal", f"The set does not have {full!r}: the plan's {facts['by']} left it out of the backup.")
    whole = [f"{full} ({facts['by']})" for _, full, facts in rows if names.database(split_name(full)[0]) in look.wanted.whole]
    if whole:
        fate = "dropped, and then in the safety set alone" if restore.in_place else "set aside with what is replaced"
        yield Finding(
            "warning",
            f"The plan left these out of the backup, so they don't come back: {shortened(whole)}. What is live of them is {fate}.",
        )


def _amount(collections: Sequence[tuple[int, int]]) -> str:
    counts, sizes = (sum(each[at] for each in collections) for at in (0, 1))
    return f"{counted(len(collections), 'collection')} with {counted(counts, 'document')} ({human_size(sizes)})"


def _series(look: _Look) -> Iterator[Finding]:
    new = {name for name, facts in look.wanted.collections.items() if facts["type"] == "timeseries"}
    old = {now.full for now in look.live if now.type == "timeseries"}
    if (new or old) and not look.restore.in_place:
        yield Finding(
            "warning",
            "Time series can't be renamed; they are saved, dropped and loaded within the swap, which takes about "
            f"{human_duration(look.series_bytes / _SERIES_RATE)} longer, and a rollback as long again: {shortened(sorted(new | old))}.",
        )


def _views(look: _Look) -> Iterator[Finding]:
    client = look.target.client
    live = {now.full for database in look.wanted.databases for now in read_database(client, database)}
    for view, lacking in lacking_sources(look.wanted, live):
        yield Finding("warning", f"The view {view} will be empty or fail: it reads {', '.join(lacking)}, which will not be there.")


def _ttls(wanted: Planned) -> Iterator[Finding]:
    names = [name for found in (wanted.collections, wanted.indexes) for name, facts in found.items() if facts.get("ttl") is not None]
    if names:
        yield Finding(
            "fact", f"Documents expire only after the restore is accepted, when these TTLs are put on: {shortened(sorted(names))}."
        )


def _accounts(look: _Look, names: Names) -> Iterator[Finding]:
    client, wanted = look.target.client, look.wanted
    if not wanted.accounts:
        if all_rows(look.restore).accounts and (look.restore.only or not names.accounts):
            why = "no database was chosen as a whole that needs some" if names.accounts else "they are not brought to another system"
            yield Finding("fact", f"Users and roles are not restored: {why}.")
        return
    found = read_accounts(client, ())
    if found is None:
        yield Finding("refusal", "The set has users or roles, and this user may not read those of the server; grant it the role backup.")
        return
    live = {(kind, name): facts for kind, name, facts in found.rows()}
    missing = [f"{kind} {name}" for kind, name in wanted.accounts if (kind, name) not in live]
    other = [f"{kind} {name}" for (kind, name), facts in wanted.accounts.items() if live.get((kind, name), facts) != facts]
    if missing:
        yield Finding("fact", f"Made at the swap, because the server lacks them: {shortened(missing)}.")
        yield from _strong(wanted, wanted.accounts.keys() - live.keys())
    if other:
        yield Finding("warning", f"Differ from the set, and stay as they are: {shortened(other)}.")


def _strong(wanted: Planned, missing: Collection[tuple[str, str]]) -> Iterator[Finding]:
    """Who gets rights back that nobody may miss: they may have been taken away on purpose since the backup."""
    inside = wanted.whole - {"admin"}
    beyond = {account: reaching(wanted.accounts, account, inside) for account in sorted(missing)}
    strong = [f"{kind} {name} ({', '.join(rights)})" for (kind, name), rights in beyond.items() if rights]
    if strong:
        yield Finding("warning", f"Of these, some have rights beyond the restored databases: {shortened(strong)}.")


def _freed(look: _Look) -> int:
    return sum(on_disk(look.target.client, now) for now in look.live if now.type != "view") if look.restore.in_place else 0


def _second_copy(look: _Look) -> Space:
    """Staged data lies beside the live data, compressed as that is; on a full disk the live data stands still too."""
    client, wanted = look.target.client, look.wanted
    folder = _data_folder(look.target)
    where = f"the disk of the MongoDB server of {look.target.endpoint.id}"
    try:
        stats = {database: client[database].command("dbStats") for database in wanted.databases}
        there = [found for found in stats.values() if found.get("fsTotalSize")]  # a database that is not there has no disk
        disk = there[0] if there else client.admin.command("dbStats")
    except OperationFailure as error:
        if not unauthorized(error):
            raise
        return Space(where, wanted.bytes, None, folder)
    needed = 0.0
    for name, facts in wanted.collections.items():
        needed += facts["bytes"] * _compression(stats[split_name(name)[0]])
    return Space(where, int(needed), int(disk["fsTotalSize"] - disk["fsUsedSize"]) if disk.get("fsTotalSize") else None, folder)


def _data_folder(target: Target) -> str | None:
    """The server's data folder, if it runs on this machine and the folder can be seen from here: other needs of its disk are known then."""
    if not target.endpoint.on_this_machine:
        return None
    try:
        folder = Path(target.client.admin.command("getCmdLineOpts")["parsed"]["storage"]["dbPath"])
        number = target.client.admin.command("serverStatus")["pid"]
        noted = int((folder / "mongod.lock").read_text())  # the path may be one inside a container, and another folder here
    except (KeyError, OperationFailure, OSError, ValueError) as error:
        log.info("the server's data folder can't be seen from here: %s", error)
        return None
    return str(folder) if noted == number else None


def _compression(stats: Mapping[str, Any]) -> float:
    """What a database needs on disk for a byte of documents, indexes included; 1 for one that is small or not there."""
    documents = float(stats.get("dataSize", 0))
    return min(1.0, (stats["storageSize"] + stats["indexSize"]) / documents) if documents >= _TELLING else 1.0


def _change_streams(look: _Look) -> Iterator[Finding]:
    client, databases = look.target.client, {*look.wanted.databases, "admin"}
    stage = {"$match": {"cursor.originatingCommand.pipeline.0.$changeStream": {"$exists": True}}}
    try:
        open_now = list(client.admin.aggregate([{"$currentOp": {"allUsers": True, "idleCursors": True}}, stage]))
    except OperationFailure as error:
        if not unauthorized(error):
            raise
        yield Finding("fact", "Open change streams were not looked for: the user has no right to inprog.")
        return
    names = sorted({str(operation["ns"]) for operation in open_now if str(operation["ns"]).partition(".")[0] in databases})
    if names:
        fate = "dropped" if look.restore.in_place else "renamed"
        yield Finding(
            "warning", f"Open change streams will see the collections {fate}, and those on one collection end: {', '.join(names)}."
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
