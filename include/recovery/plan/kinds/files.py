"""Folders: as a source and as a target."""

from __future__ import annotations

from pathlib import Path

from recovery.plan.field_types import AbsolutePath, Pattern
from recovery.plan.source_settings import Kind, SourceSettings, TargetSettings, TreeSettings


class FilesSettings(TreeSettings):
    """A folder with everything in it."""

    path: AbsolutePath
    exclude: tuple[Pattern, ...] = ()
    """Shell patterns (``*.tmp``, ``cache/*``) of names or of paths below the folder."""

    def roots(self) -> tuple[Path, ...]:
        """The folder."""
        return (self.path,)

    def left_out(self, inside: Path) -> Path | None:
        """The top-level entry, if it is excluded: what is excluded deeper goes with its folder all the same."""
        return super().left_out(Path(*inside.parts[:1]))


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
