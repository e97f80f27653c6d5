"""What is known before a restore of SQL that will fail; and answers of any size and shape."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from recovery.common.errors import SourceError
from recovery.plan.kinds.postgres import SqlQuestion, SqlStatement
from tests.support.postgres_site import Site

ROLES = ("q_boss", "q_owner", '"q_owner, x y"')


@pytest.fixture
def site(postgres_server, tmp_path):
    made = Site(postgres_server, tmp_path, ("qshop",), ROLES)
    made.sql("postgres", "CREATE ROLE q_boss SUPERUSER", *(f"CREATE ROLE {role}" for role in ROLES[1:]))
    yield made
    made.clean()


@pytest.fixture
def source(site):
    site.create("qshop", "ALTER DATABASE qshop OWNER TO q_owner")
    return site.source("qshop")


def statement(role=None, sql="SELECT 1"):
    return SqlStatement(source="postgres.main", database="qshop", statement=sql, **{"as": role})


def question(role=None, sql="SELECT 1"):
    return SqlQuestion(source="postgres.main", database="qshop", query=sql, equals=1, **{"as": role})


def test_foresee_of_a_live_database_says_why_sql_will_fail(site):
    site.create("qshop", "ALTER DATABASE qshop OWNER TO q_boss")
    source = site.source("qshop")
    assert "belongs to q_boss, a superuser" in source.foresee(statement(), None)
    assert source.foresee(statement("q_owner"), None) == source.foresee(question(), None) == ""
    assert "Correct `as` in the plan" in source.foresee(question("nobody"), None)
    site.sql("qshop", "CREATE SCHEMA s AUTHORIZATION q_owner")
    assert "others own or may make something in it: q_owner" in source.foresee(question(), None)


def test_foresee_lists_roles_as_sql_writes_their_names(site):
    site.create("qshop", "ALTER DATABASE qshop OWNER TO q_boss", *(f"CREATE SCHEMA AUTHORIZATION {role}" for role in ROLES[1:]))
    assert 'make something in it: "q_owner, x y", q_owner. ' in site.source("qshop").foresee(question(), None)


def test_foresee_of_a_restored_database_goes_by_the_set_and_its_roles(site):
    site.create("qshop", "ALTER DATABASE qshop OWNER TO q_boss", "CREATE SCHEMA s", "CREATE TABLE s.t (n int)")
    source = site.source("qshop")
    restore = site.restore(site.back_up(source))
    site.sql("qshop", "GRANT CREATE ON SCHEMA s TO q_owner")
    others = site.restore(site.back_up(source))
    site.sql("qshop", "ALTER DATABASE qshop OWNER TO q_owner")
    owned = site.restore(site.back_up(source))
    site.clean()
    assert source.foresee(question(), restore) == source.foresee(question(), owned) == source.foresee(statement(), owned) == ""
    assert "others own or may make something in it: q_owner" in source.foresee(question(), others)
    assert "belongs to q_boss, a superuser" in source.foresee(statement(), restore)
    site.create("qshop")
    assert "belongs to postgres, a superuser" in source.foresee(statement(), owned), "it runs before the restore"


TIMEOUT = timedelta(seconds=20)


def peak():
    """The most memory that this process has had since it was last set back, in bytes."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10


@pytest.mark.parametrize("sql", ["SELECT generate_series(1, 1000000000)", "SELECT generate_series(1, 1000000000); SELECT 1"])
def test_answer_of_a_query_with_a_billion_rows_is_an_error_at_the_second_row(source, site, sql):
    with pytest.raises(SourceError, match="expected one value, found several rows"):
        source.answer(question(sql=sql), timedelta(seconds=4))
    assert site.sql("postgres", "SELECT FROM pg_roles WHERE rolname LIKE 'recovery_query_%'") == []


def test_execute_of_a_statement_with_many_rows_returns_the_first_20_in_little_memory(source):
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    status, *rows = source.execute(statement(sql="SELECT repeat('x', 1000) FROM generate_series(1, 200000)"), TIMEOUT)
    assert (status, len(rows)) == ("SELECT 200000", 20)
    assert peak() - before < 50 << 20


def test_execute_of_several_statements_returns_what_each_of_them_gives(source):
    sql = "CREATE TABLE t AS SELECT generate_series(1, 3) n; UPDATE t SET n = 0 WHERE n > 1 RETURNING n, 'é'; TABLE t LIMIT 0;"
    assert list(source.execute(statement(sql=sql), TIMEOUT)) == ["SELECT 3", "UPDATE 2", "  0 | é", "  0 | é", "SELECT 0"]
    assert list(source.execute(statement(sql="-- nothing"), TIMEOUT)) == [""]


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 1 / 0", "COPY (SELECT 1) TO STDOUT", "CREATE TABLE t (n int); COPY t FROM STDIN"])
def test_execute_of_a_statement_that_fails_or_copies_is_an_error_and_one_transaction(source, site, sql):
    with pytest.raises(SourceError, match=r"division by zero|COPY to or from a client is not possible here"):
        list(source.execute(statement(sql=sql), TIMEOUT))
    assert site.sql("qshop", "SELECT to_regclass('t')") == [(None,)]
