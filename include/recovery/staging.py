"""The staging folder: where a run's dumps, packs and journals lie, shared by all workers of a plan.

::

    <staging>/<plan>/sets/<set id>/
      run.json                        what was asked of this run
      sources/<source>/dump/          the raw dump, its listings and inventories; ``dump.json`` in it is written last
      sources/<source>/*.json         records of the steps that are done, and ``<artifact>.contents.jsonl``
      set/                            the set as destinations will hold it; ``manifest.json`` closes it
      uploaded/<destination>          an empty file: this destination holds the set
    <staging>/<plan>/restores/<id>/   journal, findings and work folders of a restore

A record is written last and at once (temporary name, fsync, rename), so whoever finds one finds all that it tells of.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from recovery.errors import StagingError
from recovery.plan import Plan
from recovery.units import human_duration, human_size

log = logging.getLogger(__name__)

Record = TypeVar("Record", bound=BaseModel)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    partial.rename(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make sure that a folder's entries survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as JSON, atomically."""
    write_atomically(path, record.model_dump_json(indent=1).encode())


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read a record.

    Raises:
        StagingError: if it is not there or is not one, with what the staging folder must be.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise StagingError(
            f"{path} is not there, which an earlier task wrote.",
            "Let all workers of this plan share one staging folder; if somebody emptied it, start a new run.",
        ) from None
    except ValidationError as error:
        raise StagingError(f"{path} is damaged: {error.error_count()} fields are not as written.", "Start a new run.") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock among all workers that share the folder, and wait for it.

    The lock belongs to the process: a killed one lets go of it.
    """
    make_private(path.parent)
    with path.open("ab") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone: dumps hold everything."""
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what can't end.

    Raises:
        StagingError: if a folder has less free space than ``needed`` bytes.
    """
    free = shutil.disk_usage(folder).free
    log.info("%s needs about %s in %s, %s are free", what, human_size(needed), folder, human_size(free))
    if free < needed:
        raise StagingError(
            f"{folder} has {human_size(free)} free, but {what} needs about {human_size(needed)}.",
            "Free some space there, or give the plan a larger staging folder.",
        )


@contextmanager
def written_in(folder: Path) -> Iterator[None]:
    """Say in words that a folder of staging is full, or lets nothing be written.

    Raises:
        StagingError: in place of such an operating system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            raise
        raise StagingError(
            f"{folder} can't be written: {error.strerror}.",
            "Free some space there, or give the plan a larger staging folder; then clear this task.",
        ) from error


class RunRecord(BaseModel):
    """What was asked of a backup run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: str
    set_id: str
    run_id: str
    started: datetime
    sources: tuple[str, ...]
    """Source ids that this run backs up."""
    note: str = ""
    hold: bool = False
    safety: bool = False
    """See :attr:`recovery.manifest.Manifest.safety`."""
    allow_empty: bool = False
    previous: dict[str, dict[str, int]] = {}
    """Records of each source in the newest good set, as its manifest counts them, to notice what became empty or is gone."""
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
        self.finished = self.folder.with_name(f"{set_id}.finished")

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
        (self.folder / "uploaded").mkdir(exist_ok=True)
        write_atomically(self.folder / "uploaded" / destination, b"")

    def forget_upload(self, destination: str) -> None:
        """A destination does not hold the set after all, so that its packs have to wait."""
        (self.folder / "uploaded" / destination).unlink(missing_ok=True)

    def is_uploaded(self, destination: str) -> bool:
        """Whether a destination holds the set, as far as this run knows."""
        return (self.folder / "uploaded" / destination).exists()

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=False)


def staged_sets(plan: Plan) -> list[StagedSet]:
    """Every set in staging, oldest first."""
    root = plan.staging.folder / plan.plan / "sets"
    if not root.is_dir():
        return []
    return [StagedSet(plan, folder.name) for folder in sorted(root.iterdir(), key=lambda folder: folder.stat().st_mtime) if folder.is_dir()]


def sweep(plan: Plan, keep_id: str) -> None:
    """Remove what other runs left: dumps that a kill cut off, sets that every destination holds, packs beyond the caps.

    Closed sets that a destination still lacks stay for ``staging.keep``, so that a failed upload can be cleared.
    """
    waiting = []
    for staged in staged_sets(plan):
        if staged.id == keep_id:
            continue
        age = time.time() - staged.folder.stat().st_mtime
        if not staged.closed or all(map(staged.is_uploaded, plan.destinations)) or age > plan.staging.keep.total_seconds():
            log.info("removing what run %s left in staging, %s old", staged.id, human_duration(age))
            staged.remove()
        else:
            waiting.append((staged, folder_size(staged.folder)))
    total = sum(size for _, size in waiting)
    for staged, size in waiting:
        if plan.staging.cap is None or total <= plan.staging.cap:
            missing = [name for name in plan.destinations if not staged.is_uploaded(name)]
            log.warning("set %s still waits in staging for %s: clear its failed upload", staged.id, ", ".join(missing))
            continue
        log.warning(
            "removing the packs of %s from staging, %s: over the cap of %s", staged.id, human_size(size), human_size(plan.staging.cap)
        )
        staged.remove()
        total -= size


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
