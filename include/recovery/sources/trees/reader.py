"""What a set has of a file tree, read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tarfile import TarInfo
from typing import IO

from recovery.packs.content_index import Row
from recovery.sources.set_reader import SetReader
from recovery.sources.trees import entries
from recovery.sources.trees.inventory import cover


class TreeReader(SetReader):
    """Reads archives of files."""

    def read_pack(self, artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
        """Hash every file; see :func:`recovery.sources.trees.entries.of_members`."""
        return entries.of_members(members)

    def contents(self, artifact: str, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
        """Rows ``entry``, ``changed`` and ``tree``; see :func:`recovery.sources.trees.inventory.cover`."""
        return cover(artifact, inventory, read)

    def counted(self, artifact: str, row: Row) -> tuple[str, int] | None:
        """See :meth:`recovery.sources.set_reader.SetReader.counted`. Folders are no records: an empty tree has them, too."""
        kind, _, facts = row
        return (artifact, sum(int(facts[what]) for what in ("files", "links", "hardlinks", "fifos"))) if kind == "tree" else None
