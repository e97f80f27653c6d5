"""What destinations have of a set, as each says itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from recovery.airflow.connections import s3_client
from recovery.common.connections import Connect
from recovery.common.errors import RecoveryError
from recovery.crypto.signing import SigningKey
from recovery.destinations import make_destinations
from recovery.plan.model import Plan
from recovery.sets.catalog import read_manifest
from recovery.sets.manifest import (
    Manifest,
)


def manifests(plan: Plan, set_id: str, connect: Connect) -> dict[str, Manifest | RecoveryError | None]:
    """What each destination has as a set's manifest, by its name, or why that can't be told. Asked there, whatever became of tasks."""
    found: dict[str, Manifest | RecoveryError | None] = {}
    for destination in make_destinations(plan.destinations, s3_client):
        try:
            key = SigningKey.from_endpoint(connect(plan.signing)).verify_key
            found[destination.name] = read_manifest(destination, f"{plan.plan}/{set_id}", key)
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
