"""What is known before a restore of SQL that will fail."""

import pytest

from recovery.plan.kinds.postgres import SqlQuestion, SqlStatement
from tests.support.postgres_site import Site

ROLES = ("q_boss", "q_owner")


@pytest.fixture
def site(postgres_server, tmp_path):
    made = Site(postgres_server, tmp_path, ("qshop",), ROLES)
    made.sql("postgres", "CREATE ROLE q_boss SUPERUSER", "CREATE ROLE q_owner")
    yield made
    made.clean()


def statement(role=None):
    return SqlStatement(source="postgres.main", database="qshop", statement="SELECT 1", **{"as": role})


def question(role=None):
    return SqlQuestion(source="postgres.main", database="qshop", query="SELECT 1", equals=1, **{"as": role})


def test_foresee_of_a_live_database_says_why_sql_will_fail(site):
    site.create("qshop", "ALTER DATABASE qshop OWNER TO q_boss")
    source = site.source("qshop")
    assert "belongs to q_boss, a superuser" in source.foresee(statement(), None)
    assert source.foresee(statement("q_owner"), None) == source.foresee(question(), None) == ""
    assert "Correct `as` in the plan" in source.foresee(question("nobody"), None)
    site.sql("qshop", "CREATE SCHEMA s AUTHORIZATION q_owner")
    assert "others own or may make something in it: q_owner" in source.foresee(question(), None)


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
