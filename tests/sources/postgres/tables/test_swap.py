"""What the exchange of single tables looks at while everybody waits for them, on a real server."""

from contextlib import contextmanager

import psycopg
import pytest

from recovery.common.errors import RestoreError
from recovery.sources.postgres.tables import swap
from sandbox.servers import Postgres
from tests.support.postgres_site import Site, texts
from tests.support.postgres_versions import majors

SHOP = (
    "CREATE TABLE orders (id int PRIMARY KEY, total int)",
    "INSERT INTO orders VALUES (1, 10)",
    "CREATE TABLE items (id int PRIMARY KEY, of int REFERENCES orders)",
    "CREATE VIEW totals AS SELECT total FROM orders",
    "CREATE TABLE others (id int)",
    "CREATE VIEW shown AS SELECT id FROM others",
)


@pytest.fixture(scope="module", params=majors(16, 18))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"swap-tables-{request.param}", request.param, ["fsync=off"]) as server:
        yield Site(server, tmp_path_factory.mktemp(f"swap-tables-{request.param}"), ("shop",))


@pytest.fixture
def restore(site):
    """Of the table ``orders``, whose row was lost."""
    site.create("shop", *SHOP)
    backup = site.back_up(site.source("shop"))
    site.sql("shop", "DELETE FROM orders")
    yield site.restore(backup, only=["shop.public.orders"])
    site.clean()


def staged(source, restore):
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []


@contextmanager
def while_rows_are_compared(monkeypatch, do):
    """A block in which something is done once, when the exchange begins to read the rows that it has put in place."""
    copy, left = psycopg.Cursor.copy, [do]

    def copying(*given, **named):
        if left:
            left.pop()()
        return copy(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Cursor, "copy", copying)
        yield
    assert not left


def test_swap_and_rollback_go_on_while_a_table_that_they_do_not_touch_is_locked(site, restore, monkeypatch):
    """To show the definition of a view, the server waits for the tables that it reads: so no other view's is asked for."""
    source = site.source("shop")
    staged(source, restore)
    monkeypatch.setattr(swap, "LOCK_TIMEOUT", "1s")
    with site.server.connect("shop") as busy, busy.transaction():
        busy.execute("LOCK TABLE others")
        source.swap(restore)
        assert site.sql("shop", "SELECT * FROM totals") == [(10,)]
        source.roll_back(restore)
        assert site.sql("shop", "SELECT * FROM totals") == []
    source.discard(restore)


def test_swap_goes_on_when_others_change_what_it_does_not_touch(site, restore, monkeypatch):
    source = site.source("shop")
    staged(source, restore)
    change = ("SET lock_timeout = '5s'", "CREATE TABLE newer (id int)", "ALTER TABLE others ADD COLUMN more int")
    with while_rows_are_compared(monkeypatch, lambda: site.sql("shop", *change)):
        source.swap(restore)
    assert site.sql("shop", "SELECT * FROM totals") == [(10,)]


def test_swap_fails_and_changes_nothing_when_others_make_something_that_would_stay_with_the_replaced_table(site, restore, monkeypatch):
    """A function that takes the type of a table's rows waits for no lock of the table."""
    source = site.source("shop")
    staged(source, restore)
    made = "CREATE FUNCTION taxed(orders) RETURNS int LANGUAGE sql AS 'SELECT 1'"
    with while_rows_are_compared(monkeypatch, lambda: site.sql("shop", made)):
        with pytest.raises(RestoreError, match=r"function public\.taxed\(.*was made meanwhile"):
            source.swap(restore)
    assert site.sql("shop", "SELECT * FROM totals") == []
    site.sql("shop", "DROP FUNCTION taxed")
    source.swap(restore)
    assert site.sql("shop", "SELECT * FROM totals") == [(10,)]
