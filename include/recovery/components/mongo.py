"""MongoDB: replica sets are read at one cluster time, standalone servers by mongodump; restored beside the live data.

One artifact a source, in mongodump's own layout (``<db>/<collection>.bson`` and ``.metadata.json``), so that stock
``mongorestore --dir`` takes it. Users and roles come along: see :mod:`recovery.components.mongo_users`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tarfile import TarInfo
from typing import IO

import pymongo
from pymongo.errors import OperationFailure

from recovery.components import mongo_contents
from recovery.components.base import Artifact, Component, Dump, Preflight, Restore
from recovery.components.mongo_catalog import Namespace, data_path, mark, marked_id, named_databases, rows, user_databases
from recovery.components.mongo_client import Client, connect, identity, server, unauthorized
from recovery.components.mongo_dump import Taken, take_fuzzy, take_snapshot
from recovery.components.mongo_load import (
    Target,
    afresh,
    create_views,
    definitions,
    drop_marked,
    lay_out,
    live_digests,
    staged,
    staged_data,
)
from recovery.components.mongo_plan import affected, make_plan
from recovery.components.mongo_preflight import planned, preflight
from recovery.components.mongo_snapshot import SnapshotLost
from recovery.components.mongo_switch import backward, drop_before, existing, forward, record, recorded_plan, settle
from recovery.components.mongo_users import Accounts, load_accounts, read_accounts, write_accounts
from recovery.connections import Endpoint
from recovery.contents import Difference, Row, compare, write_rows
from recovery.errors import RestoreError
from recovery.plan import MongoSource
from recovery.runners.local import find_tool, run
from recovery.staging import check_space
from recovery.units import human_size

log = logging.getLogger(__name__)

_SNAPSHOTS = 2
_UNPACKED = "unpacked"
_STAGED = "staged"


class Mongo(Component):
    """A MongoDB replica set or standalone server."""

    kind = "mongo"

    def __init__(self, name: str, settings: MongoSource, endpoint: Endpoint, tools: Sequence[Path]) -> None:
        super().__init__(name)
        self._settings = settings
        self._endpoint = endpoint
        self._tools = tools

    # Backup -----------------------------------------------------------------------------------------------------------

    def dump(self, folder: Path, opened: Callable[[], None]) -> Dump:
        """See :meth:`Component.dump`. Without the right to read users, the dump has none, and a warning says so."""
        root = folder / self.name
        tell = _Once(opened)
        with connect(self._endpoint) as client:
            who = server(client)
            _check_room(client, self._settings, folder)
            versions = {"mongodb": who.version_text, "pymongo": pymongo.version}
            taken, lost = self._snapshot(client, root, tell) if who.replica_set else (None, "it is a standalone server")
            if taken is None:
                log.warning("no snapshot: %s; mongodump reads instead", lost)
                afresh(root)
                versions["mongodump"] = tool_version("mongodump", self._tools)
                taken = take_fuzzy(client, self._endpoint, self._settings, self._tools, root, tell)
            accounts = read_accounts(client, named_databases(self._settings))
        warnings = list(taken.warnings)
        if lost:
            warnings.append(f"The server gave no snapshot: {lost}.")
        if tell.when and tell.when < taken.point.opened:
            warnings.append("It had to start anew, so scans of files that waited for it may be older than it.")
        if accounts is None:
            warnings.append("Users and roles are not in the dump: the backup user may not read them; grant it the role backup.")
        for warning in warnings:
            log.warning("%s", warning)
        accounts = accounts or Accounts()
        write_accounts(accounts, root, whole_server=not named_databases(self._settings))
        write_rows(folder / f"{self.name}.inventory.jsonl", [*self._databases(taken), *taken.inventory, *accounts.rows()])
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        log.info("%s: %s and %r, %s", self.id, human_size(size), accounts, taken.consistency)
        return Dump(
            artifacts=(Artifact(name=self.name, root=str(root), bytes=size),),
            point=taken.point,
            consistency=taken.consistency,
            versions=versions,
            warnings=tuple(warnings),
        )

    def _snapshot(self, client: Client, root: Path, opened: Callable[[], None]) -> tuple[Taken | None, str]:
        lost = ""
        for attempt in range(_SNAPSHOTS):
            afresh(root)
            try:
                return take_snapshot(client, self._settings, root, opened), ""
            except SnapshotLost as error:
                lost = str(error)
                log.warning("snapshot %d of %d was lost: %s", attempt + 1, _SNAPSHOTS, lost)
                if not error.again:
                    break
        return None, lost

    def _databases(self, taken: Taken) -> Iterator[Row]:
        names = {name.partition(".")[0] for kind, name, _ in taken.inventory if kind in {"collection", "view"}}
        yield from (("database", name, {"whole": not self._settings.collections}) for name in sorted(names))

    @staticmethod
    def read_pack(artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
        """See :meth:`Component.read_pack`."""
        return mongo_contents.read_members(members)

    def contents(self, artifact: str, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
        """See :meth:`Component.contents`."""
        return mongo_contents.contents(inventory, read)

    # Restore ----------------------------------------------------------------------------------------------------------

    def identity(self, restore: Restore) -> str:
        """See :meth:`Component.identity` and :func:`recovery.components.mongo_client.identity`."""
        with self._target() as target:
            return identity(target.client, target.endpoint)

    def preflight(self, restore: Restore) -> Preflight:
        """See :meth:`Component.preflight`; :data:`mongo_preflight.OLDEST` is the oldest server that is restored to."""
        with self._target() as target:
            return preflight(target, restore, _artifact(restore))

    def stage(self, restore: Restore) -> None:
        """See :meth:`Component.stage`. Collections, time series and views are made as ``__stage_<id>_<name>``."""
        artifact = _artifact(restore)
        wanted = planned(restore, artifact)
        unpacked, laid_out = afresh(restore.folder / _UNPACKED), afresh(restore.folder / _STAGED)
        restore.unpack(artifact, unpacked)
        namespaces = definitions(unpacked)
        prefix = mark("stage", restore.id)
        stacks = [
            (laid_out / kind, [now for now in _with_data(namespaces) if now.capped == (kind == "capped")]) for kind in ("plain", "capped")
        ]
        for folder, stack in stacks:
            lay_out(unpacked, stack, folder, lambda name: prefix + name)
        with self._target() as target:
            drop_marked(target.client, wanted.databases, prefix)
            for folder, stack in stacks:
                if stack:
                    log.info("%s: restored %d documents", self.id, target.load(folder, in_order=folder.name == "capped"))
            names = {(namespace.database, namespace.name) for namespace in namespaces}
            views = [namespace for namespace in namespaces if namespace.type == "view"]
            create_views(target.client, views, lambda database, name: prefix + name if (database, name) in names else name)
        for folder, stack in stacks:
            for namespace in stack:
                if namespace.type == "collection":
                    (folder / data_path(namespace.database, prefix + namespace.name, namespace.type)).unlink()

    def prove(self, restore: Restore) -> list[Difference]:
        """See :meth:`Component.prove`. Nothing that is staged may have a TTL; users and roles are not staged."""
        wanted = planned(restore, _artifact(restore))
        expected = [(kind, name, facts | {"ttl": None}) for kind, found in wanted.definitions() for name, facts in found.items()]
        with self._target() as target:
            found = staged(target.client, wanted.databases, restore.id)
            digests = live_digests(
                target.client, [(now.database, staged_data(restore.id, now)) for now in _with_data(found)], self._settings.jobs
            )
        rows_found: list[Row] = []
        for now in found:
            facts = digests.get((now.database, staged_data(restore.id, now)), {})
            rows_found += [(kind, name, row | (facts if kind == "collection" else {})) for kind, name, row in rows(now)]
        return compare(expected, rows_found)

    def switch(self, restore: Restore) -> None:
        """See :meth:`Component.switch`."""
        wanted = planned(restore, _artifact(restore))
        unpacked = restore.folder / _UNPACKED
        accounts = load_accounts(unpacked)
        with self._target() as target:
            plan = recorded_plan(restore)
            if plan is None:
                restored = definitions(unpacked)
                live = affected(target.client, restored, wanted.whole)
                missing = accounts.names() - existing(target.client) if accounts else set()
                plan = make_plan(restore.id, live, restored, staged(target.client, wanted.databases, restore.id), missing)
                record(restore, plan)
            forward(target, restore, plan, restore.folder / _STAGED / "plain", wanted.collections, accounts)

    def switch_back(self, restore: Restore) -> None:
        """See :meth:`Component.switch_back`. The restored collections get their staged names again."""
        plan = recorded_plan(restore)
        if plan is None:
            log.info("%s: nothing was switched", self.id)
            return
        with self._target() as target:
            backward(target, restore, plan)

    def settle(self, restore: Restore) -> None:
        """See :meth:`Component.settle`. TTLs are put on, and replaced time series kept as ``__before_<id>_<name>``."""
        plan = recorded_plan(restore)
        if plan is None:
            raise RestoreError(f"{self.id} was not switched, so there is nothing to accept.", "Start the restore again.")
        with self._target() as target:
            settle(target, restore, plan, definitions(restore.folder / _UNPACKED))

    def discard(self, restore: Restore) -> None:
        """See :meth:`Component.discard`."""
        databases = planned(restore, _artifact(restore)).databases
        with self._target() as target:
            drop_marked(target.client, databases, mark("stage", restore.id))

    def before_copies(self) -> list[str]:
        """See :meth:`Component.before_copies`."""
        with self._target() as target:
            names = [name for database in self._searched(target.client) for name in target.client[database].list_collection_names()]
        found = {marked for name in names if (marked := marked_id(name))}
        return sorted({restore_id for kind, restore_id in found if kind != "stage"})

    def drop_before(self, restore: Restore) -> None:
        """See :meth:`Component.drop_before`."""
        databases = planned(restore, _artifact(restore)).databases
        with self._target() as target:
            drop_before(target.client, databases, restore.id)

    def _searched(self, client: Client) -> Sequence[str]:
        return named_databases(self._settings) or user_databases(client)

    @contextmanager
    def _target(self) -> Iterator[Target]:
        with connect(self._endpoint) as client:
            server(client)
            yield Target(client, self._endpoint, self._tools, self._settings.jobs)


def _check_room(client: Client, settings: MongoSource, folder: Path) -> None:
    """Before anything is written: a dump is about as large as the documents are uncompressed."""
    try:
        size = sum(int(client[name].command("dbStats")["dataSize"]) for name in named_databases(settings) or user_databases(client))
    except OperationFailure as error:
        if not unauthorized(error):
            raise
        log.warning("whether staging has room for the dump can't be told: the user has no right to dbStats")
    else:
        check_space(folder, 0 if settings.collections else size, "the dump")


def _artifact(restore: Restore) -> str:
    (artifact,) = restore.artifacts()
    return artifact


def _with_data(namespaces: Iterable[Namespace]) -> list[Namespace]:
    return [namespace for namespace in namespaces if namespace.type != "view"]


class _Once:
    """Passes on the first call only: a dump that starts anew does not open twice."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.when: datetime | None = None

    def __call__(self) -> None:
        if self.when is None:
            self._call()
            self.when = datetime.now(UTC)


def tool_version(name: str, tools: Sequence[Path]) -> str:
    """What a tool says its version is."""
    first = run([find_tool(name, tools), "--version"]).decode().splitlines()[0]
    return first.rpartition(" ")[2]
