"""No code of a set, or of the live database, runs with more rights than an owner's while single tables are restored."""

import pytest

from sandbox.servers import Postgres
from tests.support.postgres_attack import WAYS, evil_functions
from tests.support.postgres_site import Site

VERSIONS = (16, 18)
ROLES = ("mallory", "alice", "steward")
MALLORY = {"user": "mallory", "password": "m"}
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


@pytest.fixture(scope="module", params=VERSIONS)
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-prepare-{request.param}", request.param, ["fsync=off"]) as server:
        yield Site(server, tmp_path_factory.mktemp(f"prepare-{request.param}"), ("shop",), ROLES)


@pytest.fixture
def mallory(site, tmp_path):
    """A database whose owner made functions that attack; and another owner's table in it."""
    tmp_path.chmod(0o777)
    site.sql("postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm'", "CREATE ROLE alice LOGIN PASSWORD 'a'")
    site.sql("postgres", "CREATE DATABASE shop OWNER mallory")
    site.sql("shop", *evil_functions(tmp_path / "proof"), "GRANT ALL ON SCHEMA mine TO alice", **MALLORY)
    yield tmp_path / "proof"
    site.clean()


class Rights:
    """Whether nobody got any right since."""

    ROLES = "SELECT rolname, rolsuper, rolcreaterole FROM pg_roles WHERE rolname NOT LIKE 'recovery%' ORDER BY 1"
    MEMBERS = """SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members WHERE member >= 16384
        AND member::regrole::text NOT LIKE 'recovery%' AND roleid::regrole::text NOT LIKE 'recovery%' ORDER BY 1, 2"""

    def __init__(self, site, proof):
        self._site, self._proof = site, proof
        self._before = self._now()

    def _now(self):
        return self._site.sql("postgres", self.ROLES), self._site.sql("postgres", self.MEMBERS), self._proof.exists()

    def __call__(self):
        return self._now() == self._before


def made(site, proof, way):
    """A set with definitions that were made as the owner, who is no superuser afterwards."""
    site.sql("postgres", "GRANT alice TO mallory")
    with site.server.connect("shop", **MALLORY) as connection:
        for statement in (WAYS | MORE_WAYS)[way]:
            connection.execute(statement)
    site.sql("postgres", "REVOKE alice FROM mallory", "ALTER ROLE mallory NOSUPERUSER")
    return site.back_up(site.source("shop", user="postgres")), Rights(site, proof)


def restored(restore, source, is_safe):
    """Each step of a restore and of its rollback; nobody gets a right at any of them."""
    assert [finding.text for finding in source.preflight(restore).findings if finding.level == "refusal"] == []
    assert is_safe()
    source.compare(restore)
    source.stage(restore)
    assert is_safe()
    assert source.verify_staged(restore) == []
    assert is_safe()
    source.swap(restore)
    source.finalize(restore)
    assert is_safe()
    assert {change.what for change in source.compare(restore)} == {"equal"}
    source.roll_back(restore)
    assert is_safe()
    source.discard(restore)
    assert is_safe()


def left_over(site):
    found = site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'")
    found += site.sql("shop", "SELECT nspname FROM pg_namespace WHERE nspname ~ '__(stage|replaced)_'")
    return found + [(name,) for name in site.databases() if "__stage_" in name]


@pytest.mark.parametrize("way", WAYS | MORE_WAYS)
def test_restore_of_a_schema_gives_its_owner_no_rights(site, mallory, way):
    backup, is_safe = made(site, mallory, way)
    restored(site.restore(backup, only=["shop.mine"]), site.source("shop"), is_safe)
    assert left_over(site) == []
