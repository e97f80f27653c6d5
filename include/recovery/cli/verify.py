"""``verify``: whether a set is genuine and whole, read from its first byte to its last."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict

from recovery.cli.kit import Answer
from recovery.common.errors import ArtifactError, PlanError
from recovery.common.units import human_duration, human_size, now
from recovery.destinations.base import Destination, Progress
from recovery.sets.catalog import LATEST
from recovery.sets.find_sets import Found, find_sets, latest, pick, remarks
from recovery.sets.key_ring import NOT_READ, Kit
from recovery.sets.layout import MANIFEST_FILE, RECORDS_FOLDER, SIGNATURE_FILE
from recovery.sets.manifest import File, Manifest, StoredPack, set_files
from recovery.sets.open_set import Opened, opened, packs_of
from recovery.sets.records import read_records
from recovery.sets.verify import Verdict

log = logging.getLogger(__name__)

_CHUNK = 1 << 20
_SHOWN = 50


def verify(kit: Kit, wanted: str | None, everything: bool) -> Answer:
    """Read one set, or all of a place, to the last byte. Without a public key the exit status is never 0.

    With ``latest``, whatever is not believed or can't be read counts too, since the newest set may be among it.

    Raises:
        PlanError: if there is no such set.
        DestinationError: if the place can't be read.
    """
    found = find_sets(kit.place, kit.key, kit.plan)
    unfinished = [each.fault for each in found if each.state == "unfinished"]
    odd = remarks(found)
    verdicts = [_verdict(kit, each) for each in _chosen(kit, found, wanted, everything)]
    facts = kit.facts() | {
        "contents": "read" if kit.identities else "NOT READ",
        "sets": [asdict(verdict) | {"good": kit.checked and not verdict.status} for verdict in verdicts],
        "unfinished": unfinished,
        "remarks": odd,
    }
    lines = [line for verdict in verdicts for line in _words(verdict, kit.checked)] + [f"note: {each}" for each in (*unfinished, *odd)]
    lines += [] if kit.identities else ["", NOT_READ]
    lines += [] if kit.checked else ["", *kit.heading()]
    statuses = {verdict.status for verdict in verdicts} | (set() if kit.checked else {1})
    return Answer(facts, lines, 1 if 1 in statuses else max(statuses))


def _chosen(kit: Kit, found: list[Found], wanted: str | None, everything: bool) -> list[Found]:
    if everything:
        chosen = [each for each in found if each.state != "unfinished"]
    elif wanted == LATEST:
        chosen = latest(found) + [each for each in found if each.doubtful]
    else:
        chosen = [pick(found, wanted)]
    if not chosen:
        what = "no complete set" if wanted == LATEST else "no set"
        raise PlanError(f"There is {what} at {kit.place.describe()}.", "Look at `python -m recovery sets`.")
    return chosen


def _words(verdict: Verdict, checked: bool) -> Iterator[str]:
    ending = "WHOLE, BUT PERHAPS NOT GENUINE" if not checked and verdict.ending == "GOOD" else verdict.ending
    name = f"{verdict.set} of {verdict.plan}" if verdict.plan else verdict.set
    name += "" if verdict.age_seconds is None else f", {human_duration(verdict.age_seconds)} old"
    read = "" if verdict.things is None else f", {verdict.things:,} things were read in the packs"
    yield f"{ending}: set {name}: {verdict.files} files are right, {human_size(verdict.bytes)}{read}"
    for what, said in (("bad", verdict.faults), ("could not", verdict.unable), ("note", verdict.notes)):
        yield from (f"  {what}: {each}" for each in said[:_SHOWN])
        if len(said) > _SHOWN:
            yield f"  {what}: and {len(said) - _SHOWN} more, which --json names"


def _verdict(kit: Kit, found: Found) -> Verdict:
    manifest = found.manifest
    if manifest is None:
        name = found.path.split("/")[-1] or kit.place.describe()
        return Verdict(name, unable=[found.fault]) if found.state == "unable" else Verdict(name, faults=[found.fault])
    age = (now() - manifest.begins).total_seconds()
    unread = manifest.level == "stored" and not kit.identities
    verdict = Verdict(manifest.set_id, manifest.plan, age, sorted(manifest.missing), unread)
    if not manifest.complete:
        verdict.notes.append(f"it is not complete: it lacks {', '.join(manifest.missing)}")
    with verdict.noting():
        verdict.faults += read_records(found.destination, manifest.path, kit.key, manifest).findings
    with verdict.noting():
        packs = packs_of(found, manifest)
        _look_beside(found.destination, manifest, set_files(manifest, packs), verdict)
        _read_all(kit, found, manifest, packs, verdict)
    return verdict


def _look_beside(destination: Destination, manifest: Manifest, files: Collection[str], verdict: Verdict) -> None:
    known = {*files, MANIFEST_FILE, SIGNATURE_FILE}
    names = (entry.key.removeprefix(f"{manifest.path}/") for entry in destination.list(f"{manifest.path}/"))
    strangers = sorted(name for name in names if name not in known and not name.startswith(f"{RECORDS_FOLDER}/"))
    if strangers:
        more = f" and {len(strangers) - 5} more" if len(strangers) > 5 else ""
        verdict.notes.append(f"beside it lies what is no part of it: {', '.join(strangers[:5])}{more}")


def _read_all(kit: Kit, found: Found, manifest: Manifest, packs: Sequence[StoredPack], verdict: Verdict) -> None:
    """Every file of the set; the packs are opened where there is an identity."""
    reading = _Reading(found.destination, manifest, packs, verdict)
    rest = manifest.files.named()
    for name, file in rest.items():
        reading.file(name, file)
    with ExitStack() as stack:
        contents: Opened | None = None
        if kit.identities and verdict.files == len(rest):
            with verdict.noting():
                contents = stack.enter_context(opened(found, manifest, kit.identity(manifest)))
        with ThreadPoolExecutor(found.destination.parallel) as pool:
            list(pool.map(lambda pack: reading.pack(pack, contents), packs))
        for unproven in contents.unproven(packs) if contents else ():
            with verdict.noting():
                unproven.prove()


class _Reading:
    """Reads a set's files and keeps count; packs may be read in several threads."""

    def __init__(self, destination: Destination, manifest: Manifest, packs: Sequence[StoredPack], verdict: Verdict) -> None:
        self._destination = destination
        self._path = manifest.path
        self._verdict = verdict
        self._progress = Progress(f"verify {manifest.set_id}", sum(file.bytes for file in set_files(manifest, packs).values()))
        self._lock = threading.Lock()

    def file(self, name: str, file: File) -> None:
        """Compare size and SHA-256."""
        with self._verdict.noting():
            self._hash(name, file)
            self._right(name, file.bytes)

    def pack(self, stored: StoredPack, contents: Opened | None) -> None:
        """Compare size and SHA-256 and, if the set was opened, read what is in it."""
        with self._verdict.noting():
            if contents is None:
                self._hash(stored.file, File(bytes=stored.stored_bytes, sha256=stored.sha256))
                self._right(stored.file, stored.stored_bytes)
            else:
                self._right(stored.file, stored.stored_bytes, contents.read(stored, self._progress.add))

    def _hash(self, name: str, file: File) -> None:
        digest, size = hashlib.sha256(), 0
        with self._destination.open(f"{self._path}/{name}") as source:
            while chunk := source.read(_CHUNK):
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
            self._verdict.files += 1
            self._verdict.bytes += size
            if things is not None:
                self._verdict.things = (self._verdict.things or 0) + things
