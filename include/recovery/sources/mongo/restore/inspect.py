"""What is live at the target: what a restore replaces, how much that is, and how it differs from the set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pymongo.errors import OperationFailure

from recovery.common.units import human_size
from recovery.packs.content_diff import Change, changes
from recovery.packs.content_index import Facts, Row
from recovery.sources.mongo.catalog import Namespace, read_database, rows
from recovery.sources.mongo.client import Client, unauthorized
from recovery.sources.mongo.restore.load import live_digests
from recovery.sources.mongo.restore.selection import Parts, Planned
from recovery.sources.mongo.restore.users import existing


def live_within(client: Client, parts: Parts) -> list[Namespace]:
    """What there is now of some parts."""
    return [now for database in parts.databases for now in read_database(client, database) if parts.has(now.full)]


def rows_with_documents(client: Client, namespaces: Sequence[tuple[Namespace, str]], jobs: int) -> Iterator[Row]:
    """Rows of what there is, with the digests of all its documents, by the code that makes the set's.

    Args:
        client: of the server.
        namespaces: each as its rows say it, with the collection that has its documents.
        jobs: how many are read at the same time.
    """
    places = [(now.database, data) for now, data in namespaces if now.type != "view"]
    digests: Mapping[tuple[str, str], Facts] = live_digests(client, places, jobs)
    for now, data in namespaces:
        for kind, name, facts in rows(now):
            yield kind, name, facts | (digests[now.database, data] if kind == "collection" else {})


def differences_now(client: Client, wanted: Planned, jobs: int, *, expiring: bool = True) -> list[Change]:
    """What it would take to make what is live what is wanted; users and roles are only ever added.

    Args:
        client: of the server.
        wanted: of the set.
        jobs: collections that are read at the same time.
        expiring: also collections whose documents expire.
    """
    there = live_within(client, wanted.scope)
    if not expiring:
        wanted = wanted.without({now.full for now in there if now.expires})
        there = [now for now in there if not now.expires]
    missing = wanted.accounts.keys() - existing(client) if wanted.accounts else set()
    expected: Iterable[Row] = [
        *((kind, name, facts) for kind, found in wanted.definitions() for name, facts in found.items()),
        *((kind, name, wanted.accounts[kind, name]) for kind, name in sorted(missing)),
    ]
    return changes(expected, rows_with_documents(client, [(now, now.data) for now in there], jobs))


def occupied_locations(client: Client, parts: Parts) -> list[tuple[Namespace, str]]:
    """What is there already, and the same in words."""
    return [(now, _words(client, now)) for now in live_within(client, parts)]


def _words(client: Client, now: Namespace) -> str:
    if now.type == "view":
        return f"the view {now.full}"
    count, size = estimated(client, now)
    return f"{now.full} with about {count:,} {'buckets' if now.type == 'timeseries' else 'documents'}, {human_size(size)}"


def estimated(client: Client, namespace: Namespace) -> tuple[int, int]:
    """``(documents, bytes)`` as the server estimates them; buckets of a time series."""
    stats = _stats(client, namespace)
    return int(stats.get("count", 0)), int(stats.get("size", 0))


def on_disk(client: Client, namespace: Namespace) -> int:
    """Bytes of a collection's files, indexes included; 0 if this user may not ask."""
    return int(_stats(client, namespace).get("totalSize", 0))


def _stats(client: Client, namespace: Namespace) -> Mapping[str, Any]:
    try:
        return client[namespace.database].command("collStats", namespace.data)
    except OperationFailure as error:
        if not unauthorized(error):
            raise
        return {}
