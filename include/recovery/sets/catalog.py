"""All sets of a plan at all its destinations, read from their manifests; and which of them a restore takes.

There is no other database of sets. A manifest that can't be believed is no set but a finding, which is always said. A set
dated in the future is one, but never counts as the newest: it would hide for as long that no newer ones come.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from recovery.common.errors import DestinationError, ManifestError, PlanError, RecoveryError, RestoreError
from recovery.common.paths import readable
from recovery.common.units import human_duration, human_moment, iso, now, parse_moment
from recovery.crypto.signing import SIGNATURE_BYTES, VerifyKey
from recovery.destinations.base import Destination, Missing, TooLarge
from recovery.plan.field_types import Level
from recovery.sets.layout import MANIFEST_FILE, RECORDS_FOLDER, SIGNATURE_FILE, is_set_id
from recovery.sets.manifest import MAX_BYTES, Manifest, level_name, parse_manifest

log = logging.getLogger(__name__)

LATEST = "latest"

MAX_SKEW = timedelta(minutes=5)
"""Clocks may differ by this much. What a set says of times further ahead was said by a wrong one."""

LEFTOVER_AGE = timedelta(days=3)
"""A folder without manifest in which nothing was written for so long is not being uploaded any more."""

_THREADS = 8


@dataclass(frozen=True)
class CatalogSet:
    """A set, and the destinations that have it."""

    manifest: Manifest
    destinations: tuple[str, ...]
    """Names, in the plan's order."""


@dataclass(frozen=True)
class Catalog:
    """What all destinations together have of a plan."""

    plan: str
    sets: tuple[CatalogSet, ...]
    """Newest first, by recorded time."""
    findings: tuple[str, ...]
    """What is not believed, one sentence each."""
    unreachable: tuple[str, ...]
    """Names of destinations that could not be read."""

    def find(self, set_id: str) -> CatalogSet | None:
        """The set of an id."""
        return next((each for each in self.sets if each.manifest.set_id == set_id), None)

    def valid(self, level: Level, now: datetime) -> list[CatalogSet]:
        """The valid sets, newest first, without those dated in the future."""
        return [each for each in self.sets if each.manifest.valid(level) and not ahead(each.manifest, now)]


@dataclass(frozen=True)
class Listing:
    """What one destination has of a plan."""

    manifests: tuple[Manifest, ...]
    findings: tuple[str, ...]
    without: tuple[str, ...]
    """Names of the plan's folders that have no manifest: being written, half deleted, or somebody else's."""


@dataclass(frozen=True)
class Choice:
    """The set that a restore takes, and what the person at the gate has to know about the choice."""

    chosen: CatalogSet
    age: timedelta
    """How much a restore loses: from the moment before which everything is in the set, until now."""
    facts: tuple[str, ...]
    warnings: tuple[str, ...]

    def lost(self, *, replaces: bool) -> str:
        """What is not in the set, in a sentence: that is lost where the set replaces what is there."""
        if self.age < timedelta():
            what = "data is lost" if replaces else "it lacks"
            return f"Nobody can tell how much {what}: the set is dated {human_duration(-self.age)} in the future."
        return f"All data written in the last {human_duration(self.age)} is {'lost' if replaces else 'not in it'}."


def ahead(manifest: Manifest, now: datetime) -> timedelta:
    """How far in the future a set is dated; nothing if no further than clocks may differ."""
    distance = max(manifest.created, manifest.ends) - now
    return distance if distance > MAX_SKEW else timedelta()


def list_destination(destination: Destination, plan: str, key: VerifyKey) -> Listing:
    """Read every manifest of a plan at one destination. One that can't be read is a finding and hides no other.

    Raises:
        DestinationError: if it can't be listed, or no manifest can be read.
    """

    def read(name: str) -> Manifest | ManifestError | DestinationError | None:
        try:
            return read_manifest(destination, f"{plan}/{name}", key)
        except DestinationError as error:
            return error

    names = list(destination.folders(f"{plan}/"))
    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(pool.map(read, names))
    unreadable = [result for result in results if isinstance(result, DestinationError)]
    if unreadable and len(unreadable) == len(results):
        raise unreadable[0]
    manifests = tuple(result for result in results if isinstance(result, Manifest))
    findings = tuple(f"At {destination.describe()}: {readable(result.what)}" for result in results if isinstance(result, RecoveryError))
    without = tuple(name for name, result in zip(names, results, strict=True) if result is None)
    return Listing(manifests, findings, without)


def read_manifest(destination: Destination, path: str, key: VerifyKey) -> Manifest | ManifestError | None:
    """The manifest of a set's folder; why it is not believed; or None, if there is none.

    Raises:
        DestinationError: if it can't be read.
    """
    try:
        data = destination.read(f"{path}/{MANIFEST_FILE}", MAX_BYTES)
    except Missing:
        return None
    except TooLarge as error:
        return ManifestError(error.what, error.next_step)
    try:
        signature = destination.read(f"{path}/{SIGNATURE_FILE}", SIGNATURE_BYTES)
    except (Missing, TooLarge):
        signature = b""
    try:
        return parse_manifest(data, signature, key, path)
    except ManifestError as error:
        return error


def read_catalog(plan: str, destinations: Sequence[Destination], key: VerifyKey) -> Catalog:
    """Read the sets of a plan at all its destinations. One that can't be reached is named in the catalog.

    Raises:
        DestinationError: if none of them can be read.
    """
    found: dict[str, list[tuple[Manifest, str]]] = {}
    findings: list[str] = []
    failed: list[tuple[Destination, DestinationError]] = []
    for destination in destinations:
        try:
            listing = list_destination(destination, plan, key)
            robbed = [finding for name in listing.without if is_set_id(name) and (finding := _robbed(destination, f"{plan}/{name}"))]
        except DestinationError as error:
            log.warning("%s: %s", destination.name, error)
            failed.append((destination, error))
            continue
        findings += listing.findings
        findings += robbed
        for manifest in listing.manifests:
            found.setdefault(manifest.set_id, []).append((manifest, destination.name))
    if failed and len(failed) == len(destinations):
        raise DestinationError(f"No destination can be read. {' '.join(error.what for _, error in failed)}", failed[0][1].next_step)
    sets = []
    for set_id, copies in found.items():
        manifest = copies[0][0]
        holders = tuple(name for copy, name in copies if copy == manifest)
        if len(holders) != len(copies):
            findings.append(
                f"Set {set_id} has different manifests at {', '.join(name for _, name in copies)}; that of {holders[0]} is taken."
            )
        sets.append(CatalogSet(manifest, holders))
    sets.sort(key=lambda each: each.manifest.created, reverse=True)
    for finding in findings:
        log.warning("%s", finding)
    return Catalog(plan, tuple(sets), tuple(findings), tuple(destination.name for destination, _ in failed))


def _robbed(destination: Destination, path: str) -> str:
    """What to say of a folder without manifest. What can't be listed hides nothing else of its destination."""
    try:
        had = _had_manifest(destination, f"{path}/")
    except DestinationError as error:
        return f"At {destination.describe()}: {path} has no manifest. {error.what}"
    what = "has files of a set, but no manifest. Somebody removed it, or a kill left this."
    return f"At {destination.describe()}: {path} {what}" if had else ""


def _had_manifest(destination: Destination, folder: str) -> bool:
    """Whether a folder without manifest shows that it had one, or is not going to get one; an upload under way does neither."""
    entries = {entry.key.removeprefix(folder): entry.modified for entry in destination.list(folder)}
    if not entries or MANIFEST_FILE in entries:  # which may have come since
        return False
    later = any(name == SIGNATURE_FILE or name.startswith(f"{RECORDS_FOLDER}/") for name in entries)
    return later or now() - max(entries.values()) >= LEFTOVER_AGE


def choose(
    catalog: Catalog,
    wanted: str,
    *,
    now: datetime,
    level: Level,
    rpo: timedelta,
    newest_before: str | None = None,
    confirm_old: bool = False,
) -> Choice:
    """The set that a restore takes.

    ``latest`` looks at valid sets only: complete, and verified to the plan's level; those dated in the future are left out and
    named. It refuses one that is older than the RPO, since that is how hidden new sets show. A destination that can't be
    reached is a warning and no refusal: the worst day may well have taken it along, and the age of what is left decides.
    Naming a set or a moment confirms its age by itself; that a named set is not valid is a warning, which the first gate shows.

    Args:
        catalog: what there is.
        wanted: ``latest`` or a set id.
        now: this moment.
        level: what must have been verified of a valid set.
        rpo: the plan's objective.
        newest_before: only with ``latest``: the newest valid set of which nothing is younger than this moment, in ISO 8601 with offset.
        confirm_old: take ``latest`` even if it is older than the RPO.

    Raises:
        PlanError: if the wish itself is not usable.
        RestoreError: if there is no such set, or it was refused.
    """
    if wanted != LATEST:
        return _named(catalog, wanted, newest_before, now, level)
    if newest_before is not None:
        return _before(catalog, _moment(newest_before), now, level)
    usable = catalog.valid(level, now)
    if not usable:
        raise _none(catalog, "no valid set", now)
    choice = _choice(catalog, usable[0], now)
    if choice.age > rpo and not confirm_old:
        old = f"is {human_duration(choice.age)} old; the plan's RPO is {human_duration(rpo)}."
        raise RestoreError(
            f"The newest valid set, {usable[0].manifest.set_id}, {old}{_clues(catalog, now)}",
            "Find out why there is no newer one; to restore it all the same, set allow_stale, or name the set.",
        )
    return choice


def _moment(text: str) -> datetime:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise PlanError(f"newest_before: {error}.", "Write the moment with its offset.") from None


def _named(catalog: Catalog, set_id: str, newest_before: str | None, now: datetime, level: Level) -> Choice:
    if not is_set_id(set_id):
        raise PlanError(f"{set_id!r} is not a set id, which looks like 20261123T010000Z-4f2a.", "Write latest, or copy the id of a set.")
    if newest_before is not None:
        raise PlanError("A set id and newest_before were both given.", "Give one of them.")
    found = catalog.find(set_id)
    if found is None:
        raise _none(catalog, f"no set {set_id}", now)
    choice = _choice(catalog, found, now)
    if found.manifest.valid(level):
        return choice
    return Choice(found, choice.age, choice.facts, (*choice.warnings, f"The set is not valid: {shortcomings(found.manifest, level)}."))


def _before(catalog: Catalog, moment: datetime, now: datetime, level: Level) -> Choice:
    if moment > now:
        raise PlanError(f"newest_before: {iso(moment)} is still to come.", "Write a moment that has passed, or latest.")
    for each in sorted(catalog.valid(level, now), key=lambda each: each.manifest.ends, reverse=True):
        if each.manifest.ends <= moment:
            distance = f"The set ends {human_duration(moment - each.manifest.ends)} before the moment asked for, {human_moment(moment)}."
            return _choice(catalog, each, now, distance)
    raise _none(catalog, f"no valid set that ends before {iso(moment)}", now)


def _choice(catalog: Catalog, chosen: CatalogSet, now: datetime, *more: str) -> Choice:
    manifest = chosen.manifest
    age = now - manifest.begins
    facts = [
        f"Set {manifest.set_id}, run {manifest.run_id}, at {', '.join(chosen.destinations)}.",
        f"Everything before {human_moment(manifest.begins)} is in it, nothing after {human_moment(manifest.ends, up=True)}.",
        *more,
    ]
    warnings = [f"The destination {name} could not be read; it may have a set that fits better." for name in catalog.unreachable]
    warnings += [*catalog.findings, *_wrong_clocks(catalog, now)]
    return Choice(chosen, age, tuple(facts), tuple(warnings))


def _wrong_clocks(catalog: Catalog, now: datetime) -> list[str]:
    return [
        f"Set {each.manifest.set_id} is dated {human_duration(distance)} in the future: a clock was wrong."
        " It never counts as the latest; it can be named by its id."
        for each in catalog.sets
        if (distance := ahead(each.manifest, now))
    ]


def shortcomings(manifest: Manifest, level: Level) -> str:
    """Why a set is not valid, in words."""
    reasons = [f"{source} is missing ({reason.rstrip('.')})" for source, reason in manifest.missing.items()]
    reasons += ["it is the safety backup of a restore, most likely of a damaged system"] if manifest.safety else []
    reasons += (
        []
        if manifest.model_copy(update={"complete": True, "safety": False}).valid(level)
        else [f"it was verified to the level {level_name(manifest.level)}, the plan asks for {level_name(level)}"]
    )
    return "; ".join(reasons)


def _none(catalog: Catalog, what: str, now: datetime) -> RestoreError:
    return RestoreError(
        f"There is {what} of plan {catalog.plan} at any destination.{_clues(catalog, now)}", "Look at the backup runs and the destinations."
    )


def _clues(catalog: Catalog, now: datetime) -> str:
    unread = [f"The destination {name} could not be read." for name in catalog.unreachable]
    return "".join(f" {clue}" for clue in (*unread, *catalog.findings, *_wrong_clocks(catalog, now)))
