"""Single tables that do not bear a dump and its restore: all rows come back, and what does not is named."""

import pytest

from recovery.common.errors import RestoreError
from sandbox.servers import Postgres
from tests.support.kills import killed_at_statement, killed_at_step
from tests.support.postgres_exceptions import BEFORE_17, LEFT_OUT, WHOLE
from tests.support.postgres_site import Site
from tests.support.postgres_versions import majors

OWNER = "ex_owner"
OF_A_DOMAIN = "rows that a check of a domain forbids by now"
TABLES = """SELECT quote_ident(relname) FROM pg_class WHERE relkind = ANY (%s) AND NOT (relispartition AND %s)
    AND relnamespace = 'public'::regnamespace ORDER BY 1"""
DEFINITIONS = """SELECT c.oid::regclass::text, pg_get_constraintdef(k.oid) FROM pg_class c JOIN pg_constraint k ON conrelid = c.oid
      WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT indrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
      WHERE relnamespace = 'public'::regnamespace ORDER BY 1, 2"""


@pytest.fixture(scope="module", params=majors(16))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-exceptions-{request.param}", request.param, ["fsync=off"]) as server:
        made = Site(server, tmp_path_factory.mktemp("postgres-exceptions"), ("exc",), (OWNER,))
        made.sql("postgres", f"CREATE ROLE {OWNER} LOGIN SUPERUSER PASSWORD 'x'")
        made.major = request.param
        yield made


@pytest.fixture
def backup(site):
    """Makes a set of a database of an owner who was a superuser when it was filled, and is none any more."""

    def made(*statements):
        site.sql("postgres", f"ALTER ROLE {OWNER} SUPERUSER", f"CREATE DATABASE exc OWNER {OWNER}")
        site.sql("exc", *(each.replace("{database}", "exc") for each in statements), user=OWNER, password="x")
        site.sql("postgres", f"ALTER ROLE {OWNER} NOSUPERUSER")
        return site.back_up(site.source("exc"))

    yield made
    site.clean_databases()
    for (role,) in site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'"):
        site.sql("postgres", f"DROP ROLE {role}")


def named(source, restore):
    return sorted(each.sentence.removeprefix("exc: ") for each in source.left_out(restore))


def begins(sentences, words):
    return len(sentences) == len(words) and all(each.startswith(begin) for each, begin in zip(sentences, words, strict=True))


def tables(connection, kinds, *, only_whole):
    return [name for (name,) in connection.execute(TABLES, [list(kinds), only_whole]).fetchall()]


def rows(site):
    """As COPY gives them, which plans nothing."""
    with site.server.connect("exc") as connection:
        found = {}
        for name in tables(connection, "r", only_whole=False):
            with connection.cursor().copy(f"COPY public.{name} TO STDOUT") as copy:
                found[name] = sorted(map(bytes, copy))
        return found


def state(site):
    return rows(site), site.sql("exc", DEFINITIONS)


def left_over(site):
    found = site.sql("exc", "SELECT nspname FROM pg_namespace WHERE nspname ~ '__(stage|replaced)_'")
    return found + site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'")


def exchanged_and_rolled_back(site, source, restore):
    """Swap tables that are changed before, and roll back; all is as it was at each end."""
    saved = rows(site)
    with site.server.connect("exc") as connection:
        for name in tables(connection, "rp", only_whole=True):
            connection.execute(f"ALTER TABLE public.{name} ADD COLUMN IF NOT EXISTS later int")
    before = state(site)
    source.swap(restore)
    assert rows(site) == saved
    source.roll_back(restore)
    assert state(site) == before
    source.discard(restore)
    assert left_over(site) == []


@pytest.mark.parametrize("case", [*WHOLE, *BEFORE_17])
def test_tables_come_back_whole_whose_functions_do_not_bear_an_empty_search_path(site, backup, case):
    if case in BEFORE_17 and site.major >= 17:
        pytest.skip("PostgreSQL 17 and newer give such functions no search path")
    saved, source = backup(*{**WHOLE, **BEFORE_17}[case]), site.source("exc")
    schemas = site.sql("exc", "SELECT 'exc.' || nspname FROM pg_namespace WHERE nspname IN ('public', 'words')")
    restore = site.restore(saved, only=[schema for (schema,) in schemas])
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert source.left_out(restore) == []
    exchanged_and_rolled_back(site, source, restore)


@pytest.mark.parametrize("case", [case for case in LEFT_OUT if case != OF_A_DOMAIN])
def test_what_can_not_be_made_of_tables_is_named_and_all_rows_are_there(site, backup, case):
    statements, words = LEFT_OUT[case]
    saved, source = backup(*statements), site.source("exc")
    restore = site.restore(saved, only=["exc.public"], may_lack=True)
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert begins(named(source, restore), words)
    exchanged_and_rolled_back(site, source, restore)


NEEDS = [
    "CREATE TABLE t (i int, j int CHECK (j > 0))",
    "INSERT INTO t VALUES (1, 2)",
    "CREATE FUNCTION tried(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
    "CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE INDEX by_function ON t (tried(i))",
    "CREATE STATISTICS of_function ON (tried(i)) FROM t",
    "CREATE TRIGGER fires BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fired()",
    "CREATE POLICY seen ON t USING (tried(i) = 1)",
    "CREATE RULE told AS ON DELETE TO t DO ALSO SELECT tried(1)",
    "ALTER TABLE t ADD CONSTRAINT once EXCLUDE USING btree (tried(i) WITH =)",
    "COMMENT ON POLICY seen ON t IS 'by a function'",
]


def test_what_the_live_database_has_no_function_for_is_named(site, backup):
    saved = backup(*NEEDS)
    site.sql("exc", "DROP FUNCTION tried, fired CASCADE", "UPDATE t SET j = 3")
    source, before = site.source("exc"), state(site)
    restore = site.restore(saved, only=["exc.public.t"], may_lack=True)
    source.stage(restore)
    assert source.verify_staged(restore) == []
    kinds = ["constraint public t once", "index public by_function", "policy public t seen", "rule public t told"]
    assert begins(named(source, restore), [*kinds, "statistics public of_function", "trigger public t fires"])
    assert "__stage_" not in "".join(named(source, restore))
    source.swap(restore)
    assert site.sql("exc", "SELECT i, j FROM t") == [(1, 2)]
    source.roll_back(restore)
    source.discard(restore)
    assert state(site) == before


FAR = [
    "CREATE TABLE far (n int)",
    "INSERT INTO far VALUES (1)",
    "CREATE TABLE t (i int)",
    "INSERT INTO t VALUES (1)",
    "CREATE FUNCTION near(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END'",
    "CREATE INDEX folded ON t (i) WHERE near(1) = 1",
]
READS_FAR = """CREATE OR REPLACE FUNCTION near(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ DECLARE n int; BEGIN
    EXECUTE 'SELECT n FROM public.' || 'fa' || 'r' INTO n; RETURN n; END $$"""


def test_rehearsal_copes_with_an_index_that_only_the_live_database_can_make(site, backup):
    saved = backup(*FAR)
    site.sql("exc", READS_FAR)
    source = site.source("exc")
    restore = site.restore(saved, only=["exc.public.t"])
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert source.left_out(restore) == []
    source.swap(restore)
    assert site.sql("exc", "SELECT pg_get_indexdef('folded'::regclass)")[0][0].endswith("WHERE (near(1) = 1)")
    source.roll_back(restore)
    source.discard(restore)


def test_foreign_key_of_another_table_to_a_key_that_can_not_be_made_is_refused_in_words(site, backup):
    saved = backup(*LEFT_OUT["a primary key with duplicates, and what needs it"][0])
    site.sql("exc", "DROP VIEW grouped CASCADE", "TRUNCATE p, c", "CREATE TABLE later (i int CONSTRAINT needs REFERENCES p)")
    source = site.source("exc")
    restore = site.restore(saved, only=["exc.public.p"], may_lack=True)
    source.stage(restore)
    with pytest.raises(
        RestoreError, match=r"The foreign key known of public\.c needs a key of public\.p that can't be made of the set: there is no"
    ):
        source.verify_staged(restore)
    source.discard(restore)
    assert left_over(site) == []


def test_tables_that_are_left_beside_lack_what_is_named(site, backup):
    saved = backup(*NEEDS)
    site.sql("exc", "DROP FUNCTION tried, fired CASCADE")
    source = site.source("exc")
    restore = site.restore(saved, only=["exc.public.t"], beside=True, may_lack=True)
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert "statistics public of_function can't be made" in "".join(named(source, restore))
    source.leave_beside(restore)
    assert site.sql("exc", f"SELECT i, j FROM restored_{restore.id}.t") == [(1, 2)]
    assert left_over(site) == []


CHECKED = [
    "CREATE TABLE z_dict (val text PRIMARY KEY)",
    "INSERT INTO z_dict VALUES ('a')",
    "CREATE FUNCTION known(text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.z_dict WHERE val = $1)'",
    "CREATE TABLE a_data (val text CONSTRAINT is_known CHECK (known(val)))",
    "INSERT INTO a_data VALUES ('a')",
    "COMMENT ON CONSTRAINT is_known ON a_data IS 'by a table'",
]


def test_check_that_the_rows_of_the_live_database_refuse_is_added_after_the_rows(site, backup):
    saved = backup(*CHECKED)
    site.sql("exc", "TRUNCATE a_data, z_dict")
    source = site.source("exc")
    restore = site.restore(saved, only=["exc.public.a_data"], may_lack=True)
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert begins(named(source, restore), ["check constraint public a_data is_known is restored as not valid"])
    source.swap(restore)
    assert site.sql("exc", "SELECT val FROM a_data") == [("a",)]
    assert begins(named(source, restore), ["check constraint public a_data is_known is restored as not valid"])


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "not killed"])
def test_check_that_the_restored_rows_hold_is_valid_after_the_swap(site, backup, monkeypatch, killed):
    saved = backup(*CHECKED)
    site.sql("exc", "TRUNCATE a_data, z_dict")
    source = site.source("exc")
    restore = site.restore(saved, only=["exc.public"], may_lack=True)
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert len(named(source, restore)) == 1
    if killed:
        with killed_at_statement(monkeypatch, "VALIDATE CONSTRAINT"):
            source.swap(restore)
    source.swap(restore)
    assert source.left_out(restore) == []
    assert {change.what for change in source.compare(restore)} == {"equal"}
    source.roll_back(restore)
    source.discard(restore)
    assert left_over(site) == []


def test_verification_accepts_what_is_named_and_nothing_else(site, backup):
    saved = backup(*LEFT_OUT["an index whose function fails by now, of a constraint that others refer to"][0])
    source, before = site.source("exc"), state(site)
    restore = site.restore(saved, only=["exc.public"], may_lack=True)
    source.stage(restore)
    staged = f"public__stage_{restore.id}"
    site.sql("exc", f"DROP STATISTICS {staged}.of_both", f"ALTER TABLE {staged}.t DROP CONSTRAINT known")
    lost = ["constraint public.t known", "statistics public.of_both"]
    assert sorted(f"{each.kind} {each.name}" for each in source.verify_staged(restore)) == lost
    with pytest.raises(RestoreError, match=r"would not be the set's.*public\.t known"):
        source.swap(restore)
    assert state(site) == before
    source.discard(restore)
    assert left_over(site) == []


@pytest.mark.parametrize("who", [{}, {"user": OWNER, "password": "x"}], ids=["superuser", "owner"])
def test_rows_that_a_domain_of_the_live_database_refuses_end_the_restore_in_words(site, backup, who):
    saved = backup(*LEFT_OUT[OF_A_DOMAIN][0])
    site.sql("postgres", f"ALTER ROLE {OWNER} CREATEDB CREATEROLE")
    source, before = site.source("exc", **who), state(site)
    restore = site.restore(saved, only=["exc.public"], may_lack=True)
    with pytest.raises(RestoreError) as refused:
        source.stage(restore)
    assert refused.value.what.startswith("Restoring to exc would fail: the rows of table public.used can't be loaded: value for domain")
    assert site.sql("exc", "SELECT conname, convalidated FROM pg_constraint WHERE conname = 'is_allowed'") == [("is_allowed", True)]
    source.discard(restore)
    assert state(site) == before
    assert left_over(site) == []


def test_table_that_can_not_be_made_ends_the_restore_in_words(site, backup):
    saved = backup("CREATE TYPE mood AS ENUM ('ok')", "CREATE TABLE t (m mood)", "INSERT INTO t VALUES ('ok')")
    site.sql("exc", "DROP TYPE mood CASCADE")
    source = site.source("exc")
    restore = site.restore(saved, only=["exc.public.t"], may_lack=True)
    with pytest.raises(RestoreError) as refused:
        source.stage(restore)
    assert refused.value.what == 'Restoring to exc would fail: table public t can\'t be made: type "public.mood" does not exist.'
    source.discard(restore)
    assert left_over(site) == []


@pytest.mark.parametrize("moment", ["a second try", "what is not made"])
def test_killed_load_of_what_can_not_be_made_begins_afresh(site, backup, monkeypatch, moment):
    statements, words = LEFT_OUT["orphan rows"]
    saved = backup(*statements)
    source = site.source("exc")
    restore = site.restore(saved, only=["exc.public"], may_lack=True)
    killed = {
        "a second try": lambda: killed_at_statement(monkeypatch, "FOREIGN KEY .* NOT VALID", after=True),
        "what is not made": lambda: killed_at_step(restore, "not made", after=True, nth=2),
    }
    with killed[moment]():
        source.stage(restore)
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert begins(named(source, restore), words)
    with killed_at_statement(monkeypatch, "COMMIT", after=True, since=(restore, "switch tables")):
        source.swap(restore)
    source.swap(restore)
    source.roll_back(restore)
    source.discard(restore)
    assert left_over(site) == []
