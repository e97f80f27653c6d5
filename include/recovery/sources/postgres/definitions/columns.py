"""Kinds of objects that are compared by the columns of their catalog: whatever a version of PostgreSQL has there is seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

from psycopg.sql import SQL, Composed
from psycopg.types.json import Jsonb

from recovery.sources.postgres.client import Connection
from recovery.sources.postgres.definitions.sql_snippets import acl, in_order, own

_OTHERS: dict[LiteralString, LiteralString] = {
    "pg_collation": "collation",
    "pg_conversion": "conversion",
    "pg_operator": "operator",
    "pg_opclass": "operator class",
    "pg_opfamily": "operator family",
    "pg_ts_config": "text search configuration",
    "pg_ts_dict": "text search dictionary",
    "pg_ts_parser": "text search parser",
    "pg_ts_template": "text search template",
    "pg_language": "language",
    "pg_cast": "cast",
    "pg_transform": "transform",
    "pg_am": "access method",
    "pg_foreign_data_wrapper": "foreign-data wrapper",
    "pg_foreign_server": "foreign server",
    "pg_publication": "publication",
    "pg_publication_rel": "published table",
    "pg_publication_namespace": "published schema",
    "pg_event_trigger": "event trigger",
}
"""Catalogs whose objects are compared by identity and by those columns that hold no object's number, but for functions with a name."""
_NOT_COMPARED = {"collversion"}
"""A collation's version is the machine's."""
_RENAMED = {"colliculocale": "colllocale"}
"""Columns that newer versions call by another name (PostgreSQL 17)."""
_MORE: dict[str, tuple[tuple[LiteralString, str, SQL | Composed], ...]] = {
    "pg_language": (("acl", "lanacl", acl("o.lanacl", "'l'", "o.lanowner")),),
    "pg_foreign_data_wrapper": (
        ("acl", "fdwacl", acl("o.fdwacl", "'F'", "o.fdwowner")),
        ("fdwoptions", "fdwoptions", in_order("o.fdwoptions")),
    ),
    "pg_foreign_server": (
        ("acl", "srvacl", acl("o.srvacl", "'S'", "o.srvowner")),
        ("srvoptions", "srvoptions", in_order("o.srvoptions")),
    ),
    "pg_publication_rel": (
        ("row filter", "prqual", SQL("pg_get_expr(o.prqual, o.prrelid)")),
        (
            "columns",
            "prattrs",
            SQL(
                """(SELECT jsonb_agg(a.attname ORDER BY a.attname) FROM pg_attribute a
                  WHERE a.attrelid = o.prrelid AND a.attnum = ANY (o.prattrs))"""
            ),
        ),
    ),
    "pg_ts_config": (
        (
            "mappings",
            "cfgparser",
            SQL(
                """(SELECT jsonb_object_agg(k.alias, k.dictionaries) FROM (
                  SELECT t.alias, jsonb_agg(m.mapdict::regdictionary::text ORDER BY m.mapseqno) AS dictionaries
                  FROM pg_ts_config_map m JOIN ts_token_type(o.cfgparser) t ON t.tokid = m.maptokentype
                  WHERE m.mapcfg = o.oid GROUP BY 1) k)"""
            ),
        ),
    ),
}
"""What else is compared of objects of a catalog: fact, the column that the catalog has to have for it, and how it is read."""
BY_COLUMNS = frozenset(_OTHERS.values())
"""Kinds of objects whose facts are columns of a catalog, and the owner."""


def queries(connection: Connection) -> Iterator[Composed]:
    """A query for each catalog that this server has, of rows as those of :mod:`recovery.sources.postgres.definitions.catalog`."""
    columns = """SELECT c.relname, array_agg(a.attname::text), array_agg(a.attname::text) FILTER (WHERE a.atttypid::regtype = ANY (
            ARRAY['name', 'text', 'bool', '"char"', 'text[]', '"char"[]', 'regproc']::regtype[])),
          min(a.attname::text) FILTER (WHERE a.attname LIKE '%%owner')
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relname = ANY (%s) GROUP BY 1"""
    found = {name: (known, kept, owner) for name, known, kept, owner in connection.execute(columns, [list(_OTHERS)]).fetchall()}
    for catalog, kind in _OTHERS.items():
        if catalog in found:
            known, kept, owner = found[catalog]
            more = {fact: read for fact, column, read in _MORE.get(catalog, ()) if column in known}
            more["owner"] = SQL("pg_get_userbyid(o.{})").format(SQL(owner)) if owner else SQL("NULL::text")
            yield _other(catalog, kind, sorted(set(kept or ()) - _NOT_COMPARED), more)


def _other(catalog: LiteralString, kind: LiteralString, columns: list[str], more: dict[LiteralString, SQL | Composed]) -> Composed:
    return SQL(
        """SELECT {kind}, i.identity, {catalog}::regclass::oid, o.oid,
          (SELECT coalesce(jsonb_object_agg(coalesce({renamed} ->> f.key, f.key), f.value), '{{}}')
           FROM jsonb_each(to_jsonb(o)) f WHERE f.key = ANY ({columns}))
          || jsonb_build_object({more})
        FROM {table} o, LATERAL pg_identify_object({catalog}::regclass, o.oid, 0) i
        WHERE {own} AND to_jsonb(o) ->> 'oprcode' IS DISTINCT FROM '-'"""  # an operator that was only announced is none
    ).format(
        kind=kind,
        catalog=catalog,
        columns=columns,
        renamed=Jsonb(_RENAMED),
        more=SQL(", ").join(SQL("{}, {}").format(fact, read) for fact, read in more.items()),
        table=SQL(catalog),
        own=own(catalog, "o", ",i"),
    )
