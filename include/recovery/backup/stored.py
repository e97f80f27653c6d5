"""What destinations have of a set, as each says itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from recovery.common.errors import RecoveryError
from recovery.runs.context import PlanContext
from recovery.sets.catalog import read_manifest
from recovery.sets.manifest import (
    Manifest,
)


def manifests(context: PlanContext, set_id: str) -> dict[str, Manifest | RecoveryError | None]:
    """What each destination has as a set's manifest, by its name, or why that can't be told. Asked there, whatever became of tasks."""
    found: dict[str, Manifest | RecoveryError | None] = {}
    for destination in context.destinations():
        try:
            found[destination.name] = read_manifest(destination, f"{context.plan.plan}/{set_id}", context.verify_key())
        except RecoveryError as error:
            found[destination.name] = error
    return found


def not_stored(found: Mapping[str, Manifest | RecoveryError | None], set_id: str, sources: Collection[str]) -> dict[str, str]:
    """What destinations lack of a set by what :func:`manifests` found, a sentence by name; empty if each has all of it."""
    lacking = {}
    for name, manifest in found.items():
        there = manifest.sources if isinstance(manifest, Manifest) else {}
        if missing := [source_id for source_id in sources if source_id not in there]:
            why = f": {manifest.what}" if isinstance(manifest, RecoveryError) else "."
            lacking[name] = f"{name} has no {', '.join(missing)} of set {set_id}, as far as can be told{why}"
    return lacking
