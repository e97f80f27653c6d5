"""Pieces of SQL that the queries over PostgreSQL's catalogs share."""

from __future__ import annotations

from typing import LiteralString

from psycopg.sql import SQL, Composed

LASTING = SQL("n.nspname !~ '^pg_(temp|toast)' AND n.nspname !~ '__(stage|before|replaced)_[0-9a-f]{8}$'")
"""A condition: neither temporary, nor in a schema that a restore of tables made (``SET_ASIDE`` of the catalog)."""
OWN_TABLE = SQL("({own} AND NOT EXISTS (SELECT FROM pg_namespace n WHERE n.oid = c.relnamespace AND NOT ({lasting})))")
CONFIGURATION = SQL(
    "LEFT JOIN (SELECT e.extname, t.oid AS config, t.filter FROM pg_extension e,"
    " LATERAL unnest(e.extconfig, e.extcondition) AS t (oid, filter)) x ON x.config = c.oid"
)

ROUTINE = SQL("""CASE p.prokind WHEN 'p' THEN format('%%s.%%I(%%s)', p.pronamespace::regnamespace, p.proname,
        pg_get_function_identity_arguments(p.oid)) ELSE p.oid::regprocedure::text END""")
"""A function as ALTER and GRANT name it: of a procedure the arguments say which are results, as another may have these as well."""


def acl(column: LiteralString, kind: LiteralString, owner: LiteralString) -> Composed:
    """Rights as ``[grantee or null for everybody, privilege, may grant]``, with the defaults written out."""
    return SQL(
        "(SELECT jsonb_agg(DISTINCT jsonb_build_array(CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type,"
        " a.is_grantable)) FROM aclexplode(coalesce({column}, acldefault({kind}, {owner}))) a)"
    ).format(column=SQL(column), kind=SQL(kind), owner=SQL(owner))


def in_order(options: LiteralString) -> Composed:
    """Options of foreign things: pg_dump gives them in the order of their names."""
    return SQL("(SELECT jsonb_agg(one ORDER BY one) FROM unnest({}) one)").format(SQL(options))


def own(catalog: LiteralString, alias: LiteralString, also: LiteralString = "") -> Composed:
    """A condition: made by a user, and neither an extension's nor, with ``also`` 'i', part of another object."""
    return SQL(
        "({alias}.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend dep WHERE dep.classid = {catalog}::regclass"
        " AND dep.objid = {alias}.oid AND dep.objsubid = 0 AND dep.deptype = ANY ('{{e{also}}}'::\"char\"[])))"
    ).format(alias=SQL(alias), catalog=SQL(f"'{catalog}'"), also=SQL(also))
