"""What files and config share: trees that are read where they are, staged beside what is live, and switched by rename.

Steps in a restore's journal: ``staged`` (with the folders that have to be created for it), ``exchange``, ``exchanged``,
``take back``, ``taken back``. What an exchange consists of is written in the work folders, see
:mod:`recovery.components.exchange`.
"""

# pathlib has no paths of bytes.
# ruff: noqa: PTH208

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tarfile import TarInfo
from typing import IO, cast

from recovery.components import entries, filesystem
from recovery.components.base import Component, Dump, Finding, Restore
from recovery.components.exchange import Exchange
from recovery.components.inventory import cover, take
from recovery.components.tree import Walk, mark, marked_id, raw, readable
from recovery.contents import Difference, Facts, Row, compare
from recovery.errors import RestoreError, ToolError
from recovery.runners.local import find_tool

log = logging.getLogger(__name__)

_ENTRY_COST = 4096


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


class ByRename(Component):
    """A component whose artifact is one tree."""

    root: Path
    """What the artifact's paths are relative to."""
    suffix: str
    """What follows the restore id in the name of a work folder."""

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
        """Which entries change places, and which live folders get the metadata that the set has of them."""

    def newcomers(self, place: Place) -> Iterable[bytes]:
        """Live entries that came after the switch and go when it is taken back."""
        return ()

    # Backup ---------------------------------------------------------------------------------------------------------

    def dump(self, folder: Path, opened: Callable[[], None]) -> Dump:
        """Scan the tree; it is read where it is when it is packed. See :func:`recovery.components.inventory.take`."""
        return take(self.name, self.walk(), folder, opened)

    @staticmethod
    def read_pack(artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
        """Hash every file; see :func:`recovery.components.entries.of_members`."""
        return entries.of_members(members)

    def contents(self, artifact: str, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
        """Rows ``entry``, ``changed`` and ``tree``; see :func:`recovery.components.inventory.cover`."""
        return cover(artifact, inventory, read)

    # Preflight ------------------------------------------------------------------------------------------------------

    def identity(self, restore: Restore) -> str:
        """See :meth:`Component.identity`. Mount and inode of each folder that is changed.

        Of the nearest parent, and ``gone``, if it is not there.

        A folder that this restore created is still gone.
        """
        ours = set(self._created(restore))
        return ", ".join(sorted(_identity(place.home, ours) for place in self.places(restore)))

    def common_findings(self, restore: Restore, place: Place) -> Iterator[Finding]:
        """What preflight finds in every place: folders that are gone, what can't be set, what is in the way."""
        try:
            find_tool("tar")
        except ToolError as error:
            yield Finding("refusal", str(error))
        parent = filesystem.nearest(place.home)
        if parent != place.home:
            yield Finding("fact", f"{place.home} is gone; it is created again in {parent}.")
            yield from (Finding("refusal", f"{reason}.") for reason in filesystem.obstacles(parent, ()))
        able = filesystem.abilities(parent)
        if not able.owners:
            yield Finding(
                "warning", f"This worker is not root: what it restores in {place.home} belongs to itself; owners are not compared."
            )
        count, names = 0, set()
        for _, facts in self.expected(restore, place):
            count += 1
            names |= facts.get("xattrs", {}).keys()
        free = os.statvfs(parent)
        if free.f_files and free.f_favail < count:
            yield Finding("refusal", f"{parent} has room for {free.f_favail} more entries (inodes), {count} are needed.")
        if lost := sorted(names - able.settable(dict.fromkeys(names, "")).keys()):
            yield Finding("warning", f"Extended attributes that can't be set in {place.home} are not compared: {', '.join(lost)}.")

    def bytes_needed(self, restore: Restore) -> dict[str, int]:
        """Free space that staging needs."""
        needed: dict[str, int] = {}
        for place in self.places(restore):
            folder = str(filesystem.nearest(place.home))
            for _, facts in self.expected(restore, place):
                needed[folder] = needed.get(folder, 0) + _ENTRY_COST + entries.stored(facts)
        return needed

    def expected(self, restore: Restore, place: Place) -> Iterator[tuple[str, Facts]]:
        """The set's entries that belong to a place."""
        for artifact in restore.artifacts():
            for _, path, facts in restore.rows(artifact, "entry"):
                if place.start_of(path) is not None:
                    yield path, facts

    # Restore --------------------------------------------------------------------------------------------------------

    def stage(self, restore: Restore) -> None:
        """Unpack beside the live entries, in work folders that only this worker can enter."""
        if restore.journalled("exchange"):
            raise RestoreError(f"{self.id} was already switched.", "Trigger a new restore; this one can only be finished or taken back.")
        for place in self.places(restore):
            with _in_words(self.id, "staged"):
                self._stage(restore, place)

    def _stage(self, restore: Restore, place: Place) -> None:
        missing = [str(folder) for folder in (place.home, *place.home.parents) if not folder.exists()]
        restore.journal("staged", created=missing[::-1])
        for folder in reversed(missing):
            Path(folder).mkdir()
        if place.exchange.set_aside:
            raise RestoreError(
                f"{place.exchange.before} has entries that were live.", "Find out from its journal what became of that restore."
            )
        with filesystem.keeping_mtime(place.home):
            filesystem.remove(place.work)
            filesystem.make_private(place.work)
        new = place.exchange.new
        new.mkdir(mode=0o700)
        for artifact in restore.artifacts():
            restore.unpack(artifact, new, lambda info: place.start_of(info.name) is not None)
        filesystem.sync(new)
        log.info("%s: staged in %s", self.id, new)

    def prove(self, restore: Restore) -> list[Difference]:
        """Scan what was staged with the code that read the artifact, and compare entry by entry.

        What this worker can't set is left out on both sides; preflight named it.
        """
        with _in_words(self.id, "proven"):
            return [difference for place in self.places(restore) for difference in self._prove(restore, place)]

    def _prove(self, restore: Restore, place: Place) -> list[Difference]:
        able = filesystem.abilities(place.work)
        totals = {start: entries.Totals() for start in place.starts}
        leaders = set()
        for path, facts in self.expected(restore, place):
            totals[str(place.start_of(path))].add(path, facts)
            if facts["type"] == "hardlink":
                leaders.add(raw(facts["target"]))

        def expected() -> Iterator[Row]:
            return (able.comparable(("entry", path, facts)) for path, facts in self.expected(restore, place))

        walk = Walk(place.exchange.new, [raw(start) for start in place.starts])
        differences = entries.differences(expected, map(able.comparable, entries.of_walk(walk, leaders)))
        differences += [Difference("tree", str(place.exchange.new), f"can't be read: {problem}") for problem in walk.problems]
        trees = (row for artifact in restore.artifacts() for row in restore.rows(artifact, "tree") if row[1] in place.starts)
        return differences + compare(trees, (("tree", start, total.facts()) for start, total in totals.items()))

    def switch(self, restore: Restore) -> None:
        """Exchange entries by rename, then give live folders the set's metadata."""
        if restore.journalled("exchanged"):
            return
        if restore.journalled("take back"):
            raise RestoreError(f"{self.id} was taken back.", "Trigger a new restore.")
        with _in_words(self.id, "switched"):
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
        with _in_words(self.id, "taken back"):
            for place in self.places(restore):
                if restore.journalled("exchanged"):
                    place.exchange.withdraw(self.newcomers(place))
                place.exchange.back()
        restore.journal("taken back")

    def settle(self, restore: Restore) -> None:
        """Nothing has to wait for acceptance."""
        log.info("%s: the entries that were replaced stay in %s", self.id, ", ".join(str(place.work) for place in self.places(restore)))

    def discard(self, restore: Restore) -> None:
        """Remove what was staged, or came back from a switch; after a switch that stays, only what it left over."""
        back = bool(restore.journalled("taken back"))
        if restore.journalled("exchange") and not back and not restore.journalled("exchanged"):
            raise RestoreError(f"{self.id} is half switched.", "Clear the switch to resume it, or take it back; then discard.")
        stays = bool(restore.journalled("exchanged")) and not back
        for place in self.places(restore):
            with _in_words(self.id, "discarded"):
                self._discard(place, stays)
        for folder in () if stays else reversed(self._created(restore)):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _discard(self, place: Place, stays: bool) -> None:
        exchange = place.exchange
        if stays and exchange.set_aside:
            filesystem.remove(exchange.new)
            return
        if exchange.set_aside:
            raise RestoreError(f"{exchange.before} still has entries that were live.", "Move them back by hand; they were not taken back.")
        if place.home.exists():
            with filesystem.keeping_mtime(place.home):
                filesystem.remove(place.work)

    def before_copies(self) -> list[str]:
        """The restore ids whose set-aside entries still lie beside the live ones."""
        with _in_words(self.id, "looked at"):
            found = [self._id_of(home, name) for home in self.homes() if home.is_dir() for name in os.listdir(os.fsencode(home))]
        return sorted({restore_id for restore_id in found if restore_id})

    def _id_of(self, home: Path, name: bytes) -> str | None:
        restore_id = marked_id(name, self.suffix)
        return restore_id if restore_id and (home / mark(restore_id, self.suffix) / "before").is_dir() else None

    def drop_before(self, restore: Restore) -> None:
        """Remove the entries that a restore set aside."""
        for place in self.places(restore):
            if self._id_of(place.home, os.fsencode(place.work.name)):
                with _in_words(self.id, "dropped"), filesystem.keeping_mtime(place.home):
                    filesystem.remove(place.work)
                log.info("%s: removed %s", self.id, place.work)

    def _created(self, restore: Restore) -> list[Path]:
        """The folders that staging created because they were gone, outer ones first."""
        every = (str(path) for facts in restore.journalled("staged") for path in cast("list[str]", facts["created"]))
        return sorted(map(Path, dict.fromkeys(every)), key=lambda path: len(path.parts))


def _identity(folder: Path, ours: set[Path]) -> str:
    place = next(place for place in (folder, *folder.parents) if place.exists() and place not in ours)
    return f"{'' if place == folder else 'gone below '}{filesystem.mount_of(place)}, inode {place.stat().st_ino}"


@contextmanager
def _in_words(source: str, what: str) -> Iterator[None]:
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
