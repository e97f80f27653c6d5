"""What preflight thinks of what it knows: one rule a function, of facts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from recovery.common.units import human_size
from recovery.common.wording import shortened
from recovery.plan.field_types import SCRATCH
from recovery.plan.location import overlap
from recovery.restore.preflight_facts import Facts
from recovery.sources.model import Finding

ROOM = "room"
"""What findings about free space are about."""
CHECKS = "checks"
"""What findings about the plan's checks are about."""


@dataclass(frozen=True)
class Judgement(Finding):
    """A finding, and where in the text of the first gate it belongs."""

    about: str = ""
    """A source, :data:`CHECKS`, :data:`ROOM`, or nothing: the restore as a whole."""

    def __str__(self) -> str:
        return self.text if self.about in {"", CHECKS, ROOM} else f"{self.about}: {self.text}"


def judge(facts: Facts) -> list[Judgement]:
    """All findings: of the restore as a whole, then source by source, then of checks and of room."""
    found = [finding for rule in RULES for finding in rule(facts)]
    order = ["", *facts.reports, CHECKS, ROOM]
    return sorted(found, key=lambda finding: order.index(finding.about))


# Sources --------------------------------------------------------------------------------------------------------------


def sources_answer(facts: Facts) -> Iterator[Judgement]:
    """Every source of the restore can be asked."""
    for source_id, failure in facts.failures.items():
        yield Judgement("refusal", f"{source_id}: {failure}")


def sources_lie_apart(facts: Facts) -> Iterator[Judgement]:
    """No source would replace what another has just brought, however both reach it."""
    for (one, other), shared in groupby(facts.overlaps, lambda overlap: overlap.sources):
        overlaps = list(shared)
        if same := {"/".join(overlap.location) for overlap in overlaps if not overlap.left_out}:
            yield Judgement(
                "refusal",
                f"{one} and {other} would replace each other at {facts.request.target} ({shortened(sorted(same))}). Correct the plan or the"
                " Connections; if the plan is right and the set older than it, restore one after the other.",
            )
        elif gone := {str(overlap.lost_folder) for overlap in overlaps if facts.in_place and overlap.lost_folder}:
            text = f"{shortened(sorted(gone))} is gone, and both {one} and {other} need it."
            yield Judgement("refusal", f"{text} Choose method: swap, or restore one after the other.")


def sources_say(facts: Facts) -> Iterator[Judgement]:
    """What the sources' own preflights found."""
    for source_id, report in facts.reports.items():
        for finding in report.findings:
            yield Judgement(finding.level, finding.text, source_id)


# Hooks, services and checks -----------------------------------------------------------------------------------------------------


def hooks_can_run(facts: Facts) -> Iterator[Judgement]:
    """No hook is known to fail once the restore was approved."""
    yield from (Judgement("refusal", f"{hook} would fail: {why}") for hook, why in facts.failing_hooks.items())


def services_can_be_stopped(facts: Facts) -> Iterator[Judgement]:
    """No container of the services is known to be one that can't be stopped, so that it comes back as it is."""
    yield from (Judgement("refusal", f"Services can't be stopped: {why}") for why in facts.failing_services)


def checks_can_be_asked(facts: Facts) -> Iterator[Judgement]:
    """No check is known to fail whatever was restored."""
    yield from (Judgement("warning", f"{check} would fail: {why}", CHECKS) for check, why in facts.failing_checks.items())


# The target -----------------------------------------------------------------------------------------------------------


def live_systems_answer(facts: Facts) -> Iterator[Judgement]:
    """All that is live can be asked, so that it can be told from the target."""
    if facts.silent:
        text = f"Whether this is the live system can't be compared: {', '.join(facts.silent)} does not answer."
        yield from (Judgement("warning", text, source_id) for source_id in facts.locations)


def target_is_not_live(facts: Facts) -> Iterator[Judgement]:
    """A target is not what this plan or another protects, by another name."""
    for source_id, locations in facts.locations.items():
        for plan, live in facts.live.items():
            own = plan == facts.plan.plan
            system = "live system itself" if own else f"live system of the plan {plan}"
            clone = "; if it is a clone of the live server, give its databases other names in the plan" if own else ""
            if same := sorted("/".join(location) for location in locations if any(overlap(location, other) for other in live)):
                text = f"the target {facts.request.target} is the {system} ({shortened(same)}). Correct the plan or the Connection{clone}."
                yield Judgement("refusal", text, source_id)


def target_is_empty(facts: Facts) -> Iterator[Judgement]:
    """Nothing is at a target, unless somebody said that it may be set aside."""
    target = facts.request.target
    for source_id, there in facts.occupied_locations.items():
        text = f"the target {target} is not empty: {shortened(there)}. Write {target} into overwrite if that may be set aside."
        yield Judgement("refusal", text, source_id)


# Room -----------------------------------------------------------------------------------------------------------------


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

    def __str__(self) -> str:
        free = "an unknown size" if self.free is None else human_size(self.free)
        return f"{self.where}: {free} free; work needs {human_size(self.work)}, a copy beside the live data {human_size(self.copy)}"

    def lacks(self, needed: int) -> bool:
        """Whether it is known to have less room than that."""
        return self.free is not None and self.free < needed


def _file_systems(facts: Facts) -> list[_FileSystem]:
    found: dict[object, _FileSystem] = {}
    for folder, size in _work(facts):
        disk = facts.disks[folder]
        found.setdefault(disk.device, _FileSystem(folder, disk.free)).work += size
    for space in (space for report in facts.reports.values() for space in report.second_copy):
        there = facts.disks[space.folder] if space.folder is not None else None
        key, free = (there.device, there.free) if there else (space.where, space.free)
        system = found.setdefault(key, _FileSystem(space.where, free))
        system.copy += space.needed
        system.freed += space.freed
    return list(found.values())


def _work(facts: Facts) -> Iterator[tuple[str, int]]:
    yield str(facts.folder), len(facts.reports) * facts.plan.pack  # a pack of each source is fetched at a time
    for report in facts.reports.values():
        yield from report.bytes_needed.items()
    if facts.in_place:  # the safety set: at most about as large as the chosen one, with one raw dump at a time
        totals = [facts.manifest.sources[source_id].totals for source_id in facts.reports]
        yield str(facts.folder), sum(each.stored_bytes for each in totals) + max((each.raw_bytes for each in totals), default=0)


def _short(facts: Facts) -> list[_FileSystem]:
    """Those without room for a copy beside the live data."""
    return [system for system in _file_systems(facts) if system.lacks(system.work + system.copy)]


def _unknown(facts: Facts) -> list[str]:
    return [system.where for system in _file_systems(facts) if system.free is None and system.copy]


def needs_are_told(facts: Facts) -> Iterator[Judgement]:
    """What is needed and free on each file system."""
    yield from (Judgement("fact", str(system), ROOM) for system in _file_systems(facts))


def work_has_room(facts: Facts) -> Iterator[Judgement]:
    """There is room for what is needed whatever the method."""
    for system in _file_systems(facts):
        if system.lacks(system.work):
            yield Judgement("refusal", f"{system}; that is too little. Make room, or restore less at a time.", ROOM)


def room_is_known(facts: Facts) -> Iterator[Judgement]:
    """What is free can be found out wherever a copy would lie."""
    where = ", ".join(_unknown(facts))
    if where and facts.request.target == SCRATCH:
        yield Judgement("refusal", f"How much is free can't be found out for {where}, and backups need the same disk.", ROOM)
    elif where:
        yield Judgement("warning", f"How much is free can't be found out from here: {where}. Look there before you approve.", ROOM)


def method_fits(facts: Facts) -> Iterator[Judgement]:
    """The chosen method has room, and the other one would not be better."""
    short = _short(facts)
    where = ", ".join(system.where for system in short)
    if facts.in_place and (short or not _unknown(facts)):
        yield from _in_place_fits(short, where)
    elif short and facts.into_live and facts.request.method == "swap":
        text = f"There is no room for a copy beside the live data at {where}. Make room, or choose method: in place."
        yield Judgement("refusal", text, ROOM)
    elif short:
        yield Judgement("refusal", f"There is too little room at {where}. Make room there.", ROOM)
    elif facts.request.method != "beside":
        yield Judgement("fact", "As far as known there is room for two copies: method swap is recommended.", ROOM)


def _in_place_fits(short: list[_FileSystem], where: str) -> Iterator[Judgement]:
    if full := [system for system in short if system.lacks(system.work + system.copy - system.freed)]:
        where = ", ".join(f"{system.where} (dropping the live data gives back {human_size(system.freed)})" for system in full)
        yield Judgement("refusal", f"The set does not fit even in place at {where}. Make room.", ROOM)
    elif short:
        yield Judgement("fact", f"There is no room for a second copy at {where}: in place is the method that fits.", ROOM)
    else:
        text = "There is room for two copies, so method swap would do: it replaces nothing before all is verified."
        yield Judgement("warning", text, ROOM)


def others_need_room(facts: Facts) -> Iterator[Judgement]:
    """Nobody else is about to fill the same disks."""
    if facts.others:
        yield Judgement("warning", f"Not in these numbers is what others under way need: {', '.join(facts.others)}.", ROOM)


RULES: tuple[Callable[[Facts], Iterable[Judgement]], ...] = (
    sources_answer,
    sources_lie_apart,
    sources_say,
    hooks_can_run,
    services_can_be_stopped,
    checks_can_be_asked,
    live_systems_answer,
    target_is_not_live,
    target_is_empty,
    needs_are_told,
    work_has_room,
    room_is_known,
    method_fits,
    others_need_room,
)
"""In the order in which their findings are told."""
