"""Single schemas and tables restored into a live database, on a real server."""

import hashlib
import json
import re
from contextlib import contextmanager

import psycopg
import pytest

from recovery.common.connections import Endpoint
from recovery.common.errors import PlanError, RestoreError
from recovery.plan.kinds.postgres import PostgresSettings
from recovery.runners.local import LOCAL
from recovery.sources.postgres.definitions import catalog
from recovery.sources.postgres.selection import Part, parse
from recovery.sources.postgres.source import Postgres
from recovery.sources.postgres.tables import swap
from sandbox import servers
from tests.support.kills import killed_at_statement, killed_at_step
from tests.support.postgres_site import Site, contents

SHOP = """
CREATE SCHEMA shop; CREATE SCHEMA "Odd ""one"; CREATE SCHEMA other;
GRANT USAGE ON SCHEMA shop TO keeper, reader, writer;
ALTER DEFAULT PRIVILEGES GRANT DELETE ON TABLES TO reader;
CREATE TYPE shop.mood AS ENUM ('sad', 'ok');
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := upper(NEW.name); RETURN NEW; END $$;
CREATE TABLE shop.country (code text PRIMARY KEY, name text);
INSERT INTO shop.country VALUES ('de', 'Germany'), ('fr', 'France'), ('it', 'Italy');
CREATE TABLE shop.customer (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number bigserial, name text NOT NULL, mood shop.mood DEFAULT 'ok',
    country text CONSTRAINT at_home REFERENCES shop.country ON UPDATE CASCADE, tags text[], moods shop.mood[],
    shout text GENERATED ALWAYS AS (name || '!') STORED, balance numeric CHECK (balance > -100), "odd "" column" text);
ALTER TABLE shop.customer OWNER TO keeper;
COMMENT ON TABLE shop.customer IS 'theirs'; COMMENT ON COLUMN shop.customer.name IS 'the name';
COMMENT ON CONSTRAINT at_home ON shop.customer IS 'lives there'; COMMENT ON CONSTRAINT customer_pkey ON shop.customer IS 'key';
INSERT INTO shop.customer (name, mood, country, tags, moods, balance, "odd "" column")
    SELECT 'Kunde ' || n || E' \\t\\n\\\\ ☃', 'sad',
     (ARRAY['de', 'fr', NULL])[n % 3 + 1], ARRAY['a,b', NULL], ARRAY['sad', 'ok']::shop.mood[],
    n / 7.0, 'o' FROM generate_series(1, 300) n;
CREATE INDEX customer_lower ON shop.customer (lower(name)) WHERE mood = 'sad';
CREATE STATISTICS shop.customer_stats (dependencies) ON mood, country FROM shop.customer;
CREATE TRIGGER touch BEFORE INSERT ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.touch();
ALTER TABLE shop.customer ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON shop.customer FOR SELECT TO reader USING (mood = 'sad'); COMMENT ON POLICY mine ON shop.customer IS 'sad ones';
GRANT SELECT (id, name) ON shop.customer TO reader; GRANT SELECT, UPDATE ON shop.customer TO writer WITH GRANT OPTION;
REVOKE DELETE ON shop.customer FROM reader;
CREATE TABLE shop.orders (id int PRIMARY KEY, customer int CONSTRAINT bought REFERENCES shop.customer ON DELETE CASCADE, what text);
COMMENT ON CONSTRAINT bought ON shop.orders IS 'by whom';
INSERT INTO shop.orders SELECT n, n, 'thing' FROM generate_series(1, 100) n;
CREATE VIEW shop.happy WITH (security_barrier) AS SELECT id, name, shout FROM shop.customer WHERE mood = 'ok' WITH LOCAL CHECK OPTION;
GRANT SELECT ON shop.happy TO reader; COMMENT ON VIEW shop.happy IS 'few';
CREATE VIEW other.happier AS SELECT id FROM shop.happy;
CREATE VIEW other.grouped AS SELECT c.id, c.name, count(*) FROM shop.customer c JOIN shop.orders o ON o.customer = c.id GROUP BY c.id;

CREATE TABLE "Odd ""one"."Event.s" (at date NOT NULL, what text, PRIMARY KEY (at, what)) PARTITION BY RANGE (at);
CREATE TABLE "Odd ""one"."Event.2025" PARTITION OF "Odd ""one"."Event.s" FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE "Odd ""one".rest (what text NOT NULL, gone int, at date NOT NULL);
ALTER TABLE "Odd ""one".rest DROP gone;
ALTER TABLE "Odd ""one"."Event.s" ATTACH PARTITION "Odd ""one".rest DEFAULT;
CREATE INDEX ON "Odd ""one"."Event.s" (what);
INSERT INTO "Odd ""one"."Event.s" SELECT date '2025-06-01' + n, 'e' || n FROM generate_series(1, 500) n;
CREATE TABLE "Odd ""one"."line
 ON break" (a int REFERENCES shop.orders); INSERT INTO "Odd ""one"."line
 ON break" VALUES (1);
CREATE SEQUENCE "Odd ""one".counter START 5; SELECT nextval('"Odd ""one".counter'), nextval('"Odd ""one".counter');
CREATE MATERIALIZED VIEW "Odd ""one".counts AS SELECT what, count(*) n FROM "Odd ""one"."Event.s" GROUP BY 1;
CREATE MATERIALIZED VIEW "Odd ""one".most AS SELECT max(n) FROM "Odd ""one".counts;
CREATE MATERIALIZED VIEW "Odd ""one".never AS SELECT 1 a WITH NO DATA;
CREATE UNIQUE INDEX ON "Odd ""one".counts (what);
CREATE VIEW "Odd ""one".seen AS SELECT at FROM "Odd ""one"."Event.s"; GRANT SELECT ON "Odd ""one".seen TO reader;
CREATE FUNCTION "Odd ""one".stays() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE "Odd ""one".left (id int DEFAULT nextval('"Odd ""one".counter')); INSERT INTO "Odd ""one".left DEFAULT VALUES;
CREATE TABLE shop.animal (name text); CREATE TABLE shop.dog (legs int) INHERITS (shop.animal);
INSERT INTO shop.animal VALUES ('cat'); INSERT INTO shop.dog VALUES ('rex', 4);
CREATE TABLE shop.part_of (id int); ALTER TABLE shop.part_of OWNER TO gone;
CREATE TABLE shop.secret (id int); ALTER TABLE shop.secret ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON shop.secret TO gone USING (true);
CREATE PUBLICATION told FOR TABLE shop.part_of;
"""
LOST = """
DELETE FROM shop.orders WHERE id > 20;
UPDATE shop.customer SET name = 'lost', balance = 0; ALTER TABLE shop.customer ADD COLUMN later int DEFAULT 3;
DROP INDEX shop.customer_lower;
DROP POLICY mine ON shop.customer; GRANT SELECT ON shop.customer TO PUBLIC; INSERT INTO shop.customer (name) VALUES ('new');
"""
ODD = '"Odd ""one"'


class Parts:
    """The source, and its findings about a restore."""

    def __init__(self, site, renamed=None, user="postgres", password=None):
        endpoint = Endpoint("pg", "127.0.0.1", site.server.port, user, password or site.server.password)
        self.source = Postgres("main", PostgresSettings(connection="pg"), endpoint, [site.server.bin], renamed, runner=LOCAL)
        for step in ("stage", "verify_staged", "compare", "swap", "roll_back", "finalize", "discard", "drop_replaced", "replaced_copies"):
            setattr(self, step, getattr(self.source, step))

    def refusals(self, restore):
        return self.said(restore, "refusal")

    def said(self, restore, level):
        return "\n".join(each.text for each in self.source.preflight(restore).findings if each.level == level)

    def staged(self, restore):
        assert self.refusals(restore) == ""
        self.stage(restore)
        assert self.verify_staged(restore) == []


@pytest.fixture(scope="module")
def site(server_folder, tmp_path_factory):
    options = ["wal_level=logical", "max_prepared_transactions=2", "fsync=off"]
    with servers.Postgres(server_folder / "postgres-tables", 18, options) as server:
        yield Site(server, tmp_path_factory.mktemp("postgres-tables"))


@pytest.fixture(scope="module")
def saved(site):
    """A set of a database; one of its roles is gone."""
    site.sql("postgres", "CREATE ROLE keeper", "CREATE ROLE reader LOGIN PASSWORD 'r'", "CREATE ROLE writer", "CREATE ROLE gone")
    site.create("shop", SHOP)
    backup = site.back_up(site.source("shop"))
    site.sql("shop", "DROP TABLE shop.part_of, shop.secret")
    site.sql("postgres", "CREATE DATABASE original TEMPLATE shop", "DROP DATABASE shop", "DROP ROLE gone")
    return backup


@pytest.fixture
def live(site, saved):
    """The database as it is now, which a test changes as it likes."""
    site.sql("postgres", "CREATE DATABASE shop TEMPLATE original")
    yield lambda *only: site.restore(saved, only=only)
    for name in site.databases() - {"postgres", "template0", "template1", "original"}:
        site.sql("postgres", f'DROP DATABASE "{name}" WITH (FORCE)')
    for role in loaders(site):
        site.sql("postgres", f"DROP ROLE {role}")


def loaders(site):
    return {role for (role,) in site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'")}


@pytest.fixture
def parts(site):
    return Parts(site)


def everything(site, database="shop", without=()):
    """All definitions, rows and values of a database; without what belongs to some relations."""
    with site.server.connect(database) as connection:
        connection.execute("SET search_path TO ''")
        found = {f"{kind} {name}": facts | {"at": 0} for kind, name, facts in catalog.object_rows(connection)}
        for key in list(found):
            kind, _, name = key.partition(" ")
            if kind == "table" and found[key].get("data"):
                rows = connection.execute(f"SELECT t::text FROM ONLY {name} t ORDER BY 1").fetchall()
                found[key]["rows"] = [len(rows), hashlib.sha256(repr(rows).encode()).hexdigest()]
            if kind == "sequence":
                found[key]["value"] = list(connection.execute(f"SELECT last_value, is_called FROM {name}").fetchall()[0])
    return {key: json.dumps(facts, sort_keys=True) for key, facts in found.items() if not any(word in key for word in without)}


def aside(site, database="shop"):
    return {name for (name,) in site.sql(database, "SELECT nspname FROM pg_namespace WHERE nspname ~ '__(before|replaced)_'")}


def test_table_is_restored_with_its_dependent_objects_and_rolled_back(site, live, parts):
    as_saved = everything(site)
    site.sql("shop", LOST)
    before = everything(site)
    restore = live("shop.shop.customer")
    parts.staged(restore)
    assert everything(site) == before
    parts.swap(restore)
    assert aside(site) == {f"shop__before_{restore.id}"}
    now = everything(site)
    assert {key for key in now.keys() | before.keys() if now.get(key) != as_saved.get(key)} == {"table shop.orders"}
    assert site.sql("shop", "SELECT count(*) FROM other.grouped") == [(20,)]
    assert site.sql("shop", "INSERT INTO shop.customer (name) VALUES ('x') RETURNING id, number, name") == [(301, 301, "X")]
    site.sql("shop", "DELETE FROM shop.customer WHERE id = 301")
    site.sql("shop", "DELETE FROM shop.country WHERE code = 'it'", "INSERT INTO shop.country VALUES ('it', 'Italy')")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        site.sql("shop", "INSERT INTO shop.orders VALUES (1000, 1000, 'x')")
    parts.swap(restore)
    parts.finalize(restore)
    parts.discard(restore)
    assert aside(site) == {f"shop__before_{restore.id}"}
    parts.roll_back(restore)
    parts.roll_back(restore)
    assert everything(site) == before
    assert aside(site) == {f"shop__replaced_{restore.id}"}
    parts.discard(restore)
    parts.discard(restore)
    assert aside(site) == set()
    assert everything(site) == before
    assert not any("__stage_" in name for name in site.databases())


def test_rollback_by_hand_as_in_the_runbook_is_recognized(site, live, parts):
    site.sql("shop", f"DELETE FROM {ODD}.left")
    before = everything(site)
    restore = live(f"shop.{ODD}.left")
    parts.staged(restore)
    parts.swap(restore)
    previous, replaced = (ODD[:-1] + f'__{kind}_{restore.id}"' for kind in ("before", "replaced"))
    site.sql(
        "shop",
        f"CREATE SCHEMA {replaced}; ALTER TABLE {ODD}.left SET SCHEMA {replaced}",
        f"ALTER TABLE {previous}.left SET SCHEMA {ODD}; DROP SCHEMA {previous}",
    )
    parts.roll_back(restore)
    parts.discard(restore)
    assert everything(site) == before
    assert aside(site) == set()


def test_table_swap_repoints_a_view_whose_definition_the_server_rewrites(site, live, parts):
    literal = "EXISTS (SELECT 'x', NULL FROM shop.customer d WHERE d.id = c.id) AND mood::text IN (SELECT 'sad' UNION SELECT 'b')"
    site.sql("shop", f"CREATE VIEW other.literal AS SELECT id, (SELECT 'y') FROM shop.customer c WHERE {literal}", LOST)
    restore = live("shop.shop.customer")
    parts.staged(restore)
    parts.swap(restore)
    assert site.sql("shop", "SELECT count(*) FROM other.literal") == [(300,)]
    parts.roll_back(restore)
    parts.discard(restore)


def test_verify_and_compare_count_rows_of_enum_hash_partitions_at_their_table(site, parts):
    labels = ", ".join(f"'{n}'" for n in range(40))
    leaves = [f"CREATE TABLE t_{n} PARTITION OF t FOR VALUES WITH (MODULUS 4, REMAINDER {n})" for n in range(4)]
    site.create(
        "spread", f"CREATE TYPE e AS ENUM ({labels})", "CREATE TABLE t (k e, n int, PRIMARY KEY (k, n)) PARTITION BY HASH (k, n)", *leaves
    )
    site.sql("spread", "INSERT INTO t SELECT k, 1 FROM unnest(enum_range(NULL::e)) k")
    as_saved = site.sql("spread", "SELECT k::text, n, tableoid FROM t ORDER BY k")
    saved = site.back_up(site.source("spread"))
    site.sql("spread", "DELETE FROM t WHERE k < '9'")
    restore = site.restore(saved, only=["spread.public.t"])
    parts.staged(restore)
    parts.swap(restore)
    assert [row[:2] for row in site.sql("spread", "SELECT k::text, n FROM t ORDER BY k")] == [row[:2] for row in as_saved]
    assert {change.what for change in parts.compare(restore)} == {"equal"}
    site.sql("spread", "UPDATE t SET n = 2 WHERE k = '7'")
    assert [change.names for change in parts.compare(restore) if change.what == "changed"] == [("spread.public.t",)]
    parts.roll_back(restore)
    parts.discard(restore)
    site.sql("postgres", "DROP DATABASE spread")


STATISTICS = [
    "CREATE TABLE reading (at timestamptz, place text, value numeric)",
    "CREATE INDEX by_day ON reading ((extract(hour FROM at AT TIME ZONE 'UTC')), place)",
    "CREATE STATISTICS where_and_what (mcv) ON place, value FROM reading",
    "ALTER TABLE reading ALTER place SET STATISTICS 700, ALTER value SET STATISTICS 0",
    "ALTER INDEX by_day ALTER 1 SET STATISTICS 900",
    "ALTER STATISTICS where_and_what SET STATISTICS 300",
    "INSERT INTO reading SELECT now(), n::text, n FROM generate_series(1, 50) n",
]
NOT_NULL = [
    'CREATE TABLE reading (at date CONSTRAINT "has a date" NOT NULL, place text NOT NULL, value int, note text NOT NULL NO INHERIT)',
    "CREATE TABLE twin (LIKE reading)",
    "CREATE TABLE placed (CONSTRAINT somewhere NOT NULL place) INHERITS (reading)",
    "ALTER TABLE reading RENAME place TO site",
    "INSERT INTO reading VALUES (now(), 'x', NULL, 'y')",
    "ALTER TABLE reading ADD CONSTRAINT valued NOT NULL value NOT VALID",
]
TARGETS = """SELECT relname, attname, attstattarget FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
    WHERE attstattarget >= 0 AND attnum > 0 AND relnamespace = 'public'::regnamespace
    UNION ALL SELECT relname, stxname, stxstattarget FROM pg_statistic_ext JOIN pg_class c ON c.oid = stxrelid
    WHERE stxnamespace = 'public'::regnamespace ORDER BY 1, 2"""
NAMES = """SELECT conrelid::regclass::text, pg_get_constraintdef(oid), conname FROM pg_constraint
    WHERE contype = 'n' AND connamespace = 'public'::regnamespace ORDER BY 1, 2"""


@pytest.mark.parametrize(("statements", "query", "number"), [(STATISTICS, TARGETS, 4), (NOT_NULL, NAMES, 10)], ids=["targets", "names"])
def test_restored_table_has_the_statistics_targets_and_the_names_of_not_null_constraints_of_the_set(site, parts, statements, query, number):
    site.create("gauges", *statements)
    try:
        as_saved = site.sql("gauges", query)
        assert len(as_saved) == number
        restore = site.restore(site.back_up(site.source("gauges")), only=["gauges.public.reading"])
        site.sql("gauges", "DELETE FROM reading")
        parts.staged(restore)
        parts.swap(restore)
        assert site.sql("gauges", query) == as_saved
    finally:
        site.sql("postgres", "DROP DATABASE gauges WITH (FORCE)")


def test_schema_is_restored_as_saved_and_newer_relations_are_set_aside(site, live, parts):
    as_saved = everything(site)
    site.sql(
        "shop",
        f"DROP VIEW {ODD}.seen; DROP MATERIALIZED VIEW {ODD}.most; DROP TABLE {ODD}.left",
        f"DELETE FROM {ODD}.\"Event.s\" WHERE at > '2025-09-01'",
        f"ALTER TABLE {ODD}.\"Event.s\" DETACH PARTITION {ODD}.rest; DROP TABLE {ODD}.rest; SELECT setval('{ODD}.counter', 99)",
        f"CREATE TABLE {ODD}.newer PARTITION OF {ODD}.\"Event.s\" FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        f"INSERT INTO {ODD}.newer VALUES ('2026-02-02', 'new'); CREATE TABLE {ODD}.extra (id serial REFERENCES shop.orders)",
        f"CREATE VIEW {ODD}.extra_view AS SELECT * FROM {ODD}.extra; CREATE TYPE {ODD}.kept AS ENUM ('a')",
        "UPDATE shop.country SET name = 'changed'",
    )
    before = everything(site)
    restore = live(f"shop.{ODD}")
    assert "newer" in parts.said(restore, "warning")
    parts.staged(restore)
    assert everything(site) == before
    parts.swap(restore)
    now = everything(site)
    differing = {key for key in now.keys() | as_saved.keys() if now.get(key) != as_saved.get(key)}
    assert differing == {"table shop.country", f"enum {ODD}.kept"}
    assert site.sql("shop", f"SELECT count(*), (SELECT sum(max) FROM {ODD}.most) FROM {ODD}.counts") == [(500, 1)]
    parts.roll_back(restore)
    assert everything(site) == before
    parts.discard(restore)
    assert everything(site) == before


def test_dropped_schemas_and_tables_are_restored_into_a_renamed_database(site, live):
    as_saved = everything(site)
    site.sql("postgres", "CREATE DATABASE till TEMPLATE shop")
    site.sql(
        "till", "DROP TABLE shop.orders, shop.animal CASCADE", f"DROP SCHEMA {ODD} CASCADE", "ALTER TABLE shop.country SET SCHEMA other"
    )
    before = everything(site, "till")
    parts = Parts(site, {"shop": "till"})
    restore = live("shop.shop.orders", f"shop.{ODD}", "shop.shop.animal", "shop.shop.country", "shop.shop.customer")
    assert f"not restored: function {ODD}.stays()" in parts.said(restore, "warning")
    parts.staged(restore)
    parts.swap(restore)
    now = everything(site, "till")
    differing = {key for key in now.keys() | as_saved.keys() if now.get(key) != as_saved.get(key)}
    assert all("other." in key or f"function {ODD}.stays" in key for key in differing)
    assert site.sql("till", "SELECT count(*), sum(legs) FROM shop.dog") == [(1, 4)]
    assert everything(site) == as_saved
    parts.roll_back(restore)
    parts.discard(restore)
    assert everything(site, "till") == before


def test_verify_staged_reports_foreign_keys_that_the_swap_would_violate(site, live, parts):
    site.sql(
        "shop",
        "INSERT INTO shop.customer (name) SELECT 'new ' || n FROM generate_series(1, 5) n",
        "INSERT INTO shop.orders SELECT 200 + n, 300 + n, 'thing' FROM generate_series(1, 5) n",
        "UPDATE shop.customer SET country = NULL; DELETE FROM shop.country WHERE code = 'fr'",
    )
    before = everything(site)
    restore = live("shop.shop.customer")
    assert parts.refusals(restore) == ""
    parts.stage(restore)
    found = {difference.name: difference.what for difference in parts.verify_staged(restore)}
    assert found.keys() == {"shop.customer at_home", "shop.orders bought"}
    assert found["shop.customer at_home"].startswith("100 rows of shop.customer in the set point to 1 rows of shop.country that the live")
    assert found["shop.customer at_home"].endswith("(code) = (fr)")
    assert found["shop.orders bought"].startswith("5 rows of shop.orders in the live database point to 5 rows of shop.customer")
    with pytest.raises(RestoreError, match="violates foreign key"):
        parts.swap(restore)
    assert everything(site) == before
    assert aside(site) == set()
    together = live("shop.shop.customer", "shop.shop.orders", "shop.shop.country")
    parts.staged(together)
    parts.discard(restore)


def test_verify_staged_fails_when_the_rehearsed_swap_lacks_a_column(site, live, parts):
    site.sql("shop", LOST, "CREATE VIEW other.wide AS SELECT later FROM shop.customer")
    before = everything(site)
    restore = live("shop.shop.customer")
    assert parts.refusals(restore) == ""
    parts.stage(restore)
    with pytest.raises(RestoreError, match=r"Restoring to shop would fail.*later"):
        parts.verify_staged(restore)
    assert everything(site) == before
    parts.discard(restore)
    assert not any("__stage_" in name for name in site.databases())


def test_stage_fails_when_the_live_database_lacks_a_type(site, live, parts):
    site.sql(
        "shop",
        "DROP VIEW shop.happy CASCADE; DROP INDEX shop.customer_lower",
        "DROP STATISTICS shop.customer_stats; DROP POLICY mine ON shop.customer",
        "ALTER TABLE shop.customer ALTER mood DROP DEFAULT, ALTER mood TYPE text, DROP moods; DROP TYPE shop.mood",
    )
    before = everything(site)
    restore = live("shop.shop.customer")
    assert parts.refusals(restore) == ""
    with pytest.raises(RestoreError, match=r"(?s)Restoring to shop would fail.*shop\.mood"):
        parts.stage(restore)
    assert everything(site) == before
    parts.discard(restore)
    assert left_over(site) == set()


def left_over(site):
    """What a restore should leave nothing of."""
    found = loaders(site) | {name for name in site.databases() if "__stage_" in name}
    return found | {name for (name,) in site.sql("shop", "SELECT nspname FROM pg_namespace WHERE nspname ~ '__stage_'")}


def test_table_swap_refuses_staged_tables_that_differ_from_the_set(site, live, parts):
    before = everything(site)
    restore = live("shop.shop.customer")
    parts.stage(restore)
    staged = f"shop__stage_{restore.id}"
    site.sql("shop", f"SELECT setval('{staged}.customer_number_seq', 7)", f"DROP INDEX {staged}.customer_lower")
    tampered = {"sequence shop.customer_number_seq", "index shop.customer_lower"}
    assert {f"{each.kind} {each.name}" for each in parts.verify_staged(restore)} == tampered
    with pytest.raises(RestoreError, match=r"would not be the set's.*index shop\.customer_lower"):
        parts.swap(restore)
    site.sql("shop", f"UPDATE {staged}.customer SET name = name || ' ' WHERE id = 7")
    assert {f"{each.kind} {each.name}" for each in parts.verify_staged(restore)} == {"table shop.customer", *tampered}
    with pytest.raises(RestoreError, match=r"would not be the set's.*table shop\.customer: digest"):
        parts.swap(restore)
    assert everything(site) == before
    site.sql("shop", f"DROP SCHEMA {staged} CASCADE")
    for use in (parts.verify_staged, parts.swap):
        with pytest.raises(RestoreError, match="Nothing is staged in shop for shop"):
            use(restore)
    parts.discard(restore)
    assert left_over(site) == set()
    assert everything(site) == before


# Kills ------------------------------------------------------------------------------------------------------------------


def test_table_swap_killed_before_its_commit_leaves_the_database_unchanged(site, live, parts, monkeypatch):
    site.sql("shop", LOST)
    before = everything(site)
    restore = live("shop.shop.customer")
    parts.stage(restore)
    for statement in ("SET SCHEMA", "OWNER TO", "COPY .* TO STDOUT", "ADD CONSTRAINT .* FOREIGN KEY", "COMMIT"):
        with killed_at_statement(monkeypatch, statement):
            parts.swap(restore)
        assert everything(site) == before
        parts.roll_back(restore)
    parts.swap(restore)
    assert site.sql("shop", "SELECT count(*) FROM shop.customer") == [(300,)]


def test_table_swap_and_rollback_resume_after_a_kill_around_the_commit(site, live, parts, monkeypatch):
    site.sql("shop", LOST)
    before = everything(site)
    restore = live("shop.shop.customer")
    parts.stage(restore)
    with killed_at_step(restore, "switch tables", after=False):
        parts.swap(restore)
    assert everything(site) == before
    with killed_at_statement(monkeypatch, "COMMIT", after=True):
        parts.swap(restore)
    swapped = everything(site)
    assert swapped != before
    parts.swap(restore)
    assert everything(site) == swapped
    parts.discard(restore)
    assert everything(site) == swapped
    with killed_at_statement(monkeypatch, "^DROP SCHEMA", after=True):
        parts.roll_back(restore)
    assert everything(site) == swapped
    with killed_at_statement(monkeypatch, "COMMIT", after=True):
        parts.roll_back(restore)
    assert everything(site) == before
    parts.roll_back(restore)
    parts.discard(restore)
    assert everything(site) == before


def test_table_swap_names_the_session_that_holds_a_lock_and_changes_nothing(site, live, parts, monkeypatch):
    site.sql("shop", LOST)
    before = everything(site)
    restore = live("shop.shop.customer")
    parts.stage(restore)
    monkeypatch.setattr(swap, "LOCK_TIMEOUT", "100ms")
    with site.server.connect("shop", application_name="till") as busy:
        busy.autocommit = False
        busy.execute("SELECT * FROM shop.customer")
        with pytest.raises(RestoreError, match=r"postgres \(till, process \d+, idle in transaction\) holds shop\.customer"):
            parts.swap(restore)
    assert everything(site) == before
    parts.swap(restore)
    assert site.sql("shop", "SELECT count(*) FROM shop.customer") == [(300,)]


# Afterwards -------------------------------------------------------------------------------------------------------------


def test_replaced_tables_are_excluded_from_backups_and_deleted_by_drop_replaced(site, live, parts):
    clean = everything(site)
    site.sql("shop", LOST)
    restore = live("shop.shop.customer", f"shop.{ODD}.left")
    parts.stage(restore)
    parts.swap(restore)
    assert parts.replaced_copies() == site.source("shop").replaced_copies() == [restore.id]
    assert site.source("postgres").replaced_copies() == []
    backup = site.back_up(site.source("shop", schema_sql=True))
    assert not [row for row in contents(backup, "shop") if "__before_" in row[1]]
    assert ("table", "shop.customer") in contents(backup, "shop")
    again = site.restore(backup)
    source = site.source("shop")
    source.stage(again)
    assert source.verify_staged(again) == []
    assert aside(site, f"shop__stage_{again.id}") == set()
    source.discard(again)
    site.sql("shop", f"CREATE VIEW other.curious AS SELECT id FROM shop__before_{restore.id}.customer")
    with pytest.raises(RestoreError, match=r"view other\.curious"):
        parts.drop_replaced(restore)
    site.sql("shop", "DROP VIEW other.curious")
    parts.drop_replaced(restore)
    assert aside(site) == set()
    assert parts.replaced_copies() == []
    assert {key for key, facts in everything(site).items() if clean.get(key) != facts} == {"table shop.orders"}


def test_table_rollback_after_new_writes_keeps_violated_foreign_keys_not_valid(site, live, parts, caplog):
    site.sql("shop", "DELETE FROM shop.customer WHERE id > 10")
    restore = live("shop.shop.customer")
    parts.stage(restore)
    parts.swap(restore)
    site.sql(
        "shop",
        "INSERT INTO shop.customer (name) VALUES ('since')",
        "INSERT INTO shop.orders VALUES (1000, 301, 'of theirs')",
        "CREATE VIEW other.since AS SELECT name FROM shop.customer",
        "DELETE FROM shop.customer WHERE country = 'de'; DELETE FROM shop.country WHERE code = 'de'",
    )
    parts.roll_back(restore)
    assert site.sql("shop", "SELECT count(*) FROM shop.customer") == [(10,)]
    assert site.sql("shop", "SELECT count(*) FROM other.since") == [(10,)]
    assert site.sql("shop", f"SELECT count(*) FROM shop__replaced_{restore.id}.customer WHERE name = 'SINCE'") == [(1,)]
    named = "SELECT conname FROM pg_constraint WHERE NOT convalidated ORDER BY 1"
    assert site.sql("shop", named) == [("at_home",), ("bought",)]
    assert "Foreign key bought is there, NOT VALID" in caplog.text
    parts.discard(restore)
    assert aside(site) == set()


def test_compare_reports_differences_of_tables_and_changes_nothing(site, live, parts):
    site.sql("shop", LOST, f"DROP TABLE {ODD}.left; CREATE TABLE {ODD}.extra AS SELECT 1 a")
    before = everything(site)
    found = {(change.kind, change.what): change for change in parts.compare(live("shop.shop.customer", f"shop.{ODD}"))}
    assert found["table", "changed"].names == ("shop.shop.customer",)
    assert found["table", "added"].names == (f'shop.{ODD}."left"',)
    assert found["table", "removed"].names == (f"shop.{ODD}.extra",)
    assert found["table", "equal"].count == 4
    assert found["policy", "added"].names == ("shop.shop.customer mine",)
    assert everything(site) == before
    system = site.sql("postgres", "SELECT system_identifier::text FROM pg_control_system()")[0][0]
    assert parts.source.locations(live("shop.shop.customer")) == {("postgres", system, "shop")}
    occupied_locations = parts.source.occupied_locations(live("shop.shop.customer"))
    assert [words.split(",")[0] for words in occupied_locations.values()] == [
        "shop.shop.customer",
        "shop.shop.customer_id_seq",
        "shop.shop.customer_number_seq",
    ]


# Refusals ---------------------------------------------------------------------------------------------------------------


def test_selection_parses_names_with_sql_quoting_and_refuses_invalid_names():
    asked = parse(["whole", "a.b", "a.b.c", "a.D.e f", '"o.d""d"."x"."y.z"', "whole.s.t"])
    assert asked.databases == ("whole",)
    assert asked.tables == {"a": (Part("b"), Part("D", "e f")), 'o.d"d': (Part("x", "y.z"),)}
    assert str(Part('a"b', "c.d")) == '"a""b"."c.d"'
    for wrong in ("", ".", "a.", ".a", "a..b", "a.b.c.d", '"a', '"a"b', 'a"b', '"".a'):
        with pytest.raises(PlanError, match="names no database, schema or table"):
            parse([wrong])


def test_preflight_refuses_parts_that_are_missing_or_not_restorable_alone(site, live, parts):
    for only, words in {
        "shop.shop.customers": r"no table shop.customers. Its schema has .*shop.customer,",
        "shop.chop": r'no schema chop. It has "Odd ""one", other, public, shop',
        f'shop.{ODD}."Event.2025"': "is a part of .*Event.s",
        "shop.shop.dog": "shop.dog is a part of shop.animal",
        "shop.shop.customer_id_seq": "is a part of shop.customer",
        "shop.shop.part_of": "Role gone owns",
        "shop.shop.secret": "Role gone owns tables of shop or has rights",
    }.items():
        assert re.search(words, parts.refusals(live(only)))
    restore = live("shop.shop.customer")
    restore.in_place = True
    assert "not restored in place" in parts.refusals(restore)
    assert "Database till is not there" in Parts(site, {"shop": "till"}).refusals(live("shop.shop.customer"))


def test_preflight_refuses_dependents_that_would_stay_with_the_replaced_tables(site, live, parts):
    site.sql(
        "shop",
        "CREATE MATERIALIZED VIEW other.filled AS SELECT id FROM shop.customer",
        "CREATE FUNCTION other.counted() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM shop.customer; END",
        "CREATE FUNCTION other.one(shop.customer) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE CAST (shop.customer AS int) WITH FUNCTION other.one(shop.customer)",
        "CREATE TABLE other.ruled (id int)",
        "CREATE RULE also AS ON INSERT TO other.ruled DO ALSO DELETE FROM shop.customer",
        "CREATE POLICY few ON other.ruled USING (id IN (SELECT id FROM shop.customer))",
        "CREATE TABLE other.numbered (id int DEFAULT nextval('shop.customer_number_seq'))",
        "CREATE PUBLICATION told_more FOR TABLE shop.customer; CREATE PUBLICATION all_told FOR ALL TABLES",
        "CREATE PUBLICATION in_schema FOR TABLES IN SCHEMA shop",
        f"CREATE TABLE {ODD}.extra (id int PRIMARY KEY); CREATE TABLE other.uses (id int REFERENCES {ODD}.extra)",
        f"CREATE VIEW other.shows AS SELECT * FROM {ODD}.extra",
        "ALTER TABLE shop.animal RENAME TO animal_old; ALTER TABLE shop.orders RENAME TO o",
    )
    refusals = parts.refusals(live("shop.shop.customer"))
    for words in (
        "In shop, materialized view other.filled uses shop.customer, and can't be led to the restored one.",
        "function other.counted()",
        "function other.one(shop.customer) uses shop.customer",
        "rule also on table other.ruled",
        "policy few on table other.ruled",
        "default value for column id of table other.numbered uses shop.customer_number_seq",
        "publication of table shop.customer in publication told_more",
        "The publication all_told of shop",
        "The publication in_schema of shop",
    ):
        assert words in refusals
    refusals = parts.refusals(live(f"shop.{ODD}"))
    assert f"foreign key uses_id_fkey of other.uses points to {ODD}.extra, which the set lacks" in refusals
    assert f"view other.shows shows {ODD}.extra, which the set lacks" in refusals
    assert "the name shop.orders_pkey, which the restored tables need, is that of index shop.orders_pkey of shop.o" in parts.refusals(
        live("shop.shop.orders")
    )
    assert "shop.dog is a partition or child of shop.animal_old" in parts.refusals(live("shop.shop.animal"))
    with site.server.connect("shop") as connection:
        connection.execute("BEGIN; UPDATE shop.country SET name = ''; PREPARE TRANSACTION 'waiting'")
    assert "prepared transaction 'waiting'" in parts.refusals(live("shop.shop.country"))
    site.sql("shop", "ROLLBACK PREPARED 'waiting'")


@contextmanager
def subscribed(site):
    """A subscription of shop.country, from another database of the server."""
    site.sql("feeding", "SELECT pg_create_logical_replication_slot('feed', 'pgoutput')")
    to = f"host=127.0.0.1 port={site.server.port} user=postgres password={site.server.password} dbname=feeding"
    site.sql("shop", f"CREATE SUBSCRIPTION feed CONNECTION '{to}' PUBLICATION feed WITH (create_slot = false, copy_data = false)")
    try:
        yield
    finally:
        site.sql("shop", "DROP SUBSCRIPTION feed")


def test_preflight_and_swap_refuse_a_table_that_a_subscription_feeds(site, live, parts):
    site.create("feeding", "CREATE SCHEMA shop; CREATE TABLE shop.country (code text PRIMARY KEY, name text)")
    site.sql("feeding", "CREATE PUBLICATION feed FOR TABLE shop.country")
    restore, words = live("shop.shop.country"), "the subscription feed {}would stay with the replaced shop.country"
    with subscribed(site):
        for source in (parts, Parts(site, user="reader", password="r")):
            assert words.format("of shop ").capitalize() in source.refusals(restore)
        assert "subscription" not in parts.refusals(live("shop.shop.animal"))
    parts.staged(restore)
    with subscribed(site):
        with pytest.raises(RestoreError, match=words.format("")):
            parts.swap(restore)
        assert aside(site) == set()
    parts.swap(restore)
    assert aside(site)


def test_user_without_superuser_rights_restores_own_tables(site, live):
    site.sql("postgres", "CREATE ROLE landlord LOGIN PASSWORD 'l'", "CREATE DATABASE house OWNER postgres")
    who = {"user": "landlord", "password": "l"}
    try:
        site.sql("house", "CREATE SCHEMA rooms AUTHORIZATION landlord", "GRANT USAGE ON SCHEMA rooms TO reader")
        site.sql("house", "CREATE TABLE rooms.room AS SELECT generate_series(1, 9) AS id", "GRANT SELECT ON rooms.room TO reader", **who)
        views = (
            "CREATE VIEW rooms.seen AS SELECT id FROM rooms.room",
            "CREATE MATERIALIZED VIEW rooms.counted AS SELECT count(*) FROM rooms.seen",
        )
        site.sql("house", *views, **who)
        restore = site.restore(site.back_up(site.source("house")), only=["house.rooms"])
        parts = Parts(site, **who)
        refusals = parts.refusals(restore)
        assert "ALTER ROLE landlord CREATEDB" in refusals
        assert "may not create schemas in house" in refusals
        site.sql("house", "ALTER ROLE landlord CREATEDB CREATEROLE", "GRANT CREATE ON DATABASE house TO landlord", "DELETE FROM rooms.room")
        before = everything(site, "house")
        parts.staged(restore)
        parts.swap(restore)
        assert site.sql("house", "SELECT count(*) FROM rooms.room", user="reader", password="r") == [(9,)]
        assert site.sql("house", "SELECT * FROM rooms.counted") == [(9,)]
        parts.roll_back(restore)
        parts.discard(restore)
        assert everything(site, "house") == before
    finally:
        site.sql("postgres", "DROP DATABASE house WITH (FORCE)", "DROP ROLE landlord")
