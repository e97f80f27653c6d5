"""What only a superuser can make: a short list of statements. Each is read before it is made, and none runs code of the set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from psycopg.sql import SQL, Literal

from recovery.common.errors import ArtifactError, RestoreError
from recovery.sources.postgres.accounts.loaders import EVERYONE, Loaders
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.databases.entries import Entry, Step
from recovery.sources.postgres.databases.ownership import IN_SCHEMA, owned_by
from recovery.sources.postgres.definitions.names import NAME, listed, raw
from recovery.sources.postgres.definitions.sql_snippets import ROUTINE
from recovery.sources.postgres.dump import archive
from recovery.sources.postgres.targets import Objects

_KINDS = frozenset(
    {
        "event trigger",
        "foreign-data wrapper",
        "language",
        "access method",
        "operator class",
        "operator family",
        "text search parser",
        "text search template",
        "transform",
        "published schema",
    }
)
_TOGETHER = frozenset({"ACL", "DEFAULT ACL", "COMMENT", "SECURITY LABEL"})
"""Entries that make nothing that could have an owner; there can be thousands of them."""
_HANDED_OVER = {
    "FUNCTION": "pg_proc",
    "PROCEDURE": "pg_proc",
    "AGGREGATE": "pg_proc",
    "TYPE": "pg_type",
    "OPERATOR CLASS": "pg_opclass",
    "OPERATOR FAMILY": "pg_opfamily",
}
"""What has an owner that need not be a superuser, and the catalog that it lies in."""
_ROLE_CHANGES = "(?:RE)?SET SESSION AUTHORIZATION"
_BEGINNINGS = {
    "ACL": f"GRANT |REVOKE |{_ROLE_CHANGES}",
    "DEFAULT ACL": f"ALTER DEFAULT PRIVILEGES |{_ROLE_CHANGES}",
    "COMMENT": "COMMENT ON ",
    "SECURITY LABEL": "SECURITY LABEL ",
    "SHELL TYPE": "CREATE TYPE ",
    "PROCEDURAL LANGUAGE": "CREATE (?:OR REPLACE )?(?:TRUSTED )?(?:PROCEDURAL )?LANGUAGE ",
    "PUBLICATION TABLE": "ALTER PUBLICATION ",
    "PUBLICATION TABLES IN SCHEMA": "ALTER PUBLICATION ",
}
"""How a statement may begin, by the kind of its entry; of others with CREATE or ALTER and the kind."""
_TAKES_OVER = re.compile(r"\bOWNER TO\b")
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$""", re.DOTALL)
_BODY = re.compile(r"\$(?P<tag>\w*)\$.*?\$(?P=tag)\$", re.DOTALL)
_READS_VALUE = re.compile(rf"'::{NAME}\.|\bM?STYPE = {NAME}\.(?s:.*)\bM?INITCOND = ")
"""What makes the server read a value of a type that a user made, as soon as the statement is made."""
_SETTINGS = re.compile(r"SET \w+ = [^;]*;|SELECT pg_catalog\.set_config\('search_path', '', false\);")
_STATEMENT = re.compile(r"""(?:[^;'"$\-]|'(?:[^']|'')*+'|"(?:[^"]|"")*+"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|--[^\n]*\n|[$\-])*+;""", re.DOTALL)
_REVOKED_BY_NUMBER = re.compile(r'REVOKE [^;]* FROM "([0-9]+)";')
"""What pg_dump writes where an extension's first rights name a role that is gone, which PostgreSQL prevents since 17."""
_LEADING = re.compile(r"(?:\s|--[^\n]*\n)*")


def privileged(objects: Objects) -> Iterator[tuple[str, str]]:
    """Kind and name of what only a superuser can make, whatever the server."""
    taken = {name[name.index("(") :] for (kind, name), facts in objects.items() if kind == "function" and facts.get("privileged")}
    for (kind, name), facts in objects.items():
        base = kind == "type" and facts.get("kind") in {"b", "p"}  # p is a type that so far is only a name
        base |= (kind, facts.get("kind")) == ("type", "r") and f"({name})" in taken  # by what may make its values canonical
        binary = (kind, facts.get("castmethod")) == ("cast", "b")
        if kind in _KINDS or facts.get("privileged") or facts.get("puballtables") or base or binary:
            yield kind, name


def entries_of(objects: Objects, codec: str) -> set[str]:
    """How the list names the functions and types among what only a superuser can make."""
    found = set()
    for kind, name in privileged(objects):
        if kind in {"function", "procedure", "aggregate", "type"} and (parts := IN_SCHEMA.match(name)):
            found.add(f"{kind.upper()} {listed(raw(parts[1]), codec)} {listed(parts[2], codec)}".replace(", ", ","))
    return found


def make(server: Server, connection: Connection, step: Step, folder: Path, loaders: Loaders, codec: str) -> None:
    """Make what a step of the table of contents has, statement by statement.

    Args:
        server: where to.
        connection: to the database, as ourselves.
        step: its entries.
        folder: the unpacked dump.
        loaders: who owns what is made, until the end.
        codec: Python's name of the dump's encoding.

    Raises:
        ArtifactError: if a statement is another than its entry says.
        RestoreError: if the server refuses one.
    """
    together = [entry for entry in step.entries if entry.what in _TOGETHER]
    for entries in (*([entry] for entry in step.entries if entry.what not in _TOGETHER), together):
        if entries:
            script = archive.script(server.runner, server.bin, folder, [entry.line for entry in entries])
            _make(connection, entries, script.decode(codec), loaders)


def _make(connection: Connection, entries: Sequence[Entry], script: str, loaders: Loaders) -> None:
    allowed = re.compile("|".join(sorted({_beginning(entry.what) for entry in entries})))
    about = f"{entries[0].what} {entries[0].name}" if len(entries) == 1 else f"{len(entries)} entries such as {entries[0].what}"
    with translated_errors(f"Making {about} in {connection.info.dbname}", RestoreError), connection.transaction():
        for statement in statements(script):
            if not allowed.match(statement) or _TAKES_OVER.search(_QUOTED.sub("''", statement)):
                raise ArtifactError(
                    f"The dump's table of contents has a statement that is not run as superuser, for {about}: {statement[:200]}",
                    "Don't restore this set before you know who made it.",
                )
            if _is_revoked_from_nobody(connection, statement):
                continue
            _refuse_validator(connection, statement)
            if entries[0].what not in _TOGETHER:
                _refuse_values(connection, statement, about)
            connection.execute(SQL(statement), binary=True)  # so the server takes it for one statement, or not at all
        for entry in entries:
            if entry.what in _HANDED_OVER:
                _hand_over(connection, entry, loaders)


def _beginning(what: str) -> str:
    return _BEGINNINGS.get(what, rf"(?:CREATE|ALTER) {what} ")


def statements(script: str, *, places: bool = False) -> Iterator[str]:
    """Statements of pg_restore's script, but for the settings of its session.

    Where one is cut in the wrong place, no piece of it is a statement to the server.

    Args:
        script: in text.
        places: also with the settings that say where something is put.
    """
    for match in _STATEMENT.finditer(script):
        statement = match[0][_LEADING.match(match[0]).end() :]  # type: ignore[union-attr]
        if not _SETTINGS.fullmatch(statement) or (places and statement.startswith("SET default_table")):
            yield statement


def _is_revoked_from_nobody(connection: Connection, statement: str) -> bool:
    found = _REVOKED_BY_NUMBER.fullmatch(statement)
    return found is not None and connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [found[1]]).fetchone() is None


def _refuse_validator(connection: Connection, statement: str) -> None:
    """A foreign-data wrapper's options are checked by a function, which therefore has to be one that a superuser wrote."""
    for name in re.findall(r" VALIDATOR (\S+?)[ ;]", statement) if "FOREIGN DATA WRAPPER" in statement else ():
        query = "SELECT lanname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.oid = to_regproc(%s)"
        if connection.execute(query, [name]).fetchone() not in {("c",), ("internal",)}:
            raise ArtifactError(
                f"The validator {name} of a foreign-data wrapper would run as superuser, and is not written in C.",
                "Create the wrapper without it at the source, then back up again.",
            )


def _refuse_values(connection: Connection, statement: str, about: str) -> None:
    """The checks of a domain run when a value of it is read, also inside of arrays and ranges."""
    found = _READS_VALUE.search(_BODY.sub("", statement))
    if found and connection.execute("SELECT FROM pg_constraint WHERE contypid <> 0 AND contype = 'c' AND oid >= 16384").fetchall():
        raise ArtifactError(
            f"The {about} has a value of a type that a user made, and the checks of that type would run as superuser: {found[0]!r}.",
            "Make it without that default or initial value at the source, then back up again.",
        )


def _hand_over(connection: Connection, entry: Entry, loaders: Loaders) -> None:
    """Give what this transaction has just made for an entry to the role in its owner's place: before anything can call it."""
    catalog = SQL(_HANDED_OVER[entry.what])
    query = SQL("""SELECT i.type, coalesce((SELECT {} FROM pg_proc p WHERE o.tableoid = 'pg_proc'::regclass AND p.oid = o.oid), i.identity)
        FROM {} o, LATERAL pg_identify_object({}::regclass, o.oid, 0) i
        WHERE o.xmin = pg_current_xact_id()::xid AND NOT EXISTS (SELECT FROM pg_type t WHERE t.typarray = o.oid)
          AND coalesce(to_jsonb(o) ->> 'typtype', '') <> 'm'""")  # a multirange goes with its range
    role = loaders.roles[entry.owner or EVERYONE]
    for kind, identity in connection.execute(query.format(ROUTINE, catalog, Literal(_HANDED_OVER[entry.what])), ()).fetchall():
        connection.execute(owned_by(kind, identity, role))
