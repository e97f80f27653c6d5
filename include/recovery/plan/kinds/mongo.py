"""Settings of MongoDB: as a source and as a target."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from recovery.plan.field_types import ConnectionId, DatabaseName, Part


class MongoTarget(Part):
    """A MongoDB server to restore to."""

    accounts: ClassVar[bool] = False
    """Users and roles are not brought there: they would open somebody else's server to the users of this one."""
    connection: ConnectionId
    databases: dict[DatabaseName, DatabaseName] = {}
    """Other names for databases there, by their name in the set."""
    collections: dict[str, str] = {}
    """Other names for collections there, by ``database.collection`` of the set."""


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
