"""The parts of a PostgreSQL source that a restore was asked for: databases, schemas, tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recovery.common.errors import PlanError
from recovery.plan.name_patterns import names_in

_SYNTAX = 'Write database, database.schema or database.schema.table; a name with a dot or a quote as "odd.name", with "" for a quote.'


@dataclass(frozen=True, order=True)
class Part:
    """A schema, or a table in it."""

    schema: str
    table: str | None = None
    """A table, view, materialized view or sequence; None for the whole schema."""

    def __str__(self) -> str:
        return quoted(self.schema) if self.table is None else f"{quoted(self.schema)}.{quoted(self.table)}"


@dataclass(frozen=True)
class Selection:
    """What was asked for, each thing once: what lies in something else that was asked for is left out."""

    databases: tuple[str, ...] = ()
    """Those asked for as a whole."""
    tables: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    """Schemas and tables, by database."""

    @property
    def named(self) -> set[str]:
        """Every database that was asked for, as a whole or in part."""
        return {*self.databases, *self.tables}


def quoted(name: str) -> str:
    """A name as it is written in a selection, with quotes where it needs them."""
    return name if name and not re.search(r'[."]', name) else '"' + name.replace('"', '""') + '"'


def parse(only: Sequence[str]) -> Selection:
    """Read what was asked for.

    Raises:
        PlanError: if one is not written as names are.
    """
    asked = [_names(text) for text in only]
    databases = dict.fromkeys(names[0] for names in asked if len(names) == 1)
    parts: dict[str, dict[Part, None]] = {}
    for database, *rest in asked:
        if rest and database not in databases:
            parts.setdefault(database, {})[Part(*rest)] = None
    tables = {database: tuple(part for part in found if not _within(part, found)) for database, found in parts.items()}
    return Selection(tuple(databases), tables)


def _within(part: Part, found: Mapping[Part, None]) -> bool:
    return part.table is not None and Part(part.schema) in found


def _names(text: str) -> list[str]:
    """The one to three names of a dotted text."""
    names = [name.text for name in names_in(text)]
    if not 1 <= len(names) <= 3:
        raise PlanError(f"{text!r} names no database, schema or table.", _SYNTAX)
    return names
