"""Backups through a real Airflow: what fails, what is kept, what is told, and what the next morning does.

Each scenario has a plan and a system of its own, so several run at the same time; one test reports on each.
"""

import json
import os
import shutil
import signal
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from email import message_from_string
from email.policy import default
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from recovery.crypto.signing import VerifyKey
from recovery.sets.manifest import parse_manifest
from sandbox.person import Refused
from sandbox.servers import wait_for

MAIL = "mail: {connection: mail, to: [oncall@example.org], sender: recovery@example.org}"
HOOKS = """\
hooks:
  before_backup: [{{argv: [sh, -c, 'cd "$$RECOVERY_PLANS"; echo before >> {name}.told; test ! -e {name}.stop']}}]
  after_backup: [{{argv: [sh, -c, 'cd "$$RECOVERY_PLANS"; echo after >> {name}.told; echo the words of after']}}]
  after_failed_backup: [{{argv: [sh, -c, 'cd "$$RECOVERY_PLANS"; echo alarm >> {name}.told']}}]
"""
SCENARIOS = {}
SAMPLE_PLANS = {}


def scenario(retries=0, hooks="", **settings):
    """Register a scenario; its plan has a heartbeat address of its own."""

    def register(function):
        name = f"b_{function.__name__}"[:40]
        SCENARIOS[name] = function
        more = f"alerts: {{{MAIL}, heartbeat: dead_man_{name}}}\nretries: {retries}\nretry_delay: 1s\n{hooks.format(name=name)}"
        SAMPLE_PLANS[name] = {"more": more} | settings
        return function

    return register


class Play:
    """One scenario's system, plan and people."""

    def __init__(self, name, airflow, system, mails, dead_man):
        self.name = name
        self.airflow = airflow
        self.system = system
        self.dag = f"{name}_backup"
        self.operator = airflow.user("operator")
        self.run_id = ""
        self._mails = mails
        self._dead_man = dead_man
        path = {"path": f"/{name}"}
        airflow.admin.put_connection(f"dead_man_{name}", {"conn_type": "http", "host": "127.0.0.1", "port": dead_man.server_port,
                                                          "schema": "http", "extra": path})  # fmt: skip

    def trigger(self, **params):
        self.run_id = self.operator.trigger(self.dag, params)
        return self

    def ended(self, state):
        found = self.operator.wait_run(self.dag, self.run_id, timeout=240)
        assert found == state, f"{found}: {self.states}\n{self.logs()}"
        return self

    @property
    def states(self):
        return self.operator.states(self.dag, self.run_id)

    def logs(self, *tasks):
        """What the failed tasks, or those named, said."""
        wanted = tasks or [task_id for task_id, state in self.states.items() if state == "failed"]
        return "\n".join(self.operator.log_text(self.dag, self.run_id, task_id) for task_id in wanted)

    def tries(self, task_id):
        return self.operator.tasks(self.dag, self.run_id)[task_id].try_number

    @property
    def hooks(self):
        """The hooks that ran since this was asked before, in order."""
        path = self.system.plans / f"{self.name}.told"
        told = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return told

    @property
    def pings(self):
        return self._dead_man.asked.count(f"/{self.name}")

    def mails(self, run_id=""):
        """Texts of the mails about a run, or about this one."""
        texts = [
            message_from_string(message.text, policy=default).get_body(("html", "plain")).get_content() for message in self._mails.messages
        ]
        return [text for text in texts if (run_id or self.run_id) in text]

    def failure_mail(self):
        wait_for("the mail about the failure", lambda: bool(self.mails()))
        return self.mails()[0]

    def sets(self, place="near"):
        """Manifests at a destination, their signatures checked, oldest first."""
        key = VerifyKey.from_pem((self.system.keys.folder / "public.pem").read_text())
        found = []
        for path in (self.system.folder / place / self.name).glob("*/manifest.json"):
            found.append(
                parse_manifest(path.read_bytes(), path.with_suffix(".json.sig").read_bytes(), key, f"{self.name}/{path.parent.name}")
            )
        return sorted(found, key=lambda manifest: manifest.created)

    @property
    def staged(self):
        folder = self.system.folder / "staging" / self.name / "sets"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    @contextmanager
    def database_in_use(self):
        """Somebody holds a lock, so that the dump of the database waits in its middle; gives the process that waits."""
        with closing(self.system.postgres.connect(self.name)) as holder, closing(self.system.postgres.connect()) as watcher:
            holder.execute("BEGIN")
            holder.execute("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE")

            def waiting():
                query = "SELECT client_port FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
                wait_for("the dump", lambda: watcher.execute(query, [self.name]).fetchone() is not None)
                return process_at_port(watcher.execute(query, [self.name]).fetchone()[0])

            yield waiting


def process_at_port(port):
    """The process whose connection has a local port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = (row[9] for row in rows if int(row[1].rpartition(":")[2], 16) == port and row[9] != "0")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink().name == f"socket:[{inode}]":
                return int(link.parent.parent.name)
        except OSError:
            continue
    raise LookupError(f"nobody has port {port}")


@pytest.fixture(scope="module")
def dead_man():
    """The service that waits for pings; keeps the paths it was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            """Keep quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def plays(request, airflow, sample_systems, mails, dead_man):
    """The scenarios that were selected, as futures; several run at once."""
    chosen = [item.callspec.params["name"] for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    with ThreadPoolExecutor(3) as pool:
        yield {
            name: pool.submit(lambda name=name: SCENARIOS[name](Play(name, airflow, sample_systems[name], mails, dead_man)))
            for name in chosen
        }
        pool.shutdown(cancel_futures=True)


# What was asked -----------------------------------------------------------------------------------------------------


@scenario()
def whole_and_part(play):
    assert len(play.sets()) == 1
    os.mknod(play.system.storage / "lamp", stat.S_IFSOCK | 0o600)
    play.trigger(note="before the move", hold=True).ended("success")
    assert set(play.states.values()) == {"success"}
    for place in ("near", "far"):
        made = play.sets(place)[-1]
        assert (made.complete, made.note, made.hold, made.run_id) == (True, "before the move", True, play.run_id)
    assert play.staged == []
    assert play.pings == 1
    whole = play.run_id
    (told,) = play.mails()
    assert f"files.uploads: uploads: sockets and devices are left out: {play.system.storage}/lamp." in told
    assert "level content" in play.logs("files_uploads.verify")
    play.trigger(sources=["config.settings"]).ended("success")
    part = play.sets()[-1]
    assert (part.complete, list(part.sources)) == (False, ["config.settings"])
    assert part.missing == {"files.uploads": "left out by who started the run"}
    states = play.states
    assert {states[f"files_uploads.{step}"] for step in ("dump", "compress", "verify")} == {"skipped"}
    assert (states["finish"], states["heartbeat"]) == ("skipped", "skipped")
    assert play.pings == 1
    before = play.sets("far")
    for run_id in (whole, play.run_id):
        cleared = play.operator.clear(play.dag, run_id, "upload.far", downstream=True)
        assert {"upload.far", "prune.far", "finish"} <= set(cleared)
        assert play.operator.wait_run(play.dag, run_id) == "success", "what is done is green when it is cleared"
    assert play.sets("far") == before
    assert play.mails() == play.mails(whole)[1:] == []
    assert play.staged == []


@scenario()
def wrong_questions(play):
    for params in ({"sources": ["files.nothing"]}, {"sources": []}, {"hold": "perhaps"}, {"note": "x" * 301}):
        with pytest.raises(Refused) as refused:
            play.trigger(**params)
        assert refused.value.status == 400
    play.airflow.admin.wait_dags(f"{play.name}_maintenance")
    past = {"dag_id": f"{play.name}_maintenance", "from_date": "2026-11-10T00:00:00Z", "to_date": "2026-11-13T00:00:00Z"}
    with pytest.raises(Refused, match="backfill") as refused:
        play.operator.call("POST", "/backfills", past)
    assert refused.value.status == 400
    play.trigger(source=["files.uploads"]).ended("failed")
    assert "This DAG has no parameter source; it has allow_empty, hold, note, sources." in play.logs("prepare")
    assert play.states["upload.near"] == "failed"
    assert len(play.sets()) == 1
    assert play.run_id in play.failure_mail()


# Sources and destinations that fail ---------------------------------------------------------------------------------


@scenario(servers=("postgres",), retries=1, down_at_most="10m")
def source_failed(play):
    fields = play.system.connections()[f"{play.name}_postgres"]
    play.airflow.admin.put_connection(f"{play.name}_postgres", fields | {"password": "wrong"})
    play.trigger(mode="cold").ended("failed")
    states = play.states
    assert states["postgres_main.dump"] == "failed"
    assert (states["start_services"], play.system.services) == ("success", {"web": True, "workers": True})
    assert {states[f"upload.{place}"] for place in ("near", "far")} == {"success"}
    assert {states[f"prune.{place}"] for place in ("near", "far")} == {"upstream_failed"}
    assert states["finish"] == states["heartbeat"] == "upstream_failed"
    for place in ("near", "far"):
        first, second = play.sets(place)
        assert first.complete
        assert set(second.sources) == {"files.uploads", "config.settings"}
        assert list(second.missing) == ["postgres.main"]
    assert "password" in play.logs("postgres_main.dump")
    assert "wrong" not in play.logs("postgres_main.dump").replace("wrong password", "")
    assert play.run_id in play.failure_mail()
    assert play.pings == 0
    play.airflow.admin.put_connection(f"{play.name}_postgres", fields)
    play.operator.clear(play.dag, play.run_id, only_failed=True)
    play.ended("failed")
    assert "is closed: its manifest is written, postgres.main can't be added" in play.logs("postgres_main.dump")
    play.trigger().ended("success")
    assert {play.states[task_id] for task_id in ("stop_services", "limit_downtime", "start_services")} == {"skipped"}
    assert play.sets()[-1].complete
    assert play.pings == 1
    assert play.staged == []


@scenario()
def destination_failed(play):
    far = play.system.folder / "far"
    far.rename(play.system.folder / "away")
    far.write_text("a file is in the way")
    play.trigger().ended("failed")
    states = play.states
    assert (states["upload.near"], states["upload.far"]) == ("success", "failed")
    assert (states["prune.near"], states["prune.far"]) == ("success", "upstream_failed")
    assert states["finish"] == "upstream_failed"
    made = play.sets()[-1]
    assert made.complete
    assert play.staged == [made.set_id]
    assert play.pings == 0
    assert play.run_id in play.failure_mail()
    far.unlink()
    (play.system.folder / "away").rename(far)
    shutil.rmtree(play.system.storage)  # whoever dumps now would fail
    cleared = play.operator.clear(play.dag, play.run_id, only_failed=True)
    assert not any("dump" in task_id or "compress" in task_id for task_id in cleared)
    play.ended("success")
    assert play.sets("far")[-1] == made
    assert play.tries("files_uploads.dump") == 1
    assert play.pings == 1
    assert play.staged == []


# Kills and marks ----------------------------------------------------------------------------------------------------


@scenario(servers=("postgres",), retries=1, down_at_most="10m")
def killed_dump(play):
    with play.database_in_use() as waiting:
        play.trigger(mode="cold")
        os.kill(waiting(), signal.SIGKILL)
        play.operator.wait_task(play.dag, play.run_id, "postgres_main.dump", ("up_for_retry", "queued", "running", "success"), timeout=240)
        wait_for("the second try", lambda: play.tries("postgres_main.dump") == 2)
        assert play.system.service_calls == ["stop web", "stop workers"]
    play.ended("success")
    assert play.system.service_calls == ["stop web", "stop workers", "start workers", "start web"]
    assert {play.states[task_id] for task_id in ("stop_services", "limit_downtime", "start_services")} == {"success"}
    made = play.sets()[-1]
    assert made.downtime_seconds > 0
    assert made.complete
    assert made.sources["postgres.main"].totals.counts[play.name] >= 500
    assert play.staged == []


@scenario(servers=("postgres",), down_at_most="10m")
def marked_failed(play):
    with play.database_in_use() as waiting:
        play.trigger(mode="cold")
        waiting()
        play.operator.mark_run(play.dag, play.run_id, "failed")
        play.ended("failed")
    assert play.system.service_calls == ["stop web", "stop workers", "start workers", "start web"]
    assert len(play.sets()) == 1
    marked = play.staged
    assert len(marked) == 1
    play.trigger().ended("success")
    assert [each.complete for each in play.sets()] == [True, True]
    assert play.staged == []
    assert marked[0] not in {each.set_id for each in play.sets()}


# Hooks --------------------------------------------------------------------------------------------------------------


@scenario(hooks=HOOKS, retries=1)
def hooks_run_and_failed_before_hook(play):
    play.trigger().ended("success")
    assert set(play.states.values()) == {"success"}
    assert play.hooks == ["before", "after"]
    assert "the words of after" in play.logs("after_backup")
    (play.system.plans / f"{play.name}.stop").touch()
    play.trigger().ended("failed")
    states = play.states
    assert states["before_backup"] == "failed"
    assert {state for task_id, state in states.items() if task_id.endswith(".dump")} == {"upstream_failed"}
    assert play.hooks == ["before", "after", "alarm"], "none is tried again"
    assert "before_backup" in play.logs("after_backup").partition("These tasks failed:")[2]
    assert len(play.sets()) == 2
    assert play.run_id in play.failure_mail()


@scenario(hooks=HOOKS, servers=("postgres",))
def hooks_after_a_kill_and_a_mark(play):
    with play.database_in_use() as waiting:
        play.trigger(sources=["postgres.main"])  # scans would wait for its snapshot
        os.kill(waiting(), signal.SIGKILL)
        play.ended("failed")
    assert play.hooks == ["before", "after", "alarm"]
    assert "near has no postgres.main of set" in play.logs("after_backup")
    with play.database_in_use() as waiting:
        play.trigger()
        waiting()
        play.operator.mark_run(play.dag, play.run_id, "failed")
        play.ended("failed")
    assert play.hooks == ["before", "after", "alarm"]
    assert "The backup did not succeed" in play.logs("after_backup")


@scenario(down_at_most="10m")
def logical_date_in_the_future(play):
    """A wrong time zone in the form is enough: Airflow starts no task of the run before that date."""
    maintenance, admin = f"{play.name}_maintenance", play.airflow.admin
    admin.wait_dags(maintenance)
    play.operator.call("POST", f"/dags/{play.dag}/dagRuns", {"dag_run_id": "early", "logical_date": "2199-01-01T00:00:00Z", "conf": {}})
    play.operator.wait_run(play.dag, "early", states={"running"})
    play.trigger(sources=["config.settings"])
    admin.unpause(maintenance)
    looked = play.operator.trigger(maintenance, {})
    assert play.operator.wait_run(maintenance, looked) == "failed"
    states = play.operator.states(maintenance, looked)
    assert {name for name, state in states.items() if state == "failed"} == {"watch_runs"}
    words = play.operator.log_text(maintenance, looked, "watch_runs")
    assert f"The logical date of run 'early' of {play.dag}, 2199-01-01 00:00:00Z, is in the future." in words
    assert set(play.operator.states(play.dag, "early").values()) == {"none"}
    assert play.operator.run_state(play.dag, play.run_id) == "queued"
    play.operator.mark_run(play.dag, "early", "failed")
    waiting = [task_id for task_id, state in play.operator.states(play.dag, "early").items() if state == "none"]
    assert set(waiting) == {"start_services", "after_backup"}, "Airflow waits for the teardowns of a run that was marked"
    for task_id in ("start_services", "after_backup"):
        play.operator.mark_task(play.dag, "early", task_id, "failed")
    play.operator.mark_run(play.dag, "early", "failed")
    play.ended("success")
    looked = play.operator.trigger(maintenance, {})
    assert play.operator.wait_run(maintenance, looked) == "success"


@pytest.mark.parametrize("name", SCENARIOS)
def test_backup_scenario(plays, name):
    plays[name].result()


def test_backup_uploads_staged_set_without_new_dump_after_s3_returns(system, airflow, operator, read_plans):
    """The plan of the sample system, with its bucket; added while Airflow runs."""
    system.write_plan("b_offsite", lambda text: text + "retries: 0\n")
    read_plans("b_offsite_backup")
    offsite = "prod/b_offsite/"
    system.s3.stop()
    try:
        run_id = operator.trigger("b_offsite_backup", {})
        assert operator.wait_run("b_offsite_backup", run_id, timeout=240) == "failed"
        states = operator.states("b_offsite_backup", run_id)
        assert (states["upload.local"], states["upload.offsite"]) == ("success", "failed")
        assert (states["prune.local"], states["prune.offsite"], states["finish"]) == ("success", "upstream_failed", "upstream_failed")
    finally:
        system.s3.start()
    operator.clear("b_offsite_backup", run_id, only_failed=True)
    assert operator.wait_run("b_offsite_backup", run_id, timeout=240) == "success"
    keys = [entry["Key"] for entry in system.s3.client().list_objects_v2(Bucket="openmanus-backups", Prefix=offsite)["Contents"]]
    (manifest,) = [key for key in keys if key.endswith("manifest.json")]
    body = json.loads(system.s3.client().get_object(Bucket="openmanus-backups", Key=manifest)["Body"].read())
    assert body["complete"]
    assert operator.tasks("b_offsite_backup", run_id)["postgres_main.dump"].try_number == 1
