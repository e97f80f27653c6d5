"""The copies that restores set aside: which there are, and their end after the plan's days, counted so that no wrong clock ends them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path

from recovery.common.aging import seen_age
from recovery.common.errors import RecoveryError, RestoreError
from recovery.common.faults import Faults
from recovery.common.files import locked, read_record
from recovery.common.units import human_duration, now
from recovery.plan.field_types import LIVE, SCRATCH
from recovery.plan.model import Plan
from recovery.restore import answers, source_view
from recovery.restore.session import RestoreSession
from recovery.runs.context import PlanContext
from recovery.runs.journal import Journal
from recovery.runs.journal_steps import Step
from recovery.runs.restore_request import NOTHING_DUE, Request
from recovery.sets import records
from recovery.sets.catalog import read_manifest
from recovery.sets.manifest import Manifest
from recovery.sources.base import BesideRestorer, Restorer
from recovery.targets import scratch

log = logging.getLogger(__name__)

_LOOKS_APART = timedelta(hours=36)
"""Maintenance looks once a day, and may be late by half of one."""


def drop_old_copies(context: PlanContext) -> None:
    """Remove what restores set aside longer ago than ``keep_replaced``; say what is left.

    Raises:
        RestoreError: if something can't be removed, or looked at; the rest is.
    """
    plan = context.plan
    restores = plan.staging.folder / plan.plan / "restores"
    faults = Faults(_said)
    for path in sorted(restores.glob("*/journal.jsonl")):
        with faults.noted(f"restore {path.parent.name}"):
            _drop_idle(plan, path)
    for path in sorted(restores.glob("*/request.json")):
        with faults.noted(f"restore {path.parent.name}"):
            _drop_if_old(context, path)
    for source_id in plan.source_ids:
        with faults.noted(source_id):
            name_strangers(context, source_id)
            name_left_beside(context, source_id)
    if faults:
        words = "\n".join(faults.sentences)
        raise RestoreError(
            f"Not all copies could be removed:\n{words}", "Mend these; tomorrow it is tried again.", retryable=faults.retryable
        )


def _said(what: str, error: Exception) -> str:
    unforeseen = f"It failed with {type(error).__name__}. Next: Look for it in this log."
    return f"{what}: {error if isinstance(error, RecoveryError) else unforeseen}"


def _drop_if_old(context: PlanContext, request: Path) -> None:
    session = RestoreSession(context, read_record(request, Request).run_id)
    if not session.journal.closed:
        return
    age = _age(session.folder, session.journal.entries(Step.CLOSED)[-1].time)
    keep = context.plan.keep_replaced
    if age < keep:
        log.info("restore %s ended %s ago; its copies stay for %s", session.id, human_duration(age), human_duration(keep - age))
        return
    drop(session)


def _drop_idle(plan: Plan, journal: Path) -> None:
    """Remove what is left of a drill for which nothing was due; of all others the journal stays, so that they are never begun anew."""
    closed = Journal(journal).last(Step.CLOSED)
    if closed and closed.facts["reason"] == NOTHING_DUE and _age(journal.parent, closed.time) >= plan.keep_replaced:
        shutil.rmtree(journal.parent)


def _age(folder: Path, ended: datetime) -> timedelta:
    return seen_age(folder / "age.json", ended, _LOOKS_APART)


def drop(session: RestoreSession) -> None:
    """Remove the copies that a restore set aside, live ones of before and refused ones, once the plan's days are over.

    Raises:
        RecoveryError: if something can't be removed; the restore's folder stays then.
    """
    scratch.remove(session.folder)
    if session.in_place:
        release_safety_set(session)
    nothing_aside = session.in_place or session.request().target == SCRATCH
    staged = [
        source_id for source_id in session.request().sources if session.journal.entries(Step.STAGING, source_id) and not nothing_aside
    ]
    _refuse_gone(session, staged)
    for source_id in staged:
        source = session.source(source_id)
        with locked(session.folder / "locks" / source_id):
            answers.same_target(session, source_id)
            source.discard(source_view.of(session, source_id))
            source.drop_replaced(source_view.of(session, source_id))
            source_view.of(session, source_id).clean()
            log.info("%s: the copies of restore %s are removed", source_id, session.id)
    for path in session.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    for path in sorted(session.folder.iterdir(), key=lambda path: path.name == "request.json"):
        if path.name != "journal.jsonl":  # it says that this restore has ended, if anybody clears it
            path.unlink()


def _refuse_gone(session: RestoreSession, sources: Collection[str]) -> None:
    target = session.request().target
    known: Collection[str] = session.plan.source_ids
    if target != LIVE:
        known = set(known) & dict(session.plan.targets[target].sources).keys() if target in session.plan.targets else ()
    if gone := [source_id for source_id in sources if source_id not in known]:
        where = "" if target == LIVE else f" at the target {target}"
        raise RestoreError(
            f"The plan no longer has {', '.join(gone)}{where}, where restore {session.id} left copies.",
            f"Remove what has {session.id} in its name there, then {session.folder}.",
        )


def release_safety_set(session: RestoreSession) -> None:
    """Let the set of before a restore in place go the way of all sets.

    Raises:
        DestinationError: if a destination can't take the record.
    """
    why = f"restore {session.id} ended {human_duration(session.plan.keep_replaced)} ago"
    for entry in session.journal.entries(Step.MAKING_SAFE):
        for destination in session.context.destinations():
            manifest = read_manifest(destination, f"{session.plan.plan}/{entry.facts['set']}", session.context.verify_key())
            if isinstance(manifest, Manifest):  # otherwise it never got there
                released = records.release(manifest, records.BIRTH, now(), f"maintenance of {session.plan.plan}", why)
                records.add_record(destination, released, session.context.signing_key())


def name_strangers(context: PlanContext, source_id: str) -> None:
    """Say which copies lie at a source that no restore in staging accounts for: nobody will remove them."""
    if strangers := sorted(set(context.source(source_id, Restorer).replaced_copies()) - _known(context)):
        log.warning("%s has copies of restores that staging does not know: %s; remove them by hand", source_id, ", ".join(strangers))


def name_left_beside(context: PlanContext, source_id: str) -> None:
    """Say what restores left beside the live data of a source, since people forget it: nobody removes it but they."""
    source = context.source(source_id, Restorer)
    for words in source.lying_beside(_known(context)) if isinstance(source, BesideRestorer) else ():
        log.warning("%s: %s", source_id, words)


def _known(context: PlanContext) -> set[str]:
    """The ids of all restores of a plan: their journals stay."""
    return {path.name for path in (context.plan.staging.folder / context.plan.plan / "restores").glob("*")}
