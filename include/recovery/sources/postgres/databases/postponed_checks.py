"""Checks that keep rows from being loaded in the order of a restore: they are taken away, and added again once all rows are there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from psycopg.sql import SQL, Composed, Literal

from recovery.common.errors import RestoreError
from recovery.sources.postgres.client import Connection, translated_errors

_TREE = """WITH RECURSIVE above AS (SELECT to_regclass(%(table)s)::oid AS relation
      UNION SELECT inhparent FROM above JOIN pg_inherits ON inhrelid = relation),
    below AS (SELECT to_regclass(%(table)s)::oid AS relation UNION SELECT inhrelid FROM below JOIN pg_inherits ON inhparent = relation),
    types AS (SELECT atttypid AS type FROM below JOIN pg_attribute ON attrelid = relation AND attnum > 0 AND NOT attisdropped
      UNION SELECT inner_type FROM types JOIN pg_type t ON t.oid = type LEFT JOIN pg_range r ON r.rngtypid = t.oid,
        LATERAL (SELECT unnest(ARRAY[typelem, typbasetype, rngsubtype]) UNION SELECT atttypid FROM pg_attribute
          WHERE attrelid = typrelid AND attnum > 0 AND NOT attisdropped) i (inner_type) WHERE inner_type <> 0)
    SELECT CASE WHEN conrelid = 0 THEN 'DOMAIN' ELSE 'TABLE' END,
      CASE WHEN conrelid = 0 THEN format_type(contypid, NULL) ELSE conrelid::regclass::text END, quote_ident(conname),
      pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint'),
      (SELECT pg_get_userbyid(relowner) FROM pg_class c WHERE c.oid = conrelid
        UNION ALL SELECT pg_get_userbyid(typowner) FROM pg_type t WHERE t.oid = contypid)
    FROM pg_constraint k WHERE contype = 'c' AND coninhcount = 0 AND coalesce((to_jsonb(k) ->> 'conenforced')::bool, true)
      AND (conrelid IN (SELECT relation FROM above UNION SELECT relation FROM below)
          AND conname IN (SELECT conname FROM below JOIN pg_constraint ON conrelid = relation AND contype = 'c')
        OR contypid IN (SELECT type FROM types))
    ORDER BY 1 DESC, conrelid, conname"""
"""Checks that are looked at when rows come into a table, or into its partitions: its own, and those of the domains of its columns."""
_NOT_VALIDATED = """SELECT conrelid::regclass::text, quote_ident(conname) FROM pg_constraint
    WHERE contype = 'c' AND conrelid <> 0 AND NOT convalidated"""


@dataclass(frozen=True)
class Check:
    """A check of a table or domain, as its definition has it where it is not inherited."""

    kind: str
    """``TABLE`` or ``DOMAIN``."""
    of: str
    name: str
    definition: str
    comment: str | None
    role: str
    """Whose the table or domain is."""

    @property
    def valid(self) -> bool:
        """Whether all rows were looked at."""
        return not self.definition.endswith(" NOT VALID")

    def dropped(self) -> Composed:
        """What takes it away, from children too."""
        return SQL("ALTER {} {} DROP CONSTRAINT {}").format(SQL(self.kind), SQL(self.of), SQL(self.name))

    def added(self) -> Composed:
        """What adds it again, and looks at no row."""
        definition = f"{self.definition} NOT VALID" if self.valid else self.definition
        return SQL("ALTER {} {} ADD CONSTRAINT {} {}").format(SQL(self.kind), SQL(self.of), SQL(self.name), SQL(definition))

    def commented(self) -> Composed:
        """What gives it its comment again."""
        kind = SQL("DOMAIN " if self.kind == "DOMAIN" else "")
        return SQL("COMMENT ON CONSTRAINT {} ON {}{} IS {}").format(SQL(self.name), kind, SQL(self.of), Literal(self.comment))

    def validated(self) -> Composed:
        """What looks at the rows."""
        return SQL("ALTER {} {} VALIDATE CONSTRAINT {}").format(SQL(self.kind), SQL(self.of), SQL(self.name))


def checks_of(connection: Connection, table: str) -> list[Check]:
    """The checks that rows of a table have to pass; those that become its own once its parents' are dropped, only then.

    Raises:
        RestoreError: if the server refuses.
    """
    with translated_errors(f"Listing the checks of {table} in {connection.info.dbname}", RestoreError):
        return [Check(*row) for row in connection.execute(_TREE, {"table": table}).fetchall()]


def not_validated(connection: Connection, checks: Collection[Check]) -> Iterator[tuple[Check, str]]:
    """Some checks, each with the tables where it is not valid, its own and those that inherit it.

    Raises:
        RestoreError: if the server refuses.
    """
    with translated_errors(f"Listing the checks of {connection.info.dbname}", RestoreError):
        found = connection.execute(_NOT_VALIDATED).fetchall()
    for check in checks:
        yield from ((check, table) for table, name in found if name == check.name)
        if check.kind == "DOMAIN":
            yield check, check.of
