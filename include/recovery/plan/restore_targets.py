"""Targets beside the live system, and drills."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, model_validator

from recovery.plan.checks import Check
from recovery.plan.field_types import SCRATCH, AbsolutePath, Gate, Name, Part, SourceId, cron
from recovery.plan.kinds.config import ConfigTarget
from recovery.plan.kinds.files import FilesTarget
from recovery.plan.kinds.mongo import MongoTarget
from recovery.plan.kinds.postgres import PostgresTarget
from recovery.plan.services import Services

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
