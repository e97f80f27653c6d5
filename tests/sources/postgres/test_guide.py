"""Both ways of ``RESTORE.md`` to load databases, executed word by word on a new server."""

import json
import os
import re
import subprocess

import psycopg
import pytest

from recovery.packs.content_index import read_rows
from recovery.plan.kinds.postgres import PostgresSettings
from recovery.sources.guide import GuidedSource
from recovery.sources.postgres.guide import GUIDE
from sandbox.servers import Postgres
from tests.support.postgres_attack import WAYS, evil_functions
from tests.support.postgres_site import Site, contents
from tests.support.postgres_versions import majors

ROLES = """
    CREATE ROLE mallory LOGIN PASSWORD 'm'; CREATE ROLE alice; CREATE ROLE readers; CREATE ROLE "own c"; CREATE ROLE c;
    CREATE ROLE chief SUPERUSER
"""
OBJECTS = r"""
    CREATE EXTENSION vector SCHEMA public;
    CREATE SCHEMA a AUTHORIZATION alice; GRANT USAGE ON SCHEMA a TO readers; GRANT CREATE ON SCHEMA a TO mallory;
    CREATE TABLE a.parent (id serial PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v public.vector(2)); ALTER TABLE a.parent OWNER TO alice;
    INSERT INTO a.parent (v) VALUES ('[1,2]'), (NULL);
    CREATE TABLE a.child (more text) INHERITS (a.parent); ALTER TABLE a.child OWNER TO mallory; INSERT INTO a.child (n, more) VALUES (7, 'x');
    CREATE TABLE a."t own" (a int); ALTER TABLE a."t own" OWNER TO "own c"; CREATE TABLE a.t (a int); ALTER TABLE a.t OWNER TO c;
    CREATE TABLE a."EN
END
\! touch {proof}
'""; \ é" (a int REFERENCES a.parent); ALTER TABLE a."EN
END
\! touch {proof}
'""; \ é" OWNER TO alice;
    CREATE VIEW a.both AS SELECT id FROM a.parent; ALTER VIEW a.both OWNER TO mallory; GRANT SELECT ON a.both TO readers WITH GRANT OPTION;
    CREATE FUNCTION a.one(int, text DEFAULT 'x') RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; ALTER FUNCTION a.one OWNER TO alice;
    CREATE PROCEDURE a.do() LANGUAGE sql AS 'SELECT 1'; ALTER PROCEDURE a.do OWNER TO alice; CREATE PROCEDURE a."EN
END
\! touch {proof}
'""; \ é"(a int) LANGUAGE sql AS 'SELECT 1'; ALTER PROCEDURE a."EN
END
\! touch {proof}
'""; \ é" OWNER TO mallory;
    CREATE AGGREGATE a.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0'); ALTER AGGREGATE a.total(int) OWNER TO alice;
    CREATE TYPE a.mood AS ENUM ('ok'); ALTER TYPE a.mood OWNER TO alice; CREATE DOMAIN a.small AS int CHECK (value < 9); ALTER DOMAIN a.small OWNER TO alice;
    CREATE TYPE a.pair AS (x int, y text); ALTER TYPE a.pair OWNER TO alice; CREATE TYPE a.span AS RANGE (subtype = int); ALTER TYPE a.span OWNER TO alice;
    CREATE OPERATOR a.|+| (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl); ALTER OPERATOR a.|+| (int, int) OWNER TO alice;
    CREATE COLLATION a.plain FROM "C"; ALTER COLLATION a.plain OWNER TO alice;
    CREATE TEXT SEARCH CONFIGURATION a.words (COPY = pg_catalog.simple); ALTER TEXT SEARCH CONFIGURATION a.words OWNER TO alice;
    CREATE STATISTICS a.st ON id, n FROM a.parent; ALTER STATISTICS a.st OWNER TO alice;
    CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER away FOREIGN DATA WRAPPER nothing; ALTER SERVER away OWNER TO alice;
    CREATE USER MAPPING FOR mallory SERVER away OPTIONS (password 'x'); CREATE FOREIGN TABLE a.gone (x int) SERVER away; ALTER FOREIGN TABLE a.gone OWNER TO alice;
    ALTER TABLE a.parent ENABLE ROW LEVEL SECURITY; ALTER TABLE a.parent FORCE ROW LEVEL SECURITY; CREATE POLICY p ON a.parent TO mallory USING (id > 1);
    COMMENT ON TABLE a.parent IS 'of alice'; COMMENT ON SCHEMA a IS 'a'; COMMENT ON DATABASE shop IS 'the shop'; COMMENT ON EXTENSION vector IS 'v';
    ALTER DEFAULT PRIVILEGES FOR ROLE alice IN SCHEMA a GRANT SELECT ON TABLES TO readers;
    SELECT lo_from_bytea(4711, 'large'); ALTER LARGE OBJECT 4711 OWNER TO alice; GRANT SELECT ON LARGE OBJECT 4711 TO readers; COMMENT ON LARGE OBJECT 4711 IS 'l';
    CREATE PUBLICATION everything FOR ALL TABLES; ALTER PUBLICATION everything OWNER TO chief; CREATE PUBLICATION few FOR TABLE a.t; ALTER PUBLICATION few OWNER TO chief;
    CREATE FUNCTION a.watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no more definitions'; END $$; ALTER FUNCTION a.watch OWNER TO chief;
    CREATE FUNCTION a.chiefs() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN 2; END'; ALTER FUNCTION a.chiefs OWNER TO chief;
    GRANT USAGE ON SCHEMA a TO mallory;
    GRANT CONNECT ON DATABASE shop TO readers; REVOKE TEMPORARY ON DATABASE shop FROM public;
"""  # noqa: E501
"""Of several owners, with names that would end a line or a text of the shell."""
SETTINGS = {
    "role": "readers",
    "search_path": "m0, a",
    "default_transaction_read_only": "on",
    "statement_timeout": "1ms",
    "exit_on_error": "on",
}


PLANT = """
    CREATE FUNCTION m0.plant() RETURNS int LANGUAGE plpgsql AS $plant$
    DECLARE kind text = ' RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN ALTER ROLE mallory SUPERUSER; RETURN 1; END $$';
    BEGIN
        EXECUTE 'CREATE OR REPLACE FUNCTION a.chiefs()' || kind;
        EXECUTE 'CREATE OR REPLACE FUNCTION a.mine()' || kind;
        RETURN 1;
    EXCEPTION WHEN insufficient_privilege THEN RETURN 1;
    END $plant$
"""
"""Puts code into a superuser's function, and makes another, as soon as it may."""
READ = [
    "CREATE DOMAIN m0.read AS int CHECK (m0.one(value) = value)",
    "CREATE TABLE m0.guarded (a int)",
    "CREATE POLICY p ON m0.guarded USING (a = ANY ('{1}'::m0.read[]))",
    "CREATE FUNCTION m0.step(m0.read, int) RETURNS m0.read LANGUAGE sql AS 'SELECT $1'",
    "CREATE AGGREGATE m0.total(int) (SFUNC = m0.step, STYPE = m0.read, INITCOND = '1')",
    "CREATE FUNCTION m0.given(a m0.read[] DEFAULT '{1}'::m0.read[]) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    PLANT,
    "CREATE TABLE m0.planted (a int CHECK (m0.plant() = 1))",
    "INSERT INTO m0.planted VALUES (1)",
    "CREATE VIEW m0.seen AS SELECT '{1}'::m0.read[] AS a",
]
"""Definitions with values whose checks run as soon as the definition is read."""


@pytest.fixture(scope="module", params=majors(18, without=(13, 14, 15, 17)))  # which have the extension vector
def attacked(request, server_folder):
    """A database with every way in which its owner gets code of his run, backed up, and what each program of his may leave behind."""
    folder = server_folder / f"guide-{request.param}"
    folder.mkdir()
    folder.chmod(0o777)
    proof = folder / "proof"
    with Postgres(server_folder / f"postgres-guide-{request.param}", request.param) as server:
        site = Site(server, folder, ("shop", "sh'op"))
        site.sql("postgres", ROLES, "CREATE DATABASE shop OWNER mallory")
        site.sql("shop", *(part for part in re.split(r";\n", OBJECTS.replace("{proof}", str(proof))) if part.strip()))
        site.sql("shop", "CREATE EVENT TRIGGER closed ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION a.watch()")
        site.sql("shop", "ALTER EVENT TRIGGER closed OWNER TO chief", "ALTER EVENT TRIGGER closed DISABLE", "GRANT alice TO mallory")
        with server.connect("shop", user="mallory", password="m") as connection:
            for number, statements in enumerate(WAYS.values()):
                for statement in [*evil_functions(proof), "GRANT ALL ON SCHEMA mine TO alice", *statements, "RESET ROLE"]:
                    connection.execute(statement.replace("mine", f"m{number}"))
            for statement in READ:
                connection.execute(statement)
        site.sql("shop", "ALTER EVENT TRIGGER closed ENABLE")
        site.sql("postgres", "REVOKE alice FROM mallory", "ALTER ROLE mallory NOSUPERUSER", 'CREATE DATABASE "sh\'op" OWNER alice')
        site.sql("sh'op", "CREATE TABLE t AS SELECT 1 AS a", "ALTER TABLE t OWNER TO mallory")
        for name, value in SETTINGS.items():
            site.sql("postgres", f"ALTER DATABASE shop SET {name} TO {value if name == 'search_path' else repr(value)}")
        site.set = site.back_up(site.source("shop", "sh'op"))
        site.proof, site.major = proof, request.param
        yield site


@pytest.fixture
def new(attacked, server_folder, tmp_path):
    attacked.proof.unlink(missing_ok=True)
    with Postgres(server_folder / f"new-{tmp_path.name}", attacked.major) as server:
        yield Site(server, tmp_path)


def is_superuser(site, role):
    return site.sql("postgres", f"SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'") == [(True,)]


def guided(site, tmp_path) -> GuidedSource:
    """The set, unpacked as ``RESTORE.md`` says."""
    restore = site.restore(site.set)
    folders = {artifact: f"restored/{number}" for number, artifact in enumerate(restore.artifacts())}
    for artifact, folder in folders.items():
        (tmp_path / folder).mkdir(parents=True)
        restore.unpack(artifact, tmp_path / folder)
    return GuidedSource(
        id="postgres.main",
        settings=PostgresSettings(connection="pg"),
        versions={"postgres": str(site.major)},
        folders=folders,
        members=lambda artifact: [("member", path.name, {}) for path in (tmp_path / folders[artifact]).iterdir()],
        contents=lambda artifact, kind: read_rows(site.set / f"{artifact}.contents.jsonl", kind),
    )


def execute(section, heading, server, tmp_path):
    """Run the commands for all databases, and those under a heading; what the last of them said."""
    common, *ways = re.split(r"^### ", section, flags=re.MULTILINE)
    way = next(way for way in ways if way.startswith(heading))
    environment = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres", "PGPASSWORD": server.password}
    environment |= {
        "LOADER_PASSWORD": "a 'new' \\n $PATH \"password\" é",
        "PATH": f"{server.bin}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
    }
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", common + way, flags=re.MULTILINE | re.DOTALL))
    return subprocess.run(["sh", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def test_restore_guide_commands_load_databases_without_giving_their_owners_rights(attacked, new, tmp_path):
    section = GUIDE.section([guided(attacked, tmp_path)])
    done = execute(section, "If you do not", new.server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert not is_superuser(new, "mallory")
    assert not attacked.proof.exists()
    assert new.sql("postgres", "SELECT rolcanlogin FROM pg_roles WHERE rolname LIKE 'restore%'") == [(False,)]
    for planted in ("a.chiefs()", "a.mine()"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            new.sql(
                "shop",
                f"SELECT {planted}",
                user="mallory",
                password="m",
                options="-c statement_timeout=0 -c role=none -c default_transaction_read_only=off",
            )
    assert not is_superuser(new, "mallory")
    assert new.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolsuper ORDER BY 1") == [("chief",), ("postgres",)]
    again = new.back_up(new.source("shop", "sh'op"))
    for name in ("shop", "sh'op"):
        found, saved = (
            {key: facts for key, facts in contents(each, name).items() if key[0] != "snapshot"} for each in (again, attacked.set)
        )
        assert saved.keys() - found.keys() == ({("event trigger", "closed")} if name == "shop" else set())
        different = {key for key in found if found[key] != saved.get(key)}
        assert different == {key for key in found if "restore_loader" in json.dumps(found[key])}
        assert {saved[key]["owner"] for key in different & saved.keys()} <= {"chief", "postgres"}
        assert different - saved.keys() == ({("function", "a.mine()")} if name == "shop" else set())


def test_restore_guide_warns_because_a_superuser_who_loads_gives_the_owners_rights(attacked, new, tmp_path):
    section = GUIDE.section([guided(attacked, tmp_path)])
    assert "can become a superuser of the new server if a superuser loads it" in " ".join(section.partition("###")[0].split())
    execute(section, "If you trust all owners", new.server, tmp_path)
    assert is_superuser(new, "mallory")
    assert attacked.proof.exists()


def test_restore_guide_commands_for_distrusted_owners_stop_at_what_only_a_superuser_may_make(attacked, new, tmp_path):
    attacked.sql("sh'op", "CREATE FUNCTION add(int, int) RETURNS int LANGUAGE internal AS 'int4pl'")
    kept = attacked.set
    try:
        attacked.set = attacked.back_up(attacked.source("shop", "sh'op"))
        done = execute(GUIDE.section([guided(attacked, tmp_path)]), "If you do not", new.server, tmp_path)
    finally:
        attacked.set = kept
        attacked.sql("sh'op", "DROP FUNCTION add")
    assert done.returncode != 0
    assert "permission denied for language internal" in done.stderr
    assert not is_superuser(new, "mallory")


HARD = r"""
    SET search_path = public, app, "own 'path";
    CREATE TABLE z_dict (val text PRIMARY KEY); INSERT INTO z_dict VALUES ('a'), ('b');
    CREATE FUNCTION known(text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.z_dict WHERE val = $1)';
    CREATE TABLE a_data (id int PRIMARY KEY, val text CONSTRAINT "it's known" CHECK (known(val))); INSERT INTO a_data VALUES (1, 'a'), (2, 'b');
    COMMENT ON CONSTRAINT "it's known" ON a_data IS 'by "z_dict"';
    CREATE TABLE p (i int PRIMARY KEY); CREATE TABLE t (i int, p int REFERENCES p);
    SET session_replication_role = replica; INSERT INTO t VALUES (1, 99); RESET session_replication_role;
    CREATE SCHEMA "own 'path"; CREATE TABLE "own 'path".factor AS SELECT 3 AS n;
    CREATE FUNCTION "own 'path".times(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * n FROM factor';
    CREATE FUNCTION "own 'path".twice(int) RETURNS int LANGUAGE sql IMMUTABLE SET search_path = "own 'path", public AS 'SELECT times($1) * 2';
    CREATE TABLE b_data (n int, m int GENERATED ALWAYS AS ("own 'path".twice(n)) STORED); INSERT INTO b_data VALUES (1), (2);
    CREATE FUNCTION small(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN factor_of($1) < 9; END';
    CREATE SCHEMA app; CREATE FUNCTION app.factor_of(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
    CREATE TABLE violated (n int CONSTRAINT small CHECK ("small"(n))); INSERT INTO violated VALUES (1), (2);
    CREATE DOMAIN odd AS int CHECK (value % 2 = 1) CONSTRAINT few CHECK ("small"(value)); CREATE DOMAIN odder AS odd CHECK (value > 0);
    CREATE TABLE odds (n odder); INSERT INTO odds VALUES (1), (3);
    CREATE OR REPLACE FUNCTION small(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN factor_of($1) < 2; END';
    CREATE DOMAIN tiny AS int CHECK (times(value) < 9); CREATE TABLE c_data (n tiny); INSERT INTO c_data VALUES (2);
    CREATE DOMAIN "a word" AS text CONSTRAINT "it's one" CHECK (known(value)); CREATE TABLE a_words (w "a word"); INSERT INTO a_words VALUES ('b');
    COMMENT ON CONSTRAINT "it's one" ON DOMAIN "a word" IS 'by "z_dict"';
    CREATE DOMAIN listed AS int CHECK (value < 9); CREATE TABLE lists (a listed[]); INSERT INTO lists VALUES ('{1,2}');
    CREATE DOMAIN ranged AS int CHECK (value < 9); CREATE TYPE span AS RANGE (subtype = ranged); CREATE TABLE spans (s span); INSERT INTO spans VALUES ('[1,2]');
    CREATE DOMAIN rowed AS int CHECK (value < 9); CREATE TYPE pair AS (a rowed, b int); CREATE DOMAIN pairs AS pair[]; CREATE TABLE rows (p pairs); INSERT INTO rows VALUES ('{"(1,2)"}');
    CREATE PROCEDURE same(a int) LANGUAGE sql AS 'SELECT 1'; CREATE PROCEDURE same(OUT a int) LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION alike(a int) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE PROCEDURE alike(OUT a int) LANGUAGE sql AS 'SELECT 1';
    CREATE TABLE top (n int CHECK (n > 0)); CREATE TABLE middle (CONSTRAINT top_n_check CHECK (n > 0), CHECK (n < 9)) INHERITS (top);
    CREATE TABLE leaf () INHERITS (middle); INSERT INTO leaf VALUES (1); ALTER TABLE top ADD CONSTRAINT own CHECK (n <> 5) NO INHERIT;
    CREATE TABLE parted (n int CHECK (n > 0)) PARTITION BY LIST (n); CREATE TABLE part (n int, CHECK (n < 9), CONSTRAINT parted_n_check CHECK (n > 0));
    ALTER TABLE parted ATTACH PARTITION part FOR VALUES IN (1); INSERT INTO parted VALUES (1);
    ALTER TABLE parted ADD CONSTRAINT later CHECK (n <> 1) NOT VALID;
    CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f'); CREATE TABLE moods (k mood[]) PARTITION BY HASH (k);
    CREATE TABLE moods_0 PARTITION OF moods FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE moods_1 PARTITION OF moods FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    INSERT INTO moods SELECT ARRAY[m] FROM unnest(enum_range(NULL::mood)) m
"""  # noqa: E501
"""What dump and restore alone don't bring back."""
NOT_AS_BEFORE = {("constraint", "public.t t_p_fkey"), ("constraint", "public.violated small"), ("constraint", "public.odd few")}
"""The key that the rows don't hold, and the checks that they don't pass, of a table and of a domain."""


@pytest.fixture(scope="module", params=(16, 18))
def hard(request, server_folder):
    folder = server_folder / f"guide-hard-{request.param}"
    folder.mkdir()
    with Postgres(server_folder / f"postgres-guide-hard-{request.param}", request.param) as server:
        site = Site(server, folder)
        site.sql("postgres", "CREATE ROLE app LOGIN PASSWORD 'a'", "GRANT SET ON PARAMETER session_replication_role TO app")
        site.sql("postgres", "CREATE DATABASE hard OWNER app", 'ALTER DATABASE hard SET search_path = "$user", public, "own \'path"')
        site.sql("hard", "GRANT ALL ON SCHEMA public TO app")
        app = {"user": "app", "password": "a"}
        site.sql("hard", *(part for part in re.split(r";\n", HARD) if part.strip()), **app)
        if request.param < 17:  # since then they can't be filled at the source either
            site.sql(
                "hard",
                "CREATE FUNCTION public.counted() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM a_data'",
                "CREATE MATERIALIZED VIEW public.per_software AS SELECT counted()",
                **app,
            )
        site.sql("hard", "CREATE FUNCTION stop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no more definitions'; END $$")
        site.sql("hard", "CREATE EVENT TRIGGER closed ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION stop()")
        site.set, site.major = site.back_up(site.source("hard")), request.param
        yield site


@pytest.mark.parametrize("way", ["If you trust all owners", "If you do not"])
def test_restore_guide_brings_all_rows_back_and_says_what_else_is_missing(hard, way, server_folder, tmp_path):
    with Postgres(server_folder / f"new-{tmp_path.name}", hard.major) as server:
        new = Site(server, tmp_path)
        done = execute(GUIDE.section([guided(hard, tmp_path)]), way, server, tmp_path)
        assert done.returncode == 1, done.stderr
        errors = [
            line.partition("ERROR:  ")[2]
            for line in done.stderr.splitlines()
            if "ERROR:" in line and not re.search('role ".*" already exists', line)
        ]
        assert errors == [
            'insert or update on table "t" violates foreign key constraint "t_p_fkey"',
            'column "n" of table "odds" contains values that violate the new constraint',
            'check constraint "small" of relation "violated" is violated by some row',
        ]
        assert "Command was: ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_p_fkey FOREIGN KEY (p) REFERENCES public.p(i);" in done.stderr
        assert done.stderr.endswith("Not all came back: see above.\n")
        again = new.back_up(new.source("hard"))
        found, saved = (contents(each, "hard") for each in (again, hard.set))
        left = {"event trigger"} if way == "If you do not" else set()
        assert {key for key in saved.keys() | found.keys() if saved.get(key) != found.get(key) and key[0] not in {"snapshot", *left}} == {
            *NOT_AS_BEFORE,
            *(
                ("table", f"public.moods_{n}")
                for n in range(2)
                if saved["table", f"public.moods_{n}"] != found["table", f"public.moods_{n}"]
            ),
            *((("function", "public.stop()"),) if left else ()),
        }
        assert found["constraint", "public.violated small"] == saved["constraint", "public.violated small"] | {
            "definition": "CHECK (public.small(n)) NOT VALID",
            "validated": False,
        }
        assert found["constraint", "public.odd few"]["definition"] == "CHECK (public.small(VALUE)) NOT VALID"
        assert new.sql("hard", "SELECT count(*) FROM public.moods") == [(6,)]
        if hard.major < 17:
            assert new.sql("hard", "SELECT * FROM public.per_software") == [(2,)]


def test_restore_guide_names_tables_that_lack_rows(hard, server_folder, tmp_path):
    with Postgres(server_folder / f"new-{tmp_path.name}", hard.major) as server:
        section = GUIDE.section([guided(hard, tmp_path)])
        lost = "DELETE FROM public.z_dict WHERE val = 'b'; DROP TABLE public.p CASCADE;\nDROP SCHEMA restore_by_hand"
        done = execute(section.replace("DROP SCHEMA restore_by_hand", lost), "If you trust all owners", server, tmp_path)
        assert done.returncode == 1
        assert "\npublic.z_dict|2|1\n" in done.stderr
        assert 'relation "public.p" does not exist' in done.stderr


def test_restore_guide_has_commands_of_their_own_for_each_source():
    """Two sources are two servers: nobody loads both into one by mistake."""

    def one(name):
        files = {"globals": "globals.sql", "shop": "toc.dat"}
        return GuidedSource(
            id=f"postgres.{name}",
            settings=PostgresSettings(connection="pg"),
            versions={"postgres": "18"},
            folders={artifact: f"restored/{name}/{artifact}" for artifact in files},
            members=lambda artifact: [("member", files[artifact], {})],
            contents=lambda artifact, kind: [("database", "shop", {"owner": "app", "settings": None})] if kind == "database" else [],
        )

    section = GUIDE.section([one("main"), one("other")])
    assert "anew for each source" in section
    blocks = re.findall(r"^Of `postgres\.(\w+)`, version 18 or later:\n\n```sh\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["main", "other"] * 4
    assert all(set(re.findall(r"restored/(\w+)/", block)) == {name} for name, block in blocks)
    assert "Of `postgres" not in GUIDE.section([one("main")])
