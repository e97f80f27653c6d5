"""The preparation: schemas ``<schema>__stage_<id>`` of the live database, where the set's tables are made before they are exchanged.

Only roles of the restore come in, one for each owner of the tables, with the rights of that owner and no others. So no
code runs with more: neither what the set brings, such as checks and expressions of indexes, nor functions of the live
database that it uses. We ourselves run none of it: what we do here are moves, rights, and reading tables without a query.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.sql import SQL, Composed, Identifier, Literal

from recovery.common.errors import RestoreError, ToolError
from recovery.common.progress import Progress
from recovery.common.units import human_size
from recovery.packs.content_diff import Difference, compare
from recovery.packs.content_index import Facts
from recovery.sources.base import RestoreView
from recovery.sources.postgres.accounts import loaders
from recovery.sources.postgres.accounts.loaders import Loaders
from recovery.sources.postgres.accounts.roles import roles
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.compare import alike, rows_of
from recovery.sources.postgres.databases import ownership
from recovery.sources.postgres.databases.entries import Step, Steps
from recovery.sources.postgres.databases.stage import analyze, restore_entries
from recovery.sources.postgres.definitions.names import parent_of, split
from recovery.sources.postgres.dump import archive
from recovery.sources.postgres.dump.table_reader import table_texts
from recovery.sources.postgres.tables.contents import RELATIONS, Chosen, facts_without, relations
from recovery.sources.postgres.tables.dependents import relations_in
from recovery.sources.postgres.tables.swap import aside, aside_schemas, drop_schemas, move
from recovery.sources.postgres.targets import Objects

log = logging.getLogger(__name__)

_GIVEN_LATER = ("owner", "acl")


@dataclass(frozen=True)
class Definitions:
    """A dump of the definitions, with the names of the preparation."""

    folder: Path
    steps: Steps
    """The entries, each with the owner as whom it is restored."""


def schema_of(part: Chosen, schema: str) -> str:
    """Where relations of a schema are prepared."""
    return aside(schema, "stage", part.target.restore_id)


def purpose(part: Chosen) -> str:
    """What the roles that load these tables are for; see :func:`recovery.sources.postgres.accounts.loaders.drop`."""
    return f"{part.target.name}, tables {part.target.restore_id}"


def names_in(connection: Connection, part: Chosen, kind: str = "stage") -> dict[str, str]:
    """The names that relations have in the preparation, as the catalogs quote them, by their own."""
    names = [(name, *split(name)) for name in part.names]
    query = "SELECT name, format('%%I.%%I', s, n) FROM unnest(%s::text[], %s::text[], %s::text[]) t (name, s, n)"
    schemas = [aside(schema, kind, part.target.restore_id) for _, schema, _ in names]
    return dict(connection.execute(query, [[each[0] for each in names], schemas, [each[2] for each in names]]).fetchall())


def clear(server: Server, part: Chosen) -> None:
    """Drop what is prepared, and the roles that loaded it.

    Raises:
        RestoreError: if something else uses it.
    """
    with server.connect(part.target.name) as live:
        drop_schemas(live, aside_schemas(live, "stage", part.target.restore_id))
        with translated_errors(f"Dropping what the roles that load {part.target.name} have", RestoreError):
            take_away(live, part)
        loaders.drop(live, purpose(part))


def take_away(live: Connection, part: Chosen) -> None:
    """Take all rights and all that is left from the roles that loaded."""
    if found := loaders.names(live, purpose(part)):
        live.execute(SQL("DROP OWNED BY {}").format(SQL(", ").join(map(Identifier, found))))


def prepare(server: Server, jobs: int, restore: RestoreView, part: Chosen, definitions: Definitions, files: Mapping[str, Path]) -> None:
    """Make and load the relations; what was prepared before is dropped.

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
        with translated_errors(f"Creating the schemas that the tables of {name} are prepared in", RestoreError), live.transaction():
            for schema in sorted(part.schemas):
                for statement in _schema(Identifier(schema_of(part, schema)), loading):
                    live.execute(statement)
        work = _Preparation(server, jobs, live, part, loading, definitions, names_in(live, part))
        log.info("preparing %d relations in %s with %d jobs", len(part.names), name, jobs)
        work.define(definitions.steps.definitions)
        with translated_errors(f"Giving rights on what is prepared in {name}", RestoreError), live.transaction():
            work.give_rights(roles(restore))
        work.load(files)
        work.define(definitions.steps.rest)
        work.fill_views()
        work.analyze()
        loaders.disarm(live, loading)


def _schema(name: Identifier, loading: Loaders) -> Iterator[Composed]:
    yield SQL("CREATE SCHEMA {}").format(name)
    yield SQL("REVOKE ALL ON SCHEMA {} FROM PUBLIC").format(name)
    if created := loading.names():
        yield SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(name, SQL(", ").join(map(Identifier, created)))


@dataclass(frozen=True)
class _Preparation:
    server: Server
    jobs: int
    live: Connection
    """As ourselves."""
    part: Chosen
    loaders: Loaders
    definitions: Definitions
    names: Mapping[str, str]
    """See :func:`names_in`."""

    def define(self, steps: Iterable[Step]) -> None:
        """Make definitions, each as its owner."""
        database, encoding = self.part.target.name, self.part.target.facts["encoding"]
        for step in steps:
            there = self.loaders.server(self.server, step.loader)
            try:
                restore_entries(there, database, step, self.definitions.folder, encoding, self.jobs)
            except ToolError as error:
                raise RestoreError(
                    f"Restoring to {database} would fail. {error.what}",
                    "Create what is missing there, restore it too, or restore the whole database.",
                ) from error

    def give_rights(self, set_roles: Mapping[str, Facts]) -> None:
        """Give each role the rights on the relations of others that its owner had."""
        prepared = {(kind, self.names[name]): facts for (kind, name), facts in self.part.objects.items() if kind in RELATIONS}
        ownership.give_rights(self.live, self.loaders, prepared, set_roles)
        everybody = SQL(", ").join(map(Identifier, self.loaders.names()))
        for parent in {parent_of(facts["definition"]) for key, facts in self.part.foreign_keys.items() if key not in self.part.crossing}:
            if parent and self.loaders.names():
                self.live.execute(SQL("GRANT REFERENCES ON TABLE {} TO {}").format(SQL(self.names[parent]), everybody))

    def load(self, files: Mapping[str, Path]) -> None:
        """Load the rows, and give the sequences their values."""
        progress = Progress(f"loading into {self.part.target.name}", self.part.bytes)
        largest_first = sorted(self.part.tables, key=lambda name: -self.part.tables[name]["bytes"])
        with ThreadPoolExecutor(self.jobs) as pool:
            for name in pool.map(lambda name: self._load(name, files[name], progress), largest_first):
                facts = self.part.tables[name]
                log.info("%s: %s rows, %s", name, facts["count"], human_size(facts["bytes"]))
        with translated_errors(f"Setting sequences of {self.part.target.name}", RestoreError):
            for (kind, name), facts in self.part.objects.items():
                if kind == "sequence":
                    self.live.execute("SELECT setval(%s::regclass, %s, %s)", [self.names[name], facts["value"], facts["called"]])

    def _load(self, name: str, file: Path, progress: Progress) -> str:
        facts = self.part.tables[name]
        table = str(facts.get("hashed by enum") or name)
        with (
            self._as(self.part.all["table", table]["owner"]) as connection,
            translated_errors(f"Loading {name} into {self.part.target.name}", RestoreError),
            file.open("rb") as rows,
        ):
            read_as(connection, self.part.target.facts["encoding"])
            with (
                connection.cursor() as cursor,
                cursor.copy(SQL("COPY {} FROM STDIN").format(copied(self.names[table], facts["copy"]))) as into,
            ):
                left = facts["bytes"]
                while left and (block := rows.read(min(left, archive.BLOCK))):
                    into.write(block)
                    progress.add(len(block))
                    left -= len(block)
        return name

    def fill_views(self) -> None:
        """Fill the materialized views that were filled, each after those that it shows: it was made after them."""
        own = {self.names[name]: facts["owner"] for (kind, name), facts in self.part.objects.items() if _is_filled(kind, facts)}
        query = "SELECT name FROM unnest(%s::text[]) name ORDER BY name::regclass::oid"
        for (name,) in self.live.execute(query, [list(own)]).fetchall():
            log.info("filling %s", name)
            with self._as(own[name]) as connection, translated_errors(f"Filling {name} in {self.part.target.name}", RestoreError):
                connection.execute(SQL("REFRESH MATERIALIZED VIEW {}").format(SQL(name)))

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


def copied(table: str, columns: Iterable[str] | None) -> Composed:
    """A table and its columns, for COPY."""
    if not columns:
        return SQL("{}").format(SQL(table))
    return SQL("{} ({})").format(SQL(table), SQL(", ").join(map(Identifier, columns)))


def read_as(connection: Connection, encoding: str) -> None:
    """Let texts come and go as they lie in the database, as they did for the set."""
    if encoding != "SQL_ASCII":
        connection.execute(SQL("SET client_encoding TO {}").format(Literal(encoding)))


# Afterwards -------------------------------------------------------------------------------------------------------------


def move_in(live: Connection, part: Chosen) -> None:
    """Give what is prepared the names of the set, in a transaction that is open; owners and rights come later."""
    came_from = aside_schemas(live, "stage", part.target.restore_id)
    move(live, relations_in(live, list(came_from)), came_from.__getitem__)
    live.execute(SQL("DROP SCHEMA {}").format(SQL(", ").join(map(Identifier, came_from))))


def refuse_unprepared(live: Connection, part: Chosen) -> None:
    """Make sure that there is a preparation.

    Raises:
        RestoreError: if there is none.
    """
    there = set(aside_schemas(live, "stage", part.target.restore_id).values())
    if missing := sorted(part.schemas - there):
        raise RestoreError(
            f"Nothing is prepared in {part.target.name} for {', '.join(missing)}: it was dropped, or never made.", "Trigger a new restore."
        )


def verify(server: Server, jobs: int, part: Chosen) -> list[Difference]:
    """Compare what is prepared with the set: rows, and all of the definitions but what is given later."""
    database, encoding = part.target.name, part.target.facts["encoding"]
    with server.connect(database) as live, translated_errors(f"Comparing what is prepared in {database}", RestoreError):
        refuse_unprepared(live, part)
        names = names_in(live, part)
        texts = table_texts(server, database, encoding, {names[name]: facts for name, facts in part.tables.items()}, jobs)
        found = definitions(live, part)
    for name in part.tables:
        if ("table", name) in found:
            found["table", name] |= texts.get(names[name], {})
    expected = {key: facts for key, facts in part.objects.items() if key not in part.crossing and key not in part.crossing_comments}
    expected, found = alike(facts_without(expected, *_GIVEN_LATER), facts_without(found, *_GIVEN_LATER), part.target.major)
    return compare(rows_of(expected), rows_of(found))


def definitions(live: Connection, part: Chosen, kind: str | None = None) -> Objects:
    """What is prepared, by the names of the set; or by those of a kind of schema (see :func:`aside`).

    The catalogs' rows leave the schemas of restores out. So they are read in a transaction in which these have other names,
    which nobody else sees.
    """
    with live.transaction(force_rollback=True):
        for schema in part.schemas:
            other = Identifier(aside(schema, _READ, part.target.restore_id))
            live.execute(SQL("ALTER SCHEMA {} RENAME TO {}").format(Identifier(schema_of(part, schema)), other))
        found = relations(live, names_in(live, part, _READ).values())
    read = _replacement(live, part, kind)
    return {(what, read(name)): _read(facts, read) for (what, name), facts in found.items()}


_READ = "proven"


def _replacement(live: Connection, part: Chosen, kind: str | None) -> Callable[[str], str]:
    """What gives texts of the catalogs other names, within quotes too; a longer one goes first, which may end as another."""
    query = "SELECT quote_ident(a), quote_ident(b) FROM unnest(%s::text[], %s::text[]) t (a, b) ORDER BY length(a) DESC"
    schemas, restore_id = sorted(part.schemas), part.target.restore_id
    new = [aside(schema, kind, restore_id) if kind else schema for schema in schemas]
    rows = live.execute(query, [[aside(schema, _READ, restore_id) for schema in schemas], new]).fetchall()
    pairs = [pair for old, new in rows for pair in ((old, new), (_quoted(old), _quoted(new)))]

    def replaced(text: str) -> str:
        for old, new in pairs:
            text = text.replace(f"{old}.", f"{new}.")
        return text

    return replaced


def _quoted(name: str) -> str:
    """A name inside of a literal."""
    return name.replace("\\", "\\\\").replace("'", "''")


def _read(value: Any, read: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return read(value)
    if isinstance(value, dict):
        return {key: _read(part, read) for key, part in value.items()}
    return [_read(part, read) for part in value] if isinstance(value, list) else value
