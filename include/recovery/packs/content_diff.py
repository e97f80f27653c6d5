"""Compare the contents of two sides: what differs, and what a restore would change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from recovery.packs.content_index import Facts, Row

_SHOWN = 10
"""Names that a change has at most."""
_EXCERPT = 120
"""Characters of a value that a difference shows at most."""
_BEFORE = 40
"""So many of them stand before the first one that differs."""
_ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """One thing that is not equal on two sides."""

    kind: str
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.what}"


def compare(expected: Iterable[Row], found: Iterable[Row]) -> list[Difference]:
    """Every difference between two sides; empty when they are equal.

    A fact that only one side has is a difference too, so both sides must be made by the same code.
    """
    wanted = {(kind, name): facts for kind, name, facts in expected}
    differences = []
    for kind, name, facts in found:
        facts_wanted = wanted.pop((kind, name), None)
        if facts_wanted is None:
            differences.append(Difference(kind, name, "is there, but not in the set"))
            continue
        for fact in sorted(facts.keys() | facts_wanted.keys()):
            if facts.get(fact) != facts_wanted.get(fact):
                words = _in_words(fact, facts.get(fact), facts_wanted.get(fact))
                differences += [Difference(kind, name, what) for what in words]
    differences += [Difference(kind, name, "is missing") for kind, name in wanted]
    return sorted(differences, key=lambda difference: (difference.kind, difference.name, difference.what))


def _in_words(place: str, found: Any, expected: Any) -> Iterator[str]:
    """What differs, part by part where a fact has named parts, such as the columns of a table."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name, _ABSENT) != expected.get(name, _ABSENT):
                yield from _in_words(f"{place} {name}", found.get(name), expected.get(name))
        return
    texts = ["nothing" if value is None else str(value) for value in (found, expected)]
    same = next((place for place, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), min(map(len, texts)))
    here, there = (_excerpt(text, same) for text in texts)
    yield f"{place} is {here}, the set has {there}"


def _excerpt(text: str, same: int) -> str:
    """A text, or of a long one what is around the place where it begins to differ."""
    first = max(0, min(same - _BEFORE, len(text) - _EXCERPT))
    last = first + _EXCERPT
    return f"{'…' if first else ''}{text[first:last]}{'…' if last < len(text) else ''}"


@dataclass(frozen=True)
class Change:
    """What a restore would do to things of one kind."""

    kind: str
    """``table``, ``collection``, ``file`` and so on."""
    what: str
    """``added``, ``changed``, ``removed`` or ``equal``; ``other text`` for definitions that differ in their text, and may mean the same."""
    count: int
    bytes: int
    """Of the set's side; of the live one for what is removed."""
    names: tuple[str, ...] = ()
    """Some of them, in order."""


def changes(wanted: Iterable[Row], live: Iterable[Row]) -> list[Change]:
    """What it would take to make the live side what is wanted, by kind; sizes are the facts ``bytes`` or ``size``.

    Args:
        wanted: rows of the set.
        live: rows of now, made by the same code.
    """
    expected = {(kind, name): facts for kind, name, facts in wanted}
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for kind, name, facts in live:
        other = expected.pop((kind, name), None)
        what = "removed" if other is None else "equal" if other == facts else "changed"
        found.setdefault((kind, what), []).append((name, _size(facts if other is None else other)))
    for (kind, name), facts in expected.items():
        found.setdefault((kind, "added"), []).append((name, _size(facts)))
    return [
        Change(kind, what, len(things), sum(size for _, size in things), tuple(sorted(name for name, _ in things)[:_SHOWN]))
        for (kind, what), things in sorted(found.items())
    ]


def _size(facts: Facts) -> int:
    return int(facts.get("bytes") or facts.get("size") or 0)
