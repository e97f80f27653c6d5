"""What an owner exchanges while a superuser reads runs nothing, and everybody else goes on meanwhile."""

import contextlib
import threading

import psycopg
import pytest

from recovery.common.errors import SourceUnreachable
from sandbox.servers import Postgres, wait_for
from tests.sources.postgres.databases.test_swap import extension
from tests.support.postgres_attack import attack
from tests.support.postgres_site import Site
from tests.support.postgres_versions import majors

EVIL = [
    "CREATE TABLE {} AS SELECT 1::bigint AS last_value, true AS is_called, 'a' AS name, 1 AS value, true AS own",
    "CREATE INDEX ON {} (last_value) WHERE code.one(1) = 1",
]
"""A table that can be read as a sequence, or as the test's extension reads its own. Its index runs code when a query is planned."""
NEW_SCHEMA = ["ALTER SCHEMA mine RENAME TO hidden", "CREATE SCHEMA mine"]
WAYS = {
    "drops the sequence": ["DROP SEQUENCE mine.s"],
    "renames the sequence": ["ALTER SEQUENCE mine.s RENAME TO hidden"],
    "moves the sequence": ["CREATE SCHEMA hidden", "ALTER SEQUENCE mine.s SET SCHEMA hidden"],
    "renames the schema": NEW_SCHEMA,
    "drops the schema": ["DROP SCHEMA mine CASCADE", "CREATE SCHEMA mine"],
}
MEANWHILE = [
    "SELECT nextval('mine.s')",
    "SELECT setval('mine.s', 70)",
    "INSERT INTO mine.t VALUES (2)",
    "CREATE TABLE mine.other (a serial)",
    "GRANT USAGE ON SCHEMA mine TO alice",
    "ALTER SCHEMA mine OWNER TO mallory",
    "ALTER SEQUENCE mine.s RESTART",
    "CREATE SCHEMA another",
    "ALTER SCHEMA another RENAME TO others",
    "DROP SCHEMA others",
]


@pytest.fixture(scope="module", params=majors(18))
def site(request, server_folder, tmp_path_factory):
    options = [f"extension_control_path=$system:{extension(server_folder / 'held')}"] if request.param == 18 else []
    with Postgres(server_folder / f"postgres-held-{request.param}", request.param, options) as server:
        yield Site(server, tmp_path_factory.mktemp(f"held-{request.param}"), ("shop",), ("mallory", "alice"))


class Mallory:
    """The owner of the database ``shop``, who wants to become a superuser."""

    def __init__(self, site):
        self._site = site
        self._who = {"user": "mallory", "password": "m"}
        self._proof = site.server.folder / "proof"
        site.sql("postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm'", "CREATE ROLE alice", "CREATE DATABASE shop OWNER mallory")
        body = f"DECLARE name text; BEGIN {attack('mallory', self._proof)} RETURN 1; END"
        self.does("CREATE SCHEMA code", f"CREATE FUNCTION code.attack() RETURNS int LANGUAGE plpgsql AS $${body}$$")
        self.does("CREATE FUNCTION code.one(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN code.attack(); END'")
        self.does("CREATE SCHEMA mine", "CREATE SEQUENCE mine.s START 7", "CREATE TABLE mine.t AS SELECT 1 AS a")

    def does(self, *statements):
        self._site.sql("shop", "SET lock_timeout TO '500ms'", *statements, **self._who)

    def exchanges(self, name, statements):
        return [*statements, *(statement.format(name) for statement in EVIL)]

    def opens(self, *statements):
        """Does something in a transaction that stays open."""
        session = self._site.server.connect("shop", **self._who)
        session.autocommit = False
        for statement in statements:
            session.execute(statement)
        return session

    def assert_no_superuser(self):
        assert self._site.sql("postgres", "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'") == [(False,)]
        assert not self._proof.exists()


@pytest.fixture
def mallory(site):
    yield Mallory(site)
    (site.server.folder / "proof").unlink(missing_ok=True)
    site.clean()


@pytest.mark.parametrize("way", WAYS)
def test_sequence_that_is_to_be_dumped_can_not_be_exchanged(site, mallory, tmp_path, way):
    def opened():
        with pytest.raises(psycopg.errors.LockNotAvailable):
            mallory.does(*mallory.exchanges("mine.s", WAYS[way]))

    site.source("shop").dump(tmp_path, opened)
    mallory.assert_no_superuser()


@pytest.mark.parametrize("way", WAYS)
def test_sequence_that_was_exchanged_before_it_was_held_is_not_read(site, mallory, way):
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    holding = mallory.opens(*mallory.exchanges("mine.s", WAYS[way]))

    def let_go():
        with holding:
            wait_for("who reads", lambda: site.sql("postgres", "SELECT 1 FROM pg_locks WHERE NOT granted"), 30)

    thread = threading.Thread(target=let_go)
    thread.start()
    for read in (source.compare, lambda _: site.back_up(source)):
        with contextlib.suppress(SourceUnreachable):  # or it reads what is there now
            read(restore)
    thread.join()
    mallory.assert_no_superuser()


def test_table_of_an_extension_that_is_to_be_read_can_not_be_exchanged(site, mallory, tmp_path, monkeypatch):
    if site.server.major < 18:
        pytest.skip("only PostgreSQL 18 finds extensions of a test")
    mallory.does("CREATE SCHEMA rates")
    site.sql("shop", "CREATE EXTENSION rates", "INSERT INTO rates.rate VALUES ('own', 2)")
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    statements = mallory.exchanges("rates.rate", ["ALTER SCHEMA rates RENAME TO hidden", "CREATE SCHEMA rates"])

    def exchanged():
        with pytest.raises(psycopg.errors.LockNotAvailable):
            mallory.does(*statements)

    source.dump(tmp_path, exchanged)
    read = site.server.bin / "psql"
    runs = type(source.runner).tool

    def tool(runner, argv, **options):
        if argv[0] == read:
            exchanged()
        return runs(runner, argv, **options)

    monkeypatch.setattr(type(source.runner), "tool", tool)
    assert {change.what for change in source.compare(restore)} == {"equal"}
    mallory.assert_no_superuser()


@pytest.mark.parametrize("user", ["postgres", "keeper"])
def test_others_go_on_while_a_database_is_dumped(site, mallory, tmp_path, user):
    password = None
    if user == "keeper":
        password = "k"
        site.sql("postgres", "CREATE ROLE keeper LOGIN PASSWORD 'k' IN ROLE pg_read_all_data")
    try:
        site.source("shop", user=user, password=password).dump(tmp_path, lambda: mallory.does(*MEANWHILE))
    finally:
        site.sql("postgres", "DROP ROLE IF EXISTS keeper")
