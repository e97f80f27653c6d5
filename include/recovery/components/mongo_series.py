"""Time series, which MongoDB can't rename: the live one is saved to a checked file, then dropped, and one is loaded.

A file counts as saved once the journal says so, with its count and digest; before that the live series is untouched.
So after a kill at any point the same step can be done again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from recovery.components.base import Restore
from recovery.components.mongo_bson import blocks, digest
from recovery.components.mongo_catalog import BUCKETS, Namespace, data_path, mark, metadata, metadata_path, read_database
from recovery.components.mongo_client import Client
from recovery.components.mongo_load import Target, afresh, definitions, lay_out, live_digests
from recovery.components.mongo_plan import Series
from recovery.components.mongo_snapshot import MAJORITY, raw_batches
from recovery.contents import Facts
from recovery.errors import ProofError, RestoreError
from recovery.units import human_size

log = logging.getLogger(__name__)

SAVED = "mongo time series saved"
LOADED = "mongo time series loaded"
RETURNED = "mongo time series returned"
KEPT = "mongo time series kept"


def said(restore: Restore, step: str) -> dict[tuple[str, str], dict[str, object]]:
    """What the journal says of a step, by database and name of the series."""
    return {(str(facts["database"]), str(facts["name"])): facts for facts in restore.journalled(step)}


def saved_folder(restore: Restore) -> Path:
    """Where live series are saved, as a dump of their own."""
    return restore.folder / "before"


def uuid_of(client: Client, series: Series) -> str:
    """The UUID of the buckets that are live under a series' name; empty if there are none."""
    listed = client[series.database].list_collections(filter={"name": BUCKETS + series.name})
    return next((bytes(entry["info"]["uuid"]).hex() for entry in listed), "")


def set_aside(target: Target, restore: Restore, series: Sequence[Series]) -> None:
    """Save live series to files, prove the files, and drop the series.

    Raises:
        ProofError: if a file does not hold what was read.
    """
    for one in series:
        if (one.database, one.name) not in said(restore, SAVED):
            facts = _save(target.client, one, saved_folder(restore))
            restore.journal(SAVED, database=one.database, name=one.name, **facts)
            log.info("saved the time series %s.%s: %s", one.database, one.name, human_size(facts["bytes"]))
        if uuid_of(target.client, one) == one.uuid:
            target.client[one.database].drop_collection(one.name)


def _save(client: Client, series: Series, folder: Path) -> Facts:
    live = next((now for now in read_database(client, series.database) if now.name == series.name), None)
    if live is None or live.uuid != series.uuid:
        raise RestoreError(
            f"The time series {series.database}.{series.name} is not the one that was there when the switch was planned.",
            "Find out who replaced it; the switch can be taken back.",
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
        raise ProofError(f"{path} does not hold what was read from {live.full}.", "Check the staging disk; nothing was changed.")
    return read


def _copied(batches: Iterable[bytes], out: IO[bytes]) -> Iterator[bytes]:
    for batch in batches:
        out.write(batch)
        yield batch


def bring(target: Target, restore: Restore, source: Path, series: Sequence[Series], expected: dict[str, Facts]) -> None:
    """Load the set's series under their real names, and prove them there.

    Args:
        target: the server.
        restore: whose journal says what is loaded already.
        source: the dump with their staged files.
        series: which.
        expected: ``count``, ``digest`` and ``bytes`` by ``<database>.<name>``.

    Raises:
        ProofError: if one is not what the set has.
    """
    missing = [one for one in series if (one.database, one.name) not in said(restore, LOADED)]
    _load(target, source, missing, restore.folder / "loading", mark("stage", restore.id), "")
    _prove(target, [(one, one.name) for one in missing], expected)
    for one in missing:
        restore.journal(LOADED, database=one.database, name=one.name)


def take_away(target: Target, restore: Restore, series: Sequence[Series], before: Collection[str]) -> None:
    """Drop what :func:`bring` loaded: not the series whose UUIDs are ``before``, nor what was brought back already."""
    for one in series:
        uuid = uuid_of(target.client, one)
        if uuid and uuid not in before and (one.database, one.name) not in said(restore, RETURNED):
            target.client[one.database].drop_collection(one.name)


def bring_back(target: Target, restore: Restore, series: Sequence[Series]) -> None:
    """Load what :func:`set_aside` saved under its own name again, where the live one is gone.

    Raises:
        ProofError: if it is not what was saved.
    """
    saved = said(restore, SAVED)
    gone = [one for one in series if (one.database, one.name) in saved and uuid_of(target.client, one) != one.uuid]
    gone = [one for one in gone if (one.database, one.name) not in said(restore, RETURNED)]
    _load(target, saved_folder(restore), gone, restore.folder / "returning", "", "")
    _prove(target, [(one, one.name) for one in gone], {f"{one.database}.{one.name}": saved[one.database, one.name] for one in gone})
    for one in gone:
        _set_ttl(target.client, saved_folder(restore), one)
        restore.journal(RETURNED, database=one.database, name=one.name)


def keep(target: Target, restore: Restore, series: Sequence[Series]) -> None:
    """After acceptance: load what was saved as a set-aside copy, so that it stays as long as those of collections."""
    saved = said(restore, SAVED)
    wanted = [one for one in series if (one.database, one.name) in saved and (one.database, one.name) not in said(restore, KEPT)]
    prefix = mark("before", restore.id)
    _load(target, saved_folder(restore), wanted, restore.folder / "keeping", "", prefix)
    facts = {f"{one.database}.{prefix}{one.name}": saved[one.database, one.name] for one in wanted}
    _prove(target, [(one, prefix + one.name) for one in wanted], facts)
    for one in wanted:
        restore.journal(KEPT, database=one.database, name=one.name)


def _load(target: Target, source: Path, series: Sequence[Series], folder: Path, old: str, new: str) -> None:
    """Load series from a dump, in which their names begin with ``old``, under names that begin with ``new``."""
    if not series:
        return
    wanted = {(one.database, old + one.name) for one in series}
    chosen = [namespace for namespace in definitions(source) if (namespace.database, namespace.name) in wanted]
    if len(chosen) != len(wanted):
        raise RestoreError(f"Files of time series are missing below {source}.", "Staging lost them; start the restore again.")
    for one in series:
        target.client[one.database].drop_collection(new + one.name)
    lay_out(source, chosen, afresh(folder), lambda name: new + name.removeprefix(old), copy=True)
    target.load(folder)


def _prove(target: Target, series: Sequence[tuple[Series, str]], expected: dict[str, Facts]) -> None:
    found = live_digests(target.client, [(one.database, BUCKETS + name) for one, name in series], target.jobs)
    for one, name in series:
        facts = found[one.database, BUCKETS + name]
        wanted = {fact: expected[f"{one.database}.{name}"][fact] for fact in facts}
        if facts != wanted:
            raise ProofError(
                f"The time series {one.database}.{name} was loaded with {facts}, not {wanted}.",
                "Take the switch back; then find out what wrote.",
            )


def _set_ttl(client: Client, folder: Path, series: Series) -> None:
    saved: Namespace = next(now for now in definitions(folder) if (now.database, now.name) == (series.database, series.name))
    if "expireAfterSeconds" in saved.options:
        client[series.database].command("collMod", series.name, expireAfterSeconds=saved.options["expireAfterSeconds"])
