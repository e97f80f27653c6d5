"""Which rows of a database belong to which tables, and which tables of a set were asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from recovery.packs.content_index import Facts, Row
from recovery.sources.base import RestoreView
from recovery.sources.postgres.client import Connection
from recovery.sources.postgres.definitions import catalog, dumped
from recovery.sources.postgres.definitions.names import first_name, last_name, parent_of, raw, split, table_of_index
from recovery.sources.postgres.selection import Part, parse
from recovery.sources.postgres.targets import NO_OBJECTS, Objects, Target, databases

RELATIONS = frozenset({"table", "sequence", "view", "materialized view"})
"""Kinds of rows that can be selected. Others belong to one of these, or are not restored."""

_COMMENT = re.compile(
    r"(?:(?P<column>(?:table|foreign table|view|materialized view) column)|(?P<on>table constraint|trigger|policy|rule)"
    r"|(?:table|foreign table|sequence|view|materialized view|index|statistics object)) "
)


def belonging(objects: Objects, names: Iterable[str]) -> Objects:
    """The objects of some relations: themselves, and their indexes, constraints, triggers, policies, statistics, comments."""
    own = set(names)
    own |= {name for (kind, name), facts in objects.items() if kind in {"index", "statistics"} and _table_of(kind, facts) in own}
    return {(kind, name): facts for (kind, name), facts in objects.items() if _is_of(kind, name, own)}


def _table_of(kind: str, facts: Facts) -> str:
    if kind == "statistics":
        return last_name(facts["definition"])
    return table_of_index(facts["definition"])


def _is_of(kind: str, name: str, own: set[str]) -> bool:
    if kind in RELATIONS or kind in {"index", "statistics"}:
        return name in own
    if kind in {"constraint", "trigger", "rule", "policy"}:
        return first_name(name)[0] in own
    if kind == "comment" and (match := _COMMENT.match(name)):
        rest = name[match.end() :]
        if match["column"]:
            return first_name(rest)[0] in own
        return (last_name(rest) if match["on"] else rest) in own
    if kind == "security label":
        _, what, rest = name.split(" ", 2)
        return (first_name(rest)[0] if what == "column" else rest) in own
    return False


@dataclass(frozen=True)
class Chosen:
    """Schemas and tables of one database that were asked for, as the set has them."""

    target: Target
    parts: tuple[Part, ...]
    rows: tuple[Row, ...]
    """All of the database, but for the contents of large objects."""

    @cached_property
    def all(self) -> Objects:
        """Everything that the set has of the database."""
        return {(kind, name): facts for kind, name, facts in self.rows}

    @cached_property
    def names(self) -> frozenset[str]:
        """The relations that are restored: those asked for, with partitions, children, and sequences that belong to columns."""
        relations = {
            name: facts for kind, name, facts in self.rows if kind in RELATIONS and facts.get("type") != "configuration of an extension"
        }
        found = {name for name in relations if self.asked_for(*split(name))}
        grown: set[str] = set()
        while grown != found:
            grown = set(found)
            found |= {name for name, facts in relations.items() if found & set(facts.get("parents") or ()) or _owner(facts) in found}
        return frozenset(found)

    def asked_for(self, schema: str, name: str) -> bool:
        """Whether a relation was itself asked for."""
        return Part(schema) in self.parts or Part(schema, name) in self.parts

    @cached_property
    def objects(self) -> Objects:
        """The rows of these relations."""
        return belonging(self.all, self.names)

    @cached_property
    def foreign_keys(self) -> Objects:
        """The constraints of these that point to tables, maybe to ones that are not restored."""
        return {key: facts for key, facts in self.objects.items() if is_foreign_key(key[0], facts)}

    @cached_property
    def crossing(self) -> Objects:
        """Those of them that point to tables which are not restored."""
        return {key: facts for key, facts in self.foreign_keys.items() if parent_of(facts["definition"]) not in self.names}

    @cached_property
    def crossing_comments(self) -> Objects:
        """The comments on these."""
        keys = {("comment", f"table constraint {own} on {table}") for table, own in (first_name(name) for _, name in self.crossing)}
        return {key: facts for key, facts in self.objects.items() if key in keys}

    @cached_property
    def uncrossed(self) -> Objects:
        """The rows of these relations without those foreign keys, which no table has while it lies beside the live ones."""
        return {key: facts for key, facts in self.objects.items() if key not in self.crossing and key not in self.crossing_comments}

    @cached_property
    def owners(self) -> frozenset[str]:
        """The roles that own what is restored."""
        return frozenset(str(facts["owner"]) for facts in self.objects.values() if facts.get("owner"))

    @cached_property
    def tables(self) -> Mapping[str, Facts]:
        """Those with rows of their own."""
        return {name: facts for (kind, name), facts in self.objects.items() if kind == "table" and facts["data"]}

    @cached_property
    def schemas(self) -> frozenset[str]:
        """The schemas that these lie in, without quotes."""
        return frozenset({split(name)[0] for name in self.names} | {part.schema for part in self.parts if part.table is None})

    @property
    def bytes(self) -> int:
        """Size of the rows, as text."""
        return sum(facts.get("bytes", 0) for facts in self.tables.values())

    def orphans(self) -> Iterator[tuple[str, str]]:
        """Relations that can't be restored alone, and what they belong to."""
        for (kind, name), facts in self.objects.items():
            if kind in RELATIONS:
                for parent in [*(facts.get("parents") or ()), *filter(None, [_owner(facts)])]:
                    if parent not in self.names:
                        yield name, parent

    def missing(self) -> list[Part]:
        """What was asked for and is not in the set."""
        there = {split(name) for name in self.names}
        schemas = {raw(name) for kind, name, _ in self.rows if kind == "schema"}
        return [
            part for part in self.parts if (part.schema not in schemas if part.table is None else (part.schema, part.table) not in there)
        ]


def is_foreign_key(kind: str, facts: Facts) -> bool:
    """Whether a row is a foreign key."""
    return kind == "constraint" and str(facts["definition"]).startswith("FOREIGN KEY")


def _owner(facts: Facts) -> str | None:
    """The table whose column a sequence belongs to."""
    return first_name(facts["of"])[0] if facts.get("of") else None


def chosen(restore: RestoreView, renamed: Mapping[str, str] | None = None) -> list[Chosen]:
    """The databases of which schemas or tables were asked for, in the order of the set's artifacts.

    Raises:
        PlanError: if a part is not written as names are.
    """
    asked = parse(restore.only).tables
    return [
        Chosen(target, asked[target.saved], tuple(row for row in restore.rows(target.artifact) if row[0] not in NO_OBJECTS))
        for target in databases(restore, renamed)
        if target.saved in asked
    ]


def facts_without(objects: Objects, *left_out: str) -> Objects:
    """Objects without some facts, of their columns too."""

    def stripped(facts: Facts) -> Facts:
        kept = {key: value for key, value in facts.items() if key not in left_out}
        if isinstance(kept.get("columns"), dict):
            kept["columns"] = {name: stripped(column) for name, column in kept["columns"].items()}
        return kept

    return {key: stripped(facts) for key, facts in objects.items()}


def objects(connection: Connection) -> Objects:
    """All that a database has now."""
    return _without_places(catalog.object_rows(connection))


def _without_places(rows: Iterable[Row]) -> Objects:
    return {(kind, name): {fact: value for fact, value in facts.items() if fact != "at"} for kind, name, facts in rows}


def relations(connection: Connection, names: Iterable[str]) -> Objects:
    """What a database has of some relations now, with the values of sequences, without the rows of tables.

    The rest of the catalogs is not read: a swap asks for this while everybody waits for it.
    """
    own = set(names)
    found = belonging(_without_places(catalog.rows_of_numbers(connection, catalog.numbers_of(connection, own))), own)
    sequences = [name for kind, name in found if kind == "sequence"]
    for name, facts in dumped.sequence_values(connection, sequences).items():
        found["sequence", name] |= facts
    return found


def routines(connection: Connection, signatures: Collection[str]) -> Objects:
    """What a database has of some functions and procedures now."""
    query = "SELECT to_regprocedure(signature)::oid FROM unnest(%s::text[]) signature"
    numbers = [number for (number,) in connection.execute(query, [list(signatures)]).fetchall() if number is not None]
    return _without_places(catalog.rows_of_numbers(connection, numbers))
