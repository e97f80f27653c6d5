"""What a dump of a database does not carry, and what coming in to make it changes, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import LiteralString

from recovery.common.wording import shortened
from recovery.sources.postgres.client import Connection, translated_errors
from recovery.sources.postgres.definitions import catalog, dumped
from recovery.sources.postgres.definitions.names import quoted_names
from recovery.sources.postgres.targets import UNTRIED

_HIDDEN = """SELECT c.oid::regclass::text, e.extname FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
      JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND c.relkind IN ('r', 'p')
      AND c.oid <> ALL (coalesce(e.extconfig, '{}')) AND NOT (SELECT rolsuper FROM pg_roles r WHERE r.oid = c.relowner) ORDER BY 1"""
"""Tables of extensions that aren't a superuser's: the extension's owner may add any of his own, and pg_dump saves none of them."""
_MATERIALIZED = """SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'm' AND c.relispopulated AND nspname !~ %s ORDER BY 1"""
_COMPUTED = """SELECT DISTINCT a.attrelid::regclass || '.' || quote_ident(a.attname)
    FROM pg_attribute a JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
      JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
    WHERE a.attgenerated = 's' AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND d.refobjid >= 16384 ORDER BY 1"""
"""Stored columns whose values need not be what their expression gives now: it calls something that can be changed."""
_LANGUAGES = "SELECT quote_ident(lanname) FROM pg_language WHERE NOT lanispl AND lanacl IS NOT NULL AND oid < 16384 ORDER BY 1"
_FAMILIES = """SELECT DISTINCT format('%I of %I', opfname, amname)
    FROM pg_opfamily f JOIN pg_am ON pg_am.oid = opfmethod JOIN (SELECT 'pg_amop'::regclass AS class, oid, amopfamily AS family FROM pg_amop
      UNION ALL SELECT 'pg_amproc'::regclass, oid, amprocfamily FROM pg_amproc) m ON m.family = f.oid
    WHERE f.oid < 16384 AND m.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = m.class AND d.objid = m.oid
      AND (d.deptype = 'i' AND d.refclassid = 'pg_opclass'::regclass OR d.deptype = 'e')) ORDER BY 1"""
"""Families of PostgreSQL's own with a member that somebody added, and that no operator class brings along."""
_OWNERS = """SELECT pg_describe_object(d.classid, d.objid, 0) || ' of ' || quote_ident(extname)
    FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_shdepend s ON s.classid = d.classid AND s.objid = d.objid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND s.deptype = 'o' AND s.refclassid = 'pg_authid'::regclass
      AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND s.refobjid <> e.extowner
      AND NOT EXISTS (SELECT FROM pg_class c WHERE d.classid = 'pg_class'::regclass AND c.oid = d.objid AND c.relkind IN ('r', 'p')
        AND c.oid <> ALL (coalesce(e.extconfig, '{}')))
    ORDER BY 1"""
"""Members of extensions that were given to another role, but for the tables of the query above."""


def left_out(connection: Connection) -> Iterator[str]:
    """What is not in a dump of a session's database, or comes back otherwise.

    Raises:
        SourceError: if the server refuses.
    """
    database = connection.info.dbname
    with translated_errors(f"Listing what is left out of {database}"):
        for sentence in (*_objects(connection), *_contents(connection), *_of_the_system(connection), *_of_the_session(connection)):
            yield f"{database}: {sentence}"


def _objects(connection: Connection) -> Iterator[str]:
    for index in dumped.dropped_by_invalidity(connection):
        yield f"index {index} is not valid at the source; it is not dumped."
    query = "SELECT nspname FROM pg_namespace WHERE nspname ~ %s ORDER BY 1"
    for (schema,) in connection.execute(query, [catalog.SET_ASIDE_SCHEMA]).fetchall():
        yield f"schema {schema} has the name of a copy that a restore made, and is not backed up."
    for table, extension in connection.execute(_HIDDEN).fetchall():
        yield f"table {table} was added to the extension {extension}; neither it nor its rows are saved."
    if connection.execute("SELECT FROM pg_extension WHERE extname = %s", [UNTRIED]).fetchall():
        yield (
            f"nobody has tried to restore the extension {UNTRIED} with this project, so restores of this database are refused. By hand, its"
            " manual says what to do before and after pg_restore."
        )
    query = "SELECT s.subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()"
    for (subscription,) in connection.execute(query).fetchall():
        yield f"subscription {subscription} is not restored; create it again at the restored database."


def _contents(connection: Connection) -> Iterator[str]:
    if views := _named(connection, _MATERIALIZED, [catalog.SET_ASIDE_SCHEMA]):
        yield f"materialized views come back with what their queries give at a restore, not with their rows of the backup: {views}."
    if columns := _named(connection, _COMPUTED):
        yield f"stored columns are computed anew at a restore, with their functions as these are then: {columns}."


def _of_the_system(connection: Connection) -> Iterator[str]:
    if languages := _named(connection, _LANGUAGES):
        yield f"rights on PostgreSQL's own languages are not saved: {languages}. Grant or revoke them again after a restore."
    if families := _named(connection, _FAMILIES):
        yield f"what was added to PostgreSQL's own operator families is not saved: {families}. Add it again after a restore."
    if members := _named(connection, _OWNERS):
        yield f"the owners of an extension's members are not saved: {members}. Give them away again after a restore."


def _named(connection: Connection, query: LiteralString, parameters: Sequence[str] | None = None) -> str:
    """The first names that a query gives."""
    return shortened([name for (name,) in connection.execute(query, parameters).fetchall()], at_most=5)


def _of_the_session(connection: Connection) -> Iterator[str]:
    row = connection.execute(
        "SELECT count(*), (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), pg_is_in_recovery() FROM pg_user_mappings"
    ).fetchone()
    query = "SELECT evtname FROM pg_event_trigger WHERE evtevent = 'login' AND evtenabled <> 'D' ORDER BY 1"
    login = connection.execute(query).fetchall()
    assert row is not None
    mappings, superuser, standby = row
    if login and not superuser:
        names = quoted_names(name for (name,) in login)
        yield f"the login trigger {names} runs whenever a backup comes in; only a superuser can keep it from that."
    if mappings and not superuser:
        yield f"the options of its {mappings} user mappings are not saved; only a superuser can read them."
    if standby:
        yield "rows of unlogged tables are not on a standby; they are not saved."
