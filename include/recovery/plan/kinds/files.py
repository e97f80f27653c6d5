"""Settings of a folder: as a source and as a target."""

from __future__ import annotations

from typing import ClassVar

from recovery.plan.field_types import AbsolutePath, Part


class FilesTarget(Part):
    """A folder to restore to."""

    path: AbsolutePath


class FilesSource(Part):
    """A folder with everything in it."""

    snapshot: ClassVar[bool] = False
    every_database: ClassVar[bool] = False

    path: AbsolutePath
    exclude: tuple[str, ...] = ()
    """Shell patterns (``*.tmp``, ``cache/*``) of names or of paths below the folder."""
