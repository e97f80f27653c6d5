"""What a source does: its roles. ``CONTRIBUTING.md`` says how to add a kind of source.

A source is one thing of a plan, ready to be worked on. It knows nothing of Airflow, encryption or destinations. A backup calls
:meth:`Dumper.dump`; its artifacts are packed by others, and read back by a :class:`recovery.sources.set_reader.SetReader`. A restore
calls :meth:`Restorer.preflight`, :meth:`Restorer.stage`, :meth:`Restorer.verify_staged`, :meth:`Restorer.swap`, and then
:meth:`Restorer.finalize` or :meth:`Restorer.roll_back`, and :meth:`Restorer.discard`; in place, :meth:`InPlaceRestorer.replace`
takes the place of staging and swapping; beside, :meth:`BesideRestorer.leave_beside` that of swapping.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tarfile import TarInfo
from typing import Any, ClassVar, Protocol, Self

from recovery.common.connections import Connect
from recovery.common.errors import SourceError
from recovery.common.held_folder import HeldFolder, Reach
from recovery.packs.artifact import Artifact
from recovery.packs.content_diff import Change, Difference
from recovery.packs.content_index import Row
from recovery.packs.tar_writer import Disturbance
from recovery.plan.location import Location
from recovery.plan.source_settings import ServerSettings, ServerTarget, SourceSettings, TargetSettings
from recovery.runners.base import Runner
from recovery.runners.ways import Ways
from recovery.sources.model import Dump, LeftOut, Preflight, Rehearsal


class RestoreView(Protocol):
    """What a source gets from the restore that it takes part in, for one source."""

    @property
    def id(self) -> str:
        """8 hexadecimal digits; staged and set-aside things carry it: ``__stage_<id>``, ``__before_<id>``."""

    @property
    def folder(self) -> Path:
        """A folder in staging for this source and this restore alone; removed at its end."""

    @property
    def others(self) -> Collection[str]:
        """The ids of other restores that have not ended, of any plan."""

    @property
    def only(self) -> Sequence[str]:
        """The parts of this source that were asked for, as the person wrote them; empty: all of it."""

    @property
    def in_place(self) -> bool:
        """The live data is dropped and the set loaded in its place: what is staged and verified has the live names."""

    @property
    def beside(self) -> bool:
        """What is staged and verified stays beside the live data, which nothing takes the place of."""

    @property
    def rolling_back(self) -> bool:
        """This loads the safety set again, after a restore in place was refused or failed."""

    @property
    def options(self) -> Mapping[str, str]:
        """Choices of the run for this source, such as ``{"config": "missing"}``."""

    def artifacts(self) -> Sequence[str]:
        """The names of the artifacts that the set has of this source."""

    def rows(self, artifact: str, *kinds: str) -> Iterator[Row]:
        """The set's rows of an artifact: the inventory's and the contents', all or of some kinds."""

    def unpack(self, artifact: str, folder: Path, only: Callable[[TarInfo], bool] | None = None) -> None:
        """Fetch, check, decrypt and extract an artifact's packs into a folder that exists, all or some members."""

    def refuse_if_changed(self) -> None:
        """In place: refuse if what is live, and would be dropped, is not in the safety set as it is now."""

    def record(self, step: str, **facts: object) -> None:
        """Say, on disk, what is about to be done; returns once it can't be lost."""

    def recorded_facts(self, step: str) -> list[dict[str, object]]:
        """The facts of every time that a step was said for this source, oldest first."""

    def created(self) -> Sequence[str]:
        """The folders that this restore had to make since they were gone, for whichever of its sources."""


def announce_drop(restore: RestoreView) -> None:
    """Say, once and just before it begins, that a restore in place changes what is live. Only a restore that said so is rolled back.

    Raises:
        RestoreError: if the safety set does not have what is live as it is at this moment.
    """
    if not restore.rolling_back and not restore.recorded_facts("dropping"):
        restore.refuse_if_changed()
        restore.record("dropping")


@dataclass(frozen=True)
class Access:
    """How a source is reached, and by what."""

    connect: Connect
    runner: Runner
    """Runs its client tools."""
    tools: Sequence[Path] = ()
    """Folders of client tools that the plan names."""
    ways: Ways = field(default_factory=Ways, repr=False)
    """Finds the ways to servers in containers."""
    in_containers: Path | None = None
    """If the client tools of servers in containers are those of their images: staging, by which both sides share files."""

    def client_tools(self, at: SourceSettings | TargetSettings) -> tuple[Runner, Sequence[Path]]:
        """What runs the client tools for a source or target, and the plan's folders of them.

        Raises:
            ConnectionUnusable: if they run in a container, and the Connection to its Engine is missing.
            ContainerError: if the Engine does not answer, or the server's container does not run.
        """
        if self.in_containers and isinstance(at, ServerSettings | ServerTarget) and at.reach:
            return self.ways.tools(at.reach.docker, self.connect, self.in_containers), ()
        return self.runner, self.tools


class Source(ABC):
    """One source of a plan, where it is live or at a target."""

    kind: ClassVar[str]
    """The name of its package and of its settings' module."""
    ability: ClassVar[str] = "be in a plan"
    """What a role makes it able to, for messages."""

    def __init__(self, name: str, runner: Runner) -> None:
        self.name = name
        self.runner = runner

    @classmethod
    @abstractmethod
    def of(cls, name: str, settings: Any, there: Any, access: Access) -> Self:
        """The source that a plan describes; looks its Connection up, but does not connect.

        Args:
            name: its name in the plan.
            settings: what the plan says of it: the kind's own subclass of :class:`recovery.plan.source_settings.SourceSettings`.
            there: the kind's own target, if it does not lie in the live system.
            access: how it is reached.

        Raises:
            ConnectionUnusable: if the Connection is missing.
        """

    def try_out(self) -> str:
        """Reach it as a backup does; what it is, in words. Empty if nothing is to be found out that way.

        Raises:
            RecoveryError: if it can't be used, with the reason.
        """
        return ""

    @property
    def id(self) -> str:
        """``<kind>.<name>``, as tasks and manifests say it."""
        return f"{self.kind}.{self.name}"

    @classmethod
    def mark_of(cls, restore_id: str, *, replaced: bool) -> str:
        """What names have in them of data that a restore replaced, or that it staged and did not swap."""
        return f"__before_{restore_id}" if replaced else f"_{restore_id}"


class Dumper(Source):
    """Can be backed up."""

    ability = "be backed up"

    damaged: bool = False
    """Set for a backup of what a disaster left: what the plan names and is gone is left out, and said, where it would be an error."""

    @abstractmethod
    def dump(self, folder: Path, opened: Callable[[], None]) -> Dump:
        """Write the dump and the inventory into a folder that exists and is empty.

        Writes ``<folder>/<artifact>.inventory.jsonl`` for each artifact, and whatever its artifacts' roots hold.

        Args:
            folder: this source's staging folder for the dump.
            opened: to be called once, the moment that the snapshot or scan is open.

        Raises:
            SourceError: if something that the inventory has can't be read.
            SourceUnreachable: if the source does not answer.
            ToolError: if a client tool is missing or fails.
        """

    def hold(self, artifact: Artifact, inventory: Path) -> Reach:
        """Hold what an artifact's members lie in.

        Raises:
            SourceError: if it is not there, or a live artifact is not the one that was listed.
        """
        try:
            return HeldFolder.open(Path(artifact.root))
        except OSError as error:
            raise SourceError(
                f"{self.id}: the dump in {artifact.root} can't be read: {error.strerror}.", "Trigger a new backup run."
            ) from error

    def note_archived(self, inventory: Path, changes: Sequence[tuple[bytes, Disturbance]]) -> None:
        """Keep in the inventory which of a live artifact's members changed or vanished while they were packed.

        Raises:
            SourceError: if that can't be the life of a source in use.
        """


class Restorer(Source):
    """Can be restored beside its live data."""

    ability = "be restored beside its live data"

    @abstractmethod
    def fingerprint(self, restore: RestoreView) -> str:
        """The target itself, as :attr:`recovery.sources.model.Preflight.fingerprint` has it.

        Quick, since every changing step asks again.
        """

    @abstractmethod
    def preflight(self, restore: RestoreView) -> Preflight:
        """Find out, without changing anything, what the restore would replace and what would fail later.

        A target that is gone (database dropped, folder deleted) is a fact, not a refusal. A part that was asked for and
        that the set does not have is a refusal, with what it has.
        """

    @abstractmethod
    def stage(self, restore: RestoreView) -> None:
        """Restore beside the live data. Done again after a failure, it starts afresh."""

    @abstractmethod
    def verify_staged(self, restore: RestoreView) -> list[Difference]:
        """Compare what was staged with the set, by its contents. Empty when equal."""

    def left_out(self, restore: RestoreView) -> list[LeftOut]:
        """What can't be made of a set, and so is not in what was staged, or loaded in place. All rows are."""
        return []

    @abstractmethod
    def swap(self, restore: RestoreView) -> None:
        """Put what was staged in the place of the live data, which is set aside. Done again, it resumes."""

    @abstractmethod
    def roll_back(self, restore: RestoreView) -> None:
        """Undo a swap, whole or half done: the live data as it was before, the restored set aside for discard."""

    @abstractmethod
    def finalize(self, restore: RestoreView) -> None:
        """After acceptance: what had to wait for it. The set-aside copies stay. Done again, it does no harm."""

    @abstractmethod
    def discard(self, restore: RestoreView) -> None:
        """Remove what was staged and not swapped, or rolled back. Never what is live or was before."""

    @abstractmethod
    def locations(self, restore: RestoreView) -> set[Location]:
        """What the restore would replace, so that a target that is live after all is noticed.

        Two locations of which one lies in the other, by :func:`recovery.plan.location.overlap`, are not apart.
        """

    @abstractmethod
    def own_locations(self) -> set[Location]:
        """What is this source's own today, by the plan or as it is found, whatever a set has; databases that are gone too."""

    @abstractmethod
    def occupied_locations(self, restore: RestoreView) -> dict[Location, str]:
        """What is already there where the restore puts things, each in words with its size; empty if nothing is.

        A target that is not the live system is refused unless this is empty, or was confirmed.
        """

    @abstractmethod
    def compare(self, restore: RestoreView) -> list[Change]:
        """What the restore would change: what is there now beside what was asked for of the set. Reads all of it."""

    @abstractmethod
    def replaced_copies(self) -> list[str]:
        """The restore ids whose set-aside copies are still at this source."""

    @abstractmethod
    def drop_replaced(self, restore: RestoreView) -> None:
        """Remove the copies that a restore set aside, where it set them aside, whatever the plan names today."""

    def leaves_out(self, restore: RestoreView, location: Location) -> bool:
        """Whether a location in this source's own is none of its business: today's plan excludes it, and the set has nothing there."""
        return False

    def lost_folder(self, location: Location) -> Path | None:
        """The folder of a location, if it is gone and a restore in place of this source would bring it back as a whole."""
        return None


class InPlaceRestorer(Restorer):
    """Can also be restored in place: dropped and loaded, where there is no room for two copies."""

    ability = "be restored in place"

    def changed_since_backup(self, restore: RestoreView) -> list[Change]:
        """In place: what is live and not as the safety set has it, so that it would be lost if it were dropped now. Reads all of it."""
        return [change for change in self.compare(restore) if change.what != "equal"]

    def rehearse(self, restore: RestoreView) -> Rehearsal:
        """In place: find out, as far as there is room, whether a set can be loaded, before anything live is dropped for it.

        Of the safety set, that is done just before the drop. Nothing of it stays.

        Raises:
            RestoreError: if it can't be loaded.
        """
        return Rehearsal()

    @abstractmethod
    def replace(self, restore: RestoreView) -> None:
        """In place: drop the live data that was asked for, and load the set's. Done again, it starts afresh.

        Once everything is ready, and before anything live is changed, :func:`announce_drop`: without it nothing is rolled back.
        What is loaded is then verified by :meth:`verify_staged`, opened by :meth:`let_in`, and gets what had to wait by
        :meth:`finalize`. The rollback is the same with the safety set, which may lack what was not there before: that is then dropped.
        """

    def let_in(self, restore: RestoreView) -> None:
        """In place: let users in again to what was replaced, once it is verified. Done again, it does no harm."""


class BesideRestorer(Restorer):
    """Can also leave what it restored beside its live data, by a name of its own, for people to look into."""

    ability = "be left beside its live data"

    @abstractmethod
    def leave_beside(self, restore: RestoreView) -> list[str]:
        """Let what was staged and verified stay: from then on no step of the restore touches it. Done again, it does no harm.

        Returns:
            Where it is, who may look into it, and how it is dropped: sentences for people.

        Raises:
            VerificationError: if it is no longer equal to the set.
        """

    @abstractmethod
    def lying_beside(self, restores: Collection[str]) -> list[str]:
        """What restores of these ids left beside at this source, and how it is dropped: sentences for people."""


class Queryable(Source):
    """Understands statements of hooks and questions of checks."""

    ability = "be told or asked anything"

    @abstractmethod
    def execute(self, statement: Any, timeout: timedelta) -> Iterable[str]:
        """Do what a hook says.

        Args:
            statement: the kind's own subclass of :class:`recovery.plan.source_settings.Statement`.
            timeout: of all of it.

        Returns:
            What came of it, line by line, for the log.

        Raises:
            SourceError: if the source refuses, or takes too long.
            SourceUnreachable: if it does not answer.
        """

    def foresee(self, asked: Any, restore: RestoreView | None) -> str:
        """Why a statement will fail as things are, or a question after a restore; empty if that can't be known, or none will.

        Args:
            asked: the statement or the question.
            restore: of this source; None if it is not restored.
        """
        return ""

    @abstractmethod
    def answer(self, question: Any, timeout: timedelta) -> object:
        """The one value that a check asks for. Writes nothing.

        Args:
            question: the kind's own subclass of :class:`recovery.plan.source_settings.Question`.
            timeout: of all of it.

        Raises:
            SourceError: if there is no value or more than one; if the source refuses, or takes too long.
            SourceUnreachable: if it does not answer.
        """
