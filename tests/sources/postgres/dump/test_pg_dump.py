"""Snapshots of many databases, on a server that has few sessions."""

import pytest

from sandbox.servers import Postgres
from tests.support.local_restore import read_dump
from tests.support.postgres_site import Site

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def site(server_folder, tmp_path_factory):
    with Postgres(server_folder / "few-sessions", options=["max_connections=20"]) as server:
        site = Site(server, tmp_path_factory.mktemp("postgres"))
        for number in range(9):
            site.sql("postgres", f"CREATE DATABASE shop{number}")
            site.sql(f"shop{number}", "CREATE TABLE t (v int)", f"INSERT INTO t VALUES ({number})")
        yield site


def test_more_databases_than_sessions_are_read_in_rounds_and_the_set_says_so(site):
    set_folder = site.back_up(site.source(*(f"shop{number}" for number in range(9)), jobs=1))
    dump = read_dump(set_folder)
    assert {artifact.name for artifact in dump.artifacts} == {"globals", *(f"shop{number}" for number in range(9))}
    [said] = [warning for warning in dump.warnings if "rounds" in warning]
    assert "snapshots of 9 databases" in said
    assert dump.consistency == "fuzzy"


def test_databases_that_the_server_has_sessions_for_are_read_at_one_moment(site):
    dump = read_dump(site.back_up(site.source("shop0", "shop1", jobs=1)))
    assert dump.consistency == "snapshot"
    assert not [warning for warning in dump.warnings if "rounds" in warning]


def test_limit_of_the_users_own_sessions_counts(site):
    site.sql("postgres", "CREATE ROLE few LOGIN BYPASSRLS PASSWORD 'few' CONNECTION LIMIT 5", "GRANT pg_read_all_data TO few")
    changed = site.source(*(f"shop{number}" for number in range(4)), jobs=1, user="few", password="few")
    assert read_dump(site.back_up(changed)).consistency == "fuzzy"
