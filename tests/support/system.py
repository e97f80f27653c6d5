"""Sample systems with a plan each, which tests back up, damage and restore by calling the steps as Airflow's tasks do."""

import json
import os
import shutil
from contextlib import closing as closed_after
from datetime import UTC, datetime
from pathlib import Path

from psycopg import sql

from recovery.backup import finalize, upload
from recovery.backup import steps as backup_steps
from recovery.common.connections import Clients, Endpoint
from recovery.common.errors import ConnectionUnusable
from recovery.crypto.key_kit import create_keys
from recovery.plan.loader import load_plan
from recovery.restore.session import RestoreSession
from recovery.runs.context import PlanContext
from recovery.runs.restore_request import Request
from recovery.runs.staged_set import RunRecord, StagedSet
from recovery.sets.layout import new_set_id
from sandbox import fingerprints, toolchain
from sandbox.servers import postgres_bin
from tests.support.services import ControllableServices

_PLAN = """\
plan: {name}
schedule: null
objectives: {{rpo: {rpo}, rto: 2h}}
sources:
{databases}
  files:
    uploads: {{path: "{home}/storage", exclude: ["*.tmp"]}}
  config:
    settings: {{paths: ["{home}/.env", "{home}/custom"]}}
encryption: {{recipients: [{recipient}], identity: {name}_backup_identity}}
signing: {name}_backup_signing
destinations:
  near: {{folder: "{folder}/near", keep_within: 30d}}
  far: {{folder: "{folder}/far", keep_last: 3}}
approvals: {{approvers: [{{user: alice, name: Alice}}, {{user: bob, name: Bob}}], timeout: {timeout}}}
services:
  stop: [["{folder}/service", stop, web], ["{folder}/service", stop, workers]]
  start: [["{folder}/service", start, workers], ["{folder}/service", start, web]]{cold}
checks:
  - {{argv: ["{folder}/service", check, web], retries: 0}}
staging: {{folder: "{folder}/staging"}}
tools: {{postgres: ["{postgres}"], mongo: ["{mongo}", "{mongod}"]}}
pack: 150KiB
{more}"""


class SampleSystem(ControllableServices):
    """Uploads and settings, services that can be made to wait or fail, and if servers are given a database in each.

    Args:
        folder: everything of it.
        name: of the plan, and of its databases.
        postgres: a running server, or none.
        mongo: a running server, or none.
        timeout: of the gates.
        more: further lines of the plan.
        down_at_most: how long a cold backup may stop the services; no such backups if None.
        gates: of a target ``elsewhere`` for all sources, on the same servers under other names; no such target if None.
    """

    def __init__(
        self,
        folder: Path,
        name="small",
        *,
        postgres=None,
        mongo=None,
        timeout="12h",
        more="",
        gates=None,
        plans: Path | None = None,
        down_at_most=None,
    ):
        self.folder = folder
        self.name = name
        self.home = folder / "home"
        self.storage = self.home / "storage"
        self.postgres = postgres
        self.mongo = mongo
        self.plans = plans or folder / "plans"
        self.elsewhere = folder / "elsewhere"
        cold = f"\n  down_at_most: {down_at_most}" if down_at_most else ""
        self._settings = {"timeout": timeout, "more": more, "rpo": "24h", "cold": cold}
        self._gates = gates
        folder.mkdir(parents=True)
        for sub in ("near", "far"):
            (folder / sub).mkdir()
        self.plans.mkdir(exist_ok=True)
        self.keys = create_keys(folder / "keys", name)
        self.install_services()
        self.write_plan()
        self.fill()

    # Plan, Connections, data -----------------------------------------------------------------------------------------------

    def write_plan(self, **changes):
        """Write the plan file, with other settings than before."""
        self._settings |= changes
        databases = []
        if self.postgres:
            databases += ["  postgres:", f"    main: {{connection: {self.name}_postgres, databases: [{self.name}]}}"]
        if self.mongo:
            databases += ["  mongo:", f"    documents: {{connection: {self.name}_mongo, databases: [{self.name}]}}"]
        targets = "" if self._gates is None else self._target()
        text = targets + _PLAN.format(
            name=self.name,
            databases="\n".join(databases),
            home=self.home,
            folder=self.folder,
            recipient=self.keys.recipient,
            postgres=postgres_bin(18),
            mongo=toolchain.mongo_tools(),
            mongod=toolchain.mongod().parent,
            **self._settings,
        )
        partial = self.plans / f"{self.name}.partial"
        partial.write_text(text)
        partial.rename(self.plans / f"{self.name}.yaml")

    def edit_plan(self, old, new):
        """Exchange some text of the plan file, which must be there."""
        path = self.plans / f"{self.name}.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def _target(self):
        lines = ["targets:", "  elsewhere:", f"    gates: [{', '.join(self._gates)}]", "    sources:"]
        lines += [
            f"      files: {{uploads: {{path: {self.elsewhere}/storage}}}}",
            f"      config: {{settings: {{folder: {self.elsewhere}}}}}",
        ]
        renamed = f"databases: {{{self.name}: {self.name}_elsewhere}}"
        if self.postgres:
            lines.append(f"      postgres: {{main: {{connection: {self.name}_postgres, {renamed}}}}}")
        if self.mongo:
            lines.append(f"      mongo: {{documents: {{connection: {self.name}_mongo, {renamed}}}}}")
        return "\n".join(lines) + "\n"

    def plan(self):
        """Its plan, as the file says now."""
        return load_plan(self.name, self.plans)

    def connections(self):
        """Its Connections, in Airflow's JSON form."""
        found = json.loads((self.keys.folder / "connections.json").read_text())
        if self.postgres:
            found[f"{self.name}_postgres"] = {
                "conn_type": "postgres", "host": "127.0.0.1", "port": self.postgres.port,
                "login": "postgres", "password": self.postgres.password, "schema": "postgres",
            }  # fmt: skip
        if self.mongo:
            found[f"{self.name}_mongo"] = {
                "conn_type": "mongo", "host": "127.0.0.1", "port": self.mongo.port,
                "login": "root", "password": self.mongo.password, "extra": {"authSource": "admin"},
            }  # fmt: skip
        return found

    def connect(self, name):
        """Look a Connection up, as Airflow would."""
        try:
            fields = self.connections()[name]
        except KeyError:
            raise ConnectionUnusable(f"no {name}", "none") from None
        return Endpoint(id=name, **{key: value for key, value in fields.items() if key in Endpoint.__dataclass_fields__})

    def context(self, plan=None, connect=None):
        """Its plan with its Connections, or another plan, or others."""
        return PlanContext(plan or self.plan(), Clients(connect or self.connect, self.connect))

    def fill(self):
        """Write files and settings, and a database on each server."""
        for number in range(6):
            path = self.storage / f"year{number % 3}" / f"upload {number}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([number]) * 40_000 + os.urandom(30_000))
        (self.storage / "top.txt").write_text("as in the set\n")
        (self.storage / "latest").symlink_to("year0")
        (self.home / ".env").write_text("DB_PASSWORD=as-in-the-set\nMODE=prod\n")
        (self.home / ".env").chmod(0o600)
        (self.home / "custom" / "lib").mkdir(parents=True)
        (self.home / "custom" / "lib" / "flow.py").write_text("STEPS = 3\n")
        if self.postgres:
            with closed_after(self.postgres.connect()) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)))
            self.sql("CREATE TABLE requests (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text NOT NULL)")
            self.sql("INSERT INTO requests (what) SELECT 'request ' || n FROM generate_series(1, 500) AS n")
            self.sql("CREATE INDEX ON requests (what); CREATE VIEW newest AS SELECT max(id) FROM requests")
        if self.mongo:
            with self.mongo.client() as client:
                database = client[self.name]
                database.states.insert_many([{"_id": n, "state": f"state {n}"} for n in range(300)])
                database.states.create_index("state")
                long_ago = datetime(2001, 1, 1, tzinfo=UTC)
                database.sessions.insert_many([{"_id": n, "ends": long_ago} for n in range(20)])
                database.sessions.create_index("ends", expireAfterSeconds=1_000_000_000)
                database.create_collection("running", viewOn="states", pipeline=[{"$match": {"_id": {"$lt": 9}}}])

    def sql(self, statement):
        """Execute a statement in its PostgreSQL database."""
        with closed_after(self.postgres.connect(self.name)) as connection:
            connection.execute(statement)

    def disaster(self):
        """Files and settings gone or changed, tables and collections too."""
        shutil.rmtree(self.storage / "year1")
        (self.storage / "top.txt").write_text("overwritten by mistake\n")
        (self.storage / "new.txt").write_text("came later\n")
        (self.home / ".env").unlink()
        if self.postgres:
            self.sql("DELETE FROM requests WHERE id > 10; DROP VIEW newest; CREATE TABLE by_mistake (n int)")
        if self.mongo:
            with self.mongo.client() as client:
                client[self.name].states.delete_many({"_id": {"$gt": 10}})
                client[self.name].drop_collection("running")
                client[self.name].wrong.insert_one({"_id": 1})

    def backed_up_and_damaged(self):
        """Itself, backed up and then damaged: what it held is ``set_state``, in the set ``set_id``; what it holds now is ``before``."""
        self.set_id = self.back_up()
        self.set_state = self.fingerprint()
        self.disaster()
        self.before = self.fingerprint()
        return self

    def drop(self):
        """Remove the databases, so that the servers can be used by others."""
        if self.postgres:
            with closed_after(self.postgres.connect()) as connection:
                for (name,) in connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{self.name}%"]).fetchall():
                    connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        if self.mongo:
            with self.mongo.client() as client:
                client.drop_database(self.name)
                client.drop_database(f"{self.name}_elsewhere")

    # What it holds ----------------------------------------------------------------------------------------------------

    def elsewhere_fingerprint(self):
        """What the target holds, in the words of :meth:`fingerprint`."""
        name = f"{self.name}_elsewhere"
        home = self.elsewhere / self.home.relative_to("/")
        found = {"files.uploads": fingerprints.files(self.elsewhere / "storage"), "config.settings": fingerprints.config(home)}
        if self.postgres:
            found["postgres.main"] = fingerprints.postgres(self.postgres, name)
        if self.mongo:
            found["mongo.documents"] = fingerprints.mongo(self.mongo, name)
        return found

    def fingerprint(self):
        """What it holds, found out without the code under test."""
        found = {"files.uploads": fingerprints.files(self.storage), "config.settings": fingerprints.config(self.home)}
        if self.postgres:
            found["postgres.main"] = fingerprints.postgres(self.postgres, self.name)
        if self.mongo:
            found["mongo.documents"] = fingerprints.mongo(self.mongo, self.name)
        return found

    def leftovers(self):
        """Whatever a restore left beside the live data: names that carry its marks."""
        found = [str(path) for path in self.home.rglob(".recovery-*") if path.parent in {self.home, self.storage}]
        if self.postgres:
            with closed_after(self.postgres.connect()) as connection:
                like = (f"{self.name}\\_\\_%",)
                found += [name for (name,) in connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", like).fetchall()]
        if self.mongo:
            with self.mongo.client() as client:
                names = client[self.name].list_collection_names()
                found += [name for name in names if name.startswith(("__", "system.buckets.__"))]
        return sorted(found)

    # Backing up and restoring -----------------------------------------------------------------------------------------

    def begin_backup(self, run_id="run", when=None, sources=None, **asked):
        """The staged set of a backup that has begun, and of which nothing is dumped."""
        context = self.context()
        plan = context.plan
        when = when or datetime.now(UTC)
        staged = StagedSet(plan, new_set_id(when, run_id))
        sources = tuple(plan.source_ids) if sources is None else sources
        record = RunRecord(plan=plan.plan, set_id=staged.id, run_id=run_id, started=when, sources=sources, **asked)
        finalize.prepare(context, staged, record)
        return staged

    def back_up(self, run_id="backup", when=None, sources=None, **asked):
        """A whole backup; the id of its set."""
        staged = self.begin_backup(run_id, when, sources, **asked)
        context = self.context()
        plan = context.plan
        order = sorted(staged.run().sources, key=lambda source_id: source_id.startswith(("files.", "config.")))
        for source_id in order:
            work = backup_steps.Work(context, staged, source_id)
            for step in (backup_steps.dump, backup_steps.compress, backup_steps.verify):
                step(work)
        for name in plan.destinations:
            upload.upload(context, staged, name)
        upload.finish(context, staged, staged.run().sources)
        return staged.id

    def restore(self, run_id="restore 1"):
        """The run of a restore, which has not begun."""
        return RestoreSession(self.context(), run_id)

    def ask(self, run, **asked):
        """What an operator asks; all sources unless named."""
        facts = {"requester": "operator", "started": datetime.now(UTC), "sources": tuple(run.plan.source_ids)} | asked
        return Request(run_id=run.run_id, **facts)

    def set_folders(self, set_id):
        """Where the destinations have a set."""
        return [self.folder / place / self.name / set_id for place in ("near", "far")]
