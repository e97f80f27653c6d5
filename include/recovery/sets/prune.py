"""Remove from a destination what no rule keeps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from recovery.common.errors import DestinationError, RetentionError
from recovery.common.paths import readable
from recovery.common.units import human_duration, human_size, iso
from recovery.common.wording import shortened
from recovery.crypto.signing import VerifyKey
from recovery.destinations.base import Destination
from recovery.plan.field_types import Level
from recovery.plan.model import Retention
from recovery.sets.catalog import LEFTOVER_AGE, MAX_SKEW, Listing, list_destination, read_manifest
from recovery.sets.gaps import Gap, find_gaps, unconfirmed
from recovery.sets.layout import MANIFEST_FILE, is_set_id
from recovery.sets.manifest import Manifest
from recovery.sets.records import read_records
from recovery.sets.retention import RetentionDecision, plan_retention

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pruned:
    """What a prune did."""

    deleted: tuple[str, ...]
    """Set ids."""
    kept: tuple[str, ...]
    """Set ids."""
    swept: tuple[str, ...]
    """Folders without manifest that were removed."""
    findings: tuple[str, ...]
    """What was left alone because it can't be believed, one sentence each."""


def prune(
    destination: Destination,
    plan: str,
    retention: Retention,
    *,
    level: Level,
    rpo: timedelta,
    key: VerifyKey,
    now: datetime,
    after: str,
    others: Sequence[Destination],
) -> Pruned:
    """Remove the sets that no rule keeps, oldest first: each manifest first, so that what a kill leaves is no set.

    What it is going to do is in the log before it does it. Holds and the manifest are read again right before each
    delete. Folders whose manifest is missing are removed once nothing was written to them for three days, unless another
    destination, which has the manifest still, knows of a hold; those with a manifest or a hold that can't be verified are named and
    never touched.

    A folder's clock is often this worker's own, so a wrong one shows at the other destinations: all that answer are asked. Where
    none has another clock, it shows as a gap after the last set of before: nothing is deleted because of its age until a person
    has confirmed the gap.

    Args:
        destination: where.
        plan: the plan's name.
        retention: the destination's rules.
        level: what must have been verified of a valid set.
        rpo: the plan's objective: sets that are further apart have a gap between them.
        key: from the plan or the recovery kit.
        now: this worker's clock.
        after: id of the set that the run before has just brought here. If it isn't here, something is wrong, and nothing is deleted.
        others: the plan's other destinations.

    Raises:
        RetentionError: if it would not be safe.
        DestinationError: if the destination can't be read, or refuses to delete.
    """
    silent = _check_clocks(destination, others, now)
    listing = list_destination(destination, plan, key)
    if after not in {manifest.set_id for manifest in listing.manifests}:
        raise RetentionError(
            f"The set {after} of this run is not at {destination.describe()}, so nothing there is deleted.",
            "Clear the upload, then this task.",
        )
    for finding in listing.findings:
        log.warning("%s: left alone: %s", destination.describe(), finding)
    decisions = _plan(destination, listing, retention, level, key, now)
    gaps = _gaps(destination, listing, retention, rpo, key, now)
    _refuse_gaps(destination, retention, decisions, gaps, listing.findings, now)
    for decision in decisions:
        log.info(
            "%s: %s %s of %s, %s: %s", destination.describe(), "keep" if decision.keep else "DELETE", decision.manifest.set_id,
            iso(decision.manifest.created), human_size(decision.manifest.stored_bytes), decision.reason,
        )  # fmt: skip
    doomed = [decision.manifest for decision in reversed(decisions) if not decision.keep]
    deleted = tuple(manifest.set_id for manifest in doomed if _delete(destination, manifest, key))
    kept = tuple(decision.manifest.set_id for decision in decisions if decision.manifest.set_id not in deleted)
    recent = [gap for gap in gaps if now - gap.until < LEFTOVER_AGE]
    swept = tuple(
        name for name in listing.without if is_set_id(name) and _sweep(destination, f"{plan}/{name}", key, others, silent, recent)
    )
    for name in listing.without:
        if not is_set_id(name):
            log.warning("%s: %s/%s is no set; it is left alone", destination.describe(), plan, readable(name))
    destination.sweep(f"{plan}/")
    log.info("%s: %d sets deleted, %d kept, %d leftovers removed", destination.describe(), len(deleted), len(kept), len(swept))
    return Pruned(deleted, kept, swept, listing.findings)


def _check_clocks(destination: Destination, others: Iterable[Destination], now: datetime) -> list[str]:
    """The names of those others that did not answer; it may take one minutes not to."""
    began = time.monotonic()

    def passed() -> timedelta:
        return timedelta(seconds=time.monotonic() - began)

    _check_clock(destination, destination.now(), now + passed())
    silent = []
    for other in others:
        try:
            there = other.now()
        except DestinationError as error:
            log.warning("the clock of %s can't be compared with this worker's: %s", other.name, error)
            silent.append(other.name)
        else:
            _check_clock(other, there, now + passed())
    return silent


def _check_clock(destination: Destination, there: datetime, now: datetime) -> None:
    if abs(there - now) > MAX_SKEW:
        raise RetentionError(
            f"This worker's clock says {iso(now)}, that of {destination.describe()} {iso(there)}: with {human_duration(abs(there - now))}"
            " between them nobody knows which sets are old.",
            "Set the clocks (NTP); nothing was deleted.",
        )


def _gaps(destination: Destination, listing: Listing, retention: Retention, rpo: timedelta, key: VerifyKey, now: datetime) -> list[Gap]:
    """The unconfirmed gaps that end late enough to matter."""
    horizon = max(LEFTOVER_AGE, retention.keep_within or timedelta())
    late = [gap for gap in find_gaps(listing.manifests, rpo=rpo, now=now) if now - gap.until < horizon]
    return unconfirmed(late, destination, key, rpo=rpo)


def _refuse_gaps(
    destination: Destination,
    retention: Retention,
    decisions: Sequence[RetentionDecision],
    gaps: Sequence[Gap],
    findings: Sequence[str],
    now: datetime,
) -> None:
    """A clock that jumped makes sets old. What lies before the window of ``keep_within`` is older than that without any jump, as long
    as no gap ends in it; and a clock changes no count of ``keep_last``."""
    doomed = [decision.manifest for decision in decisions if not decision.keep]
    if not doomed or retention.keep_within is None:
        return
    open_gaps = [gap for gap in gaps if now - gap.until < retention.keep_within]
    if open_gaps:
        newest = open_gaps[0].before
        unread = f" {len(findings)} sets there can't be read or are not accepted; this log names them." if findings else ""
        raise RetentionError(
            f"{len(doomed)} of {len(decisions)} sets at {destination.describe()} are old by this worker's clock, which says {iso(now)}. But"
            f" no set was made {shortened(open_gaps)}. Nobody can tell whether that time has passed or a clock was wrong, so nothing was"
            f" deleted.{unread}",
            "Look at the clock, set it if it is wrong (NTP), and find out why no set was made. Then confirm the gap: trigger"
            f" {newest.plan}_maintenance with confirm_gap {newest.set_id}, and clear this task.",
        )


def _plan(
    destination: Destination, listing: Listing, retention: Retention, level: Level, key: VerifyKey, now: datetime
) -> tuple[RetentionDecision, ...]:
    """The plan with holds; they are only read of sets that would go otherwise."""
    without = plan_retention(listing.manifests, {}, retention, level, now)
    held = {}
    for decision in without:
        if not decision.keep and (why := _holds(destination, decision.manifest.path, key, decision.manifest)):
            held[decision.manifest.set_id] = why
    return plan_retention(listing.manifests, held, retention, level, now)


def _holds(destination: Destination, path: str, key: VerifyKey, manifest: Manifest | None) -> str:
    records = read_records(destination, path, key, manifest)
    for finding in records.findings:
        log.warning("%s", finding)
    return "; ".join(hold.why for hold in records.holds)


def _delete(destination: Destination, manifest: Manifest, key: VerifyKey) -> bool:
    if read_manifest(destination, manifest.path, key) != manifest:
        log.warning("%s: %s is left alone: its manifest changed since it was read", destination.describe(), manifest.set_id)
        return False
    if why := _holds(destination, manifest.path, key, manifest):
        log.info("%s: %s stays: %s", destination.describe(), manifest.set_id, why)
        return False
    destination.delete([f"{manifest.path}/{MANIFEST_FILE}"])
    destination.delete([entry.key for entry in destination.list(f"{manifest.path}/")])
    log.info("%s: %s is deleted, %s free again", destination.describe(), manifest.set_id, human_size(manifest.stored_bytes))
    return True


def _sweep(
    destination: Destination,
    path: str,
    key: VerifyKey,
    others: Iterable[Destination],
    silent: Sequence[str],
    gaps: Sequence[Gap],
) -> bool:
    """Remove a folder without manifest, unless it is in use, was so lately, or is held: here, or where its manifest still is."""
    entries = list(destination.list(f"{path}/"))
    if not entries:
        return False
    newest = max(entry.modified for entry in entries)
    if destination.now() - newest < LEFTOVER_AGE:
        log.info("%s: %s has no manifest; an upload may still be going on", destination.describe(), path)
        return False
    if gaps:
        log.warning("%s: %s has no manifest, and stays until its age is known: no set was made %s", destination.describe(), path, gaps[0])
        return False
    if silent:
        log.warning(
            "%s: %s has no manifest, and stays while %s can't say whether it is held", destination.describe(), path, ", ".join(silent)
        )
        return False
    if why := _holds(destination, path, key, None) or _held_elsewhere(others, path, key):
        log.warning("%s: %s has no manifest any more, and stays: %s", destination.describe(), path, why)
        return False
    destination.delete([entry.key for entry in entries])
    log.info("%s: %s had no manifest and was not written to since %s; removed", destination.describe(), path, iso(newest))
    return True


def _held_elsewhere(others: Iterable[Destination], path: str, key: VerifyKey) -> str:
    for other in others:
        manifest = read_manifest(other, path, key)
        if isinstance(manifest, Manifest) and (why := _holds(other, path, key, manifest)):
            return f"at {other.name} it is {why}"
    return ""
