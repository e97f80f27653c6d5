"""Relations of a live database, and what else there uses them: what a swap takes with it, and what it can't."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composed, Identifier, Literal

from recovery.sources.postgres.client import Connection
from recovery.sources.postgres.definitions.names import quoted_name, split
from recovery.sources.postgres.tables.contents import Chosen
from recovery.sources.postgres.tables.functions import Function, functions

_LEAVING = """WITH RECURSIVE leaving (oid) AS (
      SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = ANY ('{r,p,f,v,m,S}')
        AND (n.nspname = ANY (%s) OR (n.nspname::text, c.relname::text) IN (SELECT * FROM unnest(%s::text[], %s::text[])))
        AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
      UNION SELECT i.inhrelid FROM pg_inherits i JOIN leaving ON i.inhparent = leaving.oid)
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.oid::regclass::text, coalesce(pg_total_relation_size(c.oid), 0),
      (SELECT d.refobjid::regclass::text FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
        AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND c.relkind = 'S' LIMIT 1),
      ARRAY(SELECT i.inhparent::regclass::text FROM pg_inherits i WHERE i.inhrelid = c.oid)
    FROM leaving JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 5"""

_USES = """WITH leaving AS (SELECT unnest(%s::oid[]) AS oid), own (oid) AS (
      SELECT oid FROM leaving UNION SELECT d.objid FROM pg_depend d JOIN leaving ON d.refobjid = leaving.oid
        AND d.refclassid = 'pg_class'::regclass JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        WHERE d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')),
    inside (classid, objid) AS (
      SELECT 'pg_class'::regclass::oid, oid FROM own
      UNION SELECT 'pg_class'::regclass, indexrelid FROM pg_index JOIN own ON indrelid = own.oid
      UNION SELECT 'pg_type'::regclass, t.oid FROM pg_type t JOIN own ON t.typrelid = own.oid
      UNION SELECT 'pg_type'::regclass, t.typarray FROM pg_type t JOIN own ON t.typrelid = own.oid WHERE t.typarray <> 0
      UNION SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k JOIN own ON k.conrelid = own.oid
      UNION SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger t JOIN own ON t.tgrelid = own.oid
      UNION SELECT 'pg_rewrite'::regclass, r.oid FROM pg_rewrite r JOIN own ON r.ev_class = own.oid
      UNION SELECT 'pg_attrdef'::regclass, a.oid FROM pg_attrdef a JOIN own ON a.adrelid = own.oid
      UNION SELECT 'pg_policy'::regclass, p.oid FROM pg_policy p JOIN own ON p.polrelid = own.oid
      UNION SELECT 'pg_statistic_ext'::regclass, s.oid FROM pg_statistic_ext s JOIN own ON s.stxrelid = own.oid)
    SELECT DISTINCT regexp_replace(pg_describe_object(d.classid, d.objid, 0), '^rule "?_RETURN"? on ', ''),
      CASE d.refclassid WHEN 'pg_class'::regclass THEN d.refobjid::regclass::text WHEN 'pg_type'::regclass THEN (
        SELECT t.typrelid::regclass::text FROM pg_type t WHERE d.refobjid IN (t.oid, t.typarray) AND t.typrelid <> 0) END,
      (SELECT r.ev_class::regclass::text FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class
        WHERE d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid AND r.rulename = '_RETURN' AND v.relkind = 'v'),
      EXISTS (SELECT FROM pg_constraint k WHERE d.classid = 'pg_constraint'::regclass AND k.oid = d.objid AND k.contype = 'f'),
      CASE WHEN d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_type'::regclass THEN d.objid END
    FROM pg_depend d JOIN inside i ON d.refclassid = i.classid AND d.refobjid = i.objid
    WHERE NOT EXISTS (SELECT FROM inside x WHERE x.classid = d.classid AND x.objid = d.objid)
      AND NOT EXISTS (SELECT FROM pg_class t WHERE d.classid = 'pg_class'::regclass AND t.oid = d.objid
        AND t.relnamespace = 'pg_toast'::regnamespace)
      AND NOT EXISTS (SELECT FROM pg_trigger t WHERE d.classid = 'pg_trigger'::regclass AND t.oid = d.objid AND t.tgisinternal)
    ORDER BY 1"""
_READ_AS_OURSELVES = """WITH RECURSIVE views (oid) AS (SELECT unnest(%s::text[])::regclass::oid),
      used (view, type, oid) AS (SELECT v.oid, d.refobjid, d.refobjid FROM views v JOIN pg_rewrite r ON r.ev_class = v.oid
          JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_type'::regclass
        UNION SELECT u.view, u.type, e.oid FROM used u JOIN pg_type t ON t.oid = u.oid LEFT JOIN pg_range n ON t.oid IN (n.rngtypid,
          (to_jsonb(n) ->> 'rngmultitypid')::oid) JOIN pg_type e ON e.oid IN (t.typelem, t.typbasetype, n.rngsubtype) AND e.oid <> 0)
    SELECT DISTINCT u.view::regclass::text, format_type(u.type, NULL) FROM used u JOIN pg_type t ON t.oid = u.oid
      JOIN pg_class v ON v.oid = u.view JOIN pg_roles o ON o.oid = v.relowner
    WHERE NOT o.rolsuper AND t.oid >= 16384
      AND (t.typtype = 'c' OR t.typtype = 'd' AND u.oid <> u.type OR t.typtype = 'b' AND t.typelem = 0 AND NOT EXISTS (
        SELECT FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.oid = t.typinput AND l.lanname IN ('c', 'internal')))
    ORDER BY 1, 2"""
"""Views with constants that run a function of a type's owner when the view is made anew, as domains do within arrays and rows."""
_FOREIGN_KEYS = """SELECT k.oid, k.conrelid::regclass::text, k.conname, k.confrelid::regclass::text, pg_get_constraintdef(k.oid),
      obj_description(k.oid, 'pg_constraint')
    FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0 AND {} ORDER BY 2, 3"""
_INCOMING = _FOREIGN_KEYS.format("k.confrelid = ANY (%s) AND k.conrelid <> ALL (%s)")
_OUTGOING = _FOREIGN_KEYS.format("k.conrelid = ANY (%s) AND k.confrelid <> ALL (%s)")
_PUBLISHED = """SELECT p.pubname FROM pg_publication p WHERE p.puballtables
    UNION SELECT p.pubname FROM pg_publication p JOIN pg_publication_namespace s ON s.pnpubid = p.oid
      JOIN pg_namespace n ON n.oid = s.pnnspid
    WHERE n.nspname = ANY (%s) ORDER BY 1"""


@dataclass(frozen=True)
class Relation:
    """A table, view, materialized view or sequence of a live database."""

    oid: int
    schema: str
    name: str
    kind: str
    """As ``pg_class.relkind``."""
    qualified: str
    """As the catalogs quote it."""
    bytes: int
    owner: str | None
    """Of a sequence, the table whose column it belongs to."""
    parents: list[str]
    """Of a partition or a child."""

    @property
    def identifier(self) -> Identifier:
        """For SQL."""
        return Identifier(self.schema, self.name)


def leaving(connection: Connection, part: Chosen) -> list[Relation]:
    """The live relations whose place a restore takes: those of its names, all of its schemas, and their partitions and children."""
    named = [split(name) for name in part.names]
    named += [(asked.schema, asked.table) for asked in part.parts if asked.table is not None]
    return relations_in(connection, [asked.schema for asked in part.parts if asked.table is None], named)


def relations_in(connection: Connection, schemas: Collection[str], named: Sequence[tuple[str, str]] = ()) -> list[Relation]:
    """All relations of some schemas, those of some names, and their partitions and children."""
    rows = connection.execute(_LEAVING, [list(schemas), [name[0] for name in named], [name[1] for name in named]]).fetchall()
    return [Relation(*row) for row in rows]


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key of a live database."""

    oid: int
    table: str
    name: str
    parent: str
    definition: str
    comment: str | None

    @property
    def is_checked(self) -> bool:
        """Whether rows that are there have to hold it, and not only those that are written."""
        return not self.definition.endswith(("NOT VALID", "NOT ENFORCED"))

    def dropped(self) -> Composed:
        """The statement that drops it."""
        return SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(SQL(self.table), Identifier(self.name))

    def made(self, *, checked: bool = True) -> Composed:
        """The statement that makes it."""
        not_valid = "" if checked or not self.is_checked else " NOT VALID"
        return SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(SQL(self.table), Identifier(self.name), SQL(self.definition + not_valid))

    def commented(self) -> Composed | None:
        """The statement that gives it its comment."""
        if self.comment is None:
            return None
        return SQL("COMMENT ON CONSTRAINT {} ON {} IS {}").format(Identifier(self.name), SQL(self.table), Literal(self.comment))


@dataclass(frozen=True)
class Uses:
    """What uses relations that leave, or is used by them, and does not leave itself."""

    incoming: tuple[ForeignKey, ...]
    outgoing: tuple[ForeignKey, ...]
    views: Mapping[str, Composed]
    """Views, and the statements that make each anew, of whatever has the names by then."""
    functions: tuple[Function, ...]
    """Functions that take or give their rows, to be made anew."""
    related: tuple[str, ...]
    """The tables at the other end of the foreign keys."""
    refused: tuple[str, ...]
    """What can't be pointed to other relations, in words."""


def uses(connection: Connection, out: Sequence[Relation], returning: Iterable[str]) -> Uses:
    """Find what uses relations that leave.

    Args:
        connection: to their database.
        out: the relations.
        returning: names that there are again afterwards.
    """
    oids = [relation.oid for relation in out]
    there = set(returning)
    incoming, outgoing = (
        tuple(ForeignKey(*row) for row in connection.execute(query, [oids, oids]).fetchall()) for query in (_INCOMING, _OUTGOING)
    )
    names = {relation.qualified for relation in out}
    lost = "which the set lacks"
    refused = [f"foreign key {key.name} of {key.table} points to {key.parent}, {lost}" for key in incoming if key.parent not in there]
    views: dict[str, None] = {}
    rows = connection.execute(_USES, [oids]).fetchall()
    again = functions(connection, {function for _, of, _, _, function in rows if function and of in there})
    led = {function.oid for function in again}
    for what, of, view, is_foreign_key, function in rows:
        if view is not None and of in names - there:
            refused.append(f"view {view} shows {of}, {lost}")
        elif view is not None:
            views[view] = None
        elif not is_foreign_key and not (of in there and function in led):
            refused.append(what if of is None else f"{what} uses {of}")
    related = {key.table for key in incoming} | {key.parent for key in outgoing}
    refused += [
        f"view {view} uses the type {kind}, of which a constant can run functions of its owner as {quoted_name(connection.info.user)}"
        for view, kind in connection.execute(_READ_AS_OURSELVES, [list(views)]).fetchall()
    ]
    refused += [
        f"{relation.qualified} is a partition or child of {parent}"
        for relation in out
        for parent in relation.parents
        if parent not in names
    ]
    return Uses(incoming, outgoing, {name: _view(connection, name) for name in views}, again, tuple(sorted(related)), tuple(refused))


def _view(connection: Connection, name: str) -> Composed:
    row = connection.execute("SELECT pg_get_viewdef(oid), reloptions FROM pg_class WHERE oid = %s::regclass", [name]).fetchone()
    assert row is not None
    options = [option.split("=", 1) for option in row[1] or ()]
    given = SQL(", ").join(SQL("{} = {}").format(Identifier(key), Literal(value)) for key, value in options)
    return SQL("CREATE OR REPLACE VIEW {} {} AS {}").format(SQL(name), SQL("WITH ({})").format(given) if options else SQL(""), SQL(row[0]))


def published(connection: Connection, schemas: Iterable[str]) -> list[str]:
    """Publications that new tables in some schemas would be in at once, with all their rows."""
    with_schemas = connection.info.server_version >= 150000
    query = _PUBLISHED if with_schemas else "SELECT pubname FROM pg_publication WHERE puballtables ORDER BY 1"
    return [name for (name,) in connection.execute(query, [list(schemas)] if with_schemas else None).fetchall()]


def subscribed(connection: Connection, out: Iterable[Relation]) -> Iterator[tuple[str, str]]:
    """Subscriptions that feed relations, which pg_depend does not know: ``(subscription, relation)``."""
    query = """SELECT pg_describe_object('pg_subscription'::regclass, srsubid, 0), srrelid::regclass::text
        FROM pg_subscription_rel WHERE srrelid = ANY (%s) ORDER BY 1, 2"""
    yield from connection.execute(query, [[relation.oid for relation in out]]).fetchall()


def taken(connection: Connection, out: Sequence[Relation], wanted: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names that a restore needs and that something has which does not leave: ``(name, what has it)``."""
    query = """SELECT c.oid::regclass::text, pg_describe_object('pg_class'::regclass, c.oid, 0), t.name
        FROM unnest(%s::text[], %s::text[]) w (schema, name) JOIN pg_namespace n ON n.nspname = w.schema
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
        LEFT JOIN LATERAL (SELECT i.indrelid AS oid FROM pg_index i WHERE i.indexrelid = c.oid
          UNION ALL SELECT d.refobjid FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND c.relkind = 'S'
            AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')) o ON true
        LEFT JOIN LATERAL (SELECT o.oid::regclass::text AS name) t ON true
        WHERE coalesce(o.oid, c.oid) <> ALL (%s) ORDER BY 1"""
    names = [split(name) for name in wanted]
    rows = connection.execute(query, [[name[0] for name in names], [name[1] for name in names], [relation.oid for relation in out]])
    for name, what, of in rows.fetchall():
        yield name, what if of is None else f"{what} of {of}"
