"""Making and loading the set's tables in the live database: each owner's by a role with the rights of that owner and no others.

So no code runs with more: neither what the set brings, such as checks and expressions of indexes, nor functions of the
live database that it uses.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from recovery.common.errors import RestoreError
from recovery.common.progress import Progress
from recovery.common.units import human_size
from recovery.packs.content_index import Facts
from recovery.sources.base import RestoreView
from recovery.sources.postgres import exceptions
from recovery.sources.postgres.accounts import loaders
from recovery.sources.postgres.accounts.loaders import Loaders
from recovery.sources.postgres.accounts.roles import roles
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.databases import inheritance, ownership
from recovery.sources.postgres.databases.entries import Entry, Step, Steps
from recovery.sources.postgres.databases.second_try import Copied, Rows, SecondTry
from recovery.sources.postgres.databases.stage import analyze
from recovery.sources.postgres.definitions.names import first_name, parent_of
from recovery.sources.postgres.dump.copy_text import BLOCK
from recovery.sources.postgres.exceptions import Unmade, listed_name
from recovery.sources.postgres.tables.contents import RELATIONS, Chosen
from recovery.sources.postgres.tables.staged import as_in_set, clear, copied, names_in, purpose, read_as, schema_of
from recovery.sources.postgres.tables.swap import create_closed_schema

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Definitions:
    """A dump of the definitions, with the names of staged tables."""

    folder: Path
    steps: Steps
    """The entries, each with the owner as whom it is restored."""
    unmade: Collection[Unmade]
    """What is not in it, since it could not be made."""


def load(server: Server, jobs: int, restore: RestoreView, part: Chosen, definitions: Definitions, files: Mapping[str, Path]) -> None:
    """Make and load the relations; what was staged before is dropped.

    Args:
        server: where the live database is.
        jobs: how many work side by side.
        restore: whose set it is.
        part: what was asked for.
        definitions: of these relations.
        files: with the rows of each table, and the end of a dump's.

    Raises:
        RestoreError: if the live database lacks something that they need, or the server refuses.
    """
    clear(server, part)
    name = part.target.name
    with server.connect(name) as live:
        loading = loaders.create_members(server, live, name, part.owners, purpose(part))
        if loading.roles:
            loaders.try_login(server, name, loading)
        with translated_errors(f"Creating the schemas that the tables of {name} are staged in", RestoreError), live.transaction():
            for schema in sorted(part.schemas):
                _create_schema(live, schema_of(part, schema), loading)
        names, set_roles = names_in(live, part), roles(restore)
        shown, refusal = partial(as_in_set, part), partial(refusal_of, part)
        second = SecondTry(
            server, live, loading, part.target, definitions.folder, set_roles, refusal, tables=set(names.values()), shown=shown
        )
        work = _Load(server, jobs, live, part, loading, second, names)
        log.info("loading %d relations in %s with %d jobs", len(part.names), name, jobs)
        work.define(definitions.steps.definitions)
        work.give_rights(set_roles)
        work.rows(files)
        work.define(definitions.steps.rest)
        work.give_rights(set_roles)  # on views that depend on keys
        work.validate()
        work.fill_views()
        work.analyze()
        exceptions.keep(restore, part.target, [*definitions.unmade, *second.unmade])
        loaders.disarm(live, loading)


def refusal_of(part: Chosen, lost: str) -> RestoreError:
    """What is said of a load that lacks what may not be left out."""
    return RestoreError(
        f"Restoring to {part.target.name} would fail: {lost}.",
        "Create what is missing there, restore it too, or restore the whole database.",
    )


def _create_schema(live: Connection, name: str, loading: Loaders) -> None:
    create_closed_schema(live, name)
    if created := loading.names():
        roles_that_load = SQL(", ").join(map(Identifier, created))
        live.execute(SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(Identifier(name), roles_that_load))


@dataclass(frozen=True)
class _Load:
    server: Server
    jobs: int
    live: Connection
    """As ourselves."""
    part: Chosen
    loaders: Loaders
    second: SecondTry
    names: Mapping[str, str]
    """See :func:`names_in`."""

    def define(self, steps: Iterable[Step]) -> None:
        """Make definitions, each as its owner."""
        for step in steps:
            self.second.restore(step, self.jobs)

    def give_rights(self, set_roles: Mapping[str, Facts]) -> None:
        """Give each role the rights on the relations of others that its owner had."""
        with translated_errors(f"Giving rights on what is staged in {self.part.target.name}", RestoreError), self.live.transaction():
            self._give_rights(set_roles)

    def _give_rights(self, set_roles: Mapping[str, Facts]) -> None:
        staged = {(kind, self.names[name]): facts for (kind, name), facts in self.part.objects.items() if kind in RELATIONS}
        ownership.give_rights(self.live, self.loaders, staged, set_roles)
        inner = self.part.foreign_keys.keys() - self.part.crossing.keys()
        for parent in filter(None, {parent_of(self.part.foreign_keys[key]["definition"]) for key in inner}):
            own = self.loaders.roles[self.part.objects["table", parent]["owner"]]
            if others := [Identifier(role) for role in self.loaders.names() if role != own]:  # whose it is has the right, unsaid
                self.live.execute(SQL("GRANT REFERENCES ON TABLE {} TO {}").format(SQL(self.names[parent]), SQL(", ").join(others)))

    def validate(self) -> None:
        """Validate checks of children that are valid though their parents' are not."""
        staged = {("table", self.names[name]): facts for (kind, name), facts in self.part.objects.items() if kind == "table"}
        valid = exceptions.still_valid(self.part.objects, self.second.unmade, self.part.target.snapshot["codec"])
        for (kind, name), facts in valid.items():
            table, own = first_name(name)
            if kind == "constraint" and table in self.names:
                staged["constraint", f"{self.names[table]} {own}"] = facts
        inheritance.validate(self.live, self.loaders, staged, self._execute)

    def _execute(self, owner: str, statement: Composed) -> None:
        with self._as(owner) as connection, translated_errors(f"Restoring to {self.part.target.name}", RestoreError):
            connection.execute(statement, binary=True)

    def rows(self, files: Mapping[str, Path]) -> None:
        """Load the rows, and give the sequences their values."""
        progress = Progress(f"loading into {self.part.target.name}", self.part.bytes)
        largest_first = sorted(self.part.tables, key=lambda name: -self.part.tables[name]["bytes"])
        with ThreadPoolExecutor(self.jobs) as pool:
            for name in pool.map(lambda name: self._rows(name, files[name], progress), largest_first):
                facts = self.part.tables[name]
                log.info("%s: %s rows, %s", name, facts["count"], human_size(facts["bytes"]))
        self.second.load_rows()
        with translated_errors(f"Setting sequences of {self.part.target.name}", RestoreError):
            for (kind, name), facts in self.part.objects.items():
                if kind == "sequence":
                    self.live.execute("SELECT setval(%s::regclass, %s, %s)", [self.names[name], facts["value"], facts["called"]])

    def _rows(self, name: str, file: Path, progress: Progress) -> str:
        owner = self.part.all["table", self._table(name)]["owner"]
        opened = partial(self._copied, name, file)
        with self._as(owner) as connection, opened() as copied:
            read_as(connection, self.part.target.facts["encoding"])
            try:
                with connection.cursor().copy(copied.statement) as into:
                    for block in progress.counted(copied.text):
                        into.write(block)
            except psycopg.Error as error:
                self.second.refuse_fault(connection, error)
                self.second.postpone(Rows(owner, name, opened))
        return name

    def _table(self, name: str) -> str:
        """Through which rows of a table are loaded."""
        return str(self.part.tables[name].get("hashed by enum") or name)

    @contextmanager
    def _copied(self, name: str, file: Path) -> Iterator[Copied]:
        facts, table = self.part.tables[name], self.names[self._table(name)]
        with file.open("rb") as rows:
            yield Copied(table, SQL("COPY {} FROM STDIN").format(copied(table, facts["copy"])), _blocks(rows, facts["bytes"]))

    def fill_views(self) -> None:
        """Fill the materialized views that were filled, each after those that it shows: it was made after them."""
        own = {self.names[name]: facts["owner"] for (kind, name), facts in self.part.objects.items() if _is_filled(kind, facts)}
        query = "SELECT name FROM unnest(%s::text[]) name ORDER BY name::regclass::oid"
        for (name,) in self.live.execute(query, [list(own)]).fetchall():
            log.info("filling %s", name)
            statement = f"REFRESH MATERIALIZED VIEW {name}"
            with self._as(own[name]) as connection:
                try:
                    connection.execute(SQL(statement))
                except psycopg.Error as error:
                    self.second.refuse_fault(connection, error)
                    listed = listed_name(name, self.part.target.snapshot["codec"])
                    self.second.make_once_more(Entry("", "MATERIALIZED VIEW DATA", listed, own[name], own[name]), statement)

    def analyze(self) -> None:
        """Collect the planner's statistics: without them, the first queries are slow."""
        for (kind, name), facts in self.part.objects.items():
            if (name in self.part.tables and kind == "table") or kind == "materialized view":
                with self._as(facts["owner"]) as connection:
                    analyze(connection, self.names[name])

    def _as(self, owner: str) -> Connection:
        return self.loaders.server(self.server, owner).connect(self.part.target.name)


def _is_filled(kind: str, facts: Facts) -> bool:
    return kind == "materialized view" and bool(facts["populated"])


def _blocks(rows: IO[bytes], size: int) -> Iterator[bytes]:
    """The first bytes of a file."""
    while size and (block := rows.read(min(size, BLOCK))):
        yield block
        size -= len(block)
