"""The swap, the rollback, and what preflight refuses, on a real server."""

import time

import psycopg
import pytest
from psycopg.sql import SQL

from recovery.common.errors import RestoreError, VerificationError
from recovery.sources.postgres.accounts import server_globals
from recovery.sources.postgres.databases import custody, swap
from sandbox.servers import Postgres
from tests.support.kills import Killed, die, killed_at_statement, killed_at_step
from tests.support.local_restore import read_dump
from tests.support.postgres_site import Site, contents


@pytest.fixture(scope="module")
def site(server_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("postgres-switch")
    options = [
        "max_prepared_transactions=5",
        "wal_level=logical",
        "autovacuum_naptime=1s",
        f"extension_control_path=$system:{extension(server_folder)}",
    ]
    with Postgres(server_folder / "postgres-switch", 18, options) as server:
        yield Site(server, folder)


def extension(folder):
    """An extension with a table whose rows are the user's, but for those that it brought itself."""
    share = folder / "share"
    (share / "extension").mkdir(parents=True, exist_ok=True)
    share.parent.chmod(0o755)
    (share / "extension/rates.control").write_text("default_version = '1.0'\nrelocatable = false\nschema = rates\n")
    (share / "extension/rates--1.0.sql").write_text(
        "CREATE TABLE rate (name text PRIMARY KEY, value numeric, own bool DEFAULT true);"
        "INSERT INTO rate VALUES ('built in', 1, false); CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1';"
        "SELECT pg_extension_config_dump('rate', 'WHERE own');"
    )
    return share


NAMES = ("shop", "stock")


def clean(site):
    for name in site.databases() - {"postgres", "template0", "template1"}:
        site.sql("postgres", f'DROP DATABASE "{name}" WITH (FORCE)')
    site.sql("postgres", *(f"DROP ROLE IF EXISTS {role}" for role in ("gone", "gone_group", "clerk")))


@pytest.fixture(scope="module")
def saved(site):
    """A set of two databases, one of whose tables and two of whose roles are about to be lost."""
    site.sql(
        "postgres", "CREATE ROLE clerk LOGIN PASSWORD 'old'", "CREATE ROLE gone_group", "CREATE ROLE gone LOGIN PASSWORD 'gone' CREATEDB"
    )
    site.sql("postgres", "GRANT gone_group TO clerk", "GRANT pg_monitor TO gone WITH ADMIN OPTION", "ALTER ROLE gone SET work_mem = '3MB'")
    for name in NAMES:
        site.create(
            name, "CREATE TABLE t AS SELECT 'saved' AS state", "GRANT SELECT ON t TO gone_group, gone", "ALTER TABLE t OWNER TO gone"
        )
        site.sql("postgres", f"ALTER DATABASE {name} SET work_mem = '7MB'", f"GRANT CREATE ON DATABASE {name} TO gone")
    backup = site.back_up(site.source(*NAMES))
    clean(site)
    return backup


@pytest.fixture
def shop(site, saved):
    """The databases as they are now: other content, roles gone, another password."""
    site.sql("postgres", "CREATE ROLE clerk LOGIN PASSWORD 'new' CREATEROLE")
    for name in NAMES:
        site.create(name, "CREATE TABLE t AS SELECT 'live' AS state")
    yield site.source(*NAMES), site.restore(saved)
    clean(site)


def state(site, database="shop"):
    return site.sql(database, "SELECT state FROM t")[0][0]


def may_log_in(site, user, password):
    try:
        site.sql("postgres", "SELECT 1", user=user, password=password)
    except psycopg.OperationalError:
        return False
    return True


def names(site):
    return {name for name in site.databases() if name.startswith(("shop", "stock"))}


def as_before(site):
    return names(site) == {"shop", "stock"} and state(site) == state(site, "stock") == "live"


def test_swap_puts_the_set_live_and_rollback_returns_previous_databases_and_roles(site, shop):
    source, restore = shop
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert state(site) == "live"
    assert not may_log_in(site, "gone", "gone")
    source.swap(restore)
    assert names(site) == {"shop", "stock", f"shop__before_{restore.id}", f"stock__before_{restore.id}"}
    assert state(site) == state(site, "stock") == "saved"
    assert site.sql("shop", "SHOW work_mem") == [("7MB",)]
    assert site.sql("shop", "SELECT has_database_privilege('gone', 'shop', 'CREATE')") == [(True,)]
    assert may_log_in(site, "gone", "gone")
    assert may_log_in(site, "clerk", "new")
    assert not may_log_in(site, "clerk", "old")
    assert site.sql("shop", "SELECT state FROM t", user="clerk", password="new") == [("saved",)]
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        site.server.connect(f"shop__before_{restore.id}")
    source.finalize(restore)
    source.discard(restore)
    assert state(site) == "saved"
    assert may_log_in(site, "gone", "gone")
    source.roll_back(restore)
    assert not may_log_in(site, "gone", "gone")
    assert state(site) == "live"
    assert site.sql("shop", "SELECT count(*) FROM pg_auth_members WHERE roleid = 'gone_group'::regrole") == [(0,)]
    source.discard(restore)
    source.discard(restore)
    assert as_before(site)
    assert site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'gone%'") == []


def test_replaced_copies_are_listed_and_dropped_by_restore(site, shop):
    source, restore = shop
    site.create("shop__before_00000000_not")
    site.create("other__before_11111111")
    source.stage(restore)
    source.swap(restore)
    assert source.replaced_copies() == [restore.id]
    assert site.source().replaced_copies() == sorted([restore.id, "11111111"])
    site.source("postgres").drop_replaced(restore)
    assert "other__before_11111111" in site.databases()
    assert source.replaced_copies() == []
    assert state(site) == "saved"
    assert names(site) == {"shop", "stock", "shop__before_00000000_not"}


ENDED = r"FROM pg_stat_activity\s+WHERE datname = ANY"
RENAMED = r"RENAME TO"
POINTS = {
    "before the journal has the swap": lambda restore, _: killed_at_step(restore, "switch", after=False),
    "before the databases are closed": lambda restore, _: killed_at_step(restore, "switch", after=True),
    "after the databases are closed": lambda _, patch: killed_at_statement(patch, ENDED, after=True),
    "before the first rename": lambda _, patch: killed_at_statement(patch, RENAMED),
    "after the first database is open": lambda _, patch: killed_at_statement(patch, "ALLOW_CONNECTIONS true", after=True),
    "before the commit": lambda _, patch: killed_at_statement(patch, "COMMIT"),
}
BACK_POINTS = {
    "before the databases are closed": lambda restore, _: killed_at_step(restore, "switch back", after=True),
    "after the databases are closed": lambda _, patch: killed_at_statement(patch, ENDED, after=True),
    "after the first rename": lambda _, patch: killed_at_statement(patch, RENAMED, after=True),
    "before the first role is asleep": lambda _, patch: killed_at_statement(patch, "ALTER ROLE .* NOLOGIN"),
}


@pytest.mark.parametrize("point", POINTS)
def test_swap_resumes_after_a_kill(site, shop, monkeypatch, point):
    source, restore = shop
    source.stage(restore)
    with POINTS[point](restore, monkeypatch):
        source.swap(restore)
    source.swap(restore)
    assert state(site) == state(site, "stock") == "saved"
    source.swap(restore)
    source.roll_back(restore)
    source.discard(restore)
    assert as_before(site)


@pytest.mark.parametrize("point", POINTS)
def test_rollback_succeeds_after_a_killed_swap(site, shop, monkeypatch, point):
    source, restore = shop
    source.stage(restore)
    with POINTS[point](restore, monkeypatch):
        source.swap(restore)
    source.roll_back(restore)
    assert state(site) == state(site, "stock") == "live"
    source.discard(restore)
    assert as_before(site)
    assert not may_log_in(site, "gone", "gone")


@pytest.mark.parametrize("point", BACK_POINTS)
def test_rollback_resumes_after_a_kill(site, shop, monkeypatch, point):
    source, restore = shop
    source.stage(restore)
    source.swap(restore)
    with BACK_POINTS[point](restore, monkeypatch):
        source.roll_back(restore)
    source.roll_back(restore)
    source.roll_back(restore)
    source.discard(restore)
    assert as_before(site)


def test_swap_killed_while_the_journal_is_written_changes_nothing(site, shop):
    source, restore = shop
    source.stage(restore)
    restore.on_journal = die
    with pytest.raises(Killed):
        source.swap(restore)
    assert state(site) == "live"
    source.roll_back(restore)
    source.discard(restore)
    assert as_before(site)


def test_swap_killed_after_its_commit_counts_as_done(site, shop, monkeypatch):
    source, restore = shop
    source.stage(restore)
    with killed_at_statement(monkeypatch, "COMMIT", after=True):
        source.swap(restore)
    source.swap(restore)
    source.discard(restore)
    assert state(site) == "saved"
    source.roll_back(restore)
    source.discard(restore)
    assert as_before(site)


def test_stage_repeated_recreates_the_staged_database_and_keeps_other_restores(site, shop):
    source, restore = shop
    source.stage(restore)
    site.sql(f"shop__stage_{restore.id}", "DROP TABLE t")
    site.create("shop__stage_ffffffff")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert "shop__stage_ffffffff" in site.databases()
    source.discard(restore)
    assert names(site) == {"shop", "stock", "shop__stage_ffffffff"}
    assert site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'gone%'") == []


def test_missing_database_is_restored_by_swap_and_removed_by_rollback(site, shop):
    source, restore = shop
    site.sql("postgres", "DROP DATABASE shop")
    preflight = source.preflight(restore)
    assert any("Database shop is not there" in finding.text for finding in preflight.findings)
    assert not [finding for finding in preflight.findings if finding.level == "refusal"]
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert state(site) == state(site, "stock") == "saved"
    source.roll_back(restore)
    assert "shop" not in site.databases()
    source.discard(restore)
    assert names(site) == {"stock"}


def test_swap_ends_open_sessions_and_discards_uncommitted_writes(site, shop):
    source, restore = shop
    source.stage(restore)
    busy = site.server.connect("shop")
    busy.execute("BEGIN")
    busy.execute("UPDATE t SET state = 'lost'")
    source.swap(restore)
    with pytest.raises(psycopg.OperationalError):
        busy.execute("COMMIT")
    busy.close()
    source.roll_back(restore)
    assert state(site) == "live"


def test_discard_keeps_a_created_role_that_owns_objects_of_another_database(site, shop):
    source, restore = shop
    source.stage(restore)
    site.create("elsewhere", "CREATE TABLE theirs ()", "ALTER TABLE theirs OWNER TO gone")
    source.discard(restore)
    assert site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'gone%'") == [("gone",)]
    assert not may_log_in(site, "gone", "gone")


def test_swap_without_a_staged_database_is_refused(site, shop):
    source, restore = shop
    with pytest.raises(RestoreError, match="no staged database"):
        source.swap(restore)
    source.roll_back(restore)
    assert as_before(site)


def texts(source, restore, level):
    return "\n".join(finding.text for finding in source.preflight(restore).findings if finding.level == level)


def test_preflight_reports_replaced_databases_sessions_roles_and_needed_space(site, shop):
    source, restore = shop
    session = site.server.connect("shop", application_name="till")
    preflight = source.preflight(restore)
    facts = texts(source, restore, "fact")
    system = site.sql("postgres", "SELECT system_identifier::text FROM pg_control_system()")[0][0]
    assert preflight.fingerprint == source.fingerprint(restore) == f"{system} at 127.0.0.1:{site.server.port}"
    assert f"is replaced and kept as shop__before_{restore.id}" in facts
    assert "1 of postgres (till)" in facts
    assert "created, without rights until the cutover: gone, gone_group" in facts
    warnings = texts(source, restore, "warning")
    assert "Role clerk exists and stays as it is: createrole is True, the set has False" in warnings
    assert texts(source, restore, "refusal") == ""
    assert names(site) == {"shop", "stock"}
    assert preflight.bytes_needed[str(restore.folder)] > 0
    session.close()


def test_preflight_refuses_prepared_transactions_replication_slots_and_subscriptions(site, shop):
    source, restore = shop
    site.sql("stock", "SELECT pg_create_logical_replication_slot('follower', 'pgoutput')")
    with site.server.connect("shop") as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t VALUES ('prepared')")
        connection.execute("PREPARE TRANSACTION 'waiting'")
    site.sql("stock", "CREATE SUBSCRIPTION feed CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)")
    try:
        refusals = texts(source, restore, "refusal")
        assert "prepared transaction 'waiting' in shop" in refusals
        assert "slot follower would stay with the replaced database stock" in refusals
        assert "subscription feed would stay" in refusals
        assert "in place" not in refusals, "since that would drop the database, which is no better"
        in_place = site.restore(restore.set_folder, in_place=True)
        refusals = texts(source, in_place, "refusal")
        assert "prepared transaction 'waiting' in shop blocks dropping it" in refusals
        assert "slot follower would be lost with the replaced database stock" in refusals
        assert "subscription feed would be lost" in refusals
        with pytest.raises(RestoreError, match="'waiting' in shop"):
            source.replace(in_place)
        assert as_before(site)
        source.stage(restore)
        with pytest.raises(RestoreError, match="'waiting' in shop"):
            source.swap(restore)
        assert state(site) == "live"
    finally:
        site.sql("shop", "ROLLBACK PREPARED 'waiting'")
        site.sql(
            "stock",
            "SELECT pg_drop_replication_slot('follower')",
            "ALTER SUBSCRIPTION feed SET (slot_name = NONE)",
            "DROP SUBSCRIPTION feed",
        )
    source.discard(restore)


def test_preflight_refuses_database_names_that_would_be_truncated(site):
    longest = "n" * 46
    for name, refused in ((longest, False), (longest + "n", True)):
        site.create(name, "CREATE TABLE t AS SELECT 1 a")
        source = site.source(name)
        restore = site.restore(site.back_up(source))
        for asked in (restore, site.restore(restore.set_folder, in_place=True)):  # which stages a copy, too, and sets aside
            assert ("is too long" in texts(source, asked, "refusal")) == refused
        if not refused:
            source.stage(restore)
            source.swap(restore)
            assert f"{name}__before_{restore.id}" in site.databases()
            source.drop_replaced(restore)
        site.sql("postgres", f"DROP DATABASE {name}")


def test_preflight_refuses_a_swap_of_the_pg_cron_database_and_warns_in_place(site, shop):
    source, restore = shop
    site.sql("postgres", "ALTER DATABASE postgres SET cron.database_name = 'stock'")
    try:
        refusals = texts(source, restore, "refusal")
        assert "pg_cron is bound to database stock" in refusals
        assert "choose method: in place" in refusals
        in_place = site.restore(restore.set_folder, in_place=True)
        assert texts(source, in_place, "refusal") == ""
        assert "set cron.launch_active_jobs to off" in texts(source, in_place, "warning")
    finally:
        site.sql("postgres", "ALTER DATABASE postgres RESET cron.database_name")


def test_preflight_refuses_missing_extensions_and_tablespaces(site, shop):
    source, restore = shop
    rows = restore.rows
    missing = [("extension", "postgis", {"version": "3.4", "schema": "public"}), ("table", "x", {"tablespace": "fast", "bytes": 1})]
    restore.rows = lambda artifact, *kinds: iter(
        [*rows(artifact, *kinds), *(row for row in missing if artifact == "shop" and row[0] in kinds)]
    )
    refusals = texts(source, restore, "refusal")
    assert "needs the extension postgis 3.4, which is not installed" in refusals
    assert "tablespace fast" in refusals


def test_preflight_refuses_a_user_without_rights_and_names_the_needed_grants(site, shop):
    _, restore = shop
    site.sql("postgres", "CREATE ROLE little LOGIN PASSWORD 'l'")
    try:
        refusals = texts(site.source("shop", "stock", user="little", password="l"), restore, "refusal")
        assert "ALTER ROLE little CREATEDB" in refusals
        assert "ALTER ROLE little CREATEROLE" in refusals
        assert "GRANT pg_signal_backend TO little" in refusals
        assert "roles are missing or asleep: gone, gone_group" in refusals
        assert "postgres, who owns a part of what is restored or replaced, is a superuser. Restore as a superuser." in refusals
        assert "GRANT postgres" not in refusals
    finally:
        site.sql("postgres", "DROP ROLE little")


def test_owner_without_superuser_rights_stages_swaps_and_rolls_back(site):
    site.sql("postgres", "CREATE ROLE landlord LOGIN PASSWORD 'l' CREATEDB CREATEROLE", "GRANT pg_signal_backend TO landlord")
    site.sql("postgres", "CREATE DATABASE house OWNER landlord")
    who = {"user": "landlord", "password": "l"}
    site.sql("house", "CREATE TABLE t AS SELECT 'saved' AS state", "SELECT lo_from_bytea(0, 'x')", **who)
    source = site.source("house", **who)
    restore = site.restore(site.back_up(source))
    site.sql("house", "UPDATE t SET state = 'live'", **who)
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    session = site.server.connect("house", **who)
    source.swap(restore)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    assert state(site, "house") == "saved"
    source.roll_back(restore)
    source.discard(restore)
    assert state(site, "house") == "live"
    site.sql("postgres", "DROP DATABASE house", "DROP ROLE landlord")


def test_configuration_tables_of_extensions_are_staged_and_verified(site):
    site.create("priced", "CREATE EXTENSION rates", "INSERT INTO rates.rate VALUES ('mine', 2.50)", "CREATE EXTENSION vector")
    site.sql("priced", "CREATE TABLE item AS SELECT '[1,2.5,-3e-7]'::vector(3) AS v", "CREATE INDEX ON item USING hnsw (v vector_l2_ops)")
    source = site.source("priced")
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    assert source.verify_staged(restore) == []
    staged = f"priced__stage_{restore.id}"
    assert site.sql(staged, "SELECT name, value::text FROM rates.rate ORDER BY 1") == [("built in", "1"), ("mine", "2.50")]
    site.sql(staged, "UPDATE rates.rate SET value = 3 WHERE own")
    assert {(found.kind, found.name) for found in source.verify_staged(restore)} == {("table", "rates.rate")}
    source.discard(restore)
    site.sql("postgres", "DROP DATABASE priced")


def test_swap_is_not_blocked_by_autovacuum(site, shop):
    source, restore = shop
    site.sql("shop", "CREATE TABLE busy AS SELECT generate_series(1, 50000) a", "DELETE FROM busy WHERE a % 2 = 0")
    source.stage(restore)
    time.sleep(1)
    source.swap(restore)
    assert state(site) == "saved"


def test_rename_ends_autovacuum_that_the_user_may_not_terminate(site):
    """A user without superuser rights may not end it, and need not."""
    site.sql("postgres", "CREATE ROLE landlord LOGIN PASSWORD 'l' CREATEDB CREATEROLE", "GRANT pg_signal_backend TO landlord")
    site.sql("postgres", "CREATE DATABASE house OWNER landlord")
    slow = "autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100"
    site.sql(
        "house",
        f"CREATE TABLE busy WITH ({slow}, autovacuum_vacuum_cost_limit = 1) AS SELECT generate_series(1, 100000) a",
        "DELETE FROM busy WHERE a % 2 = 0",
        "SELECT pg_stat_force_next_flush()",
    )
    workers = "SELECT pid FROM pg_stat_activity WHERE datname = 'house' AND backend_type = 'autovacuum worker'"
    deadline = time.monotonic() + 60
    while not site.sql("postgres", workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert site.sql("postgres", workers)
    with site.server.connect("postgres", user="landlord", password="l") as connection:
        custody.close(connection, ["house"])
        assert site.sql("postgres", workers)
        swap.rename(connection, "house", "home")
    assert "home" in site.databases()
    site.sql("postgres", "DROP DATABASE home WITH (FORCE)", "DROP ROLE landlord")


def test_template_database_is_restored_as_a_template(site):
    site.create("mold", "CREATE TABLE t AS SELECT 'saved' AS state")
    site.sql("postgres", "ALTER DATABASE mold IS_TEMPLATE true")
    source = site.source("mold")
    backup = site.back_up(source)
    site.sql("mold", "UPDATE t SET state = 'live'")
    templates = "SELECT datname FROM pg_database WHERE datistemplate AND datname LIKE 'mold%'"
    restore = site.restore(backup)
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert ("mold",) in site.sql("postgres", templates)
    source.roll_back(restore)
    source.discard(restore)
    assert state(site, "mold") == "live"
    source.stage(restore)
    source.swap(restore)
    source.drop_replaced(restore)
    assert site.sql("postgres", templates) == [("mold",)]
    in_place = site.restore(backup, in_place=True)
    assert texts(source, in_place, "refusal") == ""
    source.replace(in_place)
    assert source.verify_staged(in_place) == []
    source.let_in(in_place)
    source.finalize(in_place)
    assert site.sql("postgres", templates) == [("mold",)]
    site.sql("postgres", "ALTER DATABASE mold IS_TEMPLATE false", "DROP DATABASE mold")


def test_preflight_refuses_a_half_dropped_database(site, shop):
    source, restore = shop
    site.sql("postgres", "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'shop'")
    assert "Database shop was left by a DROP DATABASE that did not end" in texts(source, restore, "refusal")
    in_place = site.restore(restore.set_folder, in_place=True)
    assert "Database shop lets no connections in" in texts(source, in_place, "refusal")


@pytest.fixture
def granted(site):
    """A set in which somebody has all rights of a membership, half of them from another grantor; and rights on settings."""
    roles = ("app", "boss", "tuner")
    site.sql("postgres", "CREATE ROLE boss LOGIN CREATEROLE PASSWORD 'b'", "CREATE ROLE tuner", "ALTER ROLE ALL SET app.motto = 'all'")
    site.sql("postgres", "SET createrole_self_grant = 'set, inherit'", "CREATE ROLE app", user="boss", password="b")
    site.sql("postgres", "GRANT SET, ALTER SYSTEM ON PARAMETER log_statement TO tuner", "GRANT SET ON PARAMETER log_statement TO PUBLIC")
    site.sql("postgres", "GRANT SET ON PARAMETER app.level TO tuner WITH GRANT OPTION")
    site.create("house", "CREATE TABLE t AS SELECT 'saved' AS state")
    backup = site.back_up(site.source("house"))
    site.sql("postgres", "REVOKE ALL ON PARAMETER log_statement, app.level FROM tuner, PUBLIC", "ALTER ROLE ALL RESET app.motto")
    yield backup
    site.sql("postgres", "DROP DATABASE house WITH (FORCE)")
    there = [role for role in roles if site.sql("postgres", f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'")]
    site.sql("postgres", *(f"DROP OWNED BY {role}" for role in there), *(f"DROP ROLE {role}" for role in there))


MAY = "SELECT pg_has_role('boss', 'app', 'USAGE'), pg_has_role('boss', 'app', 'SET'), pg_has_role('boss', 'app', 'USAGE WITH ADMIN OPTION')"


@pytest.mark.parametrize("gone", [["app", "boss"], ["app"]])
def test_swap_restores_role_memberships_with_the_rights_of_all_grantors(site, granted, gone):
    site.sql("postgres", *(f"DROP ROLE {role}" for role in gone))
    source, restore = site.source("house"), site.restore(granted)
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert site.sql("postgres", MAY) == [(True, True, True)]
    source.roll_back(restore)
    source.discard(restore)


def test_swap_fails_without_renames_when_a_role_membership_has_too_few_rights(site, granted, monkeypatch):
    site.sql("postgres", "DROP ROLE app")
    source, restore = site.source("house"), site.restore(granted)
    source.stage(restore)
    with monkeypatch.context() as patch:
        patch.setattr(server_globals, "grants", lambda member, groups: [SQL("GRANT app TO boss")])
        with pytest.raises(VerificationError, match="role boss: it has less of app than in the set"):
            source.swap(restore)
    assert site.databases() >= {"house", f"house__stage_{restore.id}"}
    source.roll_back(restore)
    source.discard(restore)


def test_rights_on_settings_are_restored_for_new_roles_and_reported_for_existing_roles(site, granted):
    source, restore = site.source("house"), site.restore(granted)
    warnings = texts(source, restore, "warning")
    assert "Role tuner exists and stays as it is: parameters is nothing, the set has" in warnings
    assert "stays as it is: settings is nothing, the set has ['app.motto=all']" in warnings
    assert "stays as it is: parameters is nothing, the set has [['log_statement', 'SET', False]]" in warnings
    site.sql("postgres", "DROP ROLE tuner")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    rights = (("log_statement", "ALTER SYSTEM"), ("app.level", "SET WITH GRANT OPTION"))
    may = "SELECT " + ", ".join(f"has_parameter_privilege('tuner', '{name}', '{right}')" for name, right in rights)
    source.swap(restore)
    assert site.sql("postgres", may) == [(True, True)]
    source.roll_back(restore)
    source.discard(restore)
    assert site.sql("postgres", "SELECT 1 FROM pg_roles WHERE rolname = 'tuner'") == []


# Roles that a restore left asleep -----------------------------------------------------------------------------------


def refused(site, shop):
    """A restore that was swapped and rolled back; its copies and roles are still there."""
    source, restore = shop
    source.stage(restore)
    source.swap(restore)
    source.roll_back(restore)
    return restore


def test_stage_takes_over_roles_of_a_rolled_back_restore(site, saved, shop):
    source, _ = shop
    first = refused(site, shop)
    site.sql("postgres", "ALTER ROLE gone SUPERUSER PASSWORD 'other' VALID UNTIL '2001-01-01'", "ALTER ROLE gone SET timezone = 'UTC'")
    site.sql("postgres", "GRANT pg_read_all_data TO gone")
    second = site.restore(saved)
    assert "takes over: gone, gone_group" in texts(source, second, "fact")
    warnings = texts(source, second, "warning")
    assert "Role gone" not in warnings
    assert "log in as gone" not in warnings
    source.stage(second)
    assert source.verify_staged(second) == []
    source.discard(first)
    assert source.verify_staged(second) == [], "its roles are not the first one's any more"
    source.swap(second)
    source.finalize(second)
    source.discard(first)
    assert may_log_in(site, "gone", "gone")
    assert site.sql("shop", "SELECT state FROM t", user="clerk", password="new") == [("saved",)]
    as_now = "SELECT rolsuper, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'gone'"
    assert site.sql("postgres", as_now) == [(False, None)]
    source.roll_back(second)
    source.discard(second)
    assert as_before(site)
    assert site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'gone%'") == []


def test_preflight_and_stage_refuse_roles_that_wait_for_the_swap_of_another_restore(site, saved, shop):
    source, first = shop
    source.stage(first)
    second = site.restore(saved)
    second.others = frozenset({first.id})
    assert "Roles wait for the swap of another restore that has not ended: gone, gone_group" in texts(source, second, "refusal")
    with pytest.raises(RestoreError, match=f"waits for the swap of the restore {first.id}"):
        source.stage(second)
    source.discard(second)
    source.swap(first)
    assert may_log_in(site, "gone", "gone")
    source.roll_back(first)
    source.discard(first)


def test_swap_is_refused_when_a_role_that_the_restore_created_is_missing(site, shop):
    source, restore = shop
    source.stage(restore)
    for database in (f"shop__stage_{restore.id}", f"stock__stage_{restore.id}"):
        site.sql(database, "REASSIGN OWNED BY gone_group TO postgres", "DROP OWNED BY gone_group")
    site.sql("postgres", "DROP ROLE gone_group")
    with pytest.raises(RestoreError, match="Roles that this restore created are gone: gone_group"):
        source.swap(restore)
    source.roll_back(restore)
    source.discard(restore)
    assert as_before(site)


@pytest.mark.parametrize("use", ["ALTER ROLE gone LOGIN", "COMMENT ON ROLE gone IS 'ours now'", "COMMENT ON ROLE gone IS NULL"])
def test_discard_keeps_a_role_whose_login_or_comment_was_changed(site, shop, use):
    source, _ = shop
    first = refused(site, shop)
    site.sql("postgres", use)
    source.discard(first)
    assert site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'gone%'") == [("gone",)]


def test_swap_keeps_an_existing_role_without_login_and_preflight_warns(site, shop):
    source, restore = shop
    site.sql("postgres", "ALTER ROLE clerk NOLOGIN")
    assert "Nobody can log in as clerk, before or after the restore" in texts(source, restore, "warning")
    source.stage(restore)
    source.swap(restore)
    assert not may_log_in(site, "clerk", "new")
    source.roll_back(restore)
    source.discard(restore)


def test_backup_omits_the_asleep_mark_of_a_role_and_warns(site, shop):
    source, _ = shop
    first = refused(site, shop)
    backup = site.back_up(source)
    assert contents(backup, "globals")["role", "gone"]["comment"] is None
    assert any("gone was left without LOGIN by a restore" in warning for warning in read_dump(backup).warnings)
    source.discard(first)
