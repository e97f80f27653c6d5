"""Whether the parts of a plan fit together: names that must exist, folders that must not lie in each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from recovery.plan.field_types import LIVE, SCRATCH
from recovery.plan.kinds import KINDS
from recovery.plan.location import Location
from recovery.plan.overlap import nested_paths, roots_there, shared_locations
from recovery.plan.restore_targets import Target
from recovery.plan.services import Services
from recovery.plan.source_settings import Question, ServerSettings, ServerTarget, SourceSettings, Statement, TargetSettings

if TYPE_CHECKING:
    from recovery.plan.model import Destination, Plan


def faults(plan: Plan) -> Iterator[str]:
    """One sentence for everything that does not fit, with the key's path and what to write instead."""
    if plan.verification == "content" and plan.encryption.identity is None:
        yield "verification: 'content' needs encryption.identity; name the Connection, or write verification: checksum"
    if plan.mode == "cold" and plan.services.down_at_most is None:
        yield "mode: cold backups need services.down_at_most; write how long services may be stopped, or mode: hot"
    if plan.services.down_at_most is not None and not _come_back(plan.services):
        yield (
            "services.down_at_most: cold backups need services.compose or services.docker, or services.stop and services.start, both of"
            " them; write these, or leave this out"
        )
    yield from (f"services{fault}" for fault in _stopped_servers(plan.services, plan.sources))
    for source_id, root in _roots(plan):
        for key, folder in _own_folders(plan):
            if folder.is_relative_to(root):
                yield f"{key}: {folder} lies in the source {source_id}, which would back up its own backups"
    yield from _one_place_twice(plan)
    yield from _overlaps(plan)
    yield from _shared_databases(plan)
    yield from _tools_of_nobody(plan)
    yield from _unknown_sources(plan)
    yield from _other_kinds(plan)
    for name, target in plan.targets.items():
        yield from (f"targets.{name}{fault}" for fault in _target_faults(plan, name, target))
    yield from _drill_faults(plan)


def _come_back(services: Services) -> bool:
    """Whether something is stopped, and all of it is started."""
    return services.named and bool(services.stop) == bool(services.start)


def _stopped_servers(services: Services, sources: Iterable[tuple[str, SourceSettings | TargetSettings]]) -> Iterator[str]:
    """A server that is stopped can be neither read nor restored."""
    for source_id, source in sources:
        if isinstance(source, (ServerSettings, ServerTarget)) and source.reach and services.names(source.reach.docker):
            yield f": {source.reach.docker.title} is the server of {source_id}, which has to run; leave it out here"


def _roots(plan: Plan) -> Iterator[tuple[str, Path]]:
    for source_id, source in plan.sources:
        for root in source.roots():
            yield source_id, root


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
            yield f"destinations.{other_id}: this is where {one_id} keeps its sets, too; name another one, or leave it out"
        elif here == there[: len(here)] or there == here[: len(there)]:
            yield f"destinations.{other_id}: its folder or prefix and that of {one_id} lie in one another; name one apart from it"


def _storage(destination: Destination) -> tuple[str, ...]:
    """Where a destination is: each part lies in those before it."""
    if destination.folder:
        return ("folder", *destination.folder.parts)
    assert destination.s3
    return ("s3", destination.s3.connection, destination.s3.bucket, *filter(None, destination.s3.prefix.split("/")))


def _overlaps(plan: Plan) -> Iterator[str]:
    whole = defaultdict(list)
    for outer_id, outer in plan.sources:
        for root in outer.roots():
            whole[root].append((outer_id, outer))
    for inner_id, path in _roots(plan):
        lies_in = [(root, *each) for root in (path, *path.parents) for each in whole.get(root, ())]
        for root, outer_id, outer in lies_in:
            if outer_id == inner_id or outer.left_out(path.relative_to(root)) is not None:
                continue
            yield (
                f"sources.{inner_id}: {path} lies in {root} of {outer_id}; what is in two sources is replaced twice, so leave it"
                f" out of one of them, or exclude its topmost entry from {outer_id}"
            )


def _shared_databases(plan: Plan) -> Iterator[str]:
    for (one_id, one), (other_id, other) in combinations(plan.sources, 2):
        if shared := shared_locations(one.on_server(), other.on_server()):
            yield f"sources.{other_id}: {shared} is in {one_id}, too; leave it out of one of them"


def _tools_of_nobody(plan: Plan) -> Iterator[str]:
    """Client tools are taken out of containers that the plan names."""
    places = [*plan.sources, *(each for target in plan.targets.values() for each in target.sources)]
    reached = {source_id.partition(".")[0] for source_id, at in places if isinstance(at, ServerSettings | ServerTarget) and at.reach}
    for kind in KINDS:
        if plan.tools.in_containers(kind) and kind not in reached:
            yield f"tools.{kind}: no source and no target of this kind has reach, so there is no container; write reach, or leave this out"


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


def _other_kinds(plan: Plan) -> Iterator[str]:
    """A statement or question is in the language of one kind of source."""
    asked: list[tuple[str, Statement | Question | None]] = [(f"hooks.{key}", hook.statement) for key, hook in plan.hooks.all()]
    asked += [(f"checks.{number}", check.question) for number, check in enumerate(plan.checks)]
    for name, target in plan.targets.items():
        asked += [(f"targets.{name}.checks.{number}", check.question) for number, check in enumerate(target.checks)]
    for key, said in asked:
        if said and not said.source.startswith(f"{said.kind}."):
            yield f"{key}: {said.source} does not understand this; name a source of kind {said.kind}"


def _target_faults(plan: Plan, name: str, target: Target) -> Iterator[str]:
    if name in {LIVE, SCRATCH}:
        yield f": {name!r} is taken; choose another name"
    sources = dict(plan.sources)
    for source_id, there in target.sources:
        if source_id not in sources:
            yield f".sources.{source_id}: the plan has no such source; it has {', '.join(sources)}"
        elif isinstance(there, ServerTarget):
            yield from (f".sources.{source_id}: {fault}" for fault in _live_server(sources, source_id, there))
        elif folder := there.folder_of_all():
            yield from (f".sources.{source_id}: {fault}" for fault in _live_folder(plan, folder))
    yield from _meeting_there(sources, target)
    yield from (f".services{fault}" for fault in _stopped_servers(target.services, target.sources))


def _meeting_there(sources: Mapping[str, SourceSettings], target: Target) -> Iterator[str]:
    """Of two sources that go to one place, one would set aside what the other has just brought."""
    known = [(source_id, there) for source_id, there in target.sources if source_id in sources]
    for (one_id, one), (other_id, other) in combinations(known, 2):
        if shared := shared_locations(_named_places(sources[one_id], one), _named_places(sources[other_id], other)):
            yield f".sources.{other_id}: {shared} is what {one_id} is restored to, too; give one of them another name at the target"
        for path, root in nested_paths(roots_there(sources[one_id], one), roots_there(sources[other_id], other)):
            yield f".sources.{other_id}: {root} and {path} of {one_id} are, or lie in, one another; name a folder apart from it"


def _named_places(source: SourceSettings, there: TargetSettings) -> set[Location]:
    """Without names in the plan only the set knows."""
    return {place for place in source.on_server(there) if len(place) > 2}


def _live_server(sources: Mapping[str, SourceSettings], source_id: str, there: ServerTarget) -> Iterator[str]:
    """A target on a live server, be it another source's, is one only if every database has a name there that is not live."""
    own = sources[source_id]
    assert isinstance(own, ServerSettings)
    for other_id, other in sources.items():
        if not (isinstance(other, ServerSettings) and other.family == own.family and other.server == there.server):
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
