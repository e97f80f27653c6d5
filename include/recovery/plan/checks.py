"""Checks: what a healthy system answers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import PurePath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from recovery.plan.field_types import (
    Argv,
    DatabaseName,
    Duration,
    ExtendedJson,
    Part,
    SourceId,
    exactly_one,
)


class HttpQuestion(Part):
    """An address that has to answer."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    status: Annotated[int, Field(ge=100, le=599)] = 200
    """The status that is right."""
    fields: dict[str, JsonValue] = {}
    """Values that fields of the JSON answer must have, by dotted path: ``{database.state: ok, "nodes.0.up": true}``."""

    @field_validator("url")
    @classmethod
    def _whole(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            whole = bool(parts.hostname) and parts.port != 0
        except ValueError:
            whole = False
        if not whole:
            raise ValueError("write an address with a host, such as https://app.example.org/health")
        return url


class SqlQuestion(Part):
    """A query of one value."""

    source: SourceId
    database: DatabaseName
    query: Annotated[str, Field(min_length=1)]
    equals: JsonValue = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one(self) -> SqlQuestion:
        exactly_one(self, "equals", "at_least")
        return self


class MongoQuestion(Part):
    """A count of documents, or the only value of an aggregation's only document."""

    source: SourceId
    database: DatabaseName
    collection: Annotated[str, Field(min_length=1)]
    filter: ExtendedJson = {}
    """Which documents are counted."""
    pipeline: tuple[ExtendedJson, ...] = ()
    """Instead of a count: an aggregation with one document of one field, beside ``_id``."""
    equals: JsonValue = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one(self) -> MongoQuestion:
        exactly_one(self, "equals", "at_least")
        if self.filter and self.pipeline:
            raise ValueError("write filter or pipeline, not both")
        if writing := {"$out", "$merge"} & {name for step in self.pipeline for name in step}:
            raise ValueError(f"a check writes nothing; leave {' and '.join(sorted(writing))} out of the pipeline")
        return self


class Check(Part):
    """What a healthy system answers; asked after a restore, and those of databases after a drill too."""

    name: str = ""
    """For people; default: what is asked."""
    argv: Argv | None = None
    http: HttpQuestion | None = None
    sql: SqlQuestion | None = None
    mongo: MongoQuestion | None = None
    timeout: Duration = timedelta(seconds=30)
    """How long each try may take."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """How often it is tried again before it counts as failed."""
    pause: Duration = timedelta(seconds=5)
    """Between two tries."""

    @model_validator(mode="after")
    def _one(self) -> Check:
        exactly_one(self, "argv", "http", "sql", "mongo")
        return self

    @property
    def source(self) -> str | None:
        """The source that it asks; None for one that asks the system as a whole, which only makes sense where that runs."""
        return next((part.source for part in (self.sql, self.mongo) if part), None)

    @property
    def title(self) -> str:
        """Its name, or what it asks, without what may be secret: arguments of a command, login and query of an address."""
        if self.name:
            return self.name
        if self.argv:
            return PurePath(self.argv[0]).name
        if self.http:
            url = urlsplit(self.http.url)
            return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
        if self.sql:
            return f"a query in {self.sql.database} of {self.sql.source}"
        assert self.mongo
        return f"{self.mongo.database}.{self.mongo.collection} of {self.mongo.source}"
