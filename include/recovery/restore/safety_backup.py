"""The safety set: before a restore in place drops anything, what is there is backed up by the backup's own code."""

from __future__ import annotations

import logging
from dataclasses import replace

from recovery.backup import finalize, steps, upload
from recovery.common.errors import DestinationError, RecoveryError, RestoreError
from recovery.common.units import now
from recovery.plan.location import contained_in
from recovery.restore import answers, source_view
from recovery.restore.session import RestoreSession
from recovery.restore.state import timed
from recovery.runs.context import PlanContext
from recovery.runs.journal_steps import Step
from recovery.runs.staged_set import RunRecord, StagedSet
from recovery.sets.catalog import read_manifest
from recovery.sets.layout import new_set_id
from recovery.sets.manifest import Manifest
from recovery.sources.base import InPlaceRestorer

log = logging.getLogger(__name__)


def back_up_live(session: RestoreSession) -> bool:
    """Make a set of all that is about to be replaced, decoded, and held from pruning for the plan's ``keep_replaced``.

    Services are stopped by now; whether somebody writes all the same is looked at before anything is dropped. It is staged in the
    restore's own folder, so that no backup's sweep takes it away. One destination that holds it is enough; the others are named.

    Returns:
        False if nothing is replaced in place, so that none is needed.

    Raises:
        RecoveryError: if it can't be made, or not be read back; nothing was replaced then.
    """
    if not session.in_place:
        return False
    with session.changing("safety"), timed(session, "safety backup"):
        answers.authorise(session, "cutover")
        if not session.journal.entries(Step.SERVICES_STOPPED):
            raise RestoreError("The services were not stopped; marking a task as success does not do its work.", "Trigger a new restore.")
        if session.journal.entries(Step.SAFE):
            log.info("the safety set is made already")
            return True
        sources = session.request().sources
        for source_id in sources:
            answers.authorise(session, "cutover", source_id)
        plan = session.plan.model_copy(
            update={"staging": session.plan.staging.model_copy(update={"folder": session.folder / "safety" / "staging"})}
        )
        context, staged = replace(session.context, plan=plan), StagedSet(plan, _set_id(session))
        _back_up(session, context, staged)
        places = _upload(context, staged)
        session.safety.choose(_read_back(session, staged.id, places[0]))
        session.safety.fetch([session.context.destination(name) for name in places], session.context.required_decryption_key(), sources)
        staged.remove()
        for source_id in sources:
            answers.authorise(session, "cutover", source_id)
        session.journal.record(Step.SAFE, set=staged.id, destinations=places)
        log.info("what is there is safe in set %s, which is held from pruning", staged.id)
        return True


def refuse_if_changed(session: RestoreSession, source_id: str) -> None:
    """Nothing is dropped that the safety set does not have as it is at this moment, or that can't be made again of it.

    Raises:
        RestoreError: if there is such a thing; nothing of this source was replaced then.
    """
    restorer, safe = session.target.source(source_id, InPlaceRestorer), source_view.of_safety_set(session, source_id)
    restorer.rehearse(safe)
    log.info("%s: comparing what is live with the safety set", source_id)
    saved = restorer.locations(safe)
    changed_since_backup = [
        words
        for location, words in restorer.occupied_locations(source_view.of(session, source_id)).items()
        if not contained_in(location, saved)
    ]
    changed_since_backup += [
        f"{change.count} of kind {change.kind}, such as {', '.join(change.names[:3])}" for change in restorer.changed_since_backup(safe)
    ]
    if changed_since_backup:
        raise RestoreError(
            f"{source_id} is not, or not any more, as the safety set has it: {'; '.join(changed_since_backup)}."
            " Dropping it now would lose that.",
            "Find out who still writes, and let services.stop in the plan stop it; then trigger a new restore.",
        )


def _set_id(session: RestoreSession) -> str:
    """Said before anything of it is made: whatever becomes of this restore, maintenance ends its hold."""
    if not session.journal.entries(Step.MAKING_SAFE):
        session.journal.record(Step.MAKING_SAFE, set=new_set_id(now(), f"{session.run_id} safety"))
    return str(session.journal.entries(Step.MAKING_SAFE)[-1].facts["set"])


def _back_up(session: RestoreSession, context: PlanContext, staged: StagedSet) -> None:
    asked = RunRecord(
        plan=session.plan.plan,
        set_id=staged.id,
        run_id=session.run_id,
        started=now(),
        sources=session.request().sources,
        note=f"made by restore {session.id} before it replaced the live data in place",
        hold=True,
        safety=True,
        allow_empty=True,
    )
    finalize.prepare(context, staged, asked)
    for source_id in sorted(asked.sources, key=lambda each: not session.plan.source(each).snapshot):  # scans wait for snapshots
        work = steps.Work(context, staged, source_id, last_try=True, damaged=True)
        for step in (steps.dump, steps.compress, steps.verify):
            log.info("safety backup: %s of %s", step.__name__, source_id)
            step(work)


def _upload(context: PlanContext, staged: StagedSet) -> list[str]:
    """The destinations that hold it now."""
    places, faults = [], []
    for name in context.plan.destinations:
        try:
            upload.upload(context, staged, name)
        except DestinationError as error:
            log.error("%s", error)
            faults.append(str(error))
        else:
            places.append(name)
    if not places:
        raise RestoreError(
            "No destination takes the safety set: " + " ".join(faults),
            "Nothing was replaced, and the services start again. Repair a destination, then trigger a new restore.",
        )
    return places


def _read_back(session: RestoreSession, set_id: str, destination: str) -> Manifest:
    try:
        manifest = read_manifest(session.context.destination(destination), f"{session.plan.plan}/{set_id}", session.context.verify_key())
    except RecoveryError as error:
        raise RestoreError(
            f"The safety set can't be read back: {error.what}",
            "Nothing was replaced, and the services start again. Repair the destination, then trigger a new restore.",
        ) from None
    if not isinstance(manifest, Manifest):
        raise RestoreError(
            f"The safety set is not accepted: {manifest}.", "Nothing was replaced, and the services start again. Look at the destination."
        )
    return manifest
