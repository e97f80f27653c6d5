"""What a set has of PostgreSQL, read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tarfile import TarInfo
from typing import IO

from recovery.common.errors import ArtifactError
from recovery.packs.content_index import Row, read_rows
from recovery.sources.postgres.client import find_bin
from recovery.sources.postgres.dump import archive
from recovery.sources.set_reader import SetReader


class PostgresReader(SetReader):
    """Reads archives of ``pg_dump`` and SQL files."""

    def read_pack(self, artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
        """See :meth:`recovery.sources.set_reader.SetReader.read_pack`."""
        return archive.read_pack(artifact, members)

    def contents(self, artifact: str, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
        """See :meth:`recovery.sources.set_reader.SetReader.contents`."""
        kind, _, facts = next(read_rows(inventory, "snapshot", "server", "schema of"), ("", "", {}))
        if kind == "snapshot":
            folder = find_bin(facts["major"], self._tools, self._runner, or_newer=True)
            return archive.contents(self._runner, folder, facts["codec"], inventory, read)
        if kind == "server":
            return archive.text_contents(inventory, read, ("globals.sql", "roles.jsonl"))
        if kind == "schema of":
            return archive.text_contents(inventory, read, ("schema.sql",))
        raise ArtifactError(f"The inventory of {artifact} is empty.", "Run the backup again; the dump was not finished.")

    def counted(self, artifact: str, row: Row) -> tuple[str, int] | None:
        """See :meth:`recovery.sources.set_reader.SetReader.counted`. Lines of texts are no records: there always are some."""
        kind, _, facts = row
        if kind == "text":
            return None
        rows = facts.get("count", {"database": 0, "table": 1}.get(kind))  # a table's rows are only counted by who opens the packs
        return (artifact, rows) if isinstance(rows, int) else None
