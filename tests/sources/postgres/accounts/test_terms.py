"""A target that has the set's roles not: everything belongs to the Connection's user, and nobody else has rights."""

import pytest

from recovery.common.connections import Endpoint
from recovery.plan.kinds.postgres import PostgresSettings, PostgresTarget
from recovery.runners.local import LOCAL
from recovery.sources.base import Access
from recovery.sources.postgres.source import Postgres
from sandbox.servers import Postgres as PostgresServer
from tests.support.postgres_site import Site, texts
from tests.support.postgres_versions import majors

ROLES = ("term_owner", "term_other", "term_reader", "keeper")
KEEPER = {"user": "keeper", "password": "k"}
MINE = {**KEEPER, "terms": {"mine": True, "grants": False}}
NO_GRANTS = {"terms": {"grants": False}}
SHOP = (
    "CREATE SCHEMA a AUTHORIZATION term_owner",
    "CREATE SCHEMA b AUTHORIZATION term_other",
    "GRANT ALL ON SCHEMA a TO term_other",
    "SET ROLE term_owner",
    "CREATE TYPE a.mood AS ENUM ('sad', 'glad')",
    "CREATE DOMAIN a.positive AS int CHECK (VALUE > 0)",
    "CREATE TABLE a.t (id serial PRIMARY KEY, mood a.mood, n a.positive)",
    "INSERT INTO a.t (mood, n) VALUES ('sad', 1), ('glad', 2)",
    "CREATE FUNCTION a.twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'",
    "CREATE INDEX t_twice ON a.t (a.twice(n))",
    "CREATE FUNCTION a.secret() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 42'",
    "REVOKE EXECUTE ON FUNCTION a.secret() FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION a.secret() TO term_reader",
    "CREATE PROCEDURE a.same(n int) LANGUAGE sql AS 'SELECT 1'",
    "CREATE PROCEDURE a.same(OUT n int) LANGUAGE sql AS 'SELECT 1'",
    "GRANT SELECT ON a.t TO term_reader, PUBLIC",
    "GRANT UPDATE (n) ON a.t TO term_reader",
    "CREATE VIEW a.v AS SELECT id FROM a.t",
    "CREATE MATERIALIZED VIEW a.m AS SELECT count(*) FROM a.t",
    "CREATE TABLE a.log (at date, n int) PARTITION BY RANGE (at)",
    "CREATE TABLE a.log_1 PARTITION OF a.log DEFAULT",
    "INSERT INTO a.log VALUES ('2026-01-01', 1)",
    "ALTER TABLE a.t ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY p ON a.t USING (n > 0)",
    "CREATE STATISTICS a.both ON mood, n FROM a.t",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA a GRANT SELECT ON TABLES TO term_reader",
    "SELECT lo_from_bytea(4711, 'large')",
    "GRANT SELECT ON LARGE OBJECT 4711 TO term_reader",
    "COMMENT ON TABLE a.t IS 'the table'",
    "RESET ROLE",
    "ALTER TABLE a.log_1 OWNER TO term_other",
    "CREATE TABLE b.points (t int REFERENCES a.t)",
    "ALTER TABLE b.points OWNER TO term_other",
    "ALTER ROLE term_reader IN DATABASE shop SET work_mem = '9MB'",
    "ALTER DATABASE shop SET work_mem = '7MB'",
)
OWNERS = """SELECT DISTINCT pg_get_userbyid(refobjid) FROM pg_shdepend
    WHERE refclassid = 'pg_authid'::regclass AND dbid = (SELECT oid FROM pg_database WHERE datname = 'shop')"""


@pytest.fixture(scope="module", params=majors(16, 18, without=(13, 14)))
def site(request, server_folder, tmp_path_factory):
    with PostgresServer(server_folder / f"postgres-terms-{request.param}", request.param) as server:
        yield Site(server, tmp_path_factory.mktemp("terms"), ("shop",), ROLES)


@pytest.fixture(scope="module")
def saved(site):
    site.sql("postgres", "CREATE ROLE term_owner", "CREATE ROLE term_other", "CREATE ROLE term_reader")
    site.sql("postgres", "CREATE DATABASE shop OWNER term_owner", "GRANT CONNECT ON DATABASE shop TO term_reader")
    site.sql("shop", *SHOP)
    set_folder = site.back_up(site.source("shop"))
    site.clean()
    return set_folder


@pytest.fixture
def elsewhere(site, saved):
    """A server that has none of the set's roles, and a user who may create databases and roles."""
    site.sql("postgres", "CREATE ROLE keeper LOGIN PASSWORD 'k' CREATEDB CREATEROLE", "GRANT pg_signal_backend TO keeper")
    yield site.restore(saved)
    site.clean()


def put_there(source, restore):
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)


def test_everything_belongs_to_the_connections_user_and_nobody_else_has_rights(site, elsewhere):
    source = site.source("shop", **MINE)
    told = texts(source, elsewhere, "warning")
    assert "All of database shop will belong to keeper, and nobody else gets rights on it (owners: mine, grants: none)." in told
    assert "Settings of roles in database shop are not brought: term_reader." in told
    put_there(source, elsewhere)
    assert site.sql("shop", OWNERS) == [("keeper",)]
    assert site.sql("postgres", "SELECT pg_get_userbyid(datdba), datacl::text FROM pg_database WHERE datname = 'shop'") == [
        ("keeper", "{keeper=CTc/keeper}")
    ]
    assert site.own_roles() == {"keeper"}
    assert site.sql("shop", "SELECT sum(n) FROM a.t", **KEEPER) == [(3,)]
    assert site.sql("shop", "SELECT proacl::text FROM pg_proc WHERE proname = 'secret'") == [("{keeper=X/keeper}",)]
    assert site.sql("shop", "SELECT setconfig FROM pg_db_role_setting") == [(["work_mem=7MB"],)]
    assert {change.what for change in source.compare(elsewhere)} == {"equal"}


def test_right_or_owner_that_somebody_else_has_fails_the_verification(site, elsewhere):
    source = site.source("shop", **MINE)
    source.stage(elsewhere)
    site.sql("postgres", "CREATE ROLE term_reader")
    stage = f"shop__stage_{elsewhere.id}"
    site.sql(stage, "GRANT SELECT ON a.t TO PUBLIC", "GRANT UPDATE (n) ON a.t TO term_reader", "ALTER VIEW a.v OWNER TO term_reader")
    site.sql(stage, "GRANT SELECT ON LARGE OBJECT 4711 TO term_reader", "GRANT EXECUTE ON FUNCTION a.secret() TO PUBLIC")
    site.sql(stage, "ALTER DEFAULT PRIVILEGES FOR ROLE keeper GRANT SELECT ON TABLES TO PUBLIC")
    differing = {(difference.kind, difference.name) for difference in source.verify_staged(elsewhere)}
    assert differing == {
        ("table", "a.t"),
        ("view", "a.v"),
        ("large object", "4711"),
        ("function", "a.secret()"),
        ("default rights", "keeper r"),
    }


def test_owners_are_kept_without_rights_for_others(site, elsewhere):
    source = site.source("shop", **NO_GRANTS)
    assert "Nobody but the owners gets rights on what is in database shop (grants: none)." in texts(source, elsewhere, "warning")
    put_there(source, elsewhere)
    assert {owner for (owner,) in site.sql("shop", OWNERS)} == {"term_owner", "term_other"}
    assert site.sql("shop", "SELECT has_table_privilege('term_reader', 'a.t', 'SELECT')") == [(False,)]


def test_owners_are_kept_without_rights_by_a_user_who_is_no_superuser(site, elsewhere):
    site.sql("postgres", "CREATE ROLE term_owner", "CREATE ROLE term_other", "CREATE ROLE term_reader")
    site.sql("postgres", "GRANT term_owner, term_other TO keeper", "GRANT term_reader TO keeper WITH ADMIN OPTION")
    put_there(site.source("shop", **KEEPER, **NO_GRANTS), elsewhere)
    assert {owner for (owner,) in site.sql("shop", OWNERS)} == {"term_owner", "term_other"}


def test_preflight_refuses_a_superuser_as_the_owner_and_single_tables(site, elsewhere, saved):
    refused = texts(site.source("shop", terms=MINE["terms"]), elsewhere, "refusal")
    assert "code of the set would run with the rights of postgres, who is a superuser" in refused
    refused = texts(site.source("shop", **MINE), site.restore(saved, only=["shop.a.t"]), "refusal")
    assert "With owners or grants, restore whole databases" in refused


def test_preflight_refuses_a_policy_for_a_role_that_the_server_lacks(site, elsewhere):
    site.sql("postgres", "CREATE ROLE term_reader", "CREATE DATABASE shop")
    site.sql("shop", "CREATE TABLE t ()", "CREATE POLICY p ON t TO term_reader")
    set_folder = site.back_up(site.source("shop"))
    site.sql("postgres", "DROP DATABASE shop WITH (FORCE)", "DROP ROLE term_reader")
    refused = texts(site.source("shop", **MINE), site.restore(set_folder), "refusal")
    assert "The policy public.t p of database shop names roles that the server lacks: term_reader." in refused


def test_restore_in_place_and_its_rollback_keep_to_what_each_set_has(site, elsewhere, saved):
    site.sql("postgres", "CREATE ROLE term_owner", "GRANT term_owner TO keeper", "CREATE DATABASE shop OWNER term_owner")
    site.sql("shop", "CREATE TABLE live (n int)", "ALTER TABLE live OWNER TO term_owner")
    source = site.source("shop", **MINE)
    safety = site.back_up(site.source("shop"))
    restore = site.restore(saved, in_place=True)
    assert texts(source, restore, "refusal") == ""
    source.replace(restore)
    assert source.verify_staged(restore) == []
    source.let_in(restore)
    assert site.sql("shop", OWNERS) == [("keeper",)]
    back = site.restore(safety, restore_id=restore.id, in_place=True, rolling_back=True)
    back.recorded_facts = restore.recorded_facts
    source.replace(back)
    assert source.verify_staged(back) == []
    source.let_in(back)
    assert site.sql("shop", OWNERS) == [("term_owner",)]


def test_plan_says_the_terms_of_a_target(site, elsewhere):
    there = PostgresTarget(connection="there", owners="mine", grants="none")
    endpoint = Endpoint("there", "127.0.0.1", site.server.port, "keeper", "k")
    source = Postgres.of(
        "main", PostgresSettings(connection="live"), there, Access({"there": endpoint}.__getitem__, LOCAL, [site.server.bin])
    )
    assert "All of database shop will belong to keeper" in texts(source, elsewhere, "warning")
