"""Whether there is room for what a restore needs, in numbers, and which method fits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from recovery.common.units import human_size
from recovery.plan.field_types import SCRATCH
from recovery.restore.session import RestoreRun
from recovery.runs import active
from recovery.sources.model import Finding, Preflight, Space


@dataclass
class _FileSystem:
    where: str
    free: int | None
    work: int = 0
    """Bytes that are needed whatever the method."""
    copy: int = 0
    """Bytes that a copy beside the live data needs."""
    freed: int = 0
    """Bytes that dropping the live data gives back."""


def findings(run: RestoreRun, reports: Mapping[str, Preflight]) -> Iterator[Finding]:
    """What is needed and free on each file system, whether the chosen method fits, and which one is better."""
    systems = _file_systems(run, reports)
    for system in systems:
        yield Finding("fact", _numbers(system))
        if system.free is not None and system.work > system.free:
            yield Finding("refusal", f"{_numbers(system)}; that is too little. Make room, or restore less at a time.")
    short = [system for system in systems if system.free is not None and system.free < system.work + system.copy]
    unknown = [system.where for system in systems if system.free is None and system.copy]
    if unknown and run.request().target == SCRATCH:
        yield Finding("refusal", f"How much is free can't be found out for {', '.join(unknown)}, and backups need the same disk.")
    elif unknown:
        yield Finding("warning", f"How much is free can't be found out from here: {', '.join(unknown)}. Look there before you approve.")
    yield from _method(run, short, unknown)
    if beside := [str(other) for other in active.others(run.plan, run.folder)]:
        yield Finding("warning", f"Not in these numbers is what others under way need: {', '.join(beside)}.")


def _method(run: RestoreRun, short: list[_FileSystem], unknown: list[str]) -> Iterator[Finding]:
    where = ", ".join(system.where for system in short)
    if run.in_place and (full := [each for each in short if each.free is not None and each.free + each.freed < each.work + each.copy]):
        where = ", ".join(f"{each.where} (dropping the live data gives back {human_size(each.freed)})" for each in full)
        yield Finding("refusal", f"The set does not fit even in place at {where}. Make room.")
    elif run.in_place and not short and not unknown:
        yield Finding("warning", "There is room for two copies, so method switch would do: it replaces nothing before all is proven.")
    elif run.in_place and short:
        yield Finding("fact", f"There is no room for a second copy at {where}: in place is the method that fits.")
    elif short and run.place.live:
        yield Finding("refusal", f"There is no room for a copy beside the live data at {where}. Make room, or choose method: in place.")
    elif short:
        yield Finding("refusal", f"There is too little room at {where}. Make room there.")
    else:
        yield Finding("fact", "As far as known there is room for two copies: method switch is recommended.")


def _numbers(system: _FileSystem) -> str:
    free = "an unknown size" if system.free is None else human_size(system.free)
    return f"{system.where}: {free} free; work needs {human_size(system.work)}, a copy beside the live data {human_size(system.copy)}"


def _file_systems(run: RestoreRun, reports: Mapping[str, Preflight]) -> list[_FileSystem]:
    found: dict[object, _FileSystem] = {}
    for folder, size in _work(run, reports):
        _local(found, str(folder), str(folder)).work += size
    for report in reports.values():
        for space in report.second_copy:
            system = _copy_place(found, space)
            system.copy += space.needed
            system.freed += space.freed
    return list(found.values())


def _work(run: RestoreRun, reports: Mapping[str, Preflight]) -> Iterator[tuple[Path, int]]:
    yield run.folder, len(reports) * run.plan.pack  # a pack of each source is fetched at a time
    for report in reports.values():
        for folder, size in report.bytes_needed.items():
            yield Path(folder), size
    if run.in_place:  # the safety set: at most about as large as the chosen one, with one raw dump at a time
        totals = [run.manifest().sources[source_id].totals for source_id in reports]
        yield run.folder, sum(each.stored_bytes for each in totals) + max((each.raw_bytes for each in totals), default=0)


def _local(found: dict[object, _FileSystem], folder: str, where: str) -> _FileSystem:
    device = Path(folder).stat().st_dev
    return found.setdefault(device, _FileSystem(where, shutil.disk_usage(folder).free))


def _copy_place(found: dict[object, _FileSystem], space: Space) -> _FileSystem:
    if space.folder is not None:
        return _local(found, space.folder, space.where)
    return found.setdefault(space.where, _FileSystem(space.where, space.free))
