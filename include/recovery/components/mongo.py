"""MongoDB: replica sets are read at one cluster time, standalone servers by mongodump; restored beside the live data.

One artifact a source, in mongodump's own layout (``<db>/<collection>.bson`` and ``.metadata.json``), so that stock
``mongorestore --dir`` takes it. Users and roles come along: see :mod:`recovery.components.mongo_users`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tarfile import TarInfo
from typing import IO

import pymongo

from recovery.components import mongo_contents
from recovery.components.base import Artifact, Component, Dump
from recovery.components.mongo_catalog import named_databases
from recovery.components.mongo_client import Client, connect, server
from recovery.components.mongo_dump import Taken, afresh, take_fuzzy, take_snapshot
from recovery.components.mongo_snapshot import SnapshotLost
from recovery.components.mongo_users import Accounts, read_accounts, write_accounts
from recovery.connections import Endpoint
from recovery.contents import Row, write_rows
from recovery.plan import MongoSource
from recovery.process import find_tool, run
from recovery.units import human_size

log = logging.getLogger(__name__)

_SNAPSHOTS = 2


class Mongo(Component):
    """A MongoDB replica set or standalone server."""

    kind = "mongo"

    def __init__(self, name: str, settings: MongoSource, endpoint: Endpoint, tools: Sequence[Path]) -> None:
        super().__init__(name)
        self._settings = settings
        self._endpoint = endpoint
        self._tools = tools

    # Backup -----------------------------------------------------------------------------------------------------------

    def dump(self, folder: Path, opened: Callable[[], None]) -> Dump:
        """See :meth:`Component.dump`. Without the right to read users, the dump has none, and a warning says so."""
        root = folder / self.name
        tell = _Once(opened)
        with connect(self._endpoint) as client:
            who = server(client)
            versions = {"mongodb": who.version_text, "pymongo": pymongo.version}
            taken, lost = self._snapshot(client, root, tell) if who.replica_set else (None, "it is a standalone server")
            if taken is None:
                log.warning("no snapshot: %s; mongodump reads instead", lost)
                afresh(root)
                versions["mongodump"] = tool_version("mongodump", self._tools)
                taken = take_fuzzy(client, self._endpoint, self._settings, self._tools, root, tell)
            accounts = read_accounts(client, named_databases(self._settings))
        warnings = list(taken.warnings)
        if lost:
            warnings.append(f"The server gave no snapshot: {lost}.")
        if tell.when and tell.when < taken.point.opened:
            warnings.append("It had to start anew, so scans of files that waited for it may be older than it.")
        if accounts is None:
            warnings.append("Users and roles are not in the dump: the backup user may not read them; grant it the role backup.")
        for warning in warnings:
            log.warning("%s", warning)
        accounts = accounts or Accounts()
        write_accounts(accounts, root, whole_server=not named_databases(self._settings))
        write_rows(folder / f"{self.name}.inventory.jsonl", [*self._databases(taken), *taken.inventory, *accounts.rows()])
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        log.info("%s: %s and %r, %s", self.id, human_size(size), accounts, taken.consistency)
        return Dump(
            artifacts=(Artifact(name=self.name, root=str(root), bytes=size),),
            point=taken.point,
            consistency=taken.consistency,
            versions=versions,
            warnings=tuple(warnings),
        )

    def _snapshot(self, client: Client, root: Path, opened: Callable[[], None]) -> tuple[Taken | None, str]:
        lost = ""
        for attempt in range(_SNAPSHOTS):
            afresh(root)
            try:
                return take_snapshot(client, self._settings, root, opened), ""
            except SnapshotLost as error:
                lost = str(error)
                log.warning("snapshot %d of %d was lost: %s", attempt + 1, _SNAPSHOTS, lost)
                if not error.again:
                    break
        return None, lost

    def _databases(self, taken: Taken) -> Iterator[Row]:
        names = {name.partition(".")[0] for kind, name, _ in taken.inventory if kind in {"collection", "view"}}
        yield from (("database", name, {"whole": not self._settings.collections}) for name in sorted(names))

    @staticmethod
    def read_pack(artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
        """See :meth:`Component.read_pack`."""
        return mongo_contents.read_members(members)

    def contents(self, artifact: str, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
        """See :meth:`Component.contents`."""
        return mongo_contents.contents(inventory, read)


class _Once:
    """Passes on the first call only: a dump that starts anew does not open twice."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.when: datetime | None = None

    def __call__(self) -> None:
        if self.when is None:
            self._call()
            self.when = datetime.now(UTC)


def tool_version(name: str, tools: Sequence[Path]) -> str:
    """What a tool says its version is."""
    first = run([find_tool(name, tools), "--version"]).decode().splitlines()[0]
    return first.rpartition(" ")[2]
