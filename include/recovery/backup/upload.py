"""The last steps of a backup: upload, prune, finish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from recovery.backup import cold
from recovery.backup.finalize import close
from recovery.backup.new_warnings import NewWarnings, new_warnings
from recovery.backup.stored import manifests, not_stored
from recovery.common.errors import DestinationError, ManifestError, StagingError
from recovery.common.units import human_duration
from recovery.runs.context import PlanContext
from recovery.runs.staged_set import StagedSet
from recovery.sets.catalog import read_manifest
from recovery.sets.layout import SIGNATURE_FILE
from recovery.sets.manifest import Manifest, decode_manifest, parse_manifest, parse_packs, set_files
from recovery.sets.prune import prune as prune_destination
from recovery.sets.transfer import absent, fetch_packs, upload_set

log = logging.getLogger(__name__)


def upload(context: PlanContext, staged: StagedSet, destination: str) -> None:
    """Close the set, if no other upload did, and bring it to a destination. After the end of the run it only looks there.

    Raises:
        ManifestError: if the signing key is another one than that which closed the set, so that nobody would believe it.
        RecoveryError: as :func:`close` and :func:`recovery.sets.transfer.upload_set`.
    """
    if not staged.begun and _has_all(context, staged, destination):
        log.info("the run has ended, and %s has all of set %s", destination, staged.id)
        return
    close(context, staged)
    _refuse_disbelieved(context, staged)
    upload_set(staged.set_folder, context.destination(destination))
    staged.mark_uploaded(destination)


def _has_all(context: PlanContext, staged: StagedSet, name: str) -> bool:
    """Whether a destination lists every file of the set, under a manifest that is believed."""
    destination = context.destination(name)
    manifest = read_manifest(destination, f"{context.plan.plan}/{staged.id}", context.verify_key())
    if not isinstance(manifest, Manifest):
        return False
    return not absent(destination, manifest, set_files(manifest, parse_packs(fetch_packs(destination, manifest), manifest)))


def _refuse_disbelieved(context: PlanContext, staged: StagedSet) -> None:
    plan, key = context.plan, context.verify_key()
    signature = staged.set_folder / SIGNATURE_FILE
    try:
        parse_manifest(staged.manifest.read_bytes(), signature.read_bytes() if signature.exists() else b"", key, f"{plan.plan}/{staged.id}")
    except ManifestError as error:
        raise ManifestError(
            f"The set waits in staging, and would not be believed anywhere: {error.what}",
            f"If {plan.signing} has another key since the set was made, put the one of then back and clear the upload, or trigger a new"
            " backup run.",
        ) from error


def prune(context: PlanContext, staged: StagedSet, name: str) -> bool:
    """Apply a destination's retention, if the clocks of all destinations that answer agree with this worker's.

    Returns:
        False if this run's set is not complete: nothing is deleted after half a backup.

    Raises:
        RetentionError: if it would not be safe, as when no set was made for longer than the RPO explains.
        DestinationError: if this destination can't be read or refuses to delete, or another can't say what it holds.
    """
    plan, destination, key = context.plan, context.destination(name), context.verify_key()
    made = read_manifest(destination, f"{plan.plan}/{staged.id}", key)
    if isinstance(made, Manifest) and not made.complete:
        log.warning("set %s lacks %s, so nothing is pruned after it", staged.id, ", ".join(made.missing))
        return False
    prune_destination(
        destination,
        plan.plan,
        plan.destinations[name],
        level=plan.required_level,
        rpo=plan.objectives.rpo,
        key=key,
        now=datetime.now(UTC),
        after=staged.id,
        others=context.destinations(without=[name]),
    )
    return True


def finish(context: PlanContext, staged: StagedSet, asked: Sequence[str], tell: Callable[[NewWarnings], None] = lambda _: None) -> bool:
    """End a run whose set is at every destination, as each says itself: staging is removed. It may be done again.

    Args:
        context: of the plan.
        staged: the set.
        asked: the sources that the run was to back up, for a run that has ended before; of another, staging says them.
        tell: tells people the new warnings of a complete set, if it has any; not again for a run that has ended before.

    Returns:
        Whether the run was to back up all sources, so that the set is complete.

    Raises:
        StagingError: if the set lacks a source that this run was to back up, or services were down for longer than the plan allows.
        RecoveryError: as :func:`recovery.runs.services.start`, if a cold backup has left the services down, and they do not start.
        DestinationError: if a destination does not have the set with all of it, or can't tell, whatever became of tasks.
    """
    cold.start_services(context, staged)  # the task for it is gone if the plan lost services.down_at_most meanwhile
    asked = staged.run().sources if staged.begun else asked
    there = decode_manifest(staged.manifest.read_bytes(), str(staged.set_folder)).sources if staged.closed else asked
    if left_out := [source_id for source_id in asked if source_id not in there]:
        raise StagingError(
            f"The set {staged.id} was closed without {', '.join(left_out)}.", "Trigger a new backup run, which makes a new set."
        )
    if lacking := not_stored(manifests(context, staged.id), staged.id, asked):
        for name in lacking:
            staged.forget_upload(name)
        next_step = "Clear the upload there; its packs wait in staging." if staged.begun else "Trigger a new backup run."
        raise DestinationError(" ".join(lacking.values()), next_step)
    log.info("set %s is at every destination", staged.id)
    if staged.begun:
        log.info("the run began %s ago", human_duration(datetime.now(UTC) - staged.run().started))
    complete = set(asked) == set(context.plan.source_ids)
    if complete and staged.closed and (found := new_warnings(context, staged)):
        tell(found)
    staged.remove()
    return complete
