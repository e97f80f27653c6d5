"""The manifest of a set, format 1: what the set holds, where each byte of it is, and who vouches for it.

A set's packs are not listed in the manifest but in ``packs.jsonl`` beside it, whose SHA-256 the manifest has: a
terabyte is a thousand packs, and a catalog reads every manifest, so manifests have to stay small (64 KB at most).
``docs/reference/format.md`` describes all of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recovery import VERSION
from recovery.common.errors import ArtifactError, ManifestError
from recovery.common.files import write_atomically
from recovery.common.json_text import read_json
from recovery.common.units import human_duration
from recovery.crypto.signing import SigningKey, VerifyKey
from recovery.plan.field_types import Level
from recovery.sets.layout import CONTENTS_FILE, INSTRUCTIONS_FILE, MANIFEST_FILE, PACKS_FILE, RECORDS_FOLDER, SIGNATURE_FILE, is_set_id
from recovery.sources.model import Consistency, RecoveryPoint

MAX_BYTES = 64 * 1000
"""A manifest is never larger."""

MAX_PACKS_BYTES = 1 << 30
"""A list of packs is never larger: that is four million packs."""

LEVELS: tuple[Level, ...] = ("stored", "decoded", "restored")
"""What was verified of a set, from least to most; these words are in manifests and records."""

MORE_WARNINGS = "more warnings; the log of the run and the contents have them all."
"""How the last warning of a source ends if not all of them had room."""

_SENTENCE = 300
_SHOWN: dict[Level, str] = {"stored": "checksum", "decoded": "content", "restored": "restore-tested"}

_PART = r"[A-Za-z0-9_%-][A-Za-z0-9_.%-]{0,254}"
_PACK_PATH = re.compile(rf"(?:{_PART}/){{1,4}}{_PART}")
_NEXT = "Look at who can write to this destination; take the set from another destination."


def level_name(level: Level) -> str:
    """A level in the word that people are shown: what was looked at."""
    return _SHOWN[level]


def _set_id(text: str) -> str:
    if not is_set_id(text):
        raise ValueError(f"{text!r} is not a set id")
    return text


def _pack_file(path: str) -> str:
    if not _PACK_PATH.fullmatch(path) or path.startswith(f"{RECORDS_FOLDER}/"):
        raise ValueError(f"{path!r} is not the path of a pack below its set")
    return path


def sentence(text: str) -> str:
    """Text for people as manifests and records keep it: cut after 300 characters, and what is not Unicode in it is written ``\\xXX``."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SENTENCE else text[: _SENTENCE - 1] + "…"


def _moment(moment: datetime) -> datetime:
    if not 1970 <= moment.year <= 2200:
        raise ValueError("a moment that is not of the years 1970 to 2200")
    return moment


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, Field(ge=0, lt=1 << 53)]
"""Below 2^53: what every reader of JSON takes for the same number."""
Bytes = Number
Moment = Annotated[AwareDatetime, AfterValidator(_moment)]
"""Of a year that can be converted to any offset."""
SetId = Annotated[str, AfterValidator(_set_id)]
Sentence = Annotated[str, AfterValidator(sentence)]
"""See :func:`sentence`."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(_Part):
    """A file of the set that is no pack."""

    bytes: Bytes
    sha256: Sha256


class Files(_Part):
    """The files of a set beside its packs and the manifest itself; their names are fixed."""

    contents: File
    instructions: File
    packs: File

    @field_validator("packs")
    @classmethod
    def _can_be_read(cls, packs: File) -> File:
        if packs.bytes > MAX_PACKS_BYTES:
            raise ValueError(f"a list of packs larger than {MAX_PACKS_BYTES} bytes")
        return packs

    def named(self) -> dict[str, File]:
        """By file name, in the order of uploading."""
        return {CONTENTS_FILE: self.contents, PACKS_FILE: self.packs, INSTRUCTIONS_FILE: self.instructions}


class StoredPack(_Part):
    """One line of ``packs.jsonl``."""

    source: str
    """``<kind>.<name>``."""
    artifact: str
    number: Number
    """Counts from 0 in its artifact; the order of unpacking."""
    file: Annotated[str, AfterValidator(_pack_file)]
    """Path below the set."""
    raw_bytes: Bytes
    """Length of the tar stream in it."""
    stored_bytes: Bytes
    """Length of the file."""
    sha256: Sha256
    """Of the file."""


class Totals(_Part):
    """What a source's artifacts amount to."""

    artifacts: Number
    packs: Number
    raw_bytes: Bytes
    stored_bytes: Bytes
    counts: dict[str, Number] = {}
    """How many records each database or tree has: ``{"shop": 80000}``. For people, and to notice what is empty or gone in the next set."""


class SourceEntry(_Part):
    """What the set has of one source."""

    level: Level
    point: RecoveryPoint
    consistency: Consistency
    versions: dict[str, str] = {}
    warnings: tuple[Sentence, ...] = ()
    totals: Totals

    @field_validator("point")
    @classmethod
    def _has_moments(cls, point: RecoveryPoint) -> RecoveryPoint:
        for moment in (point.opened, point.closed):
            if _moment(moment).tzinfo is None:
                raise ValueError("a moment without offset")
        return point

    @property
    def ends(self) -> datetime:
        """The latest moment that this source's data may be of."""
        return self.point.opened if self.consistency == "snapshot" else self.point.closed


class Manifest(_Part):
    """A set."""

    kind: Literal["manifest"] = "manifest"
    format: Literal[1] = 1
    plan: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    set_id: SetId
    run_id: Sentence
    note: Sentence = ""
    """What the person who started the run wrote."""
    created: Moment
    """When the manifest was written; sets are ordered by it."""
    sources: Annotated[dict[str, SourceEntry], Field(min_length=1)]
    missing: dict[str, Sentence] = {}
    """Sources of the plan that the set lacks, and why."""
    complete: bool
    """Nothing is missing."""
    skew_seconds: Annotated[float, Field(allow_inf_nan=False, gt=-(1 << 53), lt=1 << 53)]
    """How far the sources' moments lie apart, see :func:`skew`."""
    downtime_seconds: Annotated[float, Field(allow_inf_nan=False, ge=0, lt=1 << 53)] | None = None
    """Of a cold backup, how long it kept the services stopped. They were while each source was read, so nothing lies in between."""
    files: Files
    recipients: tuple[str, ...]
    """Fingerprints of the age recipients, see :func:`recovery.crypto.recipients.recipient_fingerprint`."""
    hold: bool = False
    """Born with a hold: never pruned until that is released."""
    safety: bool = False
    """Made by a restore of what it was about to replace in place: most likely a damaged system, so never taken as the latest."""
    software: str = f"openmanus-recovery {VERSION}"

    @model_validator(mode="after")
    def _agrees(self) -> Manifest:
        if self.complete == bool(self.missing):
            raise ValueError("complete and missing contradict each other")
        return self

    @property
    def begins(self) -> datetime:
        """Everything that was there before this moment is in the set: the start of the earliest source."""
        return min(entry.point.opened for entry in self.sources.values())

    @property
    def ends(self) -> datetime:
        """Nothing in the set is younger than this moment."""
        return max(entry.ends for entry in self.sources.values())

    @property
    def level(self) -> Level:
        """What was verified of every source when the set was made."""
        return min((entry.level for entry in self.sources.values()), key=LEVELS.index)

    @property
    def stored_bytes(self) -> int:
        """What the set takes at a destination, without its manifest and records."""
        return sum(entry.totals.stored_bytes for entry in self.sources.values()) + sum(file.bytes for file in self.files.named().values())

    @property
    def path(self) -> str:
        """The set's folder at a destination."""
        return f"{self.plan}/{self.set_id}"

    @property
    def apart(self) -> str:
        """How far the sources' moments lie apart, in a sentence."""
        if self.downtime_seconds is not None:
            return f"All sources were read while the services were stopped, for {human_duration(self.downtime_seconds)}: a cold backup."
        return f"The moments at which the sources were read lie {human_duration(self.skew_seconds)} apart."

    def valid(self, level: Level) -> bool:
        """A backup that is complete, and verified to at least this level."""
        return self.complete and not self.safety and LEVELS.index(self.level) >= LEVELS.index(level)


def skew(sources: Mapping[str, SourceEntry]) -> float:
    """Seconds between the earliest and the latest moment that data of a set may be of."""
    earliest = min(entry.point.opened for entry in sources.values())
    return (max(entry.ends for entry in sources.values()) - earliest) / timedelta(seconds=1)


def describe_file(path: Path) -> File:
    """Size and SHA-256 of a file, as the manifest has them."""
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256")
    return File(bytes=path.stat().st_size, sha256=digest.hexdigest())


def encode(part: BaseModel) -> bytes:
    """A manifest or record as the bytes that are signed: JSON in UTF-8, keys sorted, indented by one space, one newline at the end."""
    return (json.dumps(part.model_dump(mode="json"), sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def write_manifest(folder: Path, manifest: Manifest, key: SigningKey) -> Manifest:
    """Write ``manifest.json.sig`` and then ``manifest.json`` into a set's folder in staging.

    Where many warnings would make it too large, only the first of each source are kept, and how many there were; where there are too
    many databases, their counts go, too.

    Returns:
        The manifest as it was written.

    Raises:
        ManifestError: if it is too large even so.
    """
    for limit in (20, 5, 1, 0):
        written = manifest.model_copy(update={"sources": {name: _thinned(entry, limit) for name, entry in manifest.sources.items()}})
        data = encode(written)
        if len(data) <= MAX_BYTES:
            break
    else:
        raise ManifestError(
            f"The manifest of set {manifest.set_id} is {len(data)} bytes, more than {MAX_BYTES}.",
            "Divide the plan's sources over two plans.",
        )
    write_atomically(folder / SIGNATURE_FILE, key.sign(data))
    write_atomically(folder / MANIFEST_FILE, data)
    return written


def _thinned(entry: SourceEntry, limit: int) -> SourceEntry:
    if limit == 0:
        entry = entry.model_copy(update={"totals": entry.totals.model_copy(update={"counts": {}})})
        limit = 1
    if len(entry.warnings) <= limit:
        return entry
    kept = entry.warnings[: limit - 1]
    return entry.model_copy(update={"warnings": (*kept, f"{len(entry.warnings) - len(kept)} {MORE_WARNINGS}")})


def parse_manifest(data: bytes, signature: bytes, key: VerifyKey, path: str) -> Manifest:
    """Believe a manifest, or not.

    Args:
        data: content of ``manifest.json``.
        signature: content of ``manifest.json.sig``.
        key: from the plan or the recovery kit, never from where the manifest lies.
        path: of the set's folder at its destination: ``<plan>/<set id>``.

    Raises:
        ManifestError: if it was not signed by this key, is no manifest of format 1, or belongs somewhere else.
    """
    manifest = signed_manifest(data, signature, key, path)
    if manifest.path != path:
        raise ManifestError(f"The manifest at {path} belongs to {manifest.path}: somebody moved or copied it.", _NEXT)
    return manifest


def signed_manifest(data: bytes, signature: bytes, key: VerifyKey, where: str) -> Manifest:
    """A manifest, wherever it lies; nothing of it is decoded before its signature was found right.

    Raises:
        ManifestError: if it was not signed by this key, or is no manifest of format 1.
    """
    if not key.verifies(data, signature):
        raise ManifestError(f"The manifest at {where} was not signed by the key {key.fingerprint}, or was changed since.", _NEXT)
    return decode_manifest(data, where)


def decode_manifest(data: bytes, where: str) -> Manifest:
    """A manifest, without looking at its signature.

    Raises:
        ManifestError: if it is no manifest of format 1.
    """
    if len(data) > MAX_BYTES:
        raise ManifestError(f"The manifest at {where} is {len(data)} bytes, more than {MAX_BYTES}.", _NEXT)
    values = _json_object(data, where)
    if values.get("kind") != "manifest":
        raise ManifestError(f"What lies at {where} as a manifest says that it is {values.get('kind')!r}.", _NEXT)
    if values.get("format") != 1:
        raise ManifestError(
            f"The manifest at {where} has format {values.get('format')!r}; this version knows format 1.",
            "Restore it with the version that wrote it.",
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ManifestError(f"The manifest at {where} is not valid: {_faults(error)}.", _NEXT) from None


def _json_object(data: bytes, where: str) -> dict[str, Any]:
    try:
        values = read_json(data)
    except ValueError as error:
        raise ManifestError(f"What lies at {where} as a manifest is not JSON: {error}.", _NEXT) from None
    if not isinstance(values, dict):
        raise ManifestError(f"What lies at {where} as a manifest is no JSON object.", _NEXT)
    return values


def _faults(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg']}" for fault in error.errors()[:5])


def write_packs(path: Path, packs: Iterable[StoredPack]) -> None:
    """Write ``packs.jsonl``: one JSON object a line, by source, artifact and number, keys sorted, without spaces."""
    lines = [
        json.dumps(pack.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=True) + "\n"
        for pack in sorted(packs, key=lambda pack: (pack.source, pack.artifact, pack.number))
    ]
    path.write_text("".join(lines), encoding="ascii")


def parse_packs(data: bytes, manifest: Manifest) -> tuple[StoredPack, ...]:
    """The packs of a set, from its ``packs.jsonl``.

    Raises:
        ArtifactError: if this is not the file that the manifest vouches for, or no list of packs.
    """
    found = File(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if found != manifest.files.packs:
        raise ArtifactError(
            f"{PACKS_FILE} of set {manifest.set_id} is not the one that its manifest names: {found.bytes} bytes, SHA-256 {found.sha256}.",
            _NEXT,
        )
    try:
        packs = tuple(map(StoredPack.model_validate_json, data.splitlines()))
    except ValidationError as error:
        raise ArtifactError(f"{PACKS_FILE} of set {manifest.set_id} is no list of packs: {_faults(error)}.", _NEXT) from None
    if len({pack.file for pack in packs}) != len(packs):
        raise ArtifactError(f"{PACKS_FILE} of set {manifest.set_id} names a file twice.", "Report this: the set was written wrongly.")
    return packs


def set_files(manifest: Manifest, packs: Iterable[StoredPack]) -> dict[str, File]:
    """Every file of a set but its manifest and signature, by its path below the set, in the order of uploading."""
    return {pack.file: File(bytes=pack.stored_bytes, sha256=pack.sha256) for pack in packs} | manifest.files.named()
