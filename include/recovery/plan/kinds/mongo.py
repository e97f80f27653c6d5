"""MongoDB: as a source, as a target, in hooks and checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from recovery.plan.field_types import ExtendedJson, Folders, extended_json
from recovery.plan.location import Location
from recovery.plan.name_patterns import glob
from recovery.plan.source_settings import Kind, Question, ServerSettings, ServerTarget, Statement


def _inside(text: str) -> str:
    database, _, collection = text.partition(".")
    if not (database and collection):
        raise ValueError(f"{text!r} must be written database.collection, where * stands for any characters")
    return text


Inside = Annotated[str, Field(min_length=1, max_length=250, description="A pattern: database.collection."), AfterValidator(_inside)]


class MongoSettings(ServerSettings):
    """A MongoDB replica set or standalone server."""

    family: ClassVar[str] = "mongo"

    databases: tuple[str, ...] = ()
    """Names; empty means every database but config and local."""
    collections: tuple[str, ...] = ()
    """``database.collection`` names; empty means every collection."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Collections that are read and restored at the same time."""
    exclude: tuple[Inside, ...] = ()
    """Collections and time series that are not backed up. Views hold nothing, and always are."""

    @property
    def every_database(self) -> bool:
        """Whether whatever the server has is protected."""
        return not (self.databases or self.collections)

    def parts(self) -> Sequence[Location]:
        """See :meth:`ServerSettings.parts`."""
        return [tuple(name.split(".", 1)) for name in self.collections or self.databases]

    def excluding(self, full: str) -> list[str]:
        """The patterns of ``exclude`` that ``database.collection`` fits."""
        return [text for text in self.exclude if glob(text).fullmatch(full)]

    @model_validator(mode="after")
    def _excludes_have_databases(self) -> Self:
        if self.exclude and self.collections:
            raise ValueError("write collections or exclude, not both")
        for text in self.exclude:
            database = glob(text.partition(".")[0])
            if self.databases and not any(map(database.fullmatch, self.databases)):
                raise ValueError(f"exclude: the database of {text!r} is not among databases")
        return self

    @model_validator(mode="after")
    def _collections_have_databases(self) -> Self:
        for name in self.collections:
            database, dot, collection = name.partition(".")
            if not (database and dot and collection):
                raise ValueError(f"collections: {name!r} must be written database.collection")
            if self.databases and database not in self.databases:
                raise ValueError(f"collections: the database of {name!r} is not among databases")
        return self


class MongoTarget(ServerTarget):
    """A MongoDB server to restore to."""

    accounts: ClassVar[bool] = False
    """Users and roles are not brought there: they would open somebody else's server to the users of this one."""
    collections: dict[str, str] = {}
    """Other names for collections there, by ``database.collection`` of the set."""

    def renamed(self, part: Location) -> Location:
        """See :meth:`ServerTarget.renamed`."""
        database, *inner = super().renamed(part)
        return (database, *(self.collections.get(".".join(part), name) for name in inner))

    @classmethod
    def in_scratch(cls, connection: str, folder: Path) -> MongoTarget:
        """See :meth:`recovery.plan.source_settings.TargetSettings.in_scratch`."""
        return _ScratchTarget(connection=connection)


class _ScratchTarget(MongoTarget):
    """Users and roles meet nobody's in a scratch server, so they are brought, and the drill is about them too."""

    accounts: ClassVar[bool] = True


class MongoCommand(Statement):
    """A command for a database of a source."""

    kind: ClassVar[str] = "mongo"

    command: Annotated[dict[str, JsonValue], Field(min_length=1), AfterValidator(extended_json)]
    """As in ``db.runCommand``: the command's name comes first."""

    @property
    def title(self) -> str:
        """See :attr:`Statement.title`."""
        return f"{next(iter(self.command))} in {self.database} of {self.source}"


class MongoQuestion(Question):
    """A count of documents, or the only value of an aggregation's only document."""

    kind: ClassVar[str] = "mongo"

    collection: Annotated[str, Field(min_length=1)]
    filter: ExtendedJson = {}
    """Which documents are counted."""
    pipeline: tuple[ExtendedJson, ...] = ()
    """Instead of a count: an aggregation with one document of one field, beside ``_id``."""

    @model_validator(mode="after")
    def _reads_one_way(self) -> Self:
        if self.filter and self.pipeline:
            raise ValueError("write filter or pipeline, not both")
        if writing := {"$out", "$merge"} & {name for step in self.pipeline for name in step}:
            raise ValueError(f"a check writes nothing; leave {' and '.join(sorted(writing))} out of the pipeline")
        return self

    @property
    def title(self) -> str:
        """See :attr:`Question.title`."""
        return f"{self.database}.{self.collection} of {self.source}"


KIND = Kind(
    settings=MongoSettings,
    target=MongoTarget,
    restore_order=30,
    parts="Databases or collections, one a line: sales, sales.orders.",
    tools=Folders,
    query="mongo",
    statement=MongoCommand,
    question=MongoQuestion,
)
