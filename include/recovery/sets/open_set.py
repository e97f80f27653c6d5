"""What is in a set's packs, read without the plan that made it."""

from __future__ import annotations

import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zstandard

from recovery.common.errors import ArtifactError
from recovery.packs.content_index import Row, read_rows, row_file
from recovery.packs.pack import Identity, Pack, open_pack, read_members
from recovery.packs.tar_reader import damaged
from recovery.plan.source_id import kind_of
from recovery.runners.local import LOCAL
from recovery.sets.find_sets import Found
from recovery.sets.layout import CONTENTS_FILE
from recovery.sets.local_copy import LocalSet
from recovery.sets.manifest import File, Manifest, StoredPack, parse_packs
from recovery.sets.transfer import download, fetch_packs
from recovery.sources import registry
from recovery.sources.set_reader import SetReader

_NEXT = "Take the set from another destination."


@dataclass(frozen=True)
class Unproven:
    """An artifact that was stored without being opened: nobody knows whether its packs hold what the source had."""

    source: str
    artifact: str
    inventory: Path
    """Rows of what the source had."""
    read: Sequence[Path]
    """Rows of what each pack holds, in order."""

    def verify(self) -> None:
        """Find all of the inventory in the packs, as a backup does that may open them.

        Raises:
            ArtifactError: if something is missing.
            ToolError: if the tools that it takes are not here.
        """
        name = f"{self.source}, {self.artifact}"
        try:
            with _understood(f"The inventory of {name}"):
                for _ in reader_of(self.source).contents(self.artifact, self.inventory, self._rows()):
                    pass
        except ArtifactError as error:
            raise ArtifactError(f"{name}: {error.what}", "Take another set.") from error

    def _rows(self) -> Iterator[Row]:
        for path in self.read:
            yield from read_rows(path)


class Opened:
    """A set whose contents were decrypted into a folder. Its packs may be read in several threads.

    Args:
        found: where it lies.
        identity: what opens it.
        fetched: its contents.
    """

    def __init__(self, found: Found, identity: Identity, fetched: LocalSet) -> None:
        self._found = found
        self._identity = identity
        self._fetched = fetched
        self._manifest = fetched.manifest()
        self._named = set(self._read_named())
        self._read: set[str] = set()

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """How many things of each kind there are: ``{"postgres.main": {"shop": {"table": 12}}}``."""
        return {source: {name: self._kinds(source, name) for name in self._fetched.artifacts(source)} for source in self._manifest.sources}

    def _kinds(self, source: str, artifact: str) -> dict[str, int]:
        path = self._fetched.rows_file(source, artifact)
        return dict(sorted(Counter(kind for kind, _, _ in read_rows(path)).items())) if path.exists() else {}

    def _read_named(self) -> Iterator[tuple[str, str, int]]:
        """Source, artifact and number of each pack that the contents say something is in."""
        for source in self._manifest.sources:
            for artifact in self._fetched.artifacts(source):
                path = self._fetched.places_file(source, artifact)
                for _, _, facts in read_rows(path, "member") if path.exists() else ():
                    yield source, artifact, facts["pack"]

    def read(self, stored: StoredPack, progress: Callable[[int], None]) -> int:
        """Fetch a pack, open it, and read everything in it; how many things that is.

        Raises:
            ArtifactError: if it is damaged, or not one that the contents name.
            DestinationError: if it can't be fetched.
        """
        if (stored.source, stored.artifact, stored.number) not in self._named:
            raise damaged(f"{stored.file} is none of the packs that the contents name")
        with tempfile.TemporaryDirectory(prefix="pack-", dir=self._fetched.folder) as folder:
            path = Path(folder, Path(stored.file).name)
            file = File(bytes=stored.stored_bytes, sha256=stored.sha256)
            download(self._found.destination, f"{self._manifest.path}/{stored.file}", path, file, progress)
            sizes = {"raw_bytes": stored.raw_bytes, "stored_bytes": stored.stored_bytes}
            pack = Pack(file=path.name, sha256=stored.sha256, **sizes)
            with path.open("rb") as source, open_pack(source, pack, [self._identity]) as stream:
                count = self._note(stored, reader_of(stored.source).read_pack(stored.artifact, read_members(stream)))
        self._read.add(stored.file)
        return count

    def _note(self, stored: StoredPack, rows: Iterator[Row]) -> int:
        """Count rows, and keep them where somebody has to compare them."""
        if not self._unopened(stored.source):
            return sum(1 for _ in rows)
        path = self._rows_of(stored)
        path.parent.mkdir(parents=True, exist_ok=True)
        with row_file(path) as write:
            return sum(1 for row in rows if write(row) is None)

    def _rows_of(self, stored: StoredPack) -> Path:
        return self._fetched.folder / "read" / stored.file

    def _unopened(self, source: str) -> bool:
        """Whether nobody read a source's packs when the set was made."""
        return source in self._manifest.sources and self._manifest.sources[source].level == "stored"

    def unproven(self, packs: Sequence[StoredPack]) -> Iterator[Unproven]:
        """What is still to be compared once all packs were read; without artifacts that have a pack that could not be.

        Args:
            packs: of the set.
        """
        for source in filter(self._unopened, self._manifest.sources):
            names = {self._fetched.rows_file(source, artifact): artifact for artifact in self._fetched.artifacts(source)}
            for inventory in sorted(self._fetched.rows_file(source, "any").parent.glob("*.jsonl")):
                artifact = names.get(inventory, inventory.stem)
                own = sorted((pack for pack in packs if (pack.source, pack.artifact) == (source, artifact)), key=lambda pack: pack.number)
                if all(pack.file in self._read for pack in own):
                    yield Unproven(source, artifact, inventory, [self._rows_of(pack) for pack in own])


@contextmanager
def opened(found: Found, manifest: Manifest, identity: Identity) -> Iterator[Opened]:
    """Decrypt what a set says of its packs into a temporary folder, for the length of a block.

    Raises:
        RestoreError: if it can't be fetched or decrypted.
        ArtifactError: if what was decrypted makes no sense.
    """
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        fetched = LocalSet(Path(folder))
        fetched.choose(manifest)
        with _understood(CONTENTS_FILE):
            fetched.fetch([found.destination], identity, ())
            inside = Opened(found, identity, fetched)
        yield inside


@contextmanager
def _understood(what: str) -> Iterator[None]:
    try:
        yield
    except (zstandard.ZstdError, zlib.error, ValueError, LookupError) as error:
        raise ArtifactError(f"{what} can't be read: {type(error).__name__}: {error}", _NEXT) from None


def packs_of(found: Found, manifest: Manifest) -> tuple[StoredPack, ...]:
    """The packs of a set.

    Raises:
        ArtifactError: if their list is not the one that the manifest names.
        DestinationError: if it can't be read.
    """
    return parse_packs(fetch_packs(found.destination, manifest), manifest)


def reader_of(source_id: str) -> SetReader:
    """What reads a source's packs, without a plan.

    Raises:
        ArtifactError: if nothing does.
    """
    return registry.reader(kind_of(source_id), LOCAL)
