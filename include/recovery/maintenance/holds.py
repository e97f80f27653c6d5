"""Releasing the holds that keep a set from being pruned."""

from __future__ import annotations

import logging

from recovery.common.errors import ManifestError, PlanError, RestoreUnderWay
from recovery.common.units import now
from recovery.plan.model import Plan
from recovery.runs.active import recorded_restores
from recovery.runs.context import PlanContext
from recovery.runs.journal_steps import Step
from recovery.sets.catalog import read_manifest
from recovery.sets.layout import is_set_id
from recovery.sets.records import add_record, read_records, release

log = logging.getLogger(__name__)


def release_holds(context: PlanContext, set_id: str, person: str) -> None:
    """End every hold of a set, at every destination that has it. The next prune may then remove it.

    Raises:
        PlanError: if this is no set id, or no destination has the set.
        RestoreUnderWay: if a restore has not ended that was given the set, or made it as its safety set.
        DestinationError: if a destination can't be read or written.
    """
    if not is_set_id(set_id):
        raise PlanError(f"{set_id!r} is not a set id, which looks like 20261123T010000Z-4f2a.", "Copy the id of a set.")
    plan, key = context.plan, context.signing_key()
    _refuse_during_restore(plan, set_id)
    found = 0
    for destination in context.destinations():
        manifest = read_manifest(destination, f"{plan.plan}/{set_id}", key.verify_key)
        if isinstance(manifest, ManifestError):
            raise manifest
        if manifest is None:
            continue
        found += 1
        for hold in read_records(destination, manifest.path, key.verify_key, manifest).holds:
            add_record(destination, release(manifest, hold.name, now(), person, "released by hand"), key)
            log.info("%s: no longer %s", destination.name, hold.why)
    if not found:
        raise PlanError(f"No destination of {plan.plan} has a set {set_id}.", "Copy the id of a set.")


def _refuse_during_restore(plan: Plan, set_id: str) -> None:
    for each in recorded_restores(plan):
        needed = [entry.facts["set"] for step in (Step.CHOSEN, Step.MAKING_SAFE) for entry in each.journal.entries(step)]
        if set_id in needed and not each.journal.closed:
            raise RestoreUnderWay(f"The restore {each.folder.name} needs set {set_id}, and has not ended.", "Wait until it has ended.")
