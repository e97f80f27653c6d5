"""Databases whose definitions or rows don't bear a dump and its restore: all rows come back, and what does not is named."""

import pytest

from sandbox.servers import Postgres
from tests.support.postgres_exceptions import BEFORE_17, LEFT_OUT, WHOLE
from tests.support.postgres_site import Site
from tests.support.postgres_versions import majors

OWNER = "st_owner"


@pytest.fixture(scope="module", params=majors(16))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-second-try-{request.param}", request.param) as server:
        made = Site(server, tmp_path_factory.mktemp("postgres-second-try"), ("second_",), (OWNER,))
        made.sql("postgres", f"CREATE ROLE {OWNER} LOGIN SUPERUSER PASSWORD 'x'")
        made.major = request.param
        yield made


def create(site, database, statements):
    """A database of an owner who was a superuser when it was filled, and is none any more."""
    site.sql("postgres", f"ALTER ROLE {OWNER} SUPERUSER", f"CREATE DATABASE {database} OWNER {OWNER}")
    site.sql(database, *(each.replace("{database}", database) for each in statements), user=OWNER, password="x")
    site.sql("postgres", f"ALTER ROLE {OWNER} NOSUPERUSER")


def staged(site, database, **options):
    source = site.source(database)
    restore = site.restore(site.back_up(source), **options)
    source.stage(restore)
    return source, restore


@pytest.mark.parametrize("case", [*WHOLE, *BEFORE_17])
def test_database_that_does_not_bear_the_order_of_a_restore_comes_back_whole(site, case):
    if case in BEFORE_17 and site.major >= 17:
        pytest.skip("PostgreSQL 17 and newer give such functions no search path")
    create(site, "second_whole", {**WHOLE, **BEFORE_17}[case])
    try:
        source, restore = staged(site, "second_whole")
        assert source.verify_staged(restore) == []
        assert source.left_out(restore) == []
        source.swap(restore)
    finally:
        site.clean_databases()


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_can_not_be_made_again_is_named_and_all_rows_are_there(site, case):
    statements, named = LEFT_OUT[case]
    create(site, "second_out", statements)
    try:
        source, restore = staged(site, "second_out", may_lack=True)
        assert source.verify_staged(restore) == []
        sentences = sorted(each.sentence for each in source.left_out(restore))
        assert len(sentences) == len(named)
        assert all(sentence.startswith(f"second_out: {words}") for sentence, words in zip(sentences, named, strict=True))
    finally:
        site.clean_databases()


def test_values_of_rows_with_line_feeds_in_a_detail_are_not_logged(site, caplog):
    caplog.set_level("INFO")
    create(
        site,
        "second_values",
        [
            "CREATE TABLE p (t text)",
            "CREATE UNIQUE INDEX once ON p (t)",
            "UPDATE pg_index SET indisready = false WHERE indexrelid = 'once'::regclass",
            "INSERT INTO p SELECT E'a\\nsecret' FROM generate_series(1, 2)",
            "UPDATE pg_index SET indisready = true WHERE indexrelid = 'once'::regclass",
        ],
    )
    staged(site, "second_values", may_lack=True)
    assert "could not create unique index" in caplog.text
    assert "secret" not in caplog.text
    site.clean_databases()


def test_what_can_not_be_made_is_named_without_values_of_rows(site):
    statements = [
        "CREATE TABLE texts (val text)",
        "INSERT INTO texts VALUES ('7')",
        "CREATE MATERIALIZED VIEW numbers AS SELECT val::int FROM texts",
        "UPDATE texts SET val = 'secret'",
    ]
    create(site, "second_secret", statements)
    try:
        source, restore = staged(site, "second_secret", may_lack=True)
        (lacking,) = source.left_out(restore)
        assert lacking.sentence.endswith("The server says: invalid text representation")
    finally:
        site.clean_databases()


def test_check_of_a_row_that_rows_do_not_hold_any_more_is_restored_as_not_valid(site):
    statements = [
        "CREATE TABLE allowed (n int)",
        "INSERT INTO allowed VALUES (1)",
        "CREATE TABLE t (i int)",
        "CREATE FUNCTION fits(t) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.allowed WHERE n = $1.i)'",
        "ALTER TABLE t ADD CONSTRAINT fits CHECK (fits(t))",
        "INSERT INTO t VALUES (1)",
        "DELETE FROM allowed",
    ]
    create(site, "second_row", statements)
    try:
        source, restore = staged(site, "second_row", may_lack=True)
        assert source.verify_staged(restore) == []
        assert [each.name for each in source.left_out(restore)] == ["second_row: check constraint public t fits is restored as not valid"]
    finally:
        site.clean_databases()
