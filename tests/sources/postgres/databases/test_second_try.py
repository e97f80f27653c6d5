"""Databases whose definitions or rows don't bear a dump and its restore: all rows come back, and what does not is named."""

import pytest

from sandbox.servers import Postgres
from tests.support.postgres_site import Site
from tests.support.postgres_versions import majors

OWNER = "st_owner"
WHOLE = {
    "a check that reads another table": [
        "CREATE TABLE z_dict (val text PRIMARY KEY)",
        "INSERT INTO z_dict VALUES ('a'), ('b')",
        "CREATE FUNCTION known(text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.z_dict WHERE val = $1)'",
        "CREATE TABLE a_data (id int PRIMARY KEY, val text CHECK (public.known(val)))",
        "INSERT INTO a_data VALUES (1, 'a'), (2, 'b')",
    ],
    "checks of two tables that read each other": [
        "CREATE TABLE a (i int)",
        "CREATE TABLE b (i int)",
        "INSERT INTO a VALUES (1)",
        "INSERT INTO b VALUES (1)",
        "CREATE FUNCTION in_a(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.a WHERE i = $1)'",
        "CREATE FUNCTION in_b(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.b WHERE i = $1)'",
        "ALTER TABLE a ADD CONSTRAINT both_ways CHECK (in_b(i))",
        "ALTER TABLE b ADD CHECK (in_a(i))",
        "COMMENT ON CONSTRAINT both_ways ON a IS 'of each other'",
    ],
    "a check of a domain that reads another table": [
        "CREATE TABLE z_dict (val text PRIMARY KEY)",
        "INSERT INTO z_dict VALUES ('a')",
        "CREATE FUNCTION known(text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.z_dict WHERE val = $1)'",
        "CREATE DOMAIN word AS text CONSTRAINT is_known CHECK (known(VALUE))",
        "CREATE TABLE a_data (w word, more word[])",
        "INSERT INTO a_data VALUES ('a', '{a}')",
    ],
    "checks of a tree that read another table": [
        "CREATE TABLE z_dict (val text PRIMARY KEY)",
        "INSERT INTO z_dict VALUES ('a')",
        "CREATE FUNCTION known(text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.z_dict WHERE val = $1)'",
        "CREATE TABLE grown (val text CONSTRAINT c CHECK (known(val)), CONSTRAINT only_here CHECK (known(val)) NO INHERIT)",
        "CREATE TABLE child (more int, CONSTRAINT c CHECK (known(val)), CONSTRAINT own CHECK (known(val))) INHERITS (grown)",
        "CREATE TABLE parted (n int, val text CHECK (known(val))) PARTITION BY RANGE (n)",
        "CREATE TABLE part PARTITION OF parted (CONSTRAINT of_part CHECK (known(val))) FOR VALUES FROM (0) TO (10)",
        *(f"INSERT INTO {name} (val) VALUES ('a')" for name in ("grown", "child")),
        "INSERT INTO parted VALUES (1, 'a')",
    ],
    "a column of a domain that is not the owner's, in a table whose check reads another": [
        "CREATE TABLE a (n information_schema.cardinal_number)",
        "CREATE TABLE b (n int)",
        "INSERT INTO a VALUES (1)",
        "INSERT INTO b VALUES (1)",
        "CREATE FUNCTION in_a(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.a WHERE n = $1)'",
        "CREATE FUNCTION in_b(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.b WHERE n = $1)'",
        "ALTER TABLE a ADD CHECK (in_b(n))",
        "ALTER TABLE b ADD CHECK (in_a(n))",
    ],
    "a check that names a table without its schema": [
        "CREATE SCHEMA words",
        "CREATE TABLE words.dict (val text)",
        "INSERT INTO words.dict VALUES ('a')",
        "ALTER DATABASE {database} SET search_path = words, public",
        "SET search_path = words, public",
        "CREATE FUNCTION known(text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM dict WHERE val = $1)'",
        "CREATE TABLE words.a_data (val text CHECK (known(val)))",
        "INSERT INTO words.a_data VALUES ('a')",
    ],
    "a stored column whose function names another without its schema": [
        "CREATE FUNCTION inner_one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'",
        "CREATE FUNCTION outer_one(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN inner_one($1); END'",
        "CREATE TABLE computed (i int, j int GENERATED ALWAYS AS (outer_one(i)) STORED)",
        "INSERT INTO computed VALUES (1), (2)",
    ],
    "names that need quotes": [
        'CREATE TABLE "Z \'dict" ("The val" text)',
        "INSERT INTO \"Z 'dict\" VALUES ('a')",
        """CREATE FUNCTION "Known?"(text) RETURNS bool LANGUAGE sql STABLE
            AS 'SELECT EXISTS (SELECT FROM "Z ''dict" WHERE "The val" = $1)'""",
        'CREATE TABLE "a.Data" ("The val" text CONSTRAINT "Is it?" CHECK ("Known?"("The val")), "end;" text)',
        "INSERT INTO \"a.Data\" VALUES ('a', E'\\\\.\\n\\\\.')",
    ],
}
"""What comes back with nothing left out."""
BEFORE_17 = {
    "a materialized view of a function that names a table without its schema": [
        "CREATE TABLE mention (id int, software int)",
        "INSERT INTO mention SELECT n, n % 3 FROM generate_series(1, 30) n",
        "CREATE FUNCTION mentions() RETURNS TABLE (id int, software int) LANGUAGE sql STABLE AS 'SELECT id, software FROM mention'",
        "CREATE MATERIALIZED VIEW per_software AS SELECT software, count(id) FROM mentions() GROUP BY software",
        "CREATE UNIQUE INDEX ON per_software (software)",
    ],
    "an index over a function that names another without its schema": [
        "CREATE FUNCTION inner_one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'",
        "CREATE FUNCTION outer_one(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN inner_one($1); END'",
        "CREATE TABLE indexed (i int)",
        "INSERT INTO indexed VALUES (1), (2)",
        "CREATE INDEX by_function ON indexed (outer_one(i))",
        "COMMENT ON INDEX by_function IS 'of two functions'",
    ],
}
"""What comes back with nothing left out before PostgreSQL 17, which gives such functions no search path whoever asks."""
LEFT_OUT = {
    "orphan rows": (
        [
            "CREATE TABLE p (i int PRIMARY KEY)",
            "CREATE TABLE t (i int, p int CONSTRAINT known REFERENCES p)",
            "INSERT INTO p VALUES (1)",
            "SET session_replication_role = replica",
            "INSERT INTO t VALUES (1, 1), (2, 99)",
            "COMMENT ON CONSTRAINT known ON t IS 'not by all'",
        ],
        ["fk constraint public t known is restored as not valid"],
    ),
    "a foreign key of a tree with orphan rows": (
        [
            "CREATE TABLE p (i int PRIMARY KEY)",
            "CREATE TABLE t (i int, p int CONSTRAINT known REFERENCES p) PARTITION BY RANGE (i)",
            "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
            "SET session_replication_role = replica",
            "INSERT INTO t VALUES (1, 99)",
        ],
        ["fk constraint public t known"],
    ),
    "rows that a check forbids by now": (
        [
            "CREATE TABLE moment (now timestamptz)",
            "INSERT INTO moment VALUES ('2020-01-01')",
            "CREATE FUNCTION moment() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT now FROM moment'",
            "CREATE TABLE offer (id int, until timestamptz CONSTRAINT open CHECK (until > moment()))",
            "CREATE TABLE better () INHERITS (offer)",
            "INSERT INTO offer VALUES (1, '2021-01-01')",
            "INSERT INTO better VALUES (2, '2021-01-01')",
            "UPDATE moment SET now = '2026-01-01'",
        ],
        ["check constraint public better open is restored as not valid", "check constraint public offer open is restored as not valid"],
    ),
    "rows that a check of a domain forbids by now": (
        [
            "CREATE TABLE allowed (n int)",
            "INSERT INTO allowed VALUES (1)",
            "CREATE FUNCTION allowed(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM allowed WHERE n = $1)'",
            "CREATE DOMAIN number AS int CONSTRAINT is_allowed CHECK (allowed(VALUE))",
            "CREATE TABLE used (n number)",
            "INSERT INTO used VALUES (1)",
            "DELETE FROM allowed",
        ],
        ["check constraint public number is_allowed is restored as not valid"],
    ),
    "a materialized view whose function fails by now": (
        [
            "CREATE TABLE divisor (n int)",
            "INSERT INTO divisor VALUES (1)",
            "CREATE MATERIALIZED VIEW divided AS SELECT 1 / n AS part FROM divisor",
            "CREATE MATERIALIZED VIEW on_top AS SELECT part FROM divided",
            "UPDATE divisor SET n = 0",
        ],
        ["materialized view data public divided is not filled", "materialized view data public on_top is not filled"],
    ),
    "a primary key with duplicates, and what needs it": (
        [
            "CREATE TABLE p (i int PRIMARY KEY, t text)",
            "CREATE TABLE c (i int CONSTRAINT known REFERENCES p)",
            "CREATE VIEW grouped AS SELECT i, t, count(*) AS n FROM p GROUP BY i",
            "COMMENT ON VIEW grouped IS 'by the key'",
            "GRANT SELECT ON grouped TO PUBLIC",
            "GRANT UPDATE (t) ON grouped TO PUBLIC",
            "CREATE VIEW on_top AS SELECT * FROM grouped",
            "ALTER VIEW on_top ALTER t SET DEFAULT 'x'",
            "CREATE RULE quiet AS ON INSERT TO on_top DO INSTEAD NOTHING",
            "ALTER TABLE p REPLICA IDENTITY USING INDEX p_pkey",
            "UPDATE pg_index SET indisready = false WHERE indexrelid = 'p_pkey'::regclass",
            "INSERT INTO p VALUES (1, 'a'), (1, 'b')",
            "UPDATE pg_index SET indisready = true WHERE indexrelid = 'p_pkey'::regclass",
        ],
        [
            "constraint public p p_pkey can't be made",
            "fk constraint public c known can't be made",
            "view public grouped is there with its columns only",
        ],
    ),
    "an index whose function fails with words of pg_restore": (
        [
            "CREATE TABLE t (i int)",
            "INSERT INTO t VALUES (1)",
            "CREATE FUNCTION tried(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1; END'",
            "CREATE INDEX by_words ON t (tried(i))",
            """CREATE OR REPLACE FUNCTION tried(int) RETURNS int LANGUAGE plpgsql IMMUTABLE
                AS $$ BEGIN RAISE EXCEPTION 'from TOC entry 999999; 0 0'; END $$""",
        ],
        ["index public by_words can't be made"],
    ),
    "an index whose function fails by now, of a constraint that others refer to": (
        [
            "CREATE TABLE p (i int, j int)",
            "INSERT INTO p VALUES (1, 1), (2, 2)",
            "ALTER TABLE p ADD CONSTRAINT one UNIQUE (j)",
            "CREATE TABLE t (j int CONSTRAINT known REFERENCES p (j))",
            "INSERT INTO t VALUES (1)",
            "SET session_replication_role = replica",
            "CREATE FUNCTION tried(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1 / $1; END'",
            "CREATE INDEX by_function ON p (tried(i))",
            "COMMENT ON INDEX by_function IS 'fails'",
            "CREATE STATISTICS of_both ON i, j FROM p",
            "CREATE OR REPLACE FUNCTION tried(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1 / 0; END'",
        ],
        ["index public by_function can't be made"],
    ),
}
"""What does not come back, and how it is named."""


@pytest.fixture(scope="module", params=majors(16))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-second-try-{request.param}", request.param) as server:
        made = Site(server, tmp_path_factory.mktemp("postgres-second-try"), ("second_",), (OWNER,))
        made.sql("postgres", f"CREATE ROLE {OWNER} LOGIN SUPERUSER PASSWORD 'x'")
        made.major = request.param
        yield made


def create(site, database, statements):
    """A database of an owner who was a superuser when it was filled, and is none any more."""
    site.sql("postgres", f"ALTER ROLE {OWNER} SUPERUSER", f"CREATE DATABASE {database} OWNER {OWNER}")
    site.sql(database, *(each.replace("{database}", database) for each in statements), user=OWNER, password="x")
    site.sql("postgres", f"ALTER ROLE {OWNER} NOSUPERUSER")


def staged(site, database, **options):
    source = site.source(database)
    restore = site.restore(site.back_up(source), **options)
    source.stage(restore)
    return source, restore


@pytest.mark.parametrize("case", [*WHOLE, *BEFORE_17])
def test_database_that_does_not_bear_the_order_of_a_restore_comes_back_whole(site, case):
    if case in BEFORE_17 and site.major >= 17:
        pytest.skip("PostgreSQL 17 and newer give such functions no search path")
    create(site, "second_whole", {**WHOLE, **BEFORE_17}[case])
    try:
        source, restore = staged(site, "second_whole")
        assert source.verify_staged(restore) == []
        assert source.left_out(restore) == []
        source.swap(restore)
    finally:
        site.clean_databases()


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_can_not_be_made_again_is_named_and_all_rows_are_there(site, case):
    statements, named = LEFT_OUT[case]
    create(site, "second_out", statements)
    try:
        source, restore = staged(site, "second_out", may_lack=True)
        assert source.verify_staged(restore) == []
        sentences = sorted(each.sentence for each in source.left_out(restore))
        assert len(sentences) == len(named)
        assert all(sentence.startswith(f"second_out: {words}") for sentence, words in zip(sentences, named, strict=True))
    finally:
        site.clean_databases()


def test_values_of_rows_with_line_feeds_in_a_detail_are_not_logged(site, caplog):
    caplog.set_level("INFO")
    create(
        site,
        "second_values",
        [
            "CREATE TABLE p (t text)",
            "CREATE UNIQUE INDEX once ON p (t)",
            "UPDATE pg_index SET indisready = false WHERE indexrelid = 'once'::regclass",
            "INSERT INTO p SELECT E'a\\nsecret' FROM generate_series(1, 2)",
            "UPDATE pg_index SET indisready = true WHERE indexrelid = 'once'::regclass",
        ],
    )
    staged(site, "second_values", may_lack=True)
    assert "could not create unique index" in caplog.text
    assert "secret" not in caplog.text
    site.clean_databases()


def test_what_can_not_be_made_is_named_without_values_of_rows(site):
    statements = [
        "CREATE TABLE texts (val text)",
        "INSERT INTO texts VALUES ('7')",
        "CREATE MATERIALIZED VIEW numbers AS SELECT val::int FROM texts",
        "UPDATE texts SET val = 'secret'",
    ]
    create(site, "second_secret", statements)
    try:
        source, restore = staged(site, "second_secret", may_lack=True)
        (lacking,) = source.left_out(restore)
        assert lacking.sentence.endswith("The server says: invalid text representation")
    finally:
        site.clean_databases()
