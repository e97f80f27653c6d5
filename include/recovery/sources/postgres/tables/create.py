"""Making the tables of a set in a live database: definitions out of the staged one, rows, foreign keys, owners, rights, values."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from psycopg.sql import SQL, Composed, Identifier, Literal

from recovery.common.progress import Progress
from recovery.common.units import human_size
from recovery.packs.content_diff import Difference, compare
from recovery.packs.content_index import Facts
from recovery.sources.postgres.accounts.server_globals import grant, grantee_name, schema_statements
from recovery.sources.postgres.accounts.versions import Right, known_rights
from recovery.sources.postgres.client import Connection, Server
from recovery.sources.postgres.compare import alike, rows_of
from recovery.sources.postgres.definitions.names import raw, split
from recovery.sources.postgres.dump import archive
from recovery.sources.postgres.tables.contents import Chosen, facts_without, first_name
from recovery.sources.postgres.tables.stage import fk_comments, relations
from recovery.sources.postgres.tables.swap import limit_waiting
from recovery.sources.postgres.targets import Objects

log = logging.getLogger(__name__)

_SESSION = re.compile(rb"^SET (?:lock_timeout|client_encoding) = .*;$", re.MULTILINE)
_WRITTEN_AT_ONCE = 256 << 10
_ON_TABLES = {"view", "materialized view", "table"}


def definitions(server: Server, part: Chosen, section: str) -> bytes:
    """SQL that makes the relations, without owners, rights and foreign keys: the staged database has it as the set has.

    Args:
        server: where it is staged.
        part: what was asked for.
        section: of pg_dump: ``pre-data`` makes relations, ``post-data`` indexes, constraints, triggers, policies.
    """
    if not part.names:
        return b""
    encoding, codec = ("SQL_ASCII", "latin1") if part.target.facts["encoding"] == "SQL_ASCII" else ("UTF8", "utf-8")
    argv: list[str | bytes | Path] = [server.bin / "pg_dump", "--schema-only", f"--section={section}", "--no-owner", "--no-acl"]
    argv += ["--no-publications", "--no-subscriptions", "--no-password", f"--encoding={encoding}"]
    argv += [f"--dbname={server.target(part.target.stage)}"]
    argv += [b"--table=" + ".".join(_pattern(word) for word in split(name)).encode(codec) for name in sorted(part.names)]
    script = archive.unrestricted(server.runner.run(argv, env=server.environment(encoding)))
    head, mark, body = script.partition(b"\n--\n-- Name: ")
    return _SESSION.sub(b"", head) + mark + body


def _pattern(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def create_schemas(connection: Connection, part: Chosen) -> list[str]:
    """Create the schemas that the live database lacks, as the set has them; which ones."""
    there = {name for (name,) in connection.execute("SELECT nspname FROM pg_namespace").fetchall()}
    created = sorted(part.schemas - there)
    for quoted, facts in ((name, facts) for (kind, name), facts in part.all.items() if kind == "schema" and raw(name) in created):
        connection.execute(SQL("CREATE SCHEMA {}").format(SQL(quoted)))
        comment = part.all.get(("comment", f"schema {quoted}"), {}).get("text")
        for statement in schema_statements(SQL(quoted), facts, comment):
            connection.execute(statement)
    return created


def create(connection: Connection, part: Chosen, before_data: bytes) -> None:
    """Make the relations, empty, with their owners and rights."""
    connection.execute(before_data)
    limit_waiting(connection)
    for _, name, facts in _own_relations(part):
        if not facts.get("of"):  # a sequence of a column has its table's owner
            connection.execute(SQL("ALTER TABLE {} OWNER TO {}").format(SQL(name), Identifier(facts["owner"])))
    found = relations(connection, part.names)
    for kind, name, facts in _own_relations(part):
        for statement in _rights(kind, name, facts, found.get((kind, name), {}).get("acl") or (), part.target.major):
            connection.execute(statement)


def _own_relations(part: Chosen) -> Iterator[tuple[str, str, Facts]]:
    return ((kind, name, facts) for (kind, name), facts in part.objects.items() if kind in {*_ON_TABLES, "sequence"})


def _rights(kind: str, name: str, wanted: Facts, found: Sequence[Right], major: int) -> Iterator[Composed]:
    """Statements that give a relation the set's rights; default rights of the live database may have given it others."""
    what = SQL("{} {}").format(SQL("TABLE" if kind in _ON_TABLES else "SEQUENCE"), SQL(name))
    known = known_rights(major, found)
    if _sorted(wanted["acl"]) != _sorted(known):
        for grantee in sorted({grantee for grantee, *_ in found} - {wanted["owner"]}, key=str):
            yield SQL("REVOKE ALL ON {} FROM {}").format(what, grantee_name(grantee))
        for grantee, privilege, _ in known:
            if grantee == wanted["owner"]:  # who keeps what only a newer version knows
                yield SQL("REVOKE {} ON {} FROM {}").format(SQL(privilege), what, grantee_name(grantee))
        for grantee, privilege, may_grant in wanted["acl"] or ():
            yield grant(privilege, what, grantee, may_grant)
    for column, facts in (wanted.get("columns") or {}).items():
        for grantee, privilege, may_grant in facts.get("acl") or ():
            yield grant(privilege, what, grantee, may_grant, SQL(" ({})").format(Identifier(column)))


def _sorted(acl: Sequence[Right] | None) -> list[str]:
    return sorted(map(str, acl or ()))


def make_statistics(connection: Connection, part: Chosen) -> None:
    """Make the extended statistics, which pg_dump leaves out where it dumps single tables."""
    there = relations(connection, part.names)
    for (kind, name), facts in part.objects.items():
        if kind != "statistics":
            continue
        if (kind, name) not in there:
            connection.execute(SQL("{}").format(SQL(facts["definition"])))
            if comment := part.objects.get(("comment", f"statistics object {name}")):
                connection.execute(SQL("COMMENT ON STATISTICS {} IS {}").format(SQL(name), Literal(comment["text"])))
        connection.execute(SQL("ALTER STATISTICS {} OWNER TO {}").format(SQL(name), Identifier(facts["owner"])))


def make_foreign_keys(connection: Connection, part: Chosen) -> None:
    """Make the foreign keys of the set's tables; the server checks that they hold."""
    comments = fk_comments(part)
    for (_, name), facts in part.foreign_keys.items():
        table, own = first_name(name)
        connection.execute(SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(SQL(table), SQL(own), SQL(facts["definition"])))
    for key, words in comments.items():
        connection.execute(SQL("{}{}").format(SQL(words), Literal(part.objects[key]["text"])))


def set_values(connection: Connection, part: Chosen) -> None:
    """Give the sequences their values."""
    for (kind, name), facts in part.objects.items():
        if kind == "sequence":
            connection.execute("SELECT setval(%s::regclass, %s, %s)", [name, facts["value"], facts["called"]])


def fill_views(connection: Connection, part: Chosen) -> None:
    """Fill the materialized views that were filled, each after those that it shows: it was made after them."""
    names = [name for (kind, name), facts in part.objects.items() if kind == "materialized view" and facts["populated"]]
    query = "SELECT name FROM unnest(%s::text[]) name ORDER BY name::regclass::oid"
    for (name,) in connection.execute(query, [names]).fetchall():
        log.info("filling %s", name)
        connection.execute(SQL("REFRESH MATERIALIZED VIEW {}").format(SQL(name)))


def analyze(connection: Connection, part: Chosen) -> None:
    """Collect the planner's statistics: without them, the first queries are slow."""
    for kind, name, _ in _own_relations(part):
        if name in part.tables or kind == "materialized view":
            connection.execute(SQL("ANALYZE {}").format(SQL(name)))


# Rows -------------------------------------------------------------------------------------------------------------------


def copy_rows(staged: Connection, live: Connection, part: Chosen) -> None:
    """Copy the rows from the staged database into the live one."""
    progress = Progress(f"copying into {part.target.name}", part.bytes)
    for name, facts in part.tables.items():
        from_there, to_here = _copied(name, facts), _copied(facts.get("hashed by enum") or name, facts)
        with staged.cursor() as source, live.cursor() as sink:
            with (
                source.copy(SQL("COPY {} TO STDOUT").format(from_there)) as out,
                sink.copy(SQL("COPY {} FROM STDIN").format(to_here)) as into,
            ):
                for block in blocks(out):
                    into.write(block)
                    progress.add(len(block))
            log.info("%s: %s rows, %s", name, facts["count"], human_size(facts["bytes"]))


def _copied(name: str, facts: Facts) -> Composed:
    if not facts["copy"]:
        return SQL("{}").format(SQL(name))
    return SQL("{} ({})").format(SQL(name), SQL(", ").join(map(Identifier, facts["copy"])))


def blocks(rows: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes]:
    """Rows of a COPY in larger blocks."""
    held: list[bytes] = []
    size = 0
    for row in rows:
        held.append(bytes(row))
        size += len(row)
        if size >= _WRITTEN_AT_ONCE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def contents(connection: Connection, part: Chosen) -> dict[str, Facts]:
    """Count, digest and size of the tables as this transaction sees them, by the code that reads a set's."""
    found = {}
    progress = Progress(f"comparing {part.target.name}", part.bytes)
    for name, facts in part.tables.items():
        text = archive.TableText()
        with connection.cursor() as cursor, cursor.copy(SQL("COPY {} TO STDOUT").format(_copied(name, facts))) as out:
            for lines in archive.lines(progress.counted(blocks(out))):
                text.add(lines)
        found[name] = text.facts()
    return found


def verified(connection: Connection, part: Chosen, texts: dict[str, Facts] | None) -> list[Difference]:
    """What of the relations that were made differs from the set.

    Args:
        connection: to their database.
        part: what was asked for.
        texts: of :func:`contents`; None where no rows were copied.
    """
    found = relations(connection, part.names)
    expected: Objects = part.objects
    if texts is None:
        left_out = ("count", "digest", "bytes", "value", "called", "populated")
        expected, found = facts_without(expected, *left_out), facts_without(found, *left_out)
    for name, facts in (texts or {}).items():
        found["table", name] |= facts
    expected, found = alike(expected, found, part.target.major)
    return compare(rows_of(expected), rows_of(found))
