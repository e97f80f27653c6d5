"""Reading many collections at one cluster time, each by its own thread, as raw batches of BSON.

The driver's snapshot sessions are not meant to be shared by threads, so every read says the time itself: read concern
``snapshot`` with ``atClusterTime``, which needs a replica set and MongoDB 5.0
(https://www.mongodb.com/docs/manual/reference/read-concern-snapshot/).
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from struct import Struct
from threading import Event
from typing import Any, cast

from bson import Timestamp, _array_of_documents_to_buffer, decode
from pymongo.collection import Collection
from pymongo.cursor import RawBatchCursor
from pymongo.errors import ExecutionTimeout, OperationFailure
from pymongo.read_concern import ReadConcern

from recovery.common.progress import Progress
from recovery.common.units import human_size
from recovery.sources.mongo.catalog import Namespace, data_path
from recovery.sources.mongo.client import Client, words

log = logging.getLogger(__name__)

_BATCH_BYTES = 1 << 20
"""Measured with 440 MB: the client's CPU time is lowest, and below mongodump's, at about 1 MiB; at the server's
default of 16 MiB it is twice that, spent on fresh pages."""
_SAMPLE = 64
_WORTH_A_LINE = 1 << 20

_HEAD = re.compile(rb".{4}\x03cursor\0.{4}\x04(firstBatch|nextBatch)\0", re.DOTALL)
"""How a server's answer to ``find`` and ``getMore`` begins: its length, ``cursor``, that one's length, the documents."""
_CURSOR_AT = 12
_NO_DOCUMENTS = b"\5\0\0\0\0"
_length = Struct("<i")

MAJORITY = ReadConcern("majority")
_MAJORITY_WITHIN_MS = 300_000

# CursorNotFound, QueryPlanKilled, SnapshotTooOld, SnapshotUnavailable, and servers that have no snapshots:
# NotAReplicaSet, ReadConcernMajorityNotEnabled.
_TOO_OLD = 239
_NO_SNAPSHOT = {43, 175, _TOO_OLD, 246, 123, 148}


class SnapshotLost(Exception):
    """The snapshot can't be had, or not to its end; a turn of events that its caller handles.

    Args:
        why: what happened, in words.
        again: whether another snapshot may do better.
    """

    def __init__(self, why: str, *, again: bool = True) -> None:
        self.again = again
        super().__init__(why)


class AtClusterTime(ReadConcern):
    """Read everything as it was at one cluster time."""

    def __init__(self, at: Timestamp) -> None:
        super().__init__("snapshot")
        self._at = at

    @property
    def document(self) -> dict[str, Any]:
        """What the server is told."""
        return {"level": "snapshot", "atClusterTime": self._at}


def cluster_time(client: Client) -> Timestamp:
    """The newest cluster time that the server has written; a read at it waits until a majority has it."""
    moment: Timestamp = client.admin.command("hello")["lastWrite"]["opTime"]["ts"]
    return moment


def majority_has(client: Client, database: str, collection: str, at: Timestamp) -> bool:
    """Wait until a majority has what the server has written until a time; False if it does not get it in minutes.

    A read at that time would wait for ever, if the members that would make the majority are down.
    """
    concern = {"level": "majority", "afterClusterTime": at}
    try:
        client[database].command("find", collection, limit=1, projection={"_id": 1}, readConcern=concern, maxTimeMS=_MAJORITY_WITHIN_MS)
    except ExecutionTimeout:
        return False
    return True


class Batches(RawBatchCursor[dict[str, Any]]):
    """What ``find_raw_batches`` gives, in a third of its CPU time.

    The driver makes a Python object of each document, and then joins the bytes of all. Here the documents are cut out of
    the answer before the driver looks at it. An answer of another shape, such as an error, is left to the driver.
    """

    def _unpack_response(self, response: Any, *args: Any, **kwargs: Any) -> list[Any]:
        answer = memoryview(response.raw_command_response())
        head = _HEAD.match(answer)
        if head is None:
            return super()._unpack_response(response, *args, **kwargs)
        (size,) = _length.unpack_from(answer, head.end())
        end = head.end() + size
        documents = _array_of_documents_to_buffer(answer[head.end() : end])
        rest = bytearray().join([answer[: head.end()], _NO_DOCUMENTS, answer[end:]])
        (cursor,) = _length.unpack_from(rest, _CURSOR_AT)
        _length.pack_into(rest, 0, len(rest))
        _length.pack_into(rest, _CURSOR_AT, cursor - size + len(_NO_DOCUMENTS))
        read = decode(rest)
        read["cursor"][head[1].decode()] = [documents] if documents else []
        return [read]


class AnyCollection(Collection[dict[str, Any]]):
    """A collection to read, by any name that a server takes; the driver refuses some of them, such as ``a..b``."""

    def __init__(self, client: Client, database: str, name: str, concern: ReadConcern) -> None:
        super().__init__(client[database], "any", read_concern=concern)
        self._name = name
        self._full_name = f"{database}.{name}"


def raw_batches(client: Client, database: str, name: str, concern: ReadConcern) -> Iterator[bytes]:
    """A collection's documents, end to end, in batches of about 1 MiB or one document."""
    collection = AnyCollection(client, database, name, concern)
    with Batches(collection, batch_size=_SAMPLE) as sample:
        first = cast(bytes, next(sample, b""))
        if not sample.alive:
            yield first
            return
    size = max(len(first) // _SAMPLE, 64)
    with Batches(collection, batch_size=max(_BATCH_BYTES // size, 1)) as batches:
        yield from cast(Iterator[bytes], batches)


def exact_count(client: Client, namespace: Namespace, concern: ReadConcern) -> int:
    """How many documents the server counts, by the index of their ids; buckets of a time series."""
    collection = AnyCollection(client, namespace.database, namespace.data, concern)
    keys = [dict(index["key"]) for index in namespace.indexes]
    by_id = namespace.type == "timeseries" or "clusteredIndex" in namespace.options or {"_id": 1} in keys
    counted = list(collection.aggregate([{"$count": "n"}], hint={"_id": 1} if by_id else None))
    return int(counted[0]["n"]) if counted else 0


class CollectionsProgress(Progress):
    """Collections, read by many threads.

    Args:
        what: is done with them.
        collections: how many there are.
    """

    def __init__(self, what: str, collections: int) -> None:
        super().__init__(what)
        self._collections = collections
        self._read = 0

    def collection_done(self, name: str, size: int) -> None:
        """Count a collection."""
        with self._lock:
            self._read += 1
        log.log(logging.INFO if size >= _WORTH_A_LINE else logging.DEBUG, "%s: %s, %s", self.what, name, human_size(size))

    def finish(self) -> None:
        """Say how it ended."""
        log.info("%s", self.line())

    def line(self) -> str:
        """How many of them are read."""
        return f"{self.what}: {self._read} of {self._collections} collections, {self.summary()}"


def in_threads(jobs: int, tasks: Sequence[Callable[[Event], None]]) -> None:
    """Run tasks side by side; when one fails the others are told by their event, and its error is raised."""
    stop = Event()

    def guarded(task: Callable[[Event], None]) -> None:
        if stop.is_set():
            return
        try:
            task(stop)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(jobs, thread_name_prefix="mongo") as pool:
        try:
            deque(pool.map(guarded, tasks), maxlen=0)
        finally:
            stop.set()


def write_documents(client: Client, namespaces: Sequence[Namespace], root: Path, concern: ReadConcern, jobs: int) -> dict[str, int]:
    """Write the documents of collections and time series to their files below ``root``; bytes read of each, by full name.

    Raises:
        SnapshotLost: if the server can't read them at that time, or no longer.
    """
    progress = CollectionsProgress("reading", len(namespaces))
    sizes: dict[str, int] = {}

    def write(namespace: Namespace) -> Callable[[Event], None]:
        def task(stop: Event) -> None:
            size = 0
            with (root / data_path(namespace.database, namespace.name, namespace.type)).open("wb") as out:
                for batch in raw_batches(client, namespace.database, namespace.data, concern):
                    out.write(batch)
                    size += len(batch)
                    progress.add(len(batch))
                    if stop.is_set():
                        return
            sizes[namespace.full] = size
            progress.collection_done(namespace.full, size)

        return task

    with_snapshot(lambda: in_threads(jobs, [write(namespace) for namespace in namespaces]))
    progress.finish()
    return sizes


def with_snapshot(read: Callable[[], None]) -> None:
    """Do what reads at a cluster time.

    Raises:
        SnapshotLost: if the server has no snapshot of that time.
    """
    try:
        read()
    except OperationFailure as error:
        if error.code in _NO_SNAPSHOT:
            raise SnapshotLost(words(error), again=error.code != _TOO_OLD) from error
        raise
