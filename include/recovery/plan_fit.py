"""Whether the parts of a plan fit together: names that must exist, folders that must not lie in each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, permutations, product
from pathlib import Path
from typing import TYPE_CHECKING

from recovery.components.base import Landing, meet
from recovery.components.trees.tree import Excludes
from recovery.plan_restore import ConfigTarget, FilesTarget, MongoTarget, PostgresTarget, Target, TargetSettings
from recovery.plan_sources import ConfigSource, FilesSource, MongoSource, PostgresSource, Settings
from recovery.plan_types import LIVE, SCRATCH

if TYPE_CHECKING:
    from recovery.plan import Destination, Plan


def faults(plan: Plan) -> Iterator[str]:
    """One sentence for everything that does not fit, with the key's path and what to write instead."""
    if plan.good == "decoded" and plan.encryption.identity is None:
        yield "good: 'decoded' needs encryption.identity; name the Connection, or write good: stored"
    for source_id, root in _roots(plan):
        for key, folder in _own_folders(plan):
            if folder.is_relative_to(root):
                yield f"{key}: {folder} lies in the source {source_id}, which would back up its own backups"
    yield from _one_place_twice(plan)
    yield from _overlaps(plan)
    yield from _shared_databases(plan)
    yield from _unknown_sources(plan)
    for name, target in plan.targets.items():
        yield from (f"targets.{name}{fault}" for fault in _target_faults(plan, name, target))
    yield from _drill_faults(plan)


def _roots(plan: Plan) -> Iterator[tuple[str, Path]]:
    for source_id, source in plan.sources:
        for root in _own_roots(source):
            yield source_id, root


def _own_roots(source: Settings) -> tuple[Path, ...]:
    if isinstance(source, FilesSource):
        return (source.path,)
    return source.paths if isinstance(source, ConfigSource) else ()


def _own_folders(plan: Plan) -> Iterator[tuple[str, Path]]:
    yield "staging.folder", plan.staging.folder
    if plan.drill.folder:
        yield "drill.folder", plan.drill.folder
    for name, destination in plan.destinations.items():
        if destination.folder:
            yield f"destinations.{name}.folder", destination.folder


def _one_place_twice(plan: Plan) -> Iterator[str]:
    """Two copies in one place are one, and the stricter rule would prune for both. As written: to read a plan asks no file system."""
    for (one_id, one), (other_id, other) in combinations(plan.destinations.items(), 2):
        here, there = _storage(one), _storage(other)
        if here == there:
            yield f"destinations.{other_id}: this is the place of {one_id}, too; name another one, or leave it out"
        elif here == there[: len(here)] or there == here[: len(there)]:
            yield f"destinations.{other_id}: its place and that of {one_id} lie in one another; name one apart from it"


def _storage(destination: Destination) -> tuple[str, ...]:
    """Where a destination is: each part lies in those before it."""
    if destination.folder:
        return ("folder", *destination.folder.parts)
    assert destination.s3
    return ("s3", destination.s3.connection, destination.s3.bucket, *filter(None, destination.s3.prefix.split("/")))


def _overlaps(plan: Plan) -> Iterator[str]:
    for (inner_id, inner), (outer_id, outer) in permutations(plan.sources, 2):
        for path, root in _within(inner, outer):
            yield (
                f"sources.{inner_id}: {path} lies in {root} of {outer_id}; what is in two sources is replaced twice, so leave it"
                f" out of one of them, or exclude its topmost entry from {outer_id}"
            )


def _within(inner: Settings, outer: Settings) -> Iterator[tuple[Path, Path]]:
    """Folders of a source that are, or lie in, one that another has whole."""
    pairs = product(_own_roots(inner), _own_roots(outer))
    return ((path, root) for path, root in pairs if path.is_relative_to(root) and left_out(outer, path.relative_to(root)) is None)


def left_out(source: Settings, inside: Path) -> Path | None:
    """The topmost entry that a source excludes on the way to a path below its folder; None if it has what lies there.

    What files exclude deeper than at the top goes with its folder all the same.
    """
    assert isinstance(source, FilesSource | ConfigSource)
    excluded = Excludes(source.exclude)
    starts = [Path(*inside.parts[:depth]) for depth in range(1, len(inside.parts) + 1)]
    return next((start for start in (starts[:1] if isinstance(source, FilesSource) else starts) if excluded(os.fsencode(start))), None)


def _shared_databases(plan: Plan) -> Iterator[str]:
    for (one_id, one), (other_id, other) in combinations(plan.sources, 2):
        if shared := _shared(_server_places(one), _server_places(other)):
            yield f"sources.{other_id}: {shared} is in {one_id}, too; leave it out of one of them"


def _server_places(source: Settings, there: TargetSettings | None = None) -> set[Landing]:
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


def _shared(places: set[Landing], others: set[Landing]) -> str:
    """What of two is the same on a server, in words."""
    same = sorted(max(one, other, key=len)[1:] for one in places for other in others if meet(one, other))
    return ", ".join(f"{'.'.join(names) or 'all'} of {connection}" for connection, *names in same)


def _unknown_sources(plan: Plan) -> Iterator[str]:
    named = [(f"hooks.{key}", hook.source) for key, hook in plan.hooks.all()]
    named += [(f"checks.{number}", check.source) for number, check in enumerate(plan.checks)]
    named += [
        (f"targets.{name}.checks.{number}", check.source)
        for name, target in plan.targets.items()
        for number, check in enumerate(target.checks)
    ]
    named += [(f"drill.sources.{number}", source) for number, source in enumerate(plan.drill.sources)]
    for key, source_id in named:
        if source_id is not None and source_id not in plan.source_ids:
            yield f"{key}: the plan has no source {source_id}; it has {', '.join(plan.source_ids)}"


def _target_faults(plan: Plan, name: str, target: Target) -> Iterator[str]:
    if name in {LIVE, SCRATCH}:
        yield f": {name!r} is taken; choose another name"
    sources = dict(plan.sources)
    for source_id, there in target.sources:
        if source_id not in sources:
            yield f".sources.{source_id}: the plan has no such source; it has {', '.join(sources)}"
        elif isinstance(there, PostgresTarget | MongoTarget):
            yield from (f".sources.{source_id}: {fault}" for fault in _live_server(sources, source_id, there))
        else:
            folder = there.path if isinstance(there, FilesTarget) else there.folder
            yield from (f".sources.{source_id}: {fault}" for fault in _live_folder(plan, folder))
    yield from _meeting_there(sources, target)


def _meeting_there(sources: Mapping[str, Settings], target: Target) -> Iterator[str]:
    """Of two sources that go to one place, one would set aside what the other has just brought."""
    known = [(source_id, there) for source_id, there in target.sources if source_id in sources]
    for (one_id, one), (other_id, other) in combinations(known, 2):
        if shared := _shared(_named_places(sources[one_id], one), _named_places(sources[other_id], other)):
            yield f".sources.{other_id}: {shared} is where {one_id} goes, too; give one of them another name there"
        for path, root in _nested(_roots_there(sources[one_id], one), _roots_there(sources[other_id], other)):
            yield f".sources.{other_id}: {root} and {path} of {one_id} are, or lie in, one another; name a folder apart from it"


def share_a_place(plan: Plan, one: str, other_plan: Plan, other: str) -> bool:
    """Whether two places, live or a target, of one plan or of two, lead to the same data, as far as the plans say."""
    if (plan.plan, one) == (other_plan.plan, other):
        return True
    return any(_meet(*mine, *theirs) for mine, theirs in product(_sources_at(plan, one), _sources_at(other_plan, other)))


def _meet(mine: Settings, here: TargetSettings | None, theirs: Settings, there: TargetSettings | None) -> bool:
    if _shared(_server_places(mine, here), _server_places(theirs, there)):
        return True
    if here is None and there is None:
        return any(_within(mine, theirs)) or any(_within(theirs, mine))
    return any(_nested(_roots_there(mine, here), _roots_there(theirs, there)))


def _sources_at(plan: Plan, place: str) -> list[tuple[Settings, TargetSettings | None]]:
    """What a restore to a place brings, and where to: None for where the source itself is. A scratch place is nobody else's."""
    sources = dict(plan.sources)
    if place == LIVE:
        return [(source, None) for source in sources.values()]
    return [(sources[source_id], there) for source_id, there in plan.targets[place].sources] if place in plan.targets else []


def _named_places(source: Settings, there: TargetSettings) -> set[Landing]:
    """Without names in the plan only the set knows."""
    return {place for place in _server_places(source, there) if len(place) > 2}


def _nested(paths: Iterable[Path], others: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    return ((path, other) for path, other in product(paths, others) if path.is_relative_to(other) or other.is_relative_to(path))


def _roots_there(source: Settings, there: TargetSettings | None) -> list[Path]:
    if there is None:
        return list(_own_roots(source))
    if isinstance(there, ConfigTarget):
        return [there.folder / path.relative_to(path.anchor) for path in _own_roots(source)]
    return [there.path] if isinstance(there, FilesTarget) else []


def _live_server(sources: Mapping[str, Settings], source_id: str, there: PostgresTarget | MongoTarget) -> Iterator[str]:
    """A target on a live server, be it another source's, is one only if every database has a name there that is not live."""
    own = sources[source_id]
    assert isinstance(own, PostgresSource | MongoSource)
    for other_id, other in sources.items():
        if not isinstance(other, type(own)) or other.connection != there.connection:
            continue
        if not own.databases or not other.databases:
            yield f"this is the live server of {other_id}; name the databases of both in the plan, or another connection here"
        elif taken := [name for name in own.databases if there.databases.get(name, name) in other.databases]:
            yield f"this is the live server of {other_id}; give {', '.join(taken)} another name under databases, or name another connection"


def _live_folder(plan: Plan, folder: Path) -> Iterator[str]:
    for other_id, root in _roots(plan):
        if folder.is_relative_to(root) or root.is_relative_to(folder):
            yield f"{folder} is, lies in, or has in it {root} of the live source {other_id}; name a folder apart from it"
    for own, place in _own_folders(plan):
        if folder.is_relative_to(place) or place.is_relative_to(folder):
            yield f"{folder} and {own}, {place}, lie in each other; name a folder apart from it"


def _drill_faults(plan: Plan) -> Iterator[str]:
    if plan.drill.target != SCRATCH and plan.drill.target not in plan.targets:
        yield f"drill.target: there is no target {plan.drill.target!r}; write {' or '.join(['scratch', *plan.targets])}"
    elif plan.drill.target != SCRATCH:
        there = dict(plan.targets[plan.drill.target].sources)
        for source_id in plan.drill.sources:
            if source_id not in there:
                yield f"drill.sources: the target {plan.drill.target} has no {source_id}; it has {', '.join(there)}"
    for name in plan.drill.destinations:
        if name not in plan.destinations:
            yield f"drill.destinations: there is no destination {name!r}; the plan has {', '.join(plan.destinations)}"
