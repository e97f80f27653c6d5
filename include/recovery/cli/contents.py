"""What is in a set's packs, read without the plan that made it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import zstandard
from pydantic import ValidationError

from recovery.artifact import Identity, Pack, open_pack, read_members
from recovery.cli.place import Found
from recovery.components.base import Component
from recovery.contents import read_rows
from recovery.errors import ArtifactError
from recovery.fetched import FetchedSet
from recovery.manifest import CONTENTS_FILE, PACKS_FILE, File, Manifest, StoredPack, parse_packs
from recovery.shipping import download, fetch_packs

_NEXT = "Take the set from another destination."


class Opened:
    """A set whose contents were decrypted into a folder. Its packs may be read in several threads.

    Args:
        found: where it lies.
        identity: what opens it.
        fetched: its contents.
    """

    def __init__(self, found: Found, identity: Identity, fetched: FetchedSet) -> None:
        self._found = found
        self._identity = identity
        self._fetched = fetched
        self._manifest = fetched.manifest()

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """How many things of each kind there are: ``{"postgres.main": {"shop": {"table": 12}}}``."""
        return {source: {name: self._kinds(source, name) for name in self._fetched.artifacts(source)} for source in self._manifest.sources}

    def _kinds(self, source: str, artifact: str) -> dict[str, int]:
        path = self._fetched.rows_file(source, artifact)
        return dict(sorted(Counter(kind for kind, _, _ in read_rows(path)).items())) if path.exists() else {}

    @cached_property
    def _sums(self) -> dict[tuple[str, str, str], str]:
        """SHA-256 of each pack's tar stream."""
        return {
            (source, artifact, pack): facts["raw_sha256"]
            for source in self._manifest.sources
            for artifact in self._fetched.artifacts(source)
            for _, pack, facts in read_rows(self._fetched.places_file(source, artifact), "pack")
        }

    def read(self, stored: StoredPack, progress: Callable[[int], None]) -> int:
        """Fetch a pack, open it, and read everything in it; how many things that is.

        Raises:
            ArtifactError: if it is damaged, or not the one that the contents name.
            DestinationError: if it can't be fetched.
        """
        with tempfile.TemporaryDirectory(prefix="pack-", dir=self._fetched.folder) as folder:
            path = Path(folder, Path(stored.file).name)
            file = File(bytes=stored.stored_bytes, sha256=stored.sha256)
            download(self._found.destination, f"{self._manifest.path}/{stored.file}", path, file, progress)
            raw = self._sums.get((stored.source, stored.artifact, path.name), "none: the contents do not name it")
            sizes = {"raw_bytes": stored.raw_bytes, "stored_bytes": stored.stored_bytes}
            pack = Pack(file=path.name, raw_sha256=raw, sha256=stored.sha256, **sizes)
            component = kind_of(stored.source)
            with path.open("rb") as source, open_pack(source, pack, [self._identity]) as reader:
                return sum(1 for _ in component.read_pack(stored.artifact, read_members(reader)))


@contextmanager
def opened(found: Found, manifest: Manifest, identity: Identity) -> Iterator[Opened]:
    """Decrypt what a set says of its packs into a temporary folder, for the length of a block.

    Raises:
        RestoreError: if it can't be fetched or decrypted.
        ArtifactError: if what was decrypted makes no sense.
    """
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        fetched = FetchedSet(Path(folder))
        fetched.choose(manifest)
        try:
            fetched.fetch([found.destination], identity, ())
        except (zstandard.ZstdError, ValueError, LookupError) as error:
            raise ArtifactError(f"{CONTENTS_FILE} can't be read: {error}", _NEXT) from None
        yield Opened(found, identity, fetched)


def packs_of(found: Found, manifest: Manifest) -> tuple[StoredPack, ...]:
    """The packs of a set.

    Raises:
        ArtifactError: if their list is not the one that the manifest names.
        DestinationError: if it can't be read.
    """
    try:
        return parse_packs(fetch_packs(found.destination, manifest), manifest)
    except ValidationError as error:
        raise ArtifactError(f"{PACKS_FILE} can't be read: {error.errors()[0]['msg']}.", _NEXT) from None


def kind_of(source_id: str) -> type[Component]:
    """The component that reads a source's packs.

    Raises:
        ArtifactError: if there is none.
    """
    match source_id.partition(".")[0]:
        case "postgres":
            from recovery.components.postgres.component import Postgres

            return Postgres
        case "mongo":
            from recovery.components.mongo.component import Mongo

            return Mongo
        case "files":
            from recovery.components.files import Files

            return Files
        case "config":
            from recovery.components.config import Config

            return Config
    raise ArtifactError(f"Nothing here reads packs of {source_id}.", "Use the version that wrote the set.")
