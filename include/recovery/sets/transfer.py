"""Sets on their way: from staging to a destination, and single files back."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from recovery.common.errors import ArtifactError, DestinationError, ManifestError, StagingError
from recovery.common.progress import Progress
from recovery.common.units import human_size
from recovery.destinations.base import NO_ROOM, Destination, Missing
from recovery.sets.layout import MANIFEST_FILE, PACKS_FILE, SIGNATURE_FILE
from recovery.sets.manifest import MAX_BYTES, File, Manifest, decode_manifest, parse_packs, set_files

log = logging.getLogger(__name__)

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Upload:
    """What an upload did."""

    set_id: str
    destination: str
    files: int
    """Of the set, with its manifest and signature."""
    bytes: int
    """Of the set."""
    sent_bytes: int
    """Sent now; the rest was already there."""
    confirmed_by: tuple[str, ...]
    """How the destination confirmed that the files are there."""


def upload_set(folder: Path, destination: Destination) -> Upload:
    """Send a set that lies in staging as it will lie at the destination; its manifest last, and with that the set exists.

    What is already there with the right checksum is not sent again, so a retry costs little; a set that is there
    already is checked and mended in the same way.

    Args:
        folder: the set's folder in staging, with ``manifest.json`` and everything that it names.
        destination: where to.

    Raises:
        StagingError: if staging lacks a file of the set.
        ManifestError: if the destination has another manifest under this set id.
        DestinationError: if the destination can't take it, or has not the room.
    """
    data = _read(folder / MANIFEST_FILE)
    manifest = decode_manifest(data, str(folder))
    _refuse_another(destination, manifest, data)
    rest = manifest.files.named()
    files = set_files(manifest, parse_packs(_read(folder / PACKS_FILE), manifest))
    _check_staging(folder, files)
    _check_room(destination, manifest, files)
    destination.sweep(f"{manifest.path}/")
    progress = Progress(f"upload to {destination.name}", sum(file.bytes for file in files.values()))
    put = _Put(folder, destination, manifest.path, progress)
    with ThreadPoolExecutor(destination.parallel) as pool:
        list(pool.map(put, [(name, file) for name, file in files.items() if name not in rest]))
    for item in rest.items():
        put(item)
    _check_arrived(destination, manifest, files)
    last = {name: _describe(_read(folder / name)) for name in (SIGNATURE_FILE, MANIFEST_FILE)}
    for item in last.items():
        put(item)
    everything = files | last
    total = sum(file.bytes for file in everything.values())
    confirmed_by = tuple(sorted(destination.confirmed_by))
    log.info(
        "%s holds set %s: %d files, %s, confirmed by %s; sent %s",
        destination.describe(),
        manifest.set_id,
        len(everything),
        human_size(total),
        " and ".join(confirmed_by),
        progress.summary(),
    )
    return Upload(manifest.set_id, destination.name, len(everything), total, progress.done, confirmed_by)


class _Put:
    def __init__(self, folder: Path, destination: Destination, path: str, progress: Progress) -> None:
        self._folder = folder
        self._destination = destination
        self._path = path
        self._progress = progress

    def __call__(self, item: tuple[str, File]) -> None:
        name, file = item
        if not self._destination.put(self._folder / name, f"{self._path}/{name}", file.sha256, self._progress.add):
            log.info("%s already has %s", self._destination.describe(), name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _not_in_staging(path) from None


def _not_in_staging(path: Path) -> StagingError:
    return StagingError(
        f"Staging has no {path}.", "Check that every worker mounts the same staging folder; if the set was swept, start a new backup run."
    )


def _describe(data: bytes) -> File:
    return File(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _refuse_another(destination: Destination, manifest: Manifest, data: bytes) -> None:
    try:
        there = destination.read(f"{manifest.path}/{MANIFEST_FILE}", MAX_BYTES)
    except Missing:
        return
    if there != data:
        raise ManifestError(
            f"{destination.describe()} already has a set {manifest.set_id} with another manifest; it is never overwritten.",
            "Look at who wrote it; a new backup run makes a set of its own.",
        )


def _check_staging(folder: Path, files: Mapping[str, File]) -> None:
    for name, file in files.items():
        path = folder / name
        if not path.is_file():
            raise _not_in_staging(path)
        if path.stat().st_size != file.bytes:
            raise StagingError(f"{path} has {path.stat().st_size} bytes; its manifest says {file.bytes}.", "Start a new backup run.")


def _check_room(destination: Destination, manifest: Manifest, files: Mapping[str, File]) -> None:
    free = destination.free_space()
    if free is None:
        return
    needed = sum(files[name].bytes for name in absent(destination, manifest, files))
    if needed > free:
        raise DestinationError(
            f"{destination.describe()} has {human_size(free)} free; the set needs {human_size(needed)}.",
            NO_ROOM,
        )


def _check_arrived(destination: Destination, manifest: Manifest, files: Mapping[str, File]) -> None:
    """Look once more at what the destination lists, before the manifest makes a set of it."""
    lost = absent(destination, manifest, files)
    if lost:
        raise DestinationError(
            f"{destination.describe()} confirmed {manifest.path}/{lost[0]}, and does not list it with its size now.",
            "Look for somebody else who writes or deletes there.",
        )


def absent(destination: Destination, manifest: Manifest, files: Mapping[str, File]) -> list[str]:
    """Which of a set's files a destination does not list with their size; one listing, no content is read.

    Raises:
        DestinationError: if it can't be listed.
    """
    there = {entry.key.removeprefix(f"{manifest.path}/"): entry.bytes for entry in destination.list(f"{manifest.path}/")}
    return [name for name, file in files.items() if there.get(name) != file.bytes]


def download(destination: Destination, key: str, path: Path, file: File, progress: Callable[[int], None]) -> None:
    """Fetch an object to a file, which is there only once its SHA-256 was found right.

    Args:
        destination: where from.
        key: of the object.
        path: of the file; its folder is there.
        file: size and SHA-256 that it must have.
        progress: told of every piece of bytes that arrived.

    Raises:
        ArtifactError: if it is not what the manifest says.
        DestinationError: if it can't be read.
        StagingError: if the file can't be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    digest = hashlib.sha256()
    size = 0
    try:
        with destination.open(key) as source, partial.open("wb") as out:
            while size <= file.bytes and (chunk := source.read(_CHUNK)):
                digest.update(chunk)
                size += len(chunk)
                out.write(chunk)
                progress(len(chunk))
            out.flush()
            os.fsync(out.fileno())
        if (size, digest.hexdigest()) != (file.bytes, file.sha256):
            raise ArtifactError(
                f"{key} at {destination.describe()} is not what the manifest says: {size} bytes, SHA-256 {digest.hexdigest()}.",
                "Take the set from another destination, or another set.",
            )
        partial.rename(path)
    except OSError as error:
        raise StagingError(f"{path} could not be written: {error}.", "Make room in staging.") from error
    finally:
        partial.unlink(missing_ok=True)


def fetch_packs(destination: Destination, manifest: Manifest) -> bytes:
    """``packs.jsonl`` of a set, for :func:`recovery.sets.manifest.parse_packs`, which checks it.

    Raises:
        DestinationError: if it can't be read.
    """
    return destination.read(f"{manifest.path}/{PACKS_FILE}", manifest.files.packs.bytes)
