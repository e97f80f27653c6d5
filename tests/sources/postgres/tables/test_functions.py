"""Functions that take or give the rows of a table that is restored, on a real server."""

from contextlib import contextmanager

import psycopg
import pytest
from psycopg.sql import Composable

from sandbox.servers import Postgres
from tests.support.postgres_attack import TRY, left_over, made, restored
from tests.support.postgres_site import Site, texts
from tests.support.postgres_versions import majors

SHOP = (
    "CREATE SCHEMA api; GRANT CREATE, USAGE ON SCHEMA api TO mallory; CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE TABLE orders (id int PRIMARY KEY, total int)",
    "INSERT INTO orders VALUES (1, 10); GRANT SELECT ON orders TO mallory",
    "CREATE FUNCTION grand_total(o orders) RETURNS int LANGUAGE sql STABLE AS 'SELECT o.total + 1'",
    "CREATE FUNCTION recent(above int DEFAULT 0, m mood DEFAULT 'ok') RETURNS SETOF orders LANGUAGE plpgsql"
    " SECURITY DEFINER SET search_path TO 'public' AS 'BEGIN RETURN QUERY SELECT * FROM orders WHERE total > above; END'",
    "CREATE FUNCTION api.many(VARIADIC orders[]) RETURNS orders LANGUAGE sql AS 'SELECT $1[1]'",
    "CREATE PROCEDURE api.\"keep it\"(o orders) LANGUAGE plpgsql AS 'BEGIN END'",
    "COMMENT ON FUNCTION recent IS 'newest ones'; ALTER FUNCTION recent OWNER TO mallory; ALTER PROCEDURE api.\"keep it\" OWNER TO mallory",
    "REVOKE ALL ON FUNCTION grand_total FROM PUBLIC; GRANT EXECUTE ON FUNCTION grand_total TO alice WITH GRANT OPTION",
    "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO steward",
)
ROUTINES = """SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid), pg_get_userbyid(proowner), obj_description(p.oid, 'pg_proc'),
    ARRAY(SELECT a::text FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) a ORDER BY 1) FROM pg_proc p
    WHERE pronamespace IN ('public'::regnamespace, 'api'::regnamespace) ORDER BY 1"""


@pytest.fixture(scope="module", params=majors(16, 18))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"functions-{request.param}", request.param, ["fsync=off"]) as server:
        yield Site(server, tmp_path_factory.mktemp(f"functions-{request.param}"), ("shop",), ("mallory", "alice", "steward"))


@pytest.fixture
def shop(site):
    site.sql("postgres", "CREATE ROLE mallory", "CREATE ROLE alice", "CREATE ROLE steward", "CREATE DATABASE shop")
    site.sql("shop", *SHOP)
    if site.server.major >= 14:
        site.sql("shop", "CREATE PROCEDURE api.\"keep it\"(OUT o orders) LANGUAGE plpgsql AS 'BEGIN END'")
    yield site
    site.clean()


def prepared(site):
    """A restore of the table, whose row was lost."""
    backup = site.back_up(site.source("shop"))
    site.sql("shop", "DELETE FROM orders")
    return site.restore(backup, only=["shop.public.orders"])


@contextmanager
def before_statement(monkeypatch, beginning, do):
    """A block in which something is done once, before a server gets a statement."""
    execute, left = psycopg.Cursor.execute, [do]

    def executing(cursor, query, *given, **named):
        text = query.as_string(cursor) if isinstance(query, Composable) else str(query)
        if left and text.startswith(beginning):
            left.pop()()
        return execute(cursor, query, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", executing)
        yield
    assert not left


def test_functions_of_the_row_type_are_led_to_the_restored_table_and_back(shop):
    before, restore, source = shop.sql("shop", ROUTINES), prepared(shop), shop.source("shop")
    assert texts(source, restore, "refusal") == ""
    assert 'api."keep it"(public.orders), api.many(public.orders[]), public.grand_total(public.orders)' in texts(source, restore, "fact")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert shop.sql("shop", ROUTINES) == before
    assert shop.sql("shop", "SELECT o.grand_total, (api.many(o)).total FROM orders o") == [(11, 10)]
    assert shop.sql("shop", "SELECT * FROM recent()") == [(1, 10)]
    source.roll_back(restore)
    assert shop.sql("shop", ROUTINES) == before
    assert shop.sql("shop", "SELECT o.grand_total FROM orders o, recent()") == []
    source.discard(restore)
    assert shop.sql("shop", ROUTINES) == before


REFUSED = {
    "used by something else": (
        "CREATE TABLE other (a int DEFAULT grand_total(NULL::orders))",
        "function grand_total(orders) uses orders",
    ),
    "an aggregate": ("CREATE AGGREGATE api.last(orders) (SFUNC = api.later, STYPE = orders)", "function api.last(orders) uses orders"),
    "with its body parsed": (
        "CREATE FUNCTION api.parsed(o orders) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT o.total; END",
        "function api.parsed(orders)",
    ),
    "a constant that runs code when it is read": (
        "CREATE FUNCTION api.checked(o orders, d api.number[] DEFAULT '{1}') RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function api.checked(orders,api.number[]) uses orders",
    ),
}


@pytest.mark.parametrize(("statement", "words"), REFUSED.values(), ids=REFUSED)
def test_preflight_refuses_a_function_of_the_row_type_that_can_not_be_made_anew(shop, statement, words):
    shop.sql("shop", "CREATE FUNCTION api.later(orders, orders) RETURNS orders LANGUAGE sql AS 'SELECT $2'")
    shop.sql("shop", "CREATE DOMAIN api.number AS int CHECK (value > 0)")
    backup = shop.back_up(shop.source("shop"))
    shop.sql("shop", statement)
    refusals = texts(shop.source("shop"), shop.restore(backup, only=["shop.public.orders"]), "refusal")
    for way in (words, "Drop it before and create it again afterwards"):
        assert way in refusals.replace("public.", "")


def test_function_that_others_want_to_replace_meanwhile_stays_what_it_is(shop, monkeypatch):
    before, restore, source = shop.sql("shop", ROUTINES), prepared(shop), shop.source("shop")
    source.stage(restore)
    other = "CREATE OR REPLACE FUNCTION grand_total(o orders) RETURNS int LANGUAGE sql STABLE AS 'SELECT 0'"

    def replace():
        with pytest.raises(psycopg.errors.LockNotAvailable):
            shop.sql("shop", "SET lock_timeout = '200ms'", other)

    with before_statement(monkeypatch, "DROP FUNCTION", replace):
        source.swap(restore)
    assert shop.sql("shop", ROUTINES) == before


def test_code_of_a_functions_owner_does_not_run_when_it_is_made_anew(site, proof):
    functions = [
        "CREATE TABLE mine.t AS SELECT 1 AS a",
        f"CREATE FUNCTION mine.evil(o mine.t) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ DECLARE name text; BEGIN {TRY} RETURN 1; END $$",
        "CREATE FUNCTION mine.inlined(o mine.t, n int DEFAULT mine.one(1)) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT mine.one(1)'",
    ]
    backup, is_safe = made(site, proof, *(each.replace("{role}", "mallory").replace("{proof}", str(proof)) for each in functions))
    restored(site.restore(backup, only=["shop.mine.t"]), site.source("shop"), is_safe)
    assert left_over(site) == []
