"""The ``postgres`` component: one PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tarfile import TarInfo
from typing import IO

from recovery.components import postgres_archive as archive
from recovery.components import postgres_dump, postgres_preflight, postgres_stage, postgres_switch
from recovery.components.base import Component, Dump, Preflight, Restore
from recovery.components.postgres_client import Server
from recovery.connections import Endpoint
from recovery.contents import Difference, Row, read_rows
from recovery.errors import ArtifactError
from recovery.plan import PostgresSource


class Postgres(Component):
    """Databases and globals of a PostgreSQL server, dumped by its own pg_dump and restored beside the live ones.

    Args:
        name: the source's name in the plan.
        settings: what the plan says of it.
        endpoint: where the server answers, and as whom.
        tools: the plan's folders of client tools.
    """

    kind = "postgres"

    def __init__(self, name: str, settings: PostgresSource, endpoint: Endpoint, tools: Sequence[Path]) -> None:
        super().__init__(name)
        self._settings = settings
        self._server = Server(endpoint, tools)

    def dump(self, folder: Path, opened: Callable[[], None]) -> Dump:
        """See :meth:`recovery.components.base.Component.dump`."""
        return postgres_dump.dump(self._server, self._settings, folder, opened)

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
        return postgres_preflight.preflight(self._server, restore)

    def stage(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.stage`."""
        postgres_stage.stage(self._server, self._settings.jobs, restore)

    def prove(self, restore: Restore) -> list[Difference]:
        """See :meth:`recovery.components.base.Component.prove`."""
        return postgres_stage.prove(self._server, self._settings.jobs, restore)

    def switch(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.switch`."""
        postgres_switch.switch(self._server, restore)

    def switch_back(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.switch_back`."""
        postgres_switch.switch_back(self._server, restore)

    def settle(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.settle`."""
        postgres_switch.settle(self._server, restore)

    def discard(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.discard`."""
        postgres_switch.discard(self._server, restore)

    def before_copies(self) -> list[str]:
        """See :meth:`recovery.components.base.Component.before_copies`."""
        return postgres_switch.before_copies(self._server, self._settings.databases)

    def drop_before(self, restore: Restore) -> None:
        """See :meth:`recovery.components.base.Component.drop_before`."""
        postgres_switch.drop_before(self._server, restore)
