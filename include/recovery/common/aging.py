"""The age of what is deleted by age, by a clock that may jump: time counts only as it is seen to pass."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from recovery.common.files import write_record
from recovery.common.units import now

log = logging.getLogger(__name__)


class _Look(BaseModel):
    """The last look at something."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: AwareDatetime
    age: timedelta
    """As far as it was seen to pass by then."""


def seen_age(file: Path, since: datetime, at_most: timedelta) -> timedelta:
    """How old something is, as the looks at it tell: each adds the time since the last one, but never more than may lie between two.

    A clock that jumps ahead so makes nothing old at once; at worst, what is deleted goes early by one such time.

    Args:
        file: remembers the looks.
        since: when it began; counts for the first look.
        at_most: the time from one look to the next, if none is left out.

    Raises:
        StagingError: if the file can't be written.
    """
    moment = now()
    last = _last_look(file) or _Look(time=since, age=timedelta())
    passed = min(max(moment - last.time, timedelta()), at_most)
    write_record(file, _Look(time=moment, age=last.age + passed))
    return last.age + passed


def _last_look(file: Path) -> _Look | None:
    try:
        return _Look.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        log.warning("%s is damaged; what it is about ages anew", file)
        return None
