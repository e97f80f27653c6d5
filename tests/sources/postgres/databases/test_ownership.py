"""Code that a set brings never runs with more rights than its owner's, on every way on which a restore makes it run."""

from pathlib import Path

import psycopg
import pytest

from recovery.common.errors import ArtifactError, RestoreError, SourceError, ToolError
from recovery.sources.postgres.definitions import dumped
from recovery.sources.postgres.dump import pg_dump
from recovery.sources.postgres.dump.table_reader import table_texts
from sandbox.servers import Postgres
from tests.sources.postgres.databases.test_swap import extension
from tests.support.postgres_attack import SINCE, WAYS, evil_functions, in_schemas, side_by_side
from tests.support.postgres_site import Site, contents, texts
from tests.support.postgres_versions import majors

ROLES = ("mallory", "alice", "keeper")


@pytest.fixture(scope="module", params=majors(18))
def site(request, server_folder, tmp_path_factory):
    options = [f"extension_control_path=$system:{extension(server_folder / 'rights')}"] if request.param == 18 else []
    with Postgres(server_folder / f"postgres-rights-{request.param}", request.param, options) as server:
        yield Site(server, tmp_path_factory.mktemp(f"rights-{request.param}"), ("shop",), ROLES)


@pytest.fixture
def mallory(site):
    """A database whose owner has the rights of an owner."""
    site.sql("postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm'", "CREATE ROLE alice", "CREATE DATABASE shop OWNER mallory")
    yield {"user": "mallory", "password": "m"}
    site.clean()


@pytest.fixture
def evil(site, mallory):
    """Makes ways as the owner, in schemas ``m0`` and so on, and backs them up; the proof is a file that no program should make."""
    proof = site.server.folder / "proof"

    def made(*ways):
        known = [WAYS[way] for way in ways if site.server.major >= SINCE.get(way, 0)]
        site.sql("postgres", "GRANT alice TO mallory")
        with site.server.connect("shop", **mallory) as connection:
            for statement in in_schemas(known, proof)[1]:
                connection.execute(statement)
        site.sql("postgres", "REVOKE alice FROM mallory", "ALTER ROLE mallory NOSUPERUSER")
        return site.back_up(site.source("shop", user="postgres"))

    made.proof = proof
    yield made
    proof.unlink(missing_ok=True)


def is_superuser(site, role):
    return site.sql("postgres", f"SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'") == [(True,)]


def loaders(site):
    return site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'")


@pytest.mark.parametrize("ways", side_by_side(WAYS))
def test_restore_gives_the_owner_of_a_database_no_rights(site, evil, ways):
    backup = evil(*ways)
    assert not is_superuser(site, "mallory")
    restore, source = site.restore(backup), site.source("shop")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert not is_superuser(site, "mallory")
    assert not evil.proof.exists()
    source.swap(restore)
    source.finalize(restore)
    assert not is_superuser(site, "mallory")
    assert loaders(site) == []
    source.roll_back(restore)
    source.discard(restore)
    assert not is_superuser(site, "mallory")


def test_restore_in_place_gives_the_owner_of_a_database_no_rights(site, evil):
    restore, source = site.restore(evil("a check", "a materialized view"), in_place=True), site.source("shop")
    source.replace(restore)
    assert source.verify_staged(restore) == []
    source.let_in(restore)
    assert not is_superuser(site, "mallory")
    assert not evil.proof.exists()
    assert loaders(site) == []


UNQUOTED = "x NOT NULL b);SELECT m0.attack();CREATE TABLE m0.z(CONSTRAINT y"
"""The name of a constraint: pg_dump 18 writes it into the definition of a child as it is."""


def test_name_that_pg_dump_does_not_quote_runs_nothing_with_more_rights_and_the_set_is_refused(site, evil, monkeypatch):
    """A set of somebody whose backups don't refuse it."""
    monkeypatch.setattr(pg_dump, "refuse_unquoted", lambda *_: None)
    if site.server.major < 18:
        pytest.skip("a NOT NULL has a name since PostgreSQL 18")
    evil("a check")
    made = ["CREATE TABLE m0.p ()", "CREATE TABLE m0.c (b int) INHERITS (m0.p)", "ALTER TABLE m0.p ADD a int"]
    site.sql("shop", *made, f'ALTER TABLE m0.c ADD CONSTRAINT "{UNQUOTED}" NOT NULL a', user="mallory", password="m")
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    with pytest.raises(RestoreError, match="the rows of table m0 c can't be loaded"):
        source.stage(restore)
    assert site.sql(f"shop__stage_{restore.id}", "SELECT to_regclass('m0.z') IS NOT NULL") == [(True,)], "the name was run"
    assert not is_superuser(site, "mallory")
    assert not evil.proof.exists()
    source.discard(restore)


def test_owner_of_a_database_calls_nothing_during_a_restore_that_was_closed_to_him(site, mallory):
    """Not what a superuser made in a language that knows no rights, nor what runs with the rights of others."""
    site.sql("shop", "CREATE SCHEMA admin", "CREATE SCHEMA alices AUTHORIZATION alice", "CREATE SCHEMA mine AUTHORIZATION mallory")
    site.sql("shop", "CREATE FUNCTION admin.peek(text) RETURNS text LANGUAGE internal AS 'pg_read_file_all'")
    site.sql("shop", "CREATE FUNCTION mine.peek(text) RETURNS text LANGUAGE internal AS 'pg_read_file_all'")
    site.sql("shop", "REVOKE ALL ON FUNCTION mine.peek(text) FROM PUBLIC", "GRANT EXECUTE ON FUNCTION mine.peek(text) TO alice")
    site.sql("shop", "CREATE FUNCTION alices.lend() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'")
    site.sql("shop", "ALTER FUNCTION alices.lend() OWNER TO alice")
    tried = ("admin.peek('PG_VERSION')", "mine.peek('PG_VERSION')", "alices.lend()")
    calls = "".join(f"BEGIN PERFORM {call}; RETURN false; EXCEPTION WHEN insufficient_privilege THEN NULL; END; " for call in tried)
    body = f"$$ BEGIN {calls} RETURN true; END $$"
    site.sql("shop", f"CREATE FUNCTION mine.closed(int) RETURNS bool LANGUAGE plpgsql AS {body}", **mallory)
    site.sql("shop", "CREATE TABLE mine.t (a int CHECK (mine.closed(a)))", "INSERT INTO mine.t VALUES (1)", **mallory)
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.discard(restore)


@pytest.mark.parametrize("default", ["'{1}'", "ARRAY[1]"])
def test_function_that_only_a_superuser_makes_runs_no_check_of_a_default(site, mallory, default):
    """With a right on a setting, an owner himself can make a function that a restore makes as superuser."""
    proof = site.server.folder / "proof"
    site.sql("postgres", "GRANT SET ON PARAMETER log_statement TO mallory")
    site.sql("shop", *evil_functions(proof), **mallory)
    site.sql("shop", "CREATE DOMAIN mine.d AS int CHECK (mine.one(value) = value)", **mallory)
    arguments = f"a mine.d[] DEFAULT {default}::mine.d[]"
    site.sql("shop", f"CREATE FUNCTION mine.f({arguments}) RETURNS int LANGUAGE sql SET log_statement = 'none' AS 'SELECT 1'", **mallory)
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    site.sql("postgres", "REVOKE SET ON PARAMETER log_statement FROM mallory")
    if default == "'{1}'":
        with pytest.raises(ArtifactError, match="the checks of that type would run as superuser"):
            source.stage(restore)
    else:
        source.stage(restore)
        assert source.verify_staged(restore) == []
    assert not is_superuser(site, "mallory")
    assert not proof.exists()
    source.discard(restore)


OWNERS = Path(__file__).parents[3] / "support/postgres_owners.sql"
OWN_ROLES = ("own_super", "own_a", "own_b", "own_group", '"own c"', "c")


@pytest.fixture
def owners(site):
    site.create("shop")
    try:
        site.load("shop", OWNERS)
        yield site.source("shop")
    finally:
        site.clean()
        site.sql("postgres", *(f"DROP ROLE IF EXISTS {role}" for role in OWN_ROLES))


@pytest.mark.parametrize("roles", ["there", "gone"])
def test_objects_of_several_owners_are_restored_equal(site, owners, roles):
    restore = site.restore(site.back_up(owners))
    if roles == "gone":
        site.clean()
        site.sql("postgres", *(f"DROP ROLE IF EXISTS {role}" for role in OWN_ROLES))
    facts = texts(owners, restore, "fact")
    made = facts.partition("Made as superuser in database shop, none of it with code of the set running: ")[2].partition("\n")[0]
    for each in (
        "function a.add(integer,integer)",
        "function a.loud()",
        "type a.odd",
        "type a.whole",
        "event trigger closed",
        "publication everything",
    ):
        assert each in made
    owners.stage(restore)
    assert is_superuser(site, "own_super") == (roles == "there")
    assert owners.verify_staged(restore) == []
    owners.swap(restore)
    assert is_superuser(site, "own_super")
    assert loaders(site) == []
    owners.roll_back(restore)
    owners.discard(restore)


def test_preflight_warns_about_created_roles_that_can_do_more_than_use_what_they_own(site, owners):
    restore = site.restore(site.back_up(owners))
    site.clean()
    site.sql("postgres", *(f"DROP ROLE IF EXISTS {role}" for role in OWN_ROLES))
    assert "can do more than use what they own from the cutover on: own_super (superuser)" in texts(owners, restore, "warning")


USES_OTHERS = {
    "a materialized view that comes after the rows": [
        "CREATE TABLE mine.t (id int PRIMARY KEY, name text)",
        "INSERT INTO mine.t VALUES (1, 'one')",
        "CREATE MATERIALIZED VIEW mine.named AS SELECT id, name FROM mine.t GROUP BY id",
        "GRANT SELECT ON mine.named TO alice",
        "CREATE MATERIALIZED VIEW alices.seen AS SELECT id FROM mine.named",
        "ALTER MATERIALIZED VIEW alices.seen OWNER TO alice",
    ],
    "statistics that stayed with the former owner of their table": [
        "CREATE TABLE mine.t AS SELECT 1 AS a, 2 AS b",
        "CREATE STATISTICS mine.s ON a, b FROM mine.t",
        "CREATE STATISTICS alices.s ON b, a FROM mine.t",
        "ALTER STATISTICS mine.s OWNER TO alice",
        "ALTER STATISTICS alices.s OWNER TO alice",
        "COMMENT ON STATISTICS mine.s IS 'of alice'",
    ],
    "tables of whoever owns the database": [
        "CREATE TABLE mine.t AS SELECT 1 AS a",
        "ALTER TABLE mine.t OWNER TO pg_database_owner",
        "CREATE TABLE mine.child () INHERITS (mine.t)",
        "CREATE MATERIALIZED VIEW mine.seen AS TABLE mine.t",
    ],
}
"""Objects that need those of another owner, by what they are."""


@pytest.mark.parametrize("what", USES_OTHERS)
def test_what_needs_something_of_another_owner_is_restored_equal(site, mallory, what):
    if site.server.major < 14 and "pg_database_owner" in "".join(USES_OTHERS[what]):
        pytest.skip("there is a role for the owner of a database since PostgreSQL 14")
    site.sql("shop", "CREATE SCHEMA mine", "CREATE SCHEMA alices", *USES_OTHERS[what])
    given = "SELECT format('ALTER TABLE %s OWNER TO mallory', oid::regclass) FROM pg_class"
    site.sql("shop", *(each for (each,) in site.sql("shop", f"{given} WHERE relkind IN ('r', 'm') AND relowner = 10 AND oid >= 16384")))
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert loaders(site) == []
    source.roll_back(restore)
    source.discard(restore)


SETTINGS = {
    "role": "mallory",
    "session_authorization": "mallory",
    "search_path": "mine",
    "exit_on_error": "on",
    "local_preload_libraries": "missing",
    "default_transaction_read_only": "on",
    "statement_timeout": "1ms",
    "row_security": "on",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_backup_does_not_depend_on_settings_that_the_owner_gave_the_database(site, mallory, setting):
    site.sql("shop", "CREATE SCHEMA alices AUTHORIZATION alice")
    site.sql("shop", "CREATE TABLE alices.own AS SELECT 1 AS a", "ALTER TABLE alices.own OWNER TO alice")
    site.sql("shop", "ALTER TABLE alices.own ENABLE ROW LEVEL SECURITY")
    site.sql("shop", f"ALTER DATABASE shop SET {setting} TO '{SETTINGS[setting]}'", **mallory)
    source = site.source("shop")
    saved = site.back_up(source)
    assert contents(saved, "shop", "table")["table", "alices.own"]["count"] == 1
    restore = site.restore(saved)
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    source.roll_back(restore)
    source.discard(restore)


def test_reading_a_sequence_or_a_table_never_reads_a_view_of_that_name(site, evil):
    """The owner of a schema can exchange one for the other between listing and reading."""
    evil("a check")
    view = "CREATE VIEW m0.v AS SELECT m0.attack()::bigint AS last_value, true AS is_called"
    site.sql("shop", view, user="mallory", password="m")
    server = site.source("shop")._server
    with server.connect("shop") as connection, pytest.raises(SourceError, match=r"m0\.v in shop is no sequence any more"):
        dumped.sequence_values(connection, ["m0.v"])
    for facts in ({"copy": ["is_called"], "filter": "WHERE true"}, {"copy": ["is_called"]}):
        with pytest.raises(ToolError, match="view"):
            table_texts(server, "shop", "UTF8", {"m0.v": facts}, 1)
    assert not is_superuser(site, "mallory")
    assert not evil.proof.exists()


def test_reading_a_sequence_plans_no_query_of_a_table_of_that_name(site, evil):
    """The planner runs what the owner wrote into the condition of an index."""
    evil("a check")
    table = ["CREATE TABLE m0.s (last_value bigint, is_called bool)", "INSERT INTO m0.s VALUES (1, true)"]
    table += ["CREATE INDEX ON m0.s (last_value) WHERE m0.one(1) = 1", "CREATE SEQUENCE m0.q START 7"]
    site.sql("shop", *table, user="mallory", password="m")
    site.sql("postgres", "ALTER ROLE mallory NOSUPERUSER")
    evil.proof.unlink(missing_ok=True)
    with site.source("shop")._server.connect("shop") as connection:
        assert dumped.sequence_values(connection, ["m0.q"]) == {"m0.q": {"value": 7, "called": False}}
        with pytest.raises(SourceError, match=r"m0\.s in shop is no sequence any more"):
            dumped.sequence_values(connection, ["m0.s"])
    assert not is_superuser(site, "mallory")
    assert not evil.proof.exists()


def test_superuser_refuses_to_read_an_extensions_table_that_somebody_else_owns(site, evil):
    """The planner runs what the owner wrote into the condition of an index."""
    if site.sql("postgres", "SHOW server_version_num")[0][0] < "18":
        pytest.skip("only PostgreSQL 18 finds extensions of a test")
    restore = site.restore(evil("a check"))
    site.sql("shop", "CREATE EXTENSION rates", "GRANT ALL ON SCHEMA rates TO mallory", "ALTER TABLE rates.rate OWNER TO mallory")
    index = "CREATE INDEX ON rates.rate (value) WHERE m0.one(1) = 1"
    site.sql("shop", index, user="mallory", password="m")
    source = site.source("shop")
    for read in (site.back_up, lambda source: source.compare(restore)):
        with pytest.raises(SourceError, match=r"table rates.rate of the extension rates in shop belongs to mallory"):
            read(source)
    assert not is_superuser(site, "mallory")
    assert not evil.proof.exists()
    site.sql("shop", "DROP INDEX rates.rate_value_idx", "ALTER TABLE rates.rate OWNER TO postgres")
    assert contents(site.back_up(source), "shop", "table")["table", "rates.rate"]["count"] == 0


def test_virtual_columns_are_never_computed(site, mallory):
    if site.sql("postgres", "SHOW server_version_num")[0][0] < "18":
        pytest.skip("PostgreSQL has virtual columns since 18")
    code = ["CREATE SCHEMA mine", "CREATE FUNCTION mine.one(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1; END'"]
    site.sql(
        "shop", *code, "CREATE TABLE mine.t (a int, b int GENERATED ALWAYS AS (1 / a) VIRTUAL)", "INSERT INTO mine.t VALUES (0)", **mallory
    )
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="user-defined function"):
        site.sql("shop", "ALTER TABLE mine.t ADD c int GENERATED ALWAYS AS (mine.one(a)) VIRTUAL", **mallory)
    with pytest.raises(psycopg.errors.DivisionByZero):
        site.sql("shop", "TABLE mine.t")
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    assert [change.what for change in source.compare(restore) if change.kind == "table"] == ["equal"]
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.discard(restore)


def test_backup_runs_no_operator_or_function_of_the_owner(site, mallory):
    """Everything that a session of a backup may call has a namesake in every schema that the owner can put first."""
    for name in ("mine", '"$user"', "public"):
        site.sql("shop", f"CREATE SCHEMA IF NOT EXISTS {name}", **mallory)
        for function in (
            "pg_get_expr(text, oid)",
            "format_type(oid, int)",
            "quote_ident(text)",
            "set_config(text, text, boolean)",
            "lower(text)",
        ):
            body = "$$ BEGIN RAISE 'namesake called'; END $$"
            site.sql("shop", f"CREATE FUNCTION {name}.{function} RETURNS text LANGUAGE plpgsql AS {body}", **mallory)
        site.sql(
            "shop", f"CREATE FUNCTION {name}.same(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE 'called'; END $$", **mallory
        )
        site.sql("shop", f"CREATE OPERATOR {name}.= (LEFTARG = text, RIGHTARG = text, FUNCTION = {name}.same)", **mallory)
    site.sql("shop", "ALTER DATABASE shop SET search_path TO mine, public, pg_catalog", **mallory)
    source = site.source("shop")
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.discard(restore)


def test_user_who_is_no_superuser_gives_tables_to_owners_who_may_not_create_in_their_schema(site, mallory):
    """The owner of a database may create in public, but only once it is his; who may not any more, could once."""
    site.sql("shop", "CREATE TABLE own (n int)", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", **mallory)
    site.sql("shop", "CREATE TABLE of_alice (n int)", "ALTER TABLE of_alice OWNER TO alice")
    set_folder = site.back_up(site.source("shop"))
    site.sql("postgres", "CREATE ROLE keeper LOGIN PASSWORD 'k' CREATEDB CREATEROLE", "GRANT pg_signal_backend, mallory, alice TO keeper")
    source, restore = site.source("shop", user="keeper", password="k"), site.restore(set_folder)
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert site.sql("shop", "SELECT has_schema_privilege('alice', 'public', 'CREATE')") == [(False,)]
