"""What a plan protects: the settings of each kind of source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from recovery.plan_types import AbsolutePath, ConnectionId, Name, Part


class PostgresSource(Part):
    """A PostgreSQL server."""

    snapshot: ClassVar[bool] = True

    connection: ConnectionId
    databases: tuple[str, ...] = ()
    """Names; empty means every database of the server."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Tables that are dumped and restored at the same time."""
    schema_sql: bool = False
    """Also keep a schema-only SQL file of each database."""

    @property
    def every_database(self) -> bool:
        """Whether whatever the server has is protected."""
        return not self.databases


class MongoSource(Part):
    """A MongoDB replica set or standalone server."""

    snapshot: ClassVar[bool] = True

    connection: ConnectionId
    databases: tuple[str, ...] = ()
    """Names; empty means every database but config and local."""
    collections: tuple[str, ...] = ()
    """``database.collection`` names; empty means every collection."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Collections that are read and restored at the same time."""

    @property
    def every_database(self) -> bool:
        """Whether whatever the server has is protected."""
        return not (self.databases or self.collections)

    @model_validator(mode="after")
    def _collections_have_databases(self) -> MongoSource:
        for name in self.collections:
            database, dot, collection = name.partition(".")
            if not (database and dot and collection):
                raise ValueError(f"collections: {name!r} must be written database.collection")
            if self.databases and database not in self.databases:
                raise ValueError(f"collections: the database of {name!r} is not among databases")
        return self


class FilesSource(Part):
    """A folder with everything in it."""

    snapshot: ClassVar[bool] = False
    every_database: ClassVar[bool] = False

    path: AbsolutePath
    exclude: tuple[str, ...] = ()
    """Shell patterns (``*.tmp``, ``cache/*``) of names or of paths below the folder."""


class ConfigSource(Part):
    """Named files and folders that hold settings or code."""

    snapshot: ClassVar[bool] = False
    every_database: ClassVar[bool] = False

    paths: Annotated[tuple[AbsolutePath, ...], Field(min_length=1)]
    exclude: tuple[str, ...] = ()
    """Shell patterns of names or of paths below a named folder."""


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
