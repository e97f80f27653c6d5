"""The staging folder: where a run's dumps, packs and journals lie, shared by all workers of a plan.

::

    <staging>/<plan>/sets/<set id>/
      run.json                        what was asked of this run
      sources/<source>/dump/          the raw dump, its listings and inventories; ``dump.json`` in it is written last
      sources/<source>/*.json         records of the steps that are done, and ``<artifact>.contents.jsonl``
      set/                            the set as destinations will hold it; ``manifest.json`` closes it
      services.jsonl                  of a cold backup, what is done to the services, said before it is done
      uploaded/<destination>          an empty file: this destination holds the set
    <staging>/<plan>/sets/<set id>.age
                                      how long it waits already, as runs have seen it
    <staging>/<plan>/restores/<id>/   journal, findings and work folders of a restore

A record is written last and at once (temporary name, fsync, rename), so whoever finds one finds all that it tells of.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from recovery.common.aging import seen_age
from recovery.common.errors import StagingError
from recovery.common.files import folder_size, make_private, read_record, write_atomically
from recovery.common.trusted_path import exchangeable
from recovery.common.units import human_duration, human_size
from recovery.plan.field_types import Mode
from recovery.plan.model import Plan
from recovery.runs.journal import Journal
from recovery.sets.gaps import longest_wait
from recovery.sets.manifest import Sentence

log = logging.getLogger(__name__)


class RunRecord(BaseModel):
    """What was asked of a backup run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: str
    set_id: str
    run_id: Sentence
    started: datetime
    sources: tuple[str, ...]
    """Source ids that this run backs up."""
    note: Sentence = ""
    hold: bool = False
    safety: bool = False
    """See :attr:`recovery.sets.manifest.Manifest.safety`."""
    allow_empty: bool = False
    mode: Mode = "hot"
    """Whether the services run while the sources are read."""
    previous: dict[str, dict[str, int]] = {}
    """Records of each source in the newest valid set, as its manifest counts them, to notice what became empty or is gone."""
    warned: dict[str, tuple[str, ...]] = {}
    """Warnings of each source in the newest valid set that all destinations have, which people were told."""
    cut_over_before: tuple[str, ...] = ()
    """The restores whose cutover had begun when the run began, so that a later one is known without a clock."""
    recipients: tuple[str, ...] = ()
    """Age recipients that every file of the set is encrypted to, whatever the plan says by then. Written when the run begins."""


class StagedSet:
    """Paths of one set in staging."""

    def __init__(self, plan: Plan, set_id: str) -> None:
        self.plan = plan
        self.id = set_id
        self.folder = plan.staging.folder / plan.plan / "sets" / set_id
        self.run_file = self.folder / "run.json"
        self.set_folder = self.folder / "set"
        self.manifest = self.set_folder / "manifest.json"
        self.lock = self.folder / "lock"
        self.age_file = self.folder.with_name(f"{set_id}.age")
        self.services = Journal(self.folder / "services.jsonl")
        """Of a cold backup, what was done to the services."""
        self._ended = self.folder.with_name(f"{set_id}.finished")

    def source(self, source_id: str) -> Path:
        """The folder of one source."""
        return self.folder / "sources" / source_id

    def run(self) -> RunRecord:
        """What was asked of the run.

        Raises:
            StagingError: if its first task's record is not there.
        """
        return read_record(self.run_file, RunRecord)

    @property
    def begun(self) -> bool:
        """Whether the run has begun, and has not ended yet."""
        return self.run_file.exists()

    @property
    def closed(self) -> bool:
        """Whether the manifest is written: nothing is added to the set after that."""
        return self.manifest.exists()

    def refuse_closed(self, source_id: str) -> None:
        """Refuse to dump into a closed set.

        Raises:
            StagingError: if the manifest is written.
        """
        if self.closed:
            raise StagingError(
                f"The set {self.id} is closed: its manifest is written, {source_id} can't be added or replaced.",
                "Trigger a new backup run, which makes a new set.",
            )

    def mark_uploaded(self, destination: str) -> None:
        """Remember that a destination holds the set."""
        make_private(self.folder / "uploaded")
        write_atomically(self.folder / "uploaded" / destination, b"")

    def forget_upload(self, destination: str) -> None:
        """A destination does not hold the set after all, so that its packs have to wait."""
        (self.folder / "uploaded" / destination).unlink(missing_ok=True)

    def is_uploaded(self, destination: str) -> bool:
        """Whether a destination holds the set, as far as this run knows."""
        return (self.folder / "uploaded" / destination).exists()

    def remove(self) -> None:
        """Remove all of it, so that a retry after a kill finds all or nothing of what was asked. Done again, it does no harm."""
        if self._ended.exists():
            shutil.rmtree(self._ended)
        if self.folder.exists():
            self.folder.rename(self._ended)
            shutil.rmtree(self._ended)
        self.age_file.unlink(missing_ok=True)


def open_staging(plan: Plan, folder: Path) -> None:
    """Make a folder in staging, for this user alone.

    Raises:
        StagingError: if it can't be made, or this is root and somebody else may put another folder in its place.
    """
    try:
        make_private(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        foreign = exchangeable(folder.absolute())
    except OSError as error:
        raise StagingError(f"Staging can't be used: {error}.", "Create the plan's staging folder, writable for the workers.") from None
    if foreign is None:
        return
    what = f"Other users may write to {foreign}, so they could exchange the staging folder {plan.staging.folder} for one of their own."
    if os.geteuid() == 0:
        raise StagingError(what, "Give that folder to root alone, or name another staging folder.")
    log.warning("%s", what)


def staged_sets(plan: Plan) -> list[StagedSet]:
    """Every set in staging, oldest first."""
    root = plan.staging.folder / plan.plan / "sets"
    if not root.is_dir():
        return []
    found = []
    for folder in root.iterdir():
        with suppress(FileNotFoundError):  # a backup that ends meanwhile removes its own
            found.append((folder.stat().st_mtime, folder))
    return [StagedSet(plan, folder.name) for _, folder in sorted(found) if folder.is_dir()]


def sweep(plan: Plan, keep_id: str) -> None:
    """Remove what other runs left: dumps that a kill cut off, sets that every destination holds, packs beyond the caps.

    Closed sets that a destination still lacks stay for ``staging.keep``, so that a failed upload can be cleared. That time is counted
    as runs see it pass: a clock that jumps makes no set old at once.
    """
    waiting = []
    for staged in staged_sets(plan):
        if staged.id == keep_id:
            continue
        if not staged.closed or all(map(staged.is_uploaded, plan.destinations)):
            log.info("removing what run %s left in staging", staged.id)
            staged.remove()
        else:
            waiting.append(staged)
    for staged in _under_cap(plan, waiting):
        age = seen_age(staged.age_file, _changed(staged), longest_wait(plan.objectives.rpo))
        missing = ", ".join(name for name in plan.destinations if not staged.is_uploaded(name))
        if age > plan.staging.keep:
            log.warning("removing the packs of %s from staging: they waited %s for %s", staged.id, human_duration(age), missing)
            staged.remove()
        else:
            log.warning("set %s still waits in staging for %s: clear its failed upload", staged.id, missing)


def _under_cap(plan: Plan, waiting: list[StagedSet]) -> list[StagedSet]:
    """The newest sets that fit below the cap together; the older ones are removed."""
    sizes = {staged.id: folder_size(staged.folder) for staged in waiting}
    total = sum(sizes.values())
    left = []
    for staged in waiting:
        if plan.staging.cap is None or total <= plan.staging.cap:
            left.append(staged)
            continue
        size = sizes[staged.id]
        log.warning(
            "removing the packs of %s from staging, %s: over the cap of %s", staged.id, human_size(size), human_size(plan.staging.cap)
        )
        staged.remove()
        total -= size
    return left


def _changed(staged: StagedSet) -> datetime:
    return datetime.fromtimestamp(staged.folder.stat().st_mtime, UTC)
