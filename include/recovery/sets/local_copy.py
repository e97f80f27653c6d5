"""A set as a restore has it: its manifest, list of packs and contents in a folder, its packs fetched one at a time."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import pyrage
import zstandard

from recovery.common.errors import ArtifactError, DestinationError, RecoveryError, RestoreError
from recovery.common.files import write_atomically, written_in
from recovery.common.json_text import read_json
from recovery.common.progress import Progress
from recovery.common.wording import shortened
from recovery.destinations.base import Destination
from recovery.packs.content_index import Facts, Row, write_rows
from recovery.packs.pack import Identity, Pack, safe_name
from recovery.sets.layout import CONTENTS_FILE, MANIFEST_FILE, PACKS_FILE
from recovery.sets.manifest import File, Manifest, StoredPack, decode_manifest, encode, parse_packs
from recovery.sets.transfer import absent, download, fetch_packs
from recovery.sources.set_reader import SetReader

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalSet:
    """Paths below one folder: ``set/`` has the manifest and the packs' list, ``rows/<source>/`` the contents."""

    folder: Path

    def choose(self, manifest: Manifest) -> None:
        """Keep the manifest of the set that it is."""
        (self.folder / "set").mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "set" / MANIFEST_FILE, encode(manifest))

    def manifest(self) -> Manifest:
        """The set's manifest, whose signature was checked when it was chosen."""
        return decode_manifest((self.folder / "set" / MANIFEST_FILE).read_bytes(), "staging")

    @cached_property
    def _packs(self) -> dict[tuple[str, str], list[StoredPack]]:
        """The set's packs by source and artifact, in order."""
        found: dict[tuple[str, str], list[StoredPack]] = {}
        for pack in parse_packs((self.folder / "set" / PACKS_FILE).read_bytes(), self.manifest()):
            found.setdefault((pack.source, pack.artifact), []).append(pack)
        return {key: sorted(packs, key=lambda pack: pack.number) for key, packs in found.items()}

    def artifacts(self, source_id: str) -> list[str]:
        """The artifacts that the set has of a source."""
        return [artifact for source, artifact in self._packs if source == source_id]

    def rows_file(self, source_id: str, artifact: str) -> Path:
        """File of an artifact's contents."""
        return self.folder / "rows" / safe_name(source_id) / f"{safe_name(artifact)}.jsonl"

    def places_file(self, source_id: str, artifact: str) -> Path:
        """File of which member is in which pack."""
        return self.rows_file(source_id, artifact).with_suffix(".places")

    # Fetching -----------------------------------------------------------------------------------------------------------

    def fetch(self, holders: Sequence[Destination], identity: Identity, sources: Collection[str]) -> None:
        """Fetch what says what is in the packs, and make sure that all of them are somewhere.

        Raises:
            RestoreError: if no destination has the whole set, or the identity doesn't open it.
            ArtifactError: if what is encrypted in it is not the list of what is in the packs.
            StagingError: if the folder is full.
        """
        with written_in(self.folder):
            self._fetch_packs_file(holders)
            whole = self._whole_copies(holders, sources)
            self._fetch_contents(whole, identity)

    def _fetch_packs_file(self, holders: Sequence[Destination]) -> None:
        faults = []
        manifest = self.manifest()
        for destination in holders:
            try:
                data = fetch_packs(destination, manifest)
                parse_packs(data, manifest)
            except RecoveryError as error:
                faults.append(f"{destination.name}: {error}")
            else:
                write_atomically(self.folder / "set" / PACKS_FILE, data)
                return
        raise RestoreError("packs.jsonl of the set can't be read anywhere:\n" + "\n".join(faults), "Choose another set.")

    def _whole_copies(self, holders: Sequence[Destination], sources: Collection[str]) -> list[Destination]:
        """The destinations that list everything of these sources in its full size."""
        manifest = self.manifest()
        packs = [pack for (source, _), packs in self._packs.items() if source in sources for pack in packs]
        needed = {pack.file: File(bytes=pack.stored_bytes, sha256=pack.sha256) for pack in packs}
        needed[CONTENTS_FILE] = manifest.files.contents
        whole, faults = [], []
        for destination in holders:
            try:
                missing = absent(destination, manifest, needed)
            except DestinationError as error:
                faults.append(f"{destination.name}: {error}")
                continue
            if missing:
                faults.append(f"{destination.name} lacks {shortened(missing, at_most=5)}")
            else:
                whole.append(destination)
        for fault in faults:
            log.warning("%s", fault)
        if not whole:
            raise RestoreError("No destination has the whole set:\n" + "\n".join(faults), "Choose another set.")
        return whole

    def _fetch_contents(self, holders: Sequence[Destination], identity: Identity) -> None:
        """Fetch and decrypt the contents: the first time that the identity has to be the right one."""
        sealed, plain = self.folder / "set" / CONTENTS_FILE, self.folder / "set" / "contents.jsonl.zst"
        manifest = self.manifest()
        download_from_any(holders, f"{manifest.path}/{CONTENTS_FILE}", sealed, manifest.files.contents)
        try:
            pyrage.decrypt_file(str(sealed), str(plain), [identity])
        except pyrage.DecryptError as error:
            raise RestoreError(
                f"The identity of this plan does not open the set ({error}).",
                "Put the identity of one of the set's recipients into its Connection.",
            ) from None
        shutil.rmtree(self.folder / "rows", ignore_errors=True)
        with plain.open("rb") as source, zstandard.ZstdDecompressor().stream_reader(source) as stream, ExitStack() as files:
            try:
                self._split(io.BufferedReader(stream), files)
            except zstandard.ZstdError as error:
                raise _unreadable(error) from None
        for source_id, artifact in self._packs:
            rows = self.rows_file(source_id, artifact)
            rows.parent.mkdir(parents=True, exist_ok=True)
            rows.touch()  # of a source that had nothing there are none
        plain.unlink()
        sealed.unlink()

    def _split(self, stream: IO[bytes], files: ExitStack) -> None:
        """Rows come artifact by artifact, so one file is open at a time."""
        current, out = Path(), None
        for source_id, artifact, *row in map(_parse_row, stream):
            path = self.places_file(source_id, artifact) if row[0] == "member" else self.rows_file(source_id, artifact)
            if path != current or out is None:
                files.close()
                path.parent.mkdir(parents=True, exist_ok=True)
                current, out = path, files.enter_context(path.open("a", encoding="ascii"))
            out.write(json.dumps(row, separators=(",", ":"), sort_keys=True) + "\n")

    def packs(self, holders: Sequence[Destination], source_id: str, artifact: str, folder: Path) -> Iterator[tuple[Pack, Path]]:
        """An artifact's packs, each as a file below ``folder`` that is there until the next one is asked for.

        Raises:
            RestoreError: if one can't be fetched from any of the holders.
        """
        folder.mkdir(parents=True, exist_ok=True)
        prefix = self.manifest().path
        for stored in self._packs.get((source_id, artifact), []):
            path = folder / Path(stored.file).name
            file = File(bytes=stored.stored_bytes, sha256=stored.sha256)
            download_from_any(holders, f"{prefix}/{stored.file}", path, file)
            sizes = {"raw_bytes": stored.raw_bytes, "stored_bytes": stored.stored_bytes}
            yield Pack(file=path.name, sha256=stored.sha256, **sizes), path
            path.unlink()

    def make_contents(self, reader: SetReader, source_id: str, artifact: str, read: Iterable[Row]) -> None:
        """Put what was read of the packs to the inventory, where the set was stored without being opened: nothing can be verified else."""
        known = self.rows_file(source_id, artifact)
        found = known.with_suffix(".found")
        write_rows(found, reader.contents(artifact, known, read))
        found.rename(known)


def _parse_row(line: bytes) -> tuple[str, str, str, str, Facts]:
    """A row of the contents, with the source and artifact that it is of.

    Raises:
        ArtifactError: if it is none.
    """
    try:
        source_id, artifact, kind, name, facts = read_json(line.decode("ascii"))
        "".join((source_id, artifact, kind, name)).encode("utf-8", "surrogateescape")
    except (ValueError, TypeError) as error:
        raise _unreadable(error) from None
    if not isinstance(facts, dict):
        raise _unreadable(TypeError("facts that are no object"))
    return source_id, artifact, kind, name, facts


def _unreadable(error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{CONTENTS_FILE} is no list of what is in the packs ({type(error).__name__}: {error}).", "Take another set; report this one."
    )


def download_from_any(holders: Sequence[Destination], key: str, path: Path, file: File) -> None:
    """Fetch an object from the first destination that has it whole.

    Raises:
        RestoreError: if none has.
        StagingError: if the file can't be written.
    """
    faults = []
    for destination in holders:
        progress = Progress(f"fetching {key} from {destination.name}", file.bytes)
        try:
            download(destination, key, path, file, progress.add)
        except (ArtifactError, DestinationError) as error:
            log.error("%s", error)
            faults.append(f"{destination.name}: {error}")
        else:
            log.info("%s: %s", key, progress.summary())
            return
    raise RestoreError(f"{key} could not be fetched from any destination:\n" + "\n".join(faults), "Choose another set.")
