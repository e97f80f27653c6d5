"""What a PostgreSQL database has, read from its own catalogs: the same rows for a source and for what was restored.

Left out is what pg_dump leaves out: system objects, members of extensions (but for the tables that an extension
declares as configuration), and what other objects bring along. An object's place in the catalogs is in the fact
``at``, ``[class oid, oid]``, where pg_dump's table of contents names it too, and of a comment that of what it is about; it is not
kept in a set. Of the options of
user mappings there is only a digest: they hold passwords, which belong in no report.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from psycopg.sql import SQL, Composed

from recovery.packs.content_index import Row
from recovery.sources.postgres.client import Connection, translated_errors
from recovery.sources.postgres.definitions import columns, system_privileges
from recovery.sources.postgres.definitions.names import split
from recovery.sources.postgres.definitions.sql_snippets import CONFIGURATION, LASTING, OWN_TABLE, acl, in_order, own

SET_ASIDE_SCHEMA = "__(?:stage|before|replaced)_([0-9a-f]{8})$"
SET_ASIDE = "*__(stage|before|replaced)_[0-9a-f]{8}"
"""pg_dump's pattern of schemas that a restore made; they are never a source."""
_COLUMNS = SQL(
    """(SELECT jsonb_object_agg(a.attname, jsonb_strip_nulls(jsonb_build_object(
        'type', format_type(a.atttypid, a.atttypmod), 'not null', nullif(a.attnotnull, false), 'local', nullif(a.attislocal, true),
        'default', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum),
        'identity', nullif(a.attidentity, ''), 'generated', nullif(a.attgenerated, ''), 'storage', a.attstorage,
        'compression', nullif(to_jsonb(a) ->> 'attcompression', ''),
        'collation', (SELECT l.oid::regcollation::text FROM pg_collation l WHERE l.oid = a.attcollation),
        'options', a.attoptions, 'foreign options', {foreign_options}, 'acl', {acl})))
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)"""
).format(acl=acl("a.attacl", "'c'", "c.relowner"), foreign_options=in_order("a.attfdwoptions"))
_KEY_TYPES = """SELECT coalesce(a.atttypid, nullif(o.opcintype, 'oid'::regtype), 'regclass'::regtype)
    FROM unnest(p.partattrs::int2[], p.partclass::oid[]) k (attnum, class) JOIN pg_opclass o ON o.oid = k.class
      LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum AND k.attnum > 0"""
"""Types of a partition key. That of an expression is not in the catalogs: it is what its operator class takes, at most."""
_INNER_TYPES = """SELECT t.typbasetype WHERE t.typtype = 'd'
    UNION ALL SELECT t.typelem WHERE t.typelem <> 0
    UNION ALL SELECT a.atttypid FROM pg_attribute a
      WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.oid IN (r.rngtypid, (to_jsonb(r) ->> 'rngmultitypid')::oid)"""
"""Types that a domain, an array, a row, a range or a multirange (since PostgreSQL 14) is made of."""
_HASHED_BY_ENUM = SQL(
    """(SELECT a.relid::regclass::text FROM pg_partition_ancestors(c.oid) WITH ORDINALITY a (relid, place)
        JOIN pg_partitioned_table p ON p.partrelid = a.relid AND p.partstrat = 'h'
        WHERE a.relid <> c.oid AND EXISTS (
          WITH RECURSIVE held (type) AS ({key_types} UNION SELECT i.type FROM held h JOIN pg_type t ON t.oid = h.type,
            LATERAL ({inner_types}) i (type))
          SELECT FROM held h JOIN pg_type t ON t.oid = h.type
          WHERE t.typtype IN ('e', 'p') OR t.typnamespace = 'pg_catalog'::regnamespace AND t.typname ~ '^reg')
        ORDER BY a.place DESC LIMIT 1)"""
).format(key_types=SQL(_KEY_TYPES), inner_types=SQL(_INNER_TYPES))
"""The table whose rows lie in the one partition or the other by a number that is another in every database.

That is the number of an enum's value, or of what a ``regclass`` and its like name; also inside of other types.
"""

_TABLES = SQL(
    """SELECT 'table', c.oid::regclass::text, 'pg_class'::regclass::oid, c.oid, CASE WHEN x.extname IS NULL THEN jsonb_build_object(
        'type', CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' ELSE 'foreign table' END,
        'owner', pg_get_userbyid(c.relowner), 'acl', {acl}, 'persistence', c.relpersistence, 'columns', {columns},
        'parents', (SELECT jsonb_agg(i.inhparent::regclass::text ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid),
        'bound', pg_get_expr(c.relpartbound, c.oid), 'partition key', pg_get_partkeydef(c.oid), 'options', c.reloptions,
        'row security', c.relrowsecurity, 'forced', c.relforcerowsecurity, 'replica identity', c.relreplident,
        'of type', (SELECT format_type(c.reloftype, NULL) WHERE c.reloftype <> 0),
        'tablespace', (SELECT spcname FROM pg_tablespace s WHERE s.oid = c.reltablespace),
        'method', (SELECT amname FROM pg_am m WHERE m.oid = c.relam),
        'server', (SELECT s.srvname FROM pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver WHERE f.ftrelid = c.oid),
        'server options', (SELECT {server_options} FROM pg_foreign_table f WHERE f.ftrelid = c.oid),
        'hashed by enum', {hashed})
      ELSE jsonb_build_object('type', 'configuration of an extension', 'extension', x.extname, 'filter', nullif(x.filter, '')) END
      || jsonb_build_object(
        'data', c.relkind = 'r' AND NOT (c.relpersistence = 'u' AND pg_is_in_recovery()),
        'copy', (SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace {configuration}
    WHERE c.relkind IN ('r', 'p', 'f') AND {lasting} AND (x.extname IS NOT NULL AND c.relkind = 'r' OR {own})"""
).format(
    acl=acl("c.relacl", "'r'", "c.relowner"),
    columns=_COLUMNS,
    configuration=CONFIGURATION,
    server_options=in_order("f.ftoptions"),
    hashed=_HASHED_BY_ENUM,
    lasting=LASTING,
    own=own("pg_class", "c"),
)

_SEQUENCES = SQL(
    """SELECT 'sequence', c.oid::regclass::text, 'pg_class'::regclass::oid, c.oid, jsonb_build_object(
        'owner', pg_get_userbyid(c.relowner), 'acl', {acl}, 'persistence', c.relpersistence, 'type', format_type(s.seqtypid, NULL),
        'start', s.seqstart, 'increment', s.seqincrement, 'minimum', s.seqmin, 'maximum', s.seqmax, 'cache', s.seqcache,
        'cycle', s.seqcycle, 'of', (SELECT format('%s.%I', d.refobjid::regclass, a.attname) FROM pg_depend d
            JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass))
    FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {lasting} AND {own}"""
).format(acl=acl("c.relacl", "'s'", "c.relowner"), lasting=LASTING, own=own("pg_class", "c"))

_VIEWS = SQL(
    """SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END, c.oid::regclass::text, 'pg_class'::regclass::oid, c.oid,
      jsonb_build_object('owner', pg_get_userbyid(c.relowner), 'acl', {acl}, 'definition', pg_get_viewdef(c.oid), 'columns', {columns},
        'options', c.reloptions, 'populated', c.relispopulated,
        'tablespace', (SELECT spcname FROM pg_tablespace s WHERE s.oid = c.reltablespace))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND {lasting} AND {own}"""
).format(acl=acl("c.relacl", "'r'", "c.relowner"), columns=_COLUMNS, lasting=LASTING, own=own("pg_class", "c"))

_INDEXES = SQL(
    """SELECT 'index', c.oid::regclass::text, 'pg_class'::regclass::oid, c.oid, jsonb_build_object(
        'definition', pg_get_indexdef(c.oid), 'valid', CASE WHEN t.relkind <> 'p' THEN i.indisvalid END,
        'clustered', i.indisclustered, 'replica identity', i.indisreplident,
        'options', c.reloptions, 'tablespace', (SELECT spcname FROM pg_tablespace s WHERE s.oid = c.reltablespace),
        'parent', (SELECT h.inhparent::regclass::text FROM pg_inherits h WHERE h.inhrelid = c.oid),
        'constraint', (SELECT k.conname FROM pg_constraint k WHERE k.conindid = c.oid AND k.contype IN ('p', 'u', 'x')
          AND k.conrelid = t.oid))
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
      JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE t.relkind IN ('r', 'p', 'm') AND (i.indisvalid OR t.relkind = 'p') AND {lasting} AND {own}"""
).format(lasting=LASTING, own=own("pg_class", "t"))

_CONSTRAINTS = SQL(
    """SELECT 'constraint', coalesce(nullif(k.conrelid, 0)::regclass::text, format_type(k.contypid, NULL)) || ' '
        || quote_ident(CASE WHEN k.contype = 'n' AND NOT k.conislocal THEN pg_get_constraintdef(k.oid) ELSE k.conname END),
      'pg_constraint'::regclass::oid, k.oid,
      jsonb_build_object('definition', pg_get_constraintdef(k.oid), 'validated', k.convalidated, 'local', k.conislocal)
    FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
    WHERE k.conparentid = 0 AND k.contype <> 't' AND (k.contype <> 'n' OR NOT k.convalidated) AND {lasting} AND {own}
      AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.deptype = 'e' AND e.objid IN (k.conrelid, k.contypid)
        AND e.classid IN ('pg_class'::regclass, 'pg_type'::regclass))"""
).format(lasting=LASTING, own=own("pg_constraint", "k"))
"""An inherited NOT NULL comes back with the name that it has at the parent, whatever its own was."""

_FUNCTIONS = SQL(
    """SELECT CASE p.prokind WHEN 'a' THEN 'aggregate' WHEN 'p' THEN 'procedure' ELSE 'function' END,
      p.oid::regprocedure::text, 'pg_proc'::regclass::oid, p.oid, jsonb_build_object('owner', pg_get_userbyid(p.proowner), 'acl', {acl},
        'definition', CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END,
        'privileged', nullif(CASE WHEN p.prokind = 'a' THEN EXISTS (SELECT FROM pg_aggregate g WHERE g.aggfnoid = p.oid
            AND 'internal'::regtype IN (g.aggtranstype, g.aggmtranstype))
          ELSE NOT l.lanpltrusted OR p.proleakproof OR p.prosupport <> 0 OR EXISTS (SELECT FROM pg_settings s
            WHERE s.context LIKE 'superuser%' AND s.name = ANY (SELECT split_part(c, '=', 1) FROM unnest(p.proconfig) c)) END, false),
        'custom settings', (SELECT jsonb_agg(s ORDER BY s) FROM unnest(p.proconfig) c, split_part(c, '=', 1) s WHERE s LIKE '%.%'),
        'aggregate', (SELECT jsonb_build_object('transition', g.aggtransfn::regprocedure::text, 'final', g.aggfinalfn::text,
            'combine', g.aggcombinefn::text, 'state', format_type(g.aggtranstype, NULL), 'initial', g.agginitval, 'kind', g.aggkind)
          FROM pg_aggregate g WHERE g.aggfnoid = p.oid))
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang WHERE {lasting} AND {own}"""
).format(acl=acl("p.proacl", "'f'", "p.proowner"), lasting=LASTING, own=own("pg_proc", "p", ",i"))
"""Privileged are functions that only a superuser can make, whatever they do."""

_TRIGGERS = SQL(
    """SELECT 'trigger', t.tgrelid::regclass::text || ' ' || quote_ident(t.tgname), 'pg_trigger'::regclass::oid, t.oid,
      jsonb_build_object('definition', pg_get_triggerdef(t.oid), 'enabled', t.tgenabled)
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND coalesce(to_jsonb(t) ->> 'tgparentid', '0') = '0'
      AND {own} AND {own_table}
    UNION ALL SELECT 'rule', r.ev_class::regclass::text || ' ' || quote_ident(r.rulename), 'pg_rewrite'::regclass::oid, r.oid,
      jsonb_build_object('definition', pg_get_ruledef(r.oid), 'enabled', r.ev_enabled)
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class WHERE r.rulename <> '_RETURN' AND {own_table}
    UNION ALL SELECT 'policy', p.polrelid::regclass::text || ' ' || quote_ident(p.polname), 'pg_policy'::regclass::oid, p.oid,
      jsonb_build_object('command', p.polcmd, 'permissive', p.polpermissive, 'using', pg_get_expr(p.polqual, p.polrelid),
        'check', pg_get_expr(p.polwithcheck, p.polrelid), 'roles', (SELECT jsonb_agg(CASE WHEN r <> 0 THEN pg_get_userbyid(r) END
          ORDER BY pg_get_userbyid(r)) FROM unnest(p.polroles) r))
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE {own_table}"""
).format(own=own("pg_trigger", "t"), own_table=OWN_TABLE.format(own=own("pg_class", "c"), lasting=LASTING))

_TYPES = SQL(
    """SELECT CASE t.typtype WHEN 'd' THEN 'domain' WHEN 'e' THEN 'enum' ELSE 'type' END, format_type(t.oid, NULL),
      'pg_type'::regclass::oid, t.oid, jsonb_strip_nulls(jsonb_build_object(
        'owner', pg_get_userbyid(t.typowner), 'acl', {acl}, 'kind', t.typtype,
        'labels', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
        'columns', (SELECT jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum)
          FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped AND t.typtype = 'c'),
        'base', (SELECT format_type(t.typbasetype, t.typtypmod) WHERE t.typtype = 'd'), 'not null', nullif(t.typnotnull, false),
        'default', t.typdefault, 'collation', (SELECT l.oid::regcollation::text FROM pg_collation l WHERE l.oid = t.typcollation),
        'range', (SELECT format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngtypid = t.oid),
        'input', CASE WHEN t.typtype = 'b' THEN t.typinput::regproc::text END))
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE (t.typtype IN ('b', 'c', 'd', 'e', 'r') OR NOT t.typisdefined) AND (t.typrelid = 0 OR c.relkind = 'c') AND {lasting} AND {own}
      AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)"""
).format(acl=acl("t.typacl", "'T'", "t.typowner"), lasting=LASTING, own=own("pg_type", "t", ",i"))

_SCHEMAS = SQL(
    """SELECT 'schema', quote_ident(n.nspname), 'pg_namespace'::regclass::oid, n.oid,
      jsonb_build_object('owner', pg_get_userbyid(n.nspowner), 'acl', {acl})
    FROM pg_namespace n WHERE {lasting} AND (n.nspname = 'public' OR {own})
    UNION ALL SELECT 'extension', quote_ident(e.extname), 'pg_extension'::regclass::oid, e.oid,
      jsonb_build_object('schema', e.extnamespace::regnamespace::text, 'version', e.extversion) FROM pg_extension e
    UNION ALL SELECT 'default rights', concat_ws(' ', pg_get_userbyid(d.defaclrole), d.defaclobjtype::text,
        (SELECT quote_ident(s.nspname) FROM pg_namespace s WHERE s.oid = d.defaclnamespace)), 'pg_default_acl'::regclass::oid, d.oid,
      jsonb_build_object('acl', (SELECT jsonb_agg(DISTINCT jsonb_build_array(
        CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type, a.is_grantable)) FROM aclexplode(d.defaclacl) a))
    FROM pg_default_acl d
    UNION ALL SELECT 'statistics', s.stxnamespace::regnamespace::text || '.' || quote_ident(s.stxname), 'pg_statistic_ext'::regclass::oid,
      s.oid, jsonb_build_object('definition', pg_get_statisticsobjdef(s.oid), 'owner', pg_get_userbyid(s.stxowner))
    FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE {lasting} AND {own_statistics}
    UNION ALL SELECT 'user mapping', quote_ident(m.usename) || ' on server ' || quote_ident(m.srvname), 'pg_user_mapping'::regclass::oid,
      m.umid, CASE WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN jsonb_build_object('options',
        left(encode(sha256(convert_to(concat(m.usename, ' ', m.srvname, ' ') || {options}::text, getdatabaseencoding())), 'hex'), 16))
        ELSE '{{}}' END
    FROM pg_user_mappings m"""
).format(
    acl=acl("n.nspacl", "'n'", "n.nspowner"),
    lasting=LASTING,
    options=in_order("m.umoptions"),
    own=own("pg_namespace", "n"),
    own_statistics=own("pg_statistic_ext", "s"),
)

_COMMENTS = SQL(
    """SELECT 'comment', i.type || ' ' || i.identity, d.classoid, d.objoid, jsonb_build_object('text', d.description)
    FROM pg_description d, LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
    WHERE (d.objoid >= 16384 OR d.classoid = 'pg_namespace'::regclass AND d.objoid = to_regnamespace('public'))
      AND coalesce(i.schema, '') !~ '^pg_(temp|toast)' AND i.identity IS NOT NULL AND {among_comments}
      AND coalesce(i.schema || '.', CASE i.type WHEN 'schema' THEN i.identity || '.' ELSE i.identity END)
        !~ '__(stage|before|replaced)_[0-9a-f]{{8}}"?[.]'
      AND NOT EXISTS (SELECT FROM pg_depend o WHERE o.classid = d.classoid AND o.objid = d.objoid AND o.deptype = 'e')
      AND NOT EXISTS (SELECT FROM pg_constraint k WHERE d.classoid = 'pg_constraint'::regclass AND k.oid = d.objoid
        AND (k.conparentid <> 0 OR k.contype = 'n'))
    UNION ALL SELECT 'security label', l.provider || ' ' || l.objtype || ' ' || l.objname, l.classoid, l.objoid,
      jsonb_build_object('label', l.label)
    FROM pg_seclabels l WHERE l.objtype NOT IN ('database', 'role', 'tablespace') AND {among_labels}"""
)

_QUERIES: tuple[SQL | Composed, ...] = (
    _SCHEMAS,
    _TABLES,
    _SEQUENCES,
    _VIEWS,
    _INDEXES,
    _CONSTRAINTS,
    _FUNCTIONS,
    _TRIGGERS,
    _TYPES,
)
_ANY = SQL("true")
_OF_RELATIONS = """WITH own (oid) AS (SELECT c.oid FROM unnest(%s::text[], %s::text[]) w (schema, name)
      JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name)
    SELECT oid FROM own UNION SELECT indexrelid FROM pg_index JOIN own ON indrelid = own.oid
    UNION SELECT k.oid FROM pg_constraint k JOIN own ON k.conrelid = own.oid
    UNION SELECT t.oid FROM pg_trigger t JOIN own ON t.tgrelid = own.oid
    UNION SELECT r.oid FROM pg_rewrite r JOIN own ON r.ev_class = own.oid
    UNION SELECT p.oid FROM pg_policy p JOIN own ON p.polrelid = own.oid
    UNION SELECT s.oid FROM pg_statistic_ext s JOIN own ON s.stxrelid = own.oid"""

_RIGHTS = """SELECT jsonb_agg(DISTINCT jsonb_build_array(CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type))
    FROM aclexplode(coalesce(l.lomacl, acldefault('L', l.lomowner))) a"""
_LARGE_OBJECTS = SQL(
    "SELECT l.oid::text, (SELECT lo_lseek64(opened.fd, 0, 2) + lo_close(opened.fd) FROM (SELECT lo_open(l.oid, 262144) AS fd OFFSET 0)"
    " opened), pg_get_userbyid(l.lomowner), ({rights})::text FROM pg_largeobject_metadata l ORDER BY l.oid"
).format(rights=SQL(_RIGHTS))
"""A size is where the end is found (2 is ``SEEK_END``) when it is opened to be read (262144 is ``INV_READ``)."""


def object_rows(connection: Connection) -> Iterator[Row]:
    """A row for everything in a database that pg_dump would save, but for large objects.

    Raises:
        SourceError: if the server refuses.
    """
    comments = _COMMENTS.format(among_comments=_ANY, among_labels=_ANY)
    yield from _rows(connection, (*_QUERIES, comments, system_privileges.QUERY, *columns.queries(connection)))


def rows_of_numbers(connection: Connection, numbers: Collection[int]) -> Iterator[Row]:
    """Those of the rows that are about objects of some numbers (oids), in whatever catalog; the others are not looked at.

    Raises:
        SourceError: if the server refuses.
    """
    chosen = SQL("ANY ({}::oid[])").format(f"{{{','.join(map(str, numbers))}}}")
    comments = _COMMENTS.format(among_comments=SQL("d.objoid = ") + chosen, among_labels=SQL("l.objoid = ") + chosen)
    others = (*_QUERIES, *columns.queries(connection))
    own = [SQL("SELECT * FROM ({}) own (kind, name, class, oid, facts) WHERE oid = {}").format(query, chosen) for query in others]
    yield from _rows(connection, [*own, comments])


def _rows(connection: Connection, queries: Iterable[SQL | Composed]) -> Iterator[Row]:
    with translated_errors(f"Reading the catalogs of {connection.info.dbname}"):
        for query in queries:
            for kind, name, class_oid, oid, facts in connection.execute(query).fetchall():
                yield kind, name, facts | ({"at": [class_oid, oid]} if oid else {})


def numbers_of(connection: Connection, names: Iterable[str]) -> list[int]:
    """The numbers (oids) of relations, by names as the catalogs quote them, and of what belongs to them."""
    named = [split(name) for name in names]
    with translated_errors(f"Looking for tables of {connection.info.dbname}"):
        rows = connection.execute(_OF_RELATIONS, [[schema for schema, _ in named], [name for _, name in named]]).fetchall()
    return [number for (number,) in rows]


def large_objects(connection: Connection) -> Iterator[tuple[int, int, str, str]]:
    """Number, size, owner and rights of every large object, as they are read."""
    with translated_errors(f"Listing the large objects of {connection.info.dbname}"), connection.cursor("large_objects") as cursor:
        cursor.itersize = 10_000
        for oid, size, owner, rights in cursor.execute(_LARGE_OBJECTS):
            yield int(oid), size, owner, rights
