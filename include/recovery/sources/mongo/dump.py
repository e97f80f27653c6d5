"""Taking a dump: everything at one cluster time where that can be had, else by mongodump."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from bson import Timestamp
from pymongo.errors import OperationFailure

from recovery.common.connections import Endpoint
from recovery.common.errors import SourceError
from recovery.common.files import check_space
from recovery.common.units import iso
from recovery.common.wording import shortened
from recovery.packs.content_index import Facts, Row
from recovery.plan.kinds.mongo import MongoSettings
from recovery.sources.model import Consistency, RecoveryPoint
from recovery.sources.mongo.catalog import (
    LEFT_OUT,
    Namespace,
    by_uuid,
    data_path,
    definitions,
    marked_id,
    metadata,
    metadata_path,
    named_databases,
    read_catalog,
    rows,
    user_databases,
)
from recovery.sources.mongo.client import Client, ClientTools, tool_config, unauthorized
from recovery.sources.mongo.raw_bson import blocks, documents
from recovery.sources.mongo.snapshot import (
    MAJORITY,
    AtClusterTime,
    SnapshotLost,
    cluster_time,
    exact_count,
    in_threads,
    majority_has,
    with_snapshot,
    write_documents,
)

log = logging.getLogger(__name__)

_ATTEMPTS = 3
_CAPPED_POSITION_LOST = 136
_CAPPED = "Capped collections can't be read in a snapshot and were read after it:"
_DONE = re.compile(r"done dumping (.*) \((\d+) documents?\)$")


@dataclass(frozen=True)
class Taken:
    """A dump's documents and definitions, on disk."""

    point: RecoveryPoint
    consistency: Consistency
    inventory: tuple[Row, ...]
    warnings: tuple[str, ...] = ()


def check_room(client: Client, settings: MongoSettings, folder: Path) -> None:
    """Before anything is written: a dump is about as large as the documents are uncompressed."""
    try:
        size = sum(int(client[name].command("dbStats")["dataSize"]) for name in named_databases(settings) or user_databases(client))
    except OperationFailure as error:
        if not unauthorized(error):
            raise
        log.warning("whether staging has room for the dump can't be told: the user has no right to dbStats")
    else:
        check_space(folder, 0 if settings.collections or settings.exclude else size, "the dump")


def take_snapshot(client: Client, settings: MongoSettings, root: Path, opened: Callable[[], None], *, damaged: bool = False) -> Taken:
    """Read all databases at one cluster time.

    Capped collections can't be read in a snapshot; they are read after it. Then the whole is ``fuzzy``, because one
    word has to hold for every collection, and a warning names those that it is true of.

    Raises:
        SnapshotLost: if the server has no snapshot, or not until the end, or a collection was dropped meanwhile.
    """
    there, at = _stable_catalog(client, settings, damaged)
    catalog, left_out, words = _divided(there, settings)
    started = datetime.now(UTC)
    _refuse_minority(client, catalog, at)
    opened()
    log.info("reading %d collections at cluster time %d:%d", len(catalog), at.time, at.inc)
    _write_definitions(catalog, root)
    readable = [namespace for namespace in catalog if namespace.type != "view" and not namespace.capped]
    capped = [namespace for namespace in catalog if namespace.capped]
    counts = _counts(client, readable, AtClusterTime(at), settings.jobs)
    sizes = write_documents(client, readable, root, AtClusterTime(at), settings.jobs)
    sizes |= _write_capped(client, capped, root, settings.jobs)
    counts |= {namespace.full: _count_on_disk(namespace, root) for namespace in capped}
    totals = {name: {"bytes": size, "count": counts[name]} for name, size in sizes.items()}
    _refuse_moved(client, catalog)
    names = ", ".join(namespace.full for namespace in capped)
    return Taken(
        point=RecoveryPoint(opened=started, closed=datetime.now(UTC), position=f"{at.time}:{at.inc}"),
        consistency="fuzzy" if capped else "snapshot",
        inventory=(*left_out, *(_with_totals(row, totals) for namespace in catalog for row in rows(namespace))),
        warnings=(*words, *([f"{_CAPPED} {names}. All others are of one instant."] if capped else ())),
    )


def _divided(catalog: Sequence[Namespace], settings: MongoSettings) -> tuple[list[Namespace], list[Row], list[str]]:
    """What is backed up, rows of what the plan leaves out, and the same in sentences.

    Raises:
        SourceError: if it leaves out everything.
    """
    by = {each.full: [] if each.type == "view" else settings.excluding(each.full) for each in catalog}
    kept = [namespace for namespace in catalog if not by[namespace.full]]
    if catalog and not kept:
        raise SourceError("The plan excludes everything that the source has.", "Take something out of exclude.")
    found: dict[str, list[str]] = {text: [] for text in settings.exclude}
    for full, texts in by.items():
        for text in texts:
            found[text].append(full)
    words = [
        f"Left out by exclude {text}: {shortened(names)}." if names else f"Nothing fits exclude {text}; look whether it is written right."
        for text, names in found.items()
    ]
    left_out = [(LEFT_OUT, each.full, {"what": each.type, "by": f"exclude {by[each.full][0]}"}) for each in catalog if by[each.full]]
    return kept, left_out, words


def _stable_catalog(client: Client, settings: MongoSettings, damaged: bool) -> tuple[list[Namespace], Timestamp]:
    """What there is, and a time at which there was exactly that: listings are not part of a snapshot."""
    for _ in range(_ATTEMPTS):
        catalog = read_catalog(client, settings, damaged=damaged)
        at = cluster_time(client)
        if read_catalog(client, settings, damaged=damaged) == catalog:
            return catalog, at
    raise SnapshotLost("collections or indexes are made and dropped all the time")


def _refuse_minority(client: Client, catalog: Sequence[Namespace], at: Timestamp) -> None:
    first = next((namespace for namespace in catalog if namespace.type != "view"), None)
    if first and not majority_has(client, first.database, first.data, at):
        raise SnapshotLost("no majority of the replica set has what this member has: members that have data are down or late", again=False)


def _write_definitions(catalog: Sequence[Namespace], root: Path) -> None:
    for namespace in catalog:
        path = root / metadata_path(namespace.database, namespace.name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(metadata(namespace))


def _counts(client: Client, namespaces: Sequence[Namespace], concern: AtClusterTime, jobs: int) -> dict[str, int]:
    counts: dict[str, int] = {}

    def count(namespace: Namespace) -> Callable[[Event], None]:
        return lambda _: counts.update({namespace.full: exact_count(client, namespace, concern)})

    with_snapshot(lambda: in_threads(jobs, [count(namespace) for namespace in namespaces]))
    return counts


def _with_totals(row: Row, totals: Mapping[str, Facts]) -> Row:
    kind, name, facts = row
    return (kind, name, facts | totals[name]) if kind == "collection" else row


def _count_on_disk(namespace: Namespace, root: Path) -> int:
    """Documents of a file that was just written: nobody else counted what is read without a snapshot."""
    with (root / data_path(namespace.database, namespace.name, namespace.type)).open("rb") as stream:
        return sum(map(len, documents(blocks(stream))))


def _write_capped(client: Client, capped: Sequence[Namespace], root: Path, jobs: int) -> dict[str, int]:
    attempt = 1
    while True:
        try:
            return write_documents(client, capped, root, MAJORITY, jobs)
        except OperationFailure as error:
            if error.code != _CAPPED_POSITION_LOST or attempt == _ATTEMPTS:
                raise
            attempt += 1
            log.warning("a capped collection was overwritten faster than it was read; reading again")


def _refuse_moved(client: Client, catalog: Sequence[Namespace]) -> None:
    """A collection that was dropped reads as empty, without an error; so each must still be what it was."""
    places = by_uuid(client, {namespace.database for namespace in catalog})
    moved = [
        namespace.full
        for namespace in catalog
        if namespace.type != "view" and places.get(namespace.uuid) != (namespace.database, namespace.data)
    ]
    if moved:
        raise SnapshotLost(f"dropped or renamed while it was read: {', '.join(moved)}")


def take_fuzzy(
    client: Client,
    endpoint: Endpoint,
    settings: MongoSettings,
    tools: ClientTools,
    root: Path,
    opened: Callable[[], None],
    *,
    damaged: bool = False,
) -> Taken:
    """Let mongodump read everything, one collection after another, while the server goes on.

    What was made or dropped meanwhile is not in the inventory: nobody can say whether it had to be in the dump.

    Raises:
        SourceError: if mongodump left something out.
        ToolError: if it is missing or fails.
    """
    program = tools.find("mongodump")
    before, left_out, words = _divided(read_catalog(client, settings, damaged=damaged), settings)
    started = datetime.now(UTC)
    opened()
    done: dict[str, int] = {}

    def heard(line: str) -> None:
        log.info("mongodump: %s", line.partition("\t")[2] or line)
        if match := _DONE.search(line):
            done[match[1]] = int(match[2])

    with tool_config(endpoint, root.parent) as config:
        for selection in _selections(before, settings, client):
            argv: list[str | Path] = [program, f"--config={config}", f"--out={root}", f"--numParallelCollections={settings.jobs}"]
            with tools.runner.tool([*argv, *selection], on_line=heard):
                log.info("mongodump reads %s", selection[0].removeprefix("--db="))
    closed = datetime.now(UTC)
    _remove_temporary(root)
    after = {namespace.full: namespace for namespace in read_catalog(client, settings, damaged=damaged)}
    stayed = [namespace for namespace in before if namespace.full in after and after[namespace.full].uuid == namespace.uuid]
    _refuse_left_out(stayed, root)
    totals = _totals(stayed, root, done)
    still = {(kind, name): facts for namespace in after.values() for kind, name, facts in rows(namespace)}
    inventory = [_with_totals(row, totals) for namespace in stayed for row in rows(namespace) if still.get(row[:2]) == row[2]]
    return Taken(
        point=RecoveryPoint(opened=started, closed=closed),
        consistency="fuzzy",
        inventory=(*left_out, *inventory),
        warnings=(
            *words,
            f"mongodump read one collection after another from {iso(started)} to {iso(closed)}, while writes went on.",
        ),
    )


def _remove_temporary(root: Path) -> None:
    """Remove what the server keeps for a moment only, which mongodump dumps too; nobody could create it for a restore."""
    for found in definitions(root):
        if found.temporary:
            (root / metadata_path(found.database, found.name)).unlink()
            (root / data_path(found.database, found.name, found.type)).unlink()


def _totals(namespaces: Sequence[Namespace], root: Path, done: Mapping[str, int]) -> dict[str, Facts]:
    """Count, as mongodump said it, and bytes of every file, as it is now: what it must still be when it is read back."""
    found: dict[str, Facts] = {}
    for namespace in namespaces:
        if namespace.type != "view":
            count = done.get(namespace.full, done.get(f"{namespace.database}.{namespace.data}"))
            if count is None:
                raise SourceError(f"mongodump did not say that it is done with {namespace.full}.", "Read what it said above; try again.")
            path = root / data_path(namespace.database, namespace.name, namespace.type)
            found[namespace.full] = {"count": count, "bytes": path.stat().st_size}
    return found


def apart(inventory: Sequence[Row]) -> Sequence[Row]:
    """An inventory whose rows can be told apart by their names.

    Raises:
        SourceError: if two indexes have one: ``b][c`` of ``a``, and ``c`` of ``a[b]``.
    """
    counted = Counter((kind, name) for kind, name, _ in inventory)
    if doubles := [f"{kind} {name}" for (kind, name), count in counted.items() if count > 1]:
        raise SourceError(
            f"Two of one name can't be told apart in a set: {shortened(doubles)}.", "Give one of these indexes a name without brackets."
        )
    return inventory


def _selections(catalog: Sequence[Namespace], settings: MongoSettings, client: Client) -> list[list[str]]:
    """mongodump's arguments, one list a call: a database without what is left out, or single collections of it."""
    calls: list[list[str]] = []
    for database in sorted({namespace.database for namespace in catalog}):
        names = [namespace.name for namespace in catalog if namespace.database == database]
        if settings.collections or database == "admin":
            calls += [[f"--db={database}", f"--collection={name}"] for name in names]
        else:
            there = client[database].list_collection_names()
            others = [name for name in there if marked_id(name) or (name not in names and settings.excluding(f"{database}.{name}"))]
            calls.append([f"--db={database}", *(f"--excludeCollection={name}" for name in others)])
    return calls


def _refuse_left_out(namespaces: Sequence[Namespace], root: Path) -> None:
    missing = []
    for namespace in namespaces:
        paths = [metadata_path(namespace.database, namespace.name)]
        paths += [] if namespace.type == "view" else [data_path(namespace.database, namespace.name, namespace.type)]
        missing += [path for path in paths if not (root / path).is_file()]
    if missing:
        raise SourceError(f"mongodump left out {', '.join(missing)}.", "Read what it said above; grant its user the role backup.")
