"""Plan files: one YAML file says which system is protected, how often, where to, kept how long. Validated and frozen.

Reading a plan opens no connection and needs no secret: credentials are Airflow Connections, named by id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from recovery.units import parse_duration, parse_size

_JSON_DURATION = {"type": "string", "examples": ["90s", "30m", "24h", "7d", "1d12h"]}
_JSON_SIZE = {"type": ["string", "integer"], "examples": ["512MiB", "1GiB", "20GB"]}


def _duration(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else _only(value, timedelta, "a duration such as 24h")


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else _only(value, int, "a size such as 1GiB")


def _only(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"write {what}")
    return value


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} must be an absolute path")
    if ".." in path.parts:
        raise ValueError(f"{str(path)!r} must not contain '..'")
    return path


def _cron(text: str) -> str:
    from croniter import croniter

    if text.startswith("@") or not croniter.is_valid(text) or len(text.split()) != 5:
        raise ValueError(f"{text!r} is not a cron expression of five fields, such as '0 1 * * *'")
    return text


def _timezone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"{text!r} is not a timezone; write for example UTC or Europe/Berlin") from None
    return text


def _recipient(text: str) -> str:
    import pyrage

    try:
        pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise ValueError(f"{text!r} is not an age recipient; it begins with age1, from `python -m recovery keys create`") from None
    return text


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$", description="Lower-case letters, digits, - and _.")]
ConnectionId = Annotated[str, Field(min_length=1, max_length=250, description="Id of an Airflow Connection.")]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration, json_schema_input_type=str),
    PlainSerializer(lambda span: f"{int(span.total_seconds())}s"),
    Field(json_schema_extra=_JSON_DURATION),
]
Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=str | int), Field(json_schema_extra=_JSON_SIZE)]
Argv = Annotated[tuple[str, ...], Field(min_length=1, description="A command and its arguments; no shell reads them.")]
Level = Literal["stored", "decoded", "restored"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Objectives(_Part):
    """What the business agreed to."""

    rpo: Duration = timedelta(hours=24)
    """How much data may be lost, as time: a set older than this is not restored unless somebody confirms it."""
    rto: Duration = timedelta(hours=2)
    """How long a restore may take."""


class PostgresSource(_Part):
    """A PostgreSQL server."""

    snapshot: ClassVar[bool] = True

    connection: ConnectionId
    databases: tuple[str, ...] = ()
    """Names; empty means every database of the server."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Tables that are dumped and restored at the same time."""
    schema_sql: bool = False
    """Also keep a schema-only SQL file of each database."""


class MongoSource(_Part):
    """A MongoDB replica set or standalone server."""

    snapshot: ClassVar[bool] = True

    connection: ConnectionId
    databases: tuple[str, ...] = ()
    """Names; empty means every database but config and local."""
    collections: tuple[str, ...] = ()
    """``database.collection`` names; empty means every collection."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Collections that are read and restored at the same time."""

    @model_validator(mode="after")
    def _collections_have_databases(self) -> MongoSource:
        for name in self.collections:
            database, dot, collection = name.partition(".")
            if not (database and dot and collection):
                raise ValueError(f"collections: {name!r} must be written database.collection")
            if self.databases and database not in self.databases:
                raise ValueError(f"collections: the database of {name!r} is not among databases")
        return self


class FilesSource(_Part):
    """A folder with everything in it."""

    snapshot: ClassVar[bool] = False

    path: AbsolutePath
    exclude: tuple[str, ...] = ()
    """Shell patterns (``*.tmp``, ``cache/*``) of names or of paths below the folder."""


class ConfigSource(_Part):
    """Named files and folders that hold settings or code."""

    snapshot: ClassVar[bool] = False

    paths: Annotated[tuple[AbsolutePath, ...], Field(min_length=1)]
    exclude: tuple[str, ...] = ()
    """Shell patterns of names or of paths below a named folder."""


Settings = PostgresSource | MongoSource | FilesSource | ConfigSource
"""Settings of a source; ``snapshot`` says whether it is read as of one instant, which those that are scanned wait for."""


class Sources(_Part):
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


class Encryption(_Part):
    """Who can read the backups."""

    recipients: Annotated[tuple[Annotated[str, AfterValidator(_recipient)], ...], Field(min_length=1)]
    """age public keys; any one of their identities opens the sets."""
    identity: ConnectionId | None = None
    """Connection with the age identity as its password, to verify and restore. Without it verify reaches only ``stored``."""


class Keep(_Part):
    """Which sets a destination keeps: all that any rule wants."""

    within: Duration | None = None
    """Every set younger than this."""
    last: Annotated[int, Field(ge=1)] | None = None
    """This many newest sets."""

    @model_validator(mode="after")
    def _some_rule(self) -> Keep:
        if self.within is None and self.last is None:
            raise ValueError("write at least one rule, such as {within: 30d} or {last: 14}")
        return self


class S3Place(_Part):
    """A bucket and where in it."""

    connection: ConnectionId
    bucket: Annotated[str, Field(min_length=3, max_length=63)]
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*)?$")] = ""


class Destination(_Part):
    """A place where sets are kept: a folder or an S3 bucket."""

    folder: AbsolutePath | None = None
    s3: S3Place | None = None
    keep: Keep

    @model_validator(mode="after")
    def _one_place(self) -> Destination:
        if (self.folder is None) == (self.s3 is None):
            raise ValueError("write either folder or s3")
        return self


class Approver(_Part):
    """A person who may answer gates."""

    id: Annotated[str, Field(min_length=1)]
    """User name, as they log in."""
    name: Annotated[str, Field(min_length=1)]


class Approvals(_Part):
    """Who opens the gates of a restore."""

    approvers: Annotated[tuple[Approver, ...], Field(min_length=1)]
    timeout: Duration = timedelta(hours=12)
    """How long a gate waits for an answer. None in time is a rejection, except at the last gate."""
    signing: ConnectionId | None = None
    """Connection with the key that signs approvals; default: the plan's signing key."""


class Services(_Part):
    """What uses the data: stopped before the switch, started and checked after it."""

    stop: tuple[Argv, ...] = ()
    start: tuple[Argv, ...] = ()
    check: tuple[Argv, ...] = ()
    timeout: Duration = timedelta(minutes=5)
    """How long each command may take."""


class Mail(_Part):
    """Mail to people when a backup or restore fails, or a gate waits."""

    connection: ConnectionId
    """An SMTP connection."""
    to: Annotated[tuple[str, ...], Field(min_length=1)]
    sender: str


class Alerts(_Part):
    """Who is told."""

    mail: Mail | None = None
    ping: ConnectionId | None = None
    """An HTTP Connection whose address is called after every complete backup, so that somebody outside notices when none comes."""


class Staging(_Part):
    """Where dumps and packs lie until every destination has them; a folder that all workers share."""

    folder: AbsolutePath = Path("/var/lib/recovery/staging")
    keep: Duration = timedelta(days=3)
    """Packs that a destination still lacks stay this long, so that a failed upload can be cleared without a new dump."""
    cap: Size | None = None
    """Packs of older runs are removed, oldest first, when all of them together are larger than this."""


class Tools(_Part):
    """Folders with client tools, looked at before PATH."""

    postgres: tuple[AbsolutePath, ...] = ()
    mongo: tuple[AbsolutePath, ...] = ()


class Plan(_Part):
    """One system and how it is protected."""

    plan: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    """The plan's name: a lower-case letter, then letters, digits and _. DAGs and folders are named after it."""
    schedule: Annotated[str, AfterValidator(_cron)] | None = "0 1 * * *"
    """Cron expression in ``timezone``; null for backups by hand only."""
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    """Name of the timezone in which ``schedule`` is meant, such as ``Europe/Berlin``."""
    owner: str = "operations"
    """Shown as the DAGs' owner."""
    objectives: Objectives = Objectives()
    sources: Sources
    encryption: Encryption
    signing: ConnectionId
    """Connection with the Ed25519 key that signs sets, as its password."""
    destinations: Annotated[dict[Name, Destination], Field(min_length=1)]
    good: Literal["stored", "decoded"] = "decoded"
    """What verify must reach before a set counts as good: ``stored`` or ``decoded``."""
    approvals: Approvals
    services: Services = Services()
    alerts: Alerts = Alerts()
    staging: Staging = Staging()
    tools: Tools = Tools()
    pack: Size = 1 << 30
    """Packs are filled to about this size, before compression."""
    compression: Annotated[int, Field(ge=1, le=19)] = 1
    """zstd level."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a backup's task is tried again after a failure that may pass."""
    retry_delay: Duration = timedelta(minutes=1)
    """Pause before the first retry; it doubles from one to the next."""
    timeout: Duration = timedelta(hours=6)
    """How long any one task may take."""
    keep_before: Duration = timedelta(days=7)
    """How long the copies that a restore set aside are kept."""

    @model_validator(mode="after")
    def _fits_together(self) -> Plan:
        if self.good == "decoded" and self.encryption.identity is None:
            raise ValueError("good: 'decoded' needs encryption.identity; name the Connection, or write good: stored")
        for source_id, source in self.sources:
            for root in (source.path,) if isinstance(source, FilesSource) else source.paths if isinstance(source, ConfigSource) else ():
                for key, folder in self._own_folders():
                    if folder.is_relative_to(root):
                        raise ValueError(f"{key}: {folder} lies in the source {source_id}, which would back up its own backups")
        return self

    @model_validator(mode="after")
    def _no_overlap(self) -> Plan:
        folders = {f"sources.files.{name}.path": source.path for name, source in self.sources.files.items()}
        for key, folder in folders.items():
            for other, outer in folders.items():
                if key != other and folder.is_relative_to(outer):
                    raise ValueError(
                        f"{key}: {folder} lies in {outer} of {other}; a folder can be in one source only, so leave one of them out"
                    )
        return self

    def _own_folders(self) -> Iterator[tuple[str, Path]]:
        yield "staging.folder", self.staging.folder
        for name, destination in self.destinations.items():
            if destination.folder:
                yield f"destinations.{name}.folder", destination.folder

    def source(self, source_id: str) -> Settings:
        """The settings of ``<component>.<name>``.

        Raises:
            KeyError: if the plan has no such source.
        """
        return dict(self.sources)[source_id]

    @property
    def source_ids(self) -> Sequence[str]:
        """Every source's ``<component>.<name>``, in the order of restoring."""
        return [source_id for source_id, _ in self.sources]
