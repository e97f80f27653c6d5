"""What a plan leaves out of a database: the set says so, a restore says so, and what needs it is refused at the backup."""

import pytest

from recovery.common.errors import SourceError
from sandbox.servers import Postgres
from tests.support.local_restore import read_dump
from tests.support.postgres_site import Site, contents, texts
from tests.support.postgres_versions import majors

DATABASE = "left_out"
SHOP = (
    "CREATE TABLE customers (id int PRIMARY KEY, name text)",
    "INSERT INTO customers VALUES (1, 'Ada'), (2, 'Bob')",
    "CREATE TABLE audit (id serial PRIMARY KEY, customer int REFERENCES customers, what text)",
    "INSERT INTO audit (customer, what) VALUES (1, 'in'), (2, 'out')",
    "COMMENT ON TABLE audit IS 'who did what'",
    "CREATE INDEX audit_what ON audit (what)",
    "CREATE STATISTICS audit_both ON customer, what FROM audit",
    "CREATE TABLE log (at date, line text) PARTITION BY RANGE (at)",
    "CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    "CREATE TABLE log_2 PARTITION OF log DEFAULT",
    "INSERT INTO log VALUES ('2026-01-05', 'a'), ('2026-03-05', 'b')",
    "CREATE SCHEMA auth",
    "CREATE TYPE auth.level AS ENUM ('low', 'high')",
    "CREATE TABLE auth.users (id int PRIMARY KEY, level auth.level)",
    "INSERT INTO auth.users VALUES (1, 'high')",
    "CREATE VIEW auth.strong AS SELECT id FROM auth.users WHERE level = 'high'",
    "CREATE FUNCTION auth.me() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OPERATOR auth.=== (leftarg = int, rightarg = int, procedure = int4eq)",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA auth GRANT SELECT ON TABLES TO PUBLIC",
    "COMMENT ON FUNCTION auth.me() IS 'who'",
)
EXCLUDE = {"exclude": ["left_out.auth", "left_out.public.audit"], "exclude_rows": ["*.public.log"]}


@pytest.fixture(scope="module", params=majors(16, 18))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-exclusions-{request.param}", request.param) as server:
        yield Site(server, tmp_path_factory.mktemp("exclusions"), (DATABASE,), ("left_out_reader",))


@pytest.fixture(autouse=True)
def shop(site):
    site.clean()
    site.create(DATABASE, *SHOP)
    yield
    site.clean()


def warnings(set_folder):
    return "\n".join(read_dump(set_folder).warnings)


def test_whole_restore_without_left_out_parts_is_equal_to_the_set_and_says_what_is_missing(site):
    source = site.source(DATABASE, schema_sql=True, **EXCLUDE)
    set_folder = site.back_up(source)
    words = warnings(set_folder)
    assert "left_out: left out by exclude left_out.auth: schema auth." in words
    assert "left_out: left out by exclude left_out.public.audit: table public.audit." in words
    assert "left_out: left out by exclude_rows *.public.log: the rows of public.log, public.log_1, public.log_2." in words
    assert "CREATE TABLE public.audit" not in (set_folder / "dump/schema-0/schema.sql").read_text()
    restore = site.restore(set_folder)
    told = texts(source, restore, "warning")
    assert "Parts of database left_out don't come back" in told
    assert "schema auth (exclude left_out.auth), table public.audit (exclude left_out.public.audit)" in told
    assert "Tables of database left_out come back empty" in told
    assert f"What left_out has of them now stays in left_out__before_{restore.id}." in told
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    query = "SELECT oid::regclass::text FROM pg_class WHERE oid >= 16384 AND relkind = ANY ('{r,p,v,S}')"
    there = {name for (name,) in site.sql(DATABASE, query)}
    assert there == {"customers", "log", "log_1", "log_2"}
    assert site.sql(DATABASE, "SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM log)") == [(2, 0)]


def test_restore_in_place_with_left_out_parts_says_that_the_safety_set_alone_has_them(site):
    source = site.source(DATABASE, **EXCLUDE)
    restore = site.restore(site.back_up(source), in_place=True)
    assert "What left_out has of them now is in the safety set alone." in texts(source, restore, "warning")


def test_safety_backup_ignores_what_the_plan_excludes(site):
    source = site.source(DATABASE, **EXCLUDE)
    source.damaged = True
    set_folder = site.back_up(source)
    assert "exclude" not in warnings(set_folder)
    found = contents(set_folder, DATABASE)
    assert found["table", "auth.users"]["count"] == 1
    assert found["table", "public.log_1"]["count"] == 1
    assert source.changed_since_backup(site.restore(set_folder, in_place=True)) == []


def test_restored_table_with_rows_that_were_left_out_fails_verification(site):
    source = site.source(DATABASE, **EXCLUDE)
    restore = site.restore(site.back_up(source))
    source.stage(restore)
    stage = f"{DATABASE}__stage_{restore.id}"
    site.sql(stage, "INSERT INTO log VALUES ('2026-01-09', 'more')", "CREATE SCHEMA auth")
    differing = {(difference.kind, difference.name) for difference in source.verify_staged(restore)}
    assert differing == {("table", "public.log_1"), ("schema", "auth")}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("public.audit", "The set has not table public.audit of database left_out: the plan's exclude left_out.public.audit left it out"),
        ("auth", "The set has not schema auth of database left_out"),
        ("auth.users", "The set has not schema auth of database left_out"),
        ("public.log", "The set has not the rows of public.log_1 of database left_out: the plan's exclude_rows *.public.log left it out"),
        ("public", "The set has not table public.audit of database left_out"),
    ],
)
def test_restore_of_single_tables_refuses_left_out_ones(site, excluding_set, asked, words):
    source = site.source(DATABASE, **EXCLUDE)
    assert words in texts(source, site.restore(excluding_set, only=[f"{DATABASE}.{asked}"]), "refusal")


def test_restore_of_single_tables_beside_left_out_ones_is_allowed(site, excluding_set):
    source = site.source(DATABASE, **EXCLUDE)
    assert texts(source, site.restore(excluding_set, only=[f"{DATABASE}.public.customers"]), "refusal") == ""


@pytest.fixture
def excluding_set(site):
    return site.back_up(site.source(DATABASE, **EXCLUDE))


@pytest.mark.parametrize(
    ("statements", "settings", "words"),
    [
        (
            ["SELECT"],
            {"exclude": ["*.public.customers"]},
            "constraint audit_customer_fkey on table public.audit uses table public.customers",
        ),
        (
            ["SELECT"],
            {"exclude_rows": ["*.public.customers"]},
            "constraint audit_customer_fkey on table public.audit points to public.customers",
        ),
        (["SELECT"], {"exclude": ["*.public.log_1"]}, "table public.log has the partition public.log_1"),
        (["CREATE VIEW v AS SELECT what FROM audit"], EXCLUDE, "view public.v uses table public.audit"),
        (["CREATE TABLE t (level auth.level)"], EXCLUDE, "uses type auth.level"),
        (["CREATE TABLE t (n int DEFAULT nextval('audit_id_seq'))"], EXCLUDE, "uses sequence public.audit_id_seq"),
        (["CREATE CAST (auth.level AS int) WITH INOUT"], EXCLUDE, "uses type auth.level"),
        (["CREATE PUBLICATION p FOR TABLE audit"], EXCLUDE, "uses table public.audit"),
        (["CREATE TABLE kid () INHERITS (audit)"], EXCLUDE, "table public.kid uses table public.audit"),
    ],
)
def test_what_needs_a_left_out_part_fails_the_backup_with_both_names(site, statements, settings, words):
    site.sql(DATABASE, *statements)
    with pytest.raises(SourceError) as caught:
        site.back_up(site.source(DATABASE, **settings))
    assert words in caught.value.what


def test_part_of_an_extension_is_not_excluded(site):
    if not site.sql("postgres", "SELECT name FROM pg_available_extensions WHERE name = 'vector'"):
        pytest.skip(f"PostgreSQL {site.server.major} has no pgvector here")
    site.sql(DATABASE, "CREATE EXTENSION vector SCHEMA auth")
    with pytest.raises(SourceError, match=r"extension vector uses schema auth"):
        site.back_up(site.source(DATABASE, **EXCLUDE))
    site.sql(DATABASE, "ALTER EXTENSION vector SET SCHEMA public", "ALTER EXTENSION vector ADD TABLE log_1")
    with pytest.raises(SourceError, match=r"table public.log_1 to vector"):
        site.back_up(site.source(DATABASE, exclude=["left_out.public.log*"]))


def test_user_without_rights_on_a_schema_backs_up_the_others_once_it_is_excluded(site):
    site.sql("postgres", "CREATE ROLE left_out_reader LOGIN PASSWORD 'x'")
    site.sql(DATABASE, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO left_out_reader", "REVOKE ALL ON audit FROM left_out_reader")
    site.sql(DATABASE, "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO left_out_reader")
    reader = {"user": "left_out_reader", "password": "x"}
    with pytest.raises(SourceError, match=r"may not read all of database left_out: table auth.users, table public.audit") as caught:
        site.back_up(site.source(DATABASE, **reader))
    assert "name schemas and tables that are not yours to back up in the plan's exclude" in caught.value.next_step
    set_folder = site.back_up(site.source(DATABASE, **reader, **EXCLUDE))
    assert contents(set_folder, DATABASE)["table", "public.customers"]["count"] == 2


def test_roles_of_left_out_parts_alone_are_not_needed(site):
    site.sql("postgres", "CREATE ROLE left_out_reader")
    site.sql(DATABASE, "ALTER TABLE auth.users OWNER TO left_out_reader")
    set_folder = site.back_up(site.source(DATABASE, **EXCLUDE))
    assert "left_out_reader" not in contents(set_folder, DATABASE)["snapshot", DATABASE]["roles"]


def test_pattern_that_nothing_fits_is_a_warning(site):
    set_folder = site.back_up(site.source(DATABASE, exclude=["left_out.public.audti"], exclude_rows=['left_out.public."l*"']))
    assert "Nothing fits exclude left_out.public.audti; look whether it is written right." in warnings(set_folder)
    assert 'Nothing fits exclude_rows left_out.public."l*"' in warnings(set_folder)


def test_partitions_are_left_out_with_their_table(site):
    set_folder = site.back_up(site.source(DATABASE, exclude=["left_out.public.log"]))
    source, restore = site.source(DATABASE), site.restore(set_folder)
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert ("table", "public.log_1") not in contents(set_folder, DATABASE)


def test_odd_name_in_quotes_is_left_out_and_no_other_that_would_fit_it_as_a_pattern(site):
    site.sql(DATABASE, """CREATE TABLE "a.*ß ""[x]" (n int)""", """CREATE TABLE "a.yß ""[x]" (n int)""", 'CREATE TABLE "A" ()')
    set_folder = site.back_up(site.source(DATABASE, exclude=['left_out.public."a.*ß ""[x]"', "left_out.public.A"]))
    found = contents(set_folder, DATABASE)
    assert ("table", 'public."a.yß ""[x]"') in found
    assert ("table", 'public."a.*ß ""[x]"') not in found
    assert ("table", 'public."A"') not in found
    source, restore = site.source(DATABASE), site.restore(set_folder)
    source.stage(restore)
    assert source.verify_staged(restore) == []
