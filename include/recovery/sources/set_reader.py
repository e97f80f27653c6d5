"""Reading back what a set has of a source; needs no plan, and no server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tarfile import TarInfo
from typing import IO

from recovery.packs.content_index import Row
from recovery.runners.base import Runner


class SetReader(ABC):
    """Reads what a set has of a source of one kind.

    Args:
        runner: runs the client tools that it takes.
        tools: their folders.
    """

    def __init__(self, runner: Runner, tools: Sequence[Path] = ()) -> None:
        self._runner = runner
        self._tools = tools

    @abstractmethod
    def read_pack(self, artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
        """Read one pack's members, in order, and yield what they hold. Several packs may be read at once.

        ``None`` stands for a member without data (folder, link). Every byte must be read and looked at.

        Raises:
            ArtifactError: if a member is damaged or does not end where it should.
        """

    @abstractmethod
    def contents(self, artifact: str, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
        """Put what was read of all packs of an artifact together with its inventory: the rows that the set keeps.

        They hold all that :meth:`recovery.sources.base.Restorer.verify_staged` compares, and all that
        :meth:`recovery.sources.base.Restorer.stage` needs to know.

        Args:
            artifact: its name.
            inventory: file of the inventory's rows.
            read: what :meth:`read_pack` yielded for each pack.

        Raises:
            ArtifactError: if what the inventory has is not in the artifact.
        """

    def counted(self, artifact: str, row: Row) -> tuple[str, int] | None:
        """How many records a row of the contents speaks of, and under which name the manifest counts them; None if it says nothing of any.

        The name is the artifact's, or the database's where an artifact has several.
        """
        count = row[2].get("count")
        return (artifact, count) if isinstance(count, int) else None
