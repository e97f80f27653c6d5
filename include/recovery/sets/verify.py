"""Verify a whole set: whether it is genuine and whole, read where it lies, from its first byte to its last."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum

from recovery.common.errors import ArtifactError, RecoveryError
from recovery.common.progress import Progress
from recovery.common.units import now
from recovery.common.wording import shortened
from recovery.destinations.base import Destination, Missing, TooLarge
from recovery.sets.find_sets import Found
from recovery.sets.key_ring import KeyRing
from recovery.sets.layout import MANIFEST_FILE, RECORDS_FOLDER, SIGNATURE_FILE
from recovery.sets.manifest import File, Manifest, StoredPack, set_files
from recovery.sets.open_set import Opened, opened, packs_of
from recovery.sets.records import read_records

log = logging.getLogger(__name__)

_CHUNK = 1 << 20


class VerificationStatus(Enum):
    """What a set is found to be, from worst to best."""

    INVALID = "invalid"
    """Something is wrong with it."""
    NOT_FULLY_VERIFIED = "not fully verified"
    """Nothing is found to be wrong, but something could not be found out."""
    NOT_COMPLETE = "whole, but not complete"
    """It lacks sources."""
    CONTENTS_NOT_READ = "whole, contents not read"
    """Nobody ever opened it."""
    PERHAPS_NOT_GENUINE = "whole, but perhaps not genuine"
    """There was no public key to check signatures with."""
    VALID = "valid"
    """Genuine, whole and complete."""


@dataclass
class VerificationResult:
    """What came out for one set."""

    set: str
    plan: str = ""
    age_seconds: float | None = None
    """What a restore of it loses."""
    missing: list[str] = field(default_factory=list)
    """Sources that it lacks."""
    unread: bool = False
    """Nobody ever opened it: not when it was made, and not now."""
    signature_checked: bool = True
    """Whether there was a public key."""
    faults: list[str] = field(default_factory=list)
    """What is wrong with it."""
    unable: list[str] = field(default_factory=list)
    """What could not be found out."""
    notes: list[str] = field(default_factory=list)
    files: int = 0
    """That were found right, without the manifest and its signature."""
    bytes: int = 0
    """Of these."""
    things: int | None = None
    """Rows, documents, entries and definitions that were read in the packs; None where these were not opened."""

    @property
    def status(self) -> VerificationStatus:
        """What all of this amounts to."""
        for applies, status in (
            (self.faults, VerificationStatus.INVALID),
            (self.unable, VerificationStatus.NOT_FULLY_VERIFIED),
            (self.missing, VerificationStatus.NOT_COMPLETE),
            (self.unread, VerificationStatus.CONTENTS_NOT_READ),
            (not self.signature_checked, VerificationStatus.PERHAPS_NOT_GENUINE),
        ):
            if applies:
                return status
        return VerificationStatus.VALID

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Go on after an error; what is wrong with the set is told apart from what could not be found out."""
        try:
            yield
        except (ArtifactError, Missing, TooLarge) as error:
            self.faults.append(error.what)
        except RecoveryError as error:
            self.unable.append(str(error))


def verify_set(found: Found, keys: KeyRing, progress: Callable[[str, int], Progress] = Progress) -> VerificationResult:
    """Read every file of a set and compare it with the manifest; where an identity opens it, read what is in its packs too.

    Nothing is raised for what is wrong with the set or can't be read of it: the result says that. Nothing is written where it lies.

    Args:
        found: the set, believed or not.
        keys: a public key, and as many identities as there are.
        progress: makes what is told of each piece that was read, from several threads: of a name for it and the bytes of all files.
    """
    manifest = found.manifest
    if manifest is None:
        result = VerificationResult(found.path.split("/")[-1] or found.destination.describe(), signature_checked=keys.checked)
        (result.unable if found.state in {"unable", "unfinished"} else result.faults).append(found.fault)
        return result
    result = VerificationResult(
        manifest.set_id,
        manifest.plan,
        age_seconds=(now() - manifest.begins).total_seconds(),
        missing=sorted(manifest.missing),
        unread=manifest.level == "stored" and not keys.identities,
        signature_checked=keys.checked,
    )
    if not manifest.complete:
        result.notes.append(f"it is not complete: it lacks {', '.join(manifest.missing)}")
    with result.noting():
        result.faults += read_records(found.destination, manifest.path, keys.public, manifest).findings
    with result.noting():
        packs = packs_of(found, manifest)
        files = set_files(manifest, packs)
        _look_beside(found.destination, manifest, files, result)
        told = progress(f"verify {manifest.set_id}", sum(file.bytes for file in files.values()))
        _Reading(found, manifest, packs, result, told).all(keys)
    return result


def _look_beside(destination: Destination, manifest: Manifest, files: Collection[str], result: VerificationResult) -> None:
    known = {*files, MANIFEST_FILE, SIGNATURE_FILE}
    names = (entry.key.removeprefix(f"{manifest.path}/") for entry in destination.list(f"{manifest.path}/"))
    strangers = sorted(name for name in names if name not in known and not name.startswith(f"{RECORDS_FOLDER}/"))
    if strangers:
        result.notes.append(f"beside it lies what is no part of it: {shortened(strangers, at_most=5)}")


class _Reading:
    """Reads a set's files and keeps count; packs may be read in several threads."""

    def __init__(
        self, found: Found, manifest: Manifest, packs: Sequence[StoredPack], result: VerificationResult, progress: Progress
    ) -> None:
        self._found = found
        self._manifest = manifest
        self._packs = packs
        self._result = result
        self._progress = progress
        self._lock = threading.Lock()

    def all(self, keys: KeyRing) -> None:
        """Every file of the set; the packs are opened where there is an identity."""
        rest = self._manifest.files.named()
        for name, file in rest.items():
            self._file(name, file)
        with ExitStack() as stack:
            contents: Opened | None = None
            if keys.identities and self._result.files == len(rest):
                with self._result.noting():
                    contents = stack.enter_context(opened(self._found, self._manifest, keys.identity(self._manifest)))
            with ThreadPoolExecutor(self._found.destination.parallel) as pool:
                list(pool.map(lambda pack: self._pack(pack, contents), self._packs))
            for unproven in contents.unproven(self._packs) if contents else ():
                with self._result.noting():
                    unproven.verify()

    def _file(self, name: str, file: File) -> None:
        """Compare size and SHA-256."""
        with self._result.noting():
            self._hash(name, file)
            self._right(name, file.bytes)

    def _pack(self, stored: StoredPack, contents: Opened | None) -> None:
        """Compare size and SHA-256 and, if the set was opened, read what is in it."""
        with self._result.noting():
            if contents is None:
                self._hash(stored.file, File(bytes=stored.stored_bytes, sha256=stored.sha256))
                self._right(stored.file, stored.stored_bytes)
            else:
                self._right(stored.file, stored.stored_bytes, contents.read(stored, self._progress.add))

    def _hash(self, name: str, file: File) -> None:
        digest, size = hashlib.sha256(), 0
        with self._found.destination.open(f"{self._manifest.path}/{name}") as source:
            while size <= file.bytes and (chunk := source.read(_CHUNK)):
                digest.update(chunk)
                size += len(chunk)
                self._progress.add(len(chunk))
        if (size, digest.hexdigest()) != (file.bytes, file.sha256):
            raise ArtifactError(
                f"{name} is not what the manifest says: {size} bytes, SHA-256 {digest.hexdigest()}.",
                "Take the set from another destination.",
            )

    def _right(self, name: str, size: int, things: int | None = None) -> None:
        log.info("%s is right%s", name, "" if things is None else f", {things:,} things in it")
        with self._lock:
            self._result.files += 1
            self._result.bytes += size
            if things is not None:
                self._result.things = (self._result.things or 0) + things
