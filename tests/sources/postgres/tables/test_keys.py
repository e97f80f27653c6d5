"""Foreign keys and views of others are led to restored tables, and nobody's functions run with more rights than an owner's."""

import pytest

from recovery.common.errors import RestoreError
from tests.support.kills import killed_at_statement
from tests.support.postgres_attack import MALLORY, left_over, made, restored
from tests.support.postgres_site import texts

FOLDED = ["CREATE TABLE mine.t (a int PRIMARY KEY)", "CREATE INDEX ON mine.t (a) WHERE mine.one(1) > 0", "INSERT INTO mine.t VALUES (1)"]
CAST = [
    "CREATE TYPE mine.e AS ENUM ('a')",
    "CREATE FUNCTION mine.as_int(mine.e) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN mine.one(1); END $$",
    "CREATE CAST (mine.e AS int) WITH FUNCTION mine.as_int(mine.e) AS IMPLICIT",
    "CREATE TABLE mine.t (a int PRIMARY KEY)",
    "CREATE TABLE mine.u (e mine.e CONSTRAINT to_t REFERENCES mine.t)",
    "INSERT INTO mine.t VALUES (1)",
    "INSERT INTO mine.u VALUES ('a')",
]
FOLDED_CHILD = [
    "CREATE TABLE mine.t (a int PRIMARY KEY)",
    "CREATE TABLE mine.u (e int CONSTRAINT to_t REFERENCES mine.t, CHECK (e < mine.one(9)))",
    "CREATE STATISTICS mine.s ON (e + mine.one(1)) FROM mine.u",
    "INSERT INTO mine.t VALUES (1)",
    "INSERT INTO mine.u VALUES (1)",
]


def keys(site):
    return site.sql("shop", "SELECT conname, convalidated FROM pg_constraint WHERE contype = 'f' ORDER BY 1")


@pytest.mark.parametrize("only", ["shop.mine.t", "shop.mine.u"])
@pytest.mark.parametrize("way", [CAST, FOLDED_CHILD], ids=["cast", "folded"])
def test_foreign_key_is_validated_with_the_rights_of_its_tables_owner(site, proof, only, way):
    backup, is_safe = made(site, proof, *way)
    restored(site.restore(backup, only=[only]), site.source("shop"), is_safe)
    assert keys(site) == [("to_t", True)]
    assert left_over(site) == []


COMPARES = """CREATE FUNCTION mine.cmp(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
    PERFORM mine.silent(1); RETURN btint4cmp($1, $2); END $$"""
CLASS = """CREATE OPERATOR CLASS mine.o FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
    FUNCTION 1 mine.cmp(int, int)"""


@pytest.mark.parametrize("only", ["shop.mine.t", "shop.mine"])
def test_function_of_an_operator_class_runs_with_the_rights_of_the_tables_owner(site, proof, only):
    site.sql("shop", COMPARES, **MALLORY)
    site.sql("shop", CLASS)
    backup, is_safe = made(
        site,
        proof,
        "CREATE TABLE mine.t AS SELECT generate_series(1, 9) AS a",
        "CREATE UNIQUE INDEX ON mine.t (a mine.o)",
        "CREATE TABLE mine.u (a int CONSTRAINT to_t REFERENCES mine.t (a))",
        "INSERT INTO mine.u SELECT a FROM mine.t",
    )
    restored(site.restore(backup, only=[only]), site.source("shop"), is_safe)
    assert keys(site) == [("to_t", True)]
    assert left_over(site) == []


def test_foreign_key_of_another_owner_is_validated_as_that_owner(site, proof):
    backup, is_safe = made(site, proof, *FOLDED, "GRANT REFERENCES, SELECT ON mine.t TO alice")
    site.sql("shop", "CREATE TABLE mine.of_alice (a int CONSTRAINT to_t REFERENCES mine.t)", user="alice", password="a")
    restored(site.restore(backup, only=["shop.mine.t"]), site.source("shop"), is_safe)
    assert keys(site) == [("to_t", True)]


def test_foreign_key_of_a_superuser_is_refused_before_the_swap_if_functions_of_others_would_run(site, proof):
    backup, is_safe = made(site, proof, *FOLDED)
    site.sql("shop", "CREATE TABLE public.audit (a int CONSTRAINT to_t REFERENCES mine.t)")
    site.sql("postgres", "ALTER ROLE mallory NOSUPERUSER NOCREATEDB")
    proof.unlink(missing_ok=True)
    restore, source = site.restore(backup, only=["shop.mine.t"]), site.source("shop")
    source.stage(restore)
    words = "To validate the foreign key to_t of public.audit to mine.t, functions of others would run as postgres"
    with pytest.raises(RestoreError, match=words):
        source.verify_staged(restore)
    with pytest.raises(RestoreError, match=words):
        source.swap(restore)
    source.discard(restore)
    assert is_safe()
    assert keys(site) == [("to_t", True)]


def test_foreign_key_of_a_superuser_between_plain_tables_is_validated_in_the_swap(site, proof):
    backup, is_safe = made(site, proof, "CREATE TABLE mine.t (a int PRIMARY KEY)", "INSERT INTO mine.t VALUES (1)")
    site.sql("shop", "CREATE TABLE public.audit (a int CONSTRAINT to_t REFERENCES mine.t)", "INSERT INTO public.audit VALUES (1)")
    restored(site.restore(backup, only=["shop.mine.t"]), site.source("shop"), is_safe)
    assert keys(site) == [("to_t", True)]


@pytest.mark.parametrize("statement", ["VALIDATE CONSTRAINT", "^DROP ROLE"])
def test_swap_and_rollback_killed_before_a_validation_resume_with_it(site, proof, monkeypatch, statement):
    backup, is_safe = made(site, proof, *CAST)
    restore, source = site.restore(backup, only=["shop.mine.t"]), site.source("shop")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    for step in (source.swap, source.roll_back):
        with killed_at_statement(monkeypatch, statement):
            step(restore)
        step(restore)
        assert keys(site) == [("to_t", True)]
    source.discard(restore)
    assert is_safe()
    assert left_over(site) == []


def test_rollback_of_a_swap_that_was_killed_before_a_validation_validates_the_foreign_key(site, proof, monkeypatch):
    backup, is_safe = made(site, proof, *CAST)
    restore, source = site.restore(backup, only=["shop.mine.t"]), site.source("shop")
    source.stage(restore)
    with killed_at_statement(monkeypatch, "VALIDATE CONSTRAINT"):
        source.swap(restore)
    assert keys(site) == [("to_t", False)]
    source.roll_back(restore)
    assert keys(site) == [("to_t", True)]
    source.discard(restore)
    assert is_safe()
    assert left_over(site) == []


VIEW = "CREATE VIEW public.of_mallory AS SELECT a, '{1}'::mine.d[] AS b FROM mine.t"


def test_view_whose_constants_run_functions_of_others_is_refused(site, proof):
    site.sql("shop", "GRANT ALL ON SCHEMA public TO mallory")
    backup, is_safe = made(
        site, proof, "CREATE DOMAIN mine.d AS int CHECK (mine.one(value) = value)", "CREATE TABLE mine.t AS SELECT 1 AS a"
    )
    restore, source = site.restore(backup, only=["shop.mine.t"]), site.source("shop")
    source.stage(restore)
    site.sql("shop", VIEW, **MALLORY)
    words = "view public.of_mallory uses the type mine.d[], of which a constant can run functions of its owner as postgres"
    assert words in texts(source, restore, "refusal")
    with pytest.raises(RestoreError, match=r"view public\.of_mallory uses the type"):
        source.swap(restore)
    assert is_safe()
    site.sql("shop", "DROP VIEW public.of_mallory", "CREATE VIEW public.of_mallory AS SELECT a, 1::mine.d AS b FROM mine.t", **MALLORY)
    source.swap(restore)
    assert is_safe()
    source.roll_back(restore)
    source.discard(restore)
    assert left_over(site) == []
