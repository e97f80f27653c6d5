"""The steps of a backup that work on the set as a whole: prepare and close."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import zstandard

from recovery.backup import cold, restore_guide
from recovery.backup.new_warnings import warned
from recovery.backup.steps import Work
from recovery.common.errors import DestinationError, PlanError, RestoreError, StagingError
from recovery.common.files import locked, write_record, written_in
from recovery.common.units import human_duration
from recovery.crypto.recipients import recipient_fingerprint
from recovery.packs.content_index import read_rows
from recovery.plan.model import Plan
from recovery.runs import active
from recovery.runs.context import PlanContext
from recovery.runs.journal_steps import Step
from recovery.runs.staged_set import RunRecord, StagedSet, open_staging, sweep
from recovery.runs.stalled import refuse_during_restore
from recovery.sets.catalog import CatalogSet, read_catalog
from recovery.sets.layout import CONTENTS_FILE, INSTRUCTIONS_FILE, PACKS_FILE, pack_path
from recovery.sets.manifest import (
    Files,
    Manifest,
    SourceEntry,
    StoredPack,
    Totals,
    describe_file,
    skew,
    write_manifest,
    write_packs,
)

log = logging.getLogger(__name__)


def prepare(context: PlanContext, staged: StagedSet, record: RunRecord) -> None:
    """Begin a run: sweep what others left, and write down what was asked.

    Raises:
        PlanError: if a source was asked for that the plan doesn't have.
        RestoreUnderWay: if a restore into what the plan protects is between its cutover and its acceptance.
        RestoreError: if such a restore stands still.
        StagingError: if the staging folder can't be written.
    """
    plan = context.plan
    unknown = set(record.sources) - set(plan.source_ids)
    if unknown or not record.sources:
        raise PlanError(
            f"The plan has no source {', '.join(sorted(unknown)) or 'in an empty list'}.", f"It has {', '.join(plan.source_ids)}."
        )
    refuse_during_restore(plan)
    open_staging(plan, staged.set_folder)
    cold.start_left_down(context, staged)
    sweep(plan, staged.id)
    if staged.begun:
        log.info("this run has begun already; its set is %s", staged.id)
        return
    before = _valid_sets(context)
    update = {
        "previous": _counts(before),
        "warned": warned(before, plan),
        "cut_over_before": tuple(active.cutovers(plan)),
        "recipients": plan.encryption.recipients,
    }
    write_record(staged.run_file, record.model_copy(update=update))
    log.info("set %s, of %s", staged.id, ", ".join(record.sources))


def _valid_sets(context: PlanContext) -> list[CatalogSet]:
    """The valid sets, newest first; none if no destination can be read, which the uploads will say."""
    plan, key = context.plan, context.verify_key()
    try:
        catalog = read_catalog(plan.plan, context.destinations(), key)
    except DestinationError as error:
        log.warning("whether a source became empty, or a warning is new, can't be told, since no earlier set can be read: %s", error)
        return []
    return catalog.valid(plan.required_level, datetime.now(UTC))


def _counts(valid: Sequence[CatalogSet]) -> dict[str, dict[str, int]]:
    """Records of every database and tree in the newest set."""
    return {source_id: dict(entry.totals.counts) for each in valid[:1] for source_id, entry in each.manifest.sources.items()}


def close(context: PlanContext, staged: StagedSet) -> None:
    """Write the manifest over all that was verified, once; with it the set is closed.

    Raises:
        StagingError: if nothing was verified.
        RestoreError: if a restore cut over the system meanwhile.
        KeyMaterialError: if the signing key is not one.
    """
    if not staged.begun:
        raise StagingError(
            f"The run of set {staged.id} did not begin, or has ended.", "Look at its task prepare; trigger a new backup run."
        )
    with locked(staged.lock), written_in(staged.folder):
        if staged.closed:
            return
        plan, run = context.plan, staged.run()
        _refuse_switched_since(plan, run)
        works = [Work(context, staged, source_id) for source_id in run.sources]
        verified = [work for work in works if work.verified]
        if not verified:
            raise StagingError(
                f"Nothing of set {staged.id} was verified, so there is nothing to upload.", "Look at the failed sources; clear them."
            )
        write_packs(staged.set_folder / PACKS_FILE, (pack for work in verified for pack in _stored_packs(work)))
        _write_contents(staged.set_folder / CONTENTS_FILE, verified, run.recipients)
        sources = {work.source_id: _entry(work) for work in verified}
        if run.mode == "hot":
            sources = _late_scans_named(sources)
        (staged.set_folder / INSTRUCTIONS_FILE).write_text(restore_guide.render(plan, staged.id, verified), encoding="utf-8")
        missing = {source_id: _why_missing(source_id, run) for source_id in plan.source_ids if source_id not in sources}
        manifest = Manifest(
            plan=plan.plan,
            set_id=staged.id,
            run_id=run.run_id,
            note=run.note,
            created=datetime.now(UTC),
            sources=sources,
            missing=missing,
            complete=not missing,
            skew_seconds=skew(sources) if run.mode == "hot" else 0,
            downtime_seconds=cold.downtime(staged).total_seconds() if run.mode == "cold" else None,
            files=Files(
                contents=describe_file(staged.set_folder / CONTENTS_FILE),
                instructions=describe_file(staged.set_folder / INSTRUCTIONS_FILE),
                packs=describe_file(staged.set_folder / PACKS_FILE),
            ),
            recipients=tuple(map(recipient_fingerprint, run.recipients)),
            hold=run.hold,
            safety=run.safety,
        )
        write_manifest(staged.set_folder, manifest, context.signing_key())
        log.info(
            "set %s is closed: %s, skew %s",
            staged.id,
            "complete" if not missing else f"INCOMPLETE, without {', '.join(missing)}",
            human_duration(manifest.skew_seconds),
        )


def _refuse_switched_since(plan: Plan, run: RunRecord) -> None:
    """What was read before a cutover and what was read after it are not of one system."""
    for each in active.into_live(plan):
        if each.journal.entries(Step.STOPPING_SERVICES) and each.key not in run.cut_over_before:
            raise RestoreError(
                f"The {each} cut over this system while set {run.set_id} was made; the set may be half of before.",
                "Trigger a new backup run once the restore has ended.",
            )


def _why_missing(source_id: str, run: RunRecord) -> str:
    if source_id not in run.sources:
        return "left out by who started the run"
    return "its dump, packing or verification failed; see the log of the run"


def _stored_packs(work: Work) -> Iterator[StoredPack]:
    for artifact, packs in work.sealed_record().packs.items():
        for number, pack in enumerate(packs):
            yield StoredPack(
                source=work.source_id,
                artifact=artifact,
                number=number,
                file=pack_path(work.source_id, pack.file),
                raw_bytes=pack.raw_bytes,
                stored_bytes=pack.stored_bytes,
                sha256=pack.sha256,
            )


def _write_contents(path: Path, verified: list[Work], recipients: Collection[str]) -> None:
    """All rows of all artifacts, one JSON array ``[source, artifact, kind, name, facts]`` a line, compressed and encrypted."""
    plain = path.with_name("contents.jsonl.zst")
    with plain.open("wb") as out, zstandard.ZstdCompressor(level=3).stream_writer(out) as compressed:
        for work in verified:
            for artifact in work.sealed_record().packs:
                for file in (work.contents(artifact), work.members(artifact)):
                    for kind, name, facts in read_rows(file):
                        compressed.write(_line(work.source_id, artifact, kind, name, facts))
    pyrage.encrypt_file(str(plain), str(path), [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients])
    plain.unlink()


def _line(source_id: str, artifact: str, kind: str, name: str, facts: object) -> bytes:
    return json.dumps([source_id, artifact, kind, name, facts], separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _entry(work: Work) -> SourceEntry:
    made, sealed, verified = work.dump_record(), work.sealed_record(), work.verified_record()
    packs = [pack for packs in sealed.packs.values() for pack in packs]
    return SourceEntry(
        level=verified.level,
        point=made.point.model_copy(update={"closed": sealed.closed}) if made.consistency == "scan" else made.point,
        consistency=made.consistency,
        versions=made.versions,
        warnings=(*made.warnings, *verified.emptied, *sealed.changed, *verified.changed),
        totals=Totals(
            artifacts=len(sealed.packs),
            packs=len(packs),
            raw_bytes=sum(pack.raw_bytes for pack in packs),
            stored_bytes=sum(pack.stored_bytes for pack in packs),
            counts=verified.counts,
        ),
    )


def _late_scans_named(sources: dict[str, SourceEntry]) -> dict[str, SourceEntry]:
    """A scan that began before a snapshot may lack files that the database names: happens when a dump was tried again."""
    snapshots = {name: entry.point.opened for name, entry in sources.items() if entry.consistency != "scan"}
    named = {}
    for name, entry in sources.items():
        late = [other for other, opened in snapshots.items() if entry.consistency == "scan" and entry.point.opened < opened]
        warning = (f"scanned before the snapshot of {', '.join(late)}: files that were added in between are missing",) if late else ()
        named[name] = entry.model_copy(update={"warnings": (*warning, *entry.warnings)})
    return named
