"""Sets of an older major version of PostgreSQL, restored there and into a newer one."""

import pytest

from recovery.sources.postgres.accounts.versions import known_rights, membership
from sandbox.servers import Postgres
from tests.sources.postgres.tables.test_restore import LOST, SHOP, Parts
from tests.sources.postgres.test_dump import ODD, differing, hard_database, staged
from tests.support.postgres_site import Site
from tests.support.postgres_versions import majors

MAINTAIN = "SELECT grantee.rolname FROM pg_class, aclexplode(relacl), pg_roles grantee WHERE pg_class.oid = '{}'::regclass"
MAINTAIN += " AND grantee.oid = grantee AND privilege_type = 'MAINTAIN'"


@pytest.fixture(scope="module", params=majors(16, without=(18,)))
def older(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres{request.param}", request.param) as server:
        yield Site(server, tmp_path_factory.mktemp(f"postgres{request.param}"))


class Builtin(Postgres):
    """A server whose new databases have PostgreSQL's own locale if nothing else is said."""

    locale = ("--locale=C.UTF-8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")


@pytest.fixture(scope="module")
def newer(older, server_folder, tmp_path_factory):
    with Builtin(server_folder / f"postgres18-after-{older.server.major}", 18) as server:
        yield Site(server, tmp_path_factory.mktemp("postgres18"))


@pytest.fixture(scope="module")
def hard_set(older):
    if older.server.major < 14:
        pytest.skip("the hard database has a function with a parsed body, which PostgreSQL 14 brought")
    return hard_database(older)


def test_set_of_an_older_version_is_restored_equal_on_that_version(older, hard_set):
    source, restore = staged(older, hard_set)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert older.sql(ODD, "SELECT count(*) FROM shop.customer") == [(302,)]
    source.roll_back(restore)
    source.discard(restore)


def test_set_of_an_older_version_is_restored_equal_on_postgresql_18(newer, hard_set):
    source, restore = staged(newer, hard_set)
    assert source.verify_staged(restore) == []
    assert source.compare(restore), "the database is not there yet"
    changes = {
        "GRANT DELETE ON shop.a TO hard_reader": ("table", "shop.a"),
        "REVOKE INSERT ON shop.empty FROM CURRENT_USER": ("table", "shop.empty"),
        "ALTER PUBLICATION shouted SET (publish = 'delete')": ("publication", "shouted"),
    }
    newer.sql(f"{ODD}__stage_{restore.id}", *changes)
    assert differing(source, restore) == set(changes.values())
    source.stage(restore)
    source.swap(restore)
    assert newer.sql(ODD, "SELECT count(*) FROM shop.customer") == [(302,)]
    assert {change.what for change in source.compare(newer.restore(hard_set))} == {"equal", "other text"}
    source.roll_back(restore)
    source.discard(restore)


def test_single_table_of_an_older_version_is_restored_into_postgresql_18(older, newer):
    for site in (older, newer):
        site.sql("postgres", "CREATE ROLE keeper", "CREATE ROLE reader", "CREATE ROLE writer", "CREATE ROLE gone")
        site.create("shop", SHOP)
    saved = older.back_up(older.source("shop"))
    newer.sql(
        "shop", LOST, "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO writer", "ALTER DEFAULT PRIVILEGES GRANT MAINTAIN ON TABLES TO gone"
    )
    parts = Parts(newer)
    restore = newer.restore(saved, only=["shop.shop.customer"])
    parts.staged(restore)
    parts.swap(restore)
    assert newer.sql("shop", "SELECT count(*) FROM shop.customer WHERE name <> 'lost'") == [(300,)]
    assert newer.sql("shop", MAINTAIN.format("shop.customer")) == [("keeper",)]
    parts.roll_back(restore)
    parts.discard(restore)


def test_database_locale_is_restored_regardless_of_the_default_of_the_server(older, newer):
    locales = (
        "SELECT datname, coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'), datcollate, datctype, to_jsonb(d) ->> 'datlocale'"
        " FROM pg_database d ORDER BY 1"
    )
    older.sql("postgres", "CREATE DATABASE in_c_older TEMPLATE template0 LOCALE 'C'", "CREATE DATABASE in_utf_older")
    newer.sql(
        "postgres",
        "CREATE DATABASE in_c TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'",
        "CREATE DATABASE in_builtin TEMPLATE template0 LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C'",
    )
    for site, names in ((older, ("in_c_older", "in_utf_older")), (newer, ("in_c", "in_builtin"))):
        before = [row for row in site.sql("postgres", locales) if row[0] in names]
        source, restore = staged(newer, site.back_up(site.source(*names)))
        assert source.verify_staged(restore) == []
        source.swap(restore)
        assert [row for row in newer.sql("postgres", locales) if row[0] in names] == before
        source.discard(restore)


@pytest.mark.parametrize("major", majors(15, without=(16, 17, 18)))
def test_set_from_before_postgresql_16_is_restored_equal_on_postgresql_18(major, server_folder, postgres_server, tmp_path):
    newer = Site(postgres_server, tmp_path / "newer", ("old",), ("o_owner", "o_user", "o_heir"))
    newer.folder.mkdir()
    with Postgres(server_folder / f"postgres-before-16-{major}", major) as server:
        oldest = Site(server, tmp_path)
        oldest.sql("postgres", "CREATE ROLE o_owner", "CREATE ROLE o_user NOINHERIT IN ROLE o_owner", "CREATE ROLE o_heir IN ROLE o_owner")
        oldest.create(
            "old",
            "CREATE TABLE customer (id int PRIMARY KEY, name text)",
            "INSERT INTO customer VALUES (1, 'x.y')",
            "CREATE VIEW named AS SELECT id, upper(name) AS u FROM customer c"
            " WHERE name <> 'a.b' AND EXISTS (SELECT FROM customer d WHERE d.id = c.id)",
            "CREATE MATERIALIZED VIEW counted AS SELECT name, count(*) FROM customer GROUP BY name",
            "GRANT SELECT ON customer TO o_user, o_heir",
            "ALTER SCHEMA public OWNER TO o_owner",
            "GRANT CREATE ON SCHEMA public TO PUBLIC",
            "COMMENT ON SCHEMA public IS 'ours'",
        )
        saved = oldest.back_up(oldest.source("old"))
    source, restore = staged(newer, saved)
    assert source.verify_staged(restore) == []
    newer.sql(f"old__stage_{restore.id}", "CREATE OR REPLACE VIEW named AS SELECT id, lower(name) AS u FROM customer c")
    assert differing(source, restore) == {("view", "public.named")}
    source.swap(restore)
    source.roll_back(restore)
    source.discard(restore)
    newer.clean()


def test_membership_from_before_postgresql_16_gets_explicit_options():
    role = {"inherit": False, "member of": [["group", True, None, None], ["other", False, True, False]]}
    assert membership(role)["member of"] == [("group", True, False, True), ("other", False, True, False)]
    assert membership(role | {"member of": None})["member of"] is None


def test_known_rights_omits_privileges_that_the_version_lacks():
    rights = [("owner", "SELECT", False), ("owner", "MAINTAIN", False)]
    assert known_rights(16, rights) == rights[:1]
    assert known_rights(17, rights) == rights
    assert known_rights(16, None) == []
