"""The steps of a backup that work on one source: dump, compress, verify. What comes after them is in :mod:`recovery.backup.finalize`
and :mod:`recovery.backup.upload`.

What one step leaves for the next is in staging; each step may be done again.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from recovery.backup import cold
from recovery.backup.loss_check import noting, refuse_lost
from recovery.common.errors import SourceError
from recovery.common.files import check_space, empty_folder, fsync_folder, read_record, write_atomically, write_record, written_in
from recovery.common.held_folder import Reach
from recovery.common.paths import readable
from recovery.common.progress import Pace
from recovery.common.units import human_duration, human_size
from recovery.packs.artifact import Artifact, Member, members_below, read_listing
from recovery.packs.content_index import Row, read_rows, row_file, write_rows
from recovery.packs.pack import Identity, Pack, seal
from recovery.plan.field_types import Level
from recovery.plan.model import Plan
from recovery.runs.context import PlanContext
from recovery.runs.staged_set import StagedSet
from recovery.sets.layout import pack_path
from recovery.sets.manifest import level_name
from recovery.sources.base import Dumper
from recovery.sources.model import Dump
from recovery.sources.read_packs import check_pack, read_packs
from recovery.sources.set_reader import SetReader

log = logging.getLogger(__name__)

WAIT_FOR_SNAPSHOTS = 15 * 60.0
"""Seconds that a scan waits for the databases' snapshots to be open."""

SAY_EVERY = 15.0
"""Seconds between two lines of a log that say what is waited for."""


class Sealed(BaseModel):
    """Record of ``compress``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packs: dict[str, tuple[Pack, ...]]
    """By artifact, in order."""
    closed: datetime
    """When the last byte was read."""
    changed: tuple[str, ...] = ()
    """Files that changed or vanished while they were read, each in words."""


class Verified(BaseModel):
    """Record of ``verify``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Level
    counts: dict[str, int]
    """Records (rows, documents, entries) of each database or tree."""
    emptied: tuple[str, ...] = ()
    """Databases that became empty without that being refused, each in words."""
    changed: tuple[str, ...] = ()
    """Files that changed or vanished while they were read, each in words."""


@dataclass(frozen=True)
class Work:
    """One source in one set."""

    context: PlanContext
    staged: StagedSet
    source_id: str
    last_try: bool = True
    """Nobody tries a step again that fails now."""
    damaged: bool = False
    """What the plan names and is gone is left out: see :attr:`recovery.sources.base.Dumper.damaged`."""

    @property
    def plan(self) -> Plan:
        """The plan whose set it is."""
        return self.context.plan

    @property
    def folder(self) -> Path:
        """The source's folder in staging."""
        return self.staged.source(self.source_id)

    @property
    def dump_folder(self) -> Path:
        """Where the dump lies; its record comes last."""
        return self.folder / "dump"

    @property
    def pack_folder(self) -> Path:
        """Where the packs lie, as they will at a destination."""
        return self.staged.set_folder / pack_path(self.source_id, "")

    def source(self) -> Dumper:
        """The source itself."""
        made = self.context.source(self.source_id, Dumper)
        made.damaged = self.damaged
        return made

    def dump_record(self) -> Dump:
        """What ``dump`` made."""
        return read_record(self.dump_folder / "dump.json", Dump)

    def sealed_record(self) -> Sealed:
        """What ``compress`` made."""
        return read_record(self.folder / "sealed.json", Sealed)

    def verified_record(self) -> Verified:
        """What ``verify`` found."""
        return read_record(self.folder / "verified.json", Verified)

    @property
    def verified(self) -> bool:
        """Whether ``verify`` succeeded."""
        return (self.folder / "verified.json").exists()

    def inventory(self, artifact: str) -> Path:
        """File of an artifact's inventory."""
        return self.dump_folder / f"{artifact}.inventory.jsonl"

    def contents(self, artifact: str) -> Path:
        """File of an artifact's contents."""
        return self.folder / f"{artifact}.contents.jsonl"

    def members(self, artifact: str) -> Path:
        """File of which member is in which pack."""
        return self.folder / f"{artifact}.members.jsonl"


def dump(work: Work) -> None:
    """Read the source. What a failure leaves is removed; what is done already is not done again.

    Raises:
        RecoveryError: as :meth:`recovery.sources.base.Dumper.dump`, and if the set is closed.
    """
    work.staged.refuse_closed(work.source_id)
    if _is_dumped(work):
        log.info("%s is dumped already", work.source_id)
        return
    started = time.monotonic()
    with written_in(work.folder), _telling_others(work), _removed_on_failure(work.dump_folder):
        empty_folder(work.dump_folder)
        with cold.reading(work.context, work.staged):
            if not work.plan.source(work.source_id).snapshot and work.staged.run().mode == "hot":
                _wait_for_snapshots(work)
            made = work.source().dump(work.dump_folder, lambda: _mark(work, "opened"))
        _refuse_missing_inventory(work, made)
        write_record(work.dump_folder / "dump.json", made)
    for warning in made.warnings:
        log.warning("%s: %s", work.source_id, warning)
    size = sum(artifact.bytes for artifact in made.artifacts)
    log.info("%s: %s in %s", work.source_id, human_size(size), human_duration(time.monotonic() - started))


def _is_dumped(work: Work) -> bool:
    """What was only listed, to be read where it is, is listed anew as long as it is not packed."""
    if not (work.dump_folder / "dump.json").exists():
        return False
    return (work.folder / "sealed.json").exists() or not any(artifact.live for artifact in work.dump_record().artifacts)


def _refuse_missing_inventory(work: Work, made: Dump) -> None:
    for artifact in made.artifacts:
        if not work.inventory(artifact.name).exists():
            raise SourceError(f"{work.source_id}: {artifact.name} has no inventory.", "Report this; the source does not keep its promise.")


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _telling_others(work: Work) -> Iterator[None]:
    """A scan waits for a snapshot that is tried again, and must not wait for one that is not."""
    work.folder.mkdir(parents=True, exist_ok=True)
    for name in ("opened", "failed"):
        (work.folder / name).unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        (work.folder / "opened").unlink(missing_ok=True)
        if work.last_try or not getattr(error, "retryable", True):
            _mark(work, "failed")
        raise


def _mark(work: Work, name: str) -> None:
    write_atomically(work.folder / name, b"")


def _wait_for_snapshots(work: Work) -> None:
    """A file that a database row names must not be missing from the scan: so the scan begins after the snapshots."""
    databases = [source_id for source_id in work.staged.run().sources if work.plan.source(source_id).snapshot]
    deadline = time.monotonic() + WAIT_FOR_SNAPSHOTS
    pace, said = Pace(SAY_EVERY), list[str]()
    while (waiting := [source_id for source_id in databases if not _told(work.staged.source(source_id))]) and time.monotonic() < deadline:
        if pace.due() or said != waiting:
            log.info("the scan begins when the snapshots are open: waiting for %s", ", ".join(waiting))
            said = waiting
        time.sleep(min(1.0, WAIT_FOR_SNAPSHOTS))
    if waiting:
        log.warning("%s did not open a snapshot in %s; the scan begins without", ", ".join(waiting), human_duration(WAIT_FOR_SNAPSHOTS))


def _told(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in ("opened", "failed"))


def compress(work: Work) -> None:
    """Make the packs, then remove the raw dump. What a failure leaves is removed.

    Raises:
        StagingError: if there is no dump, or not enough space for the packs.
        SourceError: if something can't be read, or what is read where it is turns out to be something else than was listed.
    """
    work.staged.refuse_closed(work.source_id)
    made = work.dump_record()
    if not (work.folder / "sealed.json").exists():
        with written_in(work.pack_folder), _removed_on_failure(work.pack_folder):
            empty_folder(work.pack_folder)
            check_space(work.folder, sum(artifact.bytes for artifact in made.artifacts), f"packing {work.source_id}")
            with cold.reading(work.context, work.staged) if any(artifact.live for artifact in made.artifacts) else nullcontext():
                sealed = _seal_all(work, made)
            write_record(work.folder / "sealed.json", sealed)
    for artifact in made.artifacts:
        if artifact.listing is None:
            shutil.rmtree(artifact.root, ignore_errors=True)


def _seal_all(work: Work, made: Dump) -> Sealed:
    packs: dict[str, tuple[Pack, ...]] = {}
    changed: list[str] = []
    started = time.monotonic()
    for artifact in made.artifacts:
        reach = _hold(work, artifact)
        with row_file(work.members(artifact.name)) as write:
            sealed, changes = seal(
                artifact,
                _members(work, artifact),
                work.pack_folder,
                reach=reach,
                recipients=work.staged.run().recipients,
                pack_size=work.plan.pack,
                level=work.plan.compression,
                packed=partial(_note_place, write),
            )
        fsync_folder(work.pack_folder)
        packs[artifact.name] = tuple(sealed)
        if artifact.live:
            _hold(work, artifact)
            work.source().note_archived(work.inventory(artifact.name), changes)
        changed += [f"{readable(path)} {what} while it was read" for path, what in changes]
    raw = sum(pack.raw_bytes for made_packs in packs.values() for pack in made_packs)
    stored = sum(pack.stored_bytes for made_packs in packs.values() for pack in made_packs)
    seconds = time.monotonic() - started
    log.info("%s: %s became %s in %s", work.source_id, human_size(raw), human_size(stored), human_duration(seconds))
    for line in changed[:20]:
        log.warning("%s: %s", work.source_id, line)
    return Sealed(packs=packs, closed=datetime.now(UTC), changed=tuple(changed[:1000]))


def _members(work: Work, artifact: Artifact) -> Iterable[Member]:
    return read_listing(work.dump_folder / artifact.listing) if artifact.listing else members_below(Path(artifact.root))


def _hold(work: Work, artifact: Artifact) -> Reach:
    """A live tree must be the one that was listed; what a crash of the machine left of a dump may be shorter than what was written."""
    reach = work.source().hold(artifact, work.inventory(artifact.name))
    if artifact.live:
        return reach
    found = sum(member.size for member in members_below(Path(artifact.root)))
    if found != artifact.bytes:
        raise SourceError(
            f"{work.source_id}: the dump of {artifact.name} has {found} bytes in staging, {artifact.bytes} were written.",
            "Trigger a new backup run; look at the staging disk if it happens again.",
        )
    return reach


def _note_place(write: Callable[[Row], None], number: int, member: Member) -> None:
    write(("member", member.path.decode("utf-8", "surrogateescape"), {"pack": number}))


def verify(work: Work) -> None:
    """Verify the packs, not the dump: read them back, as a restore would, and find in them all that the source had.

    Raises:
        ArtifactError: if a pack is damaged, or something is missing.
        SourceError: if the source, or a database of it, became empty or is gone since the last valid set.
        StagingError: if the set is closed.
    """
    if work.verified:
        log.info("%s is verified already", work.source_id)
        return
    work.staged.refuse_closed(work.source_id)
    started = time.monotonic()
    made, sealed = work.dump_record(), work.sealed_record()
    identity = work.context.decryption_key()
    counts: dict[str, int] = {}
    changed: list[str] = []
    emptied: list[str] = []
    reader = work.context.reader(work.source_id)
    for artifact in made.artifacts:
        counted = partial(reader.counted, artifact.name)
        rows = noting(counted, counts, changed, _contents(work, reader, artifact.name, sealed.packs[artifact.name], identity))
        with written_in(work.folder):
            write_rows(work.contents(artifact.name), rows)
    if not work.staged.run().allow_empty:
        before = work.staged.run().previous.get(work.source_id, {})
        everything = work.plan.source(work.source_id).every_database
        emptied = refuse_lost(work.source_id, before, counts, {artifact.name for artifact in made.artifacts}, everything=everything)
    level: Level = "decoded" if identity else "stored"
    write_record(work.folder / "verified.json", Verified(level=level, counts=counts, emptied=tuple(emptied), changed=tuple(changed[:1000])))
    raw = sum(pack.raw_bytes for packs in sealed.packs.values() for pack in packs)
    seconds = time.monotonic() - started
    log.info(
        "%s: %s verified in %s, level %s, %s records",
        work.source_id, human_size(raw), human_duration(seconds), level_name(level), sum(counts.values()),
    )  # fmt: skip


def _contents(work: Work, reader: SetReader, artifact: str, packs: Iterable[Pack], identity: Identity | None) -> Iterator[Row]:
    if identity is None:
        for pack in packs:
            check_pack(work.pack_folder / pack.file, pack)
        return read_rows(work.inventory(artifact))
    return reader.contents(artifact, work.inventory(artifact), read_packs(reader, artifact, work.pack_folder, packs, identity))
