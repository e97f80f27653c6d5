"""Locations: where data lies, comparable however it is reached."""

from __future__ import annotations

from collections.abc import Iterable

Location = tuple[str, ...]
"""Where something of a restore goes, from the outside to the inside, and the same however it is reached: what kind of server or
``files``, the server's own identifier, a database, a collection; of files the parts of the path. A shorter one means all below it."""


def overlap(one: Location, other: Location) -> bool:
    """Whether one of two is, or lies in, the other."""
    return all(mine == theirs for mine, theirs in zip(one, other, strict=False))


def contained_in(location: Location, others: Iterable[Location]) -> bool:
    """Whether one is, or lies in, any of others."""
    return any(location[: len(other)] == other for other in others)
