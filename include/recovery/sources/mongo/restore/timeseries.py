"""Time series, which MongoDB can't rename: the live one is saved to a checked file, then dropped, and one is loaded.

A file counts as saved once the journal says so, with its count and digest; before that the live series is untouched.
So after a kill at any point the same step can be done again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from recovery.common.errors import RestoreError, VerificationError
from recovery.common.files import empty_folder
from recovery.common.units import human_size
from recovery.common.wording import ROLLS_BACK
from recovery.packs.content_index import Facts
from recovery.sources.base import RestoreView
from recovery.sources.mongo.catalog import BUCKETS, Namespace, data_path, definitions, mark, metadata, metadata_path, read_database
from recovery.sources.mongo.client import Client, listed
from recovery.sources.mongo.raw_bson import blocks, digest
from recovery.sources.mongo.restore.inspect import estimated
from recovery.sources.mongo.restore.load import Target, create_indexes, lay_out, live_digests
from recovery.sources.mongo.restore.swap_plan import Series
from recovery.sources.mongo.snapshot import MAJORITY, raw_batches

log = logging.getLogger(__name__)

SAVED = "mongo time series saved"
LOADED = "mongo time series loaded"
RETURNED = "mongo time series returned"
KEPT = "mongo time series kept"
LOADING = "mongo time series loading"
RETURNING = "mongo time series returning"
REPLACED = "mongo time series replaced"
"""What was live under the name of a restored series is not needed any more; fact ``uuid``, see :func:`take_away`."""
_FACTS = ("count", "digest", "bytes")
_SAVES = 3


def said(restore: RestoreView, step: str) -> dict[tuple[str, str], dict[str, object]]:
    """What the journal says of a step, by database and name of the series."""
    return {(str(facts["database"]), str(facts["name"])): facts for facts in restore.recorded_facts(step)}


def saved_folder(restore: RestoreView) -> Path:
    """Where live series are saved, as a dump of their own."""
    return restore.folder / "before"


def uuid_of(client: Client, series: Series) -> str:
    """The UUID of the buckets that are live under a series' name; empty if there are none."""
    found = listed(client, series.database, "listCollections", filter={"name": BUCKETS + series.name})
    return next((bytes(entry["info"]["uuid"]).hex() for entry in found), "")


def set_aside(target: Target, restore: RestoreView, series: Sequence[Series]) -> None:
    """Save live series to files, verify the files, and drop the series.

    Raises:
        VerificationError: if a file does not hold what was read.
        RestoreError: if a series is written to all the time.
    """
    for one in series:
        place, saves = (one.database, one.name), 0
        while place not in said(restore, SAVED) or uuid_of(target.client, one) == one.uuid:
            if place in said(restore, SAVED) and _is_as_saved(target.client, one, said(restore, SAVED)[place]):
                target.client[one.database].drop_collection(one.name)
                break
            if saves == _SAVES:
                raise RestoreError(
                    f"Something still writes to the time series {one.full}.", f"Stop it. The series is still live. {ROLLS_BACK}"
                )
            saves += 1
            facts = _save(target.client, one, saved_folder(restore))
            restore.record(SAVED, database=one.database, name=one.name, **facts)
            log.info("saved the time series %s: %s", one.full, human_size(facts["bytes"]))


def _is_as_saved(client: Client, one: Series, saved: Facts) -> bool:
    """Whether nobody wrote to a series since it was saved: what is dropped with it can't be brought back."""
    buckets = Namespace(one.database, one.name, "timeseries", {})
    if estimated(client, buckets) == (saved["count"], saved["bytes"]):
        return True
    return digest(raw_batches(client, one.database, buckets.data, MAJORITY)) == {fact: saved[fact] for fact in _FACTS}


def _save(client: Client, series: Series, folder: Path) -> Facts:
    live = next((now for now in read_database(client, series.database) if now.name == series.name), None)
    if live is None or live.uuid != series.uuid:
        raise RestoreError(
            f"The time series {series.database}.{series.name} is not the one that was there when the swap was planned.",
            "Find out who replaced it; the swap can be rolled back.",
        )
    path = folder / data_path(series.database, series.name, "timeseries")
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / metadata_path(series.database, series.name)).write_text(metadata(live))
    with path.open("wb") as out:
        read = digest(_copied(raw_batches(client, series.database, BUCKETS + series.name, MAJORITY), out))
        out.flush()
        os.fsync(out.fileno())
    with path.open("rb") as stream:
        written = digest(blocks(stream))
    if written != read:
        raise VerificationError(
            f"{path} does not hold what was read from {live.full}.", f"Check the staging disk. This series is still live. {ROLLS_BACK}"
        )
    return read


def _copied(batches: Iterable[bytes], out: IO[bytes]) -> Iterator[bytes]:
    for batch in batches:
        out.write(batch)
        yield batch


def bring(target: Target, restore: RestoreView, source: Path, series: Sequence[Series], expected: dict[str, Facts]) -> None:
    """Load the set's series under their real names, and verify them there.

    Args:
        target: the server.
        restore: whose journal says what is loaded already.
        source: the dump with their staged files.
        series: which.
        expected: ``count``, ``digest`` and ``bytes`` by ``<database>.<name>``.

    Raises:
        VerificationError: if one is not what the set has.
        RestoreError: if something else took its name meanwhile.
    """
    missing = [one for one in series if (one.database, one.name) not in said(restore, LOADED)]
    _make_room(target, restore, LOADING, missing)
    _load(target, source, missing, restore.folder / "loading", mark("stage", restore.id), "")
    _verify(target, [(one, one.name) for one in missing], expected)
    for one in missing:
        facts = {fact: expected[one.full][fact] for fact in _FACTS}
        restore.record(LOADED, database=one.database, name=one.name, uuid=uuid_of(target.client, one), **facts)


def take_away(target: Target, restore: RestoreView, series: Sequence[Series], before: Collection[str]) -> None:
    """Drop what :func:`bring` loaded: not the series whose UUIDs are ``before``, nor what was brought back already.

    A series that is not exactly what was loaded has writes of its own; it is kept as ``__replaced_<id>_<name>``.
    """
    for one in series:
        uuid = uuid_of(target.client, one)
        place = (one.database, one.name)
        if not uuid or uuid in before or place in said(restore, RETURNING):
            continue
        if said(restore, REPLACED).get(place, {"uuid": uuid})["uuid"] != uuid:
            log.warning("the time series %s was made after the restored one was taken away; it stays", one.full)
            continue
        _keep_writes(target, restore, one.model_copy(update={"uuid": uuid}))
        restore.record(REPLACED, database=one.database, name=one.name, uuid=uuid)
        target.client[one.database].drop_collection(one.name)


def _keep_writes(target: Target, restore: RestoreView, one: Series) -> None:
    kept = _save(target.client, one, restore.folder / "replaced")
    loaded = said(restore, LOADED).get((one.database, one.name), {})
    if not kept["count"] or all(kept[fact] == loaded.get(fact) for fact in _FACTS):
        return
    prefix = mark("replaced", restore.id)
    log.warning("the time series %s is not as it was loaded; it is set aside as %s%s", one.full, prefix, one.name)
    _load(target, restore.folder / "replaced", [one], restore.folder / "replacing", "", prefix)
    _verify(target, [(one, prefix + one.name)], {f"{one.database}.{prefix}{one.name}": kept})


def bring_back(target: Target, restore: RestoreView, series: Sequence[Series]) -> None:
    """Load what :func:`set_aside` saved under its own name again, where the live one is gone.

    Raises:
        VerificationError: if it is not what was saved.
        RestoreError: if something else took its name meanwhile.
    """
    saved = said(restore, SAVED)
    gone = [one for one in series if (one.database, one.name) in saved and uuid_of(target.client, one) != one.uuid]
    gone = [one for one in gone if (one.database, one.name) not in said(restore, RETURNED)]
    _make_room(target, restore, RETURNING, gone)
    _load(target, saved_folder(restore), gone, restore.folder / "returning", "", "")
    _verify(target, [(one, one.name) for one in gone], {one.full: saved[one.database, one.name] for one in gone})
    for one in gone:
        _set_ttl(target.client, saved_folder(restore), one)
        restore.record(RETURNED, database=one.database, name=one.name)


def _make_room(target: Target, restore: RestoreView, step: str, series: Sequence[Series]) -> None:
    """Make sure that names are free to be loaded under, and say in the journal that this begins.

    What an attempt that was killed had loaded is dropped: once begun, it was this restore that a time series came from,
    and mongorestore loads no series where there is one. Anything else in the place is somebody's.

    Raises:
        RestoreError: if something else has a name.
    """
    begun = said(restore, step)
    for one in series:
        entry = next(listed(target.client, one.database, "listCollections", filter={"name": one.name}), None)
        if entry is None and not uuid_of(target.client, one):
            restore.record(step, database=one.database, name=one.name)
            continue
        if (one.database, one.name) not in begun or not _as_loaded(entry, step):
            raise RestoreError(
                f"{one.full} was created while its location was empty: something still writes.",
                f"Stop what uses the database, and rename or drop {one.full}. {ROLLS_BACK}",
            )
        target.client[one.database].drop_collection(one.name)


def _as_loaded(entry: Mapping[str, Any] | None, step: str) -> bool:
    """Whether an attempt of ours can have left this: buckets alone, or a series that does not expire until it is returned."""
    return entry is None or (entry["type"] == "timeseries" and (step == RETURNING or "expireAfterSeconds" not in entry["options"]))


def keep(target: Target, restore: RestoreView, series: Sequence[Series]) -> None:
    """After acceptance: load what was saved as a set-aside copy, so that it stays as long as those of collections."""
    saved = said(restore, SAVED)
    wanted = [one for one in series if (one.database, one.name) in saved and (one.database, one.name) not in said(restore, KEPT)]
    prefix = mark("before", restore.id)
    _load(target, saved_folder(restore), wanted, restore.folder / "keeping", "", prefix)
    facts = {f"{one.database}.{prefix}{one.name}": saved[one.database, one.name] for one in wanted}
    _verify(target, [(one, prefix + one.name) for one in wanted], facts)
    for one in wanted:
        restore.record(KEPT, database=one.database, name=one.name)


def _load(target: Target, source: Path, series: Sequence[Series], folder: Path, old: str, new: str) -> None:
    """Load series from a dump, in which their names begin with ``old``, under names that begin with ``new``.

    A name with a mark is this restore's, so what an earlier attempt left there is dropped; a live name has to be free.
    """
    if not series:
        return
    wanted = {(one.database, old + one.name) for one in series}
    chosen = [namespace for namespace in definitions(source) if (namespace.database, namespace.name) in wanted]
    if len(chosen) != len(wanted):
        raise RestoreError(
            f"Staging has lost files of time series below {source}.",
            "Trigger a new restore. In a rollback these files were the previous data: restore the time series from another set.",
        )
    if new:
        for one in series:
            target.client[one.database].drop_collection(new + one.name)
    renamed = [(found, replace(found, name=new + found.name.removeprefix(old))) for found in chosen]
    lay_out(source, renamed, empty_folder(folder), copy=True)
    target.load(folder)
    create_indexes(target, [to for _, to in renamed])


def _verify(target: Target, series: Sequence[tuple[Series, str]], expected: dict[str, Facts]) -> None:
    found = live_digests(target.client, [(one.database, BUCKETS + name) for one, name in series], target.jobs)
    for one, name in series:
        facts = found[one.database, BUCKETS + name]
        wanted = {fact: expected[f"{one.database}.{name}"][fact] for fact in facts}
        if facts != wanted:
            raise VerificationError(
                f"The time series {one.database}.{name} was loaded with {facts}, not {wanted}.",
                f"Find out what wrote. {ROLLS_BACK}",
            )


def _set_ttl(client: Client, folder: Path, series: Series) -> None:
    saved: Namespace = next(now for now in definitions(folder) if (now.database, now.name) == (series.database, series.name))
    if "expireAfterSeconds" in saved.options:
        client[series.database].command("collMod", series.name, expireAfterSeconds=saved.options["expireAfterSeconds"])
