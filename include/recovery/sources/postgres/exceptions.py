"""What a dump has and no server makes of it again: an index, a key or a view that its own rows or functions stand in the way of.

All rows are loaded nevertheless. Such an exception is named, so that people decide about it before anything live is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from recovery.sources.base import RestoreView
from recovery.sources.model import LeftOut
from recovery.sources.postgres.definitions.names import NAME, QUALIFIED, first_name, listed, quoted_name, raw, table_of_index
from recovery.sources.postgres.targets import Objects, Target

_KEPT = "not made"
"""Said after a load; facts ``database`` and ``loaded``, its names in the set and at the server, ``rolling back`` and ``things``."""
_LISTED = {
    "index": ("INDEX", "INDEX ATTACH"),
    "constraint": ("CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT"),
    "trigger": ("TRIGGER",),
    "rule": ("RULE",),
    "policy": ("POLICY",),
    "statistics": ("STATISTICS",),
    "view": ("VIEW",),
    "materialized view": ("MATERIALIZED VIEW DATA",),
}
"""How the entries are listed that make an object of a kind. No other kind may be missing: a table least of all."""
_MEANS = {
    "INDEX": "Without it searches are slower; if it is unique, nothing keeps duplicates out.",
    "INDEX ATTACH": "The index of the partitioned table does not cover this partition.",
    "CONSTRAINT": "Without it nothing keeps duplicates out, and what refers to it is not made either.",
    "FK CONSTRAINT": "Without it rows may refer to rows that are not there.",
    "CHECK CONSTRAINT": "Without it rows may have values that it forbids.",
    "TRIGGER": "What it does whenever rows change is not done.",
    "RULE": "What it does whenever rows change or are read is not done.",
    "POLICY": "Without it roles may see or change rows that it hides, or miss rows that it shows.",
    "STATISTICS": "Without it some queries may be slower.",
    "MATERIALIZED VIEW DATA": "",
}
_LACKING = {
    "validated": ("is restored as not valid", "It holds for new rows; rows of the set that do not fit stay as they are."),
    "populated": ("is not filled", "It is there, and can't be read before it is refreshed."),
    "definition": ("is there with its columns only", "It shows one row without values, until it is made again."),
}
"""How something is there of which a fact is another than in the set, and what that means."""
_COLUMNS_ONLY = re.compile(r"\s*SELECT NULL::[^;]*;\Z")
"""A view as pg_dump makes it before what it depends on."""
_PART = re.compile(rf"({NAME})\.({NAME})(?: (.*))?", re.DOTALL)


@dataclass(frozen=True)
class Unmade:
    """Something that could not be made as the set has it."""

    what: str
    """The kind, as the dump's table of contents lists it."""
    name: str
    """As it is listed there, without quotes."""
    why: str
    """The server's words, without values of rows."""
    lacks: str = ""
    """The fact that is another than in the set; empty if the whole thing is not there."""

    @property
    def title(self) -> str:
        """What it is, and how it is there, if at all."""
        how, _ = self._how()
        return f"{self.what.lower()} {self.name} {how}"

    def _how(self) -> tuple[str, str]:
        return _LACKING.get(self.lacks) or ("can't be made", _MEANS[self.what])

    def __str__(self) -> str:
        _, means = self._how()
        return f"{self.title}. {means} The server says: {self.why}"


def may_be_left_out(what: str) -> bool:
    """Whether all rows are there without what an entry of that kind makes."""
    return what in _MEANS


def keep(restore: RestoreView, target: Target, unmade: Iterable[Unmade]) -> None:
    """Keep what a load could not make, also if that is nothing, for the verification and the gates that follow."""
    facts = {"database": target.saved, "loaded": target.loaded, "rolling back": restore.rolling_back}
    restore.record(_KEPT, **facts, things=[asdict(each) for each in unmade])


def was_loaded(restore: RestoreView, target: Target) -> bool:
    """Whether a load of a database under that name came to its end, with or without all that it should make."""
    found = restore.recorded_facts(_KEPT)
    return any(_is_of(restore, target.saved, facts) and facts["loaded"] == target.loaded for facts in found)


def _is_of(restore: RestoreView, database: str, facts: Mapping[str, Any]) -> bool:
    return (facts["database"], facts["rolling back"]) == (database, restore.rolling_back)


def kept(restore: RestoreView, database: str) -> list[Unmade]:
    """What the last load of a database could not make, by its name in the set."""
    facts: list[dict[str, Any]] = [facts for facts in restore.recorded_facts(_KEPT) if _is_of(restore, database, facts)]
    return [Unmade(**thing) for thing in facts[-1]["things"]] if facts else []


def left_out(restore: RestoreView, databases: Iterable[str]) -> Iterator[LeftOut]:
    """What the last loads of databases could not make, as gates and reports show it."""
    for database in databases:
        for each in kept(restore, database):
            yield LeftOut(f"{database}: {each.title}", f"{database}: {each}")


def accepted(expected: Objects, found: Objects, unmade: Collection[Unmade], codec: str) -> Objects:
    """What a set has of a database, without what could not be made and is not there.

    Args:
        expected: what the set has.
        found: what was restored.
        unmade: what could not be made.
        codec: Python's name of the dump's encoding.
    """
    if not unmade:
        return expected
    by_listing = {(each.what, each.name): each for each in unmade}
    left = dict(expected)
    for key, facts in expected.items():
        each = next((by_listing[listing] for listing in _listings(key, facts, codec) if listing in by_listing), None)
        if each and not each.lacks and key not in found:
            del left[key]
            _without_identity(left, found, facts)
            for comment in _comments(key) & left.keys() - found.keys():
                del left[comment]
        elif (
            each and each.lacks in facts and key in found and (each.lacks != "definition" or _COLUMNS_ONLY.match(found[key]["definition"]))
        ):
            left[key] = _with_fact(facts, found[key], each.lacks)
    return left


def still_valid(objects: Objects, unmade: Iterable[Unmade], codec: str) -> Objects:
    """Objects without the constraints that are restored as not valid; arguments as of :func:`accepted`."""
    not_valid = {(each.what, each.name) for each in unmade if each.lacks == "validated"}
    return {key: facts for key, facts in objects.items() if not_valid.isdisjoint(_listings(key, facts, codec))}


def still_lacking(expected: Objects, found: Objects, unmade: Iterable[Unmade], codec: str) -> list[Unmade]:
    """Those that nobody has made by hand since; arguments as of :func:`accepted`."""
    return [each for each in unmade if accepted(expected, found, [each], codec) != expected]


def _without_identity(left: Objects, found: Objects, index: Mapping[str, Any]) -> None:
    """Rows of a table are told apart otherwise if the index is left out that did it."""
    table = "table", table_of_index(index["definition"]) if index.get("replica identity") else ""
    if table in left and table in found:
        left[table] = {**left[table], "replica identity": found[table]["replica identity"]}


def _with_fact(facts: Mapping[str, Any], found: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Facts with one of those that were found, and a definition that says so."""
    definition = {"definition": found["definition"]} if found.get("definition") == f"{facts.get('definition')} NOT VALID" else {}
    return {**facts, name: found.get(name), **definition}


def _listings(key: tuple[str, str], facts: Mapping[str, Any], codec: str) -> Iterator[tuple[str, str]]:
    """How the entries may be listed that make an object."""
    kind, name = key
    if kind == "index" and facts.get("constraint"):
        kind, name = "constraint", f"{table_of_index(facts['definition'])} {quoted_name(facts['constraint'])}"
    for what in _LISTED.get(kind, ()):
        yield what, listed_name(name, codec)


def listed_name(name: str, codec: str) -> str:
    """The name of an object of a schema, or of something at a table, as the table of contents lists it."""
    parts = _PART.fullmatch(name)
    assert parts is not None, name
    return " ".join(listed(raw(part), codec) for part in parts.groups() if part)


def _comments(key: tuple[str, str]) -> set[tuple[str, str]]:
    """How the comments are named that lie on an object."""
    kind, name = key
    table, own = first_name(name)
    on = {f"{kind} {own} on {table}", f"table constraint {own} on {table}"} if table and not re.fullmatch(QUALIFIED, name) else set()
    return {("comment", words) for words in {f"{kind} {name}", *on}}
