"""``verify``: whether sets are genuine and whole, as lines and an exit status."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from recovery.cli.kit import NOT_READ, Answer, Kit
from recovery.common.errors import PlanError
from recovery.common.units import human_duration, human_size
from recovery.sets.catalog import LATEST
from recovery.sets.find_sets import Found, find_sets, latest, pick, remarks, without_manifest
from recovery.sets.verify import VerificationResult, VerificationStatus, verify_set

_SHOWN = 50
_WRONG, _UNKNOWN = 1, 2
_EXIT = {
    VerificationStatus.VALID: 0,
    VerificationStatus.INVALID: _WRONG,
    VerificationStatus.PERHAPS_NOT_GENUINE: _WRONG,
    VerificationStatus.NOT_FULLY_VERIFIED: _UNKNOWN,
    VerificationStatus.NOT_COMPLETE: _UNKNOWN,
    VerificationStatus.CONTENTS_NOT_READ: _UNKNOWN,
}


def verify(kit: Kit, wanted: str | None, everything: bool) -> Answer:
    """Read one set, or all of a place, to the last byte. Without a public key the exit status is never 0.

    With ``latest``, whatever is not believed or can't be read counts too, since the newest set may be among it.

    Raises:
        PlanError: if there is no such set.
        DestinationError: if the place can't be read.
    """
    found = find_sets(kit.place, kit.keys.public, kit.plan)
    unfinished = [] if everything else without_manifest(found)
    odd = remarks(found)
    results = [verify_set(each, kit.keys) for each in _chosen(kit, found, wanted, everything)]
    facts = kit.facts() | {
        "contents": "read" if kit.keys.identities else "NOT READ",
        "sets": [_facts(result) for result in results],
        "unfinished": unfinished,
        "remarks": odd,
    }
    lines = [line for result in results for line in _words(result)] + [f"note: {each}" for each in (*unfinished, *odd)]
    lines += [] if kit.keys.identities else ["", NOT_READ]
    lines += [] if kit.keys.checked else ["", *kit.heading()]
    return Answer(facts, lines, _exit_status(results, kit.keys.checked))


def _exit_status(results: list[VerificationResult], checked: bool) -> int:
    """That of the worst: what is wrong counts more than what is not known."""
    statuses = {_EXIT[result.status] for result in results} | (set() if checked else {_WRONG})
    return _WRONG if _WRONG in statuses else max(statuses)


def _chosen(kit: Kit, found: list[Found], wanted: str | None, everything: bool) -> list[Found]:
    if everything:
        chosen = [each for each in found if each.state != "empty"]
    elif wanted == LATEST:
        chosen = latest(found) + [each for each in found if each.doubtful]
    else:
        chosen = [pick(found, wanted)]
    if not chosen:
        what = "no complete set" if wanted == LATEST else "no set"
        raise PlanError(f"There is {what} at {kit.place.describe()}.", "Look at `recovery sets`.")
    return chosen


def _facts(result: VerificationResult) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(result).items() if name != "signature_checked"}
    return facts | {"valid": result.status == VerificationStatus.VALID}


def _words(result: VerificationResult) -> Iterator[str]:
    name = f"{result.set} of {result.plan}" if result.plan else result.set
    name += "" if result.age_seconds is None else f", {human_duration(result.age_seconds)} old"
    read = "" if result.things is None else f", {result.things:,} things were read in the packs"
    yield f"{result.status.value.upper()}: set {name}: {result.files} files are right, {human_size(result.bytes)}{read}"
    for what, said in (("invalid", result.faults), ("could not", result.unable), ("note", result.notes)):
        yield from (f"  {what}: {each}" for each in said[:_SHOWN])
        if len(said) > _SHOWN:
            yield f"  {what}: and {len(said) - _SHOWN} more, which --json names"
