"""Services: the commands that stop and start what uses the data."""

from __future__ import annotations

from datetime import timedelta

from recovery.plan.field_types import Argv, Duration, Part


class Services(Part):
    """What uses the data: stopped before the cutover, started after it."""

    stop: tuple[Argv, ...] = ()
    start: tuple[Argv, ...] = ()
    timeout: Duration = timedelta(minutes=5)
    """How long each command may take."""
    down_at_most: Duration | None = None
    """How long a cold backup may keep them stopped; without it there are no cold backups."""
