"""Rights of what PostgreSQL and extensions brought, where somebody has changed them: pg_dump saves these too."""

from __future__ import annotations

from typing import LiteralString

from psycopg.sql import SQL

_HAVE_RIGHTS: LiteralString = """
    SELECT 'pg_proc'::regclass, oid, 0, pronamespace, proowner, 'f'::"char", proacl FROM pg_proc
    UNION ALL SELECT 'pg_class'::regclass, oid, 0, relnamespace, relowner, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relacl
      FROM pg_class
    UNION ALL SELECT 'pg_class'::regclass, c.oid, a.attnum, c.relnamespace, c.relowner, 'c', a.attacl
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE NOT a.attisdropped
    UNION ALL SELECT 'pg_type'::regclass, oid, 0, typnamespace, typowner, 'T', typacl FROM pg_type
    UNION ALL SELECT 'pg_namespace'::regclass, oid, 0, oid, nspowner, 'n', nspacl FROM pg_namespace
    UNION ALL SELECT 'pg_language'::regclass, oid, 0, 'pg_catalog'::regnamespace, lanowner, 'l', lanacl
      FROM pg_language WHERE lanispl
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, 0, 'pg_catalog'::regnamespace, fdwowner, 'F', fdwacl
      FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid, 0, 'pg_catalog'::regnamespace, srvowner, 'S', srvacl FROM pg_foreign_server"""

_BEYOND: LiteralString = """(SELECT jsonb_agg(jsonb_build_array(r.grantee, r.privilege_type, r.is_grantable)) FROM (
      SELECT CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END AS grantee, a.privilege_type, a.is_grantable
      FROM aclexplode({has}) a WHERE a.grantee <> o.owner AND (a.grantee = 0 OR a.grantee IN (SELECT oid FROM pg_roles))
      EXCEPT SELECT CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type, a.is_grantable
      FROM aclexplode({had}) a ORDER BY 1, 2, 3) r)"""

_NOW: LiteralString = "coalesce(o.acl, acldefault(o.kind, o.owner))"
_FIRST: LiteralString = "coalesce(p.initprivs, acldefault(o.kind, o.owner))"

QUERY = SQL(
    """SELECT * FROM (SELECT 'rights', i.type || ' ' || i.identity, 0::oid, 0::oid,
        jsonb_build_object('acl', {granted}, 'revoked', {revoked})
      FROM ({objects}) o (class, oid, part, schema, owner, kind, acl)
      LEFT JOIN pg_init_privs p ON p.classoid = o.class AND p.objoid = o.oid AND p.objsubid = o.part,
      LATERAL pg_identify_object(o.class, o.oid, o.part) i
      WHERE o.acl IS DISTINCT FROM p.initprivs AND (o.oid < 16384 AND o.schema = 'pg_catalog'::regnamespace
        OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.class AND d.objid = o.oid AND d.objsubid = 0 AND d.deptype = 'e'))
    ) r (kind, name, class, oid, facts) WHERE facts <> '{{"acl": null, "revoked": null}}'"""
).format(
    granted=SQL(_BEYOND).format(has=SQL(_NOW), had=SQL(_FIRST)),
    revoked=SQL(_BEYOND).format(has=SQL(_FIRST), had=SQL(_NOW)),
    objects=SQL(_HAVE_RIGHTS),
)
"""A row for each: the rights that were given to others than the owner since, and those that were taken from them.

pg_dump saves those of ``pg_catalog`` and of extensions, none of ``information_schema`` and of the languages C and SQL.
"""
