"""The ``postgres`` component: one PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from tarfile import TarInfo
from typing import IO

from recovery.components.base import Component, Dump, Landing, Preflight, Restore
from recovery.components.postgres import archive, in_place, landing, proof, tables, tables_rows
from recovery.components.postgres import ask as postgres_ask
from recovery.components.postgres import dump as postgres_dump
from recovery.components.postgres import preflight as postgres_preflight
from recovery.components.postgres import stage as postgres_stage
from recovery.components.postgres import switch as postgres_switch
from recovery.components.postgres.ask import Answer
from recovery.components.postgres.client import Server
from recovery.components.postgres.dump import SET_ASIDE
from recovery.components.postgres.set import Target, targets
from recovery.components.postgres.tables_rows import Chosen
from recovery.connections import Endpoint
from recovery.contents import Change, Difference, Row, read_rows
from recovery.errors import ArtifactError, RestoreError
from recovery.plan_sources import PostgresSource


class Postgres(Component):
    """Databases and globals of a PostgreSQL server, dumped by its own pg_dump and restored beside the live ones.

    Args:
        name: the source's name in the plan.
        settings: what the plan says of it.
        endpoint: where the server answers, and as whom.
        tools: the plan's folders of client tools.
        renamed: names of databases at this place, by their names in the set, where they are others.
    """

    kind = "postgres"

    def __init__(
        self, name: str, settings: PostgresSource, endpoint: Endpoint, tools: Sequence[Path], renamed: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(name)
        self._settings = settings
        self._renamed = renamed or {}
        self._server = Server(endpoint, tools)

    def dump(self, folder: Path, opened: Callable[[], None]) -> Dump:
        """See :meth:`recovery.components.base.Component.dump`."""
        return postgres_dump.dump(self._server, self._settings, folder, opened, damaged=self.damaged)

    @staticmethod
    def read_pack(artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
        """See :meth:`recovery.components.base.Component.read_pack`."""
        return archive.read_pack(artifact, members)

    def contents(self, artifact: str, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
        """See :meth:`recovery.components.base.Component.contents`."""
        kind, _, facts = next(read_rows(inventory, "snapshot", "server", "schema of"), ("", "", {}))
        if kind == "snapshot":
            return archive.contents(self._server.bin_of(facts["major"]), facts["codec"], inventory, read)
        if kind == "server":
            return archive.text_contents(inventory, read, ("globals.sql", "roles.jsonl"))
        if kind == "schema of":
            return archive.text_contents(inventory, read, ("schema.sql",))
        raise ArtifactError(f"The inventory of {artifact} is empty.", "Run the backup again; the dump was not finished.")

    def identity(self, restore: Restore) -> str:
        """See :meth:`recovery.components.base.Component.identity` and :attr:`postgres_client.Server.identity`."""
        return self._server.identity

    def preflight(self, restore: Restore) -> Preflight:
        """See :meth:`recovery.components.base.Component.preflight`."""
        return postgres_preflight.preflight(self._server, restore, self._renamed, self._settings.databases)

    def stage(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.stage`."""
        if whole := self._whole(restore):
            postgres_stage.stage(self._server, self._settings.jobs, restore, whole)
        if parts := self._parts(restore):
            tables.stage(self._server, self._settings.jobs, restore, parts)

    def prove(self, restore: Restore) -> list[Difference]:
        """See :meth:`recovery.components.base.Component.prove`."""
        whole, parts = self._whole(restore), self._parts(restore)
        if restore.in_place:
            whole = in_place.touched(self._server, restore, whole)
        differences = proof.prove(self._server, self._settings.jobs, restore, whole) if whole else []
        return differences + (tables.prove(self._server, self._settings.jobs, restore, parts) if parts else [])

    def switch(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.switch`."""
        if whole := self._whole(restore):
            postgres_switch.switch(self._server, restore, whole)
        if parts := self._parts(restore):
            tables.switch(self._server, restore, parts)

    def switch_back(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.switch_back`."""
        if parts := self._parts(restore):
            tables.switch_back(self._server, restore, parts)
        if whole := self._whole(restore):
            postgres_switch.switch_back(self._server, restore, whole)

    def settle(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.settle`."""
        postgres_switch.settle(self._server, self._whole(restore))
        tables.settle(self._server, restore, self._parts(restore))

    def discard(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.discard`."""
        if whole := self._whole(restore):
            postgres_switch.discard(self._server, restore, whole)
        if parts := self._parts(restore):
            tables.discard(self._server, restore, parts)

    def lands(self, restore: Restore) -> set[Landing]:
        """See :meth:`recovery.components.base.Component.lands`."""
        return landing.lands(self._server, self._whole(restore)) | tables.lands(self._server, self._parts(restore))

    def owns(self) -> set[Landing]:
        """See :meth:`recovery.components.base.Component.owns`: the databases that the plan names, or all of the server."""
        named = self._settings.databases or [name for name in self._server.databases() if not SET_ASIDE.search(name)]
        return {landing.landing(self._server, self._renamed.get(name, name)) for name in named}

    def occupied(self, restore: Restore) -> dict[Landing, str]:
        """See :meth:`recovery.components.base.Component.occupied`."""
        return landing.occupied(self._server, self._whole(restore)) | tables.occupied(self._server, self._parts(restore))

    def compare(self, restore: Restore) -> list[Change]:
        """See :meth:`recovery.components.base.Component.compare`."""
        jobs = self._settings.jobs
        whole = proof.compare(self._server, jobs, restore, self._whole(restore))
        return proof.together([*whole, *tables.compare(self._server, jobs, self._parts(restore))])

    def unsaved(self, restore: Restore) -> list[Change]:
        """See :meth:`recovery.components.base.Component.unsaved`: the safety set was read from the same objects, by the same code."""
        live = proof.compare(self._server, self._settings.jobs, restore, self._whole(restore), exactly=True)
        return [change for change in live if change.what != "equal"]

    def replace(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.replace`."""
        if self._parts(restore):
            raise RestoreError("Single tables are not restored in place.", "Choose method: switch.")
        in_place.replace(self._server, self._settings.jobs, restore, self._whole(restore))

    def before_copies(self) -> list[str]:
        """See :meth:`recovery.components.base.Component.before_copies`."""
        names = [self._renamed.get(name, name) for name in self._settings.databases]
        return sorted({*postgres_switch.before_copies(self._server, names), *tables.before_copies(self._server, names)})

    def drop_before(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.drop_before`."""
        postgres_switch.drop_before(self._server, restore, self._whole(restore))
        tables.drop_before(self._server, restore, self._parts(restore))

    def _whole(self, restore: Restore) -> list[Target]:
        """The databases that are restored as a whole."""
        return targets(restore, self._renamed)

    def _parts(self, restore: Restore) -> list[Chosen]:
        """The databases of which schemas or tables are restored."""
        return tables_rows.chosen(restore, self._renamed)

    def ask(self, database: str, statement: str, timeout: timedelta, *, read_only: bool = False) -> list[Answer]:
        """Run SQL of the plan's owner in a database, by its name in the set; see :func:`recovery.components.postgres.ask.ask`."""
        return postgres_ask.ask(self._server, self._renamed.get(database, database), statement, timeout, read_only=read_only)
