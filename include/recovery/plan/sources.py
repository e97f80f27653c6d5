"""What a plan protects: the settings of each kind of source."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import model_validator

from recovery.plan.field_types import Name, Part
from recovery.plan.kinds.config import ConfigSource
from recovery.plan.kinds.files import FilesSource
from recovery.plan.kinds.mongo import MongoSource
from recovery.plan.kinds.postgres import PostgresSource

Settings = PostgresSource | MongoSource | FilesSource | ConfigSource
"""Settings of a source; ``snapshot`` says whether it is read as of one instant, which those that are scanned wait for."""


class Sources(Part):
    """What is protected, by component and a name of your choice."""

    postgres: dict[Name, PostgresSource] = {}
    mongo: dict[Name, MongoSource] = {}
    files: dict[Name, FilesSource] = {}
    config: dict[Name, ConfigSource] = {}

    @model_validator(mode="after")
    def _something(self) -> Sources:
        if not any(self):
            raise ValueError("name at least one source")
        return self

    def __iter__(self) -> Iterator[tuple[str, Settings]]:  # type: ignore[override]
        """``(<component>.<name>, settings)`` of every source, in the order in which a system is restored."""
        for kind in ("config", "postgres", "mongo", "files"):
            for name, settings in getattr(self, kind).items():
                yield f"{kind}.{name}", settings
