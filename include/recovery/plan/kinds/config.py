"""Settings of named files and folders: as a source and as a target."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from recovery.plan.field_types import AbsolutePath, Part


class ConfigTarget(Part):
    """A folder below which every named path gets its place: ``/srv/app/.env`` becomes ``<folder>/srv/app/.env``."""

    folder: AbsolutePath


class ConfigSource(Part):
    """Named files and folders that hold settings or code."""

    snapshot: ClassVar[bool] = False
    every_database: ClassVar[bool] = False

    paths: Annotated[tuple[AbsolutePath, ...], Field(min_length=1)]
    exclude: tuple[str, ...] = ()
    """Shell patterns of names or of paths below a named folder."""
