"""Schemas ``<schema>__stage_<id>`` of the live database, where the set's tables are made, loaded and verified before they are exchanged.

Only roles of the restore come in, one for each owner of the tables, with the rights of that owner and no others. We
ourselves run no code there: what we do is to move, to give rights, and to read tables without a query.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from psycopg.sql import SQL, Composed, Identifier, Literal

from recovery.common.errors import RestoreError
from recovery.packs.content_diff import Difference, compare
from recovery.sources.postgres.accounts import loaders
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.compare import alike, rows_of
from recovery.sources.postgres.definitions.names import split
from recovery.sources.postgres.definitions.reading import Readings
from recovery.sources.postgres.dump.table_reader import table_texts
from recovery.sources.postgres.exceptions import Unmade, accepted
from recovery.sources.postgres.tables.contents import Chosen, facts_without, relations
from recovery.sources.postgres.tables.dependents import relations_in, uses
from recovery.sources.postgres.tables.swap import aside, aside_schemas, drop_schemas, move
from recovery.sources.postgres.targets import Objects

_GIVEN_LATER = ("owner", "acl")
_READ = "proven"


def schema_of(part: Chosen, schema: str) -> str:
    """Where relations of a schema are staged."""
    return aside(schema, "stage", part.target.restore_id)


def as_in_set(part: Chosen, text: str) -> str:
    """A text without what is added to the names of schemas that relations are staged in."""
    return text.replace(schema_of(part, ""), "")


def purpose(part: Chosen) -> str:
    """What the roles that load these tables are for; see :func:`recovery.sources.postgres.accounts.loaders.drop`."""
    return f"{part.target.name}, tables {part.target.restore_id}"


def names_in(connection: Connection, part: Chosen, kind: str = "stage") -> dict[str, str]:
    """The names that relations have while they are staged, as the catalogs quote them, by their own."""
    return names_of(connection, part, part.names, kind)


def names_of(connection: Connection, part: Chosen, own: Iterable[str], kind: str = "stage") -> dict[str, str]:
    """As :func:`names_in`, of what lies in a schema by the names of the set, be it a relation or not."""
    names = [(name, *split(name)) for name in own]
    query = "SELECT name, format('%%I.%%I', s, n) FROM unnest(%s::text[], %s::text[], %s::text[]) t (name, s, n)"
    schemas = [aside(schema, kind, part.target.restore_id) for _, schema, _ in names]
    return dict(connection.execute(query, [[each[0] for each in names], schemas, [each[2] for each in names]]).fetchall())


def clear(server: Server, part: Chosen) -> None:
    """Drop what is staged, and the roles that loaded it.

    Raises:
        RestoreError: if something else uses it.
    """
    with server.connect(part.target.name) as live:
        drop_schemas(live, aside_schemas(live, "stage", part.target.restore_id))
        drop_roles(live, part)


def drop_roles(live: Connection, part: Chosen) -> None:
    """Drop the roles that loaded, and what they have.

    Raises:
        RestoreError: if something else uses that.
    """
    with translated_errors(f"Dropping what the roles that load {part.target.name} have", RestoreError):
        take_away(live, part)
    loaders.drop(live, purpose(part))


def take_away(live: Connection, part: Chosen) -> None:
    """Take all rights and all that is left from the roles that loaded."""
    if found := loaders.names(live, purpose(part)):
        live.execute(SQL("DROP OWNED BY {}").format(SQL(", ").join(map(Identifier, found))))


def left_by_load(live: Connection, part: Chosen) -> list[Difference]:
    """What code made outside of the staged schemas while the tables were loaded: it belongs to the roles that loaded, or uses the tables.

    A child would bring them rows, and a view show them to people who can't come into the schemas.
    """
    query = """SELECT i.type, i.identity FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid AND r.rolname = ANY (%s)
          JOIN pg_database b ON b.oid = d.dbid AND b.datname = current_database(),
          LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) i
        WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND coalesce(i.schema, '') NOT IN (
          SELECT quote_ident(s) FROM unnest(%s::text[]) s) ORDER BY 1, 2"""
    schemas = [schema_of(part, schema) for schema in part.schemas]
    found = live.execute(query, [loaders.names(live, purpose(part)), schemas]).fetchall()
    found += [("use", each) for each in _used(live, schemas)]
    return [Difference(kind, name, "was left by code that ran while the tables were loaded") for kind, name in found]


def _used(live: Connection, schemas: Collection[str]) -> Iterator[str]:
    own = [relation for relation in relations_in(live, schemas) if relation.schema in schemas]
    found = uses(live, own, [relation.qualified for relation in own])
    yield from (f"foreign key {key.name} of {key.table}" for key in found.incoming)
    yield from (f"view {name}" for name in found.views)
    yield from (f"function {function.signature}" for function in found.functions)
    yield from found.refused


def copied(table: str, columns: Iterable[str] | None) -> Composed:
    """A table and its columns, for COPY."""
    if not columns:
        return SQL("{}").format(SQL(table))
    return SQL("{} ({})").format(SQL(table), SQL(", ").join(map(Identifier, columns)))


def read_as(connection: Connection, encoding: str) -> None:
    """Let texts come and go as they lie in the database, as they did for the set."""
    if encoding != "SQL_ASCII":
        connection.execute(SQL("SET client_encoding TO {}").format(Literal(encoding)))


def move_in(live: Connection, part: Chosen) -> None:
    """Give what is staged the names of the set, in a transaction that is open; owners and rights come later."""
    came_from = {schema_of(part, schema): schema for schema in part.schemas}
    move(live, relations_in(live, list(came_from)), came_from.__getitem__)
    live.execute(SQL("DROP SCHEMA {}").format(SQL(", ").join(map(Identifier, came_from))))


def refuse_unstaged(live: Connection, part: Chosen) -> None:
    """Make sure that something is staged.

    Raises:
        RestoreError: if nothing is.
    """
    there = set(aside_schemas(live, "stage", part.target.restore_id).values())
    if missing := sorted(part.schemas - there):
        raise RestoreError(
            f"Nothing is staged in {part.target.name} for {', '.join(missing)}: it was dropped, or never made.", "Trigger a new restore."
        )


def verify(server: Server, jobs: int, part: Chosen, readings: Readings, unmade: Collection[Unmade]) -> list[Difference]:
    """Compare what is staged with the set: rows, and all of the definitions but what is given later, or could not be made."""
    database, encoding = part.target.name, part.target.facts["encoding"]
    with server.connect(database) as live, translated_errors(f"Comparing what is staged in {database}", RestoreError):
        refuse_unstaged(live, part)
        names = names_in(live, part)
        texts = table_texts(server, database, encoding, {names[name]: facts for name, facts in part.tables.items()}, jobs)
        found, left = definitions(live, part), left_by_load(live, part)
    for name in part.tables:
        if ("table", name) in found:
            found["table", name] |= texts.get(names[name], {})
    expected = facts_without(part.uncrossed, *_GIVEN_LATER)
    expected, found = alike(expected, facts_without(found, *_GIVEN_LATER), part.target.major, readings)
    expected = accepted(expected, found, unmade, part.target.snapshot["codec"])
    return compare(rows_of(expected), rows_of(found)) + left


def definitions(live: Connection, part: Chosen, kind: str | None = None) -> Objects:
    """What is staged, by the names of the set; or by those of a kind of schema (see :func:`aside`).

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
    """A name inside of a literal, as the catalogs write it: with standard_conforming_strings."""
    return name.replace("'", "''")


def _read(value: Any, read: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return read(value)
    if isinstance(value, dict):
        return {key: _read(part, read) for key, part in value.items()}
    return [_read(part, read) for part in value] if isinstance(value, list) else value
