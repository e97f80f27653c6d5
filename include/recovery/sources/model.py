"""What sources say of a dump and of a restore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from recovery.packs.artifact import Artifact
from recovery.packs.content_diff import Difference

Consistency = Literal["snapshot", "fuzzy", "scan"]


class RecoveryPoint(BaseModel):
    """The instant that a source's artifacts represent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    opened: datetime
    """When the snapshot or the scan began, in UTC."""
    closed: datetime
    """When the last byte was read, in UTC. A snapshot represents ``opened``; a fuzzy dump or a scan, the interval."""
    position: str | None = None
    """The source's own name for it: a PostgreSQL LSN, a MongoDB cluster time ``seconds:ordinal``; none for a scan."""


class Dump(BaseModel):
    """What a dump made, kept as ``dump.json`` beside it. Rows of the inventory are in ``<artifact>.inventory.jsonl``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifacts: tuple[Artifact, ...]
    point: RecoveryPoint
    consistency: Consistency
    versions: dict[str, str] = {}
    """Versions of the server and the tools, by name."""
    warnings: tuple[str, ...] = ()
    """What was tolerated or can't be saved, in sentences for the operator and the manifest."""


@dataclass(frozen=True)
class Finding:
    """One thing that preflight found out; the findings are the text of the first gate."""

    level: Literal["fact", "warning", "refusal"]
    text: str


@dataclass(frozen=True)
class LeftOut:
    """Something of a set that can't be made again, and is left out of what is restored. Never rows."""

    name: str
    """What it is and where, without values: ``shop: index public.orders_day``."""
    sentence: str
    """What it means, and why it can't be made, for people."""


@dataclass(frozen=True)
class Rehearsal:
    """What was tried of a set before anything live is dropped for it."""

    words: Sequence[str] = ()
    """What was loaded, for people, a sentence each."""
    differences: Sequence[Difference] = ()
    """What was not equal to the set then."""
    whole: bool = True
    """Whether that were all rows, so that nothing more can be left out later."""


def fact(text: str) -> Finding:
    """Something to know."""
    return Finding("fact", text)


def warning(text: str) -> Finding:
    """Something to think about before saying yes."""
    return Finding("warning", text)


def refusal(text: str) -> Finding:
    """Something that has to change before a restore begins."""
    return Finding("refusal", text)


@dataclass(frozen=True)
class Space:
    """Room that something needs on one file system."""

    where: str
    """In words: ``/srv/uploads``, ``the server of openmanus_postgres``."""
    needed: int
    """Bytes."""
    free: int | None
    """Bytes; None where it can't be found out from here."""
    folder: str | None = None
    """A folder of this machine on that file system; needs of the same file system are added up. None if it is elsewhere."""
    freed: int = 0
    """Bytes that dropping the live data gives back."""


@dataclass(frozen=True)
class Preflight:
    """What a source says before a restore touches anything."""

    fingerprint: str
    """The target itself and where it was found: PostgreSQL system identifier or MongoDB UUID with the address, mount and inode."""
    findings: tuple[Finding, ...] = ()
    bytes_needed: Mapping[str, int] = field(default_factory=dict)
    """Free space that the work needs whatever the method, by a folder of this machine."""
    second_copy: tuple[Space, ...] = ()
    """What a copy beside the live data needs at the target; in place needs none of it."""


@dataclass(frozen=True)
class SourceType:
    """What the registry knows of a kind of source: the ``TYPE`` of its package. Each is ``module:name``, imported when it is used."""

    source: str
    """A subclass of :class:`recovery.sources.base.Source` that has the roles the kind can fill."""
    reader: str
    """A subclass of :class:`recovery.sources.set_reader.SetReader`."""
    guide: str
    """A :class:`recovery.sources.guide.Guide`: how to get its data back by hand."""
    scratch: str | None = None
    """A :class:`recovery.sources.scratch_server.ScratchServer`, if a drill needs a server of the kind; else a folder will do."""
