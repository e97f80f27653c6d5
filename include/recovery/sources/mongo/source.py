"""MongoDB: replica sets are read at one cluster time, standalone servers by mongodump; restored beside the live data.

One artifact a source, in mongodump's own layout (``<db>/<collection>.bson`` and ``.metadata.json``), so that stock
``mongorestore --dir`` takes it. Users and roles come along: see :mod:`recovery.sources.mongo.accounts`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pymongo

from recovery.common.connections import Endpoint
from recovery.common.errors import RestoreError, VerificationError
from recovery.common.files import empty_folder
from recovery.common.units import human_size
from recovery.common.wording import ROLLS_BACK, shortened
from recovery.packs.artifact import Artifact
from recovery.packs.content_diff import Change, Difference, compare
from recovery.packs.content_index import Row, write_rows
from recovery.plan.kinds.mongo import MongoCommand, MongoQuestion, MongoSettings, MongoTarget
from recovery.plan.location import Location
from recovery.runners.base import Runner
from recovery.sources.base import Access, Dumper, InPlaceRestorer, Queryable, RestoreView
from recovery.sources.model import Dump, Preflight
from recovery.sources.mongo import query
from recovery.sources.mongo.accounts import Accounts, read_accounts, write_accounts
from recovery.sources.mongo.catalog import (
    LEFT_OUT,
    Namespace,
    definitions,
    mark,
    marked_id,
    missing_of,
    named_databases,
    split_name,
    user_databases,
)
from recovery.sources.mongo.client import Client, ClientTools, connect, deployment, identity, server
from recovery.sources.mongo.dump import Taken, apart, check_room, take_fuzzy, take_snapshot
from recovery.sources.mongo.reach import endpoint
from recovery.sources.mongo.renames import Names
from recovery.sources.mongo.restore import proof, timeseries
from recovery.sources.mongo.restore.in_place import drop_and_load, planned_replacement, put_accounts, recorded, replaced_parts
from recovery.sources.mongo.restore.inspect import differences_now, live_within, occupied_locations, rows_with_documents
from recovery.sources.mongo.restore.load import (
    Target,
    create_views,
    drop_marked,
    keep_series,
    lay_out,
    load_stacks,
    stacks,
    staged,
    staged_data,
)
from recovery.sources.mongo.restore.preflight import preflight
from recovery.sources.mongo.restore.selection import Parts, Planned, planned, target_namespaces, unpack
from recovery.sources.mongo.restore.swap import backward, drop_replaced, forward, put_ttls, record, recorded_plan
from recovery.sources.mongo.restore.swap_plan import make_plan
from recovery.sources.mongo.restore.users import existing, load_accounts
from recovery.sources.mongo.snapshot import SnapshotLost

log = logging.getLogger(__name__)

_SNAPSHOTS = 2
_UNPACKED = "unpacked"
_STAGED = "staged"


class Mongo(Dumper, InPlaceRestorer, Queryable):
    """A MongoDB replica set or standalone server."""

    kind = "mongo"

    def __init__(
        self,
        name: str,
        settings: MongoSettings,
        endpoint: Endpoint,
        tools: Sequence[Path],
        there: MongoTarget | None = None,
        *,
        runner: Runner,
    ) -> None:
        super().__init__(name, runner)
        self._settings = settings
        self._endpoint = endpoint
        self._tools = ClientTools(runner, tools)
        self._names = Names.of(there)

    @classmethod
    def of(cls, name: str, settings: MongoSettings, there: MongoTarget | None, access: Access) -> Self:
        """See :meth:`recovery.sources.base.Source.of`."""
        return cls(name, settings, endpoint(there or settings, access), access.tools, there, runner=access.runner)

    # Backup -----------------------------------------------------------------------------------------------------------

    def dump(self, folder: Path, opened: Callable[[], None]) -> Dump:
        """See :meth:`Dumper.dump`. Without the right to read users, the dump has none, and a warning says so.

        A backup of what a disaster left has all of it, whatever the plan excludes: nobody else has it once it is dropped.
        """
        settings = self._settings.model_copy(update={"exclude": ()}) if self.damaged else self._settings
        root = folder / self.name
        tell = _Once(opened)
        with connect(self._endpoint) as client:
            who = server(client)
            check_room(client, settings, folder)
            versions = {"mongodb": who.version_text, "pymongo": pymongo.version}
            taken, lost = self._snapshot(client, settings, root, tell) if who.replica_set else (None, "it is a standalone server")
            if taken is None:
                log.warning("no snapshot: %s; mongodump reads instead", lost)
                empty_folder(root)
                versions["mongodump"] = tool_version("mongodump", self._tools)
                taken = take_fuzzy(client, self._endpoint, settings, self._tools, root, tell, damaged=self.damaged)
            accounts = read_accounts(client, named_databases(self._settings))
        warnings = [*taken.warnings, *self._left_out(taken, root)]
        if lost:
            warnings.append(f"The server gave no snapshot: {lost}.")
        if tell.when and tell.when < taken.point.opened:
            warnings.append("The MongoDB dump had to start again, so files that were scanned meanwhile may be older than it.")
        if accounts is None:
            warnings.append("Users and roles are not in the dump: the backup user may not read them; grant it the role backup.")
        for warning in warnings:
            log.warning("%s", warning)
        accounts = accounts or Accounts()
        write_accounts(accounts, root, whole_server=not named_databases(self._settings))
        write_rows(folder / f"{self.name}.inventory.jsonl", [*self._databases(taken), *apart(taken.inventory), *accounts.rows()])
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        log.info("%s: %s and %r, %s", self.id, human_size(size), accounts, taken.consistency)
        return Dump(
            artifacts=(Artifact(name=self.name, root=str(root), bytes=size),),
            point=taken.point,
            consistency=taken.consistency,
            versions=versions,
            warnings=tuple(warnings),
        )

    def _left_out(self, taken: Taken, root: Path) -> Iterator[str]:
        """Say what is gone; its database's folder stays empty, so that there is something to pack."""
        for name in missing_of(self._settings, {name for kind, name, _ in taken.inventory if kind in {"collection", "view", LEFT_OUT}}):
            (root / name.partition(".")[0]).mkdir(exist_ok=True)
            yield f"{name} is not there, and not in this set."

    def _snapshot(self, client: Client, settings: MongoSettings, root: Path, opened: Callable[[], None]) -> tuple[Taken | None, str]:
        lost = ""
        for attempt in range(_SNAPSHOTS):
            empty_folder(root)
            try:
                return take_snapshot(client, settings, root, opened, damaged=self.damaged), ""
            except SnapshotLost as error:
                lost = str(error)
                log.warning("snapshot %d of %d was lost: %s", attempt + 1, _SNAPSHOTS, lost)
                if not error.again:
                    break
        return None, lost

    def _databases(self, taken: Taken) -> Iterator[Row]:
        names = {name.partition(".")[0] for kind, name, _ in taken.inventory if kind in {"collection", "view"}}
        yield from (("database", name, {"whole": not self._settings.collections}) for name in sorted(names))

    # Restore ----------------------------------------------------------------------------------------------------------

    def fingerprint(self, restore: RestoreView) -> str:
        """See :meth:`InPlaceRestorer.fingerprint` and :func:`recovery.sources.mongo.client.identity`."""
        with self._target() as target:
            return identity(target.client, target.endpoint)

    def preflight(self, restore: RestoreView) -> Preflight:
        """See :meth:`InPlaceRestorer.preflight` and :mod:`recovery.sources.mongo.restore.preflight`."""
        with self._target() as target:
            return preflight(target, restore, self._names, self._settings)

    def stage(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.stage`. Collections, time series and views are made as ``__stage_<id>_<name>``."""
        unpacked, laid_out = empty_folder(restore.folder / _UNPACKED), empty_folder(restore.folder / _STAGED)
        unpack(restore, unpacked)
        namespaces = [(now, self._names.namespace(now)) for now in definitions(unpacked)]
        prefix = mark("stage", restore.id)
        dumps = stacks(laid_out, [(old, replace(new, name=prefix + new.name)) for old, new in namespaces])
        for folder, stack in dumps:
            lay_out(unpacked, stack, folder)
        with self._target() as target:
            drop_marked(target.client, self._planned(restore).databases, prefix)
            load_stacks(target, dumps)
            names = {(new.database, new.name) for _, new in namespaces}
            views = [new for _, new in namespaces if new.type == "view"]
            create_views(target.client, views, lambda database, name: prefix + name if (database, name) in names else name)
        keep_series(dumps)

    def verify_staged(self, restore: RestoreView) -> list[Difference]:
        """See :meth:`InPlaceRestorer.verify_staged`. Nothing that is staged may have a TTL; users and roles are not staged."""
        wanted = self._planned(restore)
        with self._target() as target:
            if restore.in_place:
                parts = recorded(restore).parts
                wanted = wanted.within(parts)
                found = [(now, now.data) for now in live_within(target.client, parts)]
            else:
                at = proof.moment(target.client, restore, wanted.databases)
                found = [(now, staged_data(restore.id, now)) for now in staged(target.client, wanted.databases, restore.id)]
            differences = self._differences(target, wanted, found)
        if not restore.in_place and not differences:
            proof.note(restore, at, [now for now, _ in found])
        return differences

    def _differences(self, target: Target, wanted: Planned, found: Sequence[tuple[Namespace, str]]) -> list[Difference]:
        """Of what is wanted, without any TTL, and what was found."""
        there = list(rows_with_documents(target.client, found, self._settings.jobs))
        expected = [(kind, name, facts | {"ttl": None}) for kind, rows in wanted.definitions() for name, facts in rows.items()]
        return compare(expected, there)

    def swap(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.swap`."""
        wanted = self._planned(restore)
        unpacked = restore.folder / _UNPACKED
        accounts = load_accounts(unpacked)
        with self._target() as target:
            plan = recorded_plan(restore)
            if plan is None:
                live = live_within(target.client, wanted.scope)
                missing = wanted.accounts.keys() - existing(target.client) if wanted.accounts else set()
                there = staged(target.client, wanted.databases, restore.id)
                if proof.has_oplog(target.client):
                    self._refuse_changed(target.client, restore, there)
                plan = make_plan(restore.id, live, target_namespaces(unpacked, self._names), there, missing)
                record(restore, plan)
            forward(target, restore, plan, restore.folder / _STAGED / "plain", wanted.collections, accounts)
            if not proof.held(target.client, restore):
                self._refuse_unproven(target, wanted)

    def _refuse_changed(self, client: Client, restore: RestoreView, there: Sequence[Namespace]) -> None:
        """What goes live is what was proven, hours ago maybe; where that is not known, it is proven again."""
        if proof.holds(client, restore, there):
            log.info("%s: nothing was written to the staged collections since they were verified", self.id)
            return
        log.info("%s: the staged collections are verified again", self.id)
        if differences := self.verify_staged(restore):
            raise VerificationError(
                f"{self.id}: staged collections were changed after they were verified: {shortened(differences, between='; ')}.",
                f"Find out who writes to collections named {mark('stage', restore.id)}... {ROLLS_BACK}",
            )

    def _refuse_unproven(self, target: Target, wanted: Planned) -> None:
        """Verify collections where they are live, since nobody can tell whether they are what was proven."""
        log.info("%s: the restored collections are verified again", self.id)
        wanted = wanted.only_collections()
        found = [(now, now.data) for now in live_within(target.client, Parts(frozenset(), frozenset(wanted.names)))]
        if differences := self._differences(target, wanted, found):
            raise VerificationError(
                f"{self.id}: restored collections are not what was verified: {shortened(differences, between='; ')}.",
                f"Stop what writes to them, under these names or as {mark('stage', '...')}. {ROLLS_BACK}",
            )

    def roll_back(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.roll_back`. The restored collections get their staged names again."""
        plan = recorded_plan(restore)
        if plan is None:
            log.info("%s: nothing was swapped", self.id)
            return
        with self._target() as target:
            backward(target, restore, plan)

    def replace(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.replace`. Whatever is loaded has no TTL before it is finalized."""
        wanted = self._planned(restore)
        unpacked = empty_folder(restore.folder / _UNPACKED)
        with self._target() as target:
            parts = replaced_parts(restore, wanted)
            unpack(restore, unpacked, lambda full: parts.has(self._names.full(full)))
            accounts = load_accounts(unpacked)
            plan = planned_replacement(target.client, restore, wanted)
            drop_and_load(target, restore, unpacked, plan, [(now, self._names.namespace(now)) for now in definitions(unpacked)])
            put_accounts(target, restore.folder / "accounts", plan, wanted, accounts)

    def finalize(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.finalize`. TTLs are put on, and replaced time series kept as ``__before_<id>_<name>``."""
        plan = None if restore.in_place else recorded_plan(restore)
        if plan is None and not restore.in_place:
            raise RestoreError(f"{self.id} was not swapped, so there is nothing to accept.", "Trigger a new restore.")
        with self._target() as target:
            put_ttls(target.client, target_namespaces(restore.folder / _UNPACKED, self._names))
            if plan:
                timeseries.keep(target, restore, plan.series_before)

    def locations(self, restore: RestoreView) -> set[Location]:
        """See :meth:`InPlaceRestorer.locations`: whole databases and single collections, below what the server is recognized by."""
        parts = self._planned(restore).scope
        single = (split_name(full) for full in parts.single)
        with self._target() as target:
            where = deployment(target.client)
        inside: set[Location] = {*((database,) for database in parts.whole), *(name for name in single if name[0] not in parts.whole)}
        return {("mongo", where, *names) for names in inside}

    def own_locations(self) -> set[Location]:
        """See :meth:`InPlaceRestorer.own_locations`: the databases or collections that the plan names, or all databases of the server."""
        single = self._settings.collections
        with self._target() as target:
            where = deployment(target.client)
            if not single:
                return {("mongo", where, database) for database in self._searched(target.client)}
        return {("mongo", where, *split_name(self._names.full(full))) for full in single}

    def occupied_locations(self, restore: RestoreView) -> dict[Location, str]:
        """See :meth:`InPlaceRestorer.occupied_locations`."""
        with self._target() as target:
            where, there = deployment(target.client), occupied_locations(target.client, self._planned(restore).scope)
        return {("mongo", where, now.database, now.name): words for now, words in there}

    def compare(self, restore: RestoreView) -> list[Change]:
        """See :meth:`InPlaceRestorer.compare`."""
        with self._target() as target:
            return differences_now(target.client, self._planned(restore), self._settings.jobs)

    def changed_since_backup(self, restore: RestoreView) -> list[Change]:
        """See :meth:`InPlaceRestorer.changed_since_backup`.

        Collections whose documents expire are left out: the server deletes them while one looks.
        """
        with self._target() as target:
            found = differences_now(target.client, self._planned(restore), self._settings.jobs, expiring=False)
        return [change for change in found if change.what != "equal"]

    def discard(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.discard`."""
        with self._target() as target:
            drop_marked(target.client, self._worked_in(restore), mark("stage", restore.id))

    def replaced_copies(self) -> list[str]:
        """See :meth:`InPlaceRestorer.replaced_copies`."""
        with self._target() as target:
            names = [name for database in self._searched(target.client) for name in target.client[database].list_collection_names()]
        found = {marked for name in names if (marked := marked_id(name))}
        return sorted({restore_id for kind, restore_id in found if kind != "stage"})

    def drop_replaced(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.drop_replaced`."""
        with self._target() as target:
            drop_replaced(target.client, self._worked_in(restore), restore.id)

    def _worked_in(self, restore: RestoreView) -> set[str]:
        """The databases that a restore may have left something in, also under the names that the plan had for them then."""
        plan = recorded_plan(restore)
        return {*self._planned(restore).databases, *(plan.databases if plan else ())}

    def _planned(self, restore: RestoreView) -> Planned:
        return planned(restore, self._names)

    def _searched(self, client: Client) -> Sequence[str]:
        named = named_databases(self._settings)
        return sorted(map(self._names.database, named)) if named else user_databases(client)

    @contextmanager
    def _target(self) -> Iterator[Target]:
        with connect(self._endpoint) as client:
            server(client)
            yield Target(client, self._endpoint, self._tools, self._settings.jobs)

    def execute(self, statement: MongoCommand, timeout: timedelta) -> Iterator[str]:
        """See :meth:`recovery.sources.base.Queryable.execute`."""
        yield query.shown(self._ask(statement.database, statement.command, timeout))

    def answer(self, question: MongoQuestion, timeout: timedelta) -> object:
        """See :meth:`recovery.sources.base.Queryable.answer`."""
        collection = split_name(self._names.full(f"{question.database}.{question.collection}"))[1]
        return query.only_value(self._ask(question.database, query.reading(question, collection), timeout), question)

    def _ask(self, database: str, command: Mapping[str, Any], timeout: timedelta) -> Mapping[str, Any]:
        """Run a command of the plan's owner in a database, by its name in the set."""
        return query.execute(self._endpoint, self._names.database(database), command, timeout)


class _Once:
    """Passes on the first call only: a dump that starts anew does not open twice."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.when: datetime | None = None

    def __call__(self) -> None:
        if self.when is None:
            self._call()
            self.when = datetime.now(UTC)


def tool_version(name: str, tools: ClientTools) -> str:
    """What a tool says its version is."""
    return tools.runner.version(tools.find(name)).rpartition(" ")[2]
