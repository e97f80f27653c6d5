"""What a restore would change in a tree: a single entry, or entries added, changed, removed and equal, by count and size."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from recovery.common.errors import RestoreError
from recovery.common.held_folder import Reach
from recovery.common.paths import raw, readable
from recovery.common.units import human_size
from recovery.common.wording import shortened
from recovery.packs.content_diff import Change
from recovery.packs.content_index import Facts, Row
from recovery.sources.trees.entries import Abilities, fingerprint, of_live, of_walk, read_file, stored
from recovery.sources.trees.file_content import DIGESTS
from recovery.sources.trees.selection import Part
from recovery.sources.trees.settings_file import LARGEST, changed_keys, key_digests
from recovery.sources.trees.walk import Found, Walk

_SHOWN = 10
_NOT_COMPARED = frozenset({"mtime", "size"})


@dataclass
class _Sum:
    count: int = 0
    bytes: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, path: str, size: int) -> None:
        self.count += 1
        self.bytes += size
        if len(self.names) < _SHOWN or path < self.names[-1]:
            bisect.insort(self.names, path)
            del self.names[_SHOWN:]


def changes(expected: Callable[[], Iterable[Row]], found: Iterable[Row]) -> list[Change]:
    """What it would take to make one side like the other, by streaming: only what differs is held in memory.

    Args:
        expected: gives the set's rows, as often as it is called; like those of the other side, only with what can be compared, and with
            what is stored.
        found: the live rows.
    """
    sums: dict[tuple[str, str], _Sum] = {}

    def count(what: str, path: str, facts: Facts) -> None:
        kind = "file" if facts["type"] == "hardlink" else str(facts["type"])
        sums.setdefault((kind, what), _Sum()).add(path, stored(facts))

    wanted = {fingerprint(path, facts) for _, path, facts in expected()}
    odd: dict[str, Facts] = {}
    for _, path, facts in found:
        if (seen := fingerprint(path, facts)) in wanted:
            wanted.discard(seen)
            count("equal", path, facts)
        else:
            odd[path] = facts
    for _, path, facts in expected() if wanted else ():
        if fingerprint(path, facts) in wanted:
            count("changed" if odd.pop(path, None) else "added", path, facts)
    for path, facts in odd.items():
        count("removed", path, facts)
    return [Change(kind, what, total.count, total.bytes, tuple(map(readable, total.names))) for (kind, what), total in sorted(sums.items())]


def beside(part: Part, walk: Walk, able: Abilities, counts: Callable[[str], bool], timeless: Collection[str] = ()) -> list[Change]:
    """What it would take to make what is live like a part of a set, by reading all of it.

    Args:
        part: of the set.
        walk: the look at what is live.
        able: what can be set there; the rest is not compared.
        counts: which entries of the part have to be there.
        timeless: the types of entries whose time is not compared.

    Raises:
        RestoreError: if something can't be read.
    """
    leaders = {raw(facts["target"]) for _, facts in part.entries() if facts["type"] == "hardlink"}

    def comparable(row: Row) -> Row:
        kind, path, facts = able.comparable(row)
        facts = {name: value for name, value in facts.items() if name != "mtime" or facts["type"] not in timeless}
        return kind, path, facts | {"stored": stored(row[2])}

    def expected() -> Iterator[Row]:
        return (comparable(("entry", path, facts)) for path, facts in part.entries() if counts(path))

    found = changes(expected, map(comparable, of_walk(walk, leaders, in_use=True)))
    if walk.problems:
        raise RestoreError(f"Not all of {walk.root} can be read: {shortened(walk.problems)}.", "Give the worker the right to read it.")
    return found


State = Literal["missing", "equal", "differs", "folder differs"]
"""``folder differs``: only a folder's own mode or owner does."""


@dataclass(frozen=True)
class Compared:
    """An entry of a set beside the live one, whose time alone is no difference."""

    path: str
    facts: Facts
    state: State
    live: Facts | None = None
    """Of the live entry; None if it is missing."""
    how: str = ""
    """What differs, in words."""


def one_beside(live: Reach, path: str, facts: Facts, able: Abilities, keys: dict[str, str] | None) -> Compared:
    """Put an entry of a set beside the live one.

    Args:
        live: what the live entry is reached through.
        path: of the entry.
        facts: of the entry in the set; of a hard link, what it is a link to.
        able: what can be set there; the rest is not compared.
        keys: the digests of its settings if it is a file of settings.
    """
    there = _there(live, path)
    if there is None:
        return Compared(path, facts, "missing")
    _, _, expected = able.comparable(("entry", path, facts))
    _, _, found = able.comparable(("entry", path, there))
    names = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    differing = sorted(set(names) - _NOT_COMPARED)
    if not differing:
        return Compared(path, facts, "equal", there)
    if facts["type"] != there["type"]:
        return Compared(path, facts, "differs", there, f"a {there['type']} where the set has a {facts['type']}")
    if facts["type"] == "folder":
        return Compared(path, facts, "folder differs", there, ", ".join(differing))
    how = ", ".join(dict.fromkeys("content" if name in DIGESTS else name for name in differing))
    if keys is not None and there["size"] <= LARGEST:
        changed = changed_keys(keys, key_digests(path, read_file(live.at(raw(path)), LARGEST)))
        how += f"; {changed}" if changed else ""
    return Compared(path, facts, "differs", there, how)


def _there(live: Reach, path: str) -> Facts | None:
    try:
        return of_live(live, raw(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def amount(walk: Iterable[Found]) -> str:
    """What a walk comes across, in words; empty if it is nothing."""
    counts = {"file": 0, "folder": 0, "link": 0, "fifo": 0}
    size = 0
    for found in walk:
        counts[found.kind] += 1
        size += found.stored
    words = [f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items() if count]
    return f"{', '.join(words)} ({human_size(size)})" if words else ""
