"""What a source sees of the restore that it takes part in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tarfile import TarInfo

from recovery.destinations.base import Destination
from recovery.packs.content_index import Row, read_rows
from recovery.packs.extract import extract
from recovery.packs.pack import Pack, open_pack
from recovery.restore.session import RestoreSession
from recovery.runs import active
from recovery.runs.journal_steps import Step
from recovery.sets.local_copy import LocalSet
from recovery.sets.open_set import reader_of
from recovery.sources.read_packs import read_packs


class SourceRestore:
    """:class:`recovery.sources.base.RestoreView` for one source of one restore.

    Args:
        session: the restore.
        source_id: whose part this is.
        fetched: the set that is restored: the chosen one, or during the rollback of a restore in place the safety set.
        holders: gives the destinations that have it.
        whole: whatever parts were asked for.
        before_drop: in place, makes sure that nothing is dropped which the safety set lacks.
        rolling_back: see :attr:`recovery.sources.base.RestoreView.rolling_back`.
    """

    def __init__(
        self,
        session: RestoreSession,
        source_id: str,
        fetched: LocalSet,
        holders: Callable[[], Sequence[Destination]],
        *,
        whole: bool = False,
        rolling_back: bool = False,
        before_drop: Callable[[], None] | None = None,
    ) -> None:
        self._run = session
        self._source_id = source_id
        self._set = fetched
        self._holders = holders
        self._whole = whole
        self.rolling_back = rolling_back
        self._before_drop = before_drop

    @property
    def id(self) -> str:
        """The restore's id."""
        return self._run.id

    @property
    def folder(self) -> Path:
        """Scratch folder of this source, made when it is asked for."""
        folder = self._run.folder / "work" / self._source_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def others(self) -> set[str]:
        """The ids of other restores that have not ended, of any plan."""
        return {other.id for other in active.others(self._run.plan, self._run.folder)}

    @property
    def only(self) -> Sequence[str]:
        """The parts that were asked for."""
        return () if self._whole else self._run.request().only.get(self._source_id, ())

    @property
    def in_place(self) -> bool:
        """Whether the live data is dropped and the set loaded in its place."""
        return self._run.in_place

    @property
    def beside(self) -> bool:
        """Whether what is verified stays beside the live data."""
        return self._run.beside

    @property
    def options(self) -> dict[str, str]:
        """The request's choices."""
        return {"config": self._run.request().config}

    def artifacts(self) -> Sequence[str]:
        """The set's artifacts of this source."""
        return self._set.artifacts(self._source_id)

    def rows(self, artifact: str, *kinds: str) -> Iterator[Row]:
        """The set's rows of an artifact."""
        return read_rows(self._set.rows_file(self._source_id, artifact), *kinds)

    def unpack(self, artifact: str, folder: Path, only: Callable[[TarInfo], bool] | None = None) -> None:
        """Fetch, check, decrypt and extract; one pack at a time, so staging needs room for one."""
        identity = self._run.context.required_decryption_key()
        for pack, path in self.packs(artifact):
            with path.open("rb") as source, open_pack(source, pack, [identity]) as reader:
                extract(reader, folder, only)

    def packs(self, artifact: str) -> Iterator[tuple[Pack, Path]]:
        """An artifact's packs, each as a file that is there until the next one is asked for."""
        return self._set.packs(self._holders(), self._source_id, artifact, self._run.folder / "fetch" / self._source_id)

    def read(self, artifact: str) -> Iterator[Row]:
        """Decode an artifact's packs whole: each must open, be what the set says it is, and have every member end where it should.

        Raises:
            ArtifactError: if one is damaged.
        """
        reader, identity = reader_of(self._source_id), self._run.context.required_decryption_key()
        for pack, path in self.packs(artifact):
            yield from read_packs(reader, artifact, path.parent, [pack], identity)

    def decode(self, artifact: str) -> int:
        """Read an artifact's packs whole; how many things they hold.

        Raises:
            ArtifactError: if one is damaged.
        """
        return sum(1 for _ in self.read(artifact))

    def refuse_if_changed(self) -> None:
        """See :func:`recovery.restore.safety_backup.refuse_if_changed`; only where something is dropped in place."""
        assert self._before_drop
        self._before_drop()

    def record(self, step: str, **facts: object) -> None:
        """Say a step of this source; apart from the steps of the restore itself, whatever they are called."""
        self._run.journal.record_of(self._source_id, step, facts)

    def recorded_facts(self, step: str) -> list[dict[str, object]]:
        """What was said of a step of this source."""
        return [entry.facts for entry in self._run.journal.entries_of(self._source_id, step)]

    def created(self) -> list[str]:
        """What is said with the step ``staged`` of every source."""
        said = [entry for source_id in self._run.request().sources for entry in self._run.journal.entries_of(source_id, "staged")]
        return [folder for entry in said for folder in entry.facts.get("created", [])]

    def clean(self) -> None:
        """Remove the scratch folders."""
        for name in ("work", "fetch"):
            shutil.rmtree(self._run.folder / name / self._source_id, ignore_errors=True)


def of(session: RestoreSession, source_id: str, *, whole: bool = False, before_drop: Callable[[], None] | None = None) -> SourceRestore:
    """What a source gets of a restore.

    Args:
        session: the restore.
        source_id: the source.
        whole: as if all of the source had been asked for.
        before_drop: see :class:`SourceRestore`.
    """
    return SourceRestore(session, source_id, session.set, session.holders, whole=whole, before_drop=before_drop)


def of_safety_set(session: RestoreSession, source_id: str) -> SourceRestore:
    """What a source gets to bring back, in place, what was live before."""

    def holders() -> list[Destination]:
        return [session.context.destination(name) for name in session.journal.entries(Step.SAFE)[-1].facts["destinations"]]

    return SourceRestore(session, source_id, session.safety, holders, rolling_back=True)
