"""Folders: as a source and as a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recovery.plan.field_types import AbsolutePath
from recovery.plan.source_settings import Kind, SourceSettings, TargetSettings, TreeSettings


class FilesSettings(TreeSettings):
    """A folder with everything in it."""

    path: AbsolutePath
    exclude: tuple[str, ...] = ()
    """Shell patterns (``*.tmp``, ``cache/*``) of names or of paths below the folder."""

    def roots(self) -> tuple[Path, ...]:
        """The folder."""
        return (self.path,)

    def starts(self, inside: Path) -> Sequence[Path]:
        """The top-level entry: what is excluded deeper goes with its folder all the same."""
        return super().starts(inside)[:1]


class FilesTarget(TargetSettings):
    """A folder to restore to."""

    path: AbsolutePath

    def folder_of_all(self) -> Path:
        """The folder."""
        return self.path

    def roots(self, source: SourceSettings) -> tuple[Path, ...]:
        """The folder."""
        return (self.path,)

    @classmethod
    def in_scratch(cls, connection: str, folder: Path) -> TargetSettings:
        """A folder in the drill's, which stays closed whatever mode the set has."""
        return cls(path=folder / "files")


KIND = Kind(
    settings=FilesSettings,
    target=FilesTarget,
    restore_order=40,
    parts="Paths or patterns below the folder, one a line: 2026/03, 2026/**/*.pdf, *.docx.",
)
