"""Databases in containers: everything that a source does, at the container's own address and through a tunnel."""

from dataclasses import replace

import psycopg
import pytest

from recovery.common.errors import ConnectionUnusable, ContainerError, SourceUnreachable
from recovery.plan.docker import DockerContainer
from recovery.runners.docker.relay import direct_address
from tests.support.containers import MongoContainer, PostgresContainer, Reached, ReachedSite
from tests.support.local_restore import LocalRestore, back_up
from tests.support.mongo_samples import hard_content, rows_of
from tests.support.postgres_site import HARD, contents, texts

pytestmark = [pytest.mark.docker, pytest.mark.servers]

SHOP = (
    "CREATE SEQUENCE number START 7",
    "CREATE TABLE customer (id int PRIMARY KEY, name text)",
    "INSERT INTO customer SELECT n, 'c' || n FROM generate_series(1, 50) n",
    "CREATE TABLE orders (id int PRIMARY KEY DEFAULT nextval('number'), customer int REFERENCES customer)",
    "INSERT INTO orders (customer) SELECT n FROM generate_series(1, 50) n",
)


@pytest.fixture
def reached(engine, each_way):
    made = Reached(engine)
    yield made
    made.ways.close()


@pytest.fixture
def site(postgres_container, tmp_path, reached):
    made = ReachedSite(postgres_container, tmp_path, reached, ("reach",), ("hard_owner", "hard_reader"))
    yield made
    made.clean()


@pytest.fixture(scope="module")
def standalone(opened, server_folder, container_name):
    with MongoContainer(opened, server_folder / "mongo-alone", f"{container_name}-alone", replica_set=False) as server:
        yield server


def step(restorer, restore, *steps):
    """Each step of a restore in ways of its own, as in a task of its own."""
    for name in steps:
        found = getattr(restorer(), name)(restore)
        assert found == [] or name != "verify_staged"


# All that a source does -------------------------------------------------------------------------------------------------


def test_whole_postgresql_database_goes_there_and_back(site):
    site.create("reach")
    site.load("reach", HARD)
    site.create("reach_renamed", "CREATE TABLE t AS SELECT 1 AS state")
    set_folder = site.back_up(site.source("reach"))
    site.sql("reach", "CREATE TABLE later ()")

    def restorer():
        site.reached.ways.close()
        return site.source("reach")

    restore = site.restore(set_folder)
    assert texts(restorer(), restore, "refusal") == ""
    step(restorer, restore, "stage", "verify_staged", "swap")
    assert site.sql("reach", "SELECT to_regclass('later')") == [(None,)]
    step(restorer, restore, "roll_back", "discard")
    assert site.sql("reach", "SELECT count(*) FROM later") == [(0,)]
    assert site.own_databases() == {"reach", "reach_renamed"}


def test_postgresql_database_in_place_single_table_and_other_target_come_back(site):
    site.create("reach", *SHOP)
    set_folder = site.back_up(site.source("reach", schema_sql=True))
    site.sql("reach", "DELETE FROM orders")
    step(lambda: site.source("reach"), site.restore(set_folder, only=["reach.public.orders"]), "stage", "verify_staged", "swap", "finalize")
    assert site.sql("reach", "SELECT count(*) FROM orders") == [(50,)]
    site.sql("reach", "DROP TABLE orders")
    step(lambda: site.source("reach"), site.restore(set_folder, in_place=True), "replace", "verify_staged", "let_in", "finalize")
    assert site.sql("reach", "SELECT count(*) FROM orders") == [(50,)]
    there = {"databases": {"reach": "reach_there"}}
    step(lambda: site.source("reach", there=there), site.restore(set_folder), "stage", "verify_staged", "swap", "finalize")
    assert site.sql("reach_there", "SELECT count(*) FROM orders") == [(50,)]


@pytest.mark.parametrize("which", ["mongo_container", "standalone"])
def test_mongodb_goes_there_and_back_whatever_its_members_are_called(request, which, reached, tmp_path):
    server = request.getfixturevalue(which)
    with server.client() as client:
        hard_content(client, "reach")
        set_folder = back_up(reached.mongo(server, "reach"), tmp_path / "set")
        client.reach.types.delete_many({})
        restore = LocalRestore(set_folder, tmp_path / "work")
        step(lambda: reached.mongo(server, "reach"), restore, "stage", "verify_staged", "swap", "finalize")
        assert rows_of(back_up(reached.mongo(server, "reach"), tmp_path / "again")) == rows_of(set_folder)
        client.reach.types.delete_many({})
        restore = LocalRestore(set_folder, tmp_path / "in place", in_place=True)
        step(lambda: reached.mongo(server, "reach"), restore, "replace", "verify_staged", "let_in", "finalize")
        assert client.reach.types.count_documents({}) == 10
        client.drop_database("reach")


# Who answers ------------------------------------------------------------------------------------------------------------


def test_recreated_container_is_the_same_server_by_its_data_and_name(opened, tmp_path, container_name, engine, each_way):
    """Its id and its address are others, and an approval of a restore into it still holds."""
    reached = Reached(engine)
    name = f"{container_name}-again"
    with PostgresContainer(opened, tmp_path / "again", name) as first:
        source = reached.postgres(first)
        before, told, id_before = source.fingerprint(None), source.try_out(), first.id
        reached.ways.close()
    with PostgresContainer(opened, tmp_path / "between", f"{name}-between") as between:
        assert between.id
        with PostgresContainer(opened, tmp_path / "again", name, password=first.password) as second:
            assert second.id != id_before
            source = reached.postgres(second)
            assert source.fingerprint(None) == before
            assert f"the container {name}" in before
            assert source.try_out() == told
            reached.ways.close()


def test_password_is_asked_for_as_from_elsewhere(site):
    """The image trusts loopback; a tunnel leads to the container's own address."""
    with pytest.raises(SourceUnreachable, match=f"at the container {site.server.name}.*password authentication failed"):
        site.source("postgres", changes={"password": "wrong"}).try_out()


def test_files_of_the_server_are_not_taken_for_the_workers(site, mongo_container, reached):
    assert not site.source()._server.endpoint.on_this_machine
    assert not reached.mongo(mongo_container)._endpoint.on_this_machine


def test_tls_that_a_tunnel_does_not_have_is_refused(site, mongo_container, reached, each_way):
    asked = [(site.source, {"sslmode": "verify-full"}), (site.source, {"sslrootcert": "system"})]
    asked += [(lambda changes: reached.mongo(mongo_container, changes=changes), {"tls": True})]
    for source, extra in asked:
        if each_way == "tunnel":
            with pytest.raises(ConnectionUnusable, match="demands TLS"):
                source(changes={"extra": extra})
        else:
            assert source(changes={"extra": extra})


def test_options_of_mongodb_that_lead_elsewhere_are_left_out(mongo_container, reached):
    extra = {"srv": True, "directconnection": False, "replicaSet": "rs0"}
    found = reached.mongo(mongo_container, changes={"extra": extra}).fingerprint(None)
    assert found.endswith(f"at {mongo_container.reach.place}")


def test_container_or_port_that_is_not_there_is_an_error(site, reached, postgres_container):
    with pytest.raises(ContainerError, match="Nobody answers at port 5433") as told:
        site.source(changes={"port": 5433})
    assert told.value.retryable
    access = reached.access(postgres_container, [])
    with pytest.raises(ContainerError, match="no such container"):
        access.ways.to(DockerContainer(connection="engine", container="reach-none"), access.connect, 5432, "x")


def test_address_is_taken_only_if_the_container_itself_answers_there(opened, postgres_container, mongo_container):
    """Where the worker is, the address may be another container's, with another server."""
    there, other = (opened.container(each.reach) for each in (postgres_container, mongo_container))
    assert direct_address(opened, there, 5432) == postgres_container.address
    assert direct_address(opened, replace(other, details=there.details), 5432) is None
    assert direct_address(opened, there, 5433) is None


# In no network ----------------------------------------------------------------------------------------------------------


def test_server_in_a_container_without_network_is_reached(opened, server_folder, container_name, engine, tmp_path):
    reached = Reached(engine)
    server = PostgresContainer(opened, server_folder / "no-network", f"{container_name}-none", network="none")
    server.connect = lambda database="postgres": reached_session(reached, server, database)
    with server, reached.ways:
        site = ReachedSite(server, tmp_path, reached)
        site.create("reach", *SHOP)
        set_folder = site.back_up(site.source("reach"))
        assert contents(set_folder, "reach", "table")


def reached_session(reached, server, database):
    try:
        return reached.postgres(server)._server.connect(database, search_path=None)
    except ContainerError as error:
        raise psycopg.OperationalError(str(error)) from None
