"""Hooks: commands, SQL and MongoDB commands around backups and restores."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import PurePath
from typing import Annotated, get_args

from pydantic import AfterValidator, Field, JsonValue, model_validator

from recovery.plan.field_types import (
    Argv,
    DatabaseName,
    Duration,
    Moment,
    Part,
    SourceId,
    exactly_one,
    extended_json,
)


class SqlStatement(Part):
    """SQL for a database of a source."""

    source: SourceId
    database: DatabaseName
    statement: Annotated[str, Field(min_length=1)]


class MongoCommand(Part):
    """A command for a database of a source."""

    source: SourceId
    database: DatabaseName
    command: Annotated[dict[str, JsonValue], Field(min_length=1), AfterValidator(extended_json)]
    """As in ``db.runCommand``: the command's name comes first."""


class Hook(Part):
    """Something of yours that is done at a certain moment: a command, SQL, or a MongoDB command."""

    argv: Argv | None = None
    sql: SqlStatement | None = None
    mongo: MongoCommand | None = None
    timeout: Duration = timedelta(minutes=5)
    """How long it may take."""

    @model_validator(mode="after")
    def _one(self) -> Hook:
        exactly_one(self, "argv", "sql", "mongo")
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
