"""What a restore would change in a tree: entries added, changed, removed and equal, by count and size."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from recovery.components.trees.entries import fingerprint
from recovery.components.trees.tree import Found, readable
from recovery.contents import Change, Facts, Row
from recovery.units import human_size

_SHOWN = 10


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
        expected: gives the set's rows, as often as it is called; like those of the other side, only with what can be compared.
        found: the live rows.
    """
    sums: dict[tuple[str, str], _Sum] = {}

    def count(what: str, path: str, facts: Facts) -> None:
        kind = "file" if facts["type"] == "hardlink" else str(facts["type"])
        sums.setdefault((kind, what), _Sum()).add(path, facts.get("size", 0))

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


def amount(walk: Iterable[Found]) -> str:
    """What a walk comes across, in words; empty if it is nothing."""
    counts = {"file": 0, "folder": 0, "link": 0, "fifo": 0}
    size = 0
    for found in walk:
        counts[found.kind] += 1
        size += found.status.st_size if found.kind == "file" else 0
    words = [f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items() if count]
    return f"{', '.join(words)} ({human_size(size)})" if words else ""
