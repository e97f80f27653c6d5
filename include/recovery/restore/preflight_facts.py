"""What preflight knows of a restore: asked once of servers, file systems, staging and the journal. Nothing is judged here."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from pathlib import Path

from recovery.common.errors import RecoveryError
from recovery.packs.content_diff import Change
from recovery.plan.field_types import LIVE, SCRATCH
from recovery.plan.loader import load_plans
from recovery.plan.location import Location, overlap
from recovery.plan.model import Plan
from recovery.plan.source_settings import Question, Statement
from recovery.restore import source_view
from recovery.restore.session import RestoreSession
from recovery.runs import active, services
from recovery.runs.hooks import name_of
from recovery.runs.journal_steps import Step
from recovery.runs.restore_request import Request
from recovery.sets.manifest import Manifest
from recovery.sources.base import Queryable, Restorer
from recovery.sources.model import Preflight

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Overlap:
    """A location that two sources of a restore share."""

    sources: tuple[str, str]
    """In the order of restoring."""
    location: Location
    """The inner one of their two locations."""
    left_out: bool
    """The source around it leaves it out: today's plan excludes it, and the set has nothing there."""
    lost_folder: Path | None = None
    """See :meth:`recovery.sources.base.Restorer.lost_folder` of the source around it."""


@dataclass(frozen=True)
class Disk:
    """The file system of a folder of this machine."""

    device: int
    free: int
    """Bytes."""


@dataclass(frozen=True)
class Facts:
    """What preflight knows of a restore."""

    folder: Path
    """The restore's own, in staging."""
    plan: Plan
    request: Request
    manifest: Manifest
    """Of the chosen set."""
    choice: Sequence[str] = ()
    """What was said of the choice of the set."""
    choice_warnings: Sequence[str] = ()
    reports: Mapping[str, Preflight] = field(default_factory=dict)
    """What each source says of itself, in the order of restoring."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why a source could say nothing."""
    locations: Mapping[str, Collection[Location]] = field(default_factory=dict)
    """What the restore would replace, by source: of those whose report refuses nothing, and not in a scratch place."""
    live: Mapping[str, Collection[Location]] = field(default_factory=dict)
    """What is live, by the name of the plan that protects it; empty unless the restore goes to one of the plan's targets."""
    silent: Sequence[str] = ()
    """What could not be asked about that."""
    occupied_locations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """See :func:`occupied_locations`, by source; those that have something there."""
    overlaps: Sequence[Overlap] = ()
    disks: Mapping[str, Disk] = field(default_factory=dict)
    """By folder, for all that the restore and the reports name."""
    failing_hooks: Mapping[str, str] = field(default_factory=dict)
    """Why statements of hooks will fail, by the hook; see :meth:`recovery.sources.base.Queryable.foresee`."""
    failing_checks: Mapping[str, str] = field(default_factory=dict)
    """Why questions of checks will fail, by the check."""
    failing_services: Sequence[str] = ()
    """Why containers of the services can't be stopped, sentences."""
    others: Sequence[str] = ()
    """Other restores and drills that have not ended, in words."""
    changes: Mapping[str, Sequence[Change]] = field(default_factory=dict)
    """See :func:`compare`."""

    @property
    def into_live(self) -> bool:
        """Whether it goes into the system that the plan protects."""
        return self.request.target == LIVE

    @property
    def in_place(self) -> bool:
        """Whether the live data is dropped and the set loaded in its place."""
        return self.request.method == "in place"


def gather(session: RestoreSession) -> Facts:
    """Ask everything, but what a comparison would tell: that reads all of the data.

    Raises:
        RecoveryError: if a source gives a report, and then no answer.
    """
    request, chosen = session.request(), session.journal.entries(Step.CHOSEN)[-1].facts
    reports, failures = _reports(session, request.sources)
    fit = [source_id for source_id, report in reports.items() if all(finding.level != "refusal" for finding in report.findings)]
    live, silent = ({}, []) if request.target in {LIVE, SCRATCH} else _live(session, fit)
    locations = {} if request.target == SCRATCH else {name: session.source(name).locations(source_view.of(session, name)) for name in fit}
    return Facts(
        folder=session.folder,
        plan=session.plan,
        request=request,
        manifest=session.manifest(),
        choice=chosen["facts"],
        choice_warnings=chosen["warnings"],
        reports=reports,
        failures=failures,
        locations=locations,
        live=live,
        silent=silent,
        occupied_locations={source_id: there for source_id in fit if (there := occupied_locations(session, source_id))},
        overlaps=list(_overlaps(session, locations)),
        disks=disks(session.folder, reports.values()),
        failing_hooks=_failing_hooks(session, failures),
        failing_checks=_failing_checks(session, failures),
        failing_services=_failing_services(session),
        others=[str(other) for other in active.others(session.plan, session.folder)],
    )


def _reports(session: RestoreSession, sources: Iterable[str]) -> tuple[dict[str, Preflight], dict[str, str]]:
    reports, failures = {}, {}
    for source_id in sources:
        log.info("preflight of %s", source_id)
        try:
            reports[source_id] = session.source(source_id).preflight(source_view.of(session, source_id))
        except RecoveryError as error:
            failures[source_id] = str(error)
    return reports, failures


def _live(session: RestoreSession, sources: Iterable[str]) -> tuple[dict[str, set[Location]], list[str]]:
    """All that is live of the kinds of some sources: what today's plan names, what the set has, and what other plans protect."""
    families = {session.plan.source(source_id).family for source_id in sources}
    plans = load_plans()
    silent: list[str] = []
    every = (session.plan, *(plan for plan in plans.valid if plan.plan != session.plan.plan))
    live = {plan.plan: _owned(session, plan, families, silent) for plan in every}
    return live, silent + [f"the plan file {broken.path.name}" for broken in plans.broken]


def _owned(session: RestoreSession, plan: Plan, families: Collection[str], silent: list[str]) -> set[Location]:
    found: set[Location] = set()
    own = plan is session.plan
    for source_id in plan.source_ids:
        if plan.source(source_id).family not in families:
            continue
        try:
            restorer = replace(session.context, plan=plan).source(source_id, Restorer)
            found |= restorer.own_locations()
            if own and source_id in session.manifest().sources:
                found |= restorer.locations(source_view.of(session, source_id, whole=True))
        except (RecoveryError, OSError) as error:
            log.warning("%s: %s", source_id, error)
            silent.append(source_id if own else f"{source_id} of the plan {plan.plan}")
    return found


def occupied_locations(session: RestoreSession, source_id: str) -> list[str]:
    """What is already where a source goes, in words, if the target has to be empty: nobody said that it may be set aside."""
    if session.request().target in {LIVE, SCRATCH, session.request().overwrite}:
        return []
    return list(session.source(source_id).occupied_locations(source_view.of(session, source_id)).values())


def _overlaps(session: RestoreSession, locations: Mapping[str, Collection[Location]]) -> Iterator[Overlap]:
    for one, other in combinations(locations, 2):
        for mine, theirs in product(locations[one], locations[other]):
            if overlap(mine, theirs):
                outer, inner = (one, theirs) if len(mine) < len(theirs) else (other, mine)
                restorer = session.source(outer)
                left_out = restorer.leaves_out(source_view.of(session, outer), inner)
                yield Overlap((one, other), inner, left_out, restorer.lost_folder(inner))


def _failing_hooks(session: RestoreSession, silent: Collection[str]) -> dict[str, str]:
    """Of the hooks around this restore, of a dry run those that the restore would have."""
    if not session.target.live or session.request().drill or session.beside:
        return {}
    hooks = [*session.plan.hooks.of("before_restore"), *session.plan.hooks.of("after_restore")]
    return _failing(session, silent, ((name_of(key, hook), hook.statement) for key, hook in hooks))


def _failing_checks(session: RestoreSession, silent: Collection[str]) -> dict[str, str]:
    checks = () if session.beside else session.target.asked(session.request().sources)
    return _failing(session, silent, ((f"The check {check.title}", check.question) for check in checks))


def _failing_services(session: RestoreSession) -> list[str]:
    try:
        return [] if session.beside else services.foresee(session.target.services, session.context.clients.connect)
    except RecoveryError as error:
        return [str(error)]


def _failing(session: RestoreSession, silent: Collection[str], asked: Iterable[tuple[str, Statement | Question | None]]) -> dict[str, str]:
    """By name; of sources that don't answer anyway, nothing."""
    found = {}
    for name, question in asked:
        if question is None or question.source in silent:
            continue
        view = source_view.of(session, question.source) if question.source in session.request().sources else None
        try:
            why = session.target.source(question.source, Queryable).foresee(question, view)
        except RecoveryError as error:
            why = str(error)
        if why:
            found[name] = why
    return found


def disks(folder: Path, reports: Iterable[Preflight]) -> dict[str, Disk]:
    """The file systems of a restore's folder, and of those that its sources' reports name."""
    named = {str(folder)}
    for report in reports:
        named |= {*report.bytes_needed, *(space.folder for space in report.second_copy if space.folder is not None)}
    return {path: Disk(Path(path).stat().st_dev, shutil.disk_usage(path).free) for path in named}


def compare(session: RestoreSession) -> dict[str, list[Change]]:
    """What the restore would change, source by source, if somebody wants to know. Reads all of it."""
    request = session.request()
    if not (request.compare or request.dry_run):
        return {}
    found = {}
    for source_id in request.sources:
        log.info("comparing %s with the set", source_id)
        found[source_id] = session.source(source_id).compare(source_view.of(session, source_id))
    return found
