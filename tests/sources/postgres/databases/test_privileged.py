"""Statements that are made as superuser: which ones, and that nothing else is."""

import pytest

from recovery.common.errors import ArtifactError, RestoreError
from recovery.sources.postgres.accounts.loaders import EVERYONE, OURS, Loaders
from recovery.sources.postgres.databases import privileged
from recovery.sources.postgres.databases.entries import Entry, Step
from recovery.sources.postgres.dump import archive

HEAD = "--\n-- Name: it's; Type: \"ACL\"; $$\n--\n\nSET default_tablespace = '';\n\n"


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("GRANT SELECT ON TABLE s.t TO a;\n\n-- done;\nREVOKE ALL ON TABLE s.t FROM b;\n", 2),
        ('GRANT SELECT ON TABLE "s;"."a""; b" TO "c;\nd";\n', 1),
        ("COMMENT ON EXTENSION x IS 'it''s; here: -- \"$$';\n", 1),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE x AS $_$ a; 'b; $$ c; $_$;\nGRANT EXECUTE ON FUNCTION f() TO a;", 2),
        ("SELECT pg_catalog.set_config('search_path', '', false);\nSET row_security = off;\n", 0),
    ],
)
def test_statements_are_cut_at_semicolons_outside_of_quotes(script, found):
    assert len(list(privileged.statements(HEAD + script))) == found


@pytest.fixture
def make(postgres_server, monkeypatch):
    """Makes a script that a dump is said to have for an entry."""
    with postgres_server.connect("postgres") as connection:
        connection.autocommit = True

        def made(what, script):
            monkeypatch.setattr(archive, "script", lambda *_: script.encode())
            step = Step(OURS, (Entry("1; 0 0 x", what, "- x", None, OURS),))
            server = type("", (), {"runner": None, "bin": None})
            privileged.make(server, connection, step, None, Loaders({EVERYONE: "postgres"}, ""), "utf-8")

        yield made


@pytest.mark.parametrize(
    ("what", "script"),
    [
        ("EXTENSION", "CREATE EXTENSION IF NOT EXISTS plpgsql;\nALTER ROLE postgres CONNECTION LIMIT 7;\n"),
        ("ACL", "SELECT pg_sleep(0);\n"),
        ("ACL", "DO $$ BEGIN END $$;\n"),
        ("COMMENT", "COMMENT ON SCHEMA public IS 'x';\nSET ROLE postgres;\n"),
        ("FUNCTION", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';\nALTER FUNCTION f() OWNER TO postgres;\n"),
        ("EVENT TRIGGER", "CREATE TABLE t (a int);\n"),
    ],
)
def test_statement_of_another_kind_than_its_entry_is_refused_and_nothing_is_made(make, postgres_server, what, script):
    with pytest.raises(ArtifactError, match="not run as superuser"):
        make(what, script)
    with postgres_server.connect("postgres") as connection:
        assert connection.execute("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'postgres'").fetchone() == (-1,)
        assert connection.execute("SELECT to_regproc('f'), to_regclass('t')").fetchone() == (None, None)


def test_server_takes_no_more_than_one_statement_at_a_time(make, monkeypatch):
    both = "CREATE PUBLICATION x_both; ALTER ROLE postgres CONNECTION LIMIT 7;"
    monkeypatch.setattr(privileged, "statements", lambda _: [both])
    with pytest.raises(RestoreError, match="multiple commands"):
        make("PUBLICATION", both)


def test_validator_of_a_foreign_data_wrapper_is_not_run_when_it_is_code_of_the_set(make, postgres_server):
    with postgres_server.connect("postgres") as connection:
        connection.execute(
            "CREATE FUNCTION public.check_it(text[], oid) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''ran''; END'"
        )
    try:
        with pytest.raises(ArtifactError, match=r"validator public\.check_it"):
            make("FOREIGN DATA WRAPPER", "CREATE FOREIGN DATA WRAPPER w VALIDATOR public.check_it OPTIONS (a 'b');\n")
    finally:
        with postgres_server.connect("postgres") as connection:
            connection.execute("DROP FUNCTION public.check_it(text[], oid)")
