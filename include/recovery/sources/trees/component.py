"""What files and config share: trees that are read where they are, staged beside what is live, and switched by rename.

Steps in a restore's journal: ``staged`` (with the folders that have to be created for it), ``exchange``, ``exchanged``,
``take back``, ``taken back``. What an exchange consists of is written in the work folders, see
:mod:`recovery.sources.trees.swap`; what is replaced in place, in scratch, see
:mod:`recovery.sources.trees.in_place`.
"""

# pathlib has no paths of bytes.

# ruff: noqa: PTH103, PTH120, PTH208

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recovery.common.errors import RestoreError, ToolError
from recovery.common.paths import at, raw, readable
from recovery.common.wording import shortened
from recovery.packs.content_diff import Difference, compare
from recovery.packs.content_index import Facts, Row
from recovery.packs.extract import find_tar
from recovery.plan.location import Landing
from recovery.plan.source_settings import TreeSettings
from recovery.runners.base import Runner
from recovery.sources.base import Dumper, InPlaceRestorer, Restore
from recovery.sources.model import Dump, Finding, Space
from recovery.sources.trees import entries, filesystem
from recovery.sources.trees.in_place import InPlace
from recovery.sources.trees.inventory import note_told, refuse_moved, take
from recovery.sources.trees.selection import Only, Part, at_or_below
from recovery.sources.trees.swap import Exchange
from recovery.sources.trees.walk import Walk, mark, marked_id

log = logging.getLogger(__name__)

_ENTRY_COST = 4096
_PATH_MAX = 4095
"""Bytes of a path that Linux takes, without the zero at its end."""


@dataclass(frozen=True)
class Place:
    """A folder that gets a work folder, and what is staged in it."""

    home: Path
    """The folder that the work folder lies in; it may be gone."""
    work: Path
    live: Path
    """What the set's paths are relative to, in the live system."""
    starts: tuple[str, ...]
    """The set's named paths that belong here."""

    @property
    def exchange(self) -> Exchange:
        """What changes places here."""
        return Exchange(self.live, self.work)

    def start_of(self, path: str) -> str | None:
        """The named path that an entry of the set is at or below; None if it belongs elsewhere."""
        return next((start for start in self.starts if start == "." or path == start or path.startswith(start + "/")), None)


class ByRename(Dumper, InPlaceRestorer):
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
    def places(self, restore: Restore) -> Sequence[Place]:
        """Where the set's named paths are staged."""

    @abstractmethod
    def changes(self, restore: Restore, place: Place) -> tuple[Iterable[bytes], Iterable[tuple[str, Facts]]]:
        """Which entries change places, and which live folders get other metadata."""

    @abstractmethod
    def part(self, restore: Restore, place: Place) -> Part:
        """The set's entries that belong to a place and were asked for."""

    def starts(self, restore: Restore, place: Place) -> Sequence[bytes]:
        """Where to look at what was staged."""
        return list(map(raw, place.starts))

    def newcomers(self, restore: Restore, place: Place) -> Iterable[bytes]:
        """Live entries that came after the switch and go when it is taken back."""
        return ()

    # Backup ---------------------------------------------------------------------------------------------------------

    def dump(self, folder: Path, opened: Callable[[], None]) -> Dump:
        """Scan the tree; it is read where it is when it is packed. See :func:`recovery.sources.trees.inventory.take`."""
        return take(self.name, self.walk(), folder, opened)

    def refuse_moved(self, artifact: Path, inventory: Path) -> None:
        """See :func:`recovery.sources.trees.inventory.refuse_moved`."""
        refuse_moved(self.id, artifact, inventory)

    def note_archived(self, inventory: Path, messages: Sequence[str]) -> None:
        """See :func:`recovery.sources.trees.inventory.note_told`."""
        note_told(self.id, inventory, messages)

    # Preflight ------------------------------------------------------------------------------------------------------

    def identity(self, restore: Restore) -> str:
        """See :meth:`InPlaceRestorer.identity`. Mount and inode of each folder that is changed.

        Of the nearest parent, and ``gone``, if it is not there.

        A folder that this restore created is still gone.
        """
        ours = set(self.created(restore))
        return ", ".join(sorted(_identity(place.home, ours) for place in self.places(restore)))

    def common_findings(self, restore: Restore, place: Place, part: Part) -> Iterator[Finding]:
        """What preflight finds in every place: folders that are gone, what can't be set, what is in the way."""
        try:
            find_tar()
            filesystem.find_rm(self.runner)
        except ToolError as error:
            yield Finding("refusal", str(error))
        parent = filesystem.nearest(place.home)
        if parent != place.home:
            yield Finding("fact", f"{place.home} is gone; it is created again in {parent}.")
            yield from (Finding("refusal", f"{reason}.") for reason in filesystem.obstacles(parent, (), renamed=False))
        able = filesystem.abilities(parent)
        if not able.owners:
            yield Finding(
                "warning", f"This worker is not root: what it restores in {place.home} belongs to itself; owners are not compared."
            )
        count, names, longest = 0, set(), ""
        for path, facts in part.entries():
            count += 1
            names |= facts.get("xattrs", {}).keys()
            longest = max(longest, path, key=lambda each: len(raw(each)))
        free = os.statvfs(parent)
        if not restore.in_place and free.f_files and free.f_favail < count:
            yield Finding("refusal", f"{parent} has room for {free.f_favail} more entries (inodes), {count} are needed.")
        if lost := sorted(names - able.settable(dict.fromkeys(names, "")).keys()):
            yield Finding("warning", f"Extended attributes that can't be set in {place.home} are not compared: {', '.join(lost)}.")
        if len(at(place.live if restore.in_place else place.exchange.before, raw(longest))) > _PATH_MAX:
            yield Finding(
                "refusal",
                f"Paths of the set get longer in {place.home} than the {_PATH_MAX} bytes that Linux takes: {readable(longest)[:80]}…",
            )

    def unmatched(self, restore: Restore, only: Only) -> Iterator[Finding]:
        """What was asked for and can't be, or is not in the set."""
        malformed = [pattern for pattern in only.patterns if pattern in only.malformed() or not pattern.startswith(self.before_paths)]
        if malformed:
            yield Finding("refusal", f"{shortened([repr(each) for each in malformed])} can't be {self.a_part}.")
        for pattern, near in only.unmatched(lambda: self.entries_of(restore)).items() if not malformed else ():
            has = f"it has, for example, {', '.join(self.before_paths + each for each in near)}" if near else "it has nothing"
            yield Finding("refusal", f"Nothing that the set has of {self.id} is {pattern!r}; {has}.")

    def room(self, place: Place, part: Part) -> Space:
        """What the entries that were asked for need beside the live ones."""
        folder = filesystem.nearest(place.home)
        status = os.statvfs(folder)
        needed = sum(_ENTRY_COST + entries.stored(facts) for _, facts in part.entries())
        return Space(str(place.home), needed, status.f_bavail * status.f_frsize, str(folder))

    def entries_of(self, restore: Restore) -> Iterator[tuple[str, Facts]]:
        """Everything that the set has of this source."""
        for artifact in restore.artifacts():
            for _, path, facts in restore.rows(artifact, "entry"):
                yield path, facts

    # Restore --------------------------------------------------------------------------------------------------------

    def stage(self, restore: Restore) -> None:
        """Unpack beside the live entries, in work folders that only this worker can enter."""
        if restore.journalled("exchange"):
            raise RestoreError(f"{self.id} was already switched.", "Trigger a new restore; this one can only be finished or taken back.")
        for place in self.places(restore):
            with in_words(self.id, "staged"):
                self.stage_at(restore, place)

    def stage_at(self, restore: Restore, place: Place) -> None:
        """Stage what belongs to one place, afresh."""
        self.create(restore, place)
        if place.exchange.set_aside:
            raise RestoreError(
                f"{place.exchange.before} has entries that were live.", "Find out from its journal what became of that restore."
            )
        with filesystem.keeping_mtime(place.home):
            filesystem.remove(place.work, self.runner)
            filesystem.make_private(place.work)
        new = place.exchange.new
        new.mkdir(mode=0o700)
        self.unpack(restore, place, new, self.part(restore, place))
        filesystem.sync(new)
        log.info("%s: staged in %s", self.id, new)

    def create(self, restore: Restore, place: Place) -> None:
        """Make the folders that are gone, said before."""
        missing = [str(folder) for folder in (place.home, *place.home.parents) if not folder.exists()]
        restore.journal("staged", created=missing[::-1])
        for folder in reversed(missing):
            Path(folder).mkdir(mode=self.made_mode, exist_ok=True)

    def unpack(self, restore: Restore, place: Place, folder: Path, part: Part, covers: Callable[[str], bool] = lambda path: True) -> None:
        """Unpack a part of the set, as far as something covers it.

        Hard links whose target does not come along are unpacked with it in a work folder, and moved from there. Folders
        come last in an archive, so these get their times after that.
        """
        apart = part.apart()
        if apart:
            aside = place.work / "apart"
            if not place.work.exists():
                filesystem.make_private(place.work)
            filesystem.remove(aside, self.runner)
            aside.mkdir(mode=0o700)
            for artifact in restore.artifacts():
                restore.unpack(artifact, aside, lambda info: info.name in apart)
            for path in map(raw, part.orphans):
                os.makedirs(os.path.dirname(at(folder, path)), mode=0o700, exist_ok=True)
                filesystem.rename(at(aside, path), at(folder, path))
            filesystem.remove(aside, self.runner)
        for artifact in restore.artifacts():
            restore.unpack(artifact, folder, lambda info: info.name not in apart and info.name in part and covers(info.name))

    def prove(self, restore: Restore) -> list[Difference]:
        """Scan what was staged with the code that read the artifact, and compare entry by entry.

        What this worker can't set is left out on both sides; preflight named it.
        """
        with in_words(self.id, "proven"):
            return [difference for place in self.places(restore) for difference in self._prove(restore, place)]

    def _prove(self, restore: Restore, place: Place) -> list[Difference]:
        walk = Walk(place.exchange.new, self.starts(restore, place))
        differences = self.beside(self.part(restore, place), walk, filesystem.abilities(place.work))
        return differences if restore.only else differences + self._add_up(restore, place)

    def beside(
        self, part: Part, walk: Walk, able: entries.Abilities, covers: Callable[[str], bool] = lambda path: True
    ) -> list[Difference]:
        """Compare a part of the set, as far as something covers it, with what a walk comes across."""
        leaders = {raw(facts["target"]) for _, facts in part.entries() if facts["type"] == "hardlink"}

        def expected() -> Iterator[Row]:
            return (able.comparable(("entry", path, facts)) for path, facts in part.entries() if covers(path))

        differences = entries.differences(expected, map(able.comparable, entries.of_walk(walk, leaders)))
        return differences + [Difference("tree", str(walk.root), f"can't be read: {problem}") for problem in walk.problems]

    def _add_up(self, restore: Restore, place: Place) -> list[Difference]:
        """Whether the set's entries are as many as it says."""
        totals = {start: entries.Totals() for start in place.starts}
        for path, facts in self.entries_of(restore):
            if (start := place.start_of(path)) is not None:
                totals[start].add(path, facts)
        trees = (row for artifact in restore.artifacts() for row in restore.rows(artifact, "tree") if row[1] in place.starts)
        return compare(trees, (("tree", start, total.facts()) for start, total in totals.items()))

    def switch(self, restore: Restore) -> None:
        """Exchange entries by rename, then give live folders the set's metadata."""
        if restore.journalled("exchanged"):
            return
        if restore.journalled("take back"):
            raise RestoreError(f"{self.id} was taken back.", "Trigger a new restore.")
        with in_words(self.id, "switched"):
            if not restore.journalled("exchange"):
                for place in self.places(restore):
                    place.exchange.plan(*self.changes(restore, place))
                restore.journal("exchange")
            for place in self.places(restore):
                place.exchange.forward()
        restore.journal("exchanged")

    def switch_back(self, restore: Restore) -> None:
        """Exchange back; entries that came after a whole switch go to the staged ones."""
        if not restore.journalled("exchange") or restore.journalled("taken back"):
            return
        restore.journal("take back")
        with in_words(self.id, "taken back"):
            for place in self.places(restore):
                if restore.journalled("exchanged"):
                    place.exchange.withdraw(self.newcomers(restore, place))
                place.exchange.back()
        restore.journal("taken back")

    def settle(self, restore: Restore) -> None:
        """Nothing has to wait for acceptance."""
        if not restore.in_place:
            works = ", ".join(str(place.work) for place in self.places(restore))
            log.info("%s: the entries that were replaced stay in %s", self.id, works)

    def discard(self, restore: Restore) -> None:
        """Remove what was staged, or came back from a switch; after a switch that stays, only what it left over."""
        back = bool(restore.journalled("taken back"))
        if restore.journalled("exchange") and not back and not restore.journalled("exchanged"):
            raise RestoreError(f"{self.id} is half switched.", "Clear the switch to resume it, or take it back; then discard.")
        stays = bool(restore.journalled("exchanged")) and not back
        for place in self.places(restore):
            with in_words(self.id, "discarded"):
                self._discard(place, stays)
        if not stays:
            self.remove_created(restore)

    def _discard(self, place: Place, stays: bool) -> None:
        exchange = place.exchange
        if stays and exchange.set_aside:
            filesystem.remove(exchange.new, self.runner)
            return
        if exchange.set_aside:
            raise RestoreError(f"{exchange.before} still has entries that were live.", "Move them back by hand; they were not taken back.")
        if place.home.exists():
            with filesystem.keeping_mtime(place.home):
                filesystem.remove(place.work, self.runner)

    def leaves_out(self, restore: Restore, location: Landing) -> bool:
        """See :meth:`InPlaceRestorer.leaves_out`."""
        starts = [Path(row[1]) for artifact in restore.artifacts() for row in restore.rows(artifact, "tree")]
        roots = [(start, root) for start in starts for root in filesystem.landings(self.root / start) if location[: len(root)] == root]
        left = [(start, self.settings.left_out(Path(*location[len(root) :]))) for start, root in roots]
        there = at_or_below({str(start / entry) for start, entry in left if entry})
        return bool(left) and all(entry for _, entry in left) and not any(there(path) for path, _ in self.entries_of(restore))

    @classmethod
    def mark_of(cls, restore_id: str, *, replaced: bool) -> str:
        """See :meth:`recovery.sources.base.Source.mark_of`: one work folder has both."""
        return mark(restore_id)

    def before_copies(self) -> list[str]:
        """The restore ids whose set-aside entries still lie beside the live ones."""
        with in_words(self.id, "looked at"):
            found = [self._id_of(home, name) for home in self.homes() if home.is_dir() for name in os.listdir(os.fsencode(home))]
        return sorted({restore_id for restore_id in found if restore_id})

    def _id_of(self, home: Path, name: bytes) -> str | None:
        restore_id = marked_id(name, self.suffix)
        return restore_id if restore_id and (home / mark(restore_id, self.suffix) / "before").is_dir() else None

    def drop_before(self, restore: Restore) -> None:
        """Remove the entries that a restore set aside."""
        for place in self.places(restore):
            if self._id_of(place.home, os.fsencode(place.work.name)):
                with in_words(self.id, "dropped"), filesystem.keeping_mtime(place.home):
                    filesystem.remove(place.work, self.runner)
                log.info("%s: removed %s", self.id, place.work)

    def replaced(self, restore: Restore) -> InPlace:
        """What this restore replaces in place."""
        return InPlace(self.root, restore.folder / "replaced.jsonl")

    def remove_created(self, restore: Restore) -> None:
        """Remove the folders that this restore created, as far as nothing is in them."""
        for folder in reversed(self.created(restore)):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def created(self, restore: Restore) -> list[Path]:
        """The folders that were created because they were gone, outer ones first; two sources may need the same."""
        return sorted(map(Path, dict.fromkeys(restore.created())), key=lambda path: len(path.parts))


def _identity(folder: Path, ours: set[Path]) -> str:
    place = next(place for place in (folder, *folder.parents) if place.exists() and place not in ours)
    if place != folder:  # its parents may be made meanwhile, for another source of the same restore
        return f"gone below {filesystem.mount_of(place)}: {folder}"
    return f"{filesystem.mount_of(place)}, inode {place.stat().st_ino}"


@contextmanager
def in_words(source: str, what: str) -> Iterator[None]:
    """Say what the system refused.

    Raises:
        RestoreError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise RestoreError(
            f"{source} could not be {what}: {error.strerror}, {readable(error.filename or '')}.",
            "Remove the obstacle, then clear this task to resume it.",
        ) from error
