"""Restores and drills, as the staging of their plans knows them: which have not ended, and are in whose way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recovery.common.errors import RestoreError, StagingError
from recovery.common.files import read_record
from recovery.common.units import human_duration, now
from recovery.plan.field_types import LIVE, SCRATCH
from recovery.plan.loader import load_plans
from recovery.plan.model import Plan
from recovery.plan.overlap import share_a_location
from recovery.runs.journal import Journal
from recovery.runs.journal_steps import Step
from recovery.runs.restore_request import Request

log = logging.getLogger(__name__)

_END_RESTORE = (
    "Answer its gates, or mark its run as failed and wait for its report; if Airflow has no such run any more, trigger a restore"
    " with that run id, which ends it. Then trigger this one again."
)
_END_DRILL = "Wait until it has ended; one that was cut off is ended by the next drill. Then trigger this one again."


@dataclass(frozen=True)
class ActiveRestore:
    """A restore or drill whose folder is in staging."""

    plan: Plan
    folder: Path
    journal: Journal
    request: Request | None
    """None if it never asked for anything, or if maintenance has cleared it away."""

    def __str__(self) -> str:
        kind = "drill" if self.request and self.request.drill else "restore"
        return f"{kind} {self.id} of {self.plan.plan} to {self.target}"

    @property
    def id(self) -> str:
        """See ``RestoreSession.id``."""
        return self.folder.name

    @property
    def key(self) -> str:
        """What tells it from all restores of all plans."""
        return _key(self.plan, self.folder)

    @property
    def changing(self) -> bool:
        """Whether it has its set and has not ended, and is there to change something."""
        return bool(self.request and not self.request.dry_run and self.journal.entries(Step.CHOSEN) and not self.journal.closed)

    @property
    def target(self) -> str:
        """Where it goes; the live system unless it is known that it is another."""
        return self.request.target if self.request else LIVE


def recorded_restores(plan: Plan, *, whole: bool = True) -> Iterator[ActiveRestore]:
    """Every restore and drill of a plan that has a journal.

    Args:
        plan: whose.
        whole: whether it is an error if one can't say what was asked for; else that is not known.

    Raises:
        StagingError: if so.
    """
    for path in _journals(plan):
        yield ActiveRestore(plan, path.parent, Journal(path), _asked(path.with_name("request.json"), whole=whole))


def _asked(path: Path, *, whole: bool) -> Request | None:
    try:
        return read_record(path, Request) if path.exists() else None
    except StagingError as error:
        if whole:
            raise
        log.warning("What a restore of another plan is for can't be told: %s", error)
        return None


def into_live(plan: Plan) -> Iterator[ActiveRestore]:
    """Every restore into what a plan protects, be it of this plan or of another that protects some of the same."""
    for each in _plans(plan):
        for found in recorded_restores(each, whole=each is plan):
            if share_a_location(plan, LIVE, each, found.target):
                yield found


def _plans(own: Plan) -> Iterator[Plan]:
    yield own
    plans = load_plans()
    yield from (plan for plan in plans.valid if plan.plan != own.plan)
    for broken in plans.broken:
        log.warning("Whether a restore of the plan file %s is under way can't be told, since it is broken.", broken.path.name)


def others(own: Plan, folder: Path) -> Iterator[ActiveRestore]:
    """The restores and drills, of any plan, that are to change something and have not ended; but for the one whose folder is given."""
    for plan in _plans(own):
        yield from (other for other in recorded_restores(plan, whole=plan is own) if other.changing and other.folder != folder)


def cutovers(own: Plan) -> Iterator[str]:
    """The keys of the restores of any plan, to any target, whose cutover has begun or is over."""
    for plan in _plans(own):
        for path in _journals(plan):
            if Journal(path).entries(Step.STOPPING_SERVICES):
                yield _key(plan, path.parent)


def _key(plan: Plan, folder: Path) -> str:
    return f"{plan.plan}/{folder.name}"


def _journals(plan: Plan) -> Iterator[Path]:
    return (plan.staging.folder / plan.plan / "restores").glob("*/journal.jsonl")


def services_lock(plan: Plan) -> Path:
    """Held while services of the live system are stopped or started, so that a cold backup and a restore do not do both at one time."""
    return plan.staging.folder / plan.plan / "services.lock"


def refuse_second(own: Plan, folder: Path, request: Request) -> None:
    """Two restores to one place, be they of two plans, would each take what the other put there for what was there before.

    A dry run changes nothing, and each drill has scratch servers of its own.

    Raises:
        RestoreError: if another restore or drill to the same place has its set, and has not ended.
    """
    if request.dry_run or request.target == SCRATCH:
        return
    for other in others(own, folder):
        asked = other.request
        if asked and share_a_location(own, request.target, other.plan, asked.target):
            raise RestoreError(
                f"The {other} has not ended: {asked.requester or 'somebody'} asked for it {human_duration(now() - asked.started)} ago,"
                f" run {asked.run_id.removeprefix('drill ')!r}.",
                _END_DRILL if asked.drill else _END_RESTORE,
            )
