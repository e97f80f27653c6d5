"""The order in which entries of a dump are restored, and as whom: an owner's by a login role of that owner's own, few by ourselves.

An entry is a line of ``pg_restore --list``: ``<dump id>; <catalog> <number> <what> <schema> <name> <owner>``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from recovery.sources.postgres.accounts.loaders import EVERYONE, OURS
from recovery.sources.postgres.definitions.names import listed, plain

_WHAT = (
    "SHELL TYPE",
    "PROCEDURAL LANGUAGE",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "ACCESS METHOD",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH CONFIGURATION",
    "FOREIGN DATA WRAPPER",
    "USER MAPPING",
    "DEFAULT ACL",
    "SECURITY LABEL",
    "FOREIGN TABLE",
    "MATERIALIZED VIEW DATA",
    "MATERIALIZED VIEW",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "TABLE ATTACH",
    "TABLE DATA",
    "INDEX ATTACH",
    "FK CONSTRAINT",
    "CHECK CONSTRAINT",
    "EVENT TRIGGER",
    "ROW SECURITY",
    "PUBLICATION TABLES IN SCHEMA",
    "PUBLICATION TABLE",
    "SUBSCRIPTION TABLE",
    "STATISTICS DATA",
    "BLOB METADATA",
)
"""What entries are, where that is more than one word; a longer one before one that it begins with."""
_LINE = re.compile(rf"\d+; (\d+) \d+ (({'|'.join(_WHAT)}|\S+) (.*))", re.DOTALL)
_CATALOGS = {
    "TABLE": 1259,
    "SEQUENCE": 1259,
    "INDEX": 1259,
    "MATERIALIZED VIEW": 1259,
    "DEFAULT": 2604,
    "OPERATOR": 2617,
    "STATISTICS": 3381,
}
"""Numbers of the catalogs of kinds which, with a schema named ``DATA`` or ``CLASS``, are listed like another kind."""
_OURS = frozenset(
    {
        "EXTENSION",
        "EVENT TRIGGER",
        "SHELL TYPE",
        "PROCEDURAL LANGUAGE",
        "OPERATOR CLASS",
        "OPERATOR FAMILY",
        "ACCESS METHOD",
        "CAST",
        "TEXT SEARCH PARSER",
        "TEXT SEARCH TEMPLATE",
        "TRANSFORM",
        "FOREIGN DATA WRAPPER",
        "PUBLICATION",
        "PUBLICATION TABLE",
        "PUBLICATION TABLES IN SCHEMA",
    }
)
_RIGHTS = frozenset({"ACL", "DEFAULT ACL"})
_ROWS = frozenset({"TABLE DATA", "SEQUENCE SET", "BLOBS", "BLOB METADATA"})
_COMMENTED = re.compile(rf"(?:-|.*?) (?:{'|'.join(sorted((*_OURS, 'LANGUAGE', 'SCHEMA public'), key=len, reverse=True))})\b")
"""What a comment of ours may be about: a superuser may comment on everything, so one too many does no harm."""
_INDEPENDENT = {
    "CONSTRAINT": "index",
    "INDEX": "index",
    "STATISTICS": "statistics",
    "FK CONSTRAINT": "foreign key",
    "ROW SECURITY": "policy",
    "POLICY": "policy",
}
"""Kinds whose entries don't depend on each other, those together that may come in any order."""
_TABLES = frozenset({"TABLE", "FOREIGN TABLE"})
_ALONE = frozenset({"INDEX ATTACH", "TRIGGER"})


@dataclass(frozen=True)
class Entry:
    """A line of a dump's table of contents."""

    line: str
    what: str
    name: str
    """Schema and name, as they are listed, without quotes."""
    owner: str | None
    """A role of the set; None for what belongs to nobody."""
    loader: str
    """As whom it is restored: the owner, a family of tables, :data:`EVERYONE`, or :data:`OURS`."""

    @property
    def number(self) -> int:
        """Its dump id."""
        return int(self.line.partition(";")[0])


@dataclass(frozen=True)
class Step:
    """Entries that are restored together."""

    loader: str
    """See :attr:`Entry.loader`."""
    entries: tuple[Entry, ...]
    alone: bool = False
    """Not side by side."""

    @property
    def lines(self) -> list[str]:
        """Their lines."""
        return [entry.line for entry in self.entries]


@dataclass(frozen=True)
class Steps:
    """All entries of a dump."""

    schemas: tuple[Step, ...]
    extensions: tuple[Step, ...]
    definitions: tuple[Step, ...]
    """In their order."""
    rows: tuple[Step, ...]
    rest: tuple[Step, ...]
    """What comes after the rows."""
    schema_rights: tuple[Step, ...]
    """Once schemas have their owners: an owner has to be allowed to put things in them."""
    rights: tuple[Step, ...]
    """Once all has its owner."""
    event_triggers: tuple[Step, ...]
    """At the very end, since they run with whatever is made."""


def read_entries(
    lines: Iterable[str], owners: Collection[str], codec: str, ours: Collection[str] = (), attaching: Mapping[str, str] | None = None
) -> Iterator[Entry]:
    """Entries, each with whom it is restored as.

    Args:
        lines: of the list.
        owners: the roles that own something.
        codec: Python's name of the database's encoding.
        ours: of functions and types, those that only a superuser may make, as they are listed.
        attaching: as whom entries are restored, as they are listed, where it is not their owner. A child that is attached
            by an entry of its own is made by its owner.
    """
    by_ending = {f" {listed(owner, codec)}": owner for owner in sorted(owners, key=len)}
    found = [(line, *_kind(line)) for line in lines]
    attached = {rest for _, what, rest in found if what == "TABLE ATTACH"}
    for line, what, rest in found:
        ending = next((ending for ending in reversed(by_ending) if rest.endswith(ending)), None)
        name = rest.removesuffix(ending) if ending else rest.rstrip()
        owner = by_ending[ending] if ending else None
        loader = owner if what in _TABLES and rest in attached else (attaching or {}).get(f"{what} {rest.rstrip()}", owner)
        yield Entry(line, what, name, owner, OURS if _is_ours(what, name, ours) else EVERYONE if loader is None else loader)


def _kind(line: str) -> tuple[str, str]:
    """The kind of an entry, and the rest of what is listed of it."""
    match = _LINE.fullmatch(line)
    assert match is not None, line
    what = next((kind for kind, catalog in _CATALOGS.items() if match[1] == str(catalog) and match[2].startswith(f"{kind} ")), match[3])
    return what, plain(match[2].removeprefix(f"{what} "))


def _is_ours(what: str, name: str, ours: Collection[str]) -> bool:
    if what in {"COMMENT", "SECURITY LABEL"}:
        return bool(_COMMENTED.match(name))
    return what in _OURS or what in _RIGHTS or f"{what} {name}".replace(", ", ",") in ours


def in_steps(entries: Sequence[Entry]) -> Steps:
    """Entries in the steps of a load.

    Schemas depend on nothing, and extensions on schemas alone: so these are made while nobody has put anything in them
    that an extension's script could take for something else.
    """
    rights = sorted((entry for entry in entries if entry.what in _RIGHTS), key=lambda entry: entry.what)
    event_triggers = [entry for entry in entries if entry.what == "EVENT TRIGGER" or _concerns(entry, "EVENT TRIGGER")]
    moved = {*rights, *event_triggers}
    kept = [entry for entry in entries if entry not in moved]
    places = [place for place, entry in enumerate(kept) if entry.what in _ROWS]
    begin, end = (places[0], places[-1] + 1) if places else (_first_after_rows(kept),) * 2
    schemas = [entry for entry in kept[:begin] if entry.what == "SCHEMA"]
    extensions = [entry for entry in kept[:begin] if entry.what == "EXTENSION" or _concerns(entry, "EXTENSION")]
    moved = {*schemas, *extensions}
    rows = [entry for entry in kept[begin:end] if entry.what != "BLOBS"]
    contents = [entry for entry in kept[begin:end] if entry.what == "BLOBS"]
    return Steps(
        schemas=tuple(_by_owner(schemas)),
        extensions=tuple(_runs(extensions)),
        definitions=tuple(_runs((entry for entry in kept[:begin] if entry not in moved), alone=True)),  # pg_restore does so anyway
        rows=(*_by_owner(rows), *_by_owner(contents)),
        rest=tuple(_merged(_after_rows(kept[end:]))),
        schema_rights=tuple(_runs(entry for entry in rights if _is_of_schema(entry))),
        rights=tuple(_runs(entry for entry in rights if not _is_of_schema(entry))),
        event_triggers=tuple(_runs(event_triggers)),
    )


def _concerns(entry: Entry, what: str) -> bool:
    """Whether an entry is a comment on, or a label of, something."""
    return entry.what in {"COMMENT", "SECURITY LABEL"} and entry.name.startswith(f"- {what} ")


def _is_of_schema(entry: Entry) -> bool:
    return entry.what == "ACL" and entry.name.startswith("- SCHEMA ")


def _first_after_rows(entries: Sequence[Entry]) -> int:
    after = {*_INDEPENDENT, *_ALONE, "CHECK CONSTRAINT", "RULE", "MATERIALIZED VIEW DATA"}
    return next((place for place, entry in enumerate(entries) if entry.what in after), len(entries))


def _runs(entries: Iterable[Entry], *, alone: bool = False) -> Iterator[Step]:
    """Entries in their order, those together that come one after another with the same owner."""
    for loader, group in groupby(entries, key=lambda entry: entry.loader):
        yield Step(loader, tuple(group), alone)


def _by_owner(entries: Iterable[Entry]) -> Iterator[Step]:
    """Entries that don't depend on those of others, an owner's together."""
    return _runs(sorted(entries, key=lambda entry: entry.loader))


def _after_rows(entries: Sequence[Entry]) -> Iterator[Step]:
    """Indexes, and what follows. Comments come last.

    Some kinds are restored one by one: attaching indexes of partitions side by side ends in deadlocks, and a partition's
    trigger is turned off or on by an entry that does not wait for the one of the parent's, which makes it.
    """
    comments = [entry for entry in entries if entry.what == "COMMENT"]
    others = (entry for entry in entries if entry.what != "COMMENT")
    for kind, group in groupby(others, key=lambda entry: _INDEPENDENT.get(entry.what, entry.what)):
        found = list(group)
        steps = _by_owner(found) if kind in _INDEPENDENT.values() else _runs(found)
        yield from (Step(step.loader, step.entries, alone=kind in _ALONE) for step in steps)
    yield from _by_owner(comments)


def _merged(steps: Iterable[Step]) -> Iterator[Step]:
    """Steps of the same owner that come one after another as one, since pg_restore itself knows what waits for what."""
    for (loader, alone), group in groupby(steps, key=lambda step: (step.loader, step.alone)):
        yield Step(loader, tuple(entry for step in group for entry in step.entries), alone)
