"""What a plan leaves out of the backup of a database: ``exclude`` and ``exclude_rows``, as the database has it.

A schema or table goes with all that is a part of it. What stays and uses it could not be made again by a restore, so it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Literal

from recovery.common.errors import SourceError
from recovery.common.wording import shortened
from recovery.packs.content_index import Row
from recovery.plan.kinds.postgres import PostgresSettings
from recovery.plan.name_patterns import names_in
from recovery.sources.postgres.client import Connection, translated_errors
from recovery.sources.postgres.definitions.catalog import SET_ASIDE_SCHEMA
from recovery.sources.postgres.definitions.names import pattern, quoted_name
from recovery.sources.postgres.dump.copy_text import TableText
from recovery.sources.postgres.targets import LEFT_OUT

_EXTENSION = """(SELECT x.extname::text FROM pg_depend e JOIN pg_extension x ON x.oid = e.refobjid
    WHERE e.deptype = 'e' AND e.classid = {}::regclass AND e.objid = {})"""
_THINGS = SQL(
    """SELECT 'pg_namespace'::regclass::oid, oid, 'schema', ARRAY[nspname::text], quote_ident(nspname), {of_schema}
    FROM pg_namespace n WHERE nspname !~ '^pg_|^information_schema$' AND nspname !~ %(aside)s
    UNION ALL SELECT 'pg_class'::regclass, c.oid,
      CASE relkind WHEN 'f' THEN 'foreign table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
        WHEN 'p' THEN 'partitioned table' ELSE 'table' END,
      ARRAY[nspname::text, relname::text], c.oid::regclass::text, {of_relation}
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind = ANY ('{{r,p,f,v,m,S}}') AND nspname !~ '^pg_|^information_schema$' AND nspname !~ %(aside)s"""
).format(
    of_schema=SQL(_EXTENSION).format(Literal("pg_namespace"), SQL("n.oid")),
    of_relation=SQL(_EXTENSION).format(Literal("pg_class"), SQL("c.oid")),
)
_PARTS = """WITH RECURSIVE parts (classid, objid) AS (SELECT * FROM unnest(%s::oid[], %s::oid[])
      UNION SELECT d.classid, d.objid FROM parts p JOIN pg_depend d ON d.refclassid = p.classid AND d.refobjid = p.objid
      WHERE d.objsubid = 0 AND d.classid::regclass::text !~ '^pg_publication_' AND (d.deptype = ANY ('{a,i,P,S}')
          OR p.classid = 'pg_namespace'::regclass AND d.classid <> 'pg_extension'::regclass)
        AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e'))
    SELECT classid, objid FROM parts"""
"""Schemas and relations, what they have, and what goes with that; pg_dump saves what a publication has of it all the same."""
_USERS = """WITH parts (classid, objid) AS (SELECT * FROM unnest(%s::oid[], %s::oid[]))
    SELECT regexp_replace(pg_describe_object(d.classid, d.objid, 0), '^rule "?_RETURN"? on ', '') || ' uses '
      || max(pg_describe_object(d.refclassid, d.refobjid, 0))
    FROM parts p JOIN pg_depend d ON d.refclassid = p.classid AND d.refobjid = p.objid
    WHERE d.deptype <> 'e' AND NOT EXISTS (SELECT FROM parts o WHERE o.classid = d.classid AND o.objid = d.objid)
      AND NOT EXISTS (SELECT FROM pg_index i WHERE d.refclassid = 'pg_class'::regclass AND i.indexrelid = d.refobjid)
    GROUP BY d.classid, d.objid
    UNION SELECT 'table ' || i.inhparent::regclass || ' has the partition ' || i.inhrelid::regclass
    FROM parts p JOIN pg_inherits i ON p.classid = 'pg_class'::regclass AND i.inhrelid = p.objid
      JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition AND c.relkind = ANY ('{r,p,f}')
    WHERE NOT EXISTS (SELECT FROM parts o WHERE o.classid = 'pg_class'::regclass AND o.objid = i.inhparent)
    ORDER BY 1"""
_PARTITIONS = """WITH RECURSIVE emptied (oid, top) AS (SELECT oid, oid FROM unnest(%s::oid[]) oid
      UNION SELECT i.inhrelid, e.top FROM emptied e JOIN pg_inherits i ON i.inhparent = e.oid JOIN pg_class c ON c.oid = i.inhrelid
      WHERE c.relispartition)
    SELECT oid, top FROM emptied"""
_POINTING = """SELECT pg_describe_object('pg_constraint'::regclass, k.oid, 0) || ' points to ' || k.confrelid::regclass
    FROM pg_constraint k WHERE k.contype = 'f' AND k.convalidated AND k.confrelid = ANY (%s) AND k.conrelid <> ALL (%s) ORDER BY 1"""
_TABLES = frozenset({"table", "partitioned table"})


@dataclass(frozen=True)
class _Thing:
    """A schema or relation."""

    catalog: int
    number: int
    kind: str
    names: tuple[str, ...]
    shown: str
    extension: str | None
    """That it is a member of."""

    def option(self, what: str) -> str:
        """Of pg_dump: leave it out."""
        return f"--exclude-{what}={'.'.join(map(pattern, self.names))}"


@dataclass(frozen=True)
class _Pattern:
    """A pattern of the plan, for one database."""

    key: str
    text: str
    names: tuple[re.Pattern[str], ...]

    def fits(self, *names: str) -> bool:
        return len(names) == len(self.names) and all(map(re.Pattern[str].fullmatch, self.names, names))


@dataclass(frozen=True)
class Exclusions:
    """What is left out of the backup of a database."""

    objects: frozenset[tuple[int, int]] = frozenset()
    """Catalog and number of all that is left out as a whole."""
    emptied: frozenset[int] = frozenset()
    """Numbers of tables whose rows are left out."""
    options: tuple[str, ...] = ()
    """For pg_dump."""
    listed: tuple[Row, ...] = ()
    """A row for each schema and table: what of it is left out, and by which pattern of the plan."""
    used: frozenset[str] = frozenset()
    """The patterns that something fits, each with its key."""

    @property
    def numbers(self) -> list[int]:
        """Those of ``objects``, of relations among others."""
        return [number for _, number in self.objects]

    @property
    def without_rows(self) -> list[int]:
        """Numbers of the relations of which the backup has no rows."""
        return [*self.numbers, *self.emptied]

    def without(self, relations: Mapping[str, int]) -> dict[str, int]:
        """Relations by name, but for those that are left out."""
        left_out = set(self.numbers)
        return {name: number for name, number in relations.items() if number not in left_out}

    def apply(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows of a database's catalogs as the backup has them: a table whose rows are left out has none."""
        empty = TableText().facts()
        for kind, name, facts in rows:
            at = tuple(facts.get("at", ()))
            if at not in self.objects:
                yield kind, name, facts | empty if kind == "table" and facts["data"] and at[1] in self.emptied else facts
        yield from self.listed

    def sentences(self, database: str) -> Iterator[str]:
        """What is left out, pattern by pattern."""
        found: dict[str, list[str]] = {}
        for _, name, facts in self.listed:
            found.setdefault(facts["by"], []).append(name if facts["what"] == "rows" else f"{facts['what']} {name}")
        for by, names in sorted(found.items()):
            what = "the rows of " if by.startswith("exclude_rows ") else ""
            yield f"{database}: left out by {by}: {what}{shortened(names)}."


def unmatched(settings: PostgresSettings, found: Iterable[Exclusions]) -> Iterator[str]:
    """Patterns that nothing fits, in sentences: what they were meant for may be in the backup."""
    used = frozenset[str]().union(*(each.used for each in found))
    for key, text in _written(settings):
        if f"{key} {text}" not in used:
            yield f"Nothing fits {key} {text}; look whether it is written right."


def _written(settings: PostgresSettings) -> Iterator[tuple[str, str]]:
    yield from (("exclude", text) for text in settings.exclude)
    yield from (("exclude_rows", text) for text in settings.exclude_rows)


def find(connection: Connection, settings: PostgresSettings) -> Exclusions:
    """What the plan leaves out of a session's database.

    Raises:
        SourceError: if something that stays uses what is left out.
    """
    patterns = [
        _Pattern(key, text, tuple(name.pattern for name in inside))
        for key, text in _written(settings)
        for database, *inside in [names_in(text)]
        if database.pattern.fullmatch(connection.info.dbname)
    ]
    if not patterns:
        return Exclusions()
    with translated_errors(f"Looking for what the plan leaves out of {connection.info.dbname}"):
        things = _things(connection)
        whole = {thing: by for thing in things if (by := _fitting(patterns, "exclude", thing.names))}
        objects = _parts(connection, whole)
        kept = [thing for thing in things if (thing.catalog, thing.number) not in objects]
        rows = _emptied(connection, patterns, [thing for thing in kept if thing.kind in _TABLES], objects)
    schemas = [thing for thing in whole if thing.kind == "schema"]
    inside = {thing.names[0] for thing in schemas}
    relations = [thing for thing in things if (thing.catalog, thing.number) in objects and thing.names[0] not in inside]
    return Exclusions(
        frozenset(objects),
        frozenset(thing.number for thing in rows),
        (
            *(thing.option("schema") for thing in schemas),
            *(thing.option("table") for thing in relations),
            *(thing.option("table-data") for thing in rows if thing.kind == "table"),
        ),
        (
            *((LEFT_OUT, thing.shown, {"what": thing.kind, "by": by[0]}) for thing, by in whole.items()),
            *((LEFT_OUT, thing.shown, {"what": "rows", "by": by[0]}) for thing, by in rows.items()),
        ),
        frozenset(text for by in (*whole.values(), *rows.values()) for text in by),
    )


def _things(connection: Connection) -> list[_Thing]:
    rows = connection.execute(_THINGS, {"aside": SET_ASIDE_SCHEMA}).fetchall()
    return [_Thing(catalog, number, kind, tuple(names), shown, extension) for catalog, number, kind, names, shown, extension in rows]


def _fitting(patterns: Iterable[_Pattern], key: str, *names: Sequence[str]) -> list[str]:
    """The patterns of a key that one of several names fits, each with its key."""
    return [f"{key} {one.text}" for one in patterns if one.key == key and any(one.fits(*each) for each in names)]


def _parts(connection: Connection, whole: Mapping[_Thing, list[str]]) -> set[tuple[int, int]]:
    """Catalog and number of some things, and of all that goes with them.

    Raises:
        SourceError: if something stays that uses one of these, or that one is a part of.
    """
    if members := [f"{thing.kind} {thing.shown} to {quoted_name(thing.extension)}" for thing in whole if thing.extension]:
        raise SourceError(
            f"The plan excludes what belongs to extensions of {connection.info.dbname}, which come back whole: {shortened(members)}.",
            "Take it out of exclude; exclude_rows leaves the rows of an extension's tables out.",
        )
    chosen = [[thing.catalog for thing in whole], [thing.number for thing in whole]]
    found = {(int(catalog), int(number)) for catalog, number in connection.execute(_PARTS, chosen).fetchall()}
    both = [[catalog for catalog, _ in found], [number for _, number in found]]
    if users := [words for (words,) in connection.execute(_USERS, both).fetchall()]:
        raise SourceError(
            f"A restore of {connection.info.dbname} would fail without what the plan excludes: {shortened(users)}.",
            "Exclude what uses it too, or take it out of exclude; exclude_rows leaves out the rows of a table alone.",
        )
    return found


def _emptied(
    connection: Connection, patterns: Sequence[_Pattern], tables: Sequence[_Thing], gone: Collection[tuple[int, int]]
) -> dict[_Thing, list[str]]:
    """Tables whose rows are left out, with all of their partitions.

    Raises:
        SourceError: if rows that stay may point to them.
    """
    by_number = {thing.number: thing for thing in tables}
    fitting = {thing.number: by for thing in tables if (by := _fitting(patterns, "exclude_rows", thing.names, thing.names[:1]))}
    found: dict[_Thing, list[str]] = {}
    for number, top in connection.execute(_PARTITIONS, [list(fitting)]).fetchall():
        if number in by_number:
            found.setdefault(by_number[number], []).extend(fitting[top])
    numbers = [thing.number for thing in found]
    if pointing := [words for (words,) in connection.execute(_POINTING, [numbers, [*numbers, *(one for _, one in gone)]]).fetchall()]:
        raise SourceError(
            f"A restore of {connection.info.dbname} would fail without the rows that the plan leaves out: {shortened(pointing)}.",
            "Leave out the rows of the tables that point there too, or take it out of exclude_rows.",
        )
    return found
