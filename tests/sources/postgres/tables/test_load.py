"""No code of a set, or of the live database, runs with more rights than an owner's while single tables are restored."""

import re

import pytest

from recovery.common.errors import RestoreError
from tests.support.postgres_attack import MALLORY, SINCE, WAYS, attack, in_schemas, left_over, made, restored, side_by_side
from tests.support.postgres_site import contents, texts

MORE_WAYS = {
    "a default": ["CREATE TABLE mine.t (a int, b int DEFAULT mine.one(1))", "INSERT INTO mine.t VALUES (1)"],
    "a folded predicate": ["CREATE TABLE mine.t AS SELECT 1 AS a", "CREATE INDEX ON mine.t (a) WHERE mine.one(1) > 0"],
    "a folded check": ["CREATE TABLE mine.t (a int CHECK (a < mine.one(2)))", "INSERT INTO mine.t VALUES (1)"],
    "a partition's bound": [
        "CREATE TABLE mine.t (a int) PARTITION BY RANGE (a)",
        "CREATE TABLE mine.t1 PARTITION OF mine.t FOR VALUES FROM (mine.one(1)) TO (9)",
        "CREATE INDEX ON mine.t ((a + mine.one(1)))",
        "INSERT INTO mine.t VALUES (1)",
    ],
    "a trigger": [
        "CREATE TABLE mine.t AS SELECT 1 AS a",
        "CREATE FUNCTION mine.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM mine.attack(); RETURN NEW; END $$",
        "CREATE TRIGGER fire BEFORE INSERT OR UPDATE ON mine.t FOR EACH ROW WHEN (mine.one(1) = 1) EXECUTE FUNCTION mine.fire()",
        "ALTER TABLE mine.t ENABLE ALWAYS TRIGGER fire",
    ],
    "a policy": [
        "CREATE TABLE mine.t AS SELECT 1 AS a",
        "ALTER TABLE mine.t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "CREATE POLICY p ON mine.t USING (mine.one(1) = 1)",
    ],
    "a rule": [
        "CREATE TABLE mine.t AS SELECT 1 AS a",
        "CREATE RULE r AS ON UPDATE TO mine.t WHERE mine.one(1) = 1 DO ALSO SELECT mine.attack()",
    ],
    "an array of a domain": [
        "CREATE DOMAIN mine.d AS int CHECK (mine.one(value) = value)",
        "CREATE TABLE mine.t (a int, b mine.d[] DEFAULT '{1}'::mine.d[] CHECK (b <> '{2}'::mine.d[]))",
        "INSERT INTO mine.t VALUES (1)",
    ],
    "a range": [
        "CREATE FUNCTION mine.diff(int, int) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN mine.silent($1 - $2); END $$",
        "CREATE TYPE mine.r AS RANGE (SUBTYPE = int, SUBTYPE_DIFF = mine.diff)",
        "CREATE TABLE mine.t (a mine.r)",
        "INSERT INTO mine.t SELECT mine.r(n, n + 5) FROM generate_series(1, 500) n",
        "CREATE INDEX ON mine.t USING gist (a)",
    ],
    "a cast": [
        "CREATE TYPE mine.e AS ENUM ('a')",
        "CREATE FUNCTION mine.as_int(mine.e) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN mine.one(1); END $$",
        "CREATE CAST (mine.e AS int) WITH FUNCTION mine.as_int(mine.e) AS IMPLICIT",
        "CREATE TABLE mine.t (a int PRIMARY KEY)",
        "CREATE TABLE mine.u (e mine.e REFERENCES mine.t)",
        "INSERT INTO mine.t VALUES (1)",
        "INSERT INTO mine.u VALUES ('a')",
    ],
}


@pytest.mark.parametrize("ways", side_by_side(WAYS | MORE_WAYS))
def test_restore_of_a_schema_gives_its_owner_no_rights(site, proof, ways):
    known = [(WAYS | MORE_WAYS)[way] for way in ways if site.server.major >= SINCE.get(way, 0)]
    schemas, statements = in_schemas(known, proof)
    backup, is_safe = made(site, proof, *statements)
    restored(site.restore(backup, only=[f"shop.{schema}" for schema in schemas]), site.source("shop"), is_safe)
    assert left_over(site) == []


@pytest.mark.parametrize("way", ["a check", "a partition key", "a folded predicate", "a check of another's table", "a cast"])
def test_restore_by_a_user_with_few_rights_gives_the_owner_none_of_them(site, proof, way):
    backup, _ = made(site, proof, *(WAYS | MORE_WAYS)[way])
    site.sql("postgres", "CREATE ROLE steward LOGIN PASSWORD 's' CREATEDB CREATEROLE", "GRANT CREATE ON DATABASE shop TO steward")
    site.sql("postgres", "GRANT mallory, alice TO steward")
    backup, is_safe = made(site, proof)
    restore, source = site.restore(backup, only=["shop.mine"]), site.source("shop", user="steward", password="s")
    if site.server.major >= 16:  # before, CREATEROLE was enough to give somebody the rights of others
        assert re.search(r"may not give the rights of \w+, who owns what is restored, to the role", texts(source, restore, "refusal"))
    site.sql("postgres", "GRANT mallory, alice TO steward WITH ADMIN OPTION")
    restored(restore, source, is_safe)
    assert left_over(site) == []


EQUAL = {
    "a check that is valid at a child only": [
        "CREATE TABLE mine.p (a int)",
        "INSERT INTO mine.p VALUES (-1)",
        "ALTER TABLE mine.p ADD CONSTRAINT positive CHECK (a > 0) NOT VALID",
        "CREATE TABLE mine.c () INHERITS (mine.p)",
        "INSERT INTO mine.c VALUES (1)",
    ],
    "a view of another's view that comes after the rows": [
        "CREATE TABLE mine.t (a int PRIMARY KEY, b text)",
        "INSERT INTO mine.t VALUES (1, 'x')",
        "CREATE MATERIALIZED VIEW mine.v AS SELECT a, b FROM mine.t GROUP BY a",
        "GRANT SELECT ON mine.v TO alice",
        "SET ROLE alice",
        "CREATE MATERIALIZED VIEW mine.w AS SELECT a FROM mine.v",
    ],
    "a table of whoever owns the database": ["CREATE TABLE mine.t AS SELECT 1 AS a"],
}


@pytest.mark.parametrize("what", EQUAL)
def test_schema_is_restored_equal(site, proof, what):
    made(site, proof, *EQUAL[what])
    if what == "a table of whoever owns the database":
        if site.server.major < 14:
            pytest.skip("there is a role for the owner of a database since PostgreSQL 14")
        site.sql("shop", "ALTER TABLE mine.t OWNER TO pg_database_owner")
    backup, is_safe = made(site, proof)
    restored(site.restore(backup, only=["shop.mine"]), site.source("shop"), is_safe)
    assert left_over(site) == []


AS_ALICE = """CREATE FUNCTION mine.as_alice() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    SET ROLE alice; INSERT INTO alices.caught VALUES (1); RETURN 1; EXCEPTION WHEN OTHERS THEN RETURN 1; END $$"""


def test_function_in_a_check_has_the_rights_of_its_tables_owner_only(site, proof):
    site.sql("shop", "CREATE SCHEMA alices AUTHORIZATION alice")
    site.sql("shop", AS_ALICE, "CREATE TABLE mine.t AS SELECT 1 AS a", **MALLORY)
    site.sql("shop", "ALTER TABLE mine.t ADD CHECK (mine.as_alice() = 1)", **MALLORY)
    site.sql("shop", "CREATE TABLE alices.caught (a int); CREATE TABLE alices.t AS SELECT 1 AS a", user="alice", password="a")
    backup, is_safe = made(site, proof)
    restored(site.restore(backup, only=["shop.mine", "shop.alices.t"]), site.source("shop"), is_safe)
    assert site.sql("shop", "SELECT * FROM alices.caught") == []


FAILING = {
    "always": "BEGIN {attack} RAISE EXCEPTION 'refused'; END",
    "with an empty search path": """BEGIN {attack} IF current_setting('search_path') IN ('', '""') THEN RAISE EXCEPTION 'refused'; END IF;
        RETURN 1; END""",
}


@pytest.mark.parametrize("when", FAILING)
@pytest.mark.parametrize("ways", side_by_side({way: WAYS[way] for way in ("a check", "an index", "a partial index", "an exclusion")}))
def test_second_try_of_what_fails_gives_its_owner_no_rights(site, proof, ways, when):
    failing = FAILING[when].replace("{attack}", attack("mallory", proof))
    schemas, statements = in_schemas([WAYS[way] for way in ways], proof)
    refused = [
        f"CREATE OR REPLACE FUNCTION {each}.attack() RETURNS int LANGUAGE plpgsql AS $$ DECLARE name text; {failing} $$" for each in schemas
    ]
    in_path = ["CREATE SCHEMA path", "ALTER DATABASE shop SET search_path = path", *statements, *refused]
    backup, is_safe = made(site, proof, *in_path)
    source, restore = site.source("shop"), site.restore(backup, only=[f"shop.{schema}" for schema in schemas], may_lack=True)
    source.stage(restore)
    assert is_safe()
    assert source.verify_staged(restore) == []
    assert bool(source.left_out(restore)) == (when == "always")
    for step in (source.swap, source.roll_back, source.discard):
        step(restore)
        assert is_safe()
    assert left_over(site) == []


def test_definition_that_fails_does_not_mean_functions_of_others_in_the_second_try(site, proof):
    site.sql("shop", "CREATE SCHEMA alices AUTHORIZATION alice")
    alice = [
        "CREATE TABLE alices.caught (a int)",
        "CREATE TABLE alices.t (a int[])",
        "CREATE UNIQUE INDEX once ON alices.t (array_append(a, 1))",
    ]
    site.sql("shop", *alice, user="alice", password="a")
    ready = "UPDATE pg_index SET indisready = {} WHERE indexrelid = 'alices.once'::regclass"
    site.sql("shop", ready.format(False), "INSERT INTO alices.t VALUES ('{1}'), ('{1}')", ready.format(True))
    taken = """CREATE FUNCTION path.array_append(int[], int) RETURNS int[] LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
        PERFORM path.hijacked(); RETURN $1; END $$"""
    backup, is_safe = made(
        site, proof, "CREATE SCHEMA path", "GRANT USAGE ON SCHEMA path TO PUBLIC", taken, "ALTER DATABASE shop SET search_path = path"
    )
    restore, source = site.restore(backup, only=["shop.alices.t"], may_lack=True), site.source("shop")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    (lacking,) = source.left_out(restore)
    assert lacking.sentence.endswith('The server says: could not create unique index "once"')
    source.discard(restore)
    assert is_safe()


LEFT_BY_LOAD = """CREATE FUNCTION mine.leave() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    IF session_user LIKE 'recovery%' THEN
        CREATE OR REPLACE FUNCTION mine.way(text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN EXECUTE $1; END';
    END IF;
    RETURN 1; END $$"""


def test_verification_refuses_a_function_that_the_load_left_and_discard_drops_it(site, proof):
    backup, is_safe = made(
        site, proof, LEFT_BY_LOAD, "CREATE TABLE mine.t (a int CHECK (mine.leave() = 1))", "INSERT INTO mine.t VALUES (1)"
    )
    restore, source = site.restore(backup, only=["shop.mine"]), site.source("shop")
    source.stage(restore)
    left = "function mine.way(pg_catalog.text): was left by code that ran while the tables were loaded"
    assert [str(difference) for difference in source.verify_staged(restore)] == [left]
    with pytest.raises(RestoreError, match=re.escape(left)):
        source.swap(restore)
    source.discard(restore)
    assert site.sql("shop", "SELECT to_regproc('mine.way')") == [(None,)]
    assert is_safe()
    assert left_over(site) == []


def test_staged_tables_are_closed_to_everybody_else(site, proof):
    backup, _ = made(site, proof, "CREATE TABLE mine.t AS SELECT 1 AS a")
    restore, source = site.restore(backup, only=["shop.mine.t"]), site.source("shop")
    source.stage(restore)
    rights = "SELECT has_schema_privilege('mallory', nspname, 'USAGE') FROM pg_namespace WHERE nspname = %s"
    with site.server.connect("shop") as connection:
        assert connection.execute(rights, [f"mine__stage_{restore.id}"]).fetchall() == [(False,)]
    assert site.sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'recovery%' AND rolcanlogin") == [(0,)]
    source.discard(restore)
    assert left_over(site) == []


def test_preflight_refuses_a_child_of_another_owners_table(site, proof):
    backup, _ = made(
        site,
        proof,
        "CREATE TABLE mine.log (a int) PARTITION BY RANGE (a)",
        "CREATE TABLE mine.log_1 PARTITION OF mine.log DEFAULT",
        "ALTER TABLE mine.log_1 OWNER TO alice",
    )
    restore = site.restore(backup, only=["shop.mine.log"])
    assert "mine.log_1 is a partition or child of another owner's table" in texts(site.source("shop"), restore, "refusal")


def test_schema_of_somebody_else_is_not_taken_for_a_part_of_the_restore(site, proof):
    backup, is_safe = made(site, proof, "CREATE TABLE mine.t AS SELECT 1 AS a")
    restore, source = site.restore(backup, only=["shop.mine.t"]), site.source("shop")
    theirs = [f"public__{kind}_{restore.id}" for kind in ("before", "stage", "replaced")]
    source.stage(restore)
    for name in theirs:
        site.sql("shop", f"CREATE SCHEMA {name}; CREATE TABLE {name}.planted AS SELECT 1 AS a", **MALLORY)
    assert source.verify_staged(restore) == []
    site.sql("shop", "UPDATE mine.t SET a = 2")
    source.swap(restore)
    assert site.sql("shop", "SELECT a FROM mine.t") == [(1,)]
    assert site.sql("shop", "SELECT to_regclass('public.planted')") == [(None,)]
    source.roll_back(restore)
    source.discard(restore)
    assert site.sql("shop", "SELECT a FROM mine.t") == [(2,)]
    assert is_safe()
    left = site.sql("shop", "SELECT nspname FROM pg_namespace WHERE nspname ~ '__(before|stage|replaced)_' ORDER BY 1")
    assert left == sorted((name,) for name in theirs)


def test_backup_while_tables_are_staged_has_neither_them_nor_their_roles(site, proof):
    before, _ = made(site, proof, "CREATE TABLE mine.t AS SELECT 1 AS a")
    restore, source = site.restore(before, only=["shop.mine.t"]), site.source("shop")
    source.stage(restore)
    backup = site.back_up(source)
    for artifact in ("shop", "globals"):
        assert contents(backup, artifact).keys() == contents(before, artifact).keys()
    source.discard(restore)
