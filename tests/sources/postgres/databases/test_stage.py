"""Loading what the owner of a database may make of it: nothing of that keeps good data from being restored."""

import shutil

import pytest

from recovery.common.errors import RestoreError
from sandbox.servers import Postgres
from tests.support.postgres_site import Site
from tests.support.postgres_versions import majors

ODD = {
    "a comment that reads like a statement": ["COMMENT ON SCHEMA public IS 'who is the OWNER TO ask'"],
    "a table that reads like a statement": [
        'CREATE TABLE mine."x OWNER TO y" (a int)',
        'GRANT SELECT ON mine."x OWNER TO y" TO alice',
    ],
    "schemas that make kinds read like others": [
        *(f'CREATE SCHEMA "{name}"' for name in ("ACL", "ATTACH", "CLASS", "DATA", "FAMILY", "SET", "OWNED BY")),
        "CREATE FUNCTION mine.same(int, int) RETURNS bool LANGUAGE sql AS 'SELECT $1 = $2'",
        'CREATE OPERATOR "CLASS".=== (LEFTARG = int, RIGHTARG = int, FUNCTION = mine.same)',
        'CREATE OPERATOR "FAMILY".=== (LEFTARG = int, RIGHTARG = int, FUNCTION = mine.same)',
        'CREATE TABLE "ACL".t (a int)',
        'CREATE VIEW "ACL".v AS SELECT a FROM "ACL".t',
        'ALTER VIEW "ACL".v ALTER a SET DEFAULT 3',
        "CREATE TYPE mine.kind AS ENUM ('a')",
        'CREATE TABLE "DATA".t (a mine.kind)',
        "INSERT INTO \"DATA\".t VALUES ('a')",
        'CREATE MATERIALIZED VIEW "DATA".v AS SELECT * FROM "DATA".t',
        'CREATE TABLE "ATTACH".t (a int PRIMARY KEY, b int)',
        'CREATE INDEX ON "ATTACH".t (b)',
        'CREATE SEQUENCE "SET".s',
        'CREATE SEQUENCE "OWNED BY".s',
        "SELECT nextval('\"SET\".s')",
    ],
    "names with ends of lines": [
        statement
        for name in ("a\nb", "a\rb", "a\vb", "a\fb", "a\x1cb", "a\x85b", "a\u2028b", "a\u2029b")
        for statement in (f'CREATE TABLE mine."{name}" (a int CHECK (mine.alone()))', f'INSERT INTO mine."{name}" VALUES (1)')
    ],
    "lists that SET would not write": [
        "SELECT set_config('local_preload_libraries', '\"abc', false), set_config('search_path', 'MINE,public', false)",
        "ALTER DATABASE shop SET local_preload_libraries FROM CURRENT",
        "ALTER ROLE mallory IN DATABASE shop SET search_path FROM CURRENT",
    ],
    "a materialized view of a table with row security": [
        "CREATE TABLE mine.secured AS SELECT n FROM generate_series(1, 9) n",
        "ALTER TABLE mine.secured ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE mine.secured FORCE ROW LEVEL SECURITY",
        "CREATE POLICY few ON mine.secured USING (n < 4)",
        "CREATE MATERIALIZED VIEW mine.few AS SELECT n FROM mine.secured",
    ],
    "procedures that are one, if results count as arguments": [
        "CREATE PROCEDURE mine.add(OUT a int, b int, c int) LANGUAGE plpgsql AS 'BEGIN a := b + c; END'",
        "CREATE PROCEDURE mine.add(a int, b int, c int) LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN END'",
    ],
    "a procedure with the arguments of functions, if results count": [
        "CREATE FUNCTION mine.both(a int) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "CREATE PROCEDURE mine.both(OUT a int) LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "CREATE AGGREGATE mine.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')",
        "CREATE PROCEDURE mine.total(OUT a int) LANGUAGE sql AS 'SELECT 1'",
        "REVOKE ALL ON FUNCTION mine.both(int) FROM PUBLIC",
    ],
}
"""What the owner makes."""
INHERITED = [
    "CREATE TABLE mine.whole (a int) PARTITION BY LIST (a)",
    "CREATE TABLE mine.part (a int)",
    "INSERT INTO mine.part VALUES (NULL)",
    "ALTER TABLE mine.whole ADD CONSTRAINT set NOT NULL a NOT VALID",
    'ALTER TABLE mine.part ADD CONSTRAINT "set, too" NOT NULL a NOT VALID',
    "ALTER TABLE mine.whole ATTACH PARTITION mine.part DEFAULT",
]
"""With a name of its own, which pg_dump does not write; since PostgreSQL 18."""
NAME_ONLY = ["CREATE TYPE mine.later", "ALTER TYPE mine.later OWNER TO mallory"]
"""A type that is not defined, which only a superuser can make."""
PRIVILEGED = [
    "CREATE PROCEDURE mine.noted(IN a int) LANGUAGE sql SET log_statement = 'all' AS 'SELECT 1'",
    "CREATE PROCEDURE mine.noted(OUT a int) LANGUAGE sql SET log_statement = 'all' AS 'SELECT 1'",
    "ALTER PROCEDURE mine.noted(IN int) OWNER TO mallory",
    "ALTER PROCEDURE mine.noted(OUT int) OWNER TO mallory",
]
"""With a setting of superusers; they differ only in their results."""
ALONE = """CREATE FUNCTION mine.alone() RETURNS bool LANGUAGE sql AS $$
    SELECT count(*) <= 1 FROM pg_roles WHERE rolname LIKE 'recovery_load%' AND pg_has_role(session_user, oid, 'MEMBER') $$"""
"""Whether it runs with the rights of one role that loads, and of no other."""


@pytest.fixture(scope="module", params=majors(18, without=(13, 14, 15, 17)))  # which have the extension vector
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-stage-{request.param}", request.param) as server:
        yield Site(server, tmp_path_factory.mktemp(f"stage-{request.param}"), ("shop",), ("mallory", "alice"))


@pytest.fixture
def tablespace(site):
    """A tablespace, in a folder that the server may write to."""
    folder = site.server.folder.parent / f"{site.server.folder.name}-fast"
    folder.mkdir()
    shutil.chown(folder, site.server.folder.owner())
    site.sql("postgres", f"CREATE TABLESPACE fast LOCATION '{folder}'")
    yield "fast"
    site.sql("postgres", "DROP TABLESPACE fast")
    folder.rmdir()


@pytest.fixture
def mallory(site):
    site.sql("postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm'", "CREATE ROLE alice", "CREATE DATABASE shop OWNER mallory")
    site.sql("shop", "CREATE SCHEMA mine AUTHORIZATION mallory", "CREATE SCHEMA alices AUTHORIZATION alice")
    site.sql("shop", "CREATE TABLE alices.own AS SELECT 1 AS a", "ALTER TABLE alices.own OWNER TO alice")
    yield {"user": "mallory", "password": "m"}
    site.clean()


def test_odd_definitions_and_names_of_an_owner_are_restored_equal(site, mallory):
    with site.server.connect("shop", **mallory) as connection:
        for statement in (ALONE, *(statement for statements in ODD.values() for statement in statements)):
            connection.execute(statement)
    site.sql("shop", *NAME_ONLY, *PRIVILEGED, *(INHERITED if site.server.major >= 18 else ()))
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    assert source.verify_staged(restore) == []
    site.sql(f"shop__stage_{restore.id}", "DROP TYPE mine.later")
    assert [str(difference) for difference in source.verify_staged(restore)] == ["type mine.later: is missing"]
    site.sql(f"shop__stage_{restore.id}", *NAME_ONLY)
    source.swap(restore)
    assert site.sql("shop", "SELECT count(*) FROM mine.few") == [(3,)]
    source.finalize(restore)
    source.roll_back(restore)
    source.discard(restore)


def loaders(site):
    return site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'")


def test_tables_and_indexes_of_a_tablespace_are_restored_into_it(site, tablespace, mallory):
    site.sql("postgres", "GRANT CREATE ON TABLESPACE fast TO mallory")
    site.sql("shop", "CREATE TABLE mine.t (a int PRIMARY KEY USING INDEX TABLESPACE fast) TABLESPACE fast", **mallory)
    site.sql("postgres", "REVOKE CREATE ON TABLESPACE fast FROM mallory")
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert loaders(site) == []
    source.discard(restore)
    site.sql("postgres", "DROP DATABASE shop")


def test_function_with_a_setting_of_an_extension_is_restored_and_one_that_failed_leaves_no_role(site, mallory):
    site.sql("shop", "CREATE EXTENSION vector SCHEMA mine")
    with site.server.connect("shop", **mallory) as connection:
        connection.execute("SELECT '[1,2]'::mine.vector")  # loads the library, which knows the setting
        connection.execute("CREATE FUNCTION mine.near() RETURNS int LANGUAGE sql SET hnsw.ef_search = '77' AS 'SELECT 1'")
        here = "LANGUAGE sql IMMUTABLE AS $$ SELECT 1 / (current_database() = 'shop')::int $$"
        connection.execute(f"CREATE FUNCTION mine.here(int) RETURNS int {here}")
        connection.execute("CREATE TABLE mine.t (a int, b int GENERATED ALWAYS AS (mine.here(a)) STORED)")
        connection.execute("INSERT INTO mine.t VALUES (1)")
    source = site.source("shop")
    failing = site.restore(site.back_up(source))
    with pytest.raises(RestoreError, match="the rows of table mine t can't be loaded: division by zero"):
        source.stage(failing)
    source.discard(failing)
    assert loaders(site) == []
    site.sql("shop", "DROP TABLE mine.t", **mallory)
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert loaders(site) == []
    source.discard(restore)


def test_code_of_one_owner_puts_nothing_into_schemas_of_others_or_where_nobody_looks(site, mallory):
    """A schema that is named like a copy of a restore is left out of every comparison."""
    body = """$$ BEGIN
        BEGIN CREATE TABLE alices.planted (a int); RETURN false; EXCEPTION WHEN insufficient_privilege THEN NULL; END;
        IF current_database() <> 'shop' THEN CREATE SCHEMA IF NOT EXISTS hidden__stage_00000000; END IF;
        RETURN true; END $$"""
    site.sql("shop", f"CREATE FUNCTION mine.plant(int) RETURNS bool LANGUAGE plpgsql AS {body}", **mallory)
    site.sql("shop", "CREATE TABLE mine.t (a int CHECK (mine.plant(a)))", "INSERT INTO mine.t VALUES (1)", **mallory)
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    assert [str(difference) for difference in source.verify_staged(restore)] == ["schema hidden__stage_00000000: is not in the set"]
    source.discard(restore)


def test_operator_with_another_function_than_in_the_set_is_a_difference(site, mallory):
    site.sql("shop", *(f"CREATE FUNCTION mine.{name}(int, int) RETURNS bool LANGUAGE sql AS 'SELECT true'" for name in ("same", "other")))
    operator = "CREATE OPERATOR mine.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = mine.{})"
    site.sql("shop", operator.format("same"))
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    assert source.verify_staged(restore) == []
    site.sql(f"shop__stage_{restore.id}", "DROP OPERATOR mine.=== (int, int)", operator.format("other"))
    [difference] = source.verify_staged(restore)
    assert "mine.same" in str(difference)
    assert "mine.other" in str(difference)
    source.discard(restore)
