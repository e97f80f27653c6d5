"""What a rehearsal of single tables copies of a database: what the tables need, as a user who has few rights on the rest."""

import psycopg
import pytest

from recovery.common.errors import RestoreError
from sandbox.servers import Postgres
from tests.support.postgres_site import Site, texts
from tests.support.postgres_versions import majors

KEEPER = {"user": "shopkeeper", "password": "s"}
OF_OTHERS = (
    "CREATE FUNCTION helper() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION by_superuser(int) RETURNS int LANGUAGE internal AS 'int4abs'",
    "CREATE SCHEMA closed; CREATE TABLE closed.t (a int); CREATE FUNCTION closed.f(closed.t) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE pair AS (a int); CREATE FUNCTION as_text(pair) RETURNS text LANGUAGE sql AS 'SELECT ''a'''",
    "CREATE CAST (pair AS text) WITH FUNCTION as_text(pair)",
    "CREATE TABLE published (a int); CREATE PUBLICATION told FOR TABLE published",
    "CREATE FUNCTION fired() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "CREATE EVENT TRIGGER fired ON sql_drop EXECUTE FUNCTION fired()",
    "SELECT lo_from_bytea(0, 'large')",
)
WITH_CONTRIB = (
    "CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; CREATE FOREIGN TABLE far_table (a int) SERVER far",
    "CREATE EXTENSION pageinspect",
)
USED = (
    "CREATE SCHEMA tools; CREATE TYPE tools.mood AS ENUM ('sad', 'ok'); GRANT USAGE ON SCHEMA tools TO PUBLIC",
    "CREATE FUNCTION tools.inner_one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
    "CREATE FUNCTION tools.outer_one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT tools.inner_one($1) + 1'",
    "CREATE FUNCTION tools.fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
)
OWN = (
    "CREATE TABLE t (id serial PRIMARY KEY, val text, mood tools.mood DEFAULT 'ok', CHECK (tools.outer_one(id) > 1))",
    "CREATE INDEX ON t (tools.outer_one(id))",
    "CREATE TRIGGER fill BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION tools.fill()",
    "INSERT INTO t (val) VALUES ('x')",
    "CREATE TABLE parent (a int PRIMARY KEY); CREATE TABLE others (a int PRIMARY KEY, b int REFERENCES parent, t int REFERENCES t)",
    "CREATE VIEW shown AS SELECT t.id, o.a FROM t LEFT JOIN others o ON o.t = t.id",
    "CREATE FUNCTION label(t) RETURNS text LANGUAGE sql AS 'SELECT upper($1.val)'",
)


@pytest.fixture(scope="module", params=majors(15, 18))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"rehearsal-{request.param}", request.param, ["fsync=off", "wal_level=logical"]) as server:
        yield Site(server, tmp_path_factory.mktemp(f"rehearsal-{request.param}"), ("shop",), ("shopkeeper", "stranger"))


@pytest.fixture
def shop(site):
    """A database of a user who owns some tables in it, and may read everything."""
    attributes = "LOGIN PASSWORD 's' CREATEDB CREATEROLE IN ROLE pg_read_all_data"
    site.sql("postgres", f"CREATE ROLE shopkeeper {attributes}", "CREATE ROLE stranger", "CREATE DATABASE shop OWNER shopkeeper")
    site.sql("shop", *USED, "GRANT CREATE ON SCHEMA public TO shopkeeper")
    site.sql("shop", *OWN, **KEEPER)
    yield site
    site.clean()


def with_contrib(site):
    return bool(site.sql("postgres", "SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw'"))


def test_table_is_restored_by_its_owner_whatever_others_have_in_the_database(shop):
    shop.sql("shop", *OF_OTHERS, *(WITH_CONTRIB if with_contrib(shop) else ()))
    backup = shop.back_up(shop.source("shop"))
    shop.sql("shop", "DELETE FROM t", "REVOKE ALL ON SCHEMA closed FROM PUBLIC")
    shop.sql("postgres", "REVOKE pg_read_all_data FROM shopkeeper")
    restore, source = shop.restore(backup, only=["shop.public.t"]), shop.source("shop", **KEEPER)
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert shop.sql("shop", "SELECT t.label FROM t JOIN shown USING (id)") == [("X",)]
    source.roll_back(restore)
    assert shop.sql("shop", "SELECT val FROM t") == []
    source.discard(restore)
    assert shop.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'") == []


def test_rehearsal_copies_nothing_that_the_table_does_not_need(shop, monkeypatch):
    backup = shop.back_up(shop.source("shop"))
    restore, source = shop.restore(backup, only=["shop.public.t"]), shop.source("shop")
    source.stage(restore)
    made = set()
    execute = psycopg.Cursor.execute

    def looking(cursor, *given, **named):
        if cursor.connection.info.dbname.startswith("__rehearsal__stage_"):
            query = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') AND oid >= 16384"
            made.update(name for (name,) in execute(cursor.connection.cursor(), query).fetchall())
        return execute(cursor, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", looking)
        assert source.verify_staged(restore) == []
    assert made == {"t", "others", "shown"}
    source.discard(restore)


def test_preflight_names_rights_that_the_swap_would_lack(shop):
    backup = shop.back_up(shop.source("shop"))
    shop.sql("shop", "ALTER TABLE others OWNER TO stranger", "ALTER VIEW shown OWNER TO stranger", "ALTER FUNCTION label OWNER TO stranger")
    shop.sql("shop", "REVOKE CREATE ON SCHEMA public FROM PUBLIC, shopkeeper", "ALTER SCHEMA public OWNER TO stranger")
    restore, source = shop.restore(backup, only=["shop.public.t"]), shop.source("shop", **KEEPER)
    refusals = texts(source, restore, "refusal")
    for name in ("public.others", "public.shown", "public.label(public.t)"):
        words = f"User shopkeeper may not change {name}, as the swap does, since it belongs to stranger. GRANT stranger TO shopkeeper."
        assert words in refusals
    assert "shopkeeper may not make anything in schema public of shop. GRANT CREATE ON SCHEMA public TO shopkeeper." in refusals


def test_verify_staged_fails_when_a_view_of_a_stranger_needs_what_the_set_lacks(shop):
    backup = shop.back_up(shop.source("shop"))
    shop.sql("shop", "ALTER TABLE t ADD COLUMN later tools.mood", "CREATE VIEW wide AS SELECT later FROM t")
    shop.sql("shop", "ALTER VIEW wide OWNER TO stranger")
    restore, source = shop.restore(backup, only=["shop.public.t"]), shop.source("shop")
    source.stage(restore)
    with pytest.raises(RestoreError, match=r"Restoring to shop would fail.*later"):
        source.verify_staged(restore)
    source.discard(restore)
