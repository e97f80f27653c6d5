"""The copies that restores set aside: which there are, and their end after the plan's days."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from recovery.common.errors import RecoveryError, RestoreError
from recovery.common.faults import Faults
from recovery.common.files import locked, read_record
from recovery.common.units import human_duration, now
from recovery.plan.field_types import LIVE, SCRATCH
from recovery.plan.model import Plan
from recovery.restore import answers, source_view
from recovery.restore.session import RestoreRun
from recovery.runs.context import PlanContext
from recovery.runs.journal import Journal
from recovery.runs.journal_steps import Step
from recovery.runs.restore_request import NOTHING_DUE, Request
from recovery.sets import records
from recovery.sets.catalog import read_manifest
from recovery.sets.manifest import Manifest
from recovery.sources.base import Restorer
from recovery.targets import scratch

log = logging.getLogger(__name__)


def drop_old(context: PlanContext) -> None:
    """Remove what restores set aside longer ago than ``keep_before``; say what is left.

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
    if faults:
        words = "\n".join(faults.sentences)
        raise RestoreError(
            f"Not all copies could be removed:\n{words}", "Mend these; tomorrow it is tried again.", retryable=faults.retryable
        )


def _said(what: str, error: Exception) -> str:
    unforeseen = f"It failed with {type(error).__name__}. Next: Look for it in this log."
    return f"{what}: {error if isinstance(error, RecoveryError) else unforeseen}"


def _drop_if_old(context: PlanContext, request: Path) -> None:
    run = RestoreRun(context, read_record(request, Request).run_id)
    if not run.journal.closed:
        return
    age = now() - run.journal.said(Step.CLOSED)[-1].time
    keep = context.plan.keep_before
    if age < keep:
        log.info("restore %s ended %s ago; its copies stay for %s", run.id, human_duration(age), human_duration(keep - age))
        return
    drop(run)


def _drop_idle(plan: Plan, journal: Path) -> None:
    """Remove what is left of a drill for which nothing was due; of all others the journal stays, so that they are never begun anew."""
    closed = Journal(journal).last(Step.CLOSED)
    if closed and closed.facts["reason"] == NOTHING_DUE and now() - closed.time >= plan.keep_before:
        shutil.rmtree(journal.parent)


def drop(run: RestoreRun) -> None:
    """Remove the copies that a restore set aside, live ones of before and refused ones, once the plan's days are over.

    Raises:
        RecoveryError: if something can't be removed; the restore's folder stays then.
    """
    scratch.remove(run.folder)
    if run.in_place:
        release_safety_set(run)
    nothing_aside = run.in_place or run.request().target == SCRATCH
    staged = [source_id for source_id in run.request().sources if run.journal.said(Step.STAGING, source_id) and not nothing_aside]
    _refuse_gone(run, staged)
    for source_id in staged:
        component = run.component(source_id)
        with locked(run.folder / "locks" / source_id):
            answers.same_target(run, source_id)
            component.discard(source_view.of(run, source_id))
            component.drop_before(source_view.of(run, source_id))
            source_view.of(run, source_id).clean()
            log.info("%s: the copies of restore %s are removed", source_id, run.id)
    for path in run.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    for path in sorted(run.folder.iterdir(), key=lambda path: path.name == "request.json"):
        if path.name != "journal.jsonl":  # it says that this restore has ended, if anybody clears it
            path.unlink()


def _refuse_gone(run: RestoreRun, sources: Collection[str]) -> None:
    target = run.request().target
    known: Collection[str] = run.plan.source_ids
    if target != LIVE:
        known = set(known) & dict(run.plan.targets[target].sources).keys() if target in run.plan.targets else ()
    if gone := [source_id for source_id in sources if source_id not in known]:
        where = "" if target == LIVE else f" at the target {target}"
        raise RestoreError(
            f"The plan no longer has {', '.join(gone)}{where}, where restore {run.id} left copies.",
            f"Remove what has {run.id} in its name there, then {run.folder}.",
        )


def release_safety_set(run: RestoreRun) -> None:
    """Let the set of before a restore in place go the way of all sets.

    Raises:
        DestinationError: if a destination can't take the record.
    """
    why = f"restore {run.id} ended {human_duration(run.plan.keep_before)} ago"
    for entry in run.journal.said(Step.MAKING_SAFE):
        for destination in run.context.destinations():
            manifest = read_manifest(destination, f"{run.plan.plan}/{entry.facts['set']}", run.context.verify_key())
            if isinstance(manifest, Manifest):  # otherwise it never got there
                released = records.release(manifest, records.BIRTH, now(), f"maintenance of {run.plan.plan}", why)
                records.add_record(destination, released, run.context.signing_key())


def name_strangers(context: PlanContext, source_id: str) -> None:
    """Say which copies lie at a source that no restore in staging accounts for: nobody will remove them."""
    plan = context.plan
    known = {path.name for path in (plan.staging.folder / plan.plan / "restores").glob("*")}
    if strangers := sorted(set(context.source(source_id, Restorer).before_copies()) - known):
        log.warning("%s has copies of restores that staging does not know: %s; remove them by hand", source_id, ", ".join(strangers))
