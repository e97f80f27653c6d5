"""Definitions come back equal whatever text the server shows them in, and no other definition is taken for one of these."""

import psycopg
import pytest

from recovery.sources.postgres.definitions.reading import Definitions, as_meant, kept
from sandbox.servers import Postgres
from tests.support.postgres_site import Site
from tests.support.postgres_versions import majors

EXPRESSIONS = [
    "-1::int",
    "- 2 ^ 2",
    "-1::smallint + 1",
    "- (-1)",
    "-1.5::numeric",
    "'-1'::int",
    "(-1)::bigint::int",
    "1 + -1::int",
    "extract('YEAR' FROM d)",
    "extract(epoch FROM d)",
    'extract("century" FROM d)',
    "s IN ('a', 'b')",
    "s NOT IN ('a', 'b')",
    "s = ANY (ARRAY['a', 'b']::varchar[])",
    "s = ANY ('{a,b}')",
    "(s || 'x')::varchar(3) = 'abc'",
    "s LIKE 'a%' AND t NOT LIKE 'b' ESCAPE '!'",
    "t SIMILAR TO '(a|b)%'",
    "t ~~* 'A%'",
    "a BETWEEN 1 AND 10",
    "a NOT BETWEEN SYMMETRIC 10 AND -1::int",
    "a IS DISTINCT FROM b",
    "NOT (a > 1 OR b < 2) IS TRUE",
    "(a > 1) IS NOT UNKNOWN",
    "CASE WHEN a > 1 THEN 'x' ELSE s END",
    "CASE a WHEN 1 THEN 'x'::varchar WHEN -1::int THEN 'y' END",
    "coalesce(s, 'none') || nullif(t, '')",
    "greatest(a, 1, -1::int)",
    "(a, b) = (1, 2)",
    "ROW(a, s) IS NULL",
    "ROW(a, s) < ROW(1, 'x')",
    "(ARRAY[a, 2, -3::int])[1:2]",
    "x[1] + x[array_upper(x, 1)]",
    "x @> ARRAY[1] AND x <> '{}'",
    "j ->> 'k' = 'v'",
    "j -> 'k' -> 0 IS NOT NULL",
    "substring(t FROM 1 FOR 2)",
    "substring(t FROM '[a-z]+')",
    "overlay(t PLACING 'x' FROM 1 FOR 1)",
    "trim(BOTH 'x' FROM t)",
    "position('a' IN t)",
    "d AT TIME ZONE 'UTC'",
    "d > '2020-01-01 00:00+00'::timestamptz - interval '1 day' * 2",
    "(d AT TIME ZONE 'UTC')::date - 1",
    "interval '1' day",
    "interval '90' second(2)",
    "time '10:00' < (d AT TIME ZONE 'UTC')::time(0)",
    "B'101' & B'110'",
    "t COLLATE \"C\" > 'a'",
    'lower(s) COLLATE "C"',
    "s::bpchar = 'x'",
    "t::char(3)",
    "'a'::\"char\"",
    "b::numeric(10, 2) * 1e10",
    "round(b, -1::int)",
    "a % 2 = 0 AND a # 1 <> 0 OR ~ a = 3",
    "@ a + |/ 4.0 > !!'x'::tsquery IS NULL",
    "int4range(a, 10, '[]') && int4range(1, 2)",
    "make_interval(days => a)",
    "concat(VARIADIC ARRAY['a', t])",
    "E'\\\\x' || U&'\\0041'",
    "format('%s', s)",
    "t IS NORMALIZED",
    "xmlelement(NAME x, t) IS DOCUMENT",
]
"""Written as somebody would: the server shows many of these in another text, and reads that again as a third."""
CONTEXTS = {
    "view": "CREATE VIEW shop.v{number} AS SELECT {text} AS value FROM shop.t",
    "view of rows": "CREATE VIEW shop.w{number} AS SELECT a FROM shop.t WHERE ({text}) IS NOT NULL AND EXISTS (SELECT 'x'::text)",
    "materialized view": "CREATE MATERIALIZED VIEW shop.m{number} AS SELECT {text} AS value FROM shop.t",
    "default": "ALTER TABLE shop.t ADD COLUMN d{number} text DEFAULT ({text})",
    "check": "ALTER TABLE shop.t ADD CONSTRAINT c{number} CHECK (({text}) IS NOT NULL)",
    "check that is not valid": "ALTER TABLE shop.t ADD CONSTRAINT n{number} CHECK (({text}) IS NULL) NO INHERIT NOT VALID",
    "generated": "ALTER TABLE shop.t ADD COLUMN g{number} text GENERATED ALWAYS AS (({text})::text) STORED",
    "index": "CREATE UNIQUE INDEX i{number} ON shop.u (({text}), a)",
    "index of some rows": "CREATE INDEX p{number} ON shop.u (a DESC NULLS LAST) WHERE ({text}) IS NOT NULL",
    "exclusion": "ALTER TABLE shop.u ADD CONSTRAINT e{number} EXCLUDE ((({text})::text) WITH =, a WITH =) WHERE (a > -1::int)",
    "policy": "CREATE POLICY y{number} ON shop.t USING (({text}) IS NOT NULL) WITH CHECK (a > -1::int)",
    "statistics": "CREATE STATISTICS shop.s{number} ON (({text})), a FROM shop.t",
    "function": "CREATE FUNCTION shop.f{number}(a int, b numeric, s varchar, t text, d timestamptz, x int[], j jsonb,"
    " z text DEFAULT -1::int) RETURNS text STABLE BEGIN ATOMIC SELECT ({text})::text; END",
    "partition key": "CREATE TABLE shop.k{number} (LIKE shop.u) PARTITION BY RANGE (({text}))",
    "publication": "CREATE PUBLICATION l{number} FOR TABLE shop.u WHERE (({text}) IS NOT NULL)",
}
ONCE = [
    "CREATE FUNCTION shop.fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER late BEFORE UPDATE OF a, s ON shop.n FOR EACH ROW WHEN (NEW.a > -1::int AND OLD.s IN ('a', 'b')) EXECUTE FUNCTION"
    " shop.fire('x')",
    "CREATE CONSTRAINT TRIGGER later AFTER INSERT ON shop.n DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.* IS NOT NULL AND"
    " extract('YEAR' FROM NEW.d) > -1::int) EXECUTE FUNCTION shop.fire()",
    "CREATE RULE \"to u\" AS ON UPDATE TO shop.n WHERE NEW.s IN ('a', 'b') DO ALSO UPDATE shop.u SET a = -1::int WHERE s = OLD.s",
    "CREATE PROCEDURE shop.done(a int DEFAULT -1::int) LANGUAGE sql AS 'SELECT 1'",
    'CREATE DOMAIN shop.small AS int DEFAULT -1::int CONSTRAINT "not less" CHECK (value > -9::int)',
    "ALTER DOMAIN shop.small ADD CONSTRAINT other CHECK (value <> -2::int) NOT VALID",
    "CREATE VIEW shop.with_default AS SELECT a FROM shop.u",
    "ALTER VIEW shop.with_default ALTER a SET DEFAULT -1::int",
    "CREATE TABLE shop.child (CHECK (a > -1::int)) INHERITS (shop.n)",
    "CREATE FOREIGN DATA WRAPPER files",
    "CREATE SERVER files FOREIGN DATA WRAPPER files",
    "CREATE SCHEMA away",
    "CREATE FOREIGN TABLE away.far (a int DEFAULT -1::int CHECK (a > -1::int)) SERVER files",
]
COLUMNS = "a int, b numeric, s varchar(20), t text, d timestamptz, x int[], j jsonb"


@pytest.fixture(scope="module", params=majors(18))
def saved(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-reading-{request.param}", request.param) as server:
        site = Site(server, tmp_path_factory.mktemp(f"reading-{request.param}"))
        assert make_all(site, "shop", EXPRESSIONS) > 500
        make_all(site, "few", EXPRESSIONS[::10])
        yield site, site.back_up(site.source("shop", "few"))


def make_all(site, database, expressions):
    """Make a database with whatever the server takes; how many definitions that is."""
    site.sql("postgres", f"CREATE DATABASE {database}")
    count = 0
    with site.server.connect(database) as connection:
        for statement in ("CREATE SCHEMA shop", *(f"CREATE TABLE shop.{name} ({COLUMNS})" for name in "tun"), *ONCE):
            connection.execute(statement)
        for number, text in enumerate(expressions):
            for statement in CONTEXTS.values():
                try:
                    connection.execute(statement.format(number=number, text=text))
                except psycopg.Error:
                    continue
                count += 1
    return count


KINDS = {
    ("view", "definition"),
    ("materialized view", "definition"),
    ("function", "definition"),
    ("constraint", "definition"),
    ("index", "definition"),
    ("trigger", "definition"),
    ("rule", "definition"),
    ("statistics", "definition"),
    ("policy", "using"),
    ("policy", "check"),
    ("published table", "row filter"),
    ("table", "partition key"),
    ("table", "default"),
    ("view", "default"),
    ("domain", "default"),
    ("procedure", "definition"),
}
"""What PostgreSQL 16 and 18 show in another text than they were given it, and what of an object that is."""


OTHERS = {
    "table shop.t": "ALTER TABLE shop.t ALTER d0 SET DEFAULT -2::int",
    "constraint shop.t c0": "ALTER TABLE shop.t DROP CONSTRAINT c0, ADD CONSTRAINT c0 CHECK ((-2::int) IS NOT NULL)",
    "view shop.v1": "CREATE OR REPLACE VIEW shop.v1 AS SELECT - (2 ^ 2) AS value FROM shop.t",
    "policy shop.t y0": "ALTER POLICY y0 ON shop.t WITH CHECK (a > -2::int)",
    "index shop.p0": "DROP INDEX shop.p0; CREATE INDEX p0 ON shop.u (a DESC NULLS LAST) WHERE (-1::int) IS NULL",
    "trigger shop.n late": "CREATE OR REPLACE TRIGGER late BEFORE UPDATE OF a, s ON shop.n FOR EACH ROW WHEN (NEW.a > -1::int AND NEW.s IN"
    " ('a', 'b')) EXECUTE FUNCTION shop.fire('x')",
    'rule shop.n "to u"': "CREATE OR REPLACE RULE \"to u\" AS ON UPDATE TO shop.n WHERE OLD.s IN ('a', 'b') DO ALSO UPDATE shop.u"
    " SET a = -1::int WHERE s = OLD.s",
    "procedure shop.done(integer)": "CREATE OR REPLACE PROCEDURE shop.done(a int DEFAULT -2::int) LANGUAGE sql AS 'SELECT 1'",
    "domain shop.small": "ALTER DOMAIN shop.small SET DEFAULT -2::int",
    "statistics shop.s0": "DROP STATISTICS shop.s0; CREATE STATISTICS shop.s0 ON ((-2::int)), a FROM shop.t",
}
"""Other definitions, for what differs in each."""


def test_restore_of_hundreds_of_definitions_whose_texts_change_is_equal_and_other_definitions_differ(saved):
    site, set_folder = saved
    source, restore = site.source("shop", "few"), site.restore(set_folder, only=["shop"])
    source.stage(restore)
    assert list(map(str, source.verify_staged(restore))) == []
    assert {(place[0], place[-1]) for place in kept(restore, "shop")} == KINDS
    site.sql(f"shop__stage_{restore.id}", *OTHERS.values())
    assert {f"{each.kind} {each.name}" for each in source.verify_staged(restore)} == set(OTHERS)
    source.discard(restore)


def test_restore_of_tables_whose_definitions_are_read_several_times_is_equal(saved):
    site, set_folder = saved
    site.sql("postgres", "CREATE DATABASE unpublished TEMPLATE few")
    published = site.sql("unpublished", "SELECT pubname FROM pg_publication")
    site.sql("unpublished", *(f"DROP PUBLICATION {name}" for (name,) in published))  # from which no table can be taken away
    source, restore = site.source("shop", "few", renamed={"few": "unpublished"}), site.restore(set_folder, only=["few.shop"])
    source.stage(restore)
    assert list(map(str, source.verify_staged(restore))) == []
    source.discard(restore)


def test_comparison_after_a_restore_tells_other_texts_from_changes(saved):
    site, set_folder = saved
    source, restore = site.source("shop", "few"), site.restore(set_folder, only=["few"])
    assert {change.what for change in source.compare(restore)} == {"equal"}
    source.stage(restore)
    source.swap(restore)
    assert {change.what for change in source.compare(restore)} == {"equal", "other text"}
    site.sql("few", "ALTER TABLE shop.n ALTER a SET NOT NULL")
    assert [change.names for change in source.compare(restore) if change.what == "changed"] == [("few.shop.child", "few.shop.n")]
    source.roll_back(restore)
    source.discard(restore)


def test_text_that_makes_another_function_shows_nothing(saved):
    """It would leave the one as it is, which then would seem to be what was asked for."""
    site, _ = saved
    key = "procedure", "shop.done(integer)"
    definitions = Definitions({key: {"owner": "postgres"}}, {})
    with site.server.connect("shop") as connection:
        same = "CREATE OR REPLACE PROCEDURE shop.done(a int DEFAULT -1::int) LANGUAGE sql AS 'SELECT 1'"
        other = same.replace("done", "gone")
        assert "DEFAULT (- 1)" in definitions.readings(connection, (*key, "definition"), same)[0]
        assert definitions.readings(connection, (*key, "definition"), other) == []


def test_as_meant_puts_the_sets_text_in_place_of_one_that_means_the_same():
    place = ("table", "shop.t", "columns", "a", "default")
    expected, found = {"columns": {"a": {"default": "1"}}}, {"columns": {"a": {"default": "2", "type": "int"}}, "owner": "me"}
    assert as_meant({}, place[:2], expected, found) == found
    assert as_meant({place: ["3"]}, place[:2], expected, found) == found
    assert as_meant({place: ["3", "2"]}, place[:2], expected, found)["columns"]["a"] == {"default": "1", "type": "int"}
