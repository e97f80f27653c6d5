"""Tables restored into schemas of their own in the live database, on a real server."""

import psycopg
import pytest

from recovery.common.errors import RestoreError, VerificationError
from recovery.sources.postgres.definitions import catalog
from sandbox.servers import Postgres
from tests.support.kills import killed_at_statement
from tests.support.postgres_site import Site, texts
from tests.support.postgres_versions import majors

SHOP = [
    "CREATE SCHEMA \"Odd one\"; CREATE TYPE mood AS ENUM ('sad', 'ok'); GRANT ALL ON SCHEMA \"Odd one\", public TO alice",
    "CREATE TABLE country (code text PRIMARY KEY); INSERT INTO country VALUES ('de')",
    "CREATE TABLE customer (id serial PRIMARY KEY, name text COLLATE \"C\" NOT NULL CHECK (name <> ''), mood mood DEFAULT 'ok',"
    " country text CONSTRAINT at_home REFERENCES country, shout text GENERATED ALWAYS AS (name || '!') STORED)",
    "COMMENT ON CONSTRAINT at_home ON customer IS 'lives there'; COMMENT ON TABLE customer IS 'theirs'",
    "INSERT INTO customer (name, country) SELECT 'Kunde ☃' || n, 'de' FROM generate_series(1, 300) n",
    "CREATE INDEX by_name ON customer (lower(name)); CREATE STATISTICS related ON mood, country FROM customer",
    "ALTER TABLE customer ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON customer TO alice USING (mood = 'ok')",
    "CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customer)",
    "INSERT INTO orders SELECT n, n FROM generate_series(1, 9) n",
    "CREATE VIEW happy AS SELECT * FROM customer WHERE mood = 'ok'",
    "CREATE MATERIALIZED VIEW per_half AS SELECT id % 2 AS odd, count(*) FROM orders GROUP BY 1",
    "ALTER TABLE customer OWNER TO alice; ALTER STATISTICS related OWNER TO alice",
    "GRANT SELECT ON customer, happy TO bob WITH GRANT OPTION; GRANT UPDATE (customer) ON orders TO bob",
    'CREATE TABLE "Odd one".orders (at date, what text) PARTITION BY RANGE (at)',
    'CREATE TABLE "Odd one"."2026" PARTITION OF "Odd one".orders FOR VALUES FROM (\'2026-01-01\') TO (\'2027-01-01\')',
    "INSERT INTO \"Odd one\".orders VALUES ('2026-02-02', 'x')",
]
USER = "deputy"


@pytest.fixture(scope="module", params=majors(18))
def site(request, server_folder, tmp_path_factory):
    options = ["wal_level=logical", "max_prepared_transactions=2", "fsync=off"]
    with Postgres(server_folder / f"postgres-beside-{request.param}", request.param, options) as server:
        made = Site(server, tmp_path_factory.mktemp(f"postgres-beside-{request.param}"), ("shop",), ("alice", "bob", USER))
        made.sql("postgres", "CREATE ROLE alice", "CREATE ROLE bob")
        yield made


@pytest.fixture(scope="module")
def saved(site):
    site.create("shop", *SHOP)
    return site.back_up(site.source("shop"))


@pytest.fixture
def shop(site, saved):
    """The live database, which a test may change and damage as it likes; makes restores of parts."""
    site.clean_databases()
    site.create("shop", *SHOP)
    yield lambda *only: site.restore(saved, only=[f"shop.{part}" for part in only], beside=True)
    site.clean_databases()
    site.sql("postgres", "SELECT", *(f"DROP ROLE {name}" for (name,) in loaders(site)))


def staged_of(site, restore, **who):
    source = site.source("shop", **who)
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    return source


def live(site, restore):
    """All definitions but those that the restore left, and the rows of the tables."""
    with site.server.connect("shop") as connection:
        rows = [row for row in catalog.object_rows(connection) if f"restored_{restore.id}" not in repr(row)]
    names = [name for kind, name, facts in rows if kind == "table" and facts["data"]]
    return sorted(map(repr, rows)), {name: rows_of(site, name) for name in names}


def rows_of(site, name):
    return sorted(site.sql("shop", f"TABLE {name}"))


def left(site):
    return {name for (name,) in site.sql("shop", "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'restored%'")}


def loaders(site):
    return site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'")


@pytest.mark.parametrize(
    "damage", ["DELETE FROM orders; UPDATE customer SET name = 'lost'", "DROP TABLE customer CASCADE"], ids=["rows", "all"]
)
def test_tables_are_left_beside_as_the_set_has_them_and_live_ones_stay_as_they_are(site, shop, damage):
    as_saved = {name: rows_of(site, name) for name in ("customer", "orders", "happy", "per_half")}
    names = {*as_saved, "customer_id_seq"}
    rights_as_saved = {name: rights for name, rights in rights_in(site, "public").items() if name in names}
    site.sql("shop", damage)
    restore = shop("public.customer", "public.orders", "public.happy", "public.per_half")
    before = live(site, restore)
    source = site.source("shop")
    facts = texts(source, restore, "fact")
    assert f"come into schema restored_{restore.id} of shop" in facts
    assert "left out: public.customer at_home to public.country" in facts
    staged_of(site, restore)
    words = source.leave_beside(restore)
    source.discard(restore)

    name = f"restored_{restore.id}"
    assert left(site) == {name}
    assert {table: rows_of(site, f"{name}.{table}") for table in as_saved} == as_saved
    assert rights_in(site, name) == rights_as_saved
    keys = site.sql("shop", f"SELECT conname FROM pg_constraint WHERE contype = 'f' AND connamespace = '{name}'::regnamespace")
    assert keys == [("orders_customer_fkey",)]
    assert site.sql("shop", f"INSERT INTO {name}.customer (name) VALUES ('x') RETURNING id, shout") == [(301, "x!")]
    assert live(site, restore) == before
    assert loaders(site) == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        site.sql("shop", "SET ROLE alice", f"TABLE {name}.customer")

    (sentence,) = words
    assert f"Schema {name} of database shop has 4 relations of" in sentence
    site.sql("shop", "CREATE SCHEMA restored_20261130")
    assert site.source("shop").lying_beside([restore.id]) == site.source().lying_beside([restore.id]) == words
    site.sql("shop", "DROP SCHEMA restored_20261130")
    source.drop_replaced(restore)
    assert left(site) == {name}
    site.sql("shop", f"DROP SCHEMA {name} CASCADE")
    assert site.source("shop").lying_beside([restore.id]) == []
    assert live(site, restore) == before


def rights_in(site, schema):
    query = f"""SELECT relname, relowner::regrole::text, ARRAY(SELECT unnest(relacl)::text ORDER BY 1), relrowsecurity, ARRAY(
          SELECT attacl::text FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL ORDER BY attnum)
        FROM pg_class c WHERE relnamespace = '{schema}'::regnamespace AND relkind IN ('r', 'v', 'm', 'S')"""
    return {name: rights for name, *rights in site.sql("shop", query)}


def test_tables_of_several_schemas_are_left_in_a_schema_each_since_names_may_be_the_same(site, shop):
    restore = shop("public.orders", "Odd one")
    assert f'come into schema "restored_{restore.id}_Odd one", restored_{restore.id}_public of' in texts(
        site.source("shop"), restore, "fact"
    )
    source = staged_of(site, restore)
    source.leave_beside(restore)
    assert left(site) == {f"restored_{restore.id}_public", f"restored_{restore.id}_Odd one"}
    assert site.sql("shop", f'SELECT count(*) FROM restored_{restore.id}_public.orders, "restored_{restore.id}_Odd one".orders') == [(9,)]


def test_user_without_superuser_rights_leaves_tables_beside_those_that_they_may_not_change(site, shop):
    site.sql("postgres", f"CREATE ROLE {USER} LOGIN CREATEDB CREATEROLE PASSWORD 'd'", f"GRANT alice TO {USER} WITH ADMIN OPTION")
    site.sql("shop", f"GRANT CREATE ON DATABASE shop TO {USER}", "ALTER TABLE customer OWNER TO postgres")
    restore = shop("public.customer")
    source = staged_of(site, restore, user=USER, password="d")
    (sentence,) = source.leave_beside(restore)
    assert f"only {USER} and superusers can use it" in sentence
    assert site.sql("shop", f"SELECT count(*) FROM restored_{restore.id}.customer") == [(300,)]
    site.sql("shop", f"DROP OWNED BY {USER} CASCADE")


@pytest.mark.parametrize(("statement", "after"), [("ALTER SCHEMA", True), ("COMMIT", False), ("COMMIT", True), ("DROP ROLE", False)])
def test_tables_are_left_beside_when_a_killed_worker_is_done_again(site, shop, monkeypatch, statement, after):
    restore = shop("public.customer")
    source = staged_of(site, restore)
    with killed_at_statement(monkeypatch, statement, after=after):
        source.leave_beside(restore)
    assert source.verify_staged(restore) == []
    words = source.leave_beside(restore)
    assert source.leave_beside(restore) == words
    source.discard(restore)
    assert left(site) == {f"restored_{restore.id}"}
    assert loaders(site) == []


def test_tables_of_a_schema_with_an_odd_name_are_left_beside(site, shop):
    name = '"a""b.c \'d\\e"'
    inner = name.replace("'", "''")
    site.sql(
        "shop", f"CREATE SCHEMA {name}", f"CREATE SEQUENCE {name}.lone", f"CREATE TABLE {name}.t (i int DEFAULT nextval('{inner}.lone'))"
    )
    source = site.source("shop")
    restore = site.restore(site.back_up(source), only=[f"shop.{name}"], beside=True)
    staged_of(site, restore).leave_beside(restore)
    assert site.sql("shop", f"INSERT INTO restored_{restore.id}.t DEFAULT VALUES RETURNING i") == [(1,)]
    assert site.sql("shop", f"SELECT nextval('restored_{restore.id}.lone')") == [(2,)]


def test_preflight_refuses_tables_whose_statistics_lie_in_another_schema(site, shop):
    site.sql("shop", 'CREATE STATISTICS "Odd one".far ON id, customer FROM orders')
    source = site.source("shop")
    restore = site.restore(site.back_up(source), only=["shop.public.orders"], beside=True)
    assert 'The statistics "Odd one".far lie in another schema than public.orders' in texts(source, restore, "refusal")


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("TABLE public.planted () INHERITS (%I.honest)", "table public.planted uses public__stage_{}.honest"),
        ("VIEW public.planted AS SELECT * FROM %I.honest", "view public.planted"),
    ],
    ids=["child", "view"],
)
def test_what_code_of_an_owner_ties_to_tables_while_they_are_loaded_is_found(site, shop, planted, found):
    """A child brings them rows that the set does not have, a view shows them to people who can't come into their schema."""
    kind = planted.split()[0]
    site.sql(
        "shop",
        "GRANT ALL ON SCHEMA public TO alice; SET ROLE alice; CREATE TABLE honest (i int); INSERT INTO honest VALUES (1)",
        f"""CREATE FUNCTION plant() RETURNS bool LANGUAGE plpgsql AS $$ DECLARE staged text := (
              SELECT nspname FROM pg_namespace WHERE nspname LIKE 'public!_!_stage!_%' ESCAPE '!'); BEGIN
            IF session_user LIKE 'recovery%' AND staged IS NOT NULL AND to_regclass('public.planted') IS NULL THEN
              EXECUTE format('CREATE {planted}', staged);
              ALTER {kind} public.planted OWNER TO alice;
            END IF; RETURN true; END $$""",
        "CREATE TABLE planter (i int CHECK (public.plant())); INSERT INTO planter VALUES (1)",
    )
    source = site.source("shop")
    restore = site.restore(site.back_up(source), only=["shop.public.honest", "shop.public.planter"], beside=True)
    source.stage(restore)
    assert [each.name for each in source.verify_staged(restore)] == [found.format(restore.id)]
    with pytest.raises(VerificationError, match="was left by code that ran while the tables were loaded"):
        source.leave_beside(restore)
    site.sql("shop", f"DROP {kind} planted")
    source.discard(restore)


def test_default_privileges_let_nobody_into_the_schema(site, shop):
    site.sql("shop", "ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO bob, PUBLIC")
    restore = shop("public.customer")
    staged_of(site, restore).leave_beside(restore)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for schema"):
        site.sql("shop", "SET ROLE bob", f"TABLE restored_{restore.id}.customer")


def test_tables_of_no_database_are_left_when_those_of_another_were_changed(site, shop):
    site.create("shop_two", "CREATE TABLE other (i int)", "INSERT INTO other VALUES (1)")
    source = site.source("shop", "shop_two")
    restore = site.restore(site.back_up(source), only=["shop.public.customer", "shop_two.public.other"], beside=True)
    source.stage(restore)
    assert source.verify_staged(restore) == []
    site.sql("shop_two", f"UPDATE public__stage_{restore.id}.other SET i = 2")
    with pytest.raises(VerificationError, match=r"The tables of shop_two are no longer the set's: table public\.other"):
        source.leave_beside(restore)
    assert left(site) == set()
    site.sql("shop_two", f"UPDATE public__stage_{restore.id}.other SET i = 1")
    assert [f"of database {name} has" in words for name, words in zip(("shop", "shop_two"), source.leave_beside(restore), strict=True)] == [
        True
    ] * 2
    source.discard(restore)


def test_schema_of_another_that_has_the_name_is_not_taken_for_what_was_left(site, shop):
    restore = shop("public.customer")
    source = staged_of(site, restore)
    site.sql("shop", f"CREATE SCHEMA restored_{restore.id}", f"UPDATE public__stage_{restore.id}.customer SET name = 'other' WHERE id = 7")
    assert {each.name for each in source.verify_staged(restore)} == {"public.customer"}
    site.sql("shop", f"UPDATE public__stage_{restore.id}.customer SET name = 'Kunde ☃7' WHERE id = 7")
    with pytest.raises(RestoreError, match="already exists"):
        source.leave_beside(restore)
    with pytest.raises(RestoreError, match=f"Database shop has a schema restored_{restore.id} already"):
        source.stage(restore)
    source.discard(restore)


def test_what_was_changed_after_the_verification_is_not_left(site, shop):
    restore = shop("public.customer")
    source = staged_of(site, restore)
    site.sql("shop", f"UPDATE public__stage_{restore.id}.customer SET name = 'other' WHERE id = 7")
    with pytest.raises(VerificationError, match=r"no longer the set's: table public\.customer"):
        source.leave_beside(restore)
    assert left(site) == set()
    source.discard(restore)
    assert loaders(site) == []


def test_preflight_refuses_whole_databases_and_what_would_be_sent_to_subscribers_and_a_name_that_is_there(site, shop):
    source = site.source("shop")
    for restore in (shop(), site.restore(shop().set_folder, only=["shop"], beside=True)):
        assert "Method beside is for single schemas and tables" in texts(source, restore, "refusal")
    restore = shop("public.customer")
    site.sql("shop", f"CREATE SCHEMA restored_{restore.id}")
    assert f"has a schema restored_{restore.id} already" in texts(source, restore, "refusal")
    site.sql("shop", f"DROP SCHEMA restored_{restore.id}", "CREATE PUBLICATION everything FOR ALL TABLES")
    assert "The publication everything of shop would send all restored rows" in texts(source, restore, "refusal")


def test_preflight_warns_of_views_that_will_show_live_tables(site, shop):
    source = site.source("shop")
    words = texts(source, shop("public.happy", "public.per_half", "public.orders"), "warning")
    assert "will show what is live, since the tables that they show are not restored: public.happy (public.customer)." in words
    assert texts(source, shop("public.happy", "public.customer"), "warning") == ""


def test_what_forbids_an_exchange_does_not_forbid_tables_beside(site, shop):
    site.sql("shop", "CREATE MATERIALIZED VIEW stays AS SELECT count(*) FROM customer", "CREATE PUBLICATION p FOR TABLE customer")
    site.sql("shop", "CREATE FUNCTION f(customer) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END")
    restore = shop("public.customer")
    assert texts(site.source("shop"), site.restore(restore.set_folder, only=restore.only), "refusal") != ""
    source = staged_of(site, restore)
    source.leave_beside(restore)
    assert left(site) == {f"restored_{restore.id}"}
    assert source.occupied_locations(restore) == {}
