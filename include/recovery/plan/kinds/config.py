"""Named files and folders: as a source and as a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from recovery.plan.field_types import AbsolutePath, Pattern
from recovery.plan.source_settings import Kind, SourceSettings, TargetSettings, TreeSettings


class ConfigSettings(TreeSettings):
    """Named files and folders that hold settings or code."""

    paths: Annotated[tuple[AbsolutePath, ...], Field(min_length=1)]
    exclude: tuple[Pattern, ...] = ()
    """Shell patterns of names or of paths below a named folder."""

    def roots(self) -> tuple[Path, ...]:
        """The named files and folders."""
        return self.paths

    def choices(self) -> Sequence[str]:
        """The named files and folders."""
        return [str(path) for path in self.paths]


class ConfigTarget(TargetSettings):
    """A folder below which every named path gets its place: ``/srv/app/.env`` becomes ``<folder>/srv/app/.env``."""

    folder: AbsolutePath

    def folder_of_all(self) -> Path:
        """The folder."""
        return self.folder

    def roots(self, source: SourceSettings) -> tuple[Path, ...]:
        """The named files and folders, below the folder."""
        return tuple(self.folder / path.relative_to(path.anchor) for path in source.roots())

    @classmethod
    def in_scratch(cls, connection: str, folder: Path) -> TargetSettings:
        """The drill's folder."""
        return cls(folder=folder)


KIND = Kind(
    settings=ConfigSettings,
    target=ConfigTarget,
    restore_order=10,
    parts="Files or folders of the plan; one below these has to be written under Advanced Options.",
)
