"""Databases replaced in place, and brought back from a safety set, whenever a kill comes."""

import psycopg
import pytest

from recovery.common.errors import RestoreError
from recovery.sources.postgres import preflight
from recovery.sources.postgres.databases import in_place, rehearsal
from sandbox.servers import Postgres
from tests.support.kills import Killed, killed_at_statement
from tests.support.local_restore import LocalRestore, read_dump
from tests.support.postgres_site import Site, contents, texts
from tests.support.postgres_versions import majors

NAMES = ("cash", "cask", "cart")
ROLES = ("ip_gone", "ip_group", "ip_clerk")


@pytest.fixture(scope="module", params=majors(18))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-in-place-{request.param}", request.param) as server:
        yield Site(server, tmp_path_factory.mktemp("postgres-in-place"), NAMES, ROLES)


@pytest.fixture(scope="module")
def saved(site):
    """A set of two databases, two of whose roles are about to be lost."""
    site.sql("postgres", "CREATE ROLE ip_clerk LOGIN PASSWORD 'old'", "CREATE ROLE ip_group", "CREATE ROLE ip_gone LOGIN PASSWORD 'gone'")
    site.sql("postgres", "GRANT ip_group TO ip_clerk")
    for name in ("cash", "cask"):
        site.create(name, "CREATE TABLE t AS SELECT 'saved' AS state", "GRANT SELECT ON t TO ip_group", "ALTER TABLE t OWNER TO ip_gone")
        site.sql("postgres", f"ALTER DATABASE {name} SET work_mem = '7MB'", f"COMMENT ON DATABASE {name} IS 'saved'")
        site.sql("postgres", f"ALTER DATABASE {name} OWNER TO ip_gone", f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
        site.sql("postgres", f"GRANT CONNECT ON DATABASE {name} TO ip_group")
    backup = site.back_up(site.source("cash", "cask"))
    site.clean()
    return backup


class Replaced:
    """One restore in place: the set's, and the rollback with what was live before."""

    def __init__(self, site, saved, safety, source=None, **asked):
        self.source = source or site.source()
        self.forward = LocalRestore(saved, site.new_folder(), in_place=True, **asked)
        self.back = LocalRestore(safety, self.forward.folder, self.forward.id, in_place=True, rolling_back=True, **asked)


def replaced(source, restore):
    """All steps of the cutover in place, or of its rollback."""
    source.replace(restore)
    assert source.verify_staged(restore) == []
    source.let_in(restore)


def now(site):
    """As it is now: one of the databases is gone, one came later, the other has other content; roles are gone."""
    site.sql("postgres", "CREATE ROLE ip_clerk LOGIN PASSWORD 'new'")
    for name in ("cash", "cart"):
        site.create(name, "CREATE TABLE t AS SELECT 'live' AS state")
    site.sql("postgres", "ALTER DATABASE cash SET work_mem = '5MB'")


@pytest.fixture(scope="module")
def safety(site, saved):
    now(site)
    backup = site.back_up(site.source("cart", "cash"))
    site.clean()
    return backup


@pytest.fixture
def no_room(monkeypatch):
    """The server is not known to have room for a database and its copy."""
    for module in (in_place, rehearsal, preflight):
        monkeypatch.setattr(module, "has_room", lambda *_: False)


@pytest.fixture
def live(site, saved, safety, no_room):
    now(site)
    yield Replaced(site, saved, safety)
    site.clean()


@pytest.fixture
def roomy(site, saved, safety):
    """As ``live``, where there is room for both."""
    now(site)
    yield Replaced(site, saved, safety)
    site.clean()


def as_before(site):
    there = site.own_databases() == {"cash", "cart"} and site.own_roles() == {"ip_clerk"}
    return there and site.state("cash") == site.state("cart") == "live"


def test_replace_loads_the_set_and_rollback_loads_the_safety_set(site, live):
    later = site.number("cart")
    session = site.server.connect("cash")
    replaced(live.source, live.forward)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    assert site.own_databases() == set(NAMES)
    assert site.state("cash") == site.state("cask") == "saved"
    outside = "SELECT pg_get_userbyid(datdba), shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'cash'"
    assert site.sql("cash", outside, "SHOW work_mem") == [("7MB",)]
    assert site.sql("cash", outside) == [("ip_gone", "saved")]
    assert site.sql("cash", "SELECT state FROM t", user="ip_gone", password="gone") == [("saved",)]
    assert site.sql("cask", "SELECT state FROM t", user="ip_clerk", password="new") == [("saved",)]
    live.source.finalize(live.forward)
    live.source.discard(live.forward)
    assert site.state("cash") == "saved"
    assert site.own_roles() == set(ROLES)
    replaced(live.source, live.back)
    live.source.finalize(live.back)
    assert as_before(site)
    assert site.sql("cash", "SHOW work_mem") == [("5MB",)]
    assert site.number("cart") == later, "what was never replaced is not touched"


def test_verify_staged_in_place_compares_the_databases_under_live_names(site, live):
    live.source.replace(live.forward)
    site.sql("cash", "UPDATE t SET state = 'else'")
    site.sql("postgres", "ALTER DATABASE cask SET temp_buffers = '8MB'", "ALTER ROLE ip_gone CREATEDB")
    found = {(difference.kind, difference.name) for difference in live.source.verify_staged(live.forward)}
    assert found == {("table", "public.t"), ("database", "cask"), ("role", "ip_gone")}


def test_replaced_databases_stay_closed_to_their_users_until_they_are_compared(site, live):
    site.sql("postgres", "CREATE ROLE ip_gone LOGIN PASSWORD 'gone'", "CREATE ROLE ip_group", "GRANT ip_group TO ip_clerk")
    users = [{"user": "ip_gone", "password": "gone"}, {"user": "ip_clerk", "password": "new"}]
    live.source.replace(live.forward)
    assert live.source.verify_staged(live.forward) == []
    for who in users:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            site.sql("cash", "SELECT 1", **who)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            site.sql("postgres", "ALTER DATABASE cash CONNECTION LIMIT 5", **who)
    live.source.let_in(live.forward)
    for who in users:
        assert site.sql("cash", "SELECT state FROM t", **who) == [("saved",)]
    live.source.let_in(live.forward)


DRESSING = r"^ALTER DATABASE .* OWNER TO"
POINTS = {
    "before a database is created": {"pattern": "^CREATE DATABASE"},
    "after a database is created": {"pattern": "^REVOKE ALL ON DATABASE", "after": True},
    "after the roles are created": {"pattern": "^DROP DATABASE"},
    "after a database is loaded": {"pattern": "^ANALYZE", "after": True},
}
"""Statements of the replacement, as :func:`killed_at_statement` takes them."""
OPENING = {
    "before a database has its settings": {"pattern": DRESSING},
    "after a database has its settings": {"pattern": DRESSING, "after": True},
    "after the roles log in": {"pattern": "COMMIT"},
    "before what was not there is removed": {"pattern": "COMMIT", "after": True},
}
"""Likewise, of what lets users in."""


def killed(monkeypatch, point, source, restore, nth=1):
    """Replace, and end it at a point."""
    if point in OPENING:
        source.replace(restore)
        assert source.verify_staged(restore) == []
        with killed_at_statement(monkeypatch, **OPENING[point], nth=nth):
            source.let_in(restore)
    else:
        with killed_at_statement(monkeypatch, **POINTS[point], nth=nth):
            source.replace(restore)


def test_replace_drops_all_chosen_databases_before_the_first_is_created(site, live, monkeypatch):
    site.create("cask", "CREATE TABLE t AS SELECT 'live' AS state")
    killed(monkeypatch, "before a database is created", live.source, live.forward)
    assert site.own_databases() == {"cart"}


@pytest.mark.parametrize("point", ["after a database is created", "after a database has its settings", "after the roles log in"])
def test_replace_resumes_after_a_kill(site, live, monkeypatch, point):
    killed(monkeypatch, point, live.source, live.forward)
    replaced(live.source, live.forward)
    assert site.sql("cash", "SELECT state FROM t", user="ip_gone", password="gone") == [("saved",)]
    assert site.sql("cask", "SELECT state FROM t", user="ip_clerk", password="new") == [("saved",)]


@pytest.mark.parametrize(
    ("point", "nth"),
    [*((point, 1) for point in (*POINTS, *list(OPENING)[:-1])), ("before a database is created", 2), ("after a database is loaded", 2)],
)
def test_rollback_succeeds_after_a_killed_replace(site, live, monkeypatch, point, nth):
    killed(monkeypatch, point, live.source, live.forward, nth)
    replaced(live.source, live.back)
    assert as_before(site)


@pytest.mark.parametrize(
    "point",
    [
        "before a database is created",
        "after the roles are created",
        "after a database has its settings",
        "after the roles log in",
        "before what was not there is removed",
    ],
)
def test_rollback_resumes_after_a_kill(site, live, monkeypatch, point):
    replaced(live.source, live.forward)
    killed(monkeypatch, point, live.source, live.back)
    replaced(live.source, live.back)
    assert as_before(site)


@pytest.mark.parametrize("said", [1, 2, 3])
def test_rollback_keeps_databases_that_a_killed_replace_did_not_drop(site, live, said):
    """A kill at the journal: before any step was said, and before and after the first role."""
    cash = site.number("cash")
    steps = []

    def die(step, facts):
        steps.append(step)
        if len(steps) == said:
            raise Killed

    live.forward.on_journal = die
    with pytest.raises(Killed):
        live.source.replace(live.forward)
    if live.forward.recorded_facts("dropping"):
        replaced(live.source, live.back)
    assert site.number("cash") == cash
    assert as_before(site)


def test_replace_drops_no_database_when_the_set_can_not_be_unpacked(site, live):
    cash = site.number("cash")
    unpack = live.forward.unpack

    def damaged(artifact, folder, only=None):
        if artifact == "cash":
            raise RestoreError("damaged", "none")
        unpack(artifact, folder, only)

    live.forward.unpack = damaged
    with pytest.raises(RestoreError, match="damaged"):
        live.source.replace(live.forward)
    assert site.number("cash") == cash
    assert as_before(site), "no role was made either, since no rollback is gone"
    assert live.forward.recorded_facts("dropping") == []


def test_rollback_creates_no_database_that_was_missing_before_the_restore(site, saved, live, monkeypatch):
    killed(monkeypatch, "before a database is created", live.source, live.forward, nth=2)
    assert len(live.forward.recorded_facts("dropping")) == 1
    live.back.set_folder = saved
    live.source.replace(live.back)
    live.source.let_in(live.back)
    assert site.own_databases() == {"cash", "cart"}, "cask was not there before, and not made yet"


def test_replace_of_one_database_leaves_the_other_databases_unchanged(site, saved):
    for name in NAMES:
        site.create(name, "CREATE TABLE t AS SELECT 'live' AS state")
    others = site.number("cask"), site.number("cart")
    one = Replaced(site, saved, site.back_up(site.source(*NAMES)), only=["cash"])
    replaced(one.source, one.forward)
    assert [site.state(name) for name in NAMES] == ["saved", "live", "live"]
    replaced(one.source, one.back)
    assert (site.number("cask"), site.number("cart")) == others
    assert [site.state(name) for name in NAMES] == ["live", "live", "live"]
    site.clean()


def test_rollback_to_a_safety_set_without_databases_removes_databases_and_roles(site, saved, safety):
    source = site.source("cash", "cask")
    source.damaged = True
    none = site.back_up(source)
    assert read_dump(none).warnings[:2] == (
        "Database cash is not there, and not in this set.",
        "Database cask is not there, and not in this set.",
    )
    both = Replaced(site, saved, none)
    replaced(both.source, both.forward)
    replaced(both.source, both.back)
    assert site.own_databases() == site.own_roles() == set()


def test_rollback_fails_and_keeps_a_database_that_the_safety_set_lacks(site, live):
    replaced(live.source, live.forward)
    [artifact] = [name for name in live.back.artifacts() if name == "cash"]
    artifacts = live.back.artifacts
    live.back.artifacts = lambda: [name for name in artifacts() if name != artifact]
    live.source.replace(live.back)
    with pytest.raises(RestoreError, match="lacks cash, which was there before"):
        live.source.let_in(live.back)
    assert site.state("cash") == "saved"
    assert "cask" not in site.databases()


def test_rollback_leaves_a_role_of_an_earlier_restore_without_login(site, live):
    mark = "created by restore 01234567, asleep until its switch"
    site.sql("postgres", "CREATE ROLE ip_gone NOLOGIN PASSWORD 'earlier'", f"COMMENT ON ROLE ip_gone IS '{mark}'")
    back = site.back_up(site.source("cash", "cart"))
    assert contents(back, "globals")["role", "ip_gone"]["login"] is False
    live.back.set_folder = back
    replaced(live.source, live.forward)
    assert site.sql("cash", "SELECT state FROM t", user="ip_gone", password="gone") == [("saved",)]
    replaced(live.source, live.back)
    assert site.sql("postgres", "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'ip_gone'") == [(False,)]


def test_live_databases_are_set_aside_where_there_is_room_and_dropped_once_the_restored_ones_are_accepted(site, roomy):
    cash = site.number("cash")
    roomy.source.rehearse(roomy.back)
    replaced(roomy.source, roomy.forward)
    aside = f"cash__before_{roomy.forward.id}"
    assert site.number(aside) == cash
    assert site.state("cash") == "saved"
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        site.sql(aside, "SELECT 1")
    roomy.source.finalize(roomy.forward)
    assert site.own_databases() == set(NAMES)
    assert site.state("cash") == "saved"


@pytest.mark.parametrize("point", [None, *POINTS, *list(OPENING)[:-1]])
def test_rollback_renames_back_what_was_set_aside_whenever_a_kill_came(site, roomy, monkeypatch, point):
    numbers = site.number("cash"), site.number("cart")
    if point:
        killed(monkeypatch, point, roomy.source, roomy.forward)
    else:
        replaced(roomy.source, roomy.forward)
    replaced(roomy.source, roomy.back)
    assert (site.number("cash"), site.number("cart")) == numbers
    assert as_before(site)
    assert site.sql("cash", "SHOW work_mem") == [("5MB",)]


def test_replace_resumes_after_a_kill_where_databases_are_set_aside(site, roomy, monkeypatch):
    cash = site.number("cash")
    killed(monkeypatch, "after a database is created", roomy.source, roomy.forward)
    replaced(roomy.source, roomy.forward)
    assert site.state("cash") == site.state("cask") == "saved"
    assert site.number(f"cash__before_{roomy.forward.id}") == cash


def test_rehearsal_loads_all_rows_beside_and_leaves_nothing_behind(site, roomy):
    numbers = site.number("cash"), site.number("cart")
    found = roomy.source.rehearse(roomy.forward)
    assert found.whole
    assert found.differences == []
    assert [sentence[:34] for sentence in found.words] == ["Database cash was loaded with all ", "Database cask was loaded with all "]
    assert (site.number("cash"), site.number("cart")) == numbers
    assert as_before(site)


def test_rehearsal_without_room_loads_definitions_alone_and_says_so(site, live):
    found = live.source.rehearse(live.forward)
    assert not found.whole
    assert "without rows" in found.words[0]
    assert as_before(site)


def test_rehearsal_of_a_set_that_can_not_be_loaded_fails_and_touches_nothing(site, roomy):
    def damaged(artifact, folder, only=None):
        raise RestoreError("damaged", "none")

    roomy.forward.unpack = damaged
    with pytest.raises(RestoreError, match="damaged"):
        roomy.source.rehearse(roomy.forward)
    roomy.source.discard(roomy.forward)
    assert as_before(site)


ORPHAN = (
    "CREATE TABLE p (i int PRIMARY KEY)",
    "CREATE TABLE c (i int CONSTRAINT known REFERENCES p)",
    "SET session_replication_role = replica",
)
"""What makes a table whose rows its foreign key does not hold, with a row in it."""


def test_live_database_with_orphan_rows_comes_back_with_all_rows_and_the_key_is_named(site, saved, no_room, caplog):
    """The live database of the report: neither the set nor the safety set could be loaded, and it ended empty."""
    site.create("cash", "CREATE TABLE t AS SELECT 'live' AS state", *ORPHAN, "INSERT INTO c VALUES (7)")
    safety = site.back_up(site.source("cash"))
    one = Replaced(site, saved, safety, only=["cash"])
    one.back.may_lack = True
    one.source.rehearse(one.back)
    one.source.replace(one.forward)
    replaced(one.source, one.back)
    assert site.sql("cash", "SELECT i FROM c") == [(7,)]
    assert "mended by hand" not in caplog.text, "a rehearsal was taken for a rollback"
    assert [each.name for each in one.source.left_out(one.back)] == ["cash: fk constraint public c known is restored as not valid"]
    site.clean()


def test_live_database_whose_definitions_would_not_come_back_is_not_dropped_without_room(site, saved, no_room):
    site.create(
        "cash",
        "CREATE TABLE t AS SELECT 'live' AS state",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'",
        "CREATE MATERIALIZED VIEW m AS SELECT f() AS i",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1 / 0'",
    )
    one = Replaced(site, saved, site.back_up(site.source("cash")), only=["cash"])
    one.back.may_lack = True
    with pytest.raises(RestoreError, match=r"cash would not come back whole if it were dropped now: .* m is not filled.*division by zero"):
        one.source.rehearse(one.back)
    assert site.own_databases() == {"cash"}
    site.clean()


def test_rollback_loads_what_it_can_and_lets_nobody_in_until_it_is_mended_by_hand(site, saved, no_room, monkeypatch):
    site.sql("postgres", "CREATE ROLE ip_clerk LOGIN PASSWORD 'new'")
    site.create(
        "cash",
        "CREATE TABLE t AS SELECT 'live' AS state",
        "CREATE TABLE a (i int)",
        "INSERT INTO a VALUES (1), (2)",
        "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
        "CREATE INDEX one ON a (f(i)); CREATE INDEX two ON a (f(i))",
        "CREATE TABLE broken (i int, j int GENERATED ALWAYS AS (f(i)) STORED)",
        "INSERT INTO broken VALUES (3)",
        "CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 0'",
    )
    one = Replaced(site, saved, site.back_up(site.source("cash")), only=["cash"])
    one.back.may_lack = True
    one.source.rehearse(one.back)
    one.source.replace(one.forward)
    with pytest.raises(
        RestoreError, match=r"cash can't be loaded whole. the rows of table public broken can't be loaded: division by zero"
    ):
        one.source.replace(one.back)
    assert site.sql("cash", "SELECT state FROM t") == [("live",)]
    assert site.sql("cash", "SELECT i FROM a ORDER BY i") == [(1,), (2,)]
    assert site.sql("cash", "SELECT i FROM broken") == []
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        site.sql("cash", "SELECT 1", user="ip_clerk", password="new")
    number = site.number("cash")
    body = site.sql("cash", "SELECT pg_get_functiondef('f'::regproc)")[0][0]
    assert [each.name for each in one.source.left_out(one.back)] == [f"cash: index public {name} can't be made" for name in ("one", "two")]
    site.sql("cash", body.replace("/ 0", ""), "INSERT INTO broken VALUES (3)", "CREATE INDEX one ON a (f(i))", body)
    replaced(one.source, one.back)
    assert site.number("cash") == number, "what was mended by hand is not loaded again"
    assert site.sql("cash", "SELECT i FROM broken") == [(3,)]
    assert [each.name for each in one.source.left_out(one.back)] == ["cash: index public two can't be made"]
    site.clean()


def test_rollback_loads_the_other_databases_where_one_can_not_be_loaded_whole(site, saved, no_room):
    site.create(
        "cash",
        "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
        "CREATE TABLE broken (i int, j int GENERATED ALWAYS AS (f(i)) STORED)",
        "INSERT INTO broken VALUES (3)",
        "CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 0'",
    )
    site.create("cask", "CREATE TABLE t AS SELECT 'live' AS state")
    both = Replaced(site, saved, site.back_up(site.source("cash", "cask")))
    both.source.replace(both.forward)
    for _ in range(2):
        with pytest.raises(RestoreError, match="cash can't be loaded whole"):
            both.source.replace(both.back)
        assert site.state("cask") == "live"
    site.clean()


@pytest.mark.parametrize("children", ["another owner's child", "no child"])
def test_rollback_loads_what_else_there_is_where_a_check_of_several_owners_refuses_rows(site, saved, no_room, children):
    site.sql("postgres", "CREATE ROLE ip_clerk LOGIN", "CREATE ROLE ip_group")
    site.create(
        "cash",
        "CREATE TABLE t AS SELECT 'live' AS state",
        "CREATE TABLE moment AS SELECT 0 AS now",
        "CREATE FUNCTION moment() RETURNS int LANGUAGE sql STABLE AS 'SELECT coalesce(max(now), 9) FROM public.moment'",
        "CREATE TABLE offer (id int, CONSTRAINT here CHECK (id > 0) NO INHERIT, CONSTRAINT positive CHECK (id > 0))",
        "ALTER TABLE offer ADD CONSTRAINT open CHECK (id >= moment())",
        *(["CREATE TABLE better () INHERITS (offer)", "ALTER TABLE better OWNER TO ip_clerk"] if "another" in children else []),
        "ALTER TABLE offer OWNER TO ip_group",
        "GRANT SELECT ON moment TO PUBLIC",
        "INSERT INTO offer VALUES (2)",
        "UPDATE moment SET now = 3",
    )
    site.create("cask", "CREATE TABLE t AS SELECT 'live' AS state")
    both = Replaced(site, saved, site.back_up(site.source("cash", "cask")))
    both.back.may_lack = True
    both.source.replace(both.forward)
    if "another" in children:
        with pytest.raises(RestoreError, match=r"the rows of table public offer can't be loaded: .*must be owner of table better"):
            both.source.replace(both.back)
    else:
        both.source.replace(both.back)
        assert site.sql("cash", "SELECT id FROM offer") == [(2,)]
    assert site.state("cash") == site.state("cask") == "live"
    assert site.sql("cash", "SELECT now FROM moment") == [(3,)]
    checks = "SELECT conname FROM pg_constraint WHERE conrelid = 'offer'::regclass AND contype = 'c' ORDER BY 1"
    assert site.sql("cash", checks) == [("here",), ("open",), ("positive",)]
    site.clean()


HALF_DROPPED = "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'cash'"
"""As a server that ends in the middle of a DROP DATABASE leaves it."""


@pytest.mark.parametrize("goes_on", [True, False], ids=["restore goes on", "rolled back"])
def test_live_database_that_the_end_of_the_server_left_half_dropped_is_replaced_and_brought_back(site, live, monkeypatch, goes_on):
    with killed_at_statement(monkeypatch, '^DROP DATABASE IF EXISTS "cash" '):
        live.source.replace(live.forward)
    site.sql("postgres", HALF_DROPPED)
    if goes_on:
        replaced(live.source, live.forward)
        assert site.state("cash") == "saved"
    replaced(live.source, live.back)
    assert as_before(site)


def test_half_dropped_database_is_dropped_and_not_renamed_as_a_rollback(site, roomy, monkeypatch):
    with killed_at_statement(monkeypatch, '^ALTER DATABASE "cash" RENAME'):
        roomy.source.replace(roomy.forward)
    site.sql("postgres", HALF_DROPPED)
    replaced(roomy.source, roomy.forward)
    assert f"cash__before_{roomy.forward.id}" not in site.own_databases()
    assert site.state("cash") == "saved"
    replaced(roomy.source, roomy.back)
    assert as_before(site)


def test_preflight_in_place_reports_drops_and_refuses_databases_not_backed_up(site, live, saved):
    source = site.source("cash", "cask")
    facts = texts(source, live.forward, "fact")
    assert "Database cash, " in facts
    assert "is dropped, and then loaded from the set" in facts
    assert "before" not in facts
    assert texts(source, live.forward, "refusal") == ""
    (space,) = source.preflight(live.forward).second_copy
    assert space.needed > 0
    assert space.freed == site.sql("postgres", "SELECT pg_database_size('cash')")[0][0]
    assert "no safety backup would have it" in texts(site.source("cask"), live.forward, "refusal")
    site.sql("postgres", "ALTER DATABASE cash ALLOW_CONNECTIONS false")
    assert "Database cash lets no connections in" in texts(site.source(), live.forward, "refusal")


def test_replace_and_rollback_work_for_an_owner_without_superuser_rights(site):
    if site.server.major < 15:
        pytest.skip("the schema public of a new database belongs to a superuser before PostgreSQL 15")
    site.sql("postgres", "CREATE ROLE ip_clerk LOGIN PASSWORD 'l' CREATEDB CREATEROLE", "GRANT pg_signal_backend TO ip_clerk")
    site.sql("postgres", "CREATE DATABASE cash OWNER ip_clerk")
    who = {"user": "ip_clerk", "password": "l"}
    site.sql("cash", "CREATE TABLE t AS SELECT 'saved' AS state", **who)
    source = site.source("cash", **who)
    saved = site.back_up(source)
    site.sql("cash", "UPDATE t SET state = 'live'", **who)
    one = Replaced(site, saved, site.back_up(source), source, only=["cash"])
    assert texts(source, one.forward, "refusal") == ""
    replaced(source, one.forward)
    assert site.state("cash") == "saved"
    replaced(source, one.back)
    assert site.state("cash") == "live"
    site.clean()


def test_preflight_in_place_refuses_a_database_with_replaced_tables_of_earlier_restores(site, live):
    site.sql("cash", "CREATE SCHEMA public__before_0badcafe", "CREATE TABLE public__before_0badcafe.t ()")
    found = [finding.text for finding in live.source.preflight(live.forward).findings if finding.level == "refusal"]
    assert len(found) == 1
    assert "cash has tables that earlier restores set aside (0badcafe)" in found[0]


def test_replace_drops_nothing_when_the_server_does_not_let_in_the_roles_that_load(site, live):
    rules = site.server.folder / "pg_hba.conf"
    admitted = rules.read_text()
    rules.write_text("host all postgres all scram-sha-256\nhost all all all reject\n" + admitted)
    site.sql("postgres", "SELECT pg_reload_conf()")
    try:
        with pytest.raises(RestoreError, match=r"does not let in the roles that load databases(.|\n)*pg_hba"):
            live.source.replace(live.forward)
    finally:
        rules.write_text(admitted)
        site.sql("postgres", "SELECT pg_reload_conf()")
    assert as_before(site)
    assert live.forward.recorded_facts("dropping") == []
    assert site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery_load_%'") == []


def test_preflight_in_place_refuses_a_database_whose_copies_would_have_names_that_the_server_cuts(site):
    """Else the rehearsal drops the live database: the name of its copy is cut to the live one."""
    name = "cash" + "e" * 59
    site.create(name)
    source = site.source(name)
    restore = site.restore(site.back_up(source), in_place=True)
    assert f"The name of database {name} is too long" in texts(source, restore, "refusal")
    site.sql("postgres", "SELECT", f"DROP DATABASE {name}")
