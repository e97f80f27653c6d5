"""Dump, contents, stage and verification on real servers."""

import threading
from pathlib import Path

import psycopg
import pytest

from recovery.common.errors import ArtifactError, SourceError, SourceUnreachable, ToolError
from recovery.packs.content_index import read_rows
from recovery.runners.local import LOCAL
from recovery.sources.postgres.client import find_bin
from recovery.sources.postgres.definitions.names import quoted_name
from recovery.sources.postgres.dump.archive import read_pack
from sandbox.servers import postgres_bin
from tests.sources.postgres.dump.test_archive import members
from tests.support.local_restore import read_dump, reader_of
from tests.support.postgres_site import HARD, Site, contents

ODD = "häßlich 'db\" = x"


@pytest.fixture(scope="module")
def site(postgres_server, tmp_path_factory):
    return Site(postgres_server, tmp_path_factory.mktemp("postgres"))


BODY = "CREATE OR REPLACE FUNCTION shop.{}(a int, b int) RETURNS int LANGUAGE sql {}"


def hard_database(site):
    site.sql("postgres", 'CREATE DATABASE "' + ODD.replace('"', '""') + '"')
    site.load(ODD, HARD)
    name = '"' + ODD.replace('"', '""') + '"'
    site.sql(
        "postgres",
        f"ALTER DATABASE {name} SET timezone = 'Asia/Kolkata'",
        f"ALTER DATABASE {name} SET datestyle = 'German, DMY'",
        f"ALTER DATABASE {name} SET bytea_output = 'escape'",
        f"ALTER DATABASE {name} SET extra_float_digits = -5",
        f"ALTER DATABASE {name} SET default_transaction_read_only = on",
        f"ALTER DATABASE {name} SET quote_all_identifiers = on",
        f"ALTER DATABASE {name} SET search_path = \"$user\", 'a,b', public",
        f"ALTER DATABASE {name} SET app.motto = 'it''s \"so\"'",
        f"ALTER ROLE hard_reader IN DATABASE {name} SET work_mem = '5MB'",
        f"GRANT CREATE ON DATABASE {name} TO hard_reader WITH GRANT OPTION",
        f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC",
        f"COMMENT ON DATABASE {name} IS 'the hard one'",
        f"ALTER DATABASE {name} CONNECTION LIMIT 17",
        f"ALTER DATABASE {name} OWNER TO hard_owner",
    )
    return site.back_up(site.source(ODD, schema_sql=True))


@pytest.fixture(scope="module")
def hard_set(site):
    return hard_database(site)


def staged(site, set_folder, source=None):
    source = source or site.source()
    restore = site.restore(set_folder)
    assert [finding for finding in source.preflight(restore).findings if finding.level == "refusal"] == []
    source.stage(restore)
    return source, restore


def differing(source, restore):
    return {(difference.kind, difference.name) for difference in source.verify_staged(restore)}


def test_database_with_unusual_content_is_dumped_and_staged_equal(site, hard_set):
    source, restore = staged(site, hard_set)
    assert source.verify_staged(restore) == []
    rows = contents(hard_set, ODD)
    assert rows["table", "shop.customer"]["count"] == 302
    assert (
        rows["table", "shop.event_2025"]["count"] + rows["table", "shop.event_2026"]["count"] + rows["table", "shop.event_rest_x"]["count"]
        == 900
    )
    assert rows["table", "shop.empty"] | {"count": 0, "digest": "0" * 16, "bytes": 0} == rows["table", "shop.empty"]
    assert rows["table", "shop.no_columns"]["count"] == 2
    assert (rows["sequence", '"SET".s']["value"], rows["sequence", '"SET".s']["called"]) == (42, False)
    assert rows["large objects", "all"]["count"] == 4
    assert rows["materialized view", "shop.later"]["populated"] is False
    assert "count" not in rows["table", "shop.event"]
    source.discard(restore)
    assert not any("__stage_" in name for name in site.databases())


def test_verify_staged_finds_every_kind_of_change(site, hard_set):
    source, restore = staged(site, hard_set)
    changes = {
        "UPDATE shop.customer SET ratio = ratio + 1e-14 WHERE id = 7": ("table", "shop.customer"),
        "DELETE FROM ONLY shop.dog WHERE legs = 3": ("table", "shop.dog"),
        "INSERT INTO shop.no_columns DEFAULT VALUES": ("table", "shop.no_columns"),
        "ALTER TABLE shop.empty ALTER a TYPE bigint": ("table", "shop.empty"),
        "GRANT DELETE ON shop.a TO hard_reader": ("table", "shop.a"),
        "ALTER TABLE shop.animal OWNER TO hard_owner": ("table", "shop.animal"),
        "DROP TABLE shop.only_generated": ("table", "shop.only_generated"),
        "CREATE TABLE shop.extra ()": ("table", "shop.extra"),
        "SELECT nextval('shop.untouched')": ("sequence", "shop.untouched"),
        "DROP INDEX shop.customer_data": ("index", "shop.customer_data"),
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'shop.customer_lower'::regclass": ("index", "shop.customer_lower"),
        "ALTER TABLE shop.customer ENABLE TRIGGER off": ("trigger", "shop.customer off"),
        "CREATE OR REPLACE FUNCTION shop.rank(shop.mood) RETURNS int LANGUAGE sql AS 'SELECT 1'": ("function", "shop.rank(shop.mood)"),
        "CREATE OR REPLACE VIEW shop.newer AS SELECT id FROM shop.news WHERE id > 5": ("view", "shop.newer"),
        "REFRESH MATERIALIZED VIEW shop.later": ("materialized view", "shop.later"),
        "ALTER TABLE shop.b DROP CONSTRAINT b_a_fkey": ("constraint", "shop.b b_a_fkey"),
        "ALTER POLICY mine ON shop.customer TO public": ("policy", "shop.customer mine"),
        "ALTER TYPE shop.mood RENAME VALUE 'ok' TO 'okay'": ("enum", "shop.mood"),
        "COMMENT ON TABLE shop.customer IS 'other'": ("comment", "table shop.customer"),
        "REVOKE USAGE ON SCHEMA shop FROM hard_reader": ("schema", "shop"),
        "SELECT lo_put(max(oid), 100003, 'Z') FROM pg_largeobject_metadata": ("large objects", "all"),
        "ALTER TABLE shop.sums DROP CONSTRAINT weighed, ADD CONSTRAINT weighed CHECK (a + b * c > 0)": ("constraint", "shop.sums weighed"),
        "CREATE OR REPLACE VIEW shop.summed AS SELECT a + b * c AS n FROM shop.sums": ("view", "shop.summed"),
        "DROP INDEX shop.sums_both; CREATE INDEX sums_both ON shop.sums ((a + b * c))": ("index", "shop.sums_both"),
        BODY.format("weigh", "AS 'SELECT a + b * 2'"): ("function", "shop.weigh(integer,integer)"),
        BODY.format("weighed", "RETURN a + b * 2"): ("function", "shop.weighed(integer,integer)"),
        "UPDATE shop.felt SET n = 9 WHERE n = 2 AND mood = 'sad'": ("table", "shop.felt"),
        "REVOKE USAGE ON FOREIGN SERVER far FROM hard_reader": ("foreign server", "far"),
        "REVOKE USAGE ON LANGUAGE plpgsql FROM hard_reader": ("rights", "language plpgsql"),
        "REVOKE EXECUTE ON FUNCTION pg_ls_dir(text) FROM hard_reader": ("rights", "function pg_catalog.pg_ls_dir(pg_catalog.text)"),
        "GRANT EXECUTE ON FUNCTION pg_sleep(float8) TO hard_reader": ("rights", "function pg_catalog.pg_sleep(double precision)"),
        "REVOKE SELECT (rolname) ON pg_authid FROM hard_reader": ("rights", "table column pg_catalog.pg_authid.rolname"),
        "ALTER PUBLICATION shouted SET TABLE shop.a, shop.sums (a) WHERE (a > 1)": ("published table", "shop.sums in publication shouted"),
        "ALTER TEXT SEARCH CONFIGURATION shop.plain DROP MAPPING FOR email": ("text search configuration", "shop.plain"),
        "ALTER USER MAPPING FOR hard_reader SERVER far OPTIONS (SET password 'other')": ("user mapping", "hard_reader on server far"),
    }
    site.sql(f"{ODD}__stage_{restore.id}", *changes)
    found = differing(source, restore)
    assert found == {*changes.values(), ("published table", "shop.b in publication shouted")}
    assert "mapping secret" not in str(source.verify_staged(restore))
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.discard(restore)


def test_changed_since_backup_reports_a_view_changed_after_the_safety_backup(site):
    site.create("exact", "CREATE TABLE t (at timestamp)", "CREATE VIEW v AS SELECT at::date::text AS at FROM t")
    source = site.source("exact")
    restore = site.restore(site.back_up(source), in_place=True, only=["exact"])
    assert source.changed_since_backup(restore) == []
    site.sql("exact", "CREATE OR REPLACE VIEW v AS SELECT at::text AS at FROM t")
    [change] = source.changed_since_backup(restore)
    assert (change.kind, change.what, change.names) == ("view", "changed", ("exact.public.v",))
    site.sql("postgres", "DROP DATABASE exact")


def test_verify_staged_finds_a_flipped_byte_of_the_dump(site, hard_set):
    source = site.source()
    restore = site.restore(hard_set)
    unpack = restore.unpack

    def flip(artifact, folder, only=None):
        unpack(artifact, folder, only)
        for file in folder.glob("*.dat"):
            if b"Kunde 77 " in file.read_bytes():
                file.write_bytes(file.read_bytes().replace(b"Kunde 77 ", b"Kunde 77!"))

    restore.unpack = flip
    source.stage(restore)
    assert ("table", "shop.customer") in differing(source, restore)
    source.discard(restore)


def test_digests_do_not_depend_on_settings_of_the_database(site):
    content = "CREATE TABLE t AS SELECT timestamptz '2026-11-23 01:02:03.45+02' + n * interval '1 h' a, interval '1 mon 3 h' b,"
    content += " n / 3.0::float8 c, '\\xff00'::bytea d, n::numeric::money e FROM generate_series(1, 50) n"
    site.create("plain", content)
    site.create("bent", content)
    settings = {"timezone": "'America/St_Johns'", "datestyle": "'SQL, DMY'", "intervalstyle": "iso_8601", "bytea_output": "escape"}
    for name, value in (settings | {"extra_float_digits": "-10", "statement_timeout": "'1ms'"}).items():
        site.sql("postgres", f"ALTER DATABASE bent SET {name} = {value}")
    backup = site.back_up(site.source("plain", "bent"))
    assert contents(backup, "plain", "table") == contents(backup, "bent", "table")


def test_settings_of_the_backup_user_do_not_change_dump_or_stage(site):
    site.sql("postgres", "CREATE ROLE odd_admin SUPERUSER LOGIN PASSWORD 'o'")
    site.create(
        "customary",
        "CREATE TABLE t AS SELECT 'pg_class'::regclass AS other, ARRAY['a', NULL] AS words",
        "UPDATE t SET other = 't'",
        "CREATE TABLE parted (a int, b text) PARTITION BY LIST (a)",
    )
    settings = {"quote_all_identifiers": "on", "array_nulls": "off", "search_path": "public", "transform_null_equals": "on"}
    settings |= {"default_transaction_isolation": "serializable", "default_tablespace": "pg_global", "standard_conforming_strings": "off"}
    for name, value in settings.items():
        site.sql("postgres", f"ALTER ROLE odd_admin SET {name} = {value}")
    usual = site.back_up(site.source("customary"))
    source = site.source("customary", user="odd_admin", password="o")
    backup = site.back_up(source)
    assert contents(backup, "customary", "table", "schema") == contents(usual, "customary", "table", "schema")
    source, restore = staged(site, backup, source)
    assert source.verify_staged(restore) == []
    assert site.sql(f"customary__stage_{restore.id}", "SELECT words FROM t") == [(["a", None],)]
    source.discard(restore)


def test_login_triggers_do_not_run_for_a_superuser_and_are_warned_about_otherwise(site):
    site.sql("postgres", "CREATE ROLE comer LOGIN PASSWORD 'c'", "GRANT pg_read_all_data TO comer")
    site.create(
        "greeted",
        "CREATE TABLE visit (at timestamptz);"
        "CREATE FUNCTION greet() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " 'BEGIN INSERT INTO public.visit VALUES (clock_timestamp()); END';"
        "CREATE EVENT TRIGGER greeting ON login EXECUTE FUNCTION greet()",
    )
    backup = site.back_up(site.source("greeted"))
    assert contents(backup, "greeted")["table", "public.visit"]["count"] == 0
    source, restore = staged(site, backup)
    assert source.verify_staged(restore) == []
    source.discard(restore)
    folder = site.new_folder()
    folder.mkdir()
    dump = site.source("greeted", user="comer", password="c").dump(folder, lambda: None)
    assert any("the login trigger greeting runs whenever a backup comes in" in warning for warning in dump.warnings)


def test_stage_continues_with_a_warning_when_analyze_of_a_table_fails(site, caplog):
    site.create(
        "uneven",
        "CREATE TABLE fine AS SELECT generate_series(1, 99) a",
        "CREATE TABLE refusing AS SELECT generate_series(1, 99) a",
        "CREATE TABLE also_fine AS SELECT generate_series(1, 99) a",
        "CREATE FUNCTION refuse(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE 'not today'; END $$",
        "CREATE STATISTICS of_refusing ON refuse(a) FROM refusing",
    )
    source, restore = staged(site, site.back_up(site.source("uneven")))
    assert "not today" in caplog.text
    assert [line for line in caplog.messages if "has no statistics" in line] == [
        "table public.refusing has no statistics, or not all: ANALYZE it once that is mended"
    ]
    counts = "SELECT relname, reltuples FROM pg_class WHERE relname IN ('fine', 'also_fine')"
    assert set(site.sql(f"uneven__stage_{restore.id}", counts)) == {("fine", 99.0), ("also_fine", 99.0)}
    assert source.verify_staged(restore) == []
    source.discard(restore)


def test_databases_with_encodings_other_than_utf8_are_dumped_and_staged_equal(site):
    site.sql(
        "postgres", *(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING {name} LOCALE 'C'" for name in ("latin1", "sql_ascii", "euc_jp"))
    )
    for name, word in (("latin1", "übel"), ("sql_ascii", "übel"), ("euc_jp", "日本")):
        with site.server.connect(name) as connection:
            if name == "sql_ascii":
                connection.execute("SET client_encoding TO latin1")
            connection.execute(f'CREATE TABLE "{word}" ("{word}") AS SELECT text \'{word}\'')
            connection.execute(f'CREATE SEQUENCE "{word}s" START 5')
            connection.execute(f"COMMENT ON TABLE \"{word}\" IS '{word}'")
    backup = site.back_up(site.source("latin1", "sql_ascii", "euc_jp"))
    assert contents(backup, "latin1")["table", 'public."übel"']["bytes"] == len("übel\n".encode("latin1"))
    assert contents(backup, "euc_jp")["sequence", 'public."日本s"']["value"] == 5
    source, restore = staged(site, backup)
    assert source.verify_staged(restore) == []
    source.discard(restore)


def test_dump_has_the_data_of_the_moment_its_snapshot_opened_and_blocks_ddl(site):
    site.create("moving", "CREATE TABLE t AS SELECT 1 AS a", "CREATE TABLE u ()")
    source = site.source("moving")
    folder = site.new_folder()
    folder.mkdir()
    refused = []

    def opened():
        site.sql("moving", "INSERT INTO t VALUES (2)")
        with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
            site.sql("moving", "SET lock_timeout = '50ms'", "DROP TABLE u")
        refused.append(caught.value)

    dump = source.dump(folder, opened)
    [file] = [path for path in (folder / "database-0").glob("*.dat") if path.name != "toc.dat" and path.read_bytes().startswith(b"1\n")]
    assert file.read_bytes() == b"1\n\\.\n\n\n"
    assert len(refused) == 1
    assert dump.consistency == "snapshot"
    assert dump.point.position.count("/") == 1
    assert dump.point.opened <= dump.point.closed


def test_dump_skips_copies_of_restores_and_closed_or_half_dropped_databases(site):
    names = [
        "globals",
        "globals_",
        "a/b",
        "globals.schema",
        "x__stage_0a1b2c3d",
        "x__before_0a1b2c3d",
        "x__replaced_0a1b2c3d",
        "x__stage_short",
        "x__before_20241231_kept",
        "mold",
        "cut",
        "rdsadmin",
    ]
    for name in names:
        site.create(name, "CREATE TABLE t AS SELECT current_database()")
    site.create("closed")
    site.sql("postgres", "ALTER DATABASE closed ALLOW_CONNECTIONS false", "ALTER DATABASE mold IS_TEMPLATE true")
    site.sql("postgres", "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'cut'")
    folder = site.new_folder()
    folder.mkdir()
    dump = site.source(schema_sql=True).dump(folder, lambda: None)
    artifacts = [artifact.name for artifact in dump.artifacts]
    assert len(artifacts) == len(set(artifacts))
    dumped = {name for artifact in artifacts for name in database_of(folder, artifact)}
    assert {"globals", "globals_", "a/b", "globals.schema", "x__stage_short", "x__before_20241231_kept", "mold", "postgres"} <= dumped
    left_out = {"x__stage_0a1b2c3d", "x__before_0a1b2c3d", "x__replaced_0a1b2c3d", "closed", "cut", "rdsadmin"}
    assert not {*left_out, "template0", "template1"} & dumped
    assert {warning.split()[1] for warning in dump.warnings if warning.startswith("Database ")} == left_out
    assert any(warning.startswith("Database cut was left by a DROP DATABASE that did not end") for warning in dump.warnings)
    with pytest.raises(SourceError, match="no database cut"):
        site.source("cut").dump(folder, lambda: pytest.fail("opened"))
    site.sql("postgres", "ALTER DATABASE mold IS_TEMPLATE false")
    for name in [*names, "closed"]:
        site.sql("postgres", f'DROP DATABASE "{name}"')


def test_dump_warns_about_a_skipped_schema_named_like_a_copy_of_a_restore(site):
    site.create("yearly", "CREATE SCHEMA sales__before_20241231", "CREATE SCHEMA sales__before_2024")
    folder = site.new_folder()
    folder.mkdir()
    [warning] = site.source("yearly").dump(folder, lambda: None).warnings
    assert warning.startswith("yearly: schema sales__before_20241231 has the name of a copy")


def test_dump_warns_about_what_comes_back_otherwise_or_not_at_all(site):
    site.create(
        "partial",
        "CREATE FUNCTION price(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'",
        "CREATE TABLE t (n int, p int GENERATED ALWAYS AS (public.price(n)) STORED, q int GENERATED ALWAYS AS (n * 2) STORED)",
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM t",
        "CREATE MATERIALIZED VIEW empty AS SELECT * FROM t WITH NO DATA",
        "REVOKE USAGE ON LANGUAGE sql FROM PUBLIC",
        "CREATE FUNCTION near(int, int, int, bool, bool) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true'",
        "ALTER OPERATOR FAMILY text_ops USING btree ADD FUNCTION 3 (text, int) public.near(int, int, int, bool, bool)",
        "CREATE ROLE handler",
        "ALTER FUNCTION plpgsql_call_handler() OWNER TO handler",
    )
    folder = site.new_folder()
    folder.mkdir()
    assert list(site.source("partial").dump(folder, lambda: None).warnings) == [
        "partial: materialized views come back with what their queries give at a restore, not with their rows of the backup: public.m.",
        "partial: stored columns are computed anew at a restore, with their functions as these are then: public.t.p.",
        "partial: rights on PostgreSQL's own languages are not saved: sql. Grant or revoke them again after a restore.",
        "partial: what was added to PostgreSQL's own operator families is not saved: text_ops of btree. Add it again after a restore.",
        "partial: the owners of an extension's members are not saved: function plpgsql_call_handler() of plpgsql."
        " Give them away again after a restore.",
    ]


HASHED = {
    "arrays": ("mood[]", "ARRAY[m]"),
    "rows": ("pair", "ROW(1, m)::pair"),
    "ranges": ("moods", "moods(m, m, '[]')"),
    "multiranges": ("multimoods", "multimoods(moods(m, m, '[]'))"),
    "domains": ("calm", "m"),
    "domains_of_arrays": ("calms", "ARRAY[m]"),
    "arrays_of_domains": ("calm[]", "ARRAY[m::calm]"),
    "names": ("regclass", "('no_' || m)::regclass"),
}


def hashed(table, kind, key="k"):
    parts = [f"CREATE TABLE {table}_{n} PARTITION OF {table} FOR VALUES WITH (MODULUS 3, REMAINDER {n})" for n in range(3)]
    return f"CREATE TABLE {table} (n int, k {kind}) PARTITION BY HASH ({key})", *parts


def test_rows_hashed_by_what_holds_an_enum_come_back_whatever_their_partition(site):
    """The hash is that of numbers, which other databases give anew; pg_dump itself looks only for keys that are an enum."""
    labels = "abcdefghij"
    site.create(
        "hashed",
        f"CREATE TYPE mood AS ENUM ({', '.join(map(repr, labels))})",
        "CREATE TYPE pair AS (n int, m mood)",
        "CREATE TYPE moods AS RANGE (subtype = mood, multirange_type_name = multimoods)",
        "CREATE DOMAIN calm AS mood",
        "CREATE DOMAIN calms AS mood[]",
        *(f"CREATE TABLE no_{label} ()" for label in labels),
        *(statement for table, (kind, _) in HASHED.items() for statement in hashed(table, kind)),
        *(f"INSERT INTO {table} SELECT 1, {value} FROM unnest(enum_range(NULL::mood)) m" for table, (_, value) in HASHED.items()),
        *hashed("expressions", "mood", "(ARRAY[k])"),
        "INSERT INTO expressions SELECT 1, m FROM unnest(enum_range(NULL::mood)) m",
        "CREATE TABLE below (n int, k mood[]) PARTITION BY LIST (n)",
        "CREATE TABLE below_1 PARTITION OF below FOR VALUES IN (1) PARTITION BY HASH (k)",
        *(f"CREATE TABLE below_1_{n} PARTITION OF below_1 FOR VALUES WITH (MODULUS 2, REMAINDER {n})" for n in range(2)),
        "INSERT INTO below SELECT 1, ARRAY[m] FROM unnest(enum_range(NULL::mood)) m",
        *hashed("plain", "int[]"),
        "INSERT INTO plain SELECT 1, ARRAY[n] FROM generate_series(1, 10) n",
    )
    backup = site.back_up(site.source("hashed"))
    rows = contents(backup, "hashed", "table")
    known = {name: facts["hashed by enum"] for (_, name), facts in rows.items() if facts["hashed by enum"]}
    assert known == {f"public.{table}_{n}": f"public.{table}" for table in [*HASHED, "expressions"] for n in range(3)} | {
        f"public.below_1_{n}": "public.below_1" for n in range(2)
    }
    source, restore = staged(site, backup)
    assert source.verify_staged(restore) == []
    source.discard(restore)
    for table in ("arrays", "names"):
        site.sql("hashed", f"DELETE FROM {table}")
        restore = site.restore(backup, only=[f"hashed.public.{table}"])
        assert [finding for finding in source.preflight(restore).findings if finding.level == "refusal"] == []
        source.stage(restore)
        assert source.verify_staged(restore) == []
        source.swap(restore)
        assert site.sql("hashed", f"SELECT count(*) FROM {table}") == [(len(labels),)]
        source.roll_back(restore)
        source.discard(restore)
    site.sql("postgres", "DROP DATABASE hashed")


def test_dump_warns_about_a_table_that_an_owner_added_to_an_extension(site):
    """pg_dump leaves it to the extension, which does not make it."""
    site.sql("postgres", "CREATE ROLE hiding LOGIN PASSWORD 'h'", "CREATE DATABASE hidden OWNER hiding")
    site.sql("hidden", "DROP EXTENSION plpgsql")
    hidden = ("CREATE EXTENSION plpgsql", "CREATE SCHEMA s", "CREATE TABLE s.orders (a int)", "ALTER EXTENSION plpgsql ADD TABLE s.orders")
    site.sql("hidden", *hidden, user="hiding", password="h")
    folder = site.new_folder()
    folder.mkdir()
    [warning] = site.source("hidden").dump(folder, lambda: None).warnings
    assert warning == "hidden: table s.orders was added to the extension plpgsql; neither it nor its rows are saved."
    site.sql("postgres", "DROP DATABASE hidden", "DROP ROLE hiding")


def database_of(folder, artifact):
    return [name for _, name, _ in read_rows(folder / f"{artifact}.inventory.jsonl", "database")]


def test_dump_fails_when_a_database_named_in_the_plan_is_missing(site):
    with pytest.raises(SourceError, match="no database nowhere, which the plan names"):
        site.source("postgres", "nowhere").dump(site.folder, lambda: pytest.fail("opened"))


def test_dump_with_wrong_password_fails_retryably_and_hides_the_password(site):
    source = site.source(password="wrong")
    with pytest.raises(SourceUnreachable, match="password authentication failed") as caught:
        source.dump(site.folder, lambda: None)
    assert caught.value.retryable
    assert "wrong" not in str(caught.value)


def test_backup_user_without_superuser_rights_saves_databases_but_no_passwords(site):
    site.sql("postgres", "CREATE ROLE bk LOGIN PASSWORD 'b'", "CREATE ROLE saved LOGIN PASSWORD 's'")
    site.create(
        "readable",
        "CREATE TABLE t AS SELECT generate_series(1, 9) a",
        "CREATE SEQUENCE s",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO bk",
    )
    site.sql("readable", "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO bk")
    source = site.source("readable", user="bk", password="b")
    backup = site.back_up(source)
    assert any("passwords are not saved" in warning for warning in read_dump(backup).warnings)
    assert b"PASSWORD" not in (backup / "dump/globals/globals.sql").read_bytes()
    assert contents(backup, "readable")["table", "public.t"]["count"] == 9
    source, restore = staged(site, backup)
    assert source.verify_staged(restore) == []
    source.discard(restore)


def test_dump_of_all_databases_leaves_out_those_that_do_not_let_the_backup_user_in(site):
    site.sql("postgres", "CREATE ROLE guest LOGIN PASSWORD 'g'", "GRANT pg_read_all_data TO guest")
    others = [name for name, usable in site.source()._server.databases().items() if usable and name != "postgres"]
    site.sql("postgres", *(f"REVOKE CONNECT ON DATABASE {quoted_name(name)} FROM PUBLIC" for name in others))
    for name in ("open", "shut"):
        site.create(name, "CREATE TABLE t AS SELECT 1 AS a")
    site.sql("postgres", "REVOKE CONNECT ON DATABASE shut FROM PUBLIC")
    folder = site.new_folder()
    folder.mkdir()
    dump = site.source(user="guest", password="g").dump(folder, lambda: None)
    assert "Database shut does not let guest in, and is not backed up." in dump.warnings
    assert {artifact.name for artifact in dump.artifacts} == {"open", "postgres", "globals"}
    site.sql("postgres", *(f"GRANT CONNECT ON DATABASE {quoted_name(name)} TO PUBLIC" for name in others))
    with pytest.raises(SourceUnreachable, match="permission denied for database"):
        site.source("shut", user="guest", password="g").dump(site.new_folder(), lambda: None)


def test_dump_fails_and_names_objects_that_the_backup_user_may_not_read(site):
    site.sql("postgres", "CREATE ROLE blind LOGIN PASSWORD 'b'", "CREATE ROLE half LOGIN PASSWORD 'b'", "GRANT pg_read_all_data TO half")
    site.create(
        "secretive",
        'CREATE TABLE "hid den" (a int)',
        "CREATE TABLE shown ()",
        "GRANT SELECT ON shown TO blind",
        "CREATE SEQUENCE counter",
        "CREATE SCHEMA walled",
        "CREATE TABLE walled.t ()",
        "GRANT SELECT ON walled.t TO blind",
        "SELECT lo_from_bytea(4711, 'x')",
        "CREATE TABLE rows_hidden ()",
        "ALTER TABLE rows_hidden ENABLE ROW LEVEL SECURITY",
    )
    for user, expected, others in (
        ("blind", ['table public."hid den"', "sequence public.counter", "table walled.t", "large object 4711"], ["shown"]),
        ("half", ["table public.rows_hidden (row security hides rows)", "large object 4711"], ["hid den", "counter", "walled"]),
    ):
        with pytest.raises(SourceError) as caught:
            site.source("secretive", user=user, password="b").dump(site.folder, lambda: pytest.fail("opened"))
        assert all(name in str(caught.value) for name in expected), str(caught.value)
        assert not any(name in str(caught.value) for name in others), str(caught.value)


def wrapped_tools(site, body):
    """The server's tools, with a pg_dump that does something else first."""
    folder = site.new_folder()
    folder.mkdir()
    for name in ("pg_dumpall", "pg_restore", "psql"):
        (folder / name).symlink_to(site.server.bin / name)
    real = site.server.bin / "pg_dump"
    script = f'#!/bin/sh\ncase "$*" in --version) exec {real} --version;; esac\n{body.format(pg_dump=real)}\n'
    (folder / "pg_dump").write_text(script)
    (folder / "pg_dump").chmod(0o755)
    return [folder]


def test_dump_fails_when_pg_dump_is_killed(site):
    source = site.source("postgres", tools=wrapped_tools(site, "kill -9 $$"))
    with pytest.raises(ToolError, match="killed by signal 9"):
        site.back_up(source)


def test_backup_fails_and_names_objects_that_pg_dump_left_out(site):
    site.create(
        "lossy",
        "CREATE TABLE kept AS SELECT 1 a",
        "CREATE TABLE lost AS SELECT 1 a",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    )
    source = site.source("lossy", tools=wrapped_tools(site, 'exec {pg_dump} --exclude-table-data=public.lost "$@"'))
    with pytest.raises(SourceError, match=r"the rows of table public\.lost") as caught:
        site.back_up(source)
    assert "kept" not in str(caught.value)
    source = site.source("lossy", tools=wrapped_tools(site, 'exec {pg_dump} --table=public.kept "$@"'))
    with pytest.raises(SourceError, match=r"table public\.lost.*function public\.f\(\)"):
        site.back_up(source)


def test_find_bin_fails_and_names_the_searched_folders_when_tools_are_missing(monkeypatch, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    (half / "pg_dump").symlink_to(postgres_bin(18) / "pg_dump")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("RECOVERY_POSTGRES_BIN", f"{half}:{postgres_bin(16)}")
    with pytest.raises(ToolError) as caught:
        find_bin(18, [tmp_path / "nothing"], LOCAL)
    words = str(caught.value)
    assert not caught.value.retryable
    assert f"{half} (version 18, but no pg_dumpall, pg_restore, psql)" in words
    assert f"{postgres_bin(16)} (version 16)" in words
    assert f"{tmp_path / 'nothing'} (no pg_dump)" in words
    monkeypatch.setenv("RECOVERY_POSTGRES_BIN", f"{half}:{postgres_bin(18)}")
    assert find_bin(18, [], LOCAL) == postgres_bin(18)
    assert find_bin(16, [postgres_bin(18), postgres_bin(16)], LOCAL) == postgres_bin(16)


def test_contents_fails_when_any_member_of_the_dump_is_missing(site, hard_set):
    source = site.source(ODD)
    folder = site.new_folder()
    folder.mkdir()
    dump = source.dump(folder, lambda: None)
    [artifact] = [artifact for artifact in dump.artifacts if artifact.name == ODD]
    inventory = folder / f"{ODD}.inventory.jsonl"
    whole = members(artifact.root)

    def read(without=None):
        return list(
            reader_of(source).contents(
                ODD, inventory, read_pack(ODD, [member for member in members(artifact.root) if member[0].name != without])
            )
        )

    assert len(read()) > 90
    for info, _ in whole:
        with pytest.raises(ArtifactError):
            read(info.name)


def test_contents_fails_when_a_large_object_is_truncated(site, tmp_path):
    site.create("blobs", "SELECT lo_from_bytea(n, 'some bytes') FROM generate_series(4711, 4712) n", "SELECT lo_put(4712, 9999, 'end')")
    source = site.source("blobs")
    dump = source.dump(tmp_path, lambda: None)
    for artifact in dump.artifacts:
        assert artifact.bytes == sum(path.stat().st_size for path in Path(artifact.root).rglob("*") if path.is_file())
    [artifact] = [artifact for artifact in dump.artifacts if artifact.name == "blobs"]
    inventory = tmp_path / "blobs.inventory.jsonl"

    def kept():
        rows = reader_of(source).contents("blobs", inventory, read_pack("blobs", members(artifact.root)))
        return next(facts for kind, _, facts in rows if kind == "large objects")

    found = kept()
    assert (found["count"], found["bytes"]) == (2, 10 + 10002)
    for size in (0, 9):
        (Path(artifact.root) / "blob_4711.dat").write_bytes(b"some bytes"[:size])
        with pytest.raises(ArtifactError, match="or of other sizes"):
            kept()
    site.sql("postgres", "DROP DATABASE blobs")


def test_concurrent_backups_of_one_database_have_equal_contents(site):
    site.create("twice", "CREATE TABLE t AS SELECT generate_series(1, 1000) a")
    results = []

    def once():
        folder = site.new_folder()
        results.append(contents(site.back_up(site.source("twice")), "twice", "table") if folder else None)

    threads = [threading.Thread(target=once) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0] == results[1]
