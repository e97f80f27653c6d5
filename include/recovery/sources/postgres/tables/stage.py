"""Staging single schemas and tables: a database beside the live one with all definitions of the set, and the rows asked for.

Foreign keys are left out, since the rows that they point to may not be there; the swap makes them. So are owners and
rights, which the swap gives, and which need roles that nothing here uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from tarfile import TarInfo

from recovery.packs.content_diff import Difference, compare
from recovery.sources.base import RestoreView
from recovery.sources.postgres.client import Connection, Server
from recovery.sources.postgres.compare import alike, rows_of
from recovery.sources.postgres.databases.entries import listed, plain
from recovery.sources.postgres.databases.stage import Excerpt, load
from recovery.sources.postgres.definitions import catalog
from recovery.sources.postgres.definitions.names import raw, split
from recovery.sources.postgres.dump.table_reader import table_texts
from recovery.sources.postgres.tables.contents import Chosen, belonging, facts_without, first_name, is_foreign_key
from recovery.sources.postgres.targets import Objects

_END_OF_ROWS = len(b"\\.\n\n\n")
_LEFT_OUT = (
    "FK CONSTRAINT ",
    "MATERIALIZED VIEW DATA ",
    "STATISTICS DATA ",
    "BLOB",
    "COMMENT - LARGE OBJECT",
    "PUBLICATION",
    "COMMENT - PUBLICATION",
    "EVENT TRIGGER",
    "COMMENT - EVENT TRIGGER",
    "COMMENT - SUBSCRIPTION",
    "USER MAPPING",
    "DEFAULT ACL",
    "ACL ",
)
"""Entries of a dump that staged tables don't need: they concern other things, or the whole database."""
_GIVEN_LATER = ("owner", "acl", "populated")


def stage(server: Server, jobs: int, restore: RestoreView, part: Chosen) -> None:
    """Restore what was asked for of one database into one beside it.

    Raises:
        RestoreError: if the server refuses.
        ToolError: if pg_restore fails.
    """
    sizes = {facts["bytes"] + _END_OF_ROWS for facts in part.tables.values()}

    def member(info: TarInfo) -> bool:
        return info.name.endswith("toc.dat") or info.size in sizes

    codec = part.target.snapshot["codec"]

    def entries(lines: list[str]) -> list[str]:
        data = {listed(f"TABLE DATA {' '.join(split(name))} {_owner(part, name)}", codec) for name in part.tables}
        gone = tuple(listed(entry, codec) for entry in _gone(part, _missing_roles(server, part)))
        return [line for line in lines if _is_wanted(plain(line.split(" ", 3)[3]), data, gone)]

    load(server, jobs, restore, part.target, Excerpt(member, entries))


def _owner(part: Chosen, table: str) -> str:
    return str(part.all["table", table]["owner"])


def _is_wanted(entry: str, data: set[str], gone: tuple[str, ...]) -> bool:
    if entry.startswith("TABLE DATA "):
        return entry in data
    return not entry.startswith(_LEFT_OUT) and not entry.startswith(gone)


def _missing_roles(server: Server, part: Chosen) -> set[str]:
    named = {role for (kind, _), facts in part.all.items() if kind == "policy" for role in facts["roles"] or () if role}
    with server.maintenance() as connection:
        return named - {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}


def _gone(part: Chosen, missing_roles: set[str]) -> Iterator[str]:
    """How entries begin that name something left out: comments on foreign keys, policies for roles that the server lacks."""
    for (kind, name), facts in part.all.items():
        table, own = first_name(name)
        if is_foreign_key(kind, facts):
            schema, relation = split(table)
            yield f"COMMENT {schema} CONSTRAINT {own} ON {relation} "
        elif kind == "policy" and missing_roles & set(facts["roles"] or ()):
            schema, relation = split(table)
            yield f"POLICY {schema} {relation} {raw(own)} "
            yield f"COMMENT {schema} POLICY {own} ON {relation} "


def verify_staged(server: Server, jobs: int, part: Chosen) -> list[Difference]:
    """Compare what was staged with the set: rows, and all of the definitions but what is given later."""
    database, encoding = part.target.stage, part.target.facts["encoding"]
    texts = table_texts(server, database, encoding, part.tables, jobs)
    with server.connect(database) as connection:
        found = relations(connection, part.names)
    for name, facts in texts.items():
        found["table", name] |= facts
    expected = {key: facts for key, facts in part.objects.items() if key not in part.foreign_keys and key not in fk_comments(part)}
    expected, found = alike(facts_without(expected, *_GIVEN_LATER), facts_without(found, *_GIVEN_LATER), part.target.major)
    return compare(rows_of(expected), rows_of(found))


def fk_comments(part: Chosen) -> dict[tuple[str, str], str]:
    """The comments on foreign keys, and the statements that make them."""
    found = {}
    for _, name in part.foreign_keys:
        table, own = first_name(name)
        key = "comment", f"table constraint {own} on {table}"
        if key in part.objects:
            found[key] = f"COMMENT ON CONSTRAINT {own} ON {table} IS "
    return found


def relations(connection: Connection, names: Iterable[str]) -> Objects:
    """What a database has of some relations now, with the values of sequences, without the rows of tables."""
    found = belonging(objects(connection), names)
    sequences = [name for kind, name in found if kind == "sequence"]
    for name, value, called in catalog.sequence_values(connection, sequences):
        found["sequence", name] |= {"value": value, "called": called}
    return found


def objects(connection: Connection) -> Objects:
    """All that a database has now."""
    found = {(kind, name): facts for kind, name, facts in catalog.object_rows(connection)}
    for facts in found.values():
        facts.pop("at", None)
    return found
