"""What code of a database tries when it runs with the rights of somebody else, and the definitions that run it."""

import pytest

from tests.support.postgres_site import texts

TRY = """
    FOR name IN SELECT rolname FROM pg_roles LOOP
        BEGIN
            EXECUTE format('SET ROLE %I', name);
            EXECUTE 'ALTER ROLE {role} SUPERUSER';
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
        BEGIN
            EXECUTE format('SET ROLE %I', name);
            EXECUTE 'ALTER ROLE {role} CREATEDB';
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    BEGIN
        RESET SESSION AUTHORIZATION;
        EXECUTE 'ALTER ROLE {role} SUPERUSER';
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    BEGIN
        EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'touch {proof}');
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
"""
"""The body of a PL/pgSQL function with a variable ``name``; ``{role}`` wants to become a superuser, ``{proof}`` is a file to make."""


def attack(role, proof):
    """The body with both filled in."""
    return TRY.replace("{role}", role).replace("{proof}", str(proof))


_EVIL = [
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine.attack() RETURNS int LANGUAGE plpgsql AS $$ DECLARE name text; BEGIN {attack} RETURN 1; END $$",
    """CREATE FUNCTION mine.silent(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
        IF (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN PERFORM mine.take(); END IF; RETURN $1; END $$""",
    "CREATE FUNCTION mine.take() RETURNS void LANGUAGE plpgsql AS $$ BEGIN ALTER ROLE mallory SUPERUSER; END $$",
    "CREATE FUNCTION mine.one(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM mine.attack(); RETURN $1; END $$",
]
WAYS = {
    "a check": ["CREATE TABLE mine.t (a int CHECK (mine.attack() = 1))", "INSERT INTO mine.t VALUES (1)"],
    "a domain": [
        "CREATE DOMAIN mine.d AS int CHECK (mine.one(value) = value)",
        "CREATE TABLE mine.t (a mine.d)",
        "INSERT INTO mine.t VALUES (1)",
    ],
    "a generated column": ["CREATE TABLE mine.t (a int, b int GENERATED ALWAYS AS (mine.one(a)) STORED)", "INSERT INTO mine.t VALUES (1)"],
    "an index": ["CREATE TABLE mine.t AS SELECT 1 AS a", "CREATE INDEX ON mine.t (mine.one(a))"],
    "a partial index": ["CREATE TABLE mine.t AS SELECT 1 AS a", "CREATE INDEX ON mine.t (a) WHERE mine.one(a) > 0"],
    "an exclusion": ["CREATE TABLE mine.t AS SELECT 1 AS a", "ALTER TABLE mine.t ADD EXCLUDE USING btree (mine.one(a) WITH =)"],
    "a materialized view": ["CREATE MATERIALIZED VIEW mine.v AS SELECT mine.attack()"],
    "a partition key": [
        "CREATE TABLE mine.t (a int) PARTITION BY RANGE ((a + mine.one(1)))",
        "CREATE TABLE mine.t1 PARTITION OF mine.t FOR VALUES FROM (0) TO (9)",
        "INSERT INTO mine.t VALUES (1)",
    ],
    "statistics": ["CREATE TABLE mine.t AS SELECT 1 AS a", "CREATE STATISTICS mine.s ON (mine.one(a)) FROM mine.t"],
    "an aggregate": [
        "CREATE DOMAIN mine.d AS int CHECK (mine.one(value) = value)",
        "CREATE FUNCTION mine.add(mine.d, int) RETURNS mine.d LANGUAGE sql AS 'SELECT $1'",
        "CREATE AGGREGATE mine.sum(int) (SFUNC = mine.add, STYPE = mine.d, INITCOND = '5')",
    ],
    "defaults in arrays and ranges": [
        "CREATE DOMAIN mine.d AS int CHECK (mine.one(value) = value)",
        "CREATE TYPE mine.r AS RANGE (subtype = mine.d)",
        "CREATE TABLE mine.t (a mine.r DEFAULT '[1,2)', b mine.d[] DEFAULT '{1}')",
        "CREATE FUNCTION mine.f(a mine.d[] DEFAULT '{1}') RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ],
    "a check of another's table": [
        "SET ROLE alice",
        "CREATE TABLE mine.t (a int CHECK (mine.attack() = 1))",
        "INSERT INTO mine.t VALUES (1)",
    ],
}
"""Definitions, made by the database's owner, that run a function of his own while they are restored."""
SINCE = {"statistics": 14}
"""The major version of PostgreSQL that brought one of them."""


MALLORY = {"user": "mallory", "password": "m"}
"""The owner."""


def evil_functions(proof):
    """Statements that make mallory's functions, in a schema ``mine``; the proof is a file that no program should make."""
    return [statement.replace("{attack}", attack("mallory", proof)) for statement in _EVIL]


def side_by_side(ways):
    """The parameters of a test of ways: all of them in one restore, and in ``make test-long`` each alone."""
    return [pytest.param(tuple(ways), id="all"), *(pytest.param((way,), id=way, marks=pytest.mark.long) for way in ways)]


def in_schemas(statements, proof):
    """Schemas ``m0`` and so on, which take the place of ``mine`` in each way's statements, and what makes them all as their owner."""
    schemas = [f"m{number}" for number in range(len(statements))]
    made = [
        statement.replace("mine", schema)
        for schema, own in zip(schemas, statements, strict=True)
        for statement in (*evil_functions(proof), "GRANT ALL ON SCHEMA mine TO alice", *own, "RESET ROLE")
    ]
    return schemas, made


class Rights:
    """Whether nobody got any right since."""

    ROLES = "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname NOT LIKE 'recovery%' ORDER BY 1"
    MEMBERS = """SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members WHERE member >= 16384
        AND member::regrole::text NOT LIKE 'recovery%' AND roleid::regrole::text NOT LIKE 'recovery%' ORDER BY 1, 2"""

    def __init__(self, site, proof):
        self._site, self._proof = site, proof
        self._before = self._now()

    def _now(self):
        return self._site.sql("postgres", self.ROLES), self._site.sql("postgres", self.MEMBERS), self._proof.exists()

    def __call__(self):
        return self._now() == self._before


def made(site, proof, *statements):
    """A set of the database ``shop`` with what its owner has made; and whether nobody got any right since."""
    site.sql("postgres", "GRANT alice TO mallory")
    with site.server.connect("shop", **MALLORY) as connection:
        for statement in statements:
            connection.execute(statement)
    site.sql("postgres", "REVOKE alice FROM mallory", "ALTER ROLE mallory NOSUPERUSER NOCREATEDB")
    return site.back_up(site.source("shop", user="postgres")), Rights(site, proof)


def restored(restore, source, is_safe):
    """Take each step of a restore and of its rollback; nobody gets a right at any of them."""
    assert texts(source, restore, "refusal") == ""
    assert is_safe()
    source.compare(restore)
    source.stage(restore)
    assert is_safe()
    assert source.verify_staged(restore) == []
    assert is_safe()
    source.swap(restore)
    source.finalize(restore)
    assert is_safe()
    assert {change.what for change in source.compare(restore)} <= {"equal"}
    source.roll_back(restore)
    assert is_safe()
    source.discard(restore)
    assert is_safe()


def left_over(site):
    """What a restore should leave nothing of."""
    found = site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'")
    found += site.sql("shop", "SELECT nspname FROM pg_namespace WHERE nspname ~ '__(stage|replaced)_'")
    return found + [(name,) for name in site.databases() if "__stage_" in name]
