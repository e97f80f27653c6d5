"""Code that a set brings, once it has all rights in a scratch server, against the worker that the server runs on."""

import os
import socket
import stat
import subprocess
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from recovery.runners import isolation
from recovery.targets import scratch
from sandbox.servers import postgres_bin, wait_for
from tests.support.processes import command_lines_with, in_a_process, without_namespaces
from tests.targets.test_scratch import (
    ALL,
    ROOT,
    around,
    drill_folder,
    found_by,
    let_everybody_in,
    mongo,
    plan,
    postgres,
    record,
)

__all__ = ["drill_folder", "plan"]

pytestmark = pytest.mark.servers
SECRETS = ("AIRFLOW__CORE__FERNET_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "RECOVERY_SECRET")
NOBODY = 65534


@pytest.fixture
def secrets(monkeypatch, tmp_path):
    """What a worker has: its environment, and a file."""
    for name in SECRETS:
        monkeypatch.setenv(name, "top secret")
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_text("top secret")
    return tmp_path / "key"


@pytest.fixture
def started(plan, drill_folder, secrets):
    """The scratch servers of a drill."""
    assert scratch.start(around(plan), drill_folder, ALL) == ((isolation._SHARED_USER,) if os.geteuid() else ())
    return scratch.target(around(plan), drill_folder)


@pytest.fixture
def superuser(started):
    with postgres(found_by(started, "postgres.main")) as connection:
        connection.autocommit = True
        yield connection


def processes_of(drill_folder):
    """The scratch servers of a drill and their children, as folders of /proc; not what waits for their end."""
    listed = subprocess.run(["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    everybody = [line.split(None, 2) for line in listed.splitlines()]
    servers = {pid for pid, _, command in everybody if str(record(drill_folder).root) in command}
    found = [Path("/proc", pid) for pid, parent, _ in everybody if servers & {pid, parent}]
    return [process for process in found if name_of(process) != "unshare"]


def status(process, key):
    """A line of what the kernel says of a process."""
    return next(line.partition(":")[2].split() for line in (process / "status").read_text().splitlines() if line.startswith(f"{key}:"))


def name_of(process):
    return (process / "comm").read_text().strip()


@contextmanager
def listener():
    """A service of the worker, on its loopback, that nobody may reach; it tells its port, and who came."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.setblocking(False)
        yield server


def reached(server):
    """Whether somebody came."""
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def shell(connection, command):
    """What a program says that the server's superuser starts; why it failed, if it did."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS said (line text)")
    try:
        connection.execute(psycopg.sql.SQL("COPY said FROM PROGRAM {}").format(f"{command} 2>&1 || true"))
    finally:
        rows = connection.execute("DELETE FROM said RETURNING line").fetchall()
    return "\n".join(row[0] for row in rows)


def test_processes_of_scratch_servers_have_nothing_of_the_worker(started, superuser, drill_folder):
    found = processes_of(drill_folder)
    assert {name_of(process) for process in found} == {"postgres", "mongod"}
    assert any(b"postgres: postgres postgres" in (process / "cmdline").read_bytes() for process in found), "the superuser's session"
    for process in found:
        assert b"secret" not in (process / "environ").read_bytes()
        assert status(process, "NoNewPrivs") == ["1"]
        assert {tuple(status(process, f"Cap{each}")) for each in ("Inh", "Prm", "Eff", "Amb")} == {("0" * 16,)}
        assert status(process, "Umask") == ["0077"]
        for namespace in ("net", "ipc", "pid"):
            assert (process / "ns" / namespace).readlink() != Path("/proc/self/ns", namespace).readlink()
        for handle in (process / "fd").iterdir():
            goal = handle.readlink()
            assert not goal.is_absolute() or goal.is_relative_to("/dev") or goal.is_relative_to(record(drill_folder).root), goal


@ROOT
def test_scratch_servers_of_root_have_users_that_nothing_else_has(started, drill_folder):
    users = {}
    for process in processes_of(drill_folder):
        assert status(process, "Groups") == []
        (user,), (group,) = set(status(process, "Uid")), set(status(process, "Gid"))
        users[name_of(process)] = int(user)
        assert user == group
    assert len(set(users.values())) == 2
    assert all(number in isolation._UNNAMED and not isolation._known(isolation.pwd.getpwuid, number) for number in users.values())
    root = record(drill_folder).root
    owners = {
        source: {path.stat().st_uid for path in (root / source / "data").rglob("*")} for source in ("postgres.main", "mongo.documents")
    }
    assert owners == {"postgres.main": {users["postgres"]}, "mongo.documents": {users["mongod"]}}


@ROOT
def test_superuser_of_scratch_postgres_reaches_nothing_of_the_worker(superuser, secrets, drill_folder, tmp_path):
    pid = os.getpid()
    assert "Permission denied" in shell(superuser, f"cat /proc/{pid}/environ")
    assert "ermission denied" in shell(superuser, f"cat {secrets}")
    assert "No such process" in shell(superuser, f"bash -c 'kill -0 {pid}'")
    assert "denied" in shell(superuser, f"ls {record(drill_folder).root}")
    assert "denied" in shell(superuser, f"cat {record(drill_folder).root}/mongo.documents/password")
    assert "top secret" not in shell(superuser, "env")
    assert "cannot find name for user ID" in shell(superuser, "id -un")
    assert shell(superuser, "cat /proc/net/route /proc/net/fib_trie").count("/32") == 0, "no address at all"
    with pytest.raises(psycopg.Error, match="Permission denied"):
        superuser.execute("SELECT pg_read_file(%s)", [str(secrets)])


def test_remove_ends_programs_that_code_of_the_set_left_running(superuser, drill_folder):
    sleeping = f"sleep 31{os.getpid()}"
    shell(superuser, f"setsid {sleeping} > /dev/null < /dev/null &")
    wait_for("the program that stays", lambda: command_lines_with(sleeping))
    scratch.remove(drill_folder)
    assert command_lines_with(sleeping) == []


def test_superuser_of_scratch_postgres_reaches_no_network(superuser):
    with listener() as service:
        command = f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{service.getsockname()[1]}'"
        assert os.system(command) == 0
        assert reached(service), "the same command reaches it from the worker"
        assert "unreachable" in shell(superuser, command).lower()
        assert not reached(service)


def test_dblink_in_scratch_postgres_reaches_no_network(plan, drill_folder):
    """The servers of the other tests have no extensions."""
    plan = plan.model_copy(update={"tools": plan.tools.model_copy(update={"postgres": (postgres_bin(17), postgres_bin(18))})})
    scratch.start(around(plan), drill_folder, {"postgres.main": {"postgres": "17.1"}})
    with postgres(found_by(scratch.target(around(plan), drill_folder), "postgres.main")) as connection, listener() as service:
        connection.autocommit = True
        connection.execute("CREATE EXTENSION dblink")
        address = f"host=127.0.0.1 port={service.getsockname()[1]} user=x password=x connect_timeout=5"
        with pytest.raises(psycopg.Error, match=r"could not establish connection") as refused:
            connection.execute("SELECT dblink_connect(%s)", [address])
        assert "unreachable" in str(refused.value)
        assert not reached(service)


def test_scratch_mongod_listens_on_one_socket_and_runs_javascript_of_views(started, drill_folder):
    """Without JavaScript a check that reads such a view would fail on a good set."""
    with mongo(found_by(started, "mongo.documents")) as client:
        client.some.things.insert_one({"_id": 1})
        doubled = {"$function": {"body": "function(x) { return 2 * x }", "args": ["$_id"], "lang": "js"}}
        client.some.create_collection("doubled", viewOn="things", pipeline=[{"$set": {"twice": doubled}}])
        assert client.some.doubled.find_one() == {"_id": 1, "twice": 2}
    assert [path.name for path in record(drill_folder).server("mongo.documents").sockets.iterdir()] == ["mongodb-27017.sock"]
    assert not list(Path("/tmp").glob("mongodb-27017.sock"))


@ROOT
def test_start_in_a_container_without_namespaces_starts_servers_and_says_that_they_share_the_network(plan, drill_folder, tmp_path):
    def start():
        without_namespaces()
        (tmp_path / "lacks").write_text("\n".join(scratch.start(around(plan), drill_folder, ALL)))

    assert in_a_process(start) == 0
    (lacks,) = (tmp_path / "lacks").read_text().splitlines()
    assert lacks.startswith("The scratch servers share the worker's network.")
    assert "unshare: unshare failed: Operation not permitted" in lacks
    with postgres(found_by(scratch.target(around(plan), drill_folder), "postgres.main")) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
    for process in processes_of(drill_folder):
        assert status(process, "NoNewPrivs") == ["1"]
        assert int(status(process, "Uid")[0]) in isolation._UNNAMED


@ROOT
def test_start_by_a_normal_user_takes_network_away_and_says_that_servers_share_the_user(plan, drill_folder, tmp_path):
    let_everybody_in(tmp_path.parent)
    for folder in (tmp_path, drill_folder):
        os.chown(folder, NOBODY, NOBODY)

    def start():
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        (tmp_path / "lacks").write_text("\n".join(scratch.start(around(plan), drill_folder, ALL)))
        with postgres(found_by(scratch.target(around(plan), drill_folder), "postgres.main")) as connection, listener() as service:
            connection.autocommit = True
            assert "unreachable" in shell(connection, f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{service.getsockname()[1]}'").lower()
            assert not reached(service)
            assert "denied" in shell(connection, f"cat /proc/{os.getpid()}/environ")
            assert "No such process" in shell(connection, f"bash -c 'kill -0 {os.getpid()}'")

    assert in_a_process(start) == 0
    assert (tmp_path / "lacks").read_text() == isolation._SHARED_USER
    assert stat.S_IMODE(record(drill_folder).root.stat().st_mode) == 0o700
    scratch.remove(drill_folder)
