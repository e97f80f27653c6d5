"""Scratch servers and folders, made of real programs: they outlive who made them, and nothing of them stays."""

import os
import signal
import subprocess
import sys

import psycopg
import pymongo
import pytest
from pymongo.errors import OperationFailure

from recovery.common.connections import Clients
from recovery.common.errors import ConnectionUnusable, RestoreError, StagingError
from recovery.plan.kinds.config import ConfigTarget
from recovery.plan.kinds.files import FilesTarget
from recovery.runners import processes as runners_processes
from recovery.runners.isolation import isolate
from recovery.runners.local import LOCAL
from recovery.runs.context import PlanContext
from recovery.sources.base import Access
from recovery.sources.mongo import scratch_server as mongo_server_of_drills
from recovery.sources.mongo.client import address
from recovery.sources.postgres import scratch_server
from recovery.targets import scratch
from sandbox import toolchain
from sandbox.servers import postgres_bin, wait_for
from tests.support.file_zoo import NOBODY, as_nobody, make_deep, open_up
from tests.support.postgres_versions import majors
from tests.support.processes import command_lines_with, in_a_process, servers_in
from tests.support.system import SampleSystem

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to hand servers to another user")
ALL = {"postgres.main": {"postgres": "18.1"}, "mongo.documents": {"mongodb": "6.0.5"}, "files.uploads": {}, "config.settings": {}}


@pytest.fixture
def plan(tmp_path):
    return SampleSystem(tmp_path / "small", "small").plan()


@pytest.fixture
def drill_folder(tmp_path):
    """A drill's folder in staging; whatever is made from it is removed at the end."""
    folder = tmp_path / "5c4a7c11"
    folder.mkdir(mode=0o700)
    yield folder
    left = record(folder)
    if left:
        (folder / "scratch.json").write_text(left.model_copy(update={"host": scratch.socket.gethostname()}).model_dump_json())
    scratch.remove(folder)


def record(folder):
    path = folder / "scratch.json"
    return scratch.Scratch.model_validate_json(path.read_bytes()) if path.exists() else None


def rewrite(folder, **changes):
    (folder / "scratch.json").write_text(record(folder).model_copy(update=changes).model_dump_json())


def no_connection(name):
    raise ConnectionUnusable(f"no {name}", "none")


def around(plan):
    return PlanContext(plan, Clients(no_connection, no_connection))


def found_by(target, source_id):
    return target.context.endpoint(target.settings[source_id].connection)


def postgres(endpoint, **changes):
    values = {"user": endpoint.login, "password": endpoint.password} | changes
    return psycopg.connect(host=endpoint.host, port=endpoint.port, dbname="postgres", **values)


def mongo(endpoint, **changes):
    values = {"username": endpoint.login, "password": endpoint.password} | changes
    return pymongo.MongoClient(address(endpoint), directConnection=True, serverSelectionTimeoutMS=5000, **values)


def let_everybody_in(folder):
    """Open the folders of tests above one, as those of installed programs are."""
    for each in (folder, *folder.parents):
        if not each.stat().st_mode & 0o001:
            each.chmod(each.stat().st_mode | 0o011)


# Servers --------------------------------------------------------------------------------------------------------------


@pytest.mark.servers
def test_scratch_servers_outlive_starting_process_and_are_removed(plan, drill_folder):
    assert in_a_process(lambda: scratch.start(around(plan), drill_folder, ALL)) == 0
    root, sockets = record(drill_folder).root, record(drill_folder).sockets
    assert servers_in(root) == {"postgres", "mongod"}
    target = scratch.target(around(plan), drill_folder)
    assert (target.name, target.gates, target.services.stop, target.sources) == ("scratch", (), (), list(plan.source_ids))

    server = found_by(target, "postgres.main")
    with postgres(server) as connection:
        assert connection.info.server_version // 10000 == 18
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
    with pytest.raises(psycopg.OperationalError, match="password"):
        postgres(server, password="wrong")
    documents = found_by(target, "mongo.documents")
    with mongo(documents) as client:
        assert client.admin.command("hello")["setName"]
        with client.start_session() as session, session.start_transaction():
            client.some.things.insert_one({"_id": 1}, session=session)
    with mongo(documents, username=None, password=None) as client, pytest.raises(OperationFailure, match="auth"):
        client.some.things.find_one()

    for source_id, kind in (("files.uploads", FilesTarget), ("config.settings", ConfigTarget)):
        assert isinstance(target.settings[source_id], kind)
        assert list((root / source_id).iterdir()) == []
    assert not any(secret in line for secret in (server.password, documents.password) for line in command_lines_with(root))
    assert not any(secret in (drill_folder / "scratch.json").read_text() for secret in (server.password, documents.password))
    assert "password=" not in repr(target.context.endpoint("scratch postgres.main"))
    assert {path.stat().st_mode & 0o067 for path in root.iterdir()} == {0}, "only the group of a server's own user goes through"
    assert {path.stat().st_mode & 0o077 for folder in root.iterdir() for path in folder.iterdir()} == {0}
    assert {path.stat().st_mode & 0o077 for path in sockets.iterdir()} == {0}
    with pytest.raises(ConnectionUnusable, match="no other"):
        target.context.endpoint("other")

    scratch.remove(drill_folder)
    assert command_lines_with(root) == []
    assert not root.exists()
    assert not sockets.exists()
    scratch.remove(drill_folder)
    with pytest.raises(RestoreError, match="not there"):
        scratch.target(around(plan), drill_folder)


@pytest.mark.servers
@pytest.mark.parametrize("major", majors(16))
def test_scratch_server_has_major_version_of_set(major, plan, drill_folder):
    plan = plan.model_copy(update={"tools": plan.tools.model_copy(update={"postgres": (postgres_bin(18), postgres_bin(major))})})
    scratch.start(around(plan), drill_folder, {"postgres.main": {"postgres": f"{major}.9 (Debian {major}.9-1)"}})
    with postgres(found_by(scratch.target(around(plan), drill_folder), "postgres.main")) as connection:
        assert connection.info.server_version // 10000 == major


def test_postgres_programs_accepts_newer_major_version_and_refuses_older(plan):
    folders = [postgres_bin(18), postgres_bin(16)]
    assert scratch_server.postgres_programs(17, folders, None, LOCAL) == postgres_bin(18)
    with pytest.raises(RestoreError, match=r"PostgreSQL 19 or newer are not on this worker.*pginstall18/bin has version 18.*drill\.target"):
        scratch_server.postgres_programs(19, folders, None, LOCAL)


def test_start_reports_missing_mongod_and_searched_folders(plan, drill_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    plan = plan.model_copy(update={"tools": plan.tools.model_copy(update={"mongo": (tmp_path / "none",)})})
    with pytest.raises(RestoreError, match=r"mongod is not on this worker\. Looked in \S+/none, /usr/bin.*drill\.target"):
        scratch.start(around(plan), drill_folder, {"mongo.documents": {}})


@pytest.mark.servers
def test_start_reports_output_of_server_that_does_not_start(plan, drill_folder, tmp_path):
    (tmp_path / "mongod").write_text("#!/bin/sh\necho no room for $1; exit 3\n")
    (tmp_path / "mongod").chmod(0o755)
    let_everybody_in(tmp_path)
    plan = plan.model_copy(update={"tools": plan.tools.model_copy(update={"mongo": (tmp_path,)})})
    with pytest.raises(RestoreError, match=r"mongo\.documents does not start:\nno room for --dbpath"):
        scratch.start(around(plan), drill_folder, {"mongo.documents": {}})


@pytest.mark.servers
def test_remove_ends_server_left_by_kill_before_start_was_recorded(plan, drill_folder):
    def cut_off():
        begin = runners_processes.start

        def begun(*arguments):
            begin(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        runners_processes.start = begun
        scratch.start(around(plan), drill_folder, ALL)

    assert os.WIFSIGNALED(in_a_process(cut_off))
    root = record(drill_folder).root
    assert record(drill_folder).servers == ()
    wait_for("the server that nobody noted", lambda: bool(command_lines_with(root)))
    scratch.remove(drill_folder)
    assert command_lines_with(root) == []
    assert not root.exists()


@pytest.mark.servers
def test_second_start_removes_servers_of_first_start(plan, drill_folder):
    scratch.start(around(plan), drill_folder, {"mongo.documents": {}})
    first = record(drill_folder).root
    scratch.start(around(plan), drill_folder, {"mongo.documents": {}})
    assert command_lines_with(first) == []
    assert not first.exists()
    assert servers_in(record(drill_folder).root) == {"mongod"}


@pytest.mark.servers
def test_target_reports_ended_server_with_last_output(plan, drill_folder):
    scratch.start(around(plan), drill_folder, {"mongo.documents": {}})
    runners_processes.end_all(record(drill_folder).root, {"mongod": signal.SIGKILL})
    with pytest.raises(RestoreError, match=r"mongo\.documents does not run any more; its last words:\n\S"):
        scratch.target(around(plan), drill_folder)


def test_remove_ends_only_servers_of_own_drill(plan, drill_folder, tmp_path, mongo_server):
    """Neither a person's shell in the folder nor another server is."""
    scratch.start(around(plan), drill_folder, {"mongo.documents": {}})
    root = record(drill_folder).root
    with subprocess.Popen([sys.executable, "-c", "input()", str(root)], cwd=root, stdin=subprocess.PIPE) as person:
        scratch.remove(drill_folder)
        assert person.poll() is None
        assert mongo_server.ready()
        person.communicate(b"\n")
    assert not root.exists()


# Places ---------------------------------------------------------------------------------------------------------------


def test_scratch_on_other_worker_is_refused_and_drill_queue_is_suggested(plan, drill_folder):
    scratch.start(around(plan), drill_folder, {"files.uploads": {}})
    rewrite(drill_folder, host="worker-7")
    for use in (lambda: scratch.target(around(plan), drill_folder), lambda: scratch.remove(drill_folder)):
        with pytest.raises(RestoreError, match=r"on the worker worker-7, this task runs on \S+\. Next: Let drill\.queue"):
            use()
    assert record(drill_folder).root.exists()


def test_scratch_folder_is_created_in_drill_folder_and_missing_drill_folder_is_refused(plan, drill_folder, tmp_path):
    mine = tmp_path / "fast disk"
    plan = plan.model_copy(update={"drill": plan.drill.model_copy(update={"folder": mine})})
    with pytest.raises(StagingError, match=r"drill\.folder, \S+/fast disk, is not there"):
        scratch.start(around(plan), drill_folder, {"files.uploads": {}})
    mine.mkdir()
    scratch.start(around(plan), drill_folder, {"files.uploads": {}})
    assert record(drill_folder).root.parent == mine
    scratch.remove(drill_folder)
    assert list(mine.iterdir()) == []


def test_scratch_folder_is_created_in_staging_without_drill_folder(plan, drill_folder):
    scratch.start(around(plan), drill_folder, {"files.uploads": {}})
    assert record(drill_folder).root.parent == drill_folder


def test_scratch_folder_with_a_deep_tree_is_removed(plan, drill_folder):
    """Deeper than Python's stack and the limit of open files, as a set may be, or what code of a set left in its server's folder."""
    scratch.start(around(plan), drill_folder, {"files.uploads": {}})
    root = record(drill_folder).root
    make_deep(root / "files.uploads", ["d"] * 1900)
    scratch.remove(drill_folder)
    assert not root.exists()


def test_scratch_folder_with_read_only_folders_is_removed_by_a_worker_that_is_not_root(plan, drill_folder):
    scratch.start(around(plan), drill_folder, {"files.uploads": {}})
    root = record(drill_folder).root
    (root / "files.uploads/a/b").mkdir(parents=True)
    for folder in ("a/b", "a"):
        (root / "files.uploads" / folder).chmod(0o555)
    for path in (record(drill_folder).sockets, drill_folder, *drill_folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    open_up(drill_folder.parent)
    as_nobody(scratch.remove, drill_folder)
    assert not root.exists()


@ROOT
def test_start_refuses_drill_folder_that_another_user_may_exchange(plan, drill_folder, tmp_path):
    """Data of the set and the servers' passwords would be written wherever that user leads to."""
    foreign = tmp_path / "foreign"
    (foreign / "drills").mkdir(parents=True)
    os.chown(foreign, NOBODY, NOBODY)
    plan = plan.model_copy(update={"drill": plan.drill.model_copy(update={"folder": foreign / "drills"})})
    with pytest.raises(StagingError, match=r"Other users may write to \S+/foreign, so they could exchange the scratch folder"):
        scratch.start(around(plan), drill_folder, {"files.uploads": {}})
    assert list((foreign / "drills").iterdir()) == []
    os.chown(foreign, 0, 0)
    scratch.start(around(plan), drill_folder, {"files.uploads": {}})


@ROOT
def test_start_refuses_drill_folder_closed_to_user_of_servers(plan, drill_folder, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    plan = plan.model_copy(update={"drill": plan.drill.model_copy(update={"folder": closed})})
    with pytest.raises(StagingError, match=r"can't be entered by the users that its servers get here.*chmod o\+x"):
        scratch.start(around(plan), drill_folder, {"postgres.main": {}})


@ROOT
def test_postgres_programs_skips_programs_closed_to_user_of_servers(plan, drill_folder, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "bin").symlink_to(postgres_bin(18))
    user = isolate().user
    assert scratch_server.postgres_programs(18, [closed / "bin", postgres_bin(18)], user, LOCAL) == postgres_bin(18)
    with pytest.raises(RestoreError, match=r"closed/bin has version 18, but is closed to the user that it would run as"):
        scratch_server.postgres_programs(18, [closed / "bin"], user, LOCAL)


@ROOT
def test_mongod_closed_to_user_of_servers_is_refused_or_skipped(plan, drill_folder, tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "mongod").symlink_to(toolchain.mongod())
    access = Access(no_connection, LOCAL, (closed, toolchain.mongod().parent))
    assert mongo_server_of_drills._mongod(access, isolate()) == toolchain.mongod()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(RestoreError, match=r"closed/mongod is closed to the user that it would run as"):
        mongo_server_of_drills._mongod(Access(no_connection, LOCAL, (closed,)), isolate())
