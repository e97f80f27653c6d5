"""What a set has of MongoDB, read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tarfile import TarInfo
from typing import IO

from recovery.packs.content_index import Row
from recovery.sources.mongo import pack_contents
from recovery.sources.mongo.catalog import split_name
from recovery.sources.set_reader import SetReader


class MongoReader(SetReader):
    """Reads dumps in the layout of ``mongodump``."""

    def read_pack(self, artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
        """See :meth:`recovery.sources.set_reader.SetReader.read_pack`."""
        return pack_contents.read_members(members)

    def contents(self, artifact: str, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
        """See :meth:`recovery.sources.set_reader.SetReader.contents`."""
        return pack_contents.contents(inventory, read)

    def counted(self, artifact: str, row: Row) -> tuple[str, int] | None:
        """See :meth:`recovery.sources.set_reader.SetReader.counted`. One artifact has all databases."""
        kind, name, facts = row
        documents = facts.get("count", {"database": 0}.get(kind))
        return (split_name(name)[0], documents) if isinstance(documents, int) else None
