"""Confirming the gaps between sets, which keep prune from deleting what only a wrong clock makes old."""

from __future__ import annotations

import logging

from recovery.common.errors import DestinationError, PlanError
from recovery.common.faults import Faults
from recovery.common.units import now
from recovery.common.wording import shortened
from recovery.runs.context import PlanContext
from recovery.sets.catalog import list_destination
from recovery.sets.gaps import find_gaps
from recovery.sets.records import add_record, confirmation

log = logging.getLogger(__name__)


def confirm_gap(context: PlanContext, set_id: str, person: str) -> None:
    """Confirm, at every destination, that the gap after a set and those before it are real. The next prune may delete again.

    Raises:
        PlanError: if there is no gap after such a set.
        DestinationError: if a destination can't be read or written; the others have the record.
    """
    plan, key, moment = context.plan, context.signing_key(), now()
    faults, found, confirmed = Faults(), dict[str, str](), 0
    for destination in context.destinations():
        with faults.noted(destination.name):
            listing = list_destination(destination, plan.plan, key.verify_key)
            for gap in find_gaps(listing.manifests, rpo=plan.objectives.rpo, now=moment):
                found[gap.before.set_id] = str(gap)
                if gap.before.set_id == set_id:
                    add_record(destination, confirmation(gap.before, moment, person, f"no set was made {gap}; confirmed by hand"), key)
                    confirmed += 1
    if faults:
        raise DestinationError(
            f"The gap after set {set_id} was confirmed at {confirmed} destinations, and could not be at others:\n"
            + "\n".join(faults.sentences),
            "Repair them, then trigger this again.",
        )
    if not confirmed:
        known = f"no set was made {shortened(list(found.values()))}" if found else "there is none at any destination"
        raise PlanError(
            f"There is no gap after a set {set_id!r} of {plan.plan}, as this worker's clock has it, {moment:%Y-%m-%d %H:%M} UTC: {known}.",
            "Copy the id from the error of the prune; if clocks differ between workers, set them first (NTP).",
        )
