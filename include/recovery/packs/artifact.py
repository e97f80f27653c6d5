"""What a dump consists of, and the listings of its members."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from recovery.common.errors import ArtifactError
from recovery.packs.decrypt_worker import CHUNK


@dataclass(frozen=True)
class Member:
    """One entry to pack."""

    path: bytes
    """Relative to the artifact's root; the bytes that the file system has."""
    size: int
    """Bytes of data; 0 for anything but a file."""
    group: int | None = None
    """Members of one hard-link group share a number, lie next to each other in a listing, and stay in one pack."""


def write_listing(path: Path, members: Iterable[Member]) -> None:
    """Write members to a listing: ``<size> <group or -> <path>`` and a NUL byte each."""
    with path.open("wb", buffering=CHUNK) as out:
        for member in members:
            group = "-" if member.group is None else str(member.group)
            out.write(f"{member.size} {group} ".encode() + member.path + b"\0")


def read_listing(path: Path) -> Iterator[Member]:
    """Members of a listing, as they are read."""
    rest = b""
    with path.open("rb") as listing:
        while chunk := listing.read(CHUNK):
            *records, rest = (rest + chunk).split(b"\0")
            for record in records:
                size, group, name = record.split(b" ", 2)
                yield Member(name, int(size), None if group == b"-" else int(group))
    if rest:
        raise ArtifactError(f"The listing {path.name} is cut off.", "Run the backup again; the dump was not finished.")


def members_below(root: Path) -> Iterator[Member]:
    """Every entry below a folder of our own, in a fixed order."""
    for folder, folders, files in os.walk(os.fsencode(root)):
        folders.sort()
        relative = os.path.relpath(folder, os.fsencode(root))
        if relative != b".":
            yield Member(relative, 0)
        for name in sorted(files):
            path = folder + b"/" + name
            yield Member(os.path.relpath(path, os.fsencode(root)), os.lstat(path).st_size)


class Artifact(BaseModel):
    """One thing a dump consists of: a database, the globals, a tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Unique in its source; file names at the destination are made of it."""
    root: str
    """Absolute folder that members are relative to."""
    listing: str | None = None
    """File name, in the source's staging folder, of the members: see :func:`recovery.packs.artifact.read_listing`.
    None means everything under ``root``, which is then this dump's own and removed once it is packed."""
    bytes: int
    """How much there is to pack, as far as known now."""
    live: bool = False
    """``root`` is the source itself, read where it is: files may change or vanish meanwhile, and are then named."""
