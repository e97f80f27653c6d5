"""``sets``: which sets lie at a place."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from recovery.cli.kit import Answer, Kit
from recovery.common.errors import DestinationError
from recovery.common.units import human_duration, human_size, iso, now
from recovery.sets.find_sets import Found, find_sets, remarks, without_manifest
from recovery.sets.manifest import Manifest, level_name
from recovery.sets.records import Record, Records, read_records

_COLUMNS = ("set", "plan", "age", "complete", "level", "size", "held", "last verification", "sources")
_THREADS = 8


def sets(kit: Kit) -> Answer:
    """A table of all sets, newest first; exit status 1 if there is none, or something is not believed, 2 if it can't be read.

    Raises:
        DestinationError: if the place can't be read.
    """
    found = find_sets(kit.place, kit.keys.public, kit.plan)
    with ThreadPoolExecutor(_THREADS) as pool:
        described = list(pool.map(lambda each: _describe(kit, each), found))
    rows = [each.row for each in described if each.row]
    findings = [finding for each in described for finding in each.findings]
    unread = [said for each in described for said in each.unread]
    unfinished = without_manifest(found)
    odd = remarks(found)
    facts = kit.facts() | {"sets": rows, "findings": findings, "unread": unread, "unfinished": unfinished, "remarks": odd}
    lines = [*kit.heading(), *_table(rows)]
    if not rows:
        lines.append(f"There is no set at {kit.place.describe()}.")
    lines += ["", *(f"NOT BELIEVED: {finding}" for finding in findings)] if findings else []
    lines += ["", *(f"COULD NOT BE READ: {said}" for said in unread)] if unread else []
    lines += ["", *unfinished, *odd] if unfinished or odd else []
    status = 1 if findings else 2 if unread else 0 if rows else 1
    return Answer(facts, lines, status)


@dataclass(frozen=True)
class _Described:
    row: dict[str, Any] | None = None
    """A set as plain data."""
    findings: Sequence[str] = ()
    """What is not believed of it."""
    unread: Sequence[str] = ()
    """What can't be read of it."""


def _describe(kit: Kit, found: Found) -> _Described:
    if found.manifest is None:
        return _Described(findings=[found.fault] * (found.state == "bad"), unread=[found.fault] * (found.state == "unable"))
    try:
        records = read_records(found.destination, found.manifest.path, kit.keys.public, found.manifest)
    except DestinationError as error:
        return _Described(_row(found.manifest, None), unread=[f"The records of {found.manifest.set_id}: {error}"])
    return _Described(_row(found.manifest, records), records.findings)


def _row(manifest: Manifest, records: Records | None) -> dict[str, Any]:
    proofs = records.of("proof") if records else ()
    whole = [proof for proof in proofs if _of_all(proof, manifest)]
    return {
        "set": manifest.set_id,
        "plan": manifest.plan,
        "created": iso(manifest.created),
        "begins": iso(manifest.begins),
        "age_seconds": round((now() - manifest.begins).total_seconds()),
        "complete": manifest.complete,
        "safety": manifest.safety,
        "missing": manifest.missing,
        "level": manifest.level,
        "bytes": manifest.stored_bytes,
        "sources": list(manifest.sources),
        "held": [hold.why for hold in records.holds] if records else None,
        "last_proof": iso(whole[-1].time) if whole else None,
        "last_proof_of_any_part": iso(proofs[-1].time) if proofs else None,
    }


def _of_all(proof: Record, manifest: Manifest) -> bool:
    """Whether it is about all that the set has; one that does not say is not."""
    named = proof.facts.get("sources")
    return isinstance(named, list) and all(source in named for source in manifest.sources) and not proof.facts.get("only")


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    cells = [_COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    held = "?" if row["held"] is None else "yes" if row["held"] else "no"
    lacks = f"NO, lacks {', '.join(row['missing'])}"
    return (
        row["set"],
        row["plan"],
        human_duration(row["age_seconds"]),
        ("yes" if row["complete"] else lacks) + (", safety" if row["safety"] else ""),
        level_name(row["level"]),
        human_size(row["bytes"]),
        held,
        row["last_proof"][:16] if row["last_proof"] else "part" if row["last_proof_of_any_part"] else "never",
        ", ".join(row["sources"]),
    )
