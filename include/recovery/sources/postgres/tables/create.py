"""What a swap gives the staged tables once they have their names: owners, rights, foreign keys to others; and the comparison."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from psycopg.sql import SQL, Composed, Identifier

from recovery.common.progress import Progress
from recovery.packs.content_diff import Difference, compare
from recovery.packs.content_index import Facts
from recovery.sources.postgres.accounts.server_globals import grant, grantee_name, schema_statements
from recovery.sources.postgres.accounts.versions import Right, known_rights
from recovery.sources.postgres.client import Connection
from recovery.sources.postgres.compare import alike, rows_of
from recovery.sources.postgres.definitions.names import raw
from recovery.sources.postgres.definitions.reading import Readings
from recovery.sources.postgres.dump.copy_text import TableText, in_blocks, lines
from recovery.sources.postgres.exceptions import Unmade, accepted
from recovery.sources.postgres.tables import staged
from recovery.sources.postgres.tables.contents import Chosen, facts_without, relations
from recovery.sources.postgres.tables.dependents import ForeignKey
from recovery.sources.postgres.tables.keys import as_validated
from recovery.sources.postgres.targets import Objects

_ON_TABLES = {"view", "materialized view", "table"}
_STATISTICS = """SELECT format('%%I.%%I', n.nspname, stxname) FROM pg_statistic_ext JOIN pg_namespace n ON n.oid = stxnamespace
    WHERE stxrelid = ANY (%s::text[]::regclass[])"""


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


def hand_over(connection: Connection, part: Chosen, names: Mapping[str, str] | None = None) -> None:
    """Give the relations their owners and rights; the roles that loaded have nothing any more.

    Args:
        connection: to their database.
        part: what was asked for.
        names: what relations and statistics are called there, by their names in the set; None if they have these.
    """
    there = names or {name: name for _, name in part.objects}
    for _, name, facts in _own_relations(part):
        if not facts.get("of"):  # a sequence of a column has its table's owner
            connection.execute(SQL("ALTER TABLE {} OWNER TO {}").format(SQL(there[name]), Identifier(facts["owner"])))
    made = {name for (name,) in connection.execute(_STATISTICS, [[there[name] for name in part.names]]).fetchall()}
    for (kind, name), facts in part.objects.items():
        if kind == "statistics" and there[name] in made:
            connection.execute(SQL("ALTER STATISTICS {} OWNER TO {}").format(SQL(there[name]), Identifier(facts["owner"])))
    staged.take_away(connection, part)
    found = staged.definitions(connection, part) if names else relations(connection, part.names)
    for kind, name, facts in _own_relations(part):
        for statement in _rights(kind, there[name], facts, found.get((kind, name), {}).get("acl") or (), part.target.major):
            connection.execute(statement)


def _own_relations(part: Chosen) -> Iterator[tuple[str, str, Facts]]:
    return ((kind, name, facts) for (kind, name), facts in part.objects.items() if kind in {*_ON_TABLES, "sequence"})


def _rights(kind: str, name: str, wanted: Facts, found: Sequence[Right], major: int) -> Iterator[Composed]:
    """Statements that give a relation the set's rights."""
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


def contents(connection: Connection, part: Chosen, names: Mapping[str, str] | None = None) -> dict[str, Facts]:
    """Count, digest and size of the tables as this transaction sees them, by the code that reads a set's; names as of :func:`hand_over`."""
    found = {}
    encoding = part.target.facts["encoding"]
    staged.read_as(connection, encoding)
    progress = Progress(f"comparing {part.target.name}", part.bytes)
    for name, facts in part.tables.items():
        text, table = TableText(), staged.copied(names[name] if names else name, facts["copy"])
        with connection.cursor() as cursor, cursor.copy(SQL("COPY {} TO STDOUT").format(table)) as out:
            for each in lines(progress.counted(in_blocks(out))):
                text.add(each)
        found[name] = text.facts()
    staged.read_as(connection, "UTF8" if encoding != "SQL_ASCII" else "LATIN1")
    return found


def verified(
    connection: Connection,
    part: Chosen,
    texts: dict[str, Facts] | None,
    pending: Sequence[ForeignKey],
    readings: Readings,
    unmade: Collection[Unmade],
) -> list[Difference]:
    """What of the relations that were made differs from the set.

    Args:
        connection: to their database.
        part: what was asked for.
        texts: of :func:`contents`; None where no rows were loaded.
        pending: foreign keys that are validated afterwards.
        readings: definitions that mean the same as the set's.
        unmade: what could not be made of the set.
    """
    found = as_validated(relations(connection, part.names), pending)
    expected: Objects = part.objects
    if texts is None:
        left_out = ("count", "digest", "bytes", "value", "called", "populated")
        expected, found = facts_without(expected, *left_out), facts_without(found, *left_out)
    for name, facts in (texts or {}).items():
        found["table", name] |= facts
    expected, found = alike(expected, found, part.target.major, readings)
    expected = accepted(expected, found, unmade, part.target.snapshot["codec"])
    return compare(rows_of(expected), rows_of(found))
