"""Settings of PostgreSQL: as a source and as a target."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from recovery.plan.field_types import ConnectionId, DatabaseName, Part


class PostgresTarget(Part):
    """A PostgreSQL server to restore to."""

    connection: ConnectionId
    databases: dict[DatabaseName, DatabaseName] = {}
    """Other names for databases there, by their name in the set."""


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
