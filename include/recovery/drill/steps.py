"""The first steps of a drill: which set, from which destination, and the scratch target. The rest is a restore like any other.

A drill is a restore for practice: no gates, nothing stays, and its verification is kept with the set. What it verifies and how
long it took is told by :mod:`recovery.restore.report.drill_proof`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from recovery.common.errors import PlanError, RecoveryError, RestoreError
from recovery.common.files import read_record
from recovery.common.units import human_duration, now
from recovery.plan.field_types import SCRATCH
from recovery.plan.model import Plan
from recovery.restore import rollback
from recovery.restore.choose_set import take
from recovery.restore.report import write
from recovery.restore.session import RestoreSession
from recovery.restore.state import timed
from recovery.runs.journal_steps import Step
from recovery.runs.restore_request import NOTHING_DUE, Request
from recovery.sets.catalog import LATEST, Catalog, Choice, choose, read_catalog
from recovery.sets.manifest import Manifest
from recovery.sets.records import read_records
from recovery.targets import scratch

log = logging.getLogger(__name__)

_LOOKED_BACK = 30
"""How many sets are looked at for the last drill from a destination."""
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class DrillRequest:
    """What was asked of a drill."""

    person: str = "the schedule"
    by_hand: bool = False
    """Somebody wants it now, whether or not it is due."""
    set: str = LATEST
    destination: str = ""
    """Empty: whose turn it is."""
    sources: tuple[str, ...] = ()
    """Empty: those that the plan names for drills."""


def sources(plan: Plan) -> list[str]:
    """The sources of the plan's drills, in the order of restoring."""
    there = plan.source_ids if plan.drill.target == SCRATCH else dict(plan.targets[plan.drill.target].sources)
    return [source_id for source_id in plan.source_ids if source_id in (plan.drill.sources or there)]


def destinations(plan: Plan) -> list[str]:
    """The destinations that drills fetch from."""
    return list(plan.drill.destinations or plan.destinations)


def choose_drill(session: RestoreSession, drill_request: DrillRequest) -> bool:
    """Choose the newest valid set and the destination whose turn it is, and hold the set there; end what earlier drills left.

    Returns:
        False if nothing is due: a drill from each destination has verified the newest set.

    Raises:
        RestoreError: if the newest valid set is older than the RPO allows, or no destination of drills has it; or if nothing is
            due, and one lacks it, or something is left of an earlier drill. Where something is due, such faults wait for the end.
        PlanError: if a parameter is not usable.
    """
    if session.journal.closed or session.began:
        raise RestoreError("This drill has ended, or has its set; it can't choose again.", "Trigger a new drill.")
    chosen_sources = _wanted_sources(session.plan, drill_request)
    left = end_earlier(session)
    catalog = read_catalog(session.plan.plan, session.context.destinations(), session.context.verify_key())
    choice = choose(catalog, drill_request.set, now=now(), level=session.plan.required_level, rpo=session.plan.objectives.rpo)
    asked = _asked_destinations(session.plan, drill_request)
    name = _whose_turn(session, catalog, choice, asked, by_hand=drill_request.by_hand)
    lacking = list(_lacking(session, catalog, choice, asked)) if drill_request.set == LATEST else []
    faults = [f"Something is left of earlier drills, with data of the set: {' '.join(left)}"] if left else []
    faults += [words for words, late in lacking if late or name is None]
    if name is None:
        _end_idle(session, choice, faults)
        return False
    request = Request(
        run_id=session.run_id,
        requester=drill_request.person,
        started=now(),
        set=choice.chosen.manifest.set_id,
        sources=chosen_sources,
        target=session.plan.drill.target,
        drill=True,
        destination=name,
    )
    chosen = replace(choice.chosen, destinations=(name,))
    take(session, request, replace(choice, chosen=chosen, warnings=(*choice.warnings, *(words for words, late in lacking if not late))))
    if faults:
        session.journal.record(Step.FAULTS_BESIDE, what=faults)
        log.error("%s", " ".join(faults))
    log.info("set %s is fetched from %s", request.set, name)
    return True


def _end_idle(session: RestoreSession, choice: Choice, faults: Sequence[str]) -> None:
    log.info("nothing is due: drills have verified %s from each destination of theirs that has it", choice.chosen.manifest.set_id)
    for warning in choice.warnings:
        log.warning("%s", warning)
    if faults:
        raise RestoreError(" ".join(faults), "Look at the backups' uploads and at this log; then trigger a new drill.")
    session.close_unbegun(NOTHING_DUE)


def _wanted_sources(plan: Plan, drill_request: DrillRequest) -> tuple[str, ...]:
    there = sources(plan)
    if unknown := sorted(set(drill_request.sources) - set(there)):
        raise PlanError(f"Drills of this plan have no source {', '.join(unknown)}.", f"They have {', '.join(there)}.")
    return tuple(source_id for source_id in there if source_id in (drill_request.sources or there))


def _whose_turn(session: RestoreSession, catalog: Catalog, choice: Choice, asked: Sequence[str], *, by_hand: bool) -> str | None:
    """The destination to fetch from: where this set was not verified yet, the one whose last drill is the longest ago."""
    manifest = choice.chosen.manifest
    holding = [name for name in asked if name in choice.chosen.destinations]
    if not holding:
        raise RestoreError(
            f"Set {manifest.set_id} is not at {', '.join(asked)}, but at {', '.join(choice.chosen.destinations)}.",
            "Look at the uploads of the backup that made it, and at what could not be read, in this log.",
        )
    due = [name for name in holding if not _verified(session, manifest, name)]
    if not due and not by_hand:
        return None
    last = {name: _last_try(session, _sets_at(catalog, name), name) for name in due or holding}
    for name, time in last.items():
        log.info("the last drill from %s: %s", name, "none" if time == _NEVER else f"{human_duration(now() - time)} ago")
    return min(last, key=lambda name: last[name])


def _lacking(session: RestoreSession, catalog: Catalog, choice: Choice, asked: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """The destinations without the newest set, in sentences, and whether that can't be because its upload is still under way.

    It may be for as long as what is there, or of the first sets what is elsewhere, is no older than the RPO.
    """
    rpo, good = session.plan.objectives.rpo, catalog.valid(session.plan.required_level, now())
    for name in asked:
        if name in catalog.unreachable:
            yield f"The destination {name} can't be read, so nothing is known of what a restore from there would bring.", True
        elif name not in choice.chosen.destinations:
            own = max((each.manifest.begins for each in good if name in each.destinations), default=None)
            has = f"its newest is {human_duration(now() - own)} old, the RPO is {human_duration(rpo)}" if own else "it has none"
            words = f"The destination {name} lacks the newest valid set, {choice.chosen.manifest.set_id}: {has}."
            yield words, now() - (own or min(each.manifest.begins for each in good)) > rpo


def _asked_destinations(plan: Plan, drill_request: DrillRequest) -> list[str]:
    if drill_request.destination and drill_request.destination not in plan.destinations:
        raise PlanError(f"The plan has no destination {drill_request.destination!r}.", f"It has {', '.join(plan.destinations)}.")
    return [drill_request.destination] if drill_request.destination else destinations(plan)


def _sets_at(catalog: Catalog, name: str) -> list[Manifest]:
    return [each.manifest for each in catalog.sets if name in each.destinations][:_LOOKED_BACK]


def _verified(session: RestoreSession, manifest: Manifest, name: str) -> bool:
    """Whether a drill of everything from a destination has verified a set."""
    proofs = read_records(session.context.destination(name), manifest.path, session.context.verify_key(), manifest).of("proof")
    return any(proof.facts.get("drill") and proof.facts.get("destination") == name and _of_all(session, proof.facts) for proof in proofs)


def _last_try(session: RestoreSession, manifests: Iterable[Manifest], name: str) -> datetime:
    """When a drill of everything from a destination was last tried: one that fails must not keep the others from their turn.

    Where the destination could not even take the report, staging still knows for a while. What a wrong clock has dated in the
    future counts for nothing: for as long the destination would not get its turn.
    """
    moment = now()
    tries = [
        request.started for request in _earlier(session) if request.destination == name and _of_all(session, {"sources": request.sources})
    ]
    for manifest in manifests:
        reports = read_records(session.context.destination(name), manifest.path, session.context.verify_key(), manifest).of("report")
        times = [each.time for each in reports if each.facts.get("kind") == "drill" and _of_all(session, each.facts)]
        if times := [time for time in times if time <= moment]:
            tries.append(max(times))
            break
    return max((time for time in tries if time <= moment), default=_NEVER)


def _of_all(session: RestoreSession, facts: Mapping[str, Any]) -> bool:
    """Whether a drill was about all that the plan's drills are about, and not about what somebody wished that day."""
    return set(sources(session.plan)) <= set(facts.get("sources", ()))


def _earlier(session: RestoreSession) -> list[Request]:
    """What was asked of the other drills that staging knows."""
    requests = [read_record(path, Request) for path in sorted(session.folder.parent.glob("*/request.json"))]
    return [request for request in requests if request.drill and request.run_id != session.run_id]


def end_earlier(session: RestoreSession) -> list[str]:
    """End drills that were cut off: what they staged and started goes, and their holds are released.

    There is one drill of a plan at a time, so one that has not ended, and is not this one, does not go on.

    Returns:
        What is left of scratch targets that can't be removed from here, a sentence each.
    """
    left = []
    for request in _earlier(session):
        earlier = RestoreSession(session.context, request.run_id)
        if not earlier.journal.closed:
            log.warning("drill %s was cut off; ending it", earlier.id)
            _end(earlier)
        try:
            scratch.remove(earlier.folder)
        except RecoveryError as error:
            log.error("drill %s: %s", earlier.id, error)
            left.append(f"Drill {earlier.id}: {error}")
    return left


def _end(session: RestoreSession) -> None:
    for step in (rollback.roll_back, rollback.discard, finish):
        try:
            step(session)
        except RecoveryError as error:  # its own report is red; this drill says what it finds
            log.warning("ending drill %s: %s", session.id, error)


def start_scratch(session: RestoreSession) -> None:
    """Make the scratch target, if this drill goes there.

    Raises:
        RestoreError: if a server is not installed, or does not start.
    """
    if session.request().target != SCRATCH:
        log.info("this drill goes to the target %s", session.request().target)
        return
    with session.changing(scratch.LOCK), timed(session, "start scratch servers"):
        if session.journal.entries(Step.STAGING):
            raise RestoreError("Sources are staged already; the scratch servers are not made anew.", "Trigger a new drill.")
        versions = {source_id: session.manifest().sources[source_id].versions for source_id in session.request().sources}
        session.journal.record(Step.STARTING_SCRATCH)
        lacks = scratch.start(session.context, session.folder, versions)
        session.journal.record(Step.SCRATCH_STARTED, lacks=list(lacks))


def finish(session: RestoreSession) -> bool:
    """Write the report, keep the verification with the set, release the hold; raise where the drill failed, or found a fault beside it.

    Returns:
        False if nothing was due.

    Raises:
        RestoreError: with the reason.
    """
    ended = session.journal.last(Step.CLOSED)
    if ended and not session.began:
        if ended.facts["reason"] == NOTHING_DUE:
            return False
        raise RestoreError(f"This drill has ended before: {ended.facts['reason']}.", "Trigger a new drill.")
    write.finish(session)
    return True
