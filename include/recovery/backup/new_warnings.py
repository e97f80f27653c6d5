"""The warnings of a set that people were not told with a set before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recovery.backup.steps import Work
from recovery.plan.model import Plan
from recovery.runs.context import PlanContext
from recovery.runs.staged_set import StagedSet
from recovery.sets.catalog import CatalogSet
from recovery.sets.manifest import MORE_WARNINGS, decode_manifest, sentence

NewWarnings = Mapping[str, Sequence[str]]
"""By source."""


def warned(valid: Sequence[CatalogSet], plan: Plan) -> dict[str, tuple[str, ...]]:
    """The warnings of the last set that people were told of, by source; none if there is no such set.

    A set that a destination lacks does not count: its run has failed, so that nobody was told its warnings.

    Args:
        valid: the valid sets, newest first.
        plan: whose destinations have to have it.
    """
    told = [each.manifest for each in valid if set(each.destinations) == set(plan.destinations)]
    return {source_id: entry.warnings for manifest in told[:1] for source_id, entry in manifest.sources.items()}


def new_warnings(context: PlanContext, staged: StagedSet) -> NewWarnings:
    """The warnings of a closed set that the last set did not have.

    Files that changed while they were read are left out. They are others each night, and the next backup reads them again.
    """
    before = staged.run().warned
    found = {}
    for source_id, entry in decode_manifest(staged.manifest.read_bytes(), str(staged.set_folder)).sources.items():
        passing = _passing(Work(context, staged, source_id))
        known = {*before.get(source_id, ()), *passing}
        new = [words for words in entry.warnings if words not in known and not (passing and words.endswith(MORE_WARNINGS))]
        if new:
            found[source_id] = new
    return found


def _passing(work: Work) -> set[str]:
    """Warnings that are about this moment alone, as the manifest has them."""
    return set(map(sentence, (*work.sealed_record().changed, *work.verified_record().changed)))
