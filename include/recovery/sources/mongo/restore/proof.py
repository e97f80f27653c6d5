"""Whether what was proven is still what is staged: staged collections lie in the live database, where others may write to them.

A replica set writes each change of a collection into its oplog, with the collection's UUID. So what nobody has changed since
the proof needs no second look. Where that can't be told, it is verified again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from bson import Binary, Timestamp
from pymongo.errors import OperationFailure

from recovery.common.errors import VerificationError
from recovery.common.wording import ROLLS_BACK
from recovery.sources.base import RestoreView
from recovery.sources.mongo.catalog import Namespace, mark
from recovery.sources.mongo.client import Client, server, unauthorized
from recovery.sources.mongo.snapshot import cluster_time

log = logging.getLogger(__name__)

_PROVEN = "mongo proven"
"""Journal step; facts ``at``: the cluster time before the proof began, null where there is none; ``collections``: UUID by full name."""


def moment(client: Client) -> list[int] | None:
    """The cluster time now, to be asked for before a proof begins; None on a standalone server."""
    if not server(client).replica_set:
        return None
    now = cluster_time(client)
    return [now.time, now.inc]


def note(restore: RestoreView, at: list[int] | None, staged: Iterable[Namespace]) -> None:
    """Keep that collections were proven."""
    restore.record(_PROVEN, at=at, collections=_uuids(staged))


def _uuids(staged: Iterable[Namespace]) -> dict[str, str]:
    return {namespace.full: namespace.uuid for namespace in staged if namespace.type == "collection"}


def holds(client: Client, restore: RestoreView, staged: Sequence[Namespace]) -> bool:
    """Whether nothing that is staged was changed since it was proven; False if it may have been."""
    proven = restore.recorded_facts(_PROVEN)
    if not proven or proven[-1]["collections"] != _uuids(staged) or proven[-1]["at"] is None:
        return False
    try:
        return _reaches(client, proven[-1]) and _found(client, proven[-1], {}) is None
    except OperationFailure as error:
        if not unauthorized(error):
            raise
        log.info("what was staged is verified again: this user may not read the oplog")
        return False


def refuse_late_writes(client: Client, restore: RestoreView) -> None:
    """Look once more, after the renames, for what was written under the staged names between the last look and them.

    Raises:
        VerificationError: if something was.
    """
    proven = restore.recorded_facts(_PROVEN)
    if not proven or proven[-1]["at"] is None:
        return
    written = {"op": {"$in": ["i", "u", "d"]}, "ns": {"$regex": rf"^[^.]+\.{re.escape(mark('stage', restore.id))}"}}
    try:
        if _reaches(client, proven[-1]) and (name := _found(client, proven[-1], written)):
            raise VerificationError(
                f"Somebody wrote to {name} while the restored collections were put in place.", f"Stop what writes there. {ROLLS_BACK}"
            )
    except OperationFailure as error:
        if not unauthorized(error):
            raise
        log.warning("whether somebody wrote while collections were renamed can't be told: this user may not read the oplog")


def _reaches(client: Client, proven: Mapping[str, object]) -> bool:
    """Whether the oplog still has everything since the proof."""
    oldest = client.local["oplog.rs"].find_one({}, ["ts"], sort=[("$natural", 1)])
    return oldest is not None and oldest["ts"] <= _at(proven)


def _at(proven: Mapping[str, object]) -> Timestamp:
    return Timestamp(*cast("list[int]", proven["at"]))


def _found(client: Client, proven: Mapping[str, object], change: Mapping[str, Any]) -> str | None:
    """The name in the first entry of the oplog since the proof that changes a proven collection, alone or in a transaction."""
    uuids = [Binary(bytes.fromhex(uuid), 4) for uuid in cast("dict[str, str]", proven["collections"]).values()]
    one = {"ui": {"$in": uuids}, **change}
    since = {"ts": {"$gt": _at(proven)}, "$or": [one, {"o.applyOps": {"$elemMatch": one}}]}
    entry = client.local["oplog.rs"].find_one(since, ["ns"], sort=[("$natural", 1)])
    return None if entry is None else str(entry["ns"])
