"""Locations that two sources, or two plans, share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from recovery.plan.field_types import LIVE
from recovery.plan.location import Location, overlap
from recovery.plan.source_settings import SourceSettings, TargetSettings

if TYPE_CHECKING:
    from recovery.plan.model import Plan


def share_a_location(plan: Plan, one: str, other_plan: Plan, other: str) -> bool:
    """Whether two places, live or a target, of one plan or of two, lead to the same data, as far as the plans say."""
    if (plan.plan, one) == (other_plan.plan, other):
        return True
    return any(_meet(*mine, *theirs) for mine, theirs in product(_sources_at(plan, one), _sources_at(other_plan, other)))


def _meet(mine: SourceSettings, here: TargetSettings | None, theirs: SourceSettings, there: TargetSettings | None) -> bool:
    if shared_locations(mine.on_server(here), theirs.on_server(there)):
        return True
    if here is None and there is None:
        return any(roots_within(mine, theirs)) or any(roots_within(theirs, mine))
    return any(nested_paths(roots_there(mine, here), roots_there(theirs, there)))


def _sources_at(plan: Plan, place: str) -> list[tuple[SourceSettings, TargetSettings | None]]:
    """What a restore to a place brings, and where to: None for where the source itself is. A scratch target is nobody else's."""
    sources = dict(plan.sources)
    if place == LIVE:
        return [(source, None) for source in sources.values()]
    return [(sources[source_id], there) for source_id, there in plan.targets[place].sources] if place in plan.targets else []


def roots_within(inner: SourceSettings, outer: SourceSettings) -> Iterator[tuple[Path, Path]]:
    """Folders of a source that are, or lie in, one that another has whole."""
    return ((path, root) for path, root in _within(inner.roots(), outer.roots()) if outer.left_out(path.relative_to(root)) is None)


def _within(paths: Iterable[Path], roots: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Each path with each of the roots that it is, or lies in."""
    known = set(roots)
    return ((path, root) for path in paths for root in (path, *path.parents) if root in known)


def roots_there(source: SourceSettings, there: TargetSettings | None) -> tuple[Path, ...]:
    """The folders that a source has, or gets at a target."""
    return there.roots(source) if there else source.roots()


def shared_locations(places: set[Location], others: set[Location]) -> str:
    """What of two is the same on a server, in words."""
    same = sorted(max(one, other, key=len)[1:] for one in places for other in others if overlap(one, other))
    return ", ".join(f"{'.'.join(names) or 'all'} of {connection}" for connection, *names in same)


def nested_paths(paths: Collection[Path], others: Collection[Path]) -> Iterator[tuple[Path, Path]]:
    """Pairs of paths of which one is, or lies in, the other."""
    yield from _within(paths, others)
    yield from ((path, other) for other, path in _within(others, paths) if path != other)
