"""Databases with more definitions, and more kinds of them, than any test would write down."""

import pytest

from sandbox.servers import Postgres
from tests.support import postgres_regression
from tests.support.postgres_site import Site

pytestmark = [pytest.mark.long, pytest.mark.servers]
RELATIONS = """SELECT count(*) FILTER (WHERE relkind IN ('r', 'p')), count(*) FILTER (WHERE relkind IN ('i', 'I'))
    FROM pg_class WHERE oid > 16383 AND relnamespace <> 'pg_toast'::regnamespace"""
PLAIN, PARTITIONED, PARTS = 1700, 30, 9
MAKE = f"""DO $$ BEGIN
  CREATE SCHEMA shop;
  FOR n IN 1..{PLAIN} LOOP
    EXECUTE format('CREATE TABLE shop.t%1$s (id int PRIMARY KEY, parent int, name text NOT NULL DEFAULT %2$L, amount numeric(12, 2)
        CONSTRAINT "amount of %1$s" CHECK (amount > -%1$s), at timestamptz)', n, 'name ' || n);
    EXECUTE format('CREATE INDEX ON shop.t%1$s (lower(name)) WHERE amount > %1$s', n);
    EXECUTE format('CREATE INDEX ON shop.t%s (parent, at DESC)', n);
    EXECUTE format('INSERT INTO shop.t%s SELECT i, 1, ''row '' || i, i FROM generate_series(1, 3) i', n);
    IF n > 1 THEN EXECUTE format('ALTER TABLE shop.t%s ADD FOREIGN KEY (parent) REFERENCES shop.t%s', n, n / 2); END IF;
    IF n % 10 = 0 THEN
      EXECUTE format('CREATE VIEW shop.v%s AS SELECT a.id, b.name, a.amount + 1 AS more FROM shop.t%s a JOIN shop.t%s b ON b.id = a.parent
        WHERE a.name IN (''a'', ''row 1'')', n, n, n / 2);
    END IF;
    COMMIT;
  END LOOP;
  FOR n IN 1..{PARTITIONED} LOOP
    EXECUTE format('CREATE TABLE shop.p%1$s (id int, day int CHECK (day > -%1$s), t int REFERENCES shop.t%1$s, PRIMARY KEY (id, day))
        PARTITION BY RANGE (day)', n);
    FOR m IN 1..{PARTS} LOOP
      EXECUTE format('CREATE TABLE shop.p%1$s_%2$s PARTITION OF shop.p%1$s FOR VALUES FROM (%2$s) TO (%2$s + 1)', n, m);
    END LOOP;
    EXECUTE format('CREATE INDEX ON shop.p%s (t)', n);
    EXECUTE format('INSERT INTO shop.p%s SELECT i, i, 1 FROM generate_series(1, {PARTS}) i', n);
    COMMIT;
  END LOOP;
END $$"""


def comes_back(source, restore):
    """Restore, compare at each step, and roll back."""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert {change.what for change in source.compare(restore)} == {"equal"}
    source.roll_back(restore)
    source.discard(restore)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("major", [16, 18])
def test_regression_database_of_postgresql_comes_back_equal(server_folder, tmp_path, major):
    folder = server_folder / f"regression-{major}"
    folder.mkdir()
    with Postgres(server_folder / f"postgres-regression-{major}", major, postgres_regression.OPTIONS) as server:
        site = Site(server, tmp_path)
        postgres_regression.make(server, "regression", folder)
        [(tables, indexes)] = site.sql("regression", RELATIONS)
        assert tables > 500
        assert indexes > 200
        source = site.source("regression")
        comes_back(source, site.restore(site.back_up(source)))


@pytest.fixture(scope="module")
def large(server_folder, tmp_path_factory):
    """A server with the settings of an installation, and a set of a database with thousands of tables and indexes on it."""
    with Postgres(server_folder / "postgres-large", 18) as server:
        site = Site(server, tmp_path_factory.mktemp("large"))
        site.create("large")
        with server.connect("large") as connection:
            connection.execute(MAKE)
        yield site, site.back_up(site.source("large"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("only", [(), ("large.shop.t7",), ("large.shop.p3",)], ids=["whole", "a table", "a partitioned table"])
def test_database_of_thousands_of_tables_comes_back_equal_whole_and_in_parts(large, only):
    site, saved = large
    assert site.sql("large", RELATIONS) == [(PLAIN + PARTITIONED * (PARTS + 1), 3 * PLAIN + 2 * PARTITIONED * (PARTS + 1))]
    site.sql("large", "DELETE FROM shop.p3 WHERE day = 3", "UPDATE shop.t7 SET amount = 0")
    comes_back(site.source("large"), site.restore(saved, only=only))
