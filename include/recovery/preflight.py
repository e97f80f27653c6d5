"""The first steps of a restore, which change nothing: choose a set, and find out what would fail later."""

from __future__ import annotations

import io
import itertools
import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pyrage
import zstandard

from recovery import records
from recovery.backup import read_packs
from recovery.catalog import Choice, read_catalog
from recovery.catalog import choose as choose_set
from recovery.components.base import Preflight
from recovery.contents import write_rows
from recovery.destinations.base import Destination
from recovery.errors import ApprovalError, DestinationError, PlanError, RecoveryError, RestoreError, StagingError
from recovery.manifest import CONTENTS_FILE, MANIFEST_FILE, PACKS_FILE, File, Manifest, encode, parse_packs
from recovery.restore_run import Findings, Request, RestoreRun, download_from_any
from recovery.shipping import absent, fetch_packs
from recovery.staging import write_atomically, write_record
from recovery.units import human_duration, human_size, now, plain_markdown

log = logging.getLogger(__name__)

_SHOWN = 20


def choose(run: RestoreRun, request: Request) -> None:
    """Choose the set, and hold it so that no prune takes it away.

    Raises:
        RestoreError: if this restore has ended, or no set fits.
        ApprovalError: if nobody is known to have asked for it, or nobody else could approve it.
        PlanError: if a parameter is not usable.
    """
    if run.journal.closed:
        raise RestoreError("This restore has ended; it can't be run again.", "Trigger a new restore.")
    if run.began:
        raise RestoreError("This restore has its set; it can't choose again.", "Trigger a new restore.")
    _check_request(run, request)
    request = request.model_copy(update={"sources": tuple(name for name in run.plan.source_ids if name in request.sources)})
    key = run.verify_key()
    catalog = read_catalog(run.plan.plan, run.destinations(), key)
    choice = choose_set(
        catalog,
        request.set,
        now=now(),
        good=run.plan.good,
        rpo=run.plan.objectives.rpo,
        newest_before=request.newest_before,
        confirm_old=request.allow_stale,
    )
    manifest = choice.chosen.manifest
    lacking = [source_id for source_id in request.sources if source_id not in manifest.sources]
    if lacking:
        raise RestoreError(f"Set {manifest.set_id} does not have {', '.join(lacking)}.", "Choose another set, or fewer sources.")
    try:
        run.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (run.folder / "set").mkdir(exist_ok=True)
    except OSError as error:
        raise StagingError(f"Staging can't be used: {error}.", "Create the plan's staging folder, writable for the workers.") from None
    write_record(run.folder / "request.json", request)
    write_atomically(run.folder / "set" / MANIFEST_FILE, encode(manifest))
    run.journal.say(
        "chosen",
        set=manifest.set_id,
        destinations=list(choice.chosen.destinations),
        facts=list(choice.facts),
        warnings=list(choice.warnings),
    )
    _hold(run, choice)
    for fact in (*choice.facts, *choice.warnings):
        log.info("%s", fact)


def _check_request(run: RestoreRun, request: Request) -> None:
    if not request.requester:
        raise ApprovalError(
            "Nobody is known to have asked for this restore, so nobody could be told apart from who approves it.",
            "Trigger it in the UI or API, logged in.",
        )
    if all(approver.id == request.requester for approver in run.plan.approvals.approvers):
        raise ApprovalError(
            f"{request.requester} asked for this restore and is the only approver of the plan.",
            "Add an approver to the plan, or let somebody else trigger it.",
        )
    unknown = set(request.sources) - set(run.plan.source_ids)
    if unknown or not request.sources:
        raise PlanError(
            f"The plan has no source {', '.join(sorted(unknown)) or 'in an empty list'}.", f"It has {', '.join(run.plan.source_ids)}."
        )


def _hold(run: RestoreRun, choice: Choice) -> None:
    """Wherever the set is: one destination that can be written is enough to go on, as long as that one is read too."""
    manifest = choice.chosen.manifest
    record = records.hold(manifest, now(), run.request().requester, f"restore {run.id}, run {run.run_id}")
    key = run.set_key()
    faults = []
    for name in choice.chosen.destinations:
        run.journal.say("holding", destination=name, record=record.model_dump(mode="json"))
        try:
            records.add_record(run.destination(name), record, key)
        except DestinationError as error:
            log.warning("%s", error)
            faults.append(str(error))
    if len(faults) == len(choice.chosen.destinations):
        raise DestinationError(
            "The set can't be held at any destination: " + " ".join(faults), "Let one be writable for the restore's worker."
        )


def preflight(run: RestoreRun) -> None:
    """Find out what would fail later, and what the restore would replace: the text of the first gate.

    Raises:
        RestoreError: if something refuses; all refusals are told.
        RecoveryError: if the set can't be fetched, believed or opened.
    """
    with run.changing("preflight"):
        if run.journal.said("staging"):
            raise RestoreError("Sources are staged already by what preflight found.", "Go on, or trigger a new restore.")
        manifest = run.manifest()
        _fetch_packs_file(run, manifest)
        holders = _whole_copies(run, manifest)
        _fetch_contents(run, manifest, holders)
        reports: dict[str, Preflight] = {}
        refusals: list[str] = []
        for source_id in run.request().sources:
            log.info("preflight of %s", source_id)
            try:
                reports[source_id] = run.component(source_id).preflight(run.source(source_id))
            except RecoveryError as error:
                refusals.append(f"{source_id}: {error}")
        for source_id, report in reports.items():
            refusals += [f"{source_id}: {finding.text}" for finding in report.findings if finding.level == "refusal"]
        refusals += _space_refusals(run, reports)
        if refusals:
            raise RestoreError(
                "The restore would fail:\n- " + "\n- ".join(refusals) + "\n", "Mend these, then trigger a new restore. Nothing was changed."
            )
        text = _text(run, manifest, reports)
        write_record(run.folder / "findings.json", Findings(text=text, targets={name: report.identity for name, report in reports.items()}))
        run.journal.say("preflight done")


def _fetch_packs_file(run: RestoreRun, manifest: Manifest) -> None:
    faults = []
    for destination in run.holders():
        try:
            data = fetch_packs(destination, manifest)
            parse_packs(data, manifest)
        except RecoveryError as error:
            faults.append(f"{destination.name}: {error}")
        else:
            write_atomically(run.folder / "set" / PACKS_FILE, data)
            return
    raise RestoreError("packs.jsonl of the set can't be read anywhere:\n" + "\n".join(faults), "Choose another set.")


def _whole_copies(run: RestoreRun, manifest: Manifest) -> list[Destination]:
    """The destinations that list everything of the chosen sources in its full size."""
    packs = parse_packs((run.folder / "set" / PACKS_FILE).read_bytes(), manifest)
    needed = {pack.file: File(bytes=pack.stored_bytes, sha256=pack.sha256) for pack in packs if pack.source in run.request().sources}
    needed[CONTENTS_FILE] = manifest.files.contents
    whole, faults = [], []
    for destination in run.holders():
        try:
            missing = absent(destination, manifest, needed)
        except DestinationError as error:
            faults.append(f"{destination.name}: {error}")
            continue
        if missing:
            faults.append(f"{destination.name} lacks {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}")
        else:
            whole.append(destination)
    for fault in faults:
        log.warning("%s", fault)
    if not whole:
        raise RestoreError("No destination has the whole set:\n" + "\n".join(faults), "Choose another set.")
    return whole


def _fetch_contents(run: RestoreRun, manifest: Manifest, holders: Sequence[Destination]) -> None:
    """Fetch and decrypt the contents: the first time that the identity has to be the right one."""
    identity = run.identity()
    sealed = run.folder / "set" / CONTENTS_FILE
    plain = run.folder / "set" / "contents.jsonl.zst"
    download_from_any(holders, f"{manifest.path}/{CONTENTS_FILE}", sealed, manifest.files.contents)
    try:
        pyrage.decrypt_file(str(sealed), str(plain), [identity])
    except pyrage.DecryptError as error:
        raise RestoreError(
            f"The identity of this plan does not open the set ({error}).",
            "Put the identity of one of the set's recipients into its Connection.",
        ) from None
    shutil.rmtree(run.folder / "rows", ignore_errors=True)
    with plain.open("rb") as source, zstandard.ZstdDecompressor().stream_reader(source) as stream, ExitStack() as files:
        _split(run, stream, files)
    plain.unlink()
    sealed.unlink()
    for source_id in run.request().sources:
        if manifest.sources[source_id].level == "stored":
            _read_contents(run, source_id)


def _split(run: RestoreRun, stream: IO[bytes], files: ExitStack) -> None:
    """Rows come artifact by artifact, so one file is open at a time."""
    current, out = Path(), None
    for line in io.TextIOWrapper(stream, encoding="ascii"):
        source_id, artifact, *row = json.loads(line)
        path = run.places_file(source_id, artifact) if row[0] in {"pack", "member"} else run.rows_file(source_id, artifact)
        if path != current or out is None:
            files.close()
            path.parent.mkdir(parents=True, exist_ok=True)
            current, out = path, files.enter_context(path.open("a", encoding="ascii"))
        out.write(json.dumps(row, separators=(",", ":"), sort_keys=True) + "\n")


def _read_contents(run: RestoreRun, source_id: str) -> None:
    """A set whose packs were never opened, for want of an identity, is read now: without contents nothing can be proven."""
    log.info("%s was stored without being opened; reading it now", source_id)
    source = run.source(source_id)
    component = run.component(source_id)
    identity = run.identity()
    for artifact in source.artifacts():
        known = run.rows_file(source_id, artifact)
        read = itertools.chain.from_iterable(
            read_packs(component, artifact, path.parent, [pack], identity) for pack, path in source.fetch(artifact)
        )
        found = known.with_suffix(".found")
        write_rows(found, component.contents(artifact, known, read))
        found.rename(known)


def _space_refusals(run: RestoreRun, reports: dict[str, Preflight]) -> list[str]:
    needed: dict[Path, int] = {run.folder: len(reports) * run.plan.pack}  # a pack of each source is fetched at a time
    for report in reports.values():
        for name, size in report.bytes_needed.items():
            needed[Path(name)] = needed.get(Path(name), 0) + size
    by_device: dict[int, tuple[Path, int]] = {}
    for folder, size in needed.items():
        device = folder.stat().st_dev
        first, total = by_device.get(device, (folder, 0))
        by_device[device] = (first, total + size)
    return [
        f"{folder} has {human_size(shutil.disk_usage(folder).free)} free, the restore needs {human_size(size)} there."
        for folder, size in by_device.values()
        if shutil.disk_usage(folder).free < size
    ]


def _bounded(lines: list[str]) -> list[str]:
    """What a person can read at night; all of it is in the log."""
    for line in lines[_SHOWN:]:
        log.info("%s", line)
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"- and {len(lines) - _SHOWN} more, in the log of preflight"]


def _text(run: RestoreRun, manifest: Manifest, reports: dict[str, Preflight]) -> str:
    chosen = run.journal.said("chosen")[-1].facts
    request = run.request()
    lines = [f"**{request.requester}** asks to restore **{run.plan.plan}** from set **{manifest.set_id}**.", ""]
    lines += [f"- {plain_markdown(fact)}" for fact in chosen["facts"]]
    lines += [f"- ⚠ {plain_markdown(warning)}" for warning in chosen["warnings"]]
    if manifest.note:
        lines.append(f"- Note of the backup: {plain_markdown(manifest.note)}")
    lines.append(f"- The sources' moments lie {human_duration(manifest.skew_seconds)} apart.")
    for source_id, report in reports.items():
        entry = manifest.sources[source_id]
        size = human_size(entry.totals.raw_bytes)
        lines += [
            "",
            f"### {source_id}",
            "",
            f"- {size}, {sum(entry.totals.counts.values()):,} records, {entry.consistency}, verified: {entry.level}",
        ]
        lines += _bounded([f"- ⚠ {plain_markdown(warning)}" for warning in entry.warnings])
        lines += _bounded([f"- ⚠ {plain_markdown(finding.text)}" for finding in report.findings if finding.level == "warning"])
        lines += _bounded([f"- {plain_markdown(finding.text)}" for finding in report.findings if finding.level == "fact"])
        lines.append(f"- Target: `{report.identity}`")
    if untouched := [source_id for source_id in run.plan.source_ids if source_id not in reports]:
        lines += ["", f"Not restored and not touched: {', '.join(untouched)}."]
    lines += ["", "Approving restores all of this **beside** the live data. Nothing live is replaced before the next gate."]
    return "\n".join(lines)
