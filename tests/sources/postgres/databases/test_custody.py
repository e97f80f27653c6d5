"""A live database's owner neither blocks its swap nor gets at the copy that is set aside, and owns it again after a rollback."""

import contextlib
import threading

import psycopg
import pytest

from recovery.common.errors import RestoreError
from recovery.sources.postgres.databases import custody, stage
from sandbox.servers import Postgres
from tests.support.kills import killed_at_statement
from tests.support.local_restore import LocalRestore
from tests.support.postgres_attack import MALLORY
from tests.support.postgres_site import Site, texts
from tests.support.postgres_versions import majors

ROLES = ("mallory", "alice", "keeper")
OUTSIDE = """SELECT pg_get_userbyid(datdba), datallowconn, datconnlimit, (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) a)
    FROM pg_database WHERE datname = 'shop'"""
KEEPER = {"user": "keeper", "password": "k"}


@pytest.fixture(scope="module", params=majors(18, without=(13, 14)))
def site(request, server_folder, tmp_path_factory):
    options = ["max_prepared_transactions=5"]
    with Postgres(server_folder / f"postgres-custody-{request.param}", request.param, options) as server:
        yield Site(server, tmp_path_factory.mktemp(f"custody-{request.param}"), ("shop",), ROLES)


@pytest.fixture
def shop(site):
    """A database of mallory, on which others have rights, and a set of it."""
    site.sql("postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm' CREATEDB", "CREATE ROLE alice LOGIN PASSWORD 'a'")
    site.sql("postgres", "CREATE ROLE keeper LOGIN PASSWORD 'k' CREATEDB CREATEROLE BYPASSRLS")
    site.sql("postgres", "GRANT pg_signal_backend, mallory TO keeper")
    site.sql("postgres", "CREATE DATABASE shop OWNER mallory", "GRANT CREATE ON DATABASE shop TO keeper, alice WITH GRANT OPTION")
    site.sql("shop", "CREATE SCHEMA mine", "CREATE TABLE mine.t AS SELECT 'saved' AS state", **MALLORY)
    saved = site.back_up(site.source("shop"))
    site.sql("shop", "UPDATE mine.t SET state = 'live'", **MALLORY)
    yield site.restore(saved)
    site.clean()


def state(site):
    return site.sql("shop", "SELECT state FROM mine.t")


@pytest.mark.parametrize("who", [{}, KEEPER], ids=["superuser", "member of the owner"])
def test_owner_gets_at_no_copy_that_is_set_aside_and_owns_it_again_after_the_rollback(site, shop, who):
    source, restore, before = site.source("shop", **who), shop, site.sql("postgres", OUTSIDE)
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    source.swap(restore)
    copy = f"shop__before_{restore.id}"
    for statement in (
        f"DROP DATABASE {copy}",
        f"ALTER DATABASE {copy} RENAME TO mine",
        f"ALTER DATABASE {copy} ALLOW_CONNECTIONS true",
        f"ALTER DATABASE {copy} OWNER TO mallory",
        f"ALTER DATABASE {copy} CONNECTION LIMIT 5",
        f"CREATE DATABASE mine TEMPLATE {copy}",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            site.sql("postgres", statement, **MALLORY)
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        site.server.connect(copy, **MALLORY)
    assert site.sql("postgres", OUTSIDE)[0][0] == "mallory", "the restored one is his"
    source.roll_back(restore)
    assert site.sql("postgres", OUTSIDE) == before
    assert state(site) == [("live",)]
    source.discard(restore)


@pytest.mark.parametrize("statement", [r"OWNER TO CURRENT_USER", r"ALLOW_CONNECTIONS false", r"RENAME TO", r"OWNER TO .mallory", "COMMIT"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_owner_and_rights_are_as_before_after_a_kill_and_a_rollback_that_is_killed_there_too(site, shop, monkeypatch, statement, after):
    source, restore, before = site.source("shop", **KEEPER), shop, site.sql("postgres", OUTSIDE)
    source.stage(restore)
    with killed_at_statement(monkeypatch, statement, after=after):
        source.swap(restore)
    if (statement, after) != (r"OWNER TO CURRENT_USER", False):
        with killed_at_statement(monkeypatch, r"OWNER TO .mallory", after=after):
            source.roll_back(restore)
    source.roll_back(restore)
    assert site.sql("postgres", OUTSIDE) == before
    assert state(site) == [("live",)]
    source.discard(restore)


def test_owner_who_lets_sessions_in_again_and_again_blocks_neither_swap_nor_rollback(site, shop):
    source, restore = site.source("shop"), shop
    source.stage(restore)
    done = threading.Event()

    def open_again(number):
        with site.server.connect("postgres", **MALLORY) as connection:
            while not done.is_set():
                try:
                    connection.execute(f"ALTER DATABASE shop ALLOW_CONNECTIONS true CONNECTION LIMIT {number}")
                except psycopg.Error:
                    done.wait(0.01)

    def come_in():
        sessions = []
        while not done.is_set():
            try:
                sessions.append(site.server.connect("shop", **MALLORY))
                sessions[-1].execute("BEGIN")
            except psycopg.Error:
                done.wait(0.01)
        for session in sessions:
            session.close()

    threads = [threading.Thread(target=open_again, args=[50 + number]) for number in range(2)] + [threading.Thread(target=come_in)]
    for thread in threads:
        thread.start()
    try:
        source.swap(restore)
        assert site.sql("shop", "SELECT state FROM mine.t") == [("saved",)]
        source.roll_back(restore)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert site.sql("shop", "SELECT state FROM mine.t") == [("live",)]
    source.discard(restore)


@pytest.mark.parametrize(
    ("who", "statement"),
    [
        (MALLORY, "ALTER DATABASE shop CONNECTION LIMIT 5"),
        (MALLORY, "COMMENT ON DATABASE shop IS 'mine'"),
        ({"user": "alice", "password": "a"}, "ALTER ROLE alice IN DATABASE shop SET work_mem = '1MB'"),
    ],
)
@pytest.mark.parametrize("by", [{}, KEEPER], ids=["superuser", "member of the owner"])
def test_transaction_that_holds_the_name_of_a_database_is_ended_when_it_blocks_the_swap(site, shop, who, statement, by):
    source, restore = site.source("shop", **by), shop
    source.stage(restore)
    with site.server.connect("postgres", **who) as holding:
        holding.execute("BEGIN")
        holding.execute(statement)
        source.swap(restore)
        assert state(site) == [("saved",)]
        with pytest.raises(psycopg.OperationalError):
            holding.execute("COMMIT")
    source.roll_back(restore)
    source.discard(restore)


def prepare(site, database, statement, gid):
    with site.server.connect(database, **MALLORY) as connection:
        connection.execute("BEGIN")
        connection.execute(statement)
        connection.execute(f"PREPARE TRANSACTION '{gid}'")


def finishes(do, *arguments):
    """Whether it ends in time; an error of it is a warning of pytest."""
    thread = threading.Thread(target=do, args=arguments, daemon=True)
    thread.start()
    thread.join(30)
    return not thread.is_alive()


@pytest.mark.parametrize(
    "statement", ["ALTER DATABASE shop CONNECTION LIMIT 5", "ALTER ROLE mallory IN DATABASE shop SET work_mem = '1MB'"]
)
def test_prepared_transaction_that_holds_the_name_of_a_database_is_rolled_back_when_it_blocks_the_swap(site, shop, statement):
    """It has no session that could be ended."""
    source, restore = site.source("shop"), shop
    source.stage(restore)
    for step, expected in ((source.swap, "saved"), (source.roll_back, "live")):
        prepare(site, "postgres", statement, expected)
        try:
            assert finishes(step, restore)
        finally:
            for (gid,) in site.sql("postgres", "SELECT gid FROM pg_prepared_xacts"):
                site.sql("postgres", f"ROLLBACK PREPARED '{gid}'")
        assert state(site) == [(expected,)]
    source.discard(restore)


def test_rollback_is_refused_before_anything_is_closed_while_a_prepared_transaction_is_in_the_database(site, shop):
    """Who closes the database could not end it any more."""
    source, restore = site.source("shop"), shop
    source.stage(restore)
    source.swap(restore)
    prepare(site, "shop", "UPDATE mine.t SET state = 'prepared'", "inside")
    try:
        with pytest.raises(RestoreError, match="Prepared transactions block the swap: 'inside' in shop"):
            source.roll_back(restore)
    finally:
        site.sql("shop", "ROLLBACK PREPARED 'inside'")
    source.roll_back(restore)
    assert state(site) == [("live",)]
    source.discard(restore)


def test_database_that_takes_the_name_of_one_that_was_dropped_and_is_kept_locked_blocks_no_restore_in_place(site, shop, monkeypatch):
    source, restore = site.source("shop"), site.restore(shop.set_folder, in_place=True)
    create, holding = stage.create_database, site.server.connect("postgres", **MALLORY)

    def taken(*arguments):
        site.sql("postgres", "CREATE DATABASE shop", **MALLORY)
        holding.execute("BEGIN")
        holding.execute("ALTER ROLE mallory IN DATABASE shop SET work_mem = '1MB'")
        create(*arguments)

    monkeypatch.setattr(stage, "create_database", taken)
    in_time = finishes(source.replace, restore)
    holding.close()
    assert in_time
    assert source.verify_staged(restore) == []
    source.let_in(restore)
    assert state(site) == [("saved",)]


@pytest.mark.parametrize("only", [(), ("shop.mine",)], ids=["a database", "a schema"])
@pytest.mark.parametrize("is_committed", [True, False])
def test_rights_that_somebody_gives_to_the_roles_of_a_restore_make_it_fail_at_no_step(site, shop, only, is_committed):
    """Everybody can give rights on a table of his own to whom he wants, which keeps that role from being dropped."""
    source, restore, done = site.source("shop"), site.restore(shop.set_folder, only=only), threading.Event()

    def give():
        with site.server.connect("postgres", user="alice", password="a") as connection:
            connection.execute("CREATE TEMP TABLE own ()")
            given = set()
            while not done.is_set():
                for (role,) in connection.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^recovery_'").fetchall():
                    if role not in given:
                        connection.execute("" if is_committed else "BEGIN")
                        connection.execute(f"GRANT SELECT ON own TO {role}")
                        given.add(role)
                done.wait(0.01)

    def give_again():
        while not done.is_set():
            with contextlib.suppress(psycopg.Error):
                give()

    thread = threading.Thread(target=give_again)
    thread.start()
    try:
        source.stage(restore)
        assert source.verify_staged(restore) == []
        source.swap(restore)
        assert state(site) == [("saved",)]
        source.roll_back(restore)
        source.discard(restore)
    finally:
        done.set()
        thread.join()
    for (role,) in site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname ~ '^recovery_' AND NOT rolcanlogin"):
        site.sql("postgres", f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    assert site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname ~ '^recovery_'") == []


def test_swap_is_refused_while_somebody_has_a_database_of_the_copys_name(site, shop):
    source, restore, before = site.source("shop"), shop, site.sql("postgres", OUTSIDE)
    source.stage(restore)
    site.sql("postgres", f"CREATE DATABASE shop__before_{restore.id}", **MALLORY)
    with pytest.raises(RestoreError, match=f"mallory has a database shop__before_{restore.id}"):
        source.swap(restore)
    source.roll_back(restore)
    source.discard(restore)
    assert site.sql("postgres", OUTSIDE) == before


def test_rollback_gives_a_database_back_though_somebody_took_the_copys_name_in_the_middle_of_the_swap(site, shop, monkeypatch):
    source, restore, before = site.source("shop"), shop, site.sql("postgres", OUTSIDE)
    source.stage(restore)
    with killed_at_statement(monkeypatch, "RENAME TO"):
        source.swap(restore)
    site.sql("postgres", f"CREATE DATABASE shop__before_{restore.id}", **MALLORY)
    source.roll_back(restore)
    source.discard(restore)
    assert site.sql("postgres", OUTSIDE) == before
    assert state(site) == [("live",)]


def test_rollback_is_refused_before_anything_is_closed_while_somebody_has_a_database_of_the_staged_name(site, shop):
    source, restore, before = site.source("shop"), shop, site.sql("postgres", OUTSIDE)
    source.stage(restore)
    source.swap(restore)
    site.sql("postgres", f"CREATE DATABASE shop__stage_{restore.id}", **MALLORY)
    with pytest.raises(RestoreError, match=f"mallory has a database shop__stage_{restore.id}"):
        source.roll_back(restore)
    assert state(site) == [("saved",)]
    site.sql("postgres", f"DROP DATABASE shop__stage_{restore.id}", **MALLORY)
    source.roll_back(restore)
    source.discard(restore)
    assert site.sql("postgres", OUTSIDE) == before


def test_preflight_refuses_a_membership_that_could_not_give_a_database_back_to_its_owner(site, shop):
    if site.server.major < 16:
        pytest.skip("memberships have options since PostgreSQL 16")
    for option in ("SET", "INHERIT"):
        site.sql("postgres", f"GRANT mallory TO keeper WITH {option} FALSE")
        assert "GRANT mallory TO keeper" in texts(site.source("shop", **KEEPER), shop, "refusal")
        site.sql("postgres", f"GRANT mallory TO keeper WITH {option} TRUE")
    assert texts(site.source("shop", **KEEPER), shop, "refusal") == ""


@pytest.fixture
def insisting(site):
    """The owner lets sessions in and comes in, again and again, and holds the name of the database."""
    done = threading.Event()

    def again(do):
        while not done.is_set():
            try:
                do()
            except psycopg.Error:
                done.wait(0.01)

    def hold():
        with site.server.connect("postgres", **MALLORY) as connection:
            connection.execute("BEGIN")
            connection.execute("ALTER ROLE mallory IN DATABASE shop SET work_mem = '1MB'")
            done.wait(60)

    def come_in():
        with site.server.connect("shop", **MALLORY) as connection:
            connection.execute("BEGIN")
            done.wait(0.05)

    def let_in():
        site.sql("postgres", "ALTER DATABASE shop ALLOW_CONNECTIONS true", **MALLORY)

    threads = [threading.Thread(target=again, args=[do]) for do in (hold, come_in, let_in, let_in)]
    yield [thread.start() for thread in threads]
    done.set()
    for thread in threads:
        thread.join()


def test_owner_who_insists_blocks_no_restore_in_place_and_no_rollback_of_it(site, shop, insisting):
    source = site.source("shop")
    safety = site.back_up(source)
    forward = site.restore(shop.set_folder, in_place=True)
    back = LocalRestore(safety, forward.folder, forward.id, in_place=True, rolling_back=True)
    for restore, expected in ((forward, "saved"), (back, "live")):
        source.replace(restore)
        assert source.verify_staged(restore) == []
        source.let_in(restore)
        assert state(site) == [(expected,)]


@pytest.mark.parametrize("statement", ["OWNER TO CURRENT_USER", "ALLOW_CONNECTIONS false", "DROP DATABASE IF EXISTS"])
def test_database_that_a_killed_restore_in_place_closed_and_did_not_drop_is_given_back(site, shop, monkeypatch, statement):
    source, before = site.source("shop", **KEEPER), site.sql("postgres", OUTSIDE)
    safety = site.back_up(site.source("shop"))
    forward = site.restore(shop.set_folder, in_place=True)
    with killed_at_statement(monkeypatch, statement):
        source.replace(forward)
    back = LocalRestore(safety, forward.folder, forward.id, in_place=True, rolling_back=True)
    source.replace(back)
    assert site.sql("postgres", OUTSIDE) == before
    assert source.verify_staged(back) == []
    source.let_in(back)
    assert state(site) == [("live",)]


def test_database_whose_owner_was_dropped_meanwhile_stays_with_the_connections_user(site, shop):
    site.sql("postgres", "ALTER DATABASE shop OWNER TO alice")
    source, restore = site.source("shop"), shop
    source.stage(restore)
    source.swap(restore)
    site.sql("postgres", "REASSIGN OWNED BY alice TO postgres", "DROP OWNED BY alice")
    site.sql("shop", "DROP OWNED BY alice")
    site.sql("postgres", f"REVOKE ALL ON DATABASE shop__before_{restore.id} FROM alice", "DROP ROLE alice")
    source.roll_back(restore)
    assert site.sql("postgres", OUTSIDE)[0][0] == "postgres"
    assert state(site) == [("live",)]
    source.discard(restore)


def test_preflight_warns_if_the_owner_has_the_rights_of_the_connections_user(site, shop):
    assert "may drop the replaced database" not in texts(site.source("shop", **KEEPER), shop, "warning")
    site.sql("postgres", "ALTER DATABASE shop OWNER TO keeper")
    assert f"keeper may drop the replaced database shop__before_{shop.id}" in texts(site.source("shop", **KEEPER), shop, "warning")
    assert "may drop the replaced database" not in texts(site.source("shop"), shop, "warning")


@pytest.fixture
def held(site):
    """A superuser's session, as a provider's monitoring has one; it is given the database that it is in."""
    sessions = []

    def hold(database):
        sessions.append(site.server.connect(database, application_name="monitor"))
        return sessions[-1]

    yield hold
    for session in sessions:
        session.close()


def test_session_of_a_superuser_that_stays_fails_the_swap_with_its_name_and_all_is_open_again(site, shop, held, monkeypatch):
    monkeypatch.setattr(custody, "_END_SESSIONS_WITHIN", 0.5)
    source, restore, before = site.source("shop", **KEEPER), shop, site.sql("postgres", OUTSIDE)
    source.stage(restore)
    session = held("shop")
    told = texts(source, restore, "warning")
    assert "Only a superuser may end the session of postgres (monitor) in shop, and keeper is none." in told
    with pytest.raises(RestoreError) as caught:
        source.swap(restore)
    words = f"Sessions do not end, some of which keeper may not end: postgres (monitor) in shop, process {session.info.backend_pid}."
    assert caught.value.what == words
    source.roll_back(restore)
    assert site.sql("postgres", OUTSIDE) == before
    assert state(site) == [("live",)]
    assert session.execute("SELECT 1").fetchall() == [(1,)], "nobody ended it"
    source.discard(restore)
    assert site.own_databases() == {"shop"}


def test_swap_waits_for_the_end_of_a_superusers_session(site, shop, held):
    source, restore = site.source("shop", **KEEPER), shop
    source.stage(restore)
    session, others = held("shop"), site.server.connect("shop", **MALLORY)
    leaving = threading.Timer(1, session.close)
    leaving.start()
    source.swap(restore)
    leaving.join()
    assert state(site) == [("saved",)]
    others.close()


def test_staged_database_is_dropped_once_a_superusers_session_in_it_has_ended(site, shop, held):
    source, restore = site.source("shop", **KEEPER), shop
    source.stage(restore)
    leaving = threading.Timer(1, held(f"shop__stage_{restore.id}").close)
    leaving.start()
    source.discard(restore)
    leaving.join()
    assert site.own_databases() == {"shop"}
