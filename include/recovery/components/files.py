"""A folder with everything in it: uploads, documents.

The tree is scanned now and packed where it is, so files may change or vanish meanwhile: they are named, and tolerated.
Folders on other file systems that are mounted below are included in the backup; a restore refuses them, since it
exchanges entries by rename.
"""

# pathlib has no paths of bytes.
# ruff: noqa: PTH208

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from recovery.components import filesystem
from recovery.components.base import Finding, Preflight, Restore
from recovery.components.by_rename import ByRename, Place
from recovery.components.inventory import shortened
from recovery.components.tree import Excludes, Walk, is_mark, mark, readable
from recovery.contents import Facts
from recovery.errors import SourceError
from recovery.plan import FilesSource
from recovery.units import human_size

log = logging.getLogger(__name__)


class Files(ByRename):
    """One folder. Staged in ``<folder>/.recovery-<id>/new``, exchanged top-level entry by top-level entry.

    Excluded entries are neither saved nor replaced: at the top level they stay; deeper ones go with the folder that
    they are in when it is set aside.
    """

    kind = "files"
    suffix = ""

    def __init__(self, name: str, settings: FilesSource) -> None:
        super().__init__(name)
        self.root = settings.path
        self._excluded = Excludes(settings.exclude)

    def walk(self) -> Walk:
        """A look at the folder.

        Raises:
            SourceError: if it is not there, or is not a folder.
        """
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "is not there, or the worker may not look into its parents"
            raise SourceError(f"{self.root} {what}.", f"Correct the path of {self.id} in the plan, or mount the folder.")
        return Walk(self.root, excluded=self._excluded)

    def homes(self) -> Sequence[Path]:
        """The folder itself."""
        return [self.root]

    def places(self, restore: Restore) -> Sequence[Place]:
        """The folder itself: it is often a mount point, so a folder beside it would be on another file system."""
        return [Place(home=self.root, work=self.root / mark(restore.id), live=self.root, starts=(".",))]

    def changes(self, restore: Restore, place: Place) -> tuple[Iterable[bytes], Iterable[tuple[str, Facts]]]:
        """Every top-level entry, live or staged, and the folder's own metadata."""
        staged = set(os.listdir(os.fsencode(place.exchange.new)))
        paths = sorted(staged | set(self._leaving(staged)))
        return paths, [(path, facts) for path, facts in self.expected(restore, place) if path == "."]

    def newcomers(self, place: Place) -> Iterable[bytes]:
        """Top-level entries that were written after the switch."""
        planned = {unit.path for unit in place.exchange.units()}
        return [name for name in self._leaving(planned) if name not in planned]

    def _leaving(self, named: set[bytes]) -> Iterator[bytes]:
        """Live top-level entries that are replaced: excluded ones stay, unless the set has them."""
        for name in os.listdir(os.fsencode(self.root)):
            if not is_mark(name) and (name in named or not self._excluded(name)):
                yield name

    def preflight(self, restore: Restore) -> Preflight:
        """What is there now and goes, what comes, and what would be in the way."""
        findings = list(self._findings(restore))
        return Preflight(self.identity(restore), tuple(findings), self.bytes_needed(restore))

    def _findings(self, restore: Restore) -> Iterator[Finding]:
        (place,) = self.places(restore)
        for artifact in restore.artifacts():
            for _, _, tree in restore.rows(artifact, "tree"):
                brings = f"{tree['files']} files in {tree['folders']} folders, {human_size(tree['bytes'])}"
                yield Finding("fact", f"{self.root} gets what the set has: {brings}.")
        yield from self.common_findings(restore, place)
        if self.root.is_dir():
            newest = max((facts["mtime"] for _, facts in self.expected(restore, place) if facts["type"] == "file"), default=0)
            yield from self._live_findings(place, newest)
        elif self.root.exists():
            yield Finding("refusal", f"{self.root} is not a folder.")

    def _live_findings(self, place: Place, newest: int) -> Iterator[Finding]:
        walk = Walk(self.root, excluded=self._excluded)
        files = size = newer = 0
        for found in walk:
            if found.kind == "file":
                files += 1
                size += found.status.st_size
                newer += found.status.st_mtime_ns > newest
        yield Finding(
            "fact", f"{self.root} has {files} files now, {human_size(size)}; all of them are set aside in {place.exchange.before}."
        )
        if newer:
            yield Finding("warning", f"{newer} of them were written after the newest file of the set: they are not live after the switch.")
        if walk.problems:
            yield Finding("warning", f"Not all of {self.root} can be read: {shortened(walk.problems)}.")
        staying = sorted(readable(name) for name in os.listdir(os.fsencode(self.root)) if not is_mark(name) and self._excluded(name))
        if staying:
            yield Finding("fact", f"Excluded entries stay where they are, unless the set has them: {shortened(staying)}.")
        if self._excluded.any:
            yield Finding("fact", f"Excluded entries in folders below {self.root} are set aside with their folder.")
        if below := filesystem.mounts_below(self.root):
            yield Finding("refusal", f"In {self.root} something is mounted, which can't be renamed: {shortened(below)}.")
        reasons = list(filesystem.obstacles(self.root, self._leaving(set())))
        if reasons:
            yield Finding("refusal", f"Not everything in {self.root} can be replaced: {shortened(reasons)}.")
