"""Holding names: what a name means when it is checked, it means until the transaction ends.

Who owns a schema can put another thing in the place of a table or a sequence, between its check and its reading. To read it
by its name, the server plans a query, and so runs what the owner wrote into the indexes of such a thing, with the rights of
whoever reads.
"""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import errors
from psycopg.sql import SQL

from recovery.common.errors import SourceUnreachable
from recovery.common.wording import shortened
from recovery.sources.postgres.client import Connection, translated_errors

_LOCK_TIMEOUT = "60s"
_AT_ONCE = 500
_ABLE = "SELECT rolsuper AND NOT pg_is_in_recovery() FROM pg_roles WHERE rolname = current_user"
_SCHEMAS = """SELECT FROM pg_namespace n WHERE n.oid >= 2200 AND n.nspname !~ '^pg_(temp|toast)'
    AND NOT (SELECT o.rolsuper FROM pg_roles o WHERE o.oid = n.nspowner) FOR KEY SHARE OF n"""
"""Superusers' own are renamed by superusers only. 2200 is ``public``; the server's own have lower numbers."""
_EXCHANGED = """SELECT name FROM unnest(%s::text[], %s::oid[]) held (name, oid)
    WHERE to_regclass(name)::oid IS DISTINCT FROM oid ORDER BY 1"""


def hold_schemas(connection: Connection) -> None:
    """Keep schemas from being renamed until the transaction ends; they can be used, and rights be granted on them.

    Only a superuser of a primary can do that, in a transaction that may write. Anybody else's transaction holds none.

    Raises:
        SourceUnreachable: if somebody changes one for longer than a minute.
    """
    with translated_errors(f"Holding the names of schemas in {connection.info.dbname}"):
        connection.execute("SELECT set_config('lock_timeout', %s, true) WHERE current_setting('lock_timeout') = '0'", [_LOCK_TIMEOUT])
        if connection.execute(_ABLE).fetchall() == [(True,)]:
            connection.execute(_SCHEMAS)


def hold_tables(connection: Connection, tables: Mapping[str, int]) -> None:
    """Keep tables from being renamed, dropped or defined anew until the transaction ends; their rows can be changed.

    Args:
        connection: in a transaction that holds the schemas.
        tables: their numbers, by name as the catalogs quote it.

    Raises:
        SourceUnreachable: if a name means something else now, or somebody changes a definition for longer than a minute.
    """
    _hold(connection, tables, SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE"), SQL(", ONLY "))


def hold_sequences(connection: Connection, sequences: Mapping[str, int]) -> None:
    """Keep sequences from being renamed or dropped, as :func:`hold_tables` does tables.

    ``LOCK`` takes none. But what a statement names is locked when the statement is parsed, before it is planned.
    """
    _hold(connection, sequences, SQL("PREPARE held AS SELECT FROM {}; DEALLOCATE held"), SQL(", "))


def _hold(connection: Connection, relations: Mapping[str, int], statement: SQL, between: SQL) -> None:
    database, names = connection.info.dbname, list(relations)
    with translated_errors(f"Locking tables and sequences of {database} against changes of their definition"):
        try:
            for start in range(0, len(names), _AT_ONCE):
                connection.execute(statement.format(between.join(map(SQL, names[start : start + _AT_ONCE]))))
            exchanged = [name for (name,) in connection.execute(_EXCHANGED, [names, list(relations.values())]).fetchall()]
        except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
            raise SourceUnreachable(f"A table or sequence of {database} went away when it was to be read.", "Try again.") from error
    if exchanged:
        raise SourceUnreachable(f"What was to be read of {database} was exchanged: {shortened(exchanged)}.", "Try again.")
