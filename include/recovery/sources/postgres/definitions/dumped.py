"""What a dump reads of a database: its tables, its sequences with their values; and whether a user may read all of that."""

from __future__ import annotations

from collections.abc import Collection

from psycopg.sql import SQL

from recovery.common.errors import SourceError
from recovery.common.wording import shortened
from recovery.packs.content_index import Facts
from recovery.sources.postgres.client import Connection, translated_errors
from recovery.sources.postgres.definitions.held_names import hold_schemas, hold_sequences
from recovery.sources.postgres.definitions.names import quoted_name
from recovery.sources.postgres.definitions.sql_snippets import CONFIGURATION, LASTING, OWN_TABLE, own

_SEQUENCE_DATA_SINCE = 18_00_00
_DUMPED = SQL(
    """SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.oid FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace {configuration}
    WHERE c.relkind::text = ANY (%s) AND {lasting} AND (x.extname IS NOT NULL OR {own}) ORDER BY 1"""
).format(configuration=CONFIGURATION, lasting=LASTING, own=own("pg_class", "c"))
_UNREADABLE = SQL(
    """SELECT name FROM (SELECT 'table ' || c.oid::regclass::text, c.oid FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace {configuration}
    WHERE c.relkind IN ('r', 'p') AND {lasting} AND (x.extname IS NOT NULL OR {own}) AND (
      NOT has_schema_privilege(n.oid, 'USAGE') OR NOT has_table_privilege(c.oid, 'SELECT'))
    UNION ALL SELECT 'table ' || c.oid::regclass::text || ' (row security hides rows)', c.oid FROM pg_class c
    WHERE row_security_active(c.oid) AND c.relkind = 'r' AND {own_table}
    UNION ALL SELECT 'sequence ' || c.oid::regclass::text, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'S' AND {lasting} AND {own}
      AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(c.oid, 'SELECT'))
    UNION ALL (SELECT 'large object ' || l.oid, 0 FROM pg_largeobject_metadata l WHERE NOT current_setting('lo_compat_privileges')::bool
      AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AND NOT pg_has_role(l.lomowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM aclexplode(l.lomacl) a WHERE a.privilege_type = 'SELECT'
        AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE'))) ORDER BY l.oid LIMIT 20)) u (name, oid)
    WHERE oid <> ALL (%s) ORDER BY 1"""
).format(
    configuration=CONFIGURATION,
    lasting=LASTING,
    own=own("pg_class", "c"),
    own_table=OWN_TABLE.format(own=own("pg_class", "c"), lasting=LASTING),
)
_OWNED_CONFIGURATION = SQL(
    """SELECT c.oid::regclass::text, x.extname::text, o.rolname::text FROM pg_class c {configuration} JOIN pg_roles o ON o.oid = c.relowner
    WHERE x.filter <> '' AND NOT o.rolsuper AND (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"""
).format(configuration=CONFIGURATION)


def tables(connection: Connection) -> dict[str, int]:
    """The number of every table that pg_dump reads or locks, by the name that it has in the transaction's snapshot."""
    return _dumped(connection, "tables", ["r", "p"])


def sequences(connection: Connection) -> dict[str, int]:
    """The number of every sequence that pg_dump reads, as :func:`tables`."""
    return _dumped(connection, "sequences", ["S"])


def _dumped(connection: Connection, what: str, kinds: list[str]) -> dict[str, int]:
    with translated_errors(f"Listing the {what} of {connection.info.dbname}"):
        return dict(connection.execute(_DUMPED, [kinds]).fetchall())


def sequence_values(connection: Connection, names: Collection[str]) -> dict[str, Facts]:
    """Last value of each sequence, and whether it was handed out, by name as the catalogs quote it.

    Raises:
        SourceError: if one is no sequence any more, or the server refuses.
        SourceUnreachable: if one is exchanged meanwhile.
    """
    database = connection.info.dbname
    by_number = connection.info.server_version >= _SEQUENCE_DATA_SINCE
    query = SQL(
        "SELECT last_value, is_called FROM pg_get_sequence_data({number})" if by_number else "SELECT last_value, is_called FROM {name}"
    )
    with translated_errors(f"Reading the sequences of {database}"), connection.transaction():
        hold_schemas(connection)
        numbers = sequences(connection)
        if lost := [name for name in names if name not in numbers]:
            raise SourceError(f"{shortened(lost)} in {database} is no sequence any more.", "Look what has its name, then try again.")
        hold_sequences(connection, {name: numbers[name] for name in names})
        found = {}
        for name in names:
            ((value, called),) = connection.execute(query.format(name=SQL(name), number=numbers[name])).fetchall()
            if value is None:
                raise SourceError(f"The sequence {name} in {database} can't be read.", "Grant SELECT on it, and USAGE on its schema.")
            found[name] = {"value": value, "called": called}
        return found


def dropped_by_invalidity(connection: Connection) -> list[str]:
    """Indexes that pg_dump leaves out because they are not valid."""
    query = SQL(
        "SELECT c.oid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid"
        " JOIN pg_namespace n ON n.oid = t.relnamespace WHERE NOT i.indisvalid AND t.relkind IN ('r', 'm') AND {lasting} AND {own}"
        " ORDER BY 1"
    ).format(lasting=LASTING, own=own("pg_class", "t"))
    with translated_errors(f"Listing the indexes of {connection.info.dbname}"):
        return [name for (name,) in connection.execute(query).fetchall()]


def unreadable(connection: Connection, besides: Collection[int] = ()) -> list[str]:
    """What this user may not read of a database, in words, but for some relations; at most 20 of the large objects."""
    with translated_errors(f"Checking the rights in {connection.info.dbname}"):
        return [name for (name,) in connection.execute(_UNREADABLE, [list(besides)]).fetchall()]


def refuse_owned_configuration(connection: Connection) -> None:
    """Refuse to read, as a superuser, rows of an extension's table by a condition, if the table is not a superuser's.

    To do that, the server plans a query, and so runs what the owner of the table wrote into the expressions of its indexes.

    Raises:
        SourceError: if there is one.
    """
    with translated_errors(f"Asking whose the tables of extensions in {connection.info.dbname} are"):
        for table, extension, owner in connection.execute(_OWNED_CONFIGURATION).fetchall():
            raise SourceError(
                f"The table {table} of the extension {extension} in {connection.info.dbname} belongs to {quoted_name(owner)}, whose code"
                " would run as a superuser when it is read.",
                "ALTER TABLE ... OWNER TO a superuser, or use a Connection whose user is none.",
            )
