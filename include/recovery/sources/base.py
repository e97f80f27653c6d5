"""The one interface of all components. ``CONTRIBUTING.md`` says how to add one.

A component is one source, ready to be worked on. It knows nothing of Airflow, packs, encryption or destinations.
A backup calls :meth:`Component.dump`; its artifacts are packed by others; :meth:`Component.read_pack` and
:meth:`Component.contents` read them back. A restore calls :meth:`Component.preflight`, :meth:`Component.stage`,
:meth:`Component.prove`, :meth:`Component.switch`, and then :meth:`Component.settle` or :meth:`Component.switch_back`,
and :meth:`Component.discard`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tarfile import TarInfo
from typing import IO, ClassVar, Protocol

from recovery.packs.content_diff import Change, Difference
from recovery.packs.content_index import Row
from recovery.plan.location import Landing
from recovery.sources.model import Dump, Preflight


class Restore(Protocol):
    """What a component gets from the restore that it takes part in, for one source."""

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
        """The live data is dropped and the set loaded in its place: what is staged and proven has the live names."""

    @property
    def way_back(self) -> bool:
        """This loads the safety set again, after a restore in place was refused or failed."""

    @property
    def options(self) -> Mapping[str, str]:
        """Choices of the run for this component, such as ``{"config": "missing"}``."""

    def artifacts(self) -> Sequence[str]:
        """The names of the artifacts that the set has of this source."""

    def rows(self, artifact: str, *kinds: str) -> Iterator[Row]:
        """The set's rows of an artifact: the inventory's and the contents', all or of some kinds."""

    def unpack(self, artifact: str, folder: Path, only: Callable[[TarInfo], bool] | None = None) -> None:
        """Fetch, check, decrypt and extract an artifact's packs into a folder that exists, all or some members."""

    def refuse_unsaved(self) -> None:
        """In place: refuse if what is live, and would be dropped, is not in the safety set as it is now."""

    def journal(self, step: str, **facts: object) -> None:
        """Say, on disk, what is about to be done; returns once it can't be lost."""

    def journalled(self, step: str) -> list[dict[str, object]]:
        """The facts of every time that a step was said for this source, oldest first."""

    def created(self) -> Sequence[str]:
        """The folders that this restore had to make since they were gone, for whichever of its sources."""


def say_dropping(restore: Restore) -> None:
    """Say, once and just before it begins, that a restore in place changes what is live; the way back is gone only then.

    Raises:
        RestoreError: if the safety set does not have what is live as it is at this moment.
    """
    if not restore.way_back and not restore.journalled("dropping"):
        restore.refuse_unsaved()
        restore.journal("dropping")


class Component(ABC):
    """One source of a plan."""

    kind: ClassVar[str]
    """``postgres``, ``mongo``, ``files`` or ``config``."""
    damaged: bool = False
    """Set for a backup of what a disaster left: what the plan names and is gone is left out, and said, where it would be an error."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def id(self) -> str:
        """``<kind>.<name>``, as tasks and manifests say it."""
        return f"{self.kind}.{self.name}"

    # Backup ---------------------------------------------------------------------------------------------------------

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

    @staticmethod
    @abstractmethod
    def read_pack(artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
        """Read one pack's members, in order, and yield what they hold. Several packs may be read at once.

        ``None`` stands for a member without data (folder, link). Every byte must be read and looked at.

        Raises:
            ArtifactError: if a member is damaged or does not end where it should.
        """

    @abstractmethod
    def contents(self, artifact: str, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
        """Put what was read of all packs of an artifact together with its inventory: the rows that the set keeps.

        They hold all that :meth:`prove` compares and all that :meth:`stage` needs to know.

        Args:
            artifact: its name.
            inventory: file of the inventory's rows.
            read: what :meth:`read_pack` yielded for each pack.

        Raises:
            ArtifactError: if what the inventory has is not in the artifact.
        """

    @staticmethod
    def counted_as(artifact: str, name: str) -> str:
        """Under which name the manifest counts the records of a row: its artifact's, or its database's where an artifact has several."""
        return artifact

    # Restore --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def identity(self, restore: Restore) -> str:
        """The target itself, as :attr:`Preflight.identity` has it; quick, since every changing step asks again."""

    @abstractmethod
    def preflight(self, restore: Restore) -> Preflight:
        """Find out, without changing anything, what the restore would replace and what would fail later.

        A target that is gone (database dropped, folder deleted) is a fact, not a refusal. A part that was asked for and
        that the set does not have is a refusal, with what it has.
        """

    @abstractmethod
    def stage(self, restore: Restore) -> None:
        """Restore beside the live data. Done again after a failure, it starts afresh."""

    @abstractmethod
    def prove(self, restore: Restore) -> list[Difference]:
        """Compare what was staged with the set, by its contents. Empty when equal."""

    @abstractmethod
    def switch(self, restore: Restore) -> None:
        """Put what was staged in the place of the live data, which is set aside. Done again, it resumes."""

    @abstractmethod
    def switch_back(self, restore: Restore) -> None:
        """Take a switch back, whole or half done: the live data as it was before, the restored set aside for discard."""

    @abstractmethod
    def settle(self, restore: Restore) -> None:
        """After acceptance: what had to wait for it. The set-aside copies stay. Done again, it does no harm."""

    @abstractmethod
    def discard(self, restore: Restore) -> None:
        """Remove what was staged and not switched, or switched back. Never what is live or was before."""

    @abstractmethod
    def lands(self, restore: Restore) -> set[Landing]:
        """What the restore would replace. Two places that :func:`meet` are not apart: so a target that is live after all is noticed."""

    @abstractmethod
    def owns(self) -> set[Landing]:
        """What is this source's own today, by the plan or as it is found, whatever a set has; databases that are gone too."""

    @abstractmethod
    def occupied(self, restore: Restore) -> dict[Landing, str]:
        """What is already there where the restore puts things, each in words with its size; empty if nothing is.

        A target that is not the live system is refused unless this is empty, or was confirmed.
        """

    @abstractmethod
    def compare(self, restore: Restore) -> list[Change]:
        """What the restore would change: what is there now beside what was asked for of the set. Reads all of it."""

    def unsaved(self, restore: Restore) -> list[Change]:
        """In place: what is live and not as the safety set has it, so that it would be lost if it were dropped now. Reads all of it."""
        return [change for change in self.compare(restore) if change.what != "equal"]

    @abstractmethod
    def replace(self, restore: Restore) -> None:
        """In place: drop the live data that was asked for, and load the set's. Done again, it starts afresh.

        Once everything is ready, and before anything live is changed, :func:`say_dropping`: without it nothing is taken back.
        What is loaded is then proven by :meth:`prove`, and gets what had to wait by :meth:`settle`. The way back is the
        same with the safety set, which may lack what was not there before: that is then dropped.
        """

    @abstractmethod
    def before_copies(self) -> list[str]:
        """The restore ids whose set-aside copies are still at this source."""

    @abstractmethod
    def drop_before(self, restore: Restore) -> None:
        """Remove the copies that a restore set aside, where it set them aside, whatever the plan names today."""
