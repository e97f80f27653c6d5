"""Commands of the plan's owner: counts and aggregations of checks, commands of hooks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pymongo
from bson import encode, json_util
from bson.errors import BSONError

from recovery.common.connections import Endpoint
from recovery.common.errors import SourceError
from recovery.plan.kinds.mongo import MongoQuestion
from recovery.sources.mongo.client import connect

_SHOWN = 2000
_ONE = "Let the pipeline of the plan give one document with one field."


def execute(endpoint: Endpoint, database: str, command: Mapping[str, Any], timeout: timedelta) -> Mapping[str, Any]:
    """Run a command in a database.

    Args:
        endpoint: where the server answers, and as whom.
        database: its name at this server.
        command: as in ``db.runCommand``; dates and ids are written as in extended JSON, ``{"$date": ...}``.
        timeout: of all of it; the server ends what takes longer, also when this process is gone.

    Raises:
        SourceUnreachable: if the server does not answer in time.
        SourceError: if it refuses the command or a part of it, with its own words; or if what is asked or answered is no BSON.
    """
    written = _written(command)
    with connect(endpoint) as client, pymongo.timeout(timeout.total_seconds()):
        try:
            answer: Mapping[str, Any] = client[database].command(written)
        except BSONError as error:
            raise SourceError(f"What {database} answers can't be read: {error}.", "Ask for less of it.") from error
    faults = [*answer.get("writeErrors", ()), *filter(None, [answer.get("writeConcernError")])]
    if faults:
        said = "; ".join(str(fault.get("errmsg", "no words")) for fault in faults[:3])
        raise SourceError(f"{len(faults)} parts of the command failed: {said}.", "Remove the cause, or correct the command in the plan.")
    return answer


def _written(command: Mapping[str, Any]) -> dict[str, Any]:
    """A command as the driver takes it."""
    try:
        written: dict[str, Any] = json_util.loads(json.dumps(command))
        encode(written)
    except Exception as error:  # noqa: BLE001 - each kind of value fails in its own way
        # without its words: some have the whole command in them, which may be secret
        raise SourceError(
            f"The command is not one that MongoDB's extended JSON can say: {type(error).__name__}.", "Correct it in the plan."
        ) from None
    return written


def shown(answer: Mapping[str, Any]) -> str:
    """An answer for the log, cut where it gets long."""
    return json.dumps(answer, default=json_util.default)[:_SHOWN]


def reading(question: MongoQuestion, collection: str) -> dict[str, Any]:
    """The command that a check's question amounts to.

    Args:
        question: what the plan asks.
        collection: its name at this server.
    """
    count = [{"$match": question.filter}, {"$count": "documents"}]
    return {"aggregate": collection, "pipeline": list(question.pipeline) or count, "cursor": {"batchSize": 2}}


def only_value(answer: Mapping[str, Any], question: MongoQuestion) -> object:
    """The value of an answer with one document of one field beside ``_id``; 0 if nothing was counted.

    Raises:
        SourceError: if it has another shape.
    """
    documents = answer["cursor"]["firstBatch"]
    if not documents and not question.pipeline:
        return 0
    if len(documents) != 1:
        raise SourceError(f"expected one document, found {'several' if documents else 'none'}", _ONE)
    values = [value for name, value in documents[0].items() if name != "_id"]
    if len(values) != 1:
        raise SourceError(f"expected one field beside _id, found {len(values)}", _ONE)
    return values[0]
