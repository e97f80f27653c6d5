"""Children of tables of another owner are attached by a role that has no right but to own these tables for that moment."""

import re

import pytest

from recovery.common.errors import RestoreError
from recovery.sources.postgres.accounts.loaders import EVERYONE
from recovery.sources.postgres.databases import inheritance
from sandbox.servers import Postgres
from tests.support.postgres_attack import MALLORY, Rights, attack, side_by_side
from tests.support.postgres_site import Site, texts
from tests.support.postgres_versions import majors

ROLES = ("mallory", "alice", "bob")
SPY = """CREATE FUNCTION {schema}.spy(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
    IF session_user LIKE 'recovery_load%' THEN
        PERFORM {schema}.attack();
        IF (SELECT count(DISTINCT relowner) FROM pg_class WHERE relowner <> 10 AND pg_has_role(session_user, relowner, 'MEMBER')) > 1 THEN
            RAISE 'a function of {schema} runs with the rights of several owners';
        END IF;
    END IF; RETURN $1; END $$"""
"""A function that tries to become more than it is, and says that it could."""
COMPARED = ", ".join(f"OPERATOR {number} {sign}" for number, sign in enumerate(("<", "<=", "=", ">=", ">"), start=1))
WAYS = {
    "an expression of the key": [
        "CREATE TABLE mine.p (a int) PARTITION BY RANGE ((a + mine.spy(1)))",
        "CREATE TABLE alices.c PARTITION OF mine.p FOR VALUES FROM (0) TO (9)",
    ],
    "a domain of the key": [
        "CREATE DOMAIN mine.d AS int CHECK (mine.spy(value) = value)",
        "CREATE TABLE mine.p (a mine.d) PARTITION BY LIST (a)",
        "CREATE TABLE alices.c PARTITION OF mine.p FOR VALUES IN (1)",
    ],
    "what compares the bounds": [
        "CREATE FUNCTION mine.compared(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN mine.spy(btint4cmp($1, $2)); END'",
        f"CREATE OPERATOR CLASS mine.own FOR TYPE int USING btree AS {COMPARED}, FUNCTION 1 mine.compared(int, int)",
        "CREATE TABLE mine.p (a int) PARTITION BY RANGE (a mine.own)",
        "CREATE TABLE alices.c PARTITION OF mine.p FOR VALUES FROM (0) TO (9)",
    ],
    "what hashes the rows": [
        "CREATE FUNCTION mine.hashed(int, bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN mine.spy(0); END'",
        "CREATE OPERATOR CLASS mine.own FOR TYPE int USING hash AS OPERATOR 1 =, FUNCTION 1 hashint4(int),"
        " FUNCTION 2 mine.hashed(int, bigint)",
        "CREATE TABLE mine.p (a int, b int) PARTITION BY HASH (a mine.own, (b + mine.spy(1)))",
        "CREATE TABLE alices.c PARTITION OF mine.p FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    ],
    "a check of the partition": [
        "CREATE TABLE mine.p (a int) PARTITION BY RANGE (a)",
        "CREATE TABLE alices.c (a int CHECK (a > alices.spy(-5)))",
        "ALTER TABLE mine.p ATTACH PARTITION alices.c FOR VALUES FROM (0) TO (9)",
    ],
    "a default of the child": [
        "CREATE DOMAIN alices.d AS int CHECK (alices.spy(value) = value)",
        "CREATE TABLE mine.p (a int)",
        "CREATE TABLE alices.c (b alices.d[] DEFAULT '{1}') INHERITS (mine.p)",
    ],
    "an index": [
        "CREATE TABLE mine.p (a int) PARTITION BY RANGE (a)",
        "CREATE TABLE alices.c PARTITION OF mine.p FOR VALUES FROM (0) TO (9)",
        "CREATE INDEX ON mine.p ((a + mine.spy(1))) WHERE a > mine.spy(-5)",
    ],
    "a trigger": [
        "CREATE TABLE mine.p (a int) PARTITION BY RANGE (a)",
        "CREATE TABLE alices.c PARTITION OF mine.p FOR VALUES FROM (0) TO (9)",
        "CREATE FUNCTION mine.fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM mine.spy(1); RETURN NEW; END'",
        "CREATE TRIGGER fire BEFORE INSERT ON mine.p FOR EACH ROW WHEN (NEW.a > mine.spy(-5)) EXECUTE FUNCTION mine.fire()",
        "CREATE INDEX ON mine.p ((a + mine.spy(1)))",
    ],
    "a check that children inherit": [
        "CREATE TABLE mine.p (a int CHECK (a > mine.spy(-5)))",
        "CREATE TABLE alices.c (b int CHECK (b > alices.spy(-5))) INHERITS (mine.p)",
        "INSERT INTO alices.c VALUES (1, 2)",
    ],
    "a check that is not valid": [
        "CREATE TABLE mine.p (a int)",
        "CREATE TABLE alices.c (b int) INHERITS (mine.p)",
        "INSERT INTO alices.c VALUES (-9, 2)",
        'ALTER TABLE mine.p ADD CONSTRAINT "is positive" CHECK (a > mine.spy(0)) NOT VALID',
    ],
    "a foreign key": [
        "CREATE TABLE bobs.known (a int PRIMARY KEY)",
        "INSERT INTO bobs.known VALUES (1)",
        "CREATE TABLE mine.p (a int REFERENCES bobs.known) PARTITION BY RANGE ((a + mine.spy(1)))",
        "CREATE TABLE alices.c PARTITION OF mine.p FOR VALUES FROM (0) TO (9)",
    ],
}
"""Tables of mallory, the database's owner, with children of alice; each runs a function of one of them while it is attached."""


@pytest.fixture(scope="module", params=majors(18))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-inheritance-{request.param}", request.param) as server:
        yield Site(server, tmp_path_factory.mktemp(f"inheritance-{request.param}"), ("shop",), ROLES)


def make_schemas(site, proof, number=""):
    """Schemas of three owners, with functions that spy and a table each."""
    for schema, owner in ((f"mine{number}", "mallory"), (f"alices{number}", "alice"), (f"bobs{number}", "bob")):
        body = f"$$ DECLARE name text; BEGIN {attack('mallory', proof)} END $$"
        made = [f"CREATE FUNCTION {schema}.attack() RETURNS void LANGUAGE plpgsql AS {body}", SPY.format(schema=schema)]
        site.sql("shop", f"CREATE SCHEMA {schema}", *made, f"GRANT USAGE ON SCHEMA {schema} TO PUBLIC")
        site.sql("shop", f"CREATE TABLE {schema}.own AS SELECT 1 AS a")
        functions = [f"ALTER FUNCTION {schema}.{each} OWNER TO {owner}" for each in ("attack()", "spy(int)")]
        site.sql("shop", f"ALTER SCHEMA {schema} OWNER TO {owner}", f"ALTER TABLE {schema}.own OWNER TO {owner}", *functions)


@pytest.fixture
def owners(site):
    """A database with functions of two owners that spy, and something of a third; a superuser makes the tables, then gives them away."""
    site.sql(
        "postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm'", "CREATE ROLE alice", "CREATE ROLE bob", "CREATE DATABASE shop OWNER mallory"
    )
    proof = site.server.folder / "proof"
    make_schemas(site, proof)
    yield proof
    site.clean()
    proof.unlink(missing_ok=True)


def given_away(site):
    """Everything in the schemas belongs to their owners."""
    statements = """SELECT format('ALTER %s %s OWNER TO %I', CASE i.type WHEN 'function' THEN 'ROUTINE' ELSE upper(i.type) END, i.identity,
          pg_get_userbyid(n.nspowner))
        FROM (SELECT 'pg_class'::regclass c, oid, relnamespace s FROM pg_class WHERE relkind IN ('r', 'p') UNION ALL
          SELECT 'pg_proc'::regclass, oid, pronamespace FROM pg_proc UNION ALL
          SELECT 'pg_opclass'::regclass, oid, opcnamespace FROM pg_opclass UNION ALL
          SELECT 'pg_type'::regclass, oid, typnamespace FROM pg_type WHERE typtype = 'd') o
          JOIN pg_namespace n ON n.oid = s, LATERAL pg_identify_object(o.c, o.oid, 0) i
        WHERE n.nspname ~ '^(mine|alices|bobs)'"""
    site.sql("shop", *(statement for (statement,) in site.sql("shop", statements)))


@pytest.mark.parametrize("ways", side_by_side(WAYS))
def test_attaching_a_child_of_another_owner_runs_nothing_with_the_rights_of_several_owners(site, owners, ways):
    for number, way in enumerate(ways):
        make_schemas(site, owners, number)
        for statement in (*WAYS[way], "INSERT INTO mine.p (a) VALUES (1)"):
            site.sql("shop", re.sub(r"\b(mine|alices|bobs)\b", rf"\g<1>{number}", statement))
    _restored_with_each_owners_rights(site, owners, [f"mine{number}.p" for number in range(len(ways))])


@pytest.mark.parametrize("is_valid", [True, False])
def test_a_check_that_reads_its_own_table_is_added_after_the_rows_and_runs_with_its_owners_rights(site, owners, is_valid):
    if site.server.major < 14:
        pytest.skip("functions have parsed bodies since PostgreSQL 14")
    reads = "CREATE FUNCTION mine.many() RETURNS bigint STABLE BEGIN ATOMIC SELECT count(*) FROM mine.p; END"
    added = "ALTER TABLE mine.p ADD CONSTRAINT few CHECK (mine.many() + mine.spy(0) < 9)"
    site.sql("shop", "CREATE TABLE mine.p (a int)", "CREATE TABLE alices.c (b int) INHERITS (mine.p)", "INSERT INTO alices.c VALUES (1, 2)")
    site.sql("shop", reads, added if is_valid else f"{added} NOT VALID")
    _restored_with_each_owners_rights(site, owners)


@pytest.mark.parametrize("more", ["", " NO INHERIT"])
def test_a_check_that_is_not_enforced_comes_back_at_the_children_too(site, owners, more):
    if site.server.major < 18:
        pytest.skip("checks are enforced before PostgreSQL 18")
    site.sql("shop", "CREATE TABLE mine.p (a int)", "CREATE TABLE alices.c () INHERITS (mine.p)", "INSERT INTO alices.c VALUES (-1)")
    site.sql("shop", f"ALTER TABLE mine.p ADD CONSTRAINT positive CHECK (a > 0){more} NOT ENFORCED")
    _restored_with_each_owners_rights(site, owners)


def test_a_not_null_that_is_not_valid_comes_back_at_the_children_too(site, owners):
    if site.server.major < 18:
        pytest.skip("only a NOT NULL of PostgreSQL 18 can be not valid")
    site.sql("shop", "CREATE TABLE mine.p (a int)", "CREATE TABLE alices.c () INHERITS (mine.p)", "INSERT INTO alices.c VALUES (NULL)")
    site.sql("shop", "ALTER TABLE mine.p ADD CONSTRAINT there NOT NULL a NOT VALID")
    _restored_with_each_owners_rights(site, owners)


def test_a_check_that_is_valid_at_a_child_only_is_so_again(site, owners):
    """As it is at a child that was made after the check of its parent; a tree of one owner has that, too."""
    for child in ("mine.own_child", "alices.c"):
        parent = child.replace(".", ".parent_of_") if child.startswith("mine") else "mine.p"
        site.sql("shop", f"CREATE TABLE {parent} (a int)", f"INSERT INTO {parent} VALUES (-9)")
        site.sql("shop", f"ALTER TABLE {parent} ADD CONSTRAINT positive CHECK (a > mine.spy(0)) NOT VALID")
        site.sql("shop", f"CREATE TABLE {child} () INHERITS ({parent})", f"INSERT INTO {child} VALUES (1)")
    _restored_with_each_owners_rights(site, owners)


@pytest.mark.parametrize("is_partition", [True, False])
def test_a_foreign_table_of_another_owner_is_a_child(site, owners, is_partition):
    site.sql("shop", "CREATE FOREIGN DATA WRAPPER nowhere", "CREATE SERVER far FOREIGN DATA WRAPPER nowhere")
    parent, child = (" PARTITION BY LIST (a)", "PARTITION OF mine.p DEFAULT") if is_partition else ("", "(b int) INHERITS (mine.p)")
    site.sql("shop", f"CREATE TABLE mine.p (a int){parent}", f"CREATE FOREIGN TABLE alices.f {child} SERVER far")
    site.sql("shop", "ALTER FOREIGN TABLE alices.f OWNER TO alice")
    given_away(site)
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.discard(restore)


@pytest.mark.parametrize(("kind", "may_insert"), [("mine.mood", True), ("mine.mood", False), ("mine.mood[]", False)])
def test_rows_that_are_loaded_by_the_table_of_another_owner_run_nothing_with_their_owners_rights(site, owners, kind, may_insert):
    """pg_dump loads the partitions of what is hashed by an enum that way; or all partitions, if the enum is inside of another type."""
    may = "has_table_privilege(session_user, 'bobs.own', 'DELETE')"
    ran = f"BEGIN IF {may} AND session_user LIKE 'recovery%' THEN RAISE 'ran as bob'; END IF;"
    site.sql(
        "shop",
        f"CREATE FUNCTION mine.ran(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ {ran} RETURN $1; END $$",
        "CREATE TYPE mine.mood AS ENUM ('a', 'b', 'c', 'd')",
        f"CREATE TABLE mine.p (mood {kind}, n int) PARTITION BY HASH (mood, (mine.ran(n)))",
        "CREATE TABLE alices.c PARTITION OF mine.p FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE bobs.c PARTITION OF mine.p FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        f"INSERT INTO mine.p SELECT (CASE WHEN '{kind}' ~ ']' THEN '{{' || mood || '}}' ELSE mood::text END)::{kind}, n"
        " FROM unnest(enum_range(NULL::mine.mood)) mood, generate_series(1, 9) n",
        "CREATE TABLE mine.years (n int) PARTITION BY LIST ((mine.ran(n)))",
        "CREATE TABLE alices.year PARTITION OF mine.years FOR VALUES IN (1)",
        "INSERT INTO mine.years VALUES (1)",
    )
    if may_insert:
        site.sql("shop", "GRANT INSERT ON mine.p TO alice, bob")
    _restored_with_each_owners_rights(site, owners)


def _restored_with_each_owners_rights(site, owners, tables=("mine.p",)):
    given_away(site)
    counts = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in tables)
    rows = site.sql("shop", counts)
    is_safe = Rights(site, owners)
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert is_safe()
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert is_safe()
    assert site.sql("shop", counts) == rows
    source.roll_back(restore)
    source.discard(restore)
    assert site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'") == []


PLANTED = {
    "a trigger": "CREATE TRIGGER planted BEFORE INSERT ON alices.c FOR EACH ROW EXECUTE FUNCTION mine.fire()",
    "a rule": "CREATE RULE planted AS ON INSERT TO alices.c DO ALSO SELECT mine.ran()",
    "an index": "CREATE INDEX planted ON alices.c (mine.ran(a))",
    "statistics": "CREATE STATISTICS alices.planted ON (mine.ran(a)) FROM alices.c",
    "a check": "ALTER TABLE alices.c ADD CHECK (mine.ran(a) = a)",
    "a policy": "CREATE POLICY planted ON alices.c USING (mine.ran(a) = a)",
    "a right": "GRANT TRIGGER ON alices.c TO PUBLIC",
    "a right on a column": "GRANT REFERENCES (b) ON alices.c TO PUBLIC",
    "another table of its name": "ALTER TABLE alices.c RENAME TO planted; CREATE TABLE alices.c (a mine.d, b int CHECK (mine.ran(b) = b))",
    "a function": "CREATE FUNCTION alices.spy(bigint) RETURNS int LANGUAGE sql AS 'SELECT 1'",
}


@pytest.mark.parametrize("what", PLANTED)
def test_code_of_one_owner_leaves_nothing_at_the_table_of_another_that_runs_with_his_rights(site, owners, what):
    """Neither while the rows are loaded, nor later."""
    if site.server.major < 14 and what == "statistics":
        pytest.skip("statistics have expressions since PostgreSQL 14")
    tables = ["CREATE TABLE mine.p (a mine.d, b int) PARTITION BY LIST (a)", "CREATE TABLE alices.c PARTITION OF mine.p FOR VALUES IN (1)"]
    _refused_planting(site, PLANTED[what], *tables, "INSERT INTO mine.p VALUES (1, 2)")


@pytest.mark.parametrize(
    "what", ["ALTER TABLE bobs.p ADD CONSTRAINT few CHECK (mine.ran(b) = b) NO INHERIT", "ALTER TABLE mine.planted INHERIT alices.c"]
)
def test_code_of_a_check_that_comes_after_the_rows_leaves_nothing_at_tables_that_do_not_get_it(site, owners, what):
    _refused_planting(
        site,
        what,
        "CREATE TYPE mine.r AS RANGE (subtype = mine.d)",
        "CREATE TABLE mine.p (a int)",
        "CREATE TABLE bobs.p (b int)",
        "CREATE TABLE alices.c () INHERITS (mine.p, bobs.p)",
        "CREATE TABLE mine.planted (b int) INHERITS (mine.p)",
        "ALTER TABLE mine.p ADD CONSTRAINT few CHECK (a < upper('[1,9)'::mine.r)) NOT VALID",
    )


def _refused_planting(site, what, *tables):
    """A domain ``mine.d`` has a check that does something once a restore runs it."""
    ran = "BEGIN IF session_user LIKE 'recovery_load%' THEN DELETE FROM alices.own; RAISE 'ran as %', session_user; END IF; RETURN {}; END"
    plant = f"""DECLARE done text; BEGIN
        IF session_user LIKE 'recovery_load%' THEN
            BEGIN EXECUTE $q${what}$q$; EXCEPTION WHEN OTHERS THEN done := SQLERRM; END;
        END IF; END"""
    site.sql(
        "shop",
        f"CREATE FUNCTION mine.ran(int DEFAULT 1) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ {ran.format('$1')} $$",
        f"CREATE FUNCTION mine.fire() RETURNS trigger LANGUAGE plpgsql AS $$ {ran.format('NEW')} $$",
        f"CREATE FUNCTION mine.plant() RETURNS void LANGUAGE plpgsql AS $$ {plant} $$",
        "CREATE FUNCTION mine.two(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM mine.plant(); RETURN true; END'",
        "CREATE DOMAIN mine.d AS int CHECK (mine.two(value))",
        *tables,
    )
    given_away(site)
    site.sql("shop", "ALTER FUNCTION mine.ran(int) OWNER TO mallory")
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    with pytest.raises(RestoreError, match=r"code of one of these owners made or changed .*(planted|spy|constraint|rights|column)"):
        source.stage(restore)
    source.discard(restore)


def test_child_with_many_parents_and_children_of_several_owners_is_restored(site, owners):
    site.sql(
        "shop",
        "CREATE TABLE mine.p (a int)",
        "CREATE TABLE bobs.p (b int CHECK (b > bobs.spy(-5)))",
        "CREATE TABLE alices.c (c int) INHERITS (mine.p, bobs.p)",
        "CREATE TABLE alices.d (d int) INHERITS (alices.c)",
        'CREATE TABLE mine."to p" (a int, b int) PARTITION BY RANGE (a)',
        'CREATE TABLE alices.half PARTITION OF mine."to p" FOR VALUES FROM (0) TO (5) PARTITION BY LIST (b)',
        "CREATE TABLE bobs.leaf PARTITION OF alices.half FOR VALUES IN (1)",
        "CREATE TABLE alices.leaf PARTITION OF alices.half DEFAULT",
        'CREATE INDEX ON mine."to p" (b)',
        'ALTER TABLE mine."to p" ADD PRIMARY KEY (a, b)',
        'INSERT INTO mine."to p" VALUES (1, 1), (2, 2)',
        "INSERT INTO alices.d VALUES (1, 2, 3, 4)",
    )
    given_away(site)
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert site.sql("shop", 'SELECT count(*) FROM mine."to p"') == [(2,)]


def test_user_without_superuser_rights_attaches_children_of_several_owners(site, owners):
    if site.server.major < 15:
        pytest.skip("the schema public of a new database belongs to a superuser before PostgreSQL 15")
    site.sql("shop", *WAYS["an expression of the key"], "CREATE INDEX ON mine.p (a)", "INSERT INTO mine.p VALUES (1)")
    given_away(site)
    restore = site.restore(site.back_up(site.source("shop")))
    site.sql("postgres", "ALTER ROLE mallory CREATEDB CREATEROLE BYPASSRLS", "GRANT pg_signal_backend, alice, bob TO mallory")
    source = site.source("shop", **MALLORY)
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.discard(restore)


def table(owner, *parents):
    return {"owner": owner, "parents": list(parents) or None}


def test_families_are_the_trees_of_tables_that_belong_to_several_owners():
    objects = {("table", "s.p"): table("a"), ("table", "s.c"): table("b", "s.p"), ("table", "s.d"): table("a", "s.c")}
    objects |= {("table", "t.q"): table("a"), ("table", "t.r"): table("b"), ("table", "t.both"): table("c", "t.r", "t.q")}
    objects |= {("table", "own.p"): table("a"), ("table", "own.c"): table("a", "own.p"), ("table", "own.other"): table("b")}
    found = inheritance.families(objects)
    assert sorted((sorted(family.tables), sorted(family.owners)) for family in found.values()) == [
        (["s.c", "s.d", "s.p"], ["a", "b"]),
        (["t.both", "t.q", "t.r"], ["a", "b", "c"]),
    ]
    attaching = inheritance.attaching(objects, "utf-8")
    assert attaching["TABLE ATTACH s d a"] == attaching["TABLE s c b"] == f"{EVERYONE}s.p"
    assert attaching["TABLE ATTACH own c a"] == "a"
    assert inheritance.shared_tables(objects) == ["s.c", "s.d", "t.both"]
