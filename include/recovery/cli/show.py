"""``show``: one set in words."""

from __future__ import annotations

from collections.abc import Sequence

from recovery.cli.kit import Answer, Kit
from recovery.common.errors import DestinationError, ManifestError
from recovery.common.units import human_duration, human_moment, human_size, now
from recovery.common.wording import counted
from recovery.sets.catalog import LATEST
from recovery.sets.find_sets import find_sets, pick
from recovery.sets.manifest import Manifest, SourceEntry, StoredPack, level_name
from recovery.sets.open_set import opened, packs_of
from recovery.sets.records import Records, read_records

Contents = dict[str, dict[str, dict[str, int]]]


def show(kit: Kit, wanted: str | None) -> Answer:
    """Everything that a set says of itself, and with an identity how many things it has of each kind.

    Raises:
        PlanError: if there is no such set.
        ManifestError: if it is not believed.
        DestinationError: if its manifest can't be read.
        RecoveryError: if it can't be read, or the identity does not open it.
    """
    there = find_sets(kit.place, kit.keys.public, kit.plan)
    found = pick(there, wanted)
    if found.state == "unable":
        raise DestinationError(found.fault, "Remove the cause; the set may be right.")
    if found.manifest is None:
        raise ManifestError(found.fault, "Take the set from another destination.")
    manifest = found.manifest
    packs = packs_of(found, manifest)
    records = read_records(found.destination, manifest.path, kit.keys.public, manifest)
    doubtful = [each.fault for each in there if each.doubtful] if wanted == LATEST else []
    contents: Contents | None = None
    if kit.keys.identities:
        with opened(found, manifest, kit.keys.identity(manifest)) as inside:
            contents = inside.counts()
    facts = kit.facts() | {
        "set": manifest.model_dump(mode="json"),
        "packs": [pack.model_dump() for pack in packs],
        "contents": contents,
        "records": [record.model_dump(mode="json") for record in records.verified],
        "holds": [hold.why for hold in records.holds],
        "findings": list(records.findings),
        "doubtful": doubtful,
    }
    lines = [*kit.heading(), *_set(manifest, records)]
    for source, entry in manifest.sources.items():
        lines += _source(source, entry, [pack for pack in packs if pack.source == source], (contents or {}).get(source))
    lines += _records(records)
    lines += ["", *(f"THERE MAY BE A NEWER ONE: {fault}" for fault in doubtful)] if doubtful else []
    return Answer(facts, lines, 1 if records.findings or doubtful else 0)


def _set(manifest: Manifest, records: Records) -> list[str]:
    age = human_duration(now() - manifest.begins)
    lines = [f"Set {manifest.set_id} of {manifest.plan}, run {manifest.run_id}, by {manifest.software}"]
    lines += [f"  note: {manifest.note}"] if manifest.note else []
    lines += [f"  NOT COMPLETE, lacks {source}: {reason}" for source, reason in manifest.missing.items()]
    lines.append(
        f"  everything before {human_moment(manifest.begins)} is in it ({age} ago), nothing after {human_moment(manifest.ends, up=True)}"
    )
    lines.append(f"  {manifest.apart}")
    lines.append(f"  {human_size(manifest.stored_bytes)}, encrypted to {', '.join(manifest.recipients)}")
    return lines + ([f"  {hold.why}" for hold in records.holds] or ["  not held"])


def _source(source: str, entry: SourceEntry, packs: Sequence[StoredPack], contents: dict[str, dict[str, int]] | None) -> list[str]:
    versions = "".join(f", {name} {version}" for name, version in entry.versions.items())
    lines = ["", f"{source}: {level_name(entry.level)}, {entry.consistency} of {human_moment(entry.point.opened)}{versions}"]
    lines += [f"  ! {warning}" for warning in entry.warnings]
    for artifact in dict.fromkeys(pack.artifact for pack in packs):
        own = [pack for pack in packs if pack.artifact == artifact]
        raw, stored = sum(pack.raw_bytes for pack in own), sum(pack.stored_bytes for pack in own)
        records = f", {counted(entry.totals.counts[artifact], 'record')}" if artifact in entry.totals.counts else ""
        number = counted(len(own), "pack")
        lines.append(f"  {artifact}: {human_size(raw)} in {number} of {human_size(stored)}{records}")
        if contents is not None:
            lines.append(f"    {', '.join(f'{count:,} {kind}' for kind, count in contents[artifact].items())}")
    artifacts = {pack.artifact for pack in packs}
    return lines + [f"  {name}: {counted(count, 'record')}" for name, count in entry.totals.counts.items() if name not in artifacts]


def _records(records: Records) -> list[str]:
    lines = [f"  {human_moment(each.time)} {each.kind} by {each.by}: {each.text}" for each in records.verified]
    lines += [f"  NOT BELIEVED: {finding}" for finding in records.findings]
    return ["", "Records", *(lines or ["  none"])]
