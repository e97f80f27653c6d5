"""Whether what was proven is still what is staged: staged collections lie in the live database, where others may write to them.

A replica set writes each change of a collection into its oplog, with the collection's UUID. So what nobody has changed since
the proof needs no second look, and what is changed until the renames is found after them. Without an oplog nobody can tell.
Then collections are verified again where they are live.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from bson import Binary, Timestamp
from pymongo.errors import OperationFailure

from recovery.common.errors import SourceError, VerificationError
from recovery.common.wording import ROLLS_BACK
from recovery.sources.base import RestoreView
from recovery.sources.mongo.catalog import Namespace, mark
from recovery.sources.mongo.client import Client, server, unauthorized
from recovery.sources.mongo.snapshot import cluster_time, majority_has

log = logging.getLogger(__name__)

_PROVEN = "mongo proven"
"""Journal step; facts ``at``: the cluster time before the proof began, null where there is none; ``collections``: UUID by full name."""


_DEFINING = ("collMod", "createIndexes", "commitIndexBuild", "dropIndexes")
"""Commands that change a collection without its documents, as the oplog has them."""


def moment(client: Client, restore: RestoreView, databases: Sequence[str]) -> list[int] | None:
    """The cluster time now, to be asked for before a proof begins; None on a standalone server.

    It is awaited until a majority has it: a proof reads what a majority has, and what is older has to be part of that.

    Raises:
        SourceError: if no majority gets it.
    """
    if not server(client).replica_set:
        return None
    now = cluster_time(client)
    if databases and not majority_has(client, databases[0], mark("stage", restore.id), now):
        raise SourceError(
            "No majority of the replica set has what was restored: too many of its members that have data are down or late.",
            f"See rs.status(), and start them or take them out of the set. {ROLLS_BACK}",
        )
    return [now.time, now.inc]


def note(restore: RestoreView, at: list[int] | None, staged: Iterable[Namespace]) -> None:
    """Keep that collections were proven."""
    restore.record(_PROVEN, at=at, collections=_uuids(staged))


def _uuids(staged: Iterable[Namespace]) -> dict[str, str]:
    return {namespace.full: namespace.uuid for namespace in staged if namespace.type == "collection"}


def has_oplog(client: Client) -> bool:
    """Whether changes can be told, by this user."""
    if not server(client).replica_set:
        return False
    try:
        return _oldest(client) is not None
    except OperationFailure as error:
        if not unauthorized(error):
            raise
        log.info("what is restored is verified again: this user may not read the oplog")
        return False


def holds(client: Client, restore: RestoreView, staged: Sequence[Namespace]) -> bool:
    """Whether nothing that is staged was changed since it was proven; False if it may have been."""
    proven = restore.recorded_facts(_PROVEN)
    if not proven or proven[-1]["collections"] != _uuids(staged) or proven[-1]["at"] is None:
        return False
    return _reaches(client, proven[-1]) and _found(client, proven[-1], {}) is None


def held(client: Client, restore: RestoreView) -> bool:
    """Whether nothing was changed under the staged names between the last look and the renames; False if that can't be told.

    Raises:
        VerificationError: if something was.
    """
    proven = restore.recorded_facts(_PROVEN)
    if not proven or proven[-1]["at"] is None or not has_oplog(client) or not _reaches(client, proven[-1]):
        return False
    staged = {"$regex": f"^{re.escape(mark('stage', restore.id))}"}
    written = {"op": {"$in": ["i", "u", "d"]}, "ns": {"$regex": rf"^[^.]+\.{re.escape(mark('stage', restore.id))}"}}
    defined = {"op": "c", "$or": [{f"o.{command}": staged} for command in _DEFINING]}
    if name := _found(client, proven[-1], {"$or": [written, defined]}):
        raise VerificationError(
            f"Somebody changed {name} while the restored collections were put in place.", f"Stop what writes there. {ROLLS_BACK}"
        )
    return True


def _reaches(client: Client, proven: Mapping[str, object]) -> bool:
    """Whether the oplog still has everything since the proof."""
    oldest = _oldest(client)
    return oldest is not None and oldest <= _at(proven)


def _oldest(client: Client) -> Timestamp | None:
    entry = client.local["oplog.rs"].find_one({}, ["ts"], sort=[("$natural", 1)])
    return None if entry is None else entry["ts"]


def _at(proven: Mapping[str, object]) -> Timestamp:
    return Timestamp(*cast("list[int]", proven["at"]))


def _found(client: Client, proven: Mapping[str, object], change: Mapping[str, Any]) -> str | None:
    """The name of the first proven collection that the oplog says was changed since the proof, alone or in a transaction."""
    names = {bytes.fromhex(uuid): full for full, uuid in cast("dict[str, str]", proven["collections"]).items()}
    one = {"ui": {"$in": [Binary(uuid, 4) for uuid in names]}, **change}
    since = {"ts": {"$gt": _at(proven)}, "$or": [one, {"o.applyOps": {"$elemMatch": one}}]}
    entry = client.local["oplog.rs"].find_one(since, ["ui", "o.applyOps.ui"], sort=[("$natural", 1)])
    if entry is None:
        return None
    changed = [entry, *entry.get("o", {}).get("applyOps", ())]
    return next(names[uuid] for each in changed if (uuid := bytes(each.get("ui", b""))) in names)
