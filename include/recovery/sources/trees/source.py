"""What files and config share: trees that are read where they are, staged beside what is live, and swapped by rename.

Steps in a restore's journal: ``staged`` (with the folders that have to be created for it), ``work folder`` (with its inode),
``exchange``, ``exchanged``, ``take back``, ``taken back``. What an exchange consists of, and what is replaced in place, is written in
the restore's staging folder; see :mod:`recovery.sources.trees.swap` and :mod:`recovery.sources.trees.in_place`.
"""

# pathlib has no paths of bytes.

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recovery.common.errors import RestoreError
from recovery.common.held_folder import HeldFolder, Reach
from recovery.common.paths import raw, readable
from recovery.common.trusted_path import where
from recovery.common.wording import ROLLS_BACK, shortened
from recovery.packs.artifact import Artifact
from recovery.packs.content_diff import Difference, compare
from recovery.packs.content_index import Facts, Row
from recovery.packs.tar_writer import Disturbance
from recovery.plan.location import Location
from recovery.plan.source_settings import TreeSettings
from recovery.runners.base import Runner
from recovery.sources.base import Dumper, InPlaceRestorer, RestoreView
from recovery.sources.model import Dump, Finding
from recovery.sources.trees import entries, filesystem
from recovery.sources.trees.in_place import InPlace
from recovery.sources.trees.inventory import hold, note_archived, take
from recovery.sources.trees.places import Places
from recovery.sources.trees.selection import Only, Part, at_or_below
from recovery.sources.trees.swap import Swap, SwapPoint
from recovery.sources.trees.walk import Walk, mark, marked_id
from recovery.sources.trees.work_folder import APART, BEFORE, NEW, WorkFolder

log = logging.getLogger(__name__)


class TreeSource(Dumper, InPlaceRestorer):
    """A source whose artifact is one tree."""

    root: Path
    """What the artifact's paths are relative to."""
    suffix: str
    """What follows the restore id in the name of a work folder."""
    before_paths = ""
    """What people write in front of the set's paths."""
    a_part: str
    """What people write for a part, in words."""
    made_mode = 0o777
    """Mode, as far as the umask lets it, of folders that have to be made and that no set knows."""

    def __init__(self, name: str, settings: TreeSettings, runner: Runner) -> None:
        super().__init__(name, runner)
        self.settings = settings

    @abstractmethod
    def walk(self) -> Walk:
        """A look at the source.

        Raises:
            SourceError: if what the plan names is not there.
        """

    @abstractmethod
    def homes(self) -> Sequence[Path]:
        """The folders in which restores leave their work folders."""

    @abstractmethod
    def swap_points(self, restore: RestoreView) -> Sequence[SwapPoint]:
        """Where the set's named paths are staged."""

    @abstractmethod
    def changes(
        self, restore: RestoreView, point: SwapPoint, live: Places, new: HeldFolder
    ) -> tuple[Iterable[bytes], Iterable[tuple[str, Facts | None]]]:
        """Which entries change places, and which live folders get other metadata; ``new`` has what is staged."""

    @abstractmethod
    def part(self, restore: RestoreView, point: SwapPoint) -> Part:
        """The set's entries that belong to a place and were asked for."""

    def starts(self, restore: RestoreView, point: SwapPoint, new: HeldFolder) -> Sequence[bytes]:
        """Where to look at what was staged in a folder."""
        return list(map(raw, point.starts))

    def newcomers(self, restore: RestoreView, point: SwapPoint, live: Places) -> Iterable[bytes]:
        """Live entries that came after the swap and go when it is rolled back."""
        return ()

    # Backup ---------------------------------------------------------------------------------------------------------

    def dump(self, folder: Path, opened: Callable[[], None]) -> Dump:
        """Scan the tree; it is read where it is when it is packed. See :func:`recovery.sources.trees.inventory.take`."""
        return take(self.name, self.walk(), folder, opened)

    def hold(self, artifact: Artifact, inventory: Path) -> Reach:
        """See :func:`recovery.sources.trees.inventory.hold`."""
        return hold(self.id, Path(artifact.root), inventory)

    def note_archived(self, inventory: Path, changes: Sequence[tuple[bytes, Disturbance]]) -> None:
        """See :func:`recovery.sources.trees.inventory.note_archived`."""
        note_archived(self.id, inventory, changes)

    # Preflight ------------------------------------------------------------------------------------------------------

    def fingerprint(self, restore: RestoreView) -> str:
        """See :meth:`InPlaceRestorer.fingerprint`. Mount and inode of each folder that is changed.

        Of the nearest parent, and ``gone``, if it is not there.

        A folder that this restore created is still gone.
        """
        ours = set(self.created(restore))
        return ", ".join(sorted(_identity(point.home, ours) for point in self.swap_points(restore)))

    def unmatched(self, restore: RestoreView, only: Only) -> Iterator[Finding]:
        """What was asked for and can't be, or is not in the set."""
        malformed = [pattern for pattern in only.patterns if pattern in only.malformed() or not pattern.startswith(self.before_paths)]
        if malformed:
            yield Finding("refusal", f"{shortened([repr(each) for each in malformed])} can't be {self.a_part}.")
        for pattern, near in only.unmatched(lambda: self.entries_of(restore)).items() if not malformed else ():
            has = f"it has, for example, {', '.join(self.before_paths + each for each in near)}" if near else "it has nothing"
            yield Finding("refusal", f"Nothing that the set has of {self.id} is {pattern!r}; {has}.")

    def entries_of(self, restore: RestoreView) -> Iterator[tuple[str, Facts]]:
        """Everything that the set has of this source."""
        for artifact in restore.artifacts():
            for _, path, facts in restore.rows(artifact, "entry"):
                yield path, facts

    # Restore --------------------------------------------------------------------------------------------------------

    def stage(self, restore: RestoreView) -> None:
        """Unpack beside the live entries, in work folders that only this worker can enter."""
        if restore.recorded_facts("exchange"):
            raise RestoreError(f"{self.id} was already swapped.", "Trigger a new restore; this one can only be finished or rolled back.")
        for point in self.swap_points(restore):
            with translated_errors(self.id, "staged"):
                self.stage_at(restore, point)

    def stage_at(self, restore: RestoreView, point: SwapPoint) -> None:
        """Stage what belongs to one place, afresh."""
        self.create(restore, point)
        home = HeldFolder.open(point.home)
        if home.has(os.fsencode(point.mark) + b"/" + BEFORE):
            raise RestoreError(
                f"{point.work / 'before'} has live entries that this restore set aside, but its journal knows no swap.",
                "Don't delete it: move them back by hand, then trigger a new restore.",
            )
        with filesystem.keeping_mtime(home):
            work = WorkFolder.make(restore, home, point.mark)
        self.unpack(restore, work, self.part(restore, point))
        filesystem.sync(home)
        log.info("%s: staged in %s", self.id, point.work / "new")

    def create(self, restore: RestoreView, point: SwapPoint) -> None:
        """Make the folders that are gone, said before."""
        nearest = filesystem.nearest(point.home)
        missing = [folder for folder in (point.home, *point.home.parents) if nearest in folder.parents]
        restore.record("staged", created=[str(folder) for folder in reversed(missing)])
        above = HeldFolder.open(nearest)
        for folder in reversed(missing):
            above = above.make_new(os.fsencode(folder.name), self.made_mode)

    def unpack(self, restore: RestoreView, work: WorkFolder, part: Part, covers: Callable[[str], bool] = lambda path: True) -> None:
        """Unpack a part of the set to a work folder's ``new``, as far as something covers it.

        Hard links whose target does not come along are unpacked with it apart, and moved from there. Folders
        come last in an archive, so these get their times after that.
        """
        if orphans := list(filter(covers, part.orphans)):
            self._unpack_apart(restore, work, orphans, {*orphans, *map(part.orphans.__getitem__, orphans)})
        apart, new = part.apart(), work.folder.below(NEW)
        for artifact in restore.artifacts():
            restore.unpack(artifact, new.through, lambda info: info.name not in apart and info.name in part and covers(info.name))

    def _unpack_apart(self, restore: RestoreView, work: WorkFolder, orphans: Iterable[str], wanted: Collection[str]) -> None:
        work.folder.make(APART)
        aside = work.folder.below(APART)
        for artifact in restore.artifacts():
            restore.unpack(artifact, aside.through, lambda info: info.name in wanted)
        for path in map(raw, orphans):
            filesystem.rename(aside.at(path), work.make_way(NEW, path))
        filesystem.remove(work.folder, APART)

    def verify_staged(self, restore: RestoreView) -> list[Difference]:
        """Scan what was staged with the code that read the artifact, and compare entry by entry.

        What this worker can't set is left out on both sides; preflight named it.
        """
        with translated_errors(self.id, "verified"):
            return [difference for point in self.swap_points(restore) for difference in self._verify(restore, point)]

    def _verify(self, restore: RestoreView, point: SwapPoint) -> list[Difference]:
        work = WorkFolder.open(restore, HeldFolder.open(point.home), point.mark)
        new = work.refuse_another_new(restore)
        walk = Walk(point.work / "new", self.starts(restore, point, new), reach=new)
        differences = self.beside(self.part(restore, point), walk, filesystem.abilities(work.folder.through))
        return differences if restore.only else differences + self._add_up(restore, point)

    def beside(
        self, part: Part, walk: Walk, able: entries.Abilities, covers: Callable[[str], bool] = lambda path: True
    ) -> list[Difference]:
        """Compare a part of the set, as far as something covers it, with what a walk comes across."""
        leaders = {raw(facts["target"]) for _, facts in part.entries() if facts["type"] == "hardlink"}

        def expected() -> Iterator[Row]:
            return (able.comparable(("entry", path, facts)) for path, facts in part.entries() if covers(path))

        differences = entries.differences(expected, map(able.comparable, entries.of_walk(walk, leaders)))
        return differences + [Difference("tree", str(walk.root), f"can't be read: {problem}") for problem in walk.problems]

    def _add_up(self, restore: RestoreView, point: SwapPoint) -> list[Difference]:
        """Whether the set's entries are as many as it says."""
        totals = {start: entries.Totals() for start in point.starts}
        for path, facts in self.entries_of(restore):
            if (start := point.start_of(path)) is not None:
                totals[start].add(path, facts)
        trees = (row for artifact in restore.artifacts() for row in restore.rows(artifact, "tree") if row[1] in point.starts)
        return compare(trees, (("tree", start, total.facts()) for start, total in totals.items()))

    def swap(self, restore: RestoreView) -> None:
        """Exchange entries by rename, then give live folders the set's metadata."""
        if restore.recorded_facts("take back"):
            raise RestoreError(f"{self.id} was rolled back.", "Trigger a new restore.")
        if restore.recorded_facts("exchanged"):
            return
        with translated_errors(self.id, "swapped"):
            live = self.live(restore)
            works = [(point, WorkFolder.open(restore, live.home(point.home), point.mark)) for point in self.swap_points(restore)]
            staged = [work.refuse_another_new(restore) for _, work in works]
            if not restore.recorded_facts("exchange"):
                for (point, _), new in zip(works, staged, strict=True):
                    point.plan.write(live, new, *self.changes(restore, point, live, new))
                restore.record("exchange")
            for point, work in works:
                Swap(live, work, point.plan).forward()
        restore.record("exchanged")

    def roll_back(self, restore: RestoreView) -> None:
        """Exchange back; entries that came after a whole swap go to the staged ones."""
        if not restore.recorded_facts("exchange") or restore.recorded_facts("taken back"):
            return
        restore.record("take back")
        with translated_errors(self.id, "rolled back"):
            live = self.live(restore)
            for point in self.swap_points(restore):
                swap = Swap(live, WorkFolder.open(restore, live.home(point.home), point.mark), point.plan)
                if restore.recorded_facts("exchanged"):
                    swap.withdraw(self.newcomers(restore, point, live))
                swap.back()
        restore.record("taken back")

    def finalize(self, restore: RestoreView) -> None:
        """Nothing has to wait for acceptance."""
        if not restore.in_place:
            works = ", ".join(str(point.work) for point in self.swap_points(restore))
            log.info("%s: the entries that were replaced stay in %s", self.id, works)

    def discard(self, restore: RestoreView) -> None:
        """Remove what was staged, or came back from a swap; after a swap that stays, only what it left over."""
        back = bool(restore.recorded_facts("taken back"))
        if restore.recorded_facts("exchange") and not back and not restore.recorded_facts("exchanged"):
            raise RestoreError(f"{self.id} is half swapped.", "Clear roll_back, discard and report of that run, together.")
        stays = bool(restore.recorded_facts("exchanged")) and not back
        for point in self.swap_points(restore):
            with translated_errors(self.id, "discarded"):
                self._discard(restore, point, stays)
        if not stays:
            self.remove_created(restore)

    def _discard(self, restore: RestoreView, point: SwapPoint, stays: bool) -> None:
        if not point.home.exists():
            return
        home = HeldFolder.open(point.home)
        if not home.has(os.fsencode(point.mark)):
            return
        if not home.has(os.fsencode(point.mark) + b"/" + BEFORE):
            with filesystem.keeping_mtime(home):
                WorkFolder.remove(restore, home, point.mark)
            return
        work = WorkFolder.open(restore, home, point.mark)
        if not stays:
            raise RestoreError(
                f"{work.path / 'before'} still has entries that were live.", "Move them back by hand; they were not rolled back."
            )
        filesystem.remove(work.folder, NEW)

    def leaves_out(self, restore: RestoreView, location: Location) -> bool:
        """See :meth:`InPlaceRestorer.leaves_out`."""
        starts = [Path(row[1]) for artifact in restore.artifacts() for row in restore.rows(artifact, "tree")]
        roots = [(start, root) for start in starts for root in filesystem.locations(self.root / start) if location[: len(root)] == root]
        left = [(start, self.settings.left_out(Path(*location[len(root) :]))) for start, root in roots]
        there = at_or_below({str(start / entry) for start, entry in left if entry})
        return bool(left) and all(entry for _, entry in left) and not any(there(path) for path, _ in self.entries_of(restore))

    @classmethod
    def mark_of(cls, restore_id: str, *, replaced: bool) -> str:
        """See :meth:`recovery.sources.base.Source.mark_of`: one work folder has both."""
        return mark(restore_id)

    def replaced_copies(self) -> list[str]:
        """The restore ids whose set-aside entries still lie beside the live ones."""
        with translated_errors(self.id, "looked at"):
            homes = [HeldFolder.open(home) for home in self.homes() if home.is_dir()]
            found = [self._id_of(home, name) for home in homes for name in home.names()]
        return sorted({restore_id for restore_id in found if restore_id})

    def _id_of(self, home: HeldFolder, name: bytes) -> str | None:
        restore_id = marked_id(name, self.suffix)
        return restore_id if restore_id and home.has(name + b"/" + BEFORE) else None

    def drop_replaced(self, restore: RestoreView) -> None:
        """Remove the entries that a restore set aside."""
        for point in self.swap_points(restore):
            with translated_errors(self.id, "dropped"):
                home = HeldFolder.open(point.home) if point.home.is_dir() else None
                if home and self._id_of(home, os.fsencode(point.mark)):
                    with filesystem.keeping_mtime(home):
                        WorkFolder.remove(restore, home, point.mark)
                    log.info("%s: removed %s", self.id, point.work)

    def live(self, restore: RestoreView) -> Places:
        """The live entries of what the set has."""
        return Places(self.root, {point.home for point in self.swap_points(restore)})

    def replaced(self, restore: RestoreView) -> InPlace:
        """What this restore replaces in place."""
        return InPlace(self.live(restore), restore.folder / "replaced.jsonl")

    def remove_created(self, restore: RestoreView) -> None:
        """Remove the folders that this restore created, as far as nothing is in them."""
        for folder in reversed(self.created(restore)):
            if folder.is_dir():
                HeldFolder.open(folder.parent).remove_empty(os.fsencode(folder.name))

    def created(self, restore: RestoreView) -> list[Path]:
        """The folders that were created because they were gone, outer ones first; two sources may need the same."""
        return sorted(map(Path, dict.fromkeys(restore.created())), key=lambda path: len(path.parts))


def _identity(folder: Path, ours: set[Path]) -> str:
    point = next(point for point in (folder, *folder.parents) if point.exists() and point not in ours)
    if point != folder:  # its parents may be made meanwhile, for another source of the same restore
        return f"gone below {filesystem.mount_of(point)}: {folder}"
    return f"{filesystem.mount_of(point)}, inode {point.stat().st_ino}"


@contextmanager
def translated_errors(source: str, what: str) -> Iterator[None]:
    """Say what the system refused.

    Raises:
        RestoreError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RestoreError(
            f"{source} could not be {what}: {error.strerror}, {readable(where(error.filename or ''))}.",
            f"Remove the obstacle. {ROLLS_BACK}",
        ) from error
