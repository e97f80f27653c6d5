"""A whole OpenManus on embedded servers, with keys, a plan, and the Connections that an Airflow needs to protect it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recovery.crypto.key_kit import CreatedKeys, create_keys
from sandbox import fingerprints, sample, toolchain
from sandbox.airflow import Airflow
from sandbox.fingerprints import Fingerprints
from sandbox.servers import S3, Mongo, Postgres, postgres_bin

BUCKET = "openmanus-backups"
USERS = {"operator": "user", "approver": "user"}

_PLAN = """\
plan: {name}
schedule: null
objectives: {{rpo: 24h, rto: 2h}}
sources:
  postgres:
    main: {{connection: openmanus_postgres, databases: [openmanus]}}
  mongo:
    documents: {{connection: openmanus_mongo, databases: [openmanus]}}
  files:
    uploads: {{path: "{home}/storage", exclude: ["*.tmp"]}}
  config:
    settings: {{paths: ["{home}/.env", "{home}/docker-compose.yml"]}}
    code: {{paths: ["{home}/custom"]}}
encryption: {{recipients: [{recipient}], identity: openmanus_backup_identity}}
signing: openmanus_backup_signing
destinations:
  local: {{folder: "{folder}/backups", keep_within: 30d}}
  offsite: {{s3: {{connection: backup_s3, bucket: {bucket}, prefix: prod}}, keep_last: 14}}
approvals: {{approvers: [{approvers}], timeout: 12h}}
services:
  stop: [[touch, "{home}/maintenance"]]
  start: [[rm, -f, "{home}/maintenance"]]
checks:
  - {{name: settings are there, argv: [test, -s, "{home}/.env"]}}
  - {{name: uploads of 2025 are there, argv: [test, -d, "{home}/storage/2025"]}}
  - name: customers can be found
    sql: {{source: postgres.main, database: openmanus, query: "SELECT count(*) FROM customers", at_least: 1}}
  - name: agents have states
    mongo: {{source: mongo.documents, database: openmanus, collection: agent_states, at_least: 1}}
staging: {{folder: "{folder}/staging"}}
tools: {{postgres: ["{postgres_bin}"], mongo: ["{mongo_tools}", "{mongod}"]}}
{more}"""


class System:
    """PostgreSQL, MongoDB, uploads and configuration of a sample OpenManus, and an S3 server for its backups.

    Args:
        folder: everything is in it.
        scale: size of the sample data; 1.0 is about 200 MB.
        approvers: user names that may approve.
        more: further YAML lines for the plan.
    """

    def __init__(self, folder: Path, scale: float = 1.0, approvers: tuple[str, ...] = ("approver",), more: str = "") -> None:
        self.folder = folder
        self.home = folder / "openmanus"
        self.storage = self.home / "storage"
        self.plans = folder / "plans"
        self.backups = folder / "backups"
        self.postgres = Postgres(folder / "postgres")
        self.mongo = Mongo(folder / "mongo")
        self.s3 = S3(folder / "s3")
        self.keys: CreatedKeys
        self._scale = scale
        self._approvers = approvers
        self._more = more
        self._servers = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for server in (self.postgres, self.mongo, self.s3):
            self._servers.enter_context(server)
        self.backups.mkdir()
        self.s3.client().create_bucket(Bucket=BUCKET)
        self.keys = create_keys(self.folder / "keys", "openmanus")
        self.write_plan()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._servers.close()

    def write_plan(self, name: str = "openmanus", edit: Callable[[str], str] = str) -> Path:
        """Write the plan file; ``edit`` changes its text."""
        approvers = ", ".join(f"{{id: {user}, name: {user.title()}}}" for user in self._approvers)
        text = _PLAN.format(
            name=name,
            home=self.home,
            folder=self.folder,
            bucket=BUCKET,
            recipient=self.keys.recipient,
            approvers=approvers,
            postgres_bin=postgres_bin(18),
            mongo_tools=toolchain.mongo_tools(),
            mongod=toolchain.mongod().parent,
            more=self._more,
        )
        self.plans.mkdir(exist_ok=True)
        path = self.plans / f"{name}.yaml"
        path.write_text(edit(text))
        return path

    def fill(self) -> None:
        """Make the sample data."""
        sample.fill_postgres(self.postgres, self._scale)
        sample.fill_mongo(self.mongo, self._scale)
        sample.fill_files(self.storage, self._scale)
        sample.fill_config(self.home)

    def disaster(self) -> None:
        """Drop the database and the collections, delete the uploads and ``.env``."""
        sample.disaster(postgres=self.postgres, mongo=self.mongo, files=self.storage, config=self.home)

    def fingerprint(self) -> dict[str, Fingerprints]:
        """What the system holds, by source, found out independently of the code under test."""
        return {
            "postgres.main": fingerprints.postgres(self.postgres),
            "mongo.documents": fingerprints.mongo(self.mongo),
            "files.uploads": fingerprints.files(self.storage),
            "config": fingerprints.config(self.home),
        }

    def connections(self) -> dict[str, Mapping[str, Any]]:
        """The Connections that the plan names, in Airflow's JSON form."""
        kit: dict[str, Mapping[str, Any]] = json.loads((self.keys.folder / "connections.json").read_text())
        return kit | {
            "openmanus_postgres": {
                "conn_type": "postgres", "host": "127.0.0.1", "port": self.postgres.port,
                "login": "postgres", "password": self.postgres.password, "schema": "postgres",
            },
            "openmanus_mongo": {
                "conn_type": "mongo", "host": "127.0.0.1", "port": self.mongo.port,
                "login": "root", "password": self.mongo.password, "extra": {"authSource": "admin"},
            },
            "backup_s3": {
                "conn_type": "aws", "login": self.s3.access_key, "password": self.s3.secret_key,
                "extra": {"endpoint_url": self.s3.url, "region_name": "us-east-1"},
            },
        }  # fmt: skip

    def airflow(self, users: Mapping[str, str] = USERS, connections: Mapping[str, Mapping[str, Any]] | None = None) -> Airflow:
        """An Airflow that protects it; not started yet."""
        return Airflow(
            self.folder / "airflow",
            connections=self.connections() | dict(connections or {}),
            users=users,
            environment={"RECOVERY_PLANS": str(self.plans)},
        )
