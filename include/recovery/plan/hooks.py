"""Hooks: commands around backups and restores, and statements for their sources."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Self, get_args

from pydantic import create_model, model_validator

from recovery.plan.field_types import Argv, Duration, Moment, Part, exactly_one
from recovery.plan.kinds import KINDS
from recovery.plan.source_settings import Statement

_STATEMENTS = {kind.query: kind.statement for kind in KINDS.values() if kind.statement}


class _Hook(Part):
    """Something of yours that is done at a certain moment: a command, or a statement for a source."""

    argv: Argv | None = None
    timeout: Duration = timedelta(minutes=5)
    """How long it may take."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self, "argv", *_STATEMENTS)
        return self

    @property
    def statement(self) -> Statement | None:
        """What a source is to do; None for a command."""
        return next((found for key in _STATEMENTS if (found := getattr(self, key))), None)

    @property
    def source(self) -> str | None:
        """The source that it needs; None for a command."""
        return self.statement.source if self.statement else None

    @property
    def title(self) -> str:
        """What it is, for people: without arguments, which may be secret."""
        if self.statement:
            return self.statement.title
        assert self.argv
        return PurePath(self.argv[0]).name


if TYPE_CHECKING:
    Hook = _Hook
else:  # with a key for each kind that understands statements
    Hook = create_model("Hook", __base__=_Hook, __doc__=_Hook.__doc__, **{key: (kind | None, None) for key, kind in _STATEMENTS.items()})


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
    """Whatever became of the restore, once a hook of ``before_restore`` was begun, or the services were stopped."""

    def of(self, moment: Moment) -> list[tuple[str, Hook]]:
        """``(key, hook)`` of every hook of a moment, as in ``before_backup.0``."""
        hooks: tuple[Hook, ...] = getattr(self, moment)
        return [(f"{moment}.{number}", hook) for number, hook in enumerate(hooks)]

    def all(self) -> Iterator[tuple[str, Hook]]:
        """``(key, hook)`` of every hook."""
        for moment in get_args(Moment):
            yield from self.of(moment)
