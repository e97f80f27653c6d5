"""How a server shows a definition that it is given: the text of one server need not be the text of another.

A server that reads ``status = ANY ((ARRAY['a'::character varying])::text[])`` shows it as
``status = ANY (ARRAY[('a'::character varying)::text])``. Only the server can say which texts mean the same. So where what
was restored has another text than the set, the server is given the set's text once more, and asked what it shows.

Each text is read with the rights of the object's owner, in a transaction of its own that is rolled back.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from recovery.packs.content_index import Facts
from recovery.sources.base import RestoreView
from recovery.sources.postgres.client import Connection
from recovery.sources.postgres.definitions.names import NAME, QUALIFIED, first_name, split, table_of_index

log = logging.getLogger(__name__)

Place = tuple[str, ...]
"""Kind and name of an object, then the way to one of its facts."""
Readings = Mapping[Place, list[str]]
"""Texts that mean the same as the set's at a place: how the server shows the set's, how it shows this one, and so on."""

_READ = "definitions read"
"""Said after a load; facts ``database`` and ``readings``, each a place and its texts."""
_ROUNDS = 3
"""A definition is read at most so often on its way into a database."""
_TRIED = "recovery_reading"
"""The name of what is made to see how it is shown."""
_COPY = "recovery_copy"
"""The name of a table that has the columns of another."""
_COPIED = Literal(f"pg_temp.{_COPY}")
_AT_TYPE = re.compile(rf"(.*) {NAME}", re.DOTALL)
_CHECK = re.compile(r"CHECK \((.*)\)((?: NO INHERIT)?(?: NOT VALID)?(?: NOT ENFORCED)?)", re.DOTALL)
_NAMED = {
    "index": re.compile(rf"(CREATE (?:UNIQUE )?INDEX )({NAME} ON (?:ONLY )?{QUALIFIED})( .*)", re.DOTALL),
    "trigger": re.compile(rf"(CREATE (?:CONSTRAINT )?TRIGGER )({NAME})( .*)", re.DOTALL),
    "rule": re.compile(rf"(CREATE RULE )({NAME})( .*)", re.DOTALL),
    "statistics": re.compile(rf"(CREATE STATISTICS )({QUALIFIED})( .*)", re.DOTALL),
}
"""Definitions with a name in them that is not the server's to say anew."""
_SHOWN_BY: Mapping[str, LiteralString] = {
    "index": "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = {}::regclass",
    "trigger": "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = {} AND tgparentid = 0",
    "rule": "SELECT pg_get_ruledef(oid) FROM pg_rewrite WHERE rulename = {}",
    "statistics": "SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext WHERE stxname = {}",
}


@dataclass(frozen=True)
class _Trial:
    """Statements that make something of a text, and the query that shows it."""

    statements: tuple[SQL | Composed, ...]
    query: Composed
    written: Callable[[str], str] = str
    """The text that says what the query gives."""


@dataclass(frozen=True)
class Definitions:
    """Definitions of a database, as a set has them and as the database shows them."""

    expected: Mapping[tuple[str, str], Facts]
    found: Mapping[tuple[str, str], Facts]

    def differing(self) -> dict[str, list[tuple[Place, str]]]:
        """The set's definitions that the database shows in another text, each with its place, by the owner."""
        by_owner: dict[str, list[tuple[Place, str]]] = {}
        for key, facts in self.expected.items():
            for place, text, _ in _differing(key, facts, self.found.get(key, {})):
                if self._trial(place, text) and (owner := self._owner(place)):
                    by_owner.setdefault(owner, []).append((place, text))
        return by_owner

    def in_other_text(self) -> Iterator[tuple[str, str]]:
        """Kind and name of objects of which nothing differs but the text of definitions: these may mean the same."""
        for key, facts in self.expected.items():
            if differing := list(_differing(key, facts, self.found.get(key, {}))):
                readings = {place: [other] for place, text, other in differing if self._trial(place, text)}
                if as_meant(readings, key, facts, self.found[key]) == facts:
                    yield key

    def readings(self, connection: Connection, place: Place, text: str) -> list[str]:
        """How the server shows a text, how it shows what it shows then, and so on; see :data:`Readings`.

        Args:
            connection: with the rights of the owner.
            place: whose text it is.
            text: the set's.
        """
        shown = [text]
        for _ in range(_ROUNDS):
            trial = self._trial(place, shown[-1])
            again = _shown(connection, trial, place) if trial else None
            if again is None or again in shown:
                break
            shown.append(again)
        return shown[1:]

    def _owner(self, place: Place) -> str | None:
        """Whose an object is: its own, that of its table or that of its type."""
        kind, name, *_ = place
        if owner := self.expected[kind, name].get("owner"):
            return str(owner)
        match = _AT_TYPE.fullmatch(name)
        of = {self._table(place), match[1] if match else ""}
        facts = (self.expected.get((each, one), {}) for each in ("table", "view", "materialized view", "domain") for one in of)
        return next((str(own["owner"]) for own in facts if "owner" in own), None)

    def _table(self, place: Place) -> str:
        kind, name, *_ = place
        return (table_of_index(self.expected[kind, name]["definition"]) if kind == "index" else first_name(name)[0]) or name

    def _trial(self, place: Place, text: str) -> _Trial | None:
        """How a text is tried; None for one that no server shows otherwise."""
        kind, name, *path = place
        table = SQL(self._table(place))
        match path:
            case ["definition"] if kind in {"view", "materialized view"}:
                made = SQL("CREATE TEMPORARY VIEW {} AS {}").format(Identifier(_TRIED), SQL(text))
                return _Trial((made,), SQL("SELECT pg_get_viewdef({}::regclass)").format(Literal(f"pg_temp.{_TRIED}")))
            case ["definition"] if kind in {"function", "procedure"}:
                return _function(name, text)
            case ["definition"] if kind == "constraint":
                return self._constraint(place, text)
            case ["definition"] if kind in _NAMED:
                return _named(kind, table, text)
            case ["using" | "check" | "row filter"]:
                return _condition(table, text)
            case ["partition key"]:
                made = SQL("{} PARTITION BY {}").format(_copy(table), SQL(text))
                return _Trial((made,), SQL("SELECT pg_get_partkeydef({}::regclass)").format(_COPIED))
            case ["default"] if kind == "domain":
                made = SQL("ALTER DOMAIN {} SET DEFAULT {}").format(SQL(name), SQL(text))
                return _Trial((made,), SQL("SELECT typdefault FROM pg_type WHERE oid = {}::regtype").format(Literal(name)))
            case ["columns", column, "default"]:
                return _column(kind, name, column, self.expected[kind, name]["columns"][column], text)
        return None

    def _constraint(self, place: Place, text: str) -> _Trial | None:
        check, table = _CHECK.fullmatch(text), self._table(place)
        query = SQL("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = {}").format(Literal(_TRIED))
        facts, tried = self.expected.get(("table", table)), Identifier(_TRIED)
        if facts is None:
            match = _AT_TYPE.fullmatch(place[1])
            domain = SQL(match[1] if match else "")
            return _Trial((SQL("ALTER DOMAIN {} ADD CONSTRAINT {} {}").format(domain, tried, SQL(text)),), query) if check else None
        if check and facts["type"] != "foreign table":  # which has no policies
            return _condition(SQL(table), check[1], lambda shown: f"CHECK ({shown}){check[2]}")
        if check or text.startswith("EXCLUDE "):
            made = SQL("ALTER TABLE pg_temp.{} ADD CONSTRAINT {} {}").format(Identifier(_COPY), tried, SQL(text))
            return _Trial((_copy(SQL(table)), made), query)
        return None


def keep(restore: RestoreView, database: str, readings: Readings) -> None:
    """Keep what the server made of a database's definitions for the comparisons that follow."""
    restore.record(_READ, database=database, readings=list(readings.items()))


def kept(restore: RestoreView, database: str) -> Readings:
    """What was kept of the last load of a database, by its name in the set."""
    facts: list[dict[str, Any]] = [facts for facts in restore.recorded_facts(_READ) if facts["database"] == database]
    return {tuple(place): texts for place, texts in facts[-1]["readings"]} if facts else {}


def as_meant(readings: Readings, place: Place, expected: Any, found: Any) -> Any:
    """What was found, with the set's own text in the place of one that means the same."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return {name: as_meant(readings, (*place, name), expected.get(name), value) for name, value in found.items()}
    return expected if found != expected and found in readings.get(place, ()) else found


def _differing(place: Place, expected: Facts, found: Facts) -> Iterator[tuple[Place, str, str]]:
    """Texts of both sides that differ, each with its place."""
    for name, value in expected.items():
        other = found.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differing((*place, name), value, other)
        elif isinstance(value, str) and isinstance(other, str) and value != other:
            yield (*place, name), value, other


def _shown(connection: Connection, trial: _Trial, place: Place) -> str | None:
    try:
        with connection.transaction(force_rollback=True):
            for statement in trial.statements:
                connection.execute(statement, binary=True)  # so the server takes it for one statement, or not at all
            row = connection.execute(trial.query).fetchone()
    except psycopg.Error as error:
        if connection.closed:
            raise
        log.info("the server does not read the %s of %s %s: %s", place[-1], place[0], place[1], str(error).strip())
        return None
    return trial.written(row[0]) if row and row[0] is not None else None


def _copy(table: SQL) -> Composed:
    """An empty table with the columns of another."""
    return SQL("CREATE TEMPORARY TABLE {} (LIKE {})").format(Identifier(_COPY), table)


def _function(name: str, text: str) -> _Trial:
    """A function in its own place. A text that makes another one leaves it as it is, and so shows nothing."""
    query = SQL("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE oid = {}::regprocedure AND xmin = pg_current_xact_id()::xid")
    return _Trial((SQL(text),), query.format(Literal(name)))


def _condition(table: SQL, text: str, written: Callable[[str], str] = str) -> _Trial:
    """A condition over a table's columns, as that of a policy: that looks at no row."""
    made = SQL("CREATE POLICY {} ON {} USING ({})").format(Identifier(_TRIED), table, SQL(text))
    return _Trial((made,), SQL("SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polname = {}").format(Literal(_TRIED)), written)


def _named(kind: str, table: SQL, text: str) -> _Trial | None:
    """A definition under another name; an index at an empty copy of its table, so that it reads no row."""
    match = _NAMED[kind].fullmatch(text)
    if match is None:
        return None
    create, name, rest = match.groups()
    tried: Composable = Identifier(_TRIED)
    first: tuple[Composed, ...] = ()
    if kind == "index":
        first, tried = (_copy(table),), SQL("ON pg_temp.{}").format(Identifier(_COPY))
    elif kind == "statistics":
        tried = Identifier(split(name)[0], _TRIED)

    def written(shown: str) -> str:
        again = _NAMED[kind].fullmatch(shown)
        return f"{create}{name}{again[3] if again else shown}"

    return _Trial(
        (*first, SQL("{}{}{}").format(SQL(create), tried, SQL(rest))),
        SQL(_SHOWN_BY[kind]).format(_COPIED if kind == "index" else Literal(_TRIED)),
        written,
    )


def _column(kind: str, name: str, column: str, facts: Facts, text: str) -> _Trial:
    """A default in its own place, or what a generated column is computed from, at an empty copy of the table."""
    query = SQL(
        """SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
        WHERE adrelid = {}::regclass AND attname = {}"""
    )
    if kept := {"s": "STORED", "v": "VIRTUAL"}.get(facts.get("generated", "")):
        added = SQL("ALTER TABLE pg_temp.{} ADD COLUMN {} {} GENERATED ALWAYS AS ({}) {}")
        made = added.format(Identifier(_COPY), Identifier(_TRIED), SQL(facts["type"]), SQL(text), SQL(kept))
        return _Trial((_copy(SQL(name)), made), query.format(_COPIED, Literal(_TRIED)))
    where = SQL("VIEW {}" if "view" in kind else "TABLE ONLY {}").format(SQL(name))
    made = SQL("ALTER {} ALTER COLUMN {} SET DEFAULT {}").format(where, Identifier(column), SQL(text))
    return _Trial((made,), query.format(Literal(name), Literal(column)))
