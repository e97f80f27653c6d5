"""Whether the parts of a plan fit together: names that must exist, folders that must not lie in each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recovery.plan_restore import FilesTarget, MongoTarget, PostgresTarget, Target
from recovery.plan_sources import ConfigSource, FilesSource, MongoSource, PostgresSource, Settings
from recovery.plan_types import LIVE, SCRATCH

if TYPE_CHECKING:
    from recovery.plan import Plan


def faults(plan: Plan) -> Iterator[str]:
    """One sentence for everything that does not fit, with the key's path and what to write instead."""
    if plan.good == "decoded" and plan.encryption.identity is None:
        yield "good: 'decoded' needs encryption.identity; name the Connection, or write good: stored"
    for source_id, root in _roots(plan):
        for key, folder in _own_folders(plan):
            if folder.is_relative_to(root):
                yield f"{key}: {folder} lies in the source {source_id}, which would back up its own backups"
    yield from _overlaps(plan)
    yield from _unknown_sources(plan)
    for name, target in plan.targets.items():
        yield from (f"targets.{name}{fault}" for fault in _target_faults(plan, name, target))
    yield from _drill_faults(plan)


def _roots(plan: Plan) -> Iterator[tuple[str, Path]]:
    for source_id, source in plan.sources:
        for root in (source.path,) if isinstance(source, FilesSource) else source.paths if isinstance(source, ConfigSource) else ():
            yield source_id, root


def _own_folders(plan: Plan) -> Iterator[tuple[str, Path]]:
    yield "staging.folder", plan.staging.folder
    if plan.drill.folder:
        yield "drill.folder", plan.drill.folder
    for name, destination in plan.destinations.items():
        if destination.folder:
            yield f"destinations.{name}.folder", destination.folder


def _overlaps(plan: Plan) -> Iterator[str]:
    folders = {f"sources.files.{name}.path": source.path for name, source in plan.sources.files.items()}
    for key, folder in folders.items():
        for other, outer in folders.items():
            if key != other and folder.is_relative_to(outer):
                yield f"{key}: {folder} lies in {outer} of {other}; a folder can be in one source only, so leave one of them out"


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
