"""Locations that two sources, or two plans, share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from recovery.plan.excludes import Excludes
from recovery.plan.field_types import LIVE
from recovery.plan.kinds.config import ConfigSource, ConfigTarget
from recovery.plan.kinds.files import FilesSource, FilesTarget
from recovery.plan.kinds.mongo import MongoSource, MongoTarget
from recovery.plan.kinds.postgres import PostgresSource, PostgresTarget
from recovery.plan.location import Landing, meet
from recovery.plan.restore_targets import TargetSettings
from recovery.plan.sources import Settings

if TYPE_CHECKING:
    from recovery.plan.model import Plan


def left_out(source: Settings, inside: Path) -> Path | None:
    """The topmost entry that a source excludes on the way to a path below its folder; None if it has what lies there.

    What files exclude deeper than at the top goes with its folder all the same.
    """
    assert isinstance(source, FilesSource | ConfigSource)
    excluded = Excludes(source.exclude)
    starts = [Path(*inside.parts[:depth]) for depth in range(1, len(inside.parts) + 1)]
    return next((start for start in (starts[:1] if isinstance(source, FilesSource) else starts) if excluded(os.fsencode(start))), None)


def share_a_place(plan: Plan, one: str, other_plan: Plan, other: str) -> bool:
    """Whether two places, live or a target, of one plan or of two, lead to the same data, as far as the plans say."""
    if (plan.plan, one) == (other_plan.plan, other):
        return True
    return any(_meet(*mine, *theirs) for mine, theirs in product(_sources_at(plan, one), _sources_at(other_plan, other)))


def _meet(mine: Settings, here: TargetSettings | None, theirs: Settings, there: TargetSettings | None) -> bool:
    if shared_locations(server_locations(mine, here), server_locations(theirs, there)):
        return True
    if here is None and there is None:
        return any(roots_within(mine, theirs)) or any(roots_within(theirs, mine))
    return any(nested_paths(roots_there(mine, here), roots_there(theirs, there)))


def _sources_at(plan: Plan, place: str) -> list[tuple[Settings, TargetSettings | None]]:
    """What a restore to a place brings, and where to: None for where the source itself is. A scratch place is nobody else's."""
    sources = dict(plan.sources)
    if place == LIVE:
        return [(source, None) for source in sources.values()]
    return [(sources[source_id], there) for source_id, there in plan.targets[place].sources] if place in plan.targets else []


def own_roots(source: Settings) -> tuple[Path, ...]:
    """The folders that a source has."""
    if isinstance(source, FilesSource):
        return (source.path,)
    return source.paths if isinstance(source, ConfigSource) else ()


def roots_within(inner: Settings, outer: Settings) -> Iterator[tuple[Path, Path]]:
    """Folders of a source that are, or lie in, one that another has whole."""
    pairs = product(own_roots(inner), own_roots(outer))
    return ((path, root) for path, root in pairs if path.is_relative_to(root) and left_out(outer, path.relative_to(root)) is None)


def server_locations(source: Settings, there: TargetSettings | None = None) -> set[Landing]:
    """What a source has on its server, or where it gets it at a target: connection, database, collection; without names, all of it."""
    if isinstance(source, PostgresSource):
        assert isinstance(there, PostgresTarget | None)
        renamed = there.databases if there else {}
        inside: set[Landing] = {(renamed.get(name, name),) for name in source.databases}
    elif isinstance(source, MongoSource):
        assert isinstance(there, MongoTarget | None)
        inside = {_mongo_names(name, there) for name in source.collections or source.databases}
    else:
        return set()
    kind = "postgres" if isinstance(source, PostgresSource) else "mongo"
    return {(kind, (there or source).connection, *names) for names in inside or {()}}


def _mongo_names(full: str, there: MongoTarget | None) -> Landing:
    database, dot, name = full.partition(".")
    if there is None:
        return (database, name) if dot else (database,)
    renamed = there.databases.get(database, database)
    return (renamed, there.collections.get(full, name)) if dot else (renamed,)


def shared_locations(places: set[Landing], others: set[Landing]) -> str:
    """What of two is the same on a server, in words."""
    same = sorted(max(one, other, key=len)[1:] for one in places for other in others if meet(one, other))
    return ", ".join(f"{'.'.join(names) or 'all'} of {connection}" for connection, *names in same)


def nested_paths(paths: Iterable[Path], others: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Pairs of paths of which one is, or lies in, the other."""
    return ((path, other) for path, other in product(paths, others) if path.is_relative_to(other) or other.is_relative_to(path))


def roots_there(source: Settings, there: TargetSettings | None) -> list[Path]:
    """The folders that a source has, or gets at a target."""
    if there is None:
        return list(own_roots(source))
    if isinstance(there, ConfigTarget):
        return [there.folder / path.relative_to(path.anchor) for path in own_roots(source)]
    return [there.path] if isinstance(there, FilesTarget) else []
