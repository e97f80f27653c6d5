"""A stream from a container that is cut is always noticed, wherever it is cut and by whatever."""

import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from airflow.sdk.exceptions import AirflowFailException

from recovery.airflow import tasks
from recovery.common.errors import PlanError, RecoveryError
from recovery.runners.docker import tunnel
from recovery.runners.docker.private_folder import PrivateFolder
from recovery.runners.docker.relay import BASH, PERL, Relay, addresses
from recovery.runners.docker.stream import run
from recovery.runners.docker.tunnel import Tunnel
from tests.support.containers import CuttingProxy, MongoContainer, Reached, ReachedSite
from tests.support.local_restore import LocalRestore, back_up
from tests.support.mongo_samples import rows_of
from tests.support.postgres_site import contents

pytestmark = [pytest.mark.docker, pytest.mark.servers, pytest.mark.usefixtures("no_direct_address")]

RELAYS = {"perl": ["perl", "-e", PERL], "bash": ["bash", "-c", BASH]}
MANY = [pytest.param(50, marks=pytest.mark.long, id="fifty"), pytest.param(10, id="ten")]
LONG_TABLE = "CREATE TABLE long AS SELECT n, repeat(md5(n::text), 30) AS text FROM generate_series(1, 3000) n"


@pytest.fixture
def proxy(engine, tmp_path):
    with CuttingProxy(engine, tmp_path) as proxy:
        yield proxy


@pytest.fixture
def reached(proxy):
    made = Reached(f"unix://{proxy.socket}")
    yield made
    made.ways.close()


@pytest.fixture
def site(postgres_container, tmp_path, reached):
    made = ReachedSite(postgres_container, tmp_path, reached, ("reach",))
    yield made
    made.clean()


def cut_at_random(proxy, reached, times, work, whole):
    """Cut the streams of a piece of work at random moments: each time it fails, or has begun again and its result is whole.

    Returns how often it failed.
    """
    reached.ways.close()
    proxy.cut_after(None)
    result, total = work(), proxy.passed
    whole(result)
    failures = 0
    moments = random.Random(7)
    for _ in range(times):
        reached.ways.close()
        proxy.cut_after(moments.randrange(1, total * 9 // 10))
        try:
            result = work()
        except RecoveryError:
            failures += 1
        else:
            assert proxy.cut
            proxy.cut_after(None)
            whole(result)
        proxy.cut_after(None)
    return failures


# At random moments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", MANY)
def test_postgresql_dump_cut_at_a_random_moment_fails_or_is_whole(site, proxy, times):
    site.create("reach", LONG_TABLE)

    expected = contents(site.back_up(site.source("reach")), "reach", "table")

    def whole(set_folder):
        assert contents(set_folder, "reach", "table") == expected

    assert cut_at_random(proxy, site.reached, times, lambda: site.back_up(site.source("reach")), whole) == times


@pytest.mark.parametrize("times", MANY)
def test_postgresql_load_cut_at_a_random_moment_fails_or_is_whole(site, proxy, times):
    site.create("reach", LONG_TABLE)
    set_folder = site.back_up(site.source("reach"))

    def load():
        restore = site.restore(set_folder)
        site.source("reach").stage(restore)
        return restore

    def whole(restore):
        assert site.source("reach").verify_staged(restore) == []

    assert cut_at_random(proxy, site.reached, times, load, whole) == times


@pytest.fixture(scope="module")
def standalone(opened, server_folder, container_name):
    with MongoContainer(opened, server_folder / "mongo-cut", f"{container_name}-cut", replica_set=False) as server:
        yield server


@pytest.mark.parametrize("times", MANY)
@pytest.mark.parametrize("which", ["mongo_container", "standalone"])
def test_mongodb_dump_and_load_cut_at_a_random_moment_fail_or_are_whole(request, which, proxy, reached, tmp_path, times):
    server = request.getfixturevalue(which)
    with server.client() as client:
        client.drop_database("reach_cut")
        client.reach_cut.long.insert_many({"_id": n, "text": "x" * 900} for n in range(3000))
    number = iter(range(1000))
    expected = rows_of(back_up(reached.mongo(server, "reach_cut"), tmp_path / "set"))

    def whole(made):
        assert made == expected

    def dump():
        return rows_of(back_up(reached.mongo(server, "reach_cut"), tmp_path / f"dump {next(number)}"))

    def load():
        source, restore = reached.mongo(server, "reach_cut"), LocalRestore(tmp_path / "set", tmp_path / f"work {next(number)}")
        source.stage(restore)
        return source, restore

    failures = cut_at_random(proxy, reached, times, dump, whole)
    failures += cut_at_random(proxy, reached, times, load, lambda made: check(made[0].verify_staged(made[1]) == []))
    assert failures, "the driver reads again what it can, and not all"


def check(true):
    assert true


# By whatever ------------------------------------------------------------------------------------------------------------


SLOW = "COPY (SELECT pg_sleep(0.01), repeat('x', 9000) FROM generate_series(1, 100000)) TO STDOUT"
"""Its rows come one by one, so that each shows the server whether somebody is there."""
COPYING = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active'"


def waiting_dump(site):
    """A dump in the middle of its stream, and how it ends."""
    outcome = []

    def dump():
        try:
            session = site.source("reach")._server.connect("reach")
            with session, session.cursor() as cursor, cursor.copy(SLOW) as rows:
                outcome.append(sum(map(len, rows)))
        except psycopg.Error as error:
            outcome.append(error)

    thread = threading.Thread(target=dump)
    thread.start()
    wait_for(lambda: site.sql("postgres", COPYING))
    return thread, outcome


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def relays_in(server):
    return [line for line in server.processes() if "IO::Socket" in line or "/dev/tcp" in line or line.startswith("cat")]


KILL_RELAYS = "for each in /proc/[0-9]*; do grep -q IO::Socket $each/cmdline && kill -9 ${each#/proc/}; done; true"


def test_killed_relay_ends_the_session_at_both_ends_and_no_other(site, opened):
    site.create("reach")
    other = site.server.connect()
    thread, outcome = waiting_dump(site)
    run(opened, site.server.id, ["bash", "-c", KILL_RELAYS])
    thread.join(30)
    assert "server closed the connection" in str(outcome[0])
    wait_for(lambda: not site.sql("postgres", COPYING))
    assert other.execute("SELECT 1").fetchone() == (1,)
    other.close()


def test_container_that_is_killed_ends_the_session(site, opened):
    site.create("reach")
    thread, outcome = waiting_dump(site)
    opened.client.kill(site.server.id)
    thread.join(30)
    assert isinstance(outcome[0], psycopg.OperationalError)
    opened.client.start(site.server.id)
    wait_for(site.server.ready)


HOLDS_A_SESSION = """
import sys
from pathlib import Path
from recovery.runners.docker import relay
from tests.support.containers import PostgresContainer, Reached, engine_of
relay.direct_address = lambda *_: None
engine, name, password = sys.argv[1:]
server = PostgresContainer(engine_of(engine), Path("/nowhere"), name, password=password)
session = Reached(engine).postgres(server)._server.connect("postgres")
copying = session.cursor().copy(sys.stdin.readline())
copying.__enter__().read()
print("reads", flush=True)
sys.stdin.read()
"""


def test_nothing_is_left_in_the_container_or_here_by_a_process_that_is_killed(engine, postgres_container):
    before = set(tunnel._PLACE.glob(f"{tunnel._PREFIX}*"))
    argv = [sys.executable, "-c", HOLDS_A_SESSION, engine, postgres_container.name, postgres_container.password]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONPATH": ":".join(sys.path)}) as holder:
        holder.stdin.write(SLOW.encode() + b"\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == b"reads\n"
        assert relays_in(postgres_container)
        holder.send_signal(signal.SIGKILL)
    wait_for(lambda: not relays_in(postgres_container))
    with postgres_container.connect() as session:
        wait_for(lambda: session.execute(COPYING).fetchone() is None)
    left = set(tunnel._PLACE.glob(f"{tunnel._PREFIX}*")) - before
    assert left
    PrivateFolder(tunnel._PLACE, tunnel._PREFIX).close()
    assert all(folder.exists() for folder in left), "its process may not hold it yet"
    for folder in left:
        subprocess.run(["touch", "-d", "1 hour ago", folder], check=True)
    PrivateFolder(tunnel._PLACE, tunnel._PREFIX).close()
    assert not any(folder.exists() for folder in left)


def test_closed_tunnel_leaves_nothing_and_its_socket_was_for_nobody_else(site, reached, postgres_container):
    session = site.source("postgres")._server.connect("postgres")
    folder = Path(session.info.host)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert relays_in(postgres_container)
    reached.ways.close()
    assert not folder.exists()
    with pytest.raises(Exception, match="server closed the connection"):
        session.execute("SELECT 1")
    wait_for(lambda: not relays_in(postgres_container))


@pytest.mark.parametrize("fails", [False, True])
def test_task_closes_its_tunnels_however_it_ends(engine_endpoint, postgres_container, fails):
    opened = []

    @tasks.operator_errors
    def step():
        opened.append(tasks._WAYS.to(postgres_container.reach, lambda _: engine_endpoint, 5432, "socket").socket)
        assert opened[0].exists()
        if fails:
            raise PlanError("It fails.", "Nothing.")

    with suppress(AirflowFailException):
        step()
    assert not opened[0].parent.exists()


@pytest.mark.parametrize("name", RELAYS)
def test_each_relay_passes_on_all_bytes_and_ends_with_its_client(name, opened, engine, postgres_container):
    container = opened.containers(postgres_container.reach)[0]
    address = addresses(container)[0]
    relay = Relay(name, address, [*RELAYS[name], address, "5432"])
    made = Tunnel(opened, container, relay, ".s.PGSQL.5432")
    other = postgres_container.connect()
    try:
        text = "é" * 5_000_000
        with postgres_container.connect(host=str(made.socket.parent)) as session:
            assert session.execute("SELECT %s::text", [text]).fetchone() == (text,)
            assert session.execute("SELECT inet_client_addr() IS NOT NULL").fetchone() == (True,)
        wait_for(lambda: not relays_in(postgres_container))
        held = postgres_container.connect(host=str(made.socket.parent))
        held.execute("SELECT pg_sleep(0)")
        assert relays_in(postgres_container)
    finally:
        made.close()
    wait_for(lambda: not relays_in(postgres_container))
    assert other.execute("SELECT 1").fetchone() == (1,), "the server began anew"
    other.close()
