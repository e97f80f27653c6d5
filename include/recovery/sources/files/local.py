"""A folder with everything in it: uploads, documents.

The tree is scanned now and packed where it is, so files may change or vanish meanwhile: they are named, and tolerated.
Folders on other file systems that are mounted below are included in the backup; a restore refuses them, since it
exchanges entries by rename, unless it is in place.
"""

# pathlib has no paths of bytes.

# ruff: noqa: PTH112, PTH208

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from recovery.common.errors import RestoreError, SourceError
from recovery.common.held_folder import HeldFolder
from recovery.common.paths import at, raw, readable, shown, text
from recovery.common.units import human_size
from recovery.common.wording import counted, shortened
from recovery.packs.content_diff import Change, Difference
from recovery.packs.content_index import Facts
from recovery.plan.excludes import Excludes
from recovery.plan.kinds.files import FilesSettings, FilesTarget
from recovery.plan.location import Location
from recovery.runners.base import Runner
from recovery.sources.base import Access, RestoreView, announce_drop
from recovery.sources.files.selection import Selection, staying
from recovery.sources.model import Finding, Preflight, Space
from recovery.sources.trees import entries, filesystem, preflight
from recovery.sources.trees.diff import amount, beside
from recovery.sources.trees.in_place import InPlace
from recovery.sources.trees.places import Places
from recovery.sources.trees.selection import Only, Part, at_or_below, ways
from recovery.sources.trees.source import TreeSource, translated_errors
from recovery.sources.trees.swap import ExchangePlan, SwapPoint
from recovery.sources.trees.walk import Walk, is_mark, mark
from recovery.sources.trees.work_folder import NEW, WorkFolder


class Files(TreeSource):
    """One folder. Staged in ``<folder>/.recovery-<id>/new``, exchanged top-level entry by top-level entry.

    Excluded entries are neither saved nor replaced: at the top level they stay; deeper ones go with the folder that
    they are in when it is set aside. Of a part, the topmost entries that were asked for are exchanged: a folder as it
    was, with all that is in it; a folder that the live system lacks comes with what lies in it. In place, excluded
    entries stay wherever they are.
    """

    kind = "files"
    suffix = ""
    a_part = "a path or pattern of entries below the folder"

    def __init__(self, name: str, settings: FilesSettings, there: Path | None = None, *, runner: Runner) -> None:
        super().__init__(name, settings, runner)
        self.root = there or settings.path
        self._live = settings.path
        self._excluded = Excludes(settings.exclude)

    @classmethod
    def of(cls, name: str, settings: FilesSettings, there: FilesTarget | None, access: Access) -> Self:
        """See :meth:`recovery.sources.base.Source.of`."""
        return cls(name, settings, there.path if there else None, runner=access.runner)

    # Backup ---------------------------------------------------------------------------------------------------------

    def walk(self) -> Walk:
        """A look at the folder.

        Raises:
            SourceError: if it is not there, or is not a folder.
        """
        if self.damaged and not os.path.lexists(self.root):
            return Walk(self.root, (), gone=[str(self.root)])
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "is not there, or the worker may not look into its parents"
            raise SourceError(f"{self.root} {what}.", f"Correct the path of {self.id} in the plan, or mount the folder.")
        return Walk(self.root, excluded=self._excluded)

    # Restore --------------------------------------------------------------------------------------------------------

    def homes(self) -> Sequence[Path]:
        """The folder itself."""
        return [self.root]

    def swap_points(self, restore: RestoreView) -> Sequence[SwapPoint]:
        """The folder itself: it is often a mount point, so a folder beside it would be on another file system."""
        return [SwapPoint(self.root, mark(restore.id), self.root, (".",), ExchangePlan(restore.folder / "exchange.jsonl"))]

    def part(self, restore: RestoreView, point: SwapPoint) -> Part:
        """What was asked for; see :meth:`Selection.part`."""
        return self._selection(restore).part()

    def _selection(self, restore: RestoreView) -> Selection:
        return Selection(self.root, self._excluded, restore, lambda: self.entries_of(restore))

    def starts(self, restore: RestoreView, point: SwapPoint, new: HeldFolder) -> Sequence[bytes]:
        """The staged folder as a whole, or what is in it."""
        return new.names() if restore.only else [b"."]

    def changes(
        self, restore: RestoreView, point: SwapPoint, live: Places, new: HeldFolder
    ) -> tuple[Iterable[bytes], Iterable[tuple[str, Facts | None]]]:
        """Every top-level entry, live or staged, and the folder's own metadata; of a part, see :meth:`Selection.units`."""
        selection = self._selection(restore)
        if restore.only:
            units = selection.units(live)
            folders = dict.fromkeys(unit.rpartition("/")[0] or "." for unit in units)
            return map(raw, units), [(path, self._folder(restore, path)) for path in folders]
        staged = set(new.names())
        return sorted(staged | set(selection.leaving(live, staged))), [(".", self._folder(restore, "."))]

    def _folder(self, restore: RestoreView, path: str) -> Facts | None:
        """What a live folder is like after the swap: as the set has it if it was asked for or had to be made; None for as it is now."""
        brought = path == "." and (not restore.only or self.root in self.created(restore))
        for each, facts in self.entries_of(restore) if brought else ():
            if each == path:
                return facts
        return None

    def newcomers(self, restore: RestoreView, point: SwapPoint, live: Places) -> Iterable[bytes]:
        """Top-level entries that were written after the swap; of a part, none: what was not asked for stays."""
        if restore.only:
            return []
        planned = {unit.path for unit in point.plan.units()}
        return [name for name in self._selection(restore).leaving(live, planned) if name not in planned]

    def live(self, restore: RestoreView) -> Places:
        """What is in the folder."""
        return Places(self.root, [self.root])

    # In place -------------------------------------------------------------------------------------------------------

    def replace(self, restore: RestoreView) -> None:
        """Remove the live entries that were asked for, excluded ones apart, and unpack the set's there."""
        with translated_errors(self.id, "replaced in place"):
            self._replace(restore)

    def _replace(self, restore: RestoreView) -> None:
        (point,) = self.swap_points(restore)
        if not self.root.exists():
            announce_drop(restore)
        self.create(restore, point)
        part, replaced = self.part(restore, point), self.replaced(restore)
        covers = self._plan(restore, replaced)
        announce_drop(restore)
        self._remove_works(restore, replaced.live)
        kept = replaced.clear(staying(part, self._excluded))
        self._load(restore, replaced, part, covers, kept)
        self._remove_works(restore, replaced.live)
        root = self.root in self.created(restore)
        everything = root or not restore.only
        brought = {path: facts for path, facts in self.entries_of(restore) if path in kept or (everything and path == ".")}
        replaced.finish(brought.items(), kept - brought.keys())
        if root and "." not in brought:
            self.remove_created(restore)

    def _load(self, restore: RestoreView, replaced: InPlace, part: Part, covers: Callable[[str], bool], kept: set[str]) -> None:
        """Unpack where only this worker gets to, and move what is there out of it: on each mount apart, since no rename leaves one."""
        mounts = [path for path in self._mounts() if path in kept]

        def mount_of(path: str) -> str:
            return next((mount for mount in mounts if path.startswith(mount + "/")), ".")

        for mount in sorted({mount_of(path) for path, _ in part.entries() if covers(path)}):
            home = replaced.live.below(raw(mount))
            work = WorkFolder.make(restore, home, mark(restore.id))
            self.unpack(restore, work, part, lambda path, here=mount: covers(path) and mount_of(path) == here)  # type: ignore[misc]
            replaced.bring(work.folder.below(NEW))
            filesystem.sync(home)

    def _mounts(self) -> list[str]:
        """Folders below that are mount points, inner ones first."""
        root = os.path.realpath(self.root)
        return sorted((os.path.relpath(point, root) for point in filesystem.mounts_below(self.root)), key=len, reverse=True)

    def _remove_works(self, restore: RestoreView, live: Places) -> None:
        for mount in [".", *self._mounts()]:
            if live.has(raw(f"{mount}/{mark(restore.id)}")):
                WorkFolder.remove(restore, live.below(raw(mount)), mark(restore.id))

    def _plan(self, restore: RestoreView, replaced: InPlace) -> Callable[[str], bool]:
        """What is replaced is decided once, and holds for the rollback; of everything, whatever is there is added each time."""
        selection = self._selection(restore)
        if not restore.only:
            tops = (path for path, _ in self.entries_of(restore) if "/" not in path and path != ".")
            ours = {raw(path) for path in tops if not selection.excludes(path)}
            replaced.plan(sorted(ours | set(selection.leaving(replaced.live, ours))), ["."])
            return lambda path: True
        if not replaced.begun:
            units = selection.units(replaced.live)
            replaced.plan(map(raw, units), dict.fromkeys(unit.rpartition("/")[0] or "." for unit in units) | {".": None})
        return replaced.covers()

    def verify_staged(self, restore: RestoreView) -> list[Difference]:
        """See :meth:`TreeSource.verify_staged`. In place: the same of the live entries; what came at the top level since is left out."""
        if not restore.in_place:
            return super().verify_staged(restore)
        with translated_errors(self.id, "verified"):
            selection, units = self._selection(restore), self.replaced(restore).units
            part = selection.part()
            came = not restore.only and any(text(name) not in units for name in selection.leaving(self.live(restore), set()))
            asked, stayed = at_or_below(units if restore.only or came else [*units, "."]), self.replaced(restore).stayed

            def covers(path: str) -> bool:
                return asked(path) and path not in stayed

            return self.beside(part, self._look(units, covers, part), filesystem.abilities(filesystem.nearest(self.root)), covers)

    # Looking at what is live ----------------------------------------------------------------------------------------

    def _look(self, units: Collection[str], covers: Callable[[str], bool], part: Part) -> Walk:
        """A look at live entries, at or below some, excluded ones apart."""
        above = {start for unit in units for start in ways(unit)} - set(units)
        stays = staying(part, self._excluded)
        return Walk(
            self.root,
            [b"."] if self.root.is_dir() else [],
            lambda path: (text(path) not in above and not covers(text(path))) or stays(path),
            passed=lambda path: not covers(text(path)),
        )

    def _look_at_asked(self, restore: RestoreView, part: Part) -> Walk:
        """A look at what is live of what was asked for."""
        return self._look(self._selection(restore).tops if restore.only else (), part.wanted, part)

    def locations(self, restore: RestoreView) -> set[Location]:
        """The folder."""
        return self.own_locations()

    def own_locations(self) -> set[Location]:
        """The folder."""
        return filesystem.locations(self.root)

    def occupied_locations(self, restore: RestoreView) -> dict[Location, str]:
        """What is in the folder, or is there already of what was asked for."""
        (point,) = self.swap_points(restore)
        walk = self._look_at_asked(restore, self.part(restore, point))
        there = amount(found for found in walk if found.path != b".")
        return {filesystem.location(self.root): f"{self.root} has {there}"} if there else {}

    def compare(self, restore: RestoreView) -> list[Change]:
        """By reading everything that is live of what was asked for; folders above it count only if they have to be made."""
        (point,) = self.swap_points(restore)
        part = self.part(restore, point)
        walk = self._look_at_asked(restore, part)
        return self._beside_live(part, walk, lambda path: part.wanted(path) or not os.path.lexists(at(self.root, raw(path))))

    def changed_since_backup(self, restore: RestoreView) -> list[Change]:
        """See :meth:`TreeSource.changed_since_backup`: of all that would be removed, also what came since that was planned.

        A folder's time alone is no loss: settings and other excluded entries that come and go in it change it, too.
        """
        units = self.replaced(restore).units
        covers = at_or_below(units if restore.only else [*units, "."])
        part = Part(lambda: self.entries_of(restore), covers)
        found = self._beside_live(part, self._look(units, covers, part), covers, timeless={"folder"})
        return [change for change in found if change.what != "equal"]

    def _beside_live(self, part: Part, walk: Walk, counts: Callable[[str], bool], timeless: Collection[str] = ()) -> list[Change]:
        with translated_errors(self.id, "compared"):
            return beside(part, walk, filesystem.abilities(filesystem.nearest(self.root)), counts, timeless)

    # Preflight ------------------------------------------------------------------------------------------------------

    def preflight(self, restore: RestoreView) -> Preflight:
        """What is there now and goes, what comes, and what would be in the way."""
        with translated_errors(self.id, "looked at"):
            return self._preflight(restore)

    def _preflight(self, restore: RestoreView) -> Preflight:
        only = Only(restore.only)
        if refusals := list(self.unmatched(restore, only)):
            return Preflight(self.fingerprint(restore), tuple(refusals))
        (point,) = self.swap_points(restore)
        part = self.part(restore, point)
        room = dataclasses.replace(preflight.room(point, part), freed=self._freed(restore, part))
        return Preflight(self.fingerprint(restore), tuple(self._findings(restore, point, part, room)), second_copy=(room,))

    def _freed(self, restore: RestoreView, part: Part) -> int:
        files = [found.status for found in self._look_at_asked(restore, part) if found.kind == "file"] if restore.in_place else []
        return sum(status.st_blocks * 512 // status.st_nlink for status in files)

    def _findings(self, restore: RestoreView, point: SwapPoint, part: Part, room: Space) -> Iterator[Finding]:
        total, newest = entries.Totals(), 0
        for path, facts in part.entries():
            total.add(path, facts)
            newest = max(newest, facts["mtime"]) if facts["type"] == "file" else newest
        tree = total.facts()
        asked = f" of {shortened(list(restore.only))}" if restore.only else ""
        brings = (
            f"{counted(tree['files'] + tree['hardlinks'], 'file')} in {counted(tree['folders'], 'folder')}, {human_size(tree['stored'])}"
        )
        yield Finding("fact", f"{self.root} gets what the set has{asked}: {brings}.")
        yield from preflight.common_findings(restore, point, part)
        yield from self._excluded_findings(restore)
        if self.root != self._live and filesystem.nested(self.root, self._live):
            yield Finding(
                "refusal", f"{self.root} and {self._live}, which is live, lie in one another: the restore would change what is live."
            )
        if self.root.is_dir():
            yield from self._live_findings(restore, point, part, newest, room)
        elif self.root.exists():
            yield Finding("refusal", f"{self.root} is not a folder.")

    def _live_findings(self, restore: RestoreView, point: SwapPoint, part: Part, newest: int, room: Space) -> Iterator[Finding]:
        walk = self._look_at_asked(restore, part)
        files = size = newer = 0
        for found in walk:
            if found.kind == "file":
                files += 1
                size += found.stored
                newer += found.status.st_mtime_ns > newest
        has = f"{self.root} has {counted(files, 'file') if files else 'no files'}{' of these' if restore.only else ''} now"
        goes = "removed" if restore.in_place else f"set aside in {point.work / 'before'}"
        yield Finding("fact", f"{has}, {human_size(size)}; all of them are {goes}." if files else f"{has}.")
        if newer:
            yield Finding("warning", f"{newer} of them were written after the newest file of the set: the restore takes them out of use.")
        if walk.problems:
            yield Finding("refusal" if restore.in_place else "warning", f"Not all of {self.root} can be read: {shortened(walk.problems)}.")
        if restore.in_place:
            yield from preflight.irremovable(self._look_at_asked(restore, part))
            yield from self._taken(part, set(walk.left_out))
        if restore.in_place and room.free is not None and room.needed > room.free + room.freed:
            yield Finding(
                "refusal",
                f"{self.root} has {human_size(room.free)} free, and {human_size(room.freed)} more once the live files are removed; "
                f"the set needs {human_size(room.needed)}.",
            )
        if not restore.only:
            yield from self._staying(restore)
        yield from self._in_the_way(restore, point)

    def _taken(self, part: Part, stays: set[str]) -> Iterator[Finding]:
        """Entries of the set in whose place is what no restore in place removes."""
        taken = [place for path, _ in part.entries() if (place := shown(self.root, path)) in stays] if stays else []
        if taken:
            yield Finding("refusal", f"Sockets or devices stay, where the set has something else: {shortened(taken)}. Remove them.")

    def _excluded_findings(self, restore: RestoreView) -> Iterator[Finding]:
        selection = self._selection(restore)
        if selection.left_out:
            names = shortened([readable(path) for path in sorted(selection.left_out)])
            yield Finding("warning", f"The plan excludes now what the set has, so it is left out, and what is there stays: {names}.")
        if selection.left_out and restore.only and not selection.tops:
            yield Finding("refusal", "That is all that was asked for. Choose method: swap, or correct the plan's exclude.")

    def _staying(self, restore: RestoreView) -> Iterator[Finding]:
        staying = sorted(readable(name) for name in os.listdir(os.fsencode(self.root)) if not is_mark(name) and self._excluded(name))
        if staying:
            unless = "" if restore.in_place else ", unless the set has them"
            yield Finding("fact", f"Excluded entries stay where they are{unless}: {shortened(staying)}.")
        if self._excluded.any and not restore.in_place:
            yield Finding("fact", f"Excluded entries in folders below {self.root} are set aside with their folder.")

    def _in_the_way(self, restore: RestoreView, point: SwapPoint) -> Iterator[Finding]:
        """What can't be renamed, or removed."""
        by_folder: dict[Path, list[bytes]] = {}
        live, selection = self.live(restore), self._selection(restore)
        try:
            units = list(map(raw, selection.units(live))) if restore.only else list(selection.leaving(live, set()))
        except RestoreError as error:
            yield Finding("refusal", str(error))
            return
        for unit in units:
            folder, _, name = unit.rpartition(b"/")
            names = by_folder.setdefault(self.root / os.fsdecode(folder), [])
            names += [name] if os.path.lexists(at(self.root, unit)) else []
        by_folder.setdefault(self.root, [])
        reasons = [
            reason for folder, names in by_folder.items() for reason in filesystem.obstacles(folder, names, renamed=not restore.in_place)
        ]
        if reasons:
            yield Finding("refusal", f"Not everything in {self.root} can be replaced: {shortened(reasons)}.")
        below = filesystem.mounts_below(self.root)
        if restore.in_place:
            if files := [point for point in below if not os.path.isdir(point)]:
                yield Finding("refusal", f"In {self.root} single files are mounted, which can't be removed: {shortened(files)}.")
            elif below:
                yield Finding("fact", f"What is mounted in {self.root} is emptied and filled where it is: {shortened(below)}.")
        elif below and not restore.only:
            yield Finding("refusal", f"In {self.root} something is mounted, which can't be renamed: {shortened(below)}.")
        elif below:
            mounted = [reason for unit in units for reason in filesystem.mounts_in_the_way(self.root / os.fsdecode(unit), self.root)]
            if mounted:
                yield Finding("refusal", f"Not everything can be replaced: {shortened(mounted)}.")
