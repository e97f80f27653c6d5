"""What an artifact holds: rows of facts, the digest of records, and how two sides are compared.

A *row* is ``(kind, name, facts)``: ``("table", "public.customers", {"count": 1000, "digest": "00af…"})``. Inventories
and contents are both rows, one JSON array a line on disk, so that a tree of a million files needs no memory.
Names of files that are not UTF-8 are kept by Python's ``surrogateescape``, which JSON escapes as ``\\udcXX``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

Facts = dict[str, Any]
Row = tuple[str, str, Facts]

_MASK = (1 << 64) - 1


class RecordDigest:
    """Sum modulo 2^64 of the XXH3-64 of each record: independent of order, so it survives a restore.

    It finds damage and loss, not an attacker: SHA-256 and the signature are for that.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0

    def add(self, records: Collection[bytes]) -> None:
        """Count and add records."""
        self.count += len(records)
        self._sum = (self._sum + sum(map(xxhash.xxh3_64_intdigest, records))) & _MASK

    def merge(self, count: int, hexdigest: str) -> None:
        """Add the result of another digest over other records."""
        self.count += count
        self._sum = (self._sum + int(hexdigest, 16)) & _MASK

    def hexdigest(self) -> str:
        """16 hexadecimal digits; ``0000000000000000`` of no records."""
        return f"{self._sum:016x}"


@contextmanager
def row_file(path: Path) -> Iterator[Callable[[Row], None]]:
    """A file that rows are written to as they come, one JSON array a line."""
    encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
    with path.open("w", encoding="ascii") as out:
        yield lambda row: out.writelines((encode(row), "\n"))
        out.flush()
        os.fsync(out.fileno())


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows to a file, as :func:`row_file` does."""
    with row_file(path) as write:
        for row in rows:
            write(row)


def read_rows(path: Path, *kinds: str) -> Iterator[Row]:
    """Rows of a file, all or only those of some kinds, as they are read."""
    wanted = tuple(f"[{json.dumps(kind)}," for kind in kinds) or "["
    with path.open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith(wanted):  # reading a line costs ten times as much as passing over it
                kind, name, facts = json.loads(line)
                yield kind, name, facts


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
                what = f"{fact} is {_short(facts.get(fact))}, the set has {_short(facts_wanted.get(fact))}"
                differences.append(Difference(kind, name, what))
    differences += [Difference(kind, name, "is missing") for kind, name in wanted]
    return sorted(differences, key=lambda difference: (difference.kind, difference.name, difference.what))


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


@dataclass(frozen=True)
class Change:
    """What a restore would do to things of one kind."""

    kind: str
    """``table``, ``collection``, ``file`` and so on."""
    what: str
    """``added``, ``changed``, ``removed`` or ``equal``."""
    count: int
    bytes: int
    """Of the set's side; of the live one for what is removed."""
    names: tuple[str, ...] = ()
    """Some of them, in order."""


def changes(wanted: Iterable[Row], live: Iterable[Row], shown: int = 10) -> list[Change]:
    """What it would take to make the live side what is wanted, by kind; sizes are the facts ``bytes`` or ``size``.

    Args:
        wanted: rows of the set.
        live: rows of now, made by the same code.
        shown: how many names each change has at most.
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
        Change(kind, what, len(things), sum(size for _, size in things), tuple(sorted(name for name, _ in things)[:shown]))
        for (kind, what), things in sorted(found.items())
    ]


def _size(facts: Facts) -> int:
    return int(facts.get("bytes") or facts.get("size") or 0)
