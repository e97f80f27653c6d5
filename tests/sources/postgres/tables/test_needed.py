"""Single tables of a database that need other things in it, which no other table needs."""

import pytest

from sandbox.servers import Postgres
from tests.support.postgres_site import Site

CASES = {
    "a view that groups by the key of another table": (
        "t1",
        "CREATE TABLE t1 (id int PRIMARY KEY, o int); CREATE TABLE other (id int PRIMARY KEY, n text)",
        "CREATE VIEW grouped AS SELECT other.id, other.n, count(*) FROM other JOIN t1 ON t1.o = other.id GROUP BY other.id",
    ),
    "a default whose function reads another table": (
        "t2",
        "CREATE TABLE nums (n int)",
        "CREATE FUNCTION counted() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT count(*)::int FROM nums; END",
        "CREATE TABLE t2 (a int DEFAULT counted())",
    ),
    "a policy and a rule that name other tables": (
        "t3",
        "CREATE TABLE perms (who text); CREATE TABLE log (a int); CREATE TABLE t3 (a int)",
        "CREATE POLICY theirs ON t3 USING (EXISTS (SELECT FROM perms WHERE who = current_user))",
        "CREATE RULE also AS ON INSERT TO t3 DO ALSO INSERT INTO log VALUES (NEW.a)",
    ),
    "an index by a text search configuration": (
        "t4",
        "CREATE TEXT SEARCH CONFIGURATION words (COPY = simple)",
        "CREATE TABLE t4 (a text); CREATE INDEX ON t4 USING gin (to_tsvector('public.words', a))",
    ),
    "an exclusion by a function, which a function calls, with odd names": (
        '"T (5)"',
        """CREATE FUNCTION "in" (int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'""",
        """CREATE FUNCTION "Out er"(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT public."in"($1)'""",
        """CREATE FUNCTION outermost(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT public."Out er"($1)'""",
        """CREATE TABLE "T (5)" (a int, CONSTRAINT "x (y" EXCLUDE USING btree (outermost(a) WITH =))""",
    ),
    "a key that is compared by a cast": (
        "t6",
        "CREATE TYPE few AS ENUM ('a'); CREATE TABLE keyed (a int PRIMARY KEY); CREATE TABLE t6 (e few)",
        "CREATE FUNCTION few_as_int(few) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1; END'",
        "CREATE CAST (few AS int) WITH FUNCTION few_as_int(few) AS IMPLICIT",
        "ALTER TABLE t6 ADD FOREIGN KEY (e) REFERENCES keyed",
    ),
}


@pytest.fixture(scope="module")
def site(server_folder, tmp_path_factory):
    with Postgres(server_folder / "needed", 18, ["fsync=off"]) as server:
        yield Site(server, tmp_path_factory.mktemp("needed"))


@pytest.fixture(scope="module")
def backup(site):
    site.create("shop", *(statement for _, *statements in CASES.values() for statement in statements))
    return site.back_up(site.source("shop"))


@pytest.mark.parametrize("table", [table for table, *_ in CASES.values()], ids=CASES)
def test_table_is_staged_and_rehearsed_with_what_it_needs(site, backup, table):
    restore, source = site.restore(backup, only=[f"shop.public.{table}"]), site.source("shop")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    source.roll_back(restore)
    source.discard(restore)
