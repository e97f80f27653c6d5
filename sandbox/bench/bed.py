"""What the benchmark measures on: servers with data of two sizes, and a plan for each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from recovery.crypto.key_kit import create_keys
from recovery.sets.layout import new_set_id
from sandbox import toolchain
from sandbox.bench import data
from sandbox.bench.profiled import FOLDER
from sandbox.bench.tasks import PROJECT, Tasks, task_environment
from sandbox.servers import Mongo, Postgres, postgres_bin

APPROVER = "approver"
POSTGRES, MONGO = SOURCES = ("postgres.main", "mongo.documents")

_PLAN = """\
plan: {name}
schedule: null
sources:
  postgres: {{main: {{connection: bench_postgres, databases: [{name}]}}}}
  mongo: {{documents: {{connection: bench_mongo, databases: [{name}]}}}}
encryption: {{recipients: [{recipient}], identity: bench_backup_identity}}
signing: bench_backup_signing
destinations: {{local: {{folder: "{folder}/backups", keep_last: 1}}}}
approvals: {{approvers: [{{user: {approver}, name: Approver}}]}}
staging: {{folder: "{folder}/staging"}}
tools: {{postgres: ["{postgres}"], mongo: ["{mongo}"]}}
"""


class Bed:
    """PostgreSQL and MongoDB with one database in each for every size of data.

    Args:
        folder: everything is in it.
        sizes: scale by name; see :mod:`sandbox.bench.data`. The name is the plan's and the databases' too.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, float]) -> None:
        self.folder = folder
        self.sizes = sizes
        self.backups = folder / "backups"
        self.staging = folder / "staging"
        self.postgres = Postgres(folder / "postgres", options=["max_wal_size=8GB", "shared_buffers=512MB"])
        self.mongo = Mongo(folder / "mongo")
        self.servers = {POSTGRES: self.postgres, MONGO: self.mongo}
        """By the source that is read from it, or restored to it."""
        self.mongo_tools = toolchain.mongo_tools()
        self._servers = ExitStack()
        self._runs = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for server in self.servers.values():
            self._servers.enter_context(server)
        self.backups.mkdir()
        keys = create_keys(self.folder / "keys", "bench")
        self._connections = json.loads((keys.folder / "connections.json").read_text()) | {
            "bench_postgres": {
                "conn_type": "postgres", "host": "127.0.0.1", "port": self.postgres.port,
                "login": "postgres", "password": self.postgres.password,
            },
            "bench_mongo": {
                "conn_type": "mongo", "host": "127.0.0.1", "port": self.mongo.port,
                "login": "root", "password": self.mongo.password, "extra": {"authSource": "admin"},
            },
        }  # fmt: skip
        for name in self.sizes:
            values = {"folder": self.folder, "postgres": postgres_bin(18), "mongo": self.mongo_tools, "approver": APPROVER}
            self.plan(name).write_text(_PLAN.format(name=name, recipient=keys.recipient, **values))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._servers.close()

    def fill(self) -> None:
        """Make the data."""
        for name, scale in self.sizes.items():
            data.fill_postgres(self.postgres, name, scale)
            data.fill_mongo(self.mongo, name, scale)

    def plan(self, name: str) -> Path:
        """The plan of a size."""
        return self.folder / f"{name}.yaml"

    def tasks(self, name: str, run: str, *steps: str, tree: Path = PROJECT, watch: bool = False, profile: Path | None = None) -> Tasks:
        """A process for a plan; with a folder for its profile, if it is to have one."""
        environment = task_environment(self._connections, self.folder, self.folder, tree)
        if profile is not None:
            environment[FOLDER] = str(profile)
        return Tasks(self.plan(name), run, steps, environment, tree=tree, servers=list(self._used(steps)), watch=watch)

    def _used(self, steps: Sequence[str]) -> Iterator[int]:
        """Process ids of the servers of the sources that steps are about."""
        sources = {step.partition(":")[2] for step in steps}
        return (server.pid for source, server in self.servers.items() if source in sources)

    def new_set(self) -> str:
        """An id for another set."""
        self._runs += 1
        return new_set_id(datetime.now(UTC), f"bench {self._runs}")
