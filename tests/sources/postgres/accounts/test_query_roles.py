"""SQL of a plan's checks and hooks: code of the database has the rights of its owner at most, and honest SQL works."""

import os
import signal
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from recovery.common.errors import SourceError
from recovery.plan.kinds.postgres import SqlQuestion, SqlStatement
from recovery.sources.postgres.accounts import query_roles
from sandbox.servers import Postgres, wait_for
from tests.support.postgres_attack import attack
from tests.support.postgres_site import Site, contents
from tests.support.postgres_versions import majors

ROLES = ("mallory", "alice", "boss", "nearly", "clerk")
AT_MOST = timedelta(seconds=20)
MADE = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'"
EVIL = [
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine.attack() RETURNS int LANGUAGE plpgsql AS $$ DECLARE name text; BEGIN {attack} RETURN 1; END $$",
    "CREATE FUNCTION mine.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM mine.attack(); RETURN NEW; END $$",
    "CREATE TABLE mine.t (a int, b int DEFAULT mine.attack())",
    "CREATE VIEW mine.v AS SELECT mine.attack() AS n",
    "CREATE TABLE mine.fired (a int)",
    "CREATE TRIGGER fire BEFORE INSERT ON mine.fired FOR EACH ROW EXECUTE FUNCTION mine.fire()",
    "CREATE TABLE mine.ruled (a int)",
    "CREATE RULE attack AS ON INSERT TO mine.ruled DO ALSO SELECT mine.attack()",
    "CREATE TABLE mine.indexed (a int)",
    "CREATE FUNCTION mine.one(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM mine.attack(); RETURN $1; END $$",
    "CREATE INDEX ON mine.indexed (a) WHERE mine.one(1) = 1",
]
STATEMENTS = {
    "a default": "INSERT INTO mine.t (a) VALUES (1)",
    "a view": "SELECT n FROM mine.v",
    "a trigger": "INSERT INTO mine.fired VALUES (1)",
    "a rule": "INSERT INTO mine.ruled VALUES (1)",
    "a function": "SELECT mine.attack()",
    "the planner": "SELECT count(*) FROM mine.indexed WHERE a > 0",
}
QUERIES = {
    "a view": ("SELECT n FROM mine.v", 1),
    "a function": ("SELECT mine.attack() + 1", 2),
    "the planner": ("SELECT count(*) FROM mine.indexed WHERE a > 0", 0),
}


@pytest.fixture(scope="module", params=majors(18))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-query-{request.param}", request.param) as server:
        yield Site(server, tmp_path_factory.mktemp(f"query-{request.param}"), ("shop", "own"), ROLES)


def since(site, major):
    """Skip a test on older versions: 13 has no pg_read_all_data, by which queries read databases of superusers, and before 16 a user with
    CREATEROLE has the rights of all others.
    """
    if site.server.major < major:
        pytest.skip(f"not before PostgreSQL {major}")


@pytest.fixture
def shop(site):
    """A database whose owner, mallory, has the rights of an owner."""
    site.sql("postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm'", "CREATE ROLE alice", "CREATE DATABASE shop OWNER mallory")
    yield site
    site.clean()


@pytest.fixture
def evil(shop):
    """The database, full of code that attacks whoever runs it; the proof is a file that no program should make."""
    proof = shop.server.folder / "proof"
    for statement in EVIL:
        shop.sql("shop", statement.replace("{attack}", attack("mallory", proof)), user="mallory", password="m")
    shop.sql("postgres", "ALTER ROLE mallory NOSUPERUSER")
    yield proof
    proof.unlink(missing_ok=True)


@pytest.fixture
def own(site):
    """A database in which only superusers have anything."""
    site.sql("postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm'", "CREATE ROLE alice", "CREATE ROLE boss SUPERUSER")
    site.create("own", "CREATE TABLE t AS SELECT 7 AS n", "CREATE SCHEMA b AUTHORIZATION boss")
    site.sql("own", "CREATE VIEW b.v AS SELECT n + 1 AS n FROM t", "ALTER VIEW b.v OWNER TO boss")
    yield site
    site.clean()


def execute(source, statement, database="shop", role=None):
    return list(source.execute(SqlStatement(source="postgres.main", database=database, statement=statement, **{"as": role}), AT_MOST))


def answer(source, query, database="shop", role=None):
    question = SqlQuestion(source="postgres.main", database=database, query=query, equals=1, **{"as": role})
    return source.answer(question, AT_MOST)


def nobody_gained(site, proof):
    assert site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolsuper AND rolname <> 'boss'") == [("postgres",)]
    assert not proof.exists()
    assert site.sql("postgres", MADE) == []


@pytest.mark.parametrize("way", STATEMENTS)
def test_statement_as_superuser_gives_the_code_of_the_database_no_rights(shop, evil, way):
    execute(shop.source("shop"), STATEMENTS[way])
    nobody_gained(shop, evil)


@pytest.mark.parametrize("way", QUERIES)
def test_query_as_superuser_gives_the_code_of_the_database_no_rights(shop, evil, way):
    query, found = QUERIES[way]
    assert answer(shop.source("shop"), query) == found
    nobody_gained(shop, evil)


@pytest.mark.parametrize("way", QUERIES)
def test_query_in_a_database_of_a_superuser_gives_the_code_of_others_no_rights(shop, evil, way):
    since(shop, 14)
    shop.sql("postgres", "ALTER DATABASE shop OWNER TO postgres")
    query, found = QUERIES[way]
    with pytest.raises(SourceError, match="belongs to postgres, a superuser, and others own or may make something in it: mallory"):
        answer(shop.source("shop"), query)
    assert answer(shop.source("shop"), query, role="mallory") == found
    nobody_gained(shop, evil)


def test_statement_makes_objects_of_the_owner_even_after_reset_role(shop):
    made = "CREATE SCHEMA s; CREATE TABLE s.a (n int); RESET ROLE; CREATE TABLE s.b (n int); GRANT SELECT ON s.a TO alice"
    assert execute(shop.source("shop"), made)[-1] == "GRANT"
    owners = shop.sql("shop", "SELECT tablename::text, tableowner::text FROM pg_tables WHERE schemaname = 's' ORDER BY 1")
    assert owners == [("a", "mallory"), ("b", "mallory")]
    assert shop.sql("postgres", MADE) == []


def test_statement_runs_as_another_owner(shop):
    shop.sql("shop", "CREATE SCHEMA a AUTHORIZATION alice")
    execute(shop.source("shop"), "CREATE TABLE a.t AS SELECT 3 AS n; CREATE MATERIALIZED VIEW a.m AS TABLE a.t", role="alice")
    assert execute(shop.source("shop"), "REFRESH MATERIALIZED VIEW a.m", role="alice") == ["REFRESH MATERIALIZED VIEW"]
    assert answer(shop.source("shop"), "SELECT n FROM a.t", role="alice") == 3
    with pytest.raises(SourceError, match="permission denied for schema a"):
        answer(shop.source("shop"), "SELECT n FROM a.t")
    with pytest.raises(SourceError, match="read-only transaction"):
        answer(shop.source("shop"), "DELETE FROM a.t RETURNING 1", role="alice")
    assert shop.sql("postgres", MADE) == []


def test_sql_fires_no_event_trigger_as_the_user_of_the_connection(shop, evil):
    shop.sql("shop", "CREATE FUNCTION mine.watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM mine.attack(); END $$")
    shop.sql("shop", "ALTER FUNCTION mine.watch() OWNER TO mallory")
    shop.sql("shop", "CREATE EVENT TRIGGER watch ON ddl_command_start EXECUTE FUNCTION mine.watch()")
    assert answer(shop.source("shop"), "SELECT 1") == 1
    assert execute(shop.source("shop"), "CREATE TABLE mine.made (n int)") == ["CREATE TABLE"]
    nobody_gained(shop, evil)


def test_role_with_an_odd_name_is_taken(shop):
    odd = "odd 'n\\ \"x"
    with shop.server.connect() as connection:
        connection.execute(SQL("CREATE ROLE {}").format(Identifier(odd)))
    try:
        assert answer(shop.source("shop"), "SELECT current_user::text", role=odd) == odd
    finally:
        with shop.server.connect() as connection:
            connection.execute(SQL("DROP ROLE {}").format(Identifier(odd)))


def test_query_in_a_database_of_superusers_reads_everything_and_writes_nothing(own):
    since(own, 14)
    source = own.source("own")
    assert answer(source, "SELECT (SELECT n FROM t) + (SELECT n FROM b.v)", "own") == 15
    own.sql("postgres", "REVOKE CONNECT ON DATABASE own FROM PUBLIC")
    assert answer(source, "SELECT n FROM t", "own") == 7
    with pytest.raises(SourceError, match="read-only transaction"):
        answer(source, "DELETE FROM t RETURNING 1", "own")
    with pytest.raises(SourceError, match="permission denied"):
        answer(source, "SELECT 1 FROM pg_stat_file('PG_VERSION')", "own")
    assert own.sql("postgres", MADE) == []
    assert own.sql("postgres", "SELECT has_database_privilege('alice', 'own', 'CONNECT')") == [(False,)]


@pytest.mark.parametrize(
    ("given", "taken", "who"),
    [
        ("GRANT CREATE ON SCHEMA b TO alice", "REVOKE CREATE ON SCHEMA b FROM alice", "alice"),
        ("GRANT CREATE ON DATABASE own TO alice", "REVOKE CREATE ON DATABASE own FROM alice", "alice"),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "everybody"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION f() OWNER TO alice", "DROP FUNCTION f()", "alice"),
        ("ALTER SCHEMA b OWNER TO alice", "ALTER SCHEMA b OWNER TO boss", "alice"),
    ],
)
def test_query_in_a_database_of_superusers_is_refused_while_others_may_make_something_in_it(own, given, taken, who):
    since(own, 14)
    own.sql("own", given)
    with pytest.raises(SourceError, match=f"belongs to postgres, a superuser, and others own or may make something in it: {who}"):
        answer(own.source("own"), "SELECT n FROM t", "own")
    own.sql("own", taken)
    assert answer(own.source("own"), "SELECT n FROM t", "own") == 7


def test_statement_in_a_database_of_a_superuser_needs_another_role(own):
    source = own.source("own")
    own.sql("own", "CREATE SCHEMA mine AUTHORIZATION mallory")
    with pytest.raises(SourceError, match="belongs to postgres, a superuser, and statements of a plan don't run as one") as refused:
        execute(source, "DELETE FROM t", "own")
    assert "Name a role that is none under `as`" in refused.value.next_step
    with pytest.raises(SourceError, match="permission denied for table t"):
        execute(source, "DELETE FROM t", "own", role="mallory")
    assert execute(source, "CREATE TABLE mine.t AS SELECT 8 AS n", "own", role="mallory") == ["SELECT 1"]
    assert own.sql("own", "SELECT count(*) FROM t") == [(1,)]


def test_role_with_the_rights_of_a_superuser_is_refused(shop):
    shop.sql("postgres", "CREATE ROLE boss SUPERUSER", "CREATE ROLE nearly", "GRANT boss TO nearly")
    for role in ("boss", "nearly", "postgres"):
        with pytest.raises(SourceError, match=f"as {role} in shop, who is a superuser, or may become one"):
            execute(shop.source("shop"), "SELECT 1", role=role)
    with pytest.raises(SourceError, match="as nobody in shop, and the server has no such role"):
        answer(shop.source("shop"), "SELECT 1", role="nobody")
    shop.sql("postgres", "ALTER DATABASE shop OWNER TO nearly")
    with pytest.raises(SourceError, match="belongs to nearly, a superuser"):
        execute(shop.source("shop"), "SELECT 1")
    assert shop.sql("postgres", MADE) == []


def test_query_fails_where_row_security_would_hide_rows(own):
    since(own, 14)
    own.sql("own", "ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    with pytest.raises(SourceError, match="row-level security"):
        answer(own.source("own"), "SELECT count(*) FROM t", "own")


def test_owner_without_superuser_rights_runs_sql_itself(shop):
    shop.sql("postgres", "ALTER ROLE mallory CREATEROLE")
    source = shop.source("shop", user="mallory", password="m")
    assert answer(source, "SELECT session_user::text") == "mallory"
    assert execute(source, "CREATE TABLE t (n int)") == ["CREATE TABLE"]


def test_user_without_superuser_rights_makes_a_role_if_it_may(shop):
    shop.sql("postgres", "CREATE ROLE clerk LOGIN PASSWORD 'c' CREATEROLE", "GRANT mallory TO clerk WITH ADMIN OPTION")
    source = shop.source("shop", user="clerk", password="c")
    assert answer(source, "SELECT session_user::text").startswith("recovery_query_")
    assert execute(source, "CREATE SCHEMA s; RESET ROLE; CREATE TABLE s.t (n int)")[-1] == "CREATE TABLE"
    assert shop.sql("shop", "SELECT tableowner::text FROM pg_tables WHERE schemaname = 's'") == [("mallory",)]
    assert shop.sql("postgres", MADE) == []
    with pytest.raises(SourceError, match="as clerk in shop, who is the Connection's user"):
        execute(source, "SELECT 1", role="clerk")


def test_user_without_the_right_to_make_the_role_is_refused(shop):
    since(shop, 16)
    shop.sql("postgres", "CREATE ROLE clerk LOGIN PASSWORD 'c' CREATEROLE", "GRANT mallory TO clerk")
    source = shop.source("shop", user="clerk", password="c")
    for ask in (answer, execute):
        with pytest.raises(SourceError, match="clerk may not make a login role with the rights of mallory") as refused:
            ask(source, "SELECT 1")
        assert "GRANT mallory TO clerk WITH ADMIN OPTION" in refused.value.next_step
    shop.sql("postgres", "ALTER ROLE clerk NOCREATEROLE", "GRANT mallory TO clerk WITH ADMIN OPTION")
    with pytest.raises(SourceError, match="ALTER ROLE clerk CREATEROLE"):
        answer(source, "SELECT 1")


def killed(site, statement):
    """A process that runs a statement, and is killed while the server does."""
    pid = os.fork()
    if pid == 0:
        try:
            execute(site.source("shop"), statement)
        finally:
            os._exit(1)
    running = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND usename LIKE 'recovery_query%'"
    wait_for("the statement", lambda: site.sql("postgres", running))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_role_of_a_killed_process_is_dropped_by_the_next_sql(shop):
    killed(shop, "RESET ROLE; CREATE SCHEMA s; CREATE TABLE s.t (n int); COMMIT; SELECT pg_sleep(15)")
    assert len(shop.sql("postgres", MADE)) == 1
    assert answer(shop.source("shop"), "SELECT 1") == 1
    assert shop.sql("postgres", MADE) == []
    assert shop.sql("shop", "SELECT tableowner::text FROM pg_tables WHERE schemaname = 's'") == [("mallory",)]


@pytest.mark.parametrize("end", ["finalize", "discard"])
def test_role_of_a_killed_process_is_dropped_at_the_end_of_a_restore(shop, end):
    source = shop.source("shop")
    restore = shop.restore(shop.back_up(source))
    source.stage(restore)
    source.swap(restore)
    if end == "discard":
        source.roll_back(restore)
    killed(shop, "SELECT pg_sleep(15)")
    getattr(source, end)(restore)
    assert shop.sql("postgres", MADE) == []


def test_role_that_is_in_use_stays_and_is_in_no_set(shop):
    source = shop.source("shop")
    with query_roles.session(source._server, query_roles.Asked("shop", None, reads=True)) as inside:
        name = inside.info.user
        assert answer(source, "SELECT 1") == 1
        assert shop.sql("postgres", MADE) == [(name,)]
        assert name not in str(contents(shop.back_up(source), "globals", "role"))
        assert inside.execute("SELECT session_user::text").fetchall() == [(name,)]
    assert shop.sql("postgres", MADE) == []


def test_role_that_can_not_be_dropped_fails_the_sql_in_words(shop):
    shop.sql("postgres", "CREATE DATABASE shop2")
    source = shop.source("shop")
    words = r"recovery_query_\w+, which SQL of the plan ran as, still owns something.*shop2"
    with (
        pytest.raises(SourceError, match=words),
        query_roles.session(source._server, query_roles.Asked("shop", None, reads=False)) as inside,
    ):
        name = inside.info.user
        shop.sql("shop2", f"CREATE SCHEMA s AUTHORIZATION {name}")
    assert shop.sql("postgres", "SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname LIKE 'recovery%'") == [(name, False)]
    assert answer(source, "SELECT 1") == 1
    shop.sql("postgres", "DROP DATABASE shop2")
    assert answer(source, "SELECT 1") == 1
    assert shop.sql("postgres", MADE) == []


def why_not(site, user):
    """Why a user is not let in."""
    with pytest.raises(psycopg.OperationalError) as error:
        site.server.connect("postgres", user=user, password="none")
    return str(error.value)


def test_error_names_the_roles_that_pg_hba_has_to_admit(shop):
    if shop.server.major < 16:
        pytest.skip("pg_hba.conf has patterns of names since PostgreSQL 16")
    rules = shop.server.folder / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"host all /^recovery_query all reject\n{before}")
    shop.sql("postgres", "SELECT pg_reload_conf()")
    try:
        wait_for("the rule", lambda: "rejects" in why_not(shop, "recovery_query_none"))
        with pytest.raises(SourceError, match="does not let in the role that SQL runs as") as refused:
            answer(shop.source("shop"), "SELECT 1")
        assert "admit roles whose names begin with recovery_query_" in refused.value.next_step
        assert shop.sql("postgres", MADE) == []
    finally:
        rules.write_text(before)
        shop.sql("postgres", "SELECT pg_reload_conf()")


def test_sql_on_a_standby_is_refused_in_words(shop):
    source = shop.source("shop")
    source._server.about = replace(source._server.about, standby=True)
    with pytest.raises(SourceError, match="is a standby, where no login role can be made"):
        answer(source, "SELECT 1")


@pytest.mark.parametrize("is_committed", [True, False])
def test_rights_that_somebody_gives_to_the_role_do_not_fail_the_sql(shop, is_committed):
    """Everybody can give rights on a table of his own to whom he wants, which keeps that role from being dropped."""
    shop.sql("postgres", "CREATE DATABASE shop2")
    source = shop.source("shop")
    with shop.server.connect("shop2", user="mallory", password="m") as giving:
        giving.execute("CREATE TEMP TABLE own ()")
        with query_roles.session(source._server, query_roles.Asked("shop", None, reads=True)) as inside:
            giving.execute("" if is_committed else "BEGIN")
            giving.execute(f"GRANT SELECT ON own TO {inside.info.user}")
        assert shop.sql("postgres", "SELECT rolcanlogin FROM pg_roles WHERE rolname LIKE 'recovery%'") == [(False,)]
        giving.execute("" if is_committed else "ROLLBACK")
    shop.sql("postgres", "DROP DATABASE shop2 WITH (FORCE)")
    assert answer(source, "SELECT 1") == 1
    assert shop.sql("postgres", MADE) == []
