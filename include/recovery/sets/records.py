"""What is said of a set after it was closed: holds and their release, verifications, reports, confirmations. Signed, and only ever
added.

A record is ``records/<time>-<kind>.json`` in the set's folder, its signature ``….json.sig`` beside it. A record that is
not verified is not believed, with one exception: a hold that can't be verified, or of which only the signature is left,
still protects, until a verified release names it. Who can write to a destination can so keep a set from being pruned; to
get one deleted, they must remove both files of each hold.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from recovery.common.paths import readable
from recovery.crypto.signing import SIGNATURE_BYTES, SigningKey, VerifyKey
from recovery.destinations.base import Destination, Missing, TooLarge
from recovery.sets.layout import RECORDS_FOLDER
from recovery.sets.manifest import Manifest, Moment, Sentence, SetId, encode

log = logging.getLogger(__name__)

MAX_BYTES = 4_000_000
"""A record is never larger."""

BIRTH = "manifest"
"""Name of the hold that a set was born with."""

Kind = Literal["hold", "release", "proof", "report", "confirmation"]


class Record(BaseModel):
    """One thing that was said of a set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    format: Literal[1] = 1
    plan: str
    set_id: SetId
    time: Moment
    by: Sentence
    """Who or what says it: a person, a run."""
    text: Sentence
    """Why, or what came out of it."""
    releases: str | None = None
    """Of a release: the name of the hold that it ends, or ``manifest`` for the one that the set was born with."""
    facts: dict[str, Any] = {}
    """More of it, by kind."""

    @model_validator(mode="after")
    def _releases_something(self) -> Record:
        if (self.kind == "release") != (self.releases is not None):
            raise ValueError("a release names a hold, and nothing else does")
        return self

    @property
    def name(self) -> str:
        """``<time>-<kind>``: its file's name without ``.json``."""
        return f"{self.time.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{self.kind}"


@dataclass(frozen=True)
class Hold:
    """Something that keeps a set from being pruned."""

    name: str
    """What a release has to name."""
    why: str


@dataclass(frozen=True)
class Records:
    """What a destination has of a set's records."""

    verified: tuple[Record, ...]
    """Oldest first."""
    holds: tuple[Hold, ...]
    """In force."""
    findings: tuple[str, ...]
    """Records that are not believed, one sentence each."""

    def of(self, kind: Kind) -> tuple[Record, ...]:
        """Those of a kind, oldest first."""
        return tuple(record for record in self.verified if record.kind == kind)


def add_record(destination: Destination, record: Record, key: SigningKey) -> None:
    """Add a record to a set at a destination. Adding it again does no harm.

    Raises:
        DestinationError: if it can't be written.
    """
    data = encode(record)
    base = f"{record.plan}/{record.set_id}/{RECORDS_FOLDER}/{record.name}.json"
    with tempfile.TemporaryDirectory(prefix="record-") as folder:
        for name, content in ((f"{base}.sig", key.sign(data)), (base, data)):
            path = Path(folder, "content")
            path.write_bytes(content)
            destination.put(path, name, hashlib.sha256(content).hexdigest(), lambda count: None)
    log.info("%s: %s of set %s: %s", destination.describe(), record.kind, record.set_id, record.text)


def read_records(destination: Destination, path: str, key: VerifyKey, manifest: Manifest | None) -> Records:
    """Every record of a set at a destination, and the holds that are in force.

    Args:
        destination: where.
        path: of the set's folder: ``<plan>/<set id>``.
        key: from the plan or the recovery kit.
        manifest: of the set, which may be born with a hold; None if the set has none.

    Raises:
        DestinationError: if they can't be read.
    """
    folder = f"{path}/{RECORDS_FOLDER}/"
    keys = [entry.key for entry in destination.list(folder)]
    verified: list[Record] = []
    findings: list[str] = []
    holds = [Hold(BIRTH, f"held from its start, run {manifest.run_id}")] if manifest and manifest.hold else []
    for each in sorted({key.removesuffix(".sig") for key in keys}):
        name = each.removeprefix(folder).removesuffix(".json")
        result = _believe(destination, each, name, path, key)
        if isinstance(result, Record):
            verified.append(result)
            if result.kind == "hold":
                holds.append(Hold(name, f"held by {result.by}: {result.text}"))
            continue
        findings.append(f"{readable(each)} at {destination.describe()} is not believed: {readable(result)}.")
        if name.endswith("-hold"):
            holds.append(Hold(name, f"held by a record that can't be verified, {readable(name)}"))
    released = {record.releases for record in verified if record.kind == "release"}
    verified.sort(key=lambda record: record.time)
    return Records(tuple(verified), tuple(hold for hold in holds if hold.name not in released), tuple(findings))


def _believe(destination: Destination, key: str, name: str, path: str, verify_key: VerifyKey) -> Record | str:
    """A record, or why it is not one."""
    try:
        data = destination.read(key, MAX_BYTES)
    except Missing:
        return "only its signature is there: somebody removed it, or it is being written"
    except TooLarge:
        return "it is larger than it may be"
    try:
        signature = destination.read(f"{key}.sig", SIGNATURE_BYTES)
    except Missing:
        return "its signature is missing"
    except TooLarge:
        return "its signature is larger than it may be"
    if not verify_key.verifies(data, signature):
        return f"it was not signed by the key {verify_key.fingerprint}, or was changed since"
    try:
        record = Record.model_validate_json(data)
    except ValidationError:
        return "what was signed is no record of format 1"
    if f"{record.plan}/{record.set_id}/{record.name}" != f"{path}/{name}":
        return f"it belongs to {record.plan}/{record.set_id}/{record.name}: somebody moved or copied it"
    return record


def hold(manifest: Manifest, time: datetime, by: str, why: str) -> Record:
    """A record that keeps a set from being pruned; its ``name`` is what a release has to name."""
    return Record(kind="hold", plan=manifest.plan, set_id=manifest.set_id, time=time, by=by, text=why)


def release(manifest: Manifest, name: str, time: datetime, by: str, why: str) -> Record:
    """A record that ends the hold of this name."""
    return Record(kind="release", plan=manifest.plan, set_id=manifest.set_id, time=time, by=by, text=why, releases=name)


def confirmation(manifest: Manifest, time: datetime, by: str, what: str) -> Record:
    """A record that the gap after this set is real: until this moment no clock was wrong. See :mod:`recovery.sets.gaps`."""
    return Record(kind="confirmation", plan=manifest.plan, set_id=manifest.set_id, time=time, by=by, text=what)
