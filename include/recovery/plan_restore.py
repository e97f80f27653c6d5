"""What a restore and a drill need beside the sources: services, hooks, checks, targets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import PurePath
from typing import Annotated, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator

from recovery.plan_types import SCRATCH, AbsolutePath, Argv, ConnectionId, Duration, Gate, Name, Part, cron

Moment = Literal["before_backup", "after_backup", "after_failed_backup", "before_restore", "after_restore"]
"""When hooks are done."""

SourceId = Annotated[str, Field(pattern=r"^(postgres|mongo|files|config)\.[a-z][a-z0-9_-]{0,39}$", description="<component>.<name>")]
DatabaseName = Annotated[str, Field(min_length=1, max_length=63)]


def _extended_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Check that MongoDB can be told a value, dates and ids in it as extended JSON writes them."""
    if (place := _unsaid(value)) is not None:
        where = f" at {'.'.join(map(str, place))}" if place else ""
        raise ValueError(
            f"this is not MongoDB's extended JSON{where}: write dates as {{$date: '2026-11-23T01:00:00Z'}}, ids as {{$oid: 24 hexadecimal"
            " digits}, numbers of at most 64 bits"
        )
    return value


def _unsaid(value: JsonValue, place: tuple[str | int, ...] = ()) -> tuple[str | int, ...] | None:
    """Where the innermost part is that extended JSON does not know; None if it knows all of them."""
    from bson import encode, json_util  # takes its time, and few plans need it

    try:
        encode({"value": json_util.loads(json.dumps(value))})
    except Exception:  # noqa: BLE001 - each kind of value fails in its own way
        parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return next((found for key, part in parts if (found := _unsaid(part, (*place, key))) is not None), place)
    return None


ExtendedJson = Annotated[dict[str, JsonValue], AfterValidator(_extended_json)]


class Services(Part):
    """What uses the data: stopped before the switch, started after it."""

    stop: tuple[Argv, ...] = ()
    start: tuple[Argv, ...] = ()
    timeout: Duration = timedelta(minutes=5)
    """How long each command may take."""


class SqlStatement(Part):
    """SQL for a database of a source."""

    source: SourceId
    database: DatabaseName
    statement: Annotated[str, Field(min_length=1)]


class MongoCommand(Part):
    """A command for a database of a source."""

    source: SourceId
    database: DatabaseName
    command: Annotated[dict[str, JsonValue], Field(min_length=1), AfterValidator(_extended_json)]
    """As in ``db.runCommand``: the command's name comes first."""


def _one_of(part: Part, *names: str) -> None:
    given = [name for name in names if getattr(part, name) is not None]
    if len(given) != 1:
        raise ValueError(f"write exactly one of {', '.join(names)}" + (f", not {' and '.join(given)}" if given else ""))


class Hook(Part):
    """Something of yours that is done at a certain moment: a command, SQL, or a MongoDB command."""

    argv: Argv | None = None
    sql: SqlStatement | None = None
    mongo: MongoCommand | None = None
    timeout: Duration = timedelta(minutes=5)
    """How long it may take."""

    @model_validator(mode="after")
    def _one(self) -> Hook:
        _one_of(self, "argv", "sql", "mongo")
        return self

    @property
    def source(self) -> str | None:
        """The source that it needs; None for a command."""
        return next((part.source for part in (self.sql, self.mongo) if part), None)

    @property
    def title(self) -> str:
        """What it is, for people: without arguments, which may be secret."""
        if self.argv:
            return PurePath(self.argv[0]).name
        if self.sql:
            return f"SQL in {self.sql.database} of {self.sql.source}"
        assert self.mongo
        return f"{next(iter(self.mongo.command))} in {self.mongo.database} of {self.mongo.source}"


class Hooks(Part):
    """What is done before and after backups and restores. One that fails before stops the run; after, it fails it."""

    before_backup: tuple[Hook, ...] = ()
    after_backup: tuple[Hook, ...] = ()
    """Whatever became of the backup."""
    after_failed_backup: tuple[Hook, ...] = ()
    """Only if a destination has no set with all that was to be backed up; after those of ``after_backup``."""
    before_restore: tuple[Hook, ...] = ()
    """After the second gate, before the services are stopped."""
    after_restore: tuple[Hook, ...] = ()
    """Whatever became of the restore, once one of ``before_restore`` was begun."""

    def of(self, moment: Moment) -> list[tuple[str, Hook]]:
        """``(key, hook)`` of every hook of a moment, as in ``before_backup.0``."""
        hooks: tuple[Hook, ...] = getattr(self, moment)
        return [(f"{moment}.{number}", hook) for number, hook in enumerate(hooks)]

    def all(self) -> Iterator[tuple[str, Hook]]:
        """``(key, hook)`` of every hook."""
        for moment in get_args(Moment):
            yield from self.of(moment)


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
        _one_of(self, "equals", "at_least")
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
        _one_of(self, "equals", "at_least")
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
        _one_of(self, "argv", "http", "sql", "mongo")
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


class PostgresTarget(Part):
    """A PostgreSQL server to restore to."""

    connection: ConnectionId
    databases: dict[DatabaseName, DatabaseName] = {}
    """Other names for databases there, by their name in the set."""


class MongoTarget(Part):
    """A MongoDB server to restore to."""

    accounts: ClassVar[bool] = False
    """Users and roles are not brought there: they would open somebody else's server to the users of this one."""
    connection: ConnectionId
    databases: dict[DatabaseName, DatabaseName] = {}
    """Other names for databases there, by their name in the set."""
    collections: dict[str, str] = {}
    """Other names for collections there, by ``database.collection`` of the set."""


class FilesTarget(Part):
    """A folder to restore to."""

    path: AbsolutePath


class ConfigTarget(Part):
    """A folder below which every named path gets its place: ``/srv/app/.env`` becomes ``<folder>/srv/app/.env``."""

    folder: AbsolutePath


TargetSettings = PostgresTarget | MongoTarget | FilesTarget | ConfigTarget


class TargetSources(Part):
    """Where each source goes, by component and the source's name in the plan. What is not named can't be restored there."""

    postgres: dict[Name, PostgresTarget] = {}
    mongo: dict[Name, MongoTarget] = {}
    files: dict[Name, FilesTarget] = {}
    config: dict[Name, ConfigTarget] = {}

    @model_validator(mode="after")
    def _something(self) -> TargetSources:
        if not any(self):
            raise ValueError("name at least one source")
        return self

    def __iter__(self) -> Iterator[tuple[str, TargetSettings]]:  # type: ignore[override]
        """``(<component>.<name>, settings)``, in the order in which a system is restored."""
        for kind in ("config", "postgres", "mongo", "files"):
            for name, settings in getattr(self, kind).items():
                yield f"{kind}.{name}", settings


class Target(Part):
    """Somewhere else than the live system, such as a staging system."""

    sources: TargetSources
    gates: tuple[Gate, ...] = ("plan", "switch", "accept")
    """The gates that a restore to it goes through."""
    services: Services = Services()
    """What uses the data there."""
    checks: tuple[Check, ...] = ()
    """More checks there, after the plan's own of databases."""


class Drill(Part):
    """How often a set is restored for practice, and where."""

    schedule: Annotated[str, AfterValidator(cron)] | None = None
    """Cron expression in the plan's timezone; null: not by the clock."""
    on_new_set: bool = False
    """Also whenever a complete set was made."""
    target: str = SCRATCH
    """``scratch`` for servers and folders that the drill makes and removes itself, or one of ``targets``."""
    sources: tuple[SourceId, ...] = ()
    """Empty: all of the plan, or all that the target has."""
    destinations: tuple[Name, ...] = ()
    """The set is fetched from one of these, each in its turn; empty: all."""
    folder: AbsolutePath | None = None
    """Where scratch servers and folders are made, on the worker's own disk; default: staging."""
    queue: str | None = None
    """Airflow queue of the drill's tasks: scratch servers need all of them on one worker."""
