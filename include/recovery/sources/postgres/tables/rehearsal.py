"""Before a swap: it is done without rows on a copy of the live definitions.

So what the swap would fail at, such as a view that shows a column which the set lacks, is known while nothing waits for
it. The copy has what the swap touches and what that needs, and nothing else of the database. It is loaded as any database
is: each owner's definitions by a role that has no right elsewhere. What belongs to somebody whose rights we lack is ours
there.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from psycopg.sql import SQL, Identifier

from recovery.common.errors import RestoreError
from recovery.common.files import empty_folder
from recovery.sources.base import RestoreView
from recovery.sources.postgres.accounts import server_globals
from recovery.sources.postgres.accounts.loaders import Loaders
from recovery.sources.postgres.client import Connection, Server, codec, translated_errors
from recovery.sources.postgres.databases import ownership
from recovery.sources.postgres.databases.custody import undisturbed
from recovery.sources.postgres.databases.entries import Entry, read_entries
from recovery.sources.postgres.databases.stage import Dump, drop, fill
from recovery.sources.postgres.definitions import catalog
from recovery.sources.postgres.definitions.names import listed, pattern, split
from recovery.sources.postgres.dump import archive
from recovery.sources.postgres.exceptions import Unmade
from recovery.sources.postgres.tables import staged
from recovery.sources.postgres.tables.contents import Chosen
from recovery.sources.postgres.tables.dependents import ForeignKey, leaving, relations_in
from recovery.sources.postgres.tables.keys import Crossing, crossing
from recovery.sources.postgres.tables.needed import WITH_TEXTS, needed, texts_of
from recovery.sources.postgres.tables.swap import found_uses
from recovery.sources.postgres.targets import Objects, Target

log = logging.getLogger(__name__)

_COPY = "__rehearsal"
_RELATIONS = 1259
_ROUTINES = 1255
"""The numbers of the catalogs ``pg_class`` and ``pg_proc``."""
_UNREADABLE = """SELECT n.nspname, CASE WHEN has_schema_privilege(n.oid, 'USAGE') THEN c.relname END
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')
      AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))"""
"""Tables that pg_dump can't hold, or schemas where it can hold none."""


def copy_of(restore: RestoreView) -> str:
    """The database that a restore rehearses in."""
    return f"{_COPY}__stage_{restore.id}"


def rehearse(
    server: Server, jobs: int, restore: RestoreView, part: Chosen, swap: Callable[[Connection, list[Unmade]], list[ForeignKey]]
) -> list[Crossing]:
    """Swap in a copy of the live database without its rows, and of what is staged in it.

    Args:
        server: where the live database is.
        jobs: how many work side by side.
        restore: the restore.
        part: what was asked for.
        swap: does it, in a transaction that is kept for the length of this function, though the copy lacks something; which
            foreign keys have to be validated.

    Returns:
        The foreign keys that cross between what is restored and what stays.

    Raises:
        RestoreError: if it would fail.
    """
    live, folder = part.target.name, restore.folder / "live"
    copy = _target(server, restore, part)
    assert copy.stage == copy_of(restore)
    with undisturbed(server, [live, copy.stage]) as connection:
        drop(connection, copy.stage)
        _create(server, connection, copy.stage, live)
    try:
        dump = _dump(server, part, folder, copy)
        made = fill(server, jobs, copy, dump, whole=False)
        _hand_over(server, copy, dump, made.loaders)
        unmade = [dataclasses.replace(each, name=staged.as_in_set(part, each.name)) for each in made.unmade]
        log.info("rehearsing the swap of %s on a copy of its definitions", live)
        with (
            server.connect(copy.stage) as connection,
            translated_errors(f"Restoring to {live} would fail", RestoreError),
            connection.transaction(force_rollback=True),
        ):
            return crossing(connection, part, swap(connection, unmade))
    finally:
        empty_folder(folder)
        with undisturbed(server, [live, copy.stage]) as connection:
            drop(connection, copy.stage)


def _target(server: Server, restore: RestoreView, part: Chosen) -> Target:
    with server.connect(part.target.name) as live:
        facts = server_globals.database_facts(live, part.target.name)
        owners = [name for (name,) in live.execute("SELECT rolname FROM pg_roles").fetchall()]
        snapshot = {"codec": codec(live), "roles": owners, "bytes": 0, "major": server.about.major}
    assert facts is not None
    return Target(_COPY, f"a copy of {part.target.name}", "", restore.id, facts, snapshot)


def _dump(server: Server, part: Chosen, folder: Path, copy: Target) -> Dump:
    """The definitions that the swap touches, and what these need; of what restores have staged, our own."""
    with server.connect(part.target.name) as live, translated_errors(f"Reading {part.target.name}", RestoreError):
        touched = _touched(live, part)
        _pg_dump(server, live, part, folder, copy)
        entries = _needed(server, live, folder, copy, touched)
        objects = _objects(live, entries) | staged.definitions(live, part, "stage")
        strangers = {name for (name,) in live.execute("SELECT rolname FROM pg_roles WHERE NOT pg_has_role(oid, 'MEMBER')").fetchall()}
        roles = {name: facts for _, name, facts in server_globals.role_rows(live)}
    me = server.about.user
    lines = [_line(entry, me if entry.owner in strangers else None, copy.snapshot["codec"]) for entry in entries]
    return Dump(
        folder, lines, {key: facts | {"owner": me} if facts.get("owner") in strangers else facts for key, facts in objects.items()}, roles
    )


def _pg_dump(server: Server, live: Connection, part: Chosen, folder: Path, copy: Target) -> None:
    empty_folder(folder)
    argv: list[str | bytes | Path] = [server.bin / "pg_dump", "--schema-only", "--format=directory", f"--file={folder}", "--no-acl"]
    argv += ["--no-publications", "--no-subscriptions", "--no-password", f"--dbname={server.target(part.target.name)}"]
    argv += [option.encode(copy.snapshot["codec"]) for option in _left_out(live, part)]
    server.runner.run(argv, env=server.environment(copy.facts["encoding"]), writes=folder)


def _needed(server: Server, live: Connection, folder: Path, copy: Target, touched: Collection[tuple[int, int]]) -> list[Entry]:
    codec = copy.snapshot["codec"]
    entries = list(read_entries(archive.entries(server.runner, server.bin, folder), copy.snapshot["roles"], codec))
    own = [entry.number for entry in entries if _place(entry) in touched]
    texts = texts_of(_objects(live, [entry for entry in entries if entry.what in WITH_TEXTS]), codec)
    return needed(server, live, folder, entries, own, texts)


def _touched(live: Connection, part: Chosen) -> set[tuple[int, int]]:
    """What the swap moves or changes, and the schemas of it, by their place in the catalogs."""
    out = leaving(live, part)
    linked = found_uses(live, out, part.names)
    beside = relations_in(live, _staged(part), [split(name) for name in (*linked.related, *linked.views)])
    query = "SELECT 'pg_namespace'::regclass::oid, oid FROM pg_namespace WHERE nspname = ANY (%s)"
    places = set(live.execute(query, [[*part.schemas, *_staged(part)]]).fetchall())
    places |= {(_RELATIONS, relation.oid) for relation in (*out, *beside)}
    return places | {(_ROUTINES, function.oid) for function in linked.functions}


def _staged(part: Chosen) -> list[str]:
    return [staged.schema_of(part, schema) for schema in part.schemas]


def _left_out(live: Connection, part: Chosen) -> Iterator[str]:
    """Options of pg_dump for what others have staged or set aside, and for what we may not read, which pg_dump would fail at."""
    query = "SELECT nspname FROM pg_namespace WHERE nspname ~ %s AND nspname <> ALL (%s)"
    for (schema,) in live.execute(query, [catalog.SET_ASIDE_SCHEMA, _staged(part)]).fetchall():
        yield f"--exclude-schema={pattern(schema)}"
    for schema, table in dict.fromkeys(live.execute(_UNREADABLE).fetchall()):
        yield f"--exclude-table={pattern(schema)}.{'*' if table is None else pattern(table)}"


def _place(entry: Entry) -> tuple[int, int]:
    """Catalog and number of what an entry is about."""
    _, catalog_number, number, _ = entry.line.split(" ", 3)
    return int(catalog_number), int(number)


def _line(entry: Entry, owner: str | None, codec: str) -> str:
    """An entry's line, maybe as another owner's: pg_restore goes by its number."""
    if owner is None:
        return entry.line
    return f"{' '.join(entry.line.split(' ', 3)[:3])} {entry.what} {entry.name} {listed(owner, codec)}"


def _objects(live: Connection, entries: Iterable[Entry]) -> Objects:
    """What the catalogs have of entries."""
    rows = catalog.rows_of_numbers(live, [_place(entry)[1] for entry in entries])
    return {(kind, name): facts for kind, name, facts in rows}


def _hand_over(server: Server, copy: Target, dump: Dump, loading: Loaders) -> None:
    """Give the copy to the owners. Everybody may make things in it: who may where is asked of the live database."""
    query = "SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$'"
    with server.connect(copy.stage) as connection:
        with translated_errors(f"Opening the schemas of {copy.stage}", RestoreError):
            for (schema,) in connection.execute(query).fetchall():
                connection.execute(SQL("GRANT ALL ON SCHEMA {} TO PUBLIC").format(SQL(schema)))
        ownership.hand_over_schemas(connection, loading)
        ownership.give_ours(connection, dump.objects, dump.roles, loading.terms)
        ownership.hand_over(connection, loading, dump.objects)


def _create(server: Server, connection: Connection, name: str, live: str) -> None:
    with translated_errors(f"Creating database {name}", RestoreError):
        facts = server_globals.database_facts(connection, live)
        assert facts is not None
        connection.execute(server_globals.create_statement(name, facts, server.about.major))
        connection.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(Identifier(name)))
    with server.connect(live) as original, server.connect(name) as copy, translated_errors(f"Preparing database {name}", RestoreError):
        for query, statement in (
            ("SELECT FROM pg_namespace WHERE nspname = 'public'", "DROP SCHEMA public"),
            ("SELECT FROM pg_extension WHERE extname = 'plpgsql'", "DROP EXTENSION plpgsql"),
        ):
            if original.execute(query).fetchone() is None:
                copy.execute(statement)
