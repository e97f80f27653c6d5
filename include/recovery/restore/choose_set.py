"""Choose the set of a restore, and hold it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from recovery.common.errors import ApprovalError, DestinationError, PlanError, RestoreError
from recovery.common.files import locked, write_record
from recovery.common.units import human_moment, now
from recovery.restore.session import RestoreSession
from recovery.runs import active
from recovery.runs.journal_steps import Step
from recovery.runs.restore_request import Request
from recovery.runs.staged_set import open_staging
from recovery.sets import records
from recovery.sets.catalog import Catalog, Choice, read_catalog
from recovery.sets.catalog import choose as choose_set
from recovery.targets.target import RestoreTarget

log = logging.getLogger(__name__)

_LOOKED_BACK = 10
"""So many sets are asked for a drill that has restored them."""


def choose(session: RestoreSession, request: Request) -> None:
    """Choose the set, and hold it so that no prune takes it away.

    Raises:
        RestoreError: if this restore has ended, or no set fits.
        ApprovalError: if nobody is known to have asked for it, or nobody else could approve it.
        PlanError: if a parameter is not usable.
    """
    if session.journal.closed:
        raise RestoreError("This restore has ended; it can't be run again.", "Trigger a new restore.")
    if session.began:
        raise RestoreError("This restore has its set; it can't choose again.", "Trigger a new restore.")
    _check_request(session, request, session.target_of(request))
    request = request.model_copy(update={"sources": tuple(name for name in session.plan.source_ids if name in request.sources)})
    key = session.context.verify_key()
    catalog = read_catalog(session.plan.plan, session.context.destinations(), key)
    choice = choose_set(
        catalog,
        request.set,
        now=now(),
        level=session.plan.required_level,
        rpo=session.plan.objectives.rpo,
        newest_before=request.newest_before,
        confirm_old=request.allow_stale,
    )
    more = choice.lost(replaces=request.method != "beside"), _drilled(session, catalog, choice, request.sources)
    take(session, request, replace(choice, facts=(*choice.facts, *more)))


def _drilled(session: RestoreSession, catalog: Catalog, choice: Choice, sources: Sequence[str]) -> str:
    """Which drill has last restored all of some sources: of the chosen set, else of another, in a sentence."""
    others = [each for each in catalog.sets if each.manifest.set_id != choice.chosen.manifest.set_id][:_LOOKED_BACK]
    for each in (choice.chosen, *others):
        what = "this very set" if each is choice.chosen else f"set {each.manifest.set_id}, not this one"
        for name in each.destinations:
            destination, key = session.context.destination(name), session.context.verify_key()
            try:
                proofs = records.read_records(destination, each.manifest.path, key, each.manifest).of("proof")
            except DestinationError as error:
                log.warning("whether a drill has restored set %s is not known: %s", each.manifest.set_id, error)
                continue
            if drills := [proof for proof in proofs if proof.facts.get("drill") and {*sources} <= {*proof.facts["sources"]}]:
                return f"The last known drill of these sources has restored {what}, {human_moment(drills[-1].time)}: {drills[-1].text}."
    return f"No drill is known that has restored these sources from this set, or from one of the {_LOOKED_BACK} newest others."


def take(session: RestoreSession, request: Request, choice: Choice) -> None:
    """Begin a restore of a set that was chosen: write down what was asked, and hold the set unless this is a dry run.

    Raises:
        RestoreError: if the set lacks a source, or another restore to the same place has not ended.
        StagingError: if staging can't be written.
        DestinationError: if the set can't be held anywhere.
    """
    manifest = choice.chosen.manifest
    lacking = [source_id for source_id in request.sources if source_id not in manifest.sources]
    if lacking:
        raise RestoreError(f"Set {manifest.set_id} does not have {', '.join(lacking)}.", "Choose another set, or fewer sources.")
    open_staging(session.plan, session.folder.parent)
    with locked(session.folder.with_name("choosing.lock")):
        active.refuse_second(session.plan, session.folder, request)
        _write_down(session, request, choice)
    if not request.dry_run:
        _hold(session, choice)
    for fact in (*choice.facts, *choice.warnings):
        log.info("%s", fact)


def _write_down(session: RestoreSession, request: Request, choice: Choice) -> None:
    manifest = choice.chosen.manifest
    session.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    session.set.choose(manifest)
    write_record(session.folder / "request.json", request)
    session.journal.record(
        Step.CHOSEN,
        set=manifest.set_id,
        destinations=list(choice.chosen.destinations),
        facts=list(choice.facts),
        warnings=list(choice.warnings),
    )


def _check_request(session: RestoreSession, request: Request, target: RestoreTarget) -> None:
    if target.gates and not request.dry_run and not request.drill:
        _check_people(session, request)
    if not request.sources:
        raise PlanError("No source was chosen.", f"Choose of {', '.join(target.sources)}.")
    for source_id in (*request.sources, *request.only):
        if source_id not in session.plan.source_ids:
            raise PlanError(f"The plan has no source {source_id}.", f"It has {', '.join(session.plan.source_ids)}.")
        if source_id not in target.sources:
            raise PlanError(f"The target {target.name} does not name {source_id}.", f"Choose of {', '.join(target.sources)}.")
    if idle := sorted(request.only.keys() - set(request.sources)):
        raise PlanError(f"Parts of {', '.join(idle)} were named, which is not among the sources.", "Choose it as a source too.")
    if request.drill and target.live:
        raise PlanError("A drill never goes into the live system.", "Let drill.target be scratch, or a target of the plan.")
    if request.overwrite and (target.live or request.overwrite != target.name):
        raise PlanError(
            f"overwrite names {request.overwrite!r}, the target is {target.name}.",
            "Leave it empty, or write the name of the target whose data may be replaced.",
        )
    if request.method == "in place" and not target.live:
        raise PlanError("Method in place is for the live system only.", "Choose method swap for a target.")


def _check_people(session: RestoreSession, request: Request) -> None:
    if not request.requester:
        raise ApprovalError(
            "Nobody is known to have asked for this restore, so nobody could be told apart from who approves it.",
            "Trigger it in the UI or API, logged in.",
        )
    if all(approver.may_be(request.requester) for approver in session.plan.approvals.approvers):
        raise ApprovalError(
            f"{request.requester} asked for this restore and is the only approver of the plan.",
            "Add an approver to the plan, or let somebody else trigger it.",
        )


def _hold(session: RestoreSession, choice: Choice) -> None:
    """Wherever the set is: one destination that can be written is enough to go on, as long as that one is read too."""
    manifest = choice.chosen.manifest
    record = records.hold(manifest, now(), session.request().requester, f"restore {session.id}, run {session.run_id}")
    key = session.context.signing_key()
    faults = []
    for name in choice.chosen.destinations:
        session.journal.record(Step.HOLDING, destination=name, record=record.model_dump(mode="json"))
        try:
            records.add_record(session.context.destination(name), record, key)
        except DestinationError as error:
            log.warning("%s", error)
            faults.append(str(error))
    if len(faults) == len(choice.chosen.destinations):
        raise DestinationError(
            "The set can't be held at any destination: " + " ".join(faults), "Let one be writable for the restore's worker."
        )
