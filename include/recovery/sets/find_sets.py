"""Which sets lie in a place, without a plan."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from recovery.common.errors import DestinationError, ManifestError, PlanError
from recovery.common.units import human_duration, iso, now
from recovery.common.wording import shortened
from recovery.crypto.signing import SIGNATURE_BYTES, VerifyKey
from recovery.destinations.base import Destination, Missing, TooLarge
from recovery.destinations.subfolder import Inside
from recovery.sets.catalog import LATEST, LEFTOVER_AGE, ahead
from recovery.sets.layout import MANIFEST_FILE, SIGNATURE_FILE, is_set_id
from recovery.sets.manifest import MAX_BYTES, Manifest, signed_manifest

_THREADS = 8

State = Literal["believed", "bad", "unfinished", "empty", "unable"]
"""``bad``: not believed. ``unfinished``: files without a manifest, so it is no set, but being written or removed, or robbed of
its manifest. ``empty``: without a file. ``unable``: it could not be found out."""


@dataclass(frozen=True)
class Found:
    """A folder of a set, whether the set is believed or not."""

    path: str
    """Where it lies below the place; empty for the place itself."""
    destination: Destination
    """Where it lies, with the keys that it has at a whole destination."""
    state: State
    manifest: Manifest | None = None
    """If it is believed."""
    fault: str = ""
    """Why it is not."""

    @property
    def doubtful(self) -> bool:
        """Whether it may be a set, and even the newest, that was damaged or can't be read."""
        return self.state in {"bad", "unable"}

    @property
    def depth(self) -> int:
        """How many folders lie above what is in it: 2 in a whole destination, 1 in a plan's folder, 0 in a set's."""
        return len(self.path.split("/")) if self.path else 0

    def of_plan(self, plan: str) -> bool:
        """Whether it is a plan's; what is not believed is told by its path, as far as that says."""
        above = self.path.split("/")[:-1]
        return self.manifest.plan == plan if self.manifest else not above or above[0] == plan


class Unchecked(VerifyKey):
    """Stands where nobody gave a public key: everything passes, and whoever uses it has to say so."""

    def __init__(self) -> None:
        pass

    @property
    def fingerprint(self) -> str:
        """There is none."""
        return "that nobody gave"

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """Nothing is checked."""
        return True


def find_sets(place: Destination, key: VerifyKey, plan: str | None = None) -> list[Found]:
    """Every set of a place, newest first; then what is not believed.

    Args:
        place: all of a destination, a plan's part of it, or one set.
        key: from the recovery kit.
        plan: look at this plan's sets only.

    Raises:
        DestinationError: if the place can't be read.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda folder: _read(place, folder, key), _set_folders(place)))
    if plan is not None:
        found = [each for each in found if each.of_plan(plan)]
    believed = [(each.manifest.created, each) for each in found if each.manifest]
    believed.sort(key=lambda pair: pair[0], reverse=True)
    return [each for _, each in believed] + [each for each in found if not each.manifest]


def _set_folders(place: Destination) -> list[str]:
    """The folders that look like sets, as beginnings of keys: those of a destination, a plan and a set, since one may lie in another.

    The deepest come first; of two copies of a set that is the one where sets belong.
    """
    names = list(place.folders(""))
    plans, sets = [name for name in names if not is_set_id(name)], [name for name in names if is_set_id(name)]
    found = [f"{plan}/{name}/" for plan in plans for name in place.folders(f"{plan}/") if is_set_id(name)]
    return found + [f"{name}/" for name in sets] + ([""] if _has_manifest(place) else [])


def _has_manifest(place: Destination) -> bool:
    """Whether the place itself looks like a set; one that can't be read does."""
    try:
        with place.open(MANIFEST_FILE):
            return True
    except Missing:
        return False
    except DestinationError:
        return True


def _read(place: Destination, folder: str, key: VerifyKey) -> Found:
    path = folder.rstrip("/")
    where = path or place.describe()
    try:
        data = place.read(f"{folder}{MANIFEST_FILE}", MAX_BYTES)
        manifest = signed_manifest(data, _signature(place, folder), key, where)
    except Missing:
        return _without_manifest(place, folder, path, where)
    except (TooLarge, ManifestError) as error:
        return Found(path, place, "bad", fault=error.what)
    except DestinationError as error:
        return Found(path, place, "unable", fault=f"{where}: {error}")
    if not f"/{manifest.path}/".endswith(f"/{folder}"):
        return Found(path, place, "bad", fault=f"The manifest at {where} belongs to {manifest.path}: somebody moved or copied it.")
    inside = Inside(place, f"{manifest.path}/".removesuffix(folder)) if folder != f"{manifest.path}/" else place
    return Found(path, inside, "believed", manifest)


def _signature(place: Destination, folder: str) -> bytes:
    """Of a manifest; what can't be one is none."""
    try:
        return place.read(f"{folder}{SIGNATURE_FILE}", SIGNATURE_BYTES)
    except (Missing, TooLarge):
        return b""


def _without_manifest(place: Destination, folder: str, path: str, where: str) -> Found:
    """No set, and not going to be one either if nothing was written to it for long: then it may have been one."""
    fault = f"{where} has no manifest, so it is no set."
    try:
        newest = max((entry.modified for entry in place.list(folder)), default=None)
        lost = newest is not None and now() - newest >= LEFTOVER_AGE  # asking a folder for its own clock writes there
    except DestinationError as error:
        return Found(path, place, "unable", fault=f"{fault} {error}")
    if newest is None:
        return Found(path, place, "empty", fault=fault)
    if not lost:
        return Found(path, place, "unfinished", fault=f"{fault} It is being written, or its manifest was removed.")
    return Found(
        path, place, "bad", fault=f"{where} has files, the newest of {iso(newest)}, but no manifest: it was removed, or never came."
    )


def without_manifest(found: Sequence[Found]) -> list[str]:
    """What lies where sets do and has no manifest, one sentence each."""
    return [each.fault for each in found if each.state in {"unfinished", "empty"}]


def remarks(found: Sequence[Found]) -> list[str]:
    """What is odd about where sets lie, or about when they say that they were made."""
    deepest = max((each.depth for each in found), default=0)
    said = []
    for each in found:
        name = each.path or "this place itself"
        if each.depth < deepest:
            said.append(f"{name} does not lie where others do; a restore looks at <plan>/<set id> of a destination, and nowhere else.")
        if each.manifest and (distance := ahead(each.manifest, now())):
            said.append(f"{name} is dated {human_duration(distance)} in the future: a clock was wrong. It never counts as the latest.")
    return said


def latest(found: Sequence[Found]) -> list[Found]:
    """The newest set that a restore of ``latest`` might take: complete, neither dated in the future nor a safety set; none if none is.

    Raises:
        PlanError: if there are sets of several plans.
    """
    fit = [each for each in found if each.manifest and each.manifest.valid("stored") and not ahead(each.manifest, now())]
    if len({each.manifest.plan for each in fit if each.manifest}) > 1:
        raise PlanError("There are sets of several plans here.", "Choose one with --plan.")
    return fit[:1]


def pick(found: Sequence[Found], wanted: str | None) -> Found:
    """One set: of an id, the ``latest``, or the only one there is.

    Raises:
        PlanError: if there is no such set, or more than one.
    """
    if wanted == LATEST:
        fit = latest(found)
    elif wanted is None:
        fit = list(found)
    else:
        fit = [each for each in found if wanted in {each.path.split("/")[-1], each.manifest and each.manifest.set_id}]
    if len(fit) > 1:
        where = shortened([each.path or "the place itself" for each in fit], at_most=5)
        raise PlanError(
            f"There is more than one set that this may mean: {where}.",
            "Name one, or latest; --plan chooses among plans; or give the set's own folder as the place.",
        )
    if not fit:
        what = "no complete set" if wanted == LATEST else "no set" if wanted is None else f"no set {wanted}"
        raise PlanError(f"There is {what} here.", "Look at `recovery sets`.")
    return fit[0]
