"""Targets beside the live system, and drills."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from recovery.plan.checks import Check
from recovery.plan.field_types import SCRATCH, AbsolutePath, AirflowName, Gate, Name, Part, SourceId, cron
from recovery.plan.services import Services
from recovery.plan.sources import TargetSources


class Target(Part):
    """Somewhere else than the live system, such as a staging system."""

    sources: TargetSources
    gates: tuple[Gate, ...] = ("plan", "cutover", "accept")
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
    queue: AirflowName | None = None
    """Airflow queue of the drill's tasks: scratch servers need all of them on one worker."""
