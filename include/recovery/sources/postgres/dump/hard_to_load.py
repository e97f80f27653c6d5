"""What a restore may not be able to make, or may make otherwise, as far as the catalogs tell without a look at rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import get_args

from recovery.common.errors import SourceError
from recovery.common.wording import shortened
from recovery.sources.postgres.client import Connection, translated_errors
from recovery.sources.postgres.definitions import catalog
from recovery.sources.postgres.dump.function_text import Kind, Mentions, Name, mentions

_AT_MOST = 3
_SYSTEM = frozenset({"pg_catalog", "information_schema"})
_READ_AT_MOST = 100_000
"""Characters of a function that are read."""
_OBJECTS = """WITH RECURSIVE objects (kind, name, definition, class, number, relation, schema) AS (
      SELECT 'materialized view', c.oid::regclass::text, NULL, 'pg_rewrite'::regclass::oid, r.oid, c.oid, c.relnamespace
      FROM pg_class c JOIN pg_rewrite r ON r.ev_class = c.oid WHERE c.relkind = 'm' AND c.relispopulated
      UNION ALL SELECT 'index', c.oid::regclass::text, NULL, 'pg_class'::regclass, c.oid, i.indrelid, c.relnamespace
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
      WHERE (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) AND NOT c.relispartition
      UNION ALL SELECT 'partition key of', c.oid::regclass::text, NULL, 'pg_class'::regclass, c.oid, c.oid, c.relnamespace
      FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid WHERE p.partexprs IS NOT NULL
      UNION ALL SELECT 'stored column', format('%%s.%%I', c.oid::regclass, a.attname), NULL, 'pg_attrdef'::regclass, d.oid, c.oid,
        c.relnamespace
      FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum JOIN pg_class c ON c.oid = a.attrelid
      WHERE a.attgenerated = 's' AND a.attinhcount = 0
      UNION ALL SELECT 'check',
        format('%%s %%I', coalesce(nullif(k.conrelid, 0)::regclass::text, format_type(k.contypid, NULL)), k.conname),
        pg_get_constraintdef(k.oid), 'pg_constraint'::regclass, k.oid, k.conrelid, k.connamespace
      FROM pg_constraint k WHERE k.contype = 'c' AND k.convalidated AND k.coninhcount = 0),
    steps (class, number, called_class, called) AS (SELECT o.class, o.number, o.class, o.number FROM objects o
      UNION SELECT s.class, s.number, n.class, n.number FROM steps s, LATERAL (
        SELECT d.refclassid, d.refobjid FROM pg_depend d WHERE d.classid = s.called_class AND d.objid = s.called
          AND (s.called_class, s.called) IN ((s.class, s.number), ('pg_rewrite'::regclass, s.called))
          AND (d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
            OR d.refclassid = 'pg_class'::regclass AND s.called_class = 'pg_rewrite'::regclass)
        UNION ALL SELECT 'pg_rewrite'::regclass, r.oid FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class AND v.relkind = 'v'
          WHERE s.called_class = 'pg_class'::regclass AND v.oid = s.called
        UNION ALL SELECT 'pg_proc'::regclass, p.oprcode FROM pg_operator p
          WHERE s.called_class = 'pg_operator'::regclass AND p.oid = s.called) n (class, number))
    SELECT o.kind, o.name, o.definition, coalesce(c.called, '{}') FROM objects o JOIN pg_namespace n ON n.oid = o.schema
      LEFT JOIN (SELECT class, number, array_agg(called) FROM steps WHERE called_class = 'pg_proc'::regclass GROUP BY 1, 2)
        c (class, number, called) ON (c.class, c.number) = (o.class, o.number)
    WHERE o.number >= 16384 AND n.nspname !~ '^pg_(temp|toast)' AND n.nspname !~ %s AND NOT EXISTS (SELECT FROM pg_depend d
      WHERE d.classid = 'pg_class'::regclass AND d.objid = o.relation AND d.deptype = 'e')
    ORDER BY 1, 2"""
"""What is computed while rows are loaded or after that, and the functions that it calls: by itself, by operators, or by views."""
_FUNCTIONS = """SELECT p.oid, p.oid::regprocedure::text, left(CASE WHEN l.lanname IN ('internal', 'c') THEN ''
        WHEN p.prosrc = '' THEN pg_get_functiondef(p.oid) ELSE p.prosrc END, %s),
      p.prosrc <> '' AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search\\_path=%%'),
      (SELECT array_remove(ARRAY[g.aggtransfn, g.aggfinalfn, g.aggcombinefn, g.aggmtransfn, g.aggmfinalfn]::oid[], 0)
        FROM pg_aggregate g WHERE g.aggfnoid = p.oid)
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.oid = ANY (%s)"""
"""Number, name, text, whether the session's search path decides on names in it, and what an aggregate calls.

The text of a function with a body of standard SQL is the one that the server writes, which has the schemas.
"""
_KNOWN = """SELECT k.kind, n.nspname, k.name, k.number FROM (
      SELECT 'relation', relname, relnamespace, 0::oid FROM pg_class
      WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relname = ANY (%(relation)s)
      UNION ALL SELECT 'function', proname, pronamespace, oid FROM pg_proc WHERE proname = ANY (%(function)s)
      UNION ALL SELECT 'type', typname, typnamespace, 0 FROM pg_type t WHERE typname = ANY (%(type)s) AND (typrelid = 0
        OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
      UNION ALL SELECT 'operator', oprname, oprnamespace, oprcode FROM pg_operator WHERE oprname = ANY (%(operator)s)
      UNION ALL SELECT 'text search', cfgname, cfgnamespace, 0 FROM pg_ts_config WHERE cfgname = ANY (%(text search)s)
      UNION ALL SELECT 'text search', dictname, dictnamespace, 0 FROM pg_ts_dict WHERE dictname = ANY (%(text search)s)
    ) k (kind, name, schema, number) JOIN pg_namespace n ON n.oid = k.schema WHERE n.nspname !~ '^pg_(temp|toast)'"""
_SWITCHED_OFF = """SELECT DISTINCT format('%%s %%I', k.conrelid::regclass, k.conname)
    FROM pg_constraint k JOIN pg_trigger t ON t.tgconstraint = k.oid JOIN pg_namespace n ON n.oid = k.connamespace
    WHERE k.contype = 'f' AND k.convalidated AND t.tgisinternal AND t.tgenabled IN ('D', 'R') AND n.nspname !~ %s ORDER BY 1"""
_UNQUOTED = """SELECT format('%%I of %%s', k.conname, c.oid::regclass) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1] JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE k.contype = 'n' AND k.conislocal AND NOT a.attislocal AND NOT c.relispartition AND quote_ident(k.conname) <> k.conname
      AND n.nspname !~ %s AND c.oid <> ALL (%s) ORDER BY 1"""
"""Names that pg_dump 18 writes as they are: of a NOT NULL of a child's own on a column that it inherits."""
_ONLY_EARLIER = re.compile(r"<=? \(*(?:now\(\)|(?:CURRENT|LOCAL)_?(?:DATE|TIME(?:STAMP)?)\b)")
"""In a check: what was before some moment stays so."""


@dataclass(frozen=True)
class _Object:
    kind: str
    name: str
    definition: str | None
    """Of a check."""
    calls: frozenset[int]


@dataclass
class _Function:
    name: str
    by_path: bool
    """Whether the session's search path decides on names in it."""
    mentions: Mentions
    unqualified: list[str] = field(default_factory=list)
    """Names without a schema that are those of users' objects, and of none of PostgreSQL's own."""
    reads: list[str] = field(default_factory=list)
    calls: set[int] = field(default_factory=set)


_Known = Mapping[tuple[str, str], Mapping[str, list[int]]]
"""By kind and name the schemas that have it, each with the numbers of the functions that it is, or calls."""


def hard_to_load(connection: Connection) -> Iterator[str]:
    """What a restore of a session's database may stumble over, with what to change at the source.

    Raises:
        SourceError: if the server refuses.
    """
    database = connection.info.dbname
    with translated_errors(f"Looking for what is hard to load in {database}"):
        for sentence in _sentences(connection):
            yield f"{database}: {sentence}"


def refuse_unquoted(connection: Connection, besides: Collection[int]) -> None:
    """Refuse a database of which pg_dump writes what no server reads, or what says something else.

    Args:
        connection: to it.
        besides: numbers of tables that are left out.

    Raises:
        SourceError: if there is such a thing.
    """
    database = connection.info.dbname
    with translated_errors(f"Looking for what can't be dumped of {database}"):
        found = [name for (name,) in connection.execute(_UNQUOTED, [catalog.SET_ASIDE_SCHEMA, list(besides)]).fetchall()]
    if found:
        raise SourceError(
            f"No dump of database {database} could be restored: pg_dump writes the name of a NOT NULL constraint without the quotes that it"
            f" needs, in {shortened(found, at_most=_AT_MOST)}.",
            "Give it a name of lower-case letters, digits and _: ALTER TABLE ... RENAME CONSTRAINT ... TO ...; then back up again.",
        )


def _sentences(connection: Connection) -> Iterator[str]:
    objects = [
        _Object(kind, name, definition, frozenset(calls))
        for kind, name, definition, calls in connection.execute(_OBJECTS, [catalog.SET_ASIDE_SCHEMA]).fetchall()
    ]
    functions = _functions(connection, {number for each in objects for number in each.calls})
    if found := _listed(objects, lambda each: _unqualified(functions, each)):
        yield (
            "functions name others without a schema, so what calls them may not come back; write the schemas, or ALTER FUNCTION ..."
            f" SET search_path: {found}."
        )
    if found := _listed(objects, lambda each: _reading(functions, each)):
        yield (
            "checks or stored columns read tables that may still be empty when rows are loaded; use foreign keys or triggers instead:"
            f" {found}."
        )
    if found := _listed(objects, lambda each: _asking(functions, each)):
        yield f"checks ask for the time or the session, so rows may fail them at a restore; use triggers, or make them NOT VALID: {found}."
    if keys := [name for (name,) in connection.execute(_SWITCHED_OFF, [catalog.SET_ASIDE_SCHEMA]).fetchall()]:
        yield (
            "triggers of foreign keys are disabled, and a restore enables them, so rows may not hold the keys; enable the triggers, and"
            f" make the keys again: {shortened(keys, at_most=_AT_MOST)}."
        )


def _listed(objects: Iterable[_Object], why: Callable[[_Object], str | None]) -> str:
    found = [f"{each.kind} {each.name} ({reason})" for each in objects if (reason := why(each))]
    return shortened(found, at_most=_AT_MOST)


def _unqualified(functions: Mapping[int, _Function], each: _Object) -> str | None:
    found = _reached(functions, each.calls, lambda function: function.by_path)
    return next((f"{function.name} names {shortened(function.unqualified, at_most=2)}" for function in found if function.unqualified), None)


def _reading(functions: Mapping[int, _Function], each: _Object) -> str | None:
    if each.kind not in {"check", "stored column"}:
        return None
    found = _reached(functions, each.calls)
    return next((f"{function.name} reads {shortened(function.reads, at_most=2)}" for function in found if function.reads), None)


def _asking(functions: Mapping[int, _Function], each: _Object) -> str | None:
    if each.definition is None:
        return None
    if mentions(each.definition if "NOT " in each.definition else _ONLY_EARLIER.sub("", each.definition)).asks:
        return "itself"
    return next((function.name for function in _reached(functions, each.calls) if function.mentions.asks), None)


def _reached(
    functions: Mapping[int, _Function], first: Iterable[int], is_followed: Callable[[_Function], bool] = lambda _: True
) -> Iterator[_Function]:
    """The functions that are called by some, and those themselves, each once."""
    waiting, seen = sorted(first), set(first)
    for number in waiting:
        if number in functions and is_followed(functions[number]):
            yield functions[number]
            waiting += sorted(functions[number].calls - seen)
            seen |= functions[number].calls


def _functions(connection: Connection, first: set[int]) -> dict[int, _Function]:
    """Functions and all that they call, as far as their texts show it, by number."""
    found: dict[int, _Function] = {}
    wanted = first
    while wanted:
        rows = connection.execute(_FUNCTIONS, [_READ_AT_MOST, list(wanted)]).fetchall()
        read = {number: _Function(name, by_path, mentions(text), calls=set(called or ())) for number, name, text, by_path, called in rows}
        known = _known(connection, {name for function in read.values() for name in function.mentions.names})
        for function in read.values():
            _resolve(function, known)
        found |= read
        wanted = {number for function in read.values() for number in function.calls} - found.keys()
    return found


def _known(connection: Connection, names: Iterable[Name]) -> _Known:
    by_kind: dict[str, list[str]] = {kind: [] for kind in get_args(Kind)}
    for kind, _, name in names:
        by_kind[kind].append(name)
    known: dict[tuple[str, str], dict[str, list[int]]] = {}
    for kind, schema, name, number in connection.execute(_KNOWN, by_kind).fetchall():
        known.setdefault((kind, name), {}).setdefault(schema, []).append(number)
    return known


def _resolve(function: _Function, known: _Known) -> None:
    """Note which names in a function are those of users' objects."""
    for kind, schema, name in sorted(function.mentions.names, key=str):
        schemas = known.get((kind, name), {})
        own = [each for each in schemas if each not in _SYSTEM and schema in {None, each}]
        function.calls |= {number for each in own for number in schemas[each] if number}
        if own and kind == "relation":
            function.reads.append(name)
        if own and schema is None and not _SYSTEM & schemas.keys() and name not in function.unqualified:
            function.unqualified.append(name)
