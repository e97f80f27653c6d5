"""What a plan says of a source, of its targets, and of queries to it, whatever its kind; ``kinds/`` adds the keys of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import JsonValue, model_validator

from recovery.plan.docker import Reach
from recovery.plan.excludes import Excludes
from recovery.plan.field_types import AirflowName, ConnectionId, DatabaseName, Part, Pattern, SourceId, exactly_one
from recovery.plan.location import Location


class SourceSettings(Part):
    """What is protected."""

    snapshot: ClassVar[bool]
    """Whether it is read as of one instant, which those that are scanned wait for."""
    family: ClassVar[str]
    """Sources of one family may lie in the same location; it begins their locations."""

    @property
    def every_database(self) -> bool:
        """Whether whatever the server has is protected."""
        return False

    def roots(self) -> tuple[Path, ...]:
        """The folders and files that it has whole; none of a server."""
        return ()

    def left_out(self, inside: Path) -> Path | None:
        """The topmost entry that it excludes on the way to a path below its folder; None if it has what lies there."""
        return None

    def on_server(self, there: TargetSettings | None = None) -> set[Location]:
        """What it has on its server, or gets at a target: family, connection, database and so on; without names, all of the server."""
        return set()

    def choices(self) -> Sequence[str]:
        """Parts that the restore form offers; none where people write them."""
        return ()


class TargetSettings(Part):
    """Somewhere else that a source is restored to."""

    def folder_of_all(self) -> Path | None:
        """The folder that everything goes into; None on a server."""
        return None

    def roots(self, source: SourceSettings) -> tuple[Path, ...]:
        """The folders and files that the source gets here; none on a server."""
        return ()

    @classmethod
    def in_scratch(cls, connection: str, folder: Path) -> TargetSettings:
        """The target that a drill makes.

        Args:
            connection: id of the Connection to its server, if it has one.
            folder: the drill's own for this source.
        """
        raise NotImplementedError(cls)


class ServerSettings(SourceSettings):
    """Databases of a server."""

    snapshot: ClassVar[bool] = True

    connection: ConnectionId
    databases: tuple[str, ...] = ()
    """Names; empty means every database of the server."""
    reach: Reach | None = None
    """The container that the server runs in; default: the Connection has its address. The Connection's port is that inside it."""
    pool: AirflowName | None = None
    """Airflow pool of its dumps, which so wait for those of other plans at the same server."""

    @property
    def every_database(self) -> bool:
        """Whether whatever the server has is protected."""
        return not self.databases

    def on_server(self, there: TargetSettings | None = None) -> set[Location]:
        """See :meth:`SourceSettings.on_server`."""
        assert isinstance(there, ServerTarget | None)
        inside = {there.renamed(part) if there else part for part in self.parts()}
        return {(self.family, (there or self).server, *names) for names in inside or {()}}

    @property
    def server(self) -> str:
        """What tells its server from others, as far as the plan says."""
        return self.reach.docker.place if self.reach else self.connection

    def parts(self) -> Sequence[Location]:
        """What the plan names: databases, or what is in them."""
        return [(name,) for name in self.databases]


class ServerTarget(TargetSettings):
    """A server."""

    connection: ConnectionId
    databases: dict[DatabaseName, DatabaseName] = {}
    """Other names for databases there, by their name in the set."""
    reach: Reach | None = None
    """The container that the server runs in; default: the Connection has its address. The Connection's port is that inside it."""

    @property
    def server(self) -> str:
        """What tells its server from others, as far as the plan says."""
        return self.reach.docker.place if self.reach else self.connection

    def renamed(self, part: Location) -> Location:
        """What a database, or something in it, is called here."""
        database, *inner = part
        return (self.databases.get(database, database), *inner)

    @classmethod
    def in_scratch(cls, connection: str, folder: Path) -> TargetSettings:
        """See :meth:`TargetSettings.in_scratch`."""
        return cls(connection=connection)


class TreeSettings(SourceSettings):
    """Folders or files, scanned and read where they are."""

    snapshot: ClassVar[bool] = False
    family: ClassVar[str] = "files"

    exclude: tuple[Pattern, ...] = ()
    """Shell patterns of names or of paths below a folder."""

    def left_out(self, inside: Path) -> Path | None:
        """See :meth:`SourceSettings.left_out`."""
        depth = Excludes(self.exclude).topmost(os.fsencode(inside)) if inside.parts else 0
        return Path(*inside.parts[:depth]) if depth else None


class Statement(Part):
    """What a hook has a source do."""

    kind: ClassVar[str]
    """Of the sources that understand it."""

    source: SourceId
    database: DatabaseName

    @property
    def title(self) -> str:
        """What it is, for people, without what may be secret."""
        raise NotImplementedError(type(self))


class Question(Part):
    """What a check asks a source: one value."""

    kind: ClassVar[str]
    """Of the sources that understand it."""

    source: SourceId
    database: DatabaseName
    equals: JsonValue = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self, "equals", "at_least")
        return self

    @property
    def title(self) -> str:
        """What it asks, for people, without what may be secret."""
        raise NotImplementedError(type(self))


@dataclass(frozen=True)
class Kind:
    """A kind of source, as plans know it."""

    settings: type[SourceSettings]
    target: type[TargetSettings]
    restore_order: int
    """Sources are restored in this order: settings first, what is named in databases last."""
    parts: str
    """What people write into the restore form for a part, in words."""
    tools: Any = None
    """What a plan may say of its client tools, a type of :mod:`recovery.plan.field_types`; None if it takes none."""
    query: str = ""
    """The key under which hooks and checks have its statements and questions; empty if it can't be asked."""
    statement: type[Statement] | None = None
    question: type[Question] | None = None
