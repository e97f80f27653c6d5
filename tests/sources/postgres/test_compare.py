"""Comparing live databases, while their owners do what they like."""

import threading

import pytest

from recovery.common.errors import SourceError
from sandbox.servers import Postgres, wait_for
from tests.support.postgres_attack import attack
from tests.support.postgres_site import Site
from tests.support.postgres_versions import majors

ATTACK = "CREATE FUNCTION mine.attack() RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE name text; BEGIN {attack} RETURN 1; END $$"


@pytest.fixture(scope="module", params=majors(18))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-compare-{request.param}", request.param) as server:
        yield Site(server, tmp_path_factory.mktemp(f"compare-{request.param}"), ("shop",), ("mallory",))


def test_sequence_that_became_a_view_runs_nothing_as_superuser(site, tmp_path):
    """Who owns a sequence can hold the session that is about to read it until another thing has its name."""
    tmp_path.chmod(0o777)
    site.sql("postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm'", "CREATE DATABASE shop OWNER mallory")
    mallory = {"user": "mallory", "password": "m"}
    site.sql(
        "shop", "CREATE SCHEMA mine", "CREATE SEQUENCE mine.s", ATTACK.replace("{attack}", attack("mallory", tmp_path / "proof")), **mallory
    )
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    with site.server.connect("shop", **mallory) as holding:
        holding.autocommit = False
        holding.execute("DROP SEQUENCE mine.s")
        holding.execute("CREATE VIEW mine.s AS SELECT mine.attack() AS last_value, true AS is_called")

        def let_go():
            wait_for("who reads the sequence", lambda: site.sql("postgres", "SELECT 1 FROM pg_locks WHERE NOT granted"))
            holding.commit()

        thread = threading.Thread(target=let_go)
        thread.start()
        with pytest.raises(SourceError, match=r'access to non-system view "s" is restricted|mine\.s in shop is no sequence any more'):
            source.compare(restore)
        thread.join()
    assert site.sql("postgres", "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'") == [(False,)]
    assert not (tmp_path / "proof").exists()
    site.clean()


def test_rights_that_an_extension_gave_to_a_role_that_is_gone_are_restored_equal(site):
    """Before PostgreSQL 17 they stay in its catalogs under the role's number, and pg_dump revokes them from a role of that name."""
    if site.server.major >= 17:
        pytest.skip("the role can't be dropped since PostgreSQL 17")
    site.create("shop", "CREATE ROLE gone", "CREATE ROLE kept", "ALTER EXTENSION plpgsql DROP FUNCTION plpgsql_validator(oid)")
    site.sql(
        "shop",
        "GRANT EXECUTE ON FUNCTION plpgsql_validator(oid) TO gone",
        "ALTER EXTENSION plpgsql ADD FUNCTION plpgsql_validator(oid)",
        "REVOKE EXECUTE ON FUNCTION plpgsql_validator(oid) FROM gone, PUBLIC",
        "GRANT EXECUTE ON FUNCTION plpgsql_validator(oid) TO kept",
        "DROP ROLE gone",
    )
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert site.sql(restore_of(site), "SELECT proacl::text FROM pg_proc WHERE proname = 'plpgsql_validator'") == [
        ("{postgres=X/postgres,kept=X/postgres}",)
    ]
    source.discard(restore)
    site.clean()
    site.sql("postgres", "DROP ROLE kept")


def restore_of(site):
    return next(name for name in site.databases() if "__stage_" in name)
