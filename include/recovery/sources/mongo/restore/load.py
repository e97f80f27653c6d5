"""Loading a dump's files into a server under other names, by stock mongorestore; and digests of what lies there."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote_plus

from recovery.common.connections import Endpoint
from recovery.common.errors import RestoreError
from recovery.packs.content_index import Facts
from recovery.sources.mongo.catalog import (
    Namespace,
    data_name,
    data_path,
    file_stem,
    mark,
    marked_id,
    metadata,
    metadata_path,
    read_database,
    without_ttl,
)
from recovery.sources.mongo.client import Client, ClientTools, tool_config
from recovery.sources.mongo.raw_bson import digest
from recovery.sources.mongo.snapshot import MAJORITY, CollectionsProgress, in_threads, raw_batches

log = logging.getLogger(__name__)

_SUMMARY = re.compile(r"(\d+) document\(s\) restored successfully\. (\d+) document\(s\) failed to restore")
_DETAIL = re.compile(
    r"\t(index: |no indexes to restore|reading metadata|restoring (\S.* from |indexes)|preparing collections|building a list)"
)
_WORKERS = 4
"""Inserts at the same time for each collection: no faster than one where the server has two cores, faster where it has
more. Capped collections are loaded by one, in order, because their order has a meaning."""


def lay_out(source: Path, namespaces: Iterable[tuple[Namespace, Namespace]], target: Path, *, copy: bool = False) -> None:
    """Move or link files of collections and time series to a dump of its own, without any TTL.

    Its definitions have no indexes, and no options of collections: :func:`load_stacks` makes both.

    Args:
        source: below which they lie.
        namespaces: each as it is there, and as it is to be.
        target: the other dump.
        copy: link them.
    """
    for old, new in namespaces:
        options = without_ttl(new).options if new.type == "timeseries" else {}
        renamed = replace(new, options=options, indexes=(), uuid="")
        data = source / data_path(old.database, old.name, old.type)
        moved = target / data_path(renamed.database, renamed.name, renamed.type)
        moved.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            moved.symlink_to(data)
        else:
            data.rename(moved)
        (target / metadata_path(renamed.database, renamed.name)).write_text(metadata(_as_read(renamed)))


def _as_read(namespace: Namespace) -> Namespace:
    """mongorestore takes the name of a collection whose file name was cut from the metadata, and unescapes it."""
    escaped = quote_plus(namespace.name)
    return namespace if file_stem(namespace.name) == escaped else replace(namespace, name=escaped)


def stacks(folder: Path, namespaces: Iterable[tuple[Namespace, Namespace]]) -> list[tuple[Path, list[tuple[Namespace, Namespace]]]]:
    """What has documents in two dumps, ``plain`` and ``capped``, since the latter is loaded in order."""
    found = [pair for pair in namespaces if pair[0].type != "view"]
    return [(folder / kind, [pair for pair in found if pair[0].capped == (kind == "capped")]) for kind in ("plain", "capped")]


def _inborn(index: Mapping[str, Any]) -> bool:
    return dict(index["key"]) == {"_id": 1}


def load_stacks(target: Target, dumps: Iterable[tuple[Path, Sequence[tuple[Namespace, Namespace]]]]) -> None:
    """Load what :func:`stacks` put apart and :func:`lay_out` laid out, with its indexes."""
    for folder, stack in dumps:
        if stack:
            create_collections(target, [new for _, new in stack if new.type == "collection"])
            log.info("restored %d documents", target.load(folder, in_order=folder.name == "capped"))
            create_indexes(target, [new for _, new in stack])


def keep_series(dumps: Iterable[tuple[Path, Sequence[tuple[Namespace, Namespace]]]]) -> None:
    """Of what was laid out and loaded, keep the time series, which are loaded again at the swap, with all of their indexes."""
    for folder, stack in dumps:
        for _, new in stack:
            if new.type == "timeseries":
                (folder / metadata_path(new.database, new.name)).write_text(metadata(new))
            else:
                (folder / data_path(new.database, new.name, new.type)).unlink()


def create_collections(target: Target, namespaces: Iterable[Namespace]) -> None:
    """Create collections with exactly their options, but without any TTL; mongorestore fails on some, and leaves out some."""

    def create(now: Namespace) -> Callable[[Event], None]:
        def task(_: Event) -> None:
            target.client[now.database].command({"create": now.name, **without_ttl(now).options})

        return task

    in_threads(target.jobs, [create(now) for now in namespaces])


def create_indexes(target: Target, namespaces: Iterable[Namespace]) -> None:
    """Build the indexes of collections and time series, without any TTL, with every field in its place.

    mongorestore shuffles the fields within an index's options, by which a partial index may mean other documents.
    An index that is listed without a collation has the simple one; created so, it would get that of its collection.
    """

    def build(now: Namespace) -> Callable[[Event], None]:
        simple = {"collation": {"locale": "simple"}} if "collation" in now.options else {}
        indexes = [index for index in without_ttl(now).indexes if not _inborn(index)]
        wanted = [{**simple, **{key: value for key, value in index.items() if key != "ns"}} for index in indexes]

        def task(_: Event) -> None:
            if wanted:
                log.info("indexes of %s are built: %d", now.full, len(wanted))
                target.client[now.database].command("createIndexes", now.name, indexes=wanted, ignoreUnknownIndexOptions=True)

        return task

    in_threads(target.jobs, [build(now) for now in namespaces])


@dataclass(frozen=True)
class Target:
    """A server that a restore works on."""

    client: Client
    endpoint: Endpoint
    tools: ClientTools
    jobs: int

    def load(self, folder: Path, *options: str, in_order: bool = False) -> int:
        """Load a dump with stock mongorestore; see :func:`mongorestore`."""
        return mongorestore(self.endpoint, self.tools, folder, self.jobs, *options, in_order=in_order)


def mongorestore(endpoint: Endpoint, tools: ClientTools, folder: Path, jobs: int, *options: str, in_order: bool) -> int:
    """Load a dump; the number of documents.

    Its exit status is 0 even if documents had duplicate keys, so its count of failures is read.

    Raises:
        RestoreError: if a document failed, or it does not say how many did.
        ToolError: if it is missing or fails.
    """
    program = tools.find("mongorestore")
    argv: list[str | Path] = [program, f"--dir={folder}", "--stopOnError", "--bypassDocumentValidation", f"--numParallelCollections={jobs}"]
    argv.append("--maintainInsertionOrder" if in_order else f"--numInsertionWorkersPerCollection={_WORKERS}")
    with (
        tool_config(endpoint, folder.parent) as config,
        tools.runner.tool([*argv, *options, f"--config={config}"], on_line=_log) as running,
    ):
        running.wait()
        said = list(running.last_words)
    counted = next((match for line in reversed(said) if (match := _SUMMARY.search(line))), None)
    if counted is None or int(counted[2]):
        raise RestoreError(
            f"mongorestore did not restore every document: {said[-1] if said else 'it said nothing'}.",
            "Read what it said in the log above.",
        )
    return int(counted[1])


def _log(line: str) -> None:
    log.log(logging.DEBUG if _DETAIL.search(line) else logging.INFO, "mongorestore: %s", line.partition("\t")[2] or line)


def drop_marked(client: Client, databases: Collection[str], prefix: str) -> list[str]:
    """Drop every collection, time series and view whose name begins with a mark; their names."""
    dropped = []
    for database in databases:
        for name in client[database].list_collection_names():
            if name.startswith(prefix) and marked_id(name):
                client[database].drop_collection(name)
                dropped.append(f"{database}.{name}")
    if dropped:
        log.info("dropped %d collections and views that begin with %s", len(dropped), prefix)
    return dropped


def staged(client: Client, databases: Iterable[str], restore_id: str) -> list[Namespace]:
    """What a restore staged, under the names that it will have."""
    prefix = mark("stage", restore_id)
    return [
        replace(namespace, name=namespace.name.removeprefix(prefix), options=_source_renamed(namespace, prefix))
        for database in databases
        for namespace in read_database(client, database, marked=True)
        if namespace.name.startswith(prefix)
    ]


def _source_renamed(namespace: Namespace, prefix: str) -> dict[str, object]:
    options = dict(namespace.options)
    if namespace.type == "view":
        options["viewOn"] = str(options["viewOn"]).removeprefix(prefix)
    return options


def staged_data(restore_id: str, namespace: Namespace) -> str:
    """The collection that has a staged namespace's documents."""
    return data_name(mark("stage", restore_id, namespace.name), namespace.type)


def create_views(client: Client, views: Sequence[Namespace], rename: Callable[[str, str], str] = lambda database, name: name) -> None:
    """Create views, each after those that it builds on; ``rename`` gives the names of views and of what they read."""
    for view in in_order(views):
        options = {**view.options, "viewOn": rename(view.database, str(view.options["viewOn"]))}
        client[view.database].command("create", rename(view.database, view.name), **options)


def in_order(views: Sequence[Namespace]) -> Iterator[Namespace]:
    """Views in an order in which each comes after the view that it reads."""
    waiting = {view.full: view for view in views}
    while waiting:
        ready = [view for view in waiting.values() if f"{view.database}.{view.options['viewOn']}" not in waiting] or list(waiting.values())
        for view in ready:
            yield waiting.pop(view.full)


def live_digests(client: Client, places: Sequence[tuple[str, str]], jobs: int) -> dict[tuple[str, str], Facts]:
    """``count``, ``digest`` and ``bytes`` of collections, given as ``(database, name)``, by the code that reads dumps."""
    progress = CollectionsProgress("comparing", len(places))
    found: dict[tuple[str, str], Facts] = {}

    def reading(place: tuple[str, str]) -> Callable[[Event], None]:
        def task(stop: Event) -> None:
            def batches() -> Iterator[bytes]:
                for batch in raw_batches(client, *place, MAJORITY):
                    progress.add(len(batch))
                    yield batch
                    if stop.is_set():
                        return

            found[place] = digest(batches())
            progress.collection_done(f"{place[0]}.{place[1]}", found[place]["bytes"])

        return task

    in_threads(jobs, [reading(place) for place in places])
    progress.finish()
    return found
