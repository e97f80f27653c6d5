"""A source's tools run where its runner says, all of them, and nowhere else; where that can't be, nothing is begun."""

import sys
from pathlib import Path

import pytest

from recovery.common.errors import ToolError
from recovery.packs import decrypt_worker
from sandbox.servers import Mongo as MongoServer
from tests.support.local_restore import LocalRestore, back_up
from tests.support.mongo_samples import mongo, series
from tests.support.postgres_site import Site, texts
from tests.support.processes import started
from tests.support.runners import Recording

SHOP = (
    "CREATE SEQUENCE number START 7",
    "CREATE TABLE customer (id int PRIMARY KEY, name text)",
    "INSERT INTO customer SELECT n, 'c' || n FROM generate_series(1, 50) n",
    "CREATE TABLE orders (id int PRIMARY KEY DEFAULT nextval('number'), customer int REFERENCES customer)",
    "INSERT INTO orders (customer) SELECT n FROM generate_series(1, 50) n",
)


@pytest.fixture
def site(postgres_server, tmp_path):
    made = Site(postgres_server, tmp_path / "postgres", ("run_shop",), ("run_clerk",))
    yield made
    made.clean()


@pytest.fixture(scope="module")
def standalone(server_folder):
    with MongoServer(server_folder / "mongo-runners", replica_set=False) as running:
        yield running


def went_around(runner, heard):
    """The programs that were started, but not by the runner; those that make and read packs are always this worker's own."""
    packs = [argv for argv in heard if Path(argv[0]).name == "tar" or argv[:3] == [sys.executable, "-I", decrypt_worker.__file__]]
    return [argv for argv in heard if argv not in runner.started and argv not in packs]


def restored(source, restore):
    assert [finding.text for finding in source.preflight(restore).findings if finding.level == "refusal"] == []
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.compare(restore)
    source.swap(restore)
    source.roll_back(restore)
    source.discard(restore)


def in_place(source, restore):
    source.replace(restore)
    assert source.verify_staged(restore) == []
    source.let_in(restore)
    source.finalize(restore)


# Nothing goes around the runner -----------------------------------------------------------------------------------------


def test_every_tool_of_postgresql_is_started_by_the_runner(site):
    site.create("run_shop", *SHOP)
    dumping, restoring, replacing, choosing = (Recording() for _ in range(4))

    def source(runner):
        return site.source("run_shop", schema_sql=True, runner=runner)

    with started() as heard:
        saved = site.back_up(source(dumping))
        restored(source(restoring), site.restore(saved))
        in_place(source(replacing), site.restore(saved, in_place=True))
        restored(source(choosing), site.restore(saved, only=["run_shop.public.customer"]))
    assert dumping.names == {"pg_dump", "pg_dumpall", "pg_restore"}
    assert restoring.names == {"pg_restore", "psql"}
    assert replacing.names == {"pg_restore", "psql"}
    assert choosing.names == {"pg_restore", "psql", "pg_dump"}
    everything = Recording()
    everything.started = [argv for runner in (dumping, restoring, replacing, choosing) for argv in runner.started]
    assert went_around(everything, heard) == []
    assert {"pg_dump", "pg_dumpall", "pg_restore", "psql"} <= {Path(argv[0]).name for argv in heard}


def test_every_tool_of_mongodb_is_started_by_the_runner(standalone, tmp_path):
    runner = Recording()
    source = mongo(standalone, "run_shop", runner=runner)
    with standalone.client() as client:
        client.run_shop.orders.insert_many([{"n": number} for number in range(50)])
        client.run_shop.create_collection("last", capped=True, size=4096)
        client.run_shop.last.insert_one({})
        series(client.run_shop, "weather", 5)
    with started() as heard:
        saved = back_up(source, tmp_path / "set")
        assert runner.names == {"mongodump"}
        restored(source, LocalRestore(saved, tmp_path / "switch"))
        in_place(source, LocalRestore(saved, tmp_path / "in place", in_place=True))
    assert runner.names == {"mongodump", "mongorestore"}
    assert went_around(runner, heard) == []
    assert {"mongodump", "mongorestore"} <= {Path(argv[0]).name for argv in heard}


# Files that are elsewhere -----------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere():
    return Recording(shares_files=False)


REFUSED = "read and write files in this worker's folders, and where they would run these folders are not seen"


def test_postgresql_refuses_a_runner_without_shared_files_before_any_change(site, elsewhere, tmp_path):
    site.sql("postgres", "CREATE ROLE run_clerk")
    site.create("run_shop", *SHOP, "GRANT SELECT ON customer TO run_clerk")
    saved = site.back_up(site.source("run_shop"))
    site.clean()
    site.create("run_shop", "CREATE TABLE live ()")
    was = site.number("run_shop"), site.databases(), site.own_roles()
    source = site.source("run_shop", runner=elsewhere)
    opened = []
    (tmp_path / "dump").mkdir()
    with pytest.raises(ToolError, match=REFUSED) as refused:
        source.dump(tmp_path / "dump", lambda: opened.append(1))
    assert "Let them run on the worker itself" in str(refused.value)
    assert not refused.value.retryable
    assert (opened, list((tmp_path / "dump").iterdir())) == ([], [])
    for asked in ({}, {"only": ["run_shop.public.customer"]}):
        restore = site.restore(saved, **asked)
        assert REFUSED in texts(source, restore, "refusal")
        with pytest.raises(ToolError, match=REFUSED):
            source.stage(restore)
    restore = site.restore(saved, in_place=True)
    assert REFUSED in texts(source, restore, "refusal")
    with pytest.raises(ToolError, match=REFUSED):
        source.replace(restore)
    assert restore.recorded_facts("dropping") == []
    assert (site.number("run_shop"), site.databases(), site.own_roles()) == was
    assert elsewhere.started == []


def test_mongodb_refuses_a_runner_without_shared_files_only_for_client_tools(mongo_server, standalone, elsewhere, tmp_path):
    for server in (mongo_server, standalone):
        with server.client() as client:
            client.drop_database("run_away")
            client.run_away.orders.insert_one({"n": 1})
    saved = back_up(mongo(mongo_server, "run_away", runner=elsewhere), tmp_path / "snapshot")
    with pytest.raises(ToolError, match=REFUSED):
        back_up(mongo(standalone, "run_away", runner=elsewhere), tmp_path / "mongodump")
    source = mongo(mongo_server, "run_away", runner=elsewhere)
    restore = LocalRestore(saved, tmp_path / "work", in_place=True)
    assert REFUSED in texts(source, restore, "refusal")
    with pytest.raises(ToolError, match=REFUSED):
        source.replace(restore)
    assert restore.recorded_facts("dropping") == []
    with mongo_server.client() as client:
        assert client.run_away.orders.count_documents({}) == 1
        client.drop_database("run_away")
    assert elsewhere.started == []
