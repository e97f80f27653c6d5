"""Before a swap: it is done without rows on a copy of the live definitions, and foreign keys are checked against live rows.

So what the swap would fail at, such as a view that shows a column which the set lacks, is known while nothing waits for
it. The copy is loaded as any database is: each owner's definitions by a role that has no right elsewhere.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from psycopg.sql import SQL, Composed, Identifier

from recovery.common.errors import RestoreError
from recovery.packs.content_diff import Difference
from recovery.sources.base import RestoreView
from recovery.sources.postgres.accounts import server_globals
from recovery.sources.postgres.client import Connection, Server, codec, translated_errors
from recovery.sources.postgres.databases.stage import Dump, drop, fill
from recovery.sources.postgres.dump import archive
from recovery.sources.postgres.tables import prepare
from recovery.sources.postgres.tables.contents import Chosen, objects
from recovery.sources.postgres.targets import Target

log = logging.getLogger(__name__)

_EXAMPLES = 3
_COPY = "__rehearsal"
_SET_ASIDE = "*__(before|replaced)_[0-9a-f]{8}"
_NOT_NEEDED = (
    "EVENT TRIGGER",
    "COMMENT - EVENT TRIGGER",
    "USER MAPPING",
    "COMMENT - SUBSCRIPTION",
    "STATISTICS DATA ",
    "ACL ",
    "DEFAULT ACL ",
)
_CROSSING = """SELECT k.conname, k.conrelid::regclass::text, k.confrelid::regclass::text, child.relkind::text, parent.relkind::text,
      child.oid::regclass::text = ANY (%(names)s),
      ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u (num, place)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.place),
      ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u (num, place)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.place),
      ARRAY(SELECT format_type(a.atttypid, -1) FROM unnest(k.conkey) WITH ORDINALITY u (num, place)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.place)
    FROM pg_constraint k JOIN pg_class child ON child.oid = k.conrelid JOIN pg_class parent ON parent.oid = k.confrelid
    WHERE k.contype = 'f' AND k.conparentid = 0 AND k.convalidated AND coalesce(to_jsonb(k) ->> 'conperiod', 'false') = 'false'
      AND (child.oid::regclass::text = ANY (%(names)s)) <> (parent.oid::regclass::text = ANY (%(names)s)) ORDER BY 2, 1"""


@dataclass(frozen=True)
class Crossing:
    """A foreign key between a table that is restored and one that stays."""

    name: str
    child: str
    parent: str
    child_kind: str
    parent_kind: str
    from_restored: bool
    """The child is restored, the parent stays."""
    columns: list[str]
    referenced: list[str]
    types: list[str]


def copy_of(restore: RestoreView) -> str:
    """The database that a restore rehearses in."""
    return f"{_COPY}__stage_{restore.id}"


def rehearse(server: Server, jobs: int, restore: RestoreView, part: Chosen, swap: Callable[[Connection], None]) -> list[Crossing]:
    """Swap in a copy of the live database without its rows, and of what is prepared in it.

    Args:
        server: where the live database is.
        jobs: how many work side by side.
        restore: the restore.
        part: what was asked for.
        swap: does it, in a transaction that is kept for the length of this function.

    Returns:
        The foreign keys that cross between what is restored and what stays.

    Raises:
        RestoreError: if it would fail.
    """
    live, folder = part.target.name, restore.folder / "live"
    copy = _target(server, restore, part)
    assert copy.stage == copy_of(restore)
    with server.maintenance([live]) as connection:
        drop(connection, copy.stage)
        _create(server, connection, copy.stage, live)
    try:
        fill(server, jobs, copy, _dump(server, part, folder), whole=False)
        log.info("rehearsing the swap of %s on a copy of its definitions", live)
        with (
            server.connect(copy.stage) as connection,
            translated_errors(f"Restoring to {live} would fail", RestoreError),
            connection.transaction(force_rollback=True),
        ):
            swap(connection)
            rows = connection.execute(_CROSSING, {"names": list(part.names)}).fetchall()
        return [Crossing(*row) for row in rows]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with server.maintenance([live]) as connection:
            drop(connection, copy.stage)


def _target(server: Server, restore: RestoreView, part: Chosen) -> Target:
    with server.connect(part.target.name) as live:
        facts = server_globals.database_facts(live, part.target.name)
        owners = [name for (name,) in live.execute("SELECT rolname FROM pg_roles").fetchall()]
        snapshot = {"codec": codec(live), "roles": owners, "bytes": 0, "major": server.about.major}
    assert facts is not None
    return Target(_COPY, part.target.name, "", restore.id, facts, snapshot)


def _dump(server: Server, part: Chosen, folder: Path) -> Dump:
    """The definitions of the live database."""
    shutil.rmtree(folder, ignore_errors=True)
    server.runner.run(
        [
            *(server.bin / "pg_dump", "--schema-only", "--format=directory", "--no-publications", "--no-subscriptions", "--no-password"),
            *(f"--exclude-schema={_SET_ASIDE}", f"--file={folder}", f"--dbname={server.target(part.target.name)}"),
        ],
        env=server.environment(part.target.facts["encoding"]),
    )
    lines = [line for line in archive.entries(server.runner, server.bin, folder) if not line.split(" ", 3)[3].startswith(_NOT_NEEDED)]
    with server.connect(part.target.name) as live, translated_errors(f"Reading {part.target.name}", RestoreError):
        found = objects(live) | prepare.definitions(live, part, "stage")
        roles = {name: facts for _, name, facts in server_globals.role_rows(live)}
    return Dump(folder, lines, found, roles)


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


# Foreign keys -----------------------------------------------------------------------------------------------------------


def not_holding(server: Server, part: Chosen, crossing: Sequence[Crossing]) -> list[Difference]:
    """The foreign keys that would not hold: rows on one side that point to none on the other."""
    if not crossing:
        return []
    found = []
    with (
        server.connect(part.target.name) as staged,
        server.connect(part.target.name) as live,
        translated_errors(f"Checking the foreign keys of {part.target.name}", RestoreError),
    ):
        names = prepare.names_in(live, part)
        for key in crossing:
            there = replace(key, child=names.get(key.child, key.child), parent=names.get(key.parent, key.parent))
            count, keys, examples = _orphans(staged, live, there)
            if count:
                left, right = ("the set", "the live database") if key.from_restored else ("the live database", "the set")
                what = f"{count} rows of {key.child} in {left} point to {keys} rows of {key.parent} that {right} lacks, such as"
                words = f"{what} ({', '.join(key.referenced)}) = {'; '.join(examples)}"
                found.append(Difference("foreign key", f"{key.child} {key.name}", words))
        log.info("%d foreign keys to and from other tables checked, %d would not hold", len(crossing), len(found))
    return found


def _orphans(child: Connection, parent: Connection, key: Crossing) -> tuple[int, int, list[str]]:
    """Rows and keys of a child that its parent lacks, and some of these keys."""
    places = range(len(key.columns))
    columns = SQL(", ").join(map(Identifier, key.columns))
    present = SQL(" AND ").join(SQL("{} IS NOT NULL").format(Identifier(column)) for column in key.columns)
    query = SQL("COPY (SELECT {}, count(*) FROM {} WHERE {} GROUP BY {}) TO STDOUT").format(
        columns, _rows_of(key.child, key.child_kind), present, columns
    )
    fields = SQL(", ").join(SQL("{} {}").format(Identifier(f"k{place}"), SQL(key.types[place])) for place in places)
    with parent.transaction():
        parent.execute(SQL("CREATE TEMPORARY TABLE recovery_keys ({}, rows bigint) ON COMMIT DROP").format(fields))
        with (
            child.cursor() as source,
            parent.cursor() as sink,
            source.copy(query) as out,
            sink.copy("COPY pg_temp.recovery_keys FROM STDIN") as into,
        ):
            for block in archive.in_blocks(out):
                into.write(block)
        match = SQL(" AND ").join(SQL("p.{} = k.{}").format(Identifier(key.referenced[place]), Identifier(f"k{place}")) for place in places)
        orphans = SQL("pg_temp.recovery_keys k WHERE NOT EXISTS (SELECT FROM {} p WHERE {})").format(
            _rows_of(key.parent, key.parent_kind), match
        )
        row = parent.execute(SQL("SELECT coalesce(sum(rows), 0)::bigint, count(*) FROM {}").format(orphans)).fetchone()
        assert row is not None
        words: Composed = SQL("concat_ws(', ', {})").format(SQL(", ").join(SQL("k.{}").format(Identifier(f"k{place}")) for place in places))
        some = parent.execute(SQL("SELECT {} FROM {} ORDER BY 1 LIMIT {}").format(words, orphans, SQL(str(_EXAMPLES)))).fetchall()
    return row[0], row[1], [f"({example})" for (example,) in some]


def _rows_of(table: str, kind: str) -> Composed:
    """Of a partitioned table all, of any other its own: a foreign key does not see children."""
    return SQL("{} {}").format(SQL("ONLY" if kind == "r" else ""), SQL(table))
