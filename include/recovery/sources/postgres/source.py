"""A source of kind ``postgres``: one PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Self

from recovery.common.connections import Endpoint
from recovery.common.errors import RestoreError
from recovery.packs.content_diff import Change, Difference
from recovery.plan.kinds.postgres import PostgresSettings, PostgresTarget, SqlQuestion, SqlStatement
from recovery.plan.location import Location
from recovery.runners.base import Runner
from recovery.sources.base import Access, BesideRestorer, Dumper, InPlaceRestorer, Queryable, RestoreView
from recovery.sources.model import Dump, LeftOut, Preflight, Rehearsal
from recovery.sources.postgres import compare as postgres_compare
from recovery.sources.postgres import exceptions, locations, query
from recovery.sources.postgres import preflight as postgres_preflight
from recovery.sources.postgres.accounts.query_roles import Asked
from recovery.sources.postgres.client import Server
from recovery.sources.postgres.databases import in_place, rehearsal, swap
from recovery.sources.postgres.databases import stage as databases_stage
from recovery.sources.postgres.definitions.names import quoted_name
from recovery.sources.postgres.dump import pg_dump
from recovery.sources.postgres.dump.pg_dump import SET_ASIDE
from recovery.sources.postgres.reach import endpoint
from recovery.sources.postgres.tables import beside as tables_beside
from recovery.sources.postgres.tables import contents as tables_contents
from recovery.sources.postgres.tables import restore as tables_restore
from recovery.sources.postgres.tables.contents import Chosen
from recovery.sources.postgres.targets import Target, Terms, targets


class Postgres(Dumper, InPlaceRestorer, BesideRestorer, Queryable):
    """Databases and globals of a PostgreSQL server, dumped by its own pg_dump and restored beside the live ones.

    Args:
        name: the source's name in the plan.
        settings: what the plan says of it.
        endpoint: where the server answers, and as whom.
        tools: the plan's folders of client tools.
        runner: runs them.
        renamed: names of databases at this place, by their names in the set, where they are others.
        mine: all that is restored as a whole gets the Connection's user as its owner, see :class:`PostgresTarget`.
        grants: others get the rights that the set has.
    """

    kind = "postgres"

    def __init__(
        self,
        name: str,
        settings: PostgresSettings,
        endpoint: Endpoint,
        tools: Sequence[Path],
        renamed: Mapping[str, str] | None = None,
        *,
        runner: Runner,
        mine: bool = False,
        grants: bool = True,
    ) -> None:
        super().__init__(name, runner)
        self._mine, self._grants = mine, grants
        self._settings = settings
        self._renamed = renamed or {}
        self._server = Server(endpoint, tools, runner)

    @classmethod
    def of(cls, name: str, settings: PostgresSettings, there: PostgresTarget | None, access: Access) -> Self:
        """See :meth:`recovery.sources.base.Source.of`."""
        at = endpoint(there or settings, access)
        renamed = there.databases if there else {}
        terms = {"mine": there.owners == "mine", "grants": there.grants == "keep"} if there else {}
        runner, tools = access.client_tools(there or settings)
        return cls(name, settings, at, tools, renamed, runner=runner, **terms)

    def try_out(self) -> str:
        """See :meth:`recovery.sources.base.Source.try_out`."""
        about = self._server.about
        return f"PostgreSQL {about.version} as {quoted_name(about.user)}, with the client tools in {self._server.bin}"

    def dump(self, folder: Path, opened: Callable[[], None]) -> Dump:
        """See :meth:`Dumper.dump`."""
        return pg_dump.dump(self._server, self._settings, folder, opened, damaged=self.damaged)

    def fingerprint(self, restore: RestoreView) -> str:
        """See :meth:`InPlaceRestorer.fingerprint` and :attr:`recovery.sources.postgres.client.Server.identity`."""
        return self._server.identity

    def preflight(self, restore: RestoreView) -> Preflight:
        """See :meth:`InPlaceRestorer.preflight`."""
        return postgres_preflight.preflight(self._server, restore, self._renamed, self._settings.databases, self._terms)

    def stage(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.stage`."""
        if whole := self._whole(restore):
            databases_stage.stage(self._server, self._settings.jobs, restore, whole)
        if parts := self._parts(restore):
            tables_restore.stage(self._server, self._settings.jobs, restore, parts)

    def verify_staged(self, restore: RestoreView) -> list[Difference]:
        """See :meth:`InPlaceRestorer.verify_staged`."""
        whole, parts = self._whole(restore), self._parts(restore)
        if restore.in_place:
            whole = in_place.touched(self._server, restore, whole)
        differences = postgres_compare.verify_staged(self._server, self._settings.jobs, restore, whole) if whole else []
        return differences + (tables_restore.verify_staged(self._server, self._settings.jobs, restore, parts) if parts else [])

    def left_out(self, restore: RestoreView) -> list[LeftOut]:
        """See :meth:`InPlaceRestorer.left_out`."""
        asked = [*self._whole(restore), *(part.target for part in self._parts(restore))]
        return list(exceptions.left_out(restore, [target.saved for target in asked]))

    def swap(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.swap`."""
        if whole := self._whole(restore):
            swap.swap_databases(self._server, restore, whole)
        if parts := self._parts(restore):
            tables_restore.swap_tables(self._server, restore, parts)

    def roll_back(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.roll_back`."""
        if parts := self._parts(restore):
            tables_restore.roll_back(self._server, restore, parts)
        if whole := self._whole(restore):
            swap.roll_back(self._server, restore, whole)

    def finalize(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.finalize`."""
        if restore.in_place:
            in_place.finalize(self._server, restore, self._whole(restore))
        else:
            swap.finalize(self._server, self._whole(restore))
        tables_restore.finalize(restore, self._parts(restore))

    def discard(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.discard`."""
        if whole := self._whole(restore):
            swap.discard(self._server, restore, whole)
        if parts := self._parts(restore):
            tables_restore.discard(self._server, restore, parts)

    def locations(self, restore: RestoreView) -> set[Location]:
        """See :meth:`InPlaceRestorer.locations`."""
        return locations.of_databases(self._server, self._whole(restore)) | tables_restore.locations(self._server, self._parts(restore))

    def own_locations(self) -> set[Location]:
        """See :meth:`InPlaceRestorer.own_locations`: the databases that the plan names, or all of the server."""
        named = self._settings.databases or [name for name in self._server.databases() if not SET_ASIDE.search(name)]
        return {locations.location_of(self._server, self._renamed.get(name, name)) for name in named}

    def occupied_locations(self, restore: RestoreView) -> dict[Location, str]:
        """See :meth:`InPlaceRestorer.occupied_locations`."""
        if restore.beside:
            return {}
        return locations.occupied_locations(self._server, self._whole(restore)) | tables_restore.occupied_locations(
            self._server, self._parts(restore)
        )

    def compare(self, restore: RestoreView) -> list[Change]:
        """See :meth:`InPlaceRestorer.compare`."""
        jobs = self._settings.jobs
        whole = postgres_compare.compare(self._server, jobs, restore, self._whole(restore))
        return postgres_compare.together([*whole, *tables_restore.compare(self._server, jobs, self._parts(restore))])

    def changed_since_backup(self, restore: RestoreView) -> list[Change]:
        """See :meth:`InPlaceRestorer.changed_since_backup`: the safety set was read from the same objects, by the same code."""
        live = postgres_compare.compare(self._server, self._settings.jobs, restore, self._whole(restore), exactly=True)
        return [change for change in live if change.what != "equal"]

    def rehearse(self, restore: RestoreView) -> Rehearsal:
        """See :meth:`InPlaceRestorer.rehearse`."""
        self._refuse_parts(restore)
        if not restore.rolling_back:
            return rehearsal.rehearse(self._server, self._settings.jobs, restore, self._whole(restore), self._verifier(restore))
        if not in_place.sets_aside(restore):
            rehearsal.rehearse_way_back(self._server, self._settings.jobs, restore, self._whole(restore))
        return Rehearsal()

    def replace(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.replace`."""
        self._refuse_parts(restore)
        in_place.replace(self._server, self._settings.jobs, restore, self._whole(restore), self._verifier(restore))

    def _verifier(self, restore: RestoreView) -> Callable[[Sequence[Target]], list[Difference]]:
        return partial(postgres_compare.verify_staged, self._server, self._settings.jobs, restore)

    def _refuse_parts(self, restore: RestoreView) -> None:
        if self._parts(restore):
            raise RestoreError("Single tables are not restored in place.", "Choose method: swap.")

    def let_in(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.let_in`."""
        in_place.let_in(self._server, restore, self._whole(restore))

    def leave_beside(self, restore: RestoreView) -> list[str]:
        """See :meth:`BesideRestorer.leave_beside`."""
        return tables_beside.leave(self._server, restore, self._parts(restore))

    def lying_beside(self, restores: Collection[str]) -> list[str]:
        """See :meth:`BesideRestorer.lying_beside`."""
        return tables_beside.lying(self._server, self._names, restores)

    def replaced_copies(self) -> list[str]:
        """See :meth:`InPlaceRestorer.replaced_copies`."""
        return sorted({*swap.replaced_copies(self._server, self._names), *tables_restore.replaced_copies(self._server, self._names)})

    def drop_replaced(self, restore: RestoreView) -> None:
        """See :meth:`InPlaceRestorer.drop_replaced`."""
        swap.drop_replaced(self._server, restore, self._whole(restore))
        tables_restore.drop_replaced(self._server, restore, self._parts(restore))

    def _whole(self, restore: RestoreView) -> list[Target]:
        """The databases that are restored as a whole."""
        return targets(restore, self._renamed, self._terms)

    @property
    def _names(self) -> list[str]:
        """The databases that the plan names, as they are called here; empty for all."""
        return [self._renamed.get(name, name) for name in self._settings.databases]

    @property
    def _terms(self) -> Terms:
        return Terms(self._server.about.user if self._mine else None, self._grants)

    def _parts(self, restore: RestoreView) -> list[Chosen]:
        """The databases of which schemas or tables are restored."""
        return tables_contents.chosen(restore, self._renamed)

    def execute(self, statement: SqlStatement, timeout: timedelta) -> Iterator[str]:
        """See :meth:`recovery.sources.base.Queryable.execute`."""
        for answer in query.execute(self._server, self._asked(statement), statement.statement, timeout):
            yield answer.status
            for row in answer.rows or ():
                yield f"  {' | '.join(map(str, row))}"

    def answer(self, question: SqlQuestion, timeout: timedelta) -> object:
        """See :meth:`recovery.sources.base.Queryable.answer`."""
        return query.only_value(query.execute(self._server, self._asked(question), question.query, timeout)[-1])

    def foresee(self, asked: SqlStatement | SqlQuestion, restore: RestoreView | None) -> str:
        """See :meth:`recovery.sources.base.Queryable.foresee`."""
        sql = self._asked(asked)
        brought = next((target for target in self._whole(restore) if target.name == sql.database), None) if restore else None
        return query.foresee(self._server, sql, restore, brought)

    def _asked(self, sql: SqlStatement | SqlQuestion) -> Asked:
        """SQL of the plan's owner, in a database by its name here."""
        return Asked(self._renamed.get(sql.database, sql.database), sql.role, reads=isinstance(sql, SqlQuestion))
