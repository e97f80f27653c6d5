"""Some databases of a set, under their own or under other names; what is there already, and what would change."""

import pytest

from recovery.common.connections import Endpoint
from recovery.common.errors import RestoreError
from recovery.packs.content_diff import Change
from recovery.runners.local import LOCAL
from recovery.sources.postgres.client import Server
from recovery.sources.postgres.locations import second_copy
from recovery.sources.postgres.targets import KEPT, targets
from tests.support.postgres_site import Site, texts

NAMES = ("till", "yard", "loft")
ROLES = ("t_owner", "t_group", "t_reader", "t_column", "t_policy", "t_default", "t_setting", "t_outer", "t_other", "t_user")


@pytest.fixture(scope="module")
def site(postgres_server, tmp_path_factory):
    return Site(postgres_server, tmp_path_factory.mktemp("postgres-targets"), NAMES, ROLES)


@pytest.fixture(scope="module")
def saved(site):
    """A set of three databases; one needs all roles but the last two."""
    site.sql("postgres", *(f"CREATE ROLE {role}" for role in ROLES), "ALTER ROLE t_user LOGIN")
    site.sql("postgres", "GRANT t_group TO t_owner", "GRANT t_outer TO t_group", "GRANT t_reader TO t_user")
    for name in NAMES:
        site.create(name, "CREATE TABLE t AS SELECT 'saved' AS state, 1 AS n", "CREATE INDEX i ON t (n)")
    site.sql(
        "till",
        "CREATE TABLE named (a int, b int)",
        "GRANT SELECT (b) ON named TO t_column",
        "CREATE POLICY p ON named TO t_policy",
        "ALTER DEFAULT PRIVILEGES FOR ROLE t_default REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
        "GRANT SELECT ON t TO t_reader",
        "COMMENT ON DATABASE till IS 'the till'",
        "ALTER DATABASE till SET work_mem = '7MB'",
        "ALTER ROLE t_setting IN DATABASE till SET work_mem = '9MB'",
        "ALTER DATABASE till OWNER TO t_owner",
    )
    site.sql("yard", "ALTER TABLE t OWNER TO t_other")
    site.sql(
        "loft",
        "SELECT lo_from_bytea(4711, 'of somebody')",
        "ALTER LARGE OBJECT 4711 OWNER TO t_other",
        "GRANT EXECUTE ON FUNCTION pg_ls_dir(text) TO t_reader",
    )
    backup = site.back_up(site.source(*NAMES))
    site.clean()
    return backup


@pytest.fixture
def live(site, saved):
    """The databases as they are now, all of other content; the roles are gone."""
    for name in NAMES:
        site.create(name, "CREATE TABLE t AS SELECT 'live' AS state, 1 AS n")
    yield site.source(*NAMES)
    site.clean()


def numbers(site, *databases):
    return [site.number(database) for database in databases]


def test_restore_of_one_database_leaves_the_other_databases_unchanged(site, live, saved):
    restore = site.restore(saved, only=["till"])
    others = numbers(site, "yard", "loft")
    assert texts(live, restore, "refusal") == ""
    facts = texts(live, restore, "fact")
    assert "till__before_" in facts
    assert "yard" not in facts
    assert "Members of these roles that the server lacks and that are not created: t_user" in facts
    live.stage(restore)
    assert site.own_databases() == {*NAMES, f"till__stage_{restore.id}"}
    assert live.verify_staged(restore) == []
    live.swap(restore)
    assert [site.state(name) for name in NAMES] == ["saved", "live", "live"]
    assert site.own_databases() == {*NAMES, f"till__before_{restore.id}"}
    assert numbers(site, "yard", "loft") == others
    live.finalize(restore)
    live.discard(restore)
    assert site.state("till") == "saved"
    live.roll_back(restore)
    live.discard(restore)
    assert site.state("till") == "live"
    assert site.own_databases() == set(NAMES)
    assert numbers(site, "yard", "loft") == others
    assert site.own_roles() == set()


@pytest.mark.parametrize(
    ("only", "roles"),
    [
        (["till"], set(ROLES) - {"t_other", "t_user"}),
        (["yard"], {"t_other"}),
        (["loft"], {"t_other", "t_reader"}),
    ],
)
def test_stage_creates_only_the_roles_that_the_chosen_databases_need(site, live, saved, only, roles):
    restore = site.restore(saved, only=only)
    created = ", ".join(sorted(roles))
    assert f"Roles that the server lacks and that are created, without rights until the cutover: {created}." in texts(live, restore, "fact")
    live.stage(restore)
    assert site.own_roles() == roles
    assert live.verify_staged(restore) == []
    live.discard(restore)
    assert site.own_roles() == set()


def test_swap_restores_the_membership_of_an_existing_role_in_a_recreated_role(site, live, saved):
    site.sql("postgres", "CREATE ROLE t_user LOGIN")
    restore = site.restore(saved, only=["till"])
    live.stage(restore)
    live.swap(restore)
    members = "SELECT member::regrole::text FROM pg_auth_members WHERE roleid = 't_reader'::regrole"
    assert site.sql("postgres", members) == [("t_user",)]
    live.roll_back(restore)
    live.discard(restore)
    assert site.own_roles() == {"t_user"}


def test_database_is_restored_under_the_name_that_the_target_gives(site, live, saved):
    source = site.source(*NAMES, renamed={"till": "till_test", "yard": "yard_test"})
    site.create("till_test", "CREATE TABLE t AS SELECT 'in the way' AS state")
    restore = site.restore(saved, only=["till"])
    live_number = numbers(site, "till")
    facts = texts(source, restore, "fact")
    assert "Database till of the set is restored as till_test." in facts
    assert "yard" not in facts
    source.stage(restore)
    assert source.verify_staged(restore) == []
    site.sql(f"till_test__stage_{restore.id}", "UPDATE t SET state = 'else'", "DROP INDEX i")
    assert {(found.kind, found.name) for found in source.verify_staged(restore)} == {("table", "public.t"), ("index", "public.i")}
    source.stage(restore)
    source.swap(restore)
    assert site.own_databases() == {*NAMES, "till_test", f"till_test__before_{restore.id}"}
    assert (site.state("till_test"), site.state("till")) == ("saved", "live")
    assert numbers(site, "till") == live_number
    outside = "SELECT pg_get_userbyid(datdba), shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'till_test'"
    assert site.sql("till_test", outside) == [("t_owner", "the till")]
    assert site.sql("till_test", "SHOW work_mem") == [("7MB",)]
    assert site.source("till", renamed={"till": "till_test"}).replaced_copies() == [restore.id]
    assert live.replaced_copies() == []
    site.source("till", renamed={"till": "by_now_another"}).drop_replaced(restore)
    assert source.replaced_copies() == []
    assert site.state("till_test") == "saved"


def test_rollback_of_renamed_databases_returns_the_previous_databases(site, live, saved):
    source = site.source(*NAMES, renamed={"till": "yard", "yard": "till"})
    restore = site.restore(saved, only=["till", "yard"])
    site.sql("postgres", "DROP DATABASE yard")
    source.stage(restore)
    source.swap(restore)
    assert site.sql("yard", "SELECT to_regclass('named')::text") == [("named",)]
    assert site.sql("till", "SELECT to_regclass('named')::text") == [(None,)]
    source.roll_back(restore)
    source.discard(restore)
    assert site.own_databases() == {"till", "loft"}
    assert site.state("till") == "live"


def test_preflight_refuses_unknown_databases_invalid_names_and_name_collisions(site, live, saved):
    for only, words in (
        (["till", "Yard"], "The set has no database Yard. It has loft, till, yard."),
        (["shed.public.t"], "The set has no database shed. It has loft, till, yard."),
        (['"till'], "names no database, schema or table"),
    ):
        restore = site.restore(saved, only=only)
        assert words in texts(live, restore, "refusal")
    source = site.source(*NAMES, renamed={"till": "loft"})
    assert "The databases till and loft of the set would both become loft." in texts(source, site.restore(saved), "refusal").replace(
        "loft and till", "till and loft"
    )
    assert texts(source, site.restore(saved, only=["till", "yard"]), "refusal") == ""


def test_occupied_locations_lists_only_existing_databases_that_are_not_empty(site, live, saved):
    restore = site.restore(saved, only=["till", "yard"])
    assert [text.partition(",")[0] for text in live.occupied_locations(restore).values()] == ["database till", "database yard"]
    assert all(text.endswith("B") for text in live.occupied_locations(restore).values())
    site.create("till_empty")
    site.sql("postgres", "DROP DATABASE yard")
    source = site.source(renamed={"till": "till_empty"})
    assert source.occupied_locations(restore) == {}
    site.sql("till_empty", "CREATE TYPE something AS ENUM ('a')")
    assert len(source.occupied_locations(restore)) == 1
    site.sql("till_empty", "DROP TYPE something", "SELECT lo_create(5)")
    assert len(source.occupied_locations(restore)) == 1


def test_locations_do_not_depend_on_the_host_name_of_the_server(site, live, saved):
    restore = site.restore(saved, only=["till", "yard"])
    system = site.sql("postgres", "SELECT system_identifier::text FROM pg_control_system()")[0][0]
    assert live.locations(restore) == site.source(host="localhost").locations(restore) == live.occupied_locations(restore).keys()
    assert live.locations(restore) == {("postgres", system, "till"), ("postgres", system, "yard")}
    assert site.source(renamed={"till": "x"}).locations(restore) == {("postgres", system, "x"), ("postgres", system, "yard")}
    assert len(live.locations(site.restore(saved))) == 3


def changed(source, restore):
    return {(change.kind, change.what): change for change in source.compare(restore)}


def test_compare_reports_added_changed_removed_and_equal_objects(site, live, saved):
    site.clean()
    restore = site.restore(saved, only=["till", "yard"])
    found = changed(live, restore)
    assert found["table", "added"] == Change("table", "added", 3, 16, ("till.public.named", "till.public.t", "yard.public.t"))
    assert {what for _, what in found} == {"added"}
    live.stage(restore)
    live.swap(restore)
    assert {what for _, what in changed(live, restore)} == {"equal"}
    site.sql(
        "till",
        "UPDATE t SET state = 'later'",
        "DROP TABLE named",
        "CREATE TABLE more AS SELECT 'twelve bytes' AS a",
        "DROP INDEX i",
        "ALTER DATABASE till SET work_mem = '8MB'",
    )
    site.sql("yard", "ALTER TABLE t ADD later int")
    found = changed(live, restore)
    assert found["table", "changed"] == Change("table", "changed", 2, 16, ("till.public.t", "yard.public.t"))
    assert found["table", "added"] == Change("table", "added", 1, 0, ("till.public.named",))
    assert found["table", "removed"] == Change("table", "removed", 1, 13, ("till.public.more",))
    assert found["index", "added"].names == ("till.public.i",)
    assert found["index", "equal"].names == ("yard.public.i",)
    assert found["database", "changed"].names == ("till",)
    assert found["database", "equal"].names == ("yard",)


def test_database_and_table_of_another_database_are_restored_together(site, live, saved):
    for role in ROLES:
        site.sql("postgres", f"CREATE ROLE {role}")
    site.sql("yard", "CREATE TABLE stays AS SELECT 'live' AS state")
    source = site.source(*NAMES, renamed={"till": "till_test"})
    restore = site.restore(saved, only=["till", "yard.public.t"])
    found = changed(source, restore)
    assert found["table", "added"].names == ("till.public.named", "till.public.t")
    assert found["table", "changed"].names == ("yard.public.t",)
    system = site.sql("postgres", "SELECT system_identifier::text FROM pg_control_system()")[0][0]
    assert source.locations(restore) == {("postgres", system, "till_test"), ("postgres", system, "yard")}
    assert list(source.occupied_locations(restore)) == [("postgres", system, "yard", "public.t")]
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    others = numbers(site, *NAMES)
    source.swap(restore)
    assert numbers(site, *NAMES) == others
    assert [site.state(name) for name in ("till_test", *NAMES)] == ["saved", "live", "saved", "live"]
    assert site.sql("yard", "SELECT state FROM stays") == [("live",)]
    source.roll_back(restore)
    source.discard(restore)
    assert site.own_databases() == set(NAMES)
    assert [site.state(name) for name in NAMES] == ["live", "live", "live"]
    in_place = site.restore(saved, only=["till", "yard.public.t"], in_place=True)
    assert "Single tables are not restored in place" in texts(source, in_place, "refusal")
    with pytest.raises(RestoreError, match="Single tables"):
        source.replace(in_place)


def test_preflight_reports_needed_and_free_space_for_a_second_copy(site, live, saved):
    restore = site.restore(saved, only=["till"])
    [space] = live.preflight(restore).second_copy
    assert space.where == "the server of pg"
    assert space.needed > 1 << 20
    assert space.folder == str(site.server.folder)
    assert space.free > 0
    [twice] = site.source(renamed={"till": "x"}).preflight(site.restore(saved, only=["till"])).second_copy
    assert twice.needed == space.needed
    site.sql("postgres", "CREATE ROLE t_user LOGIN PASSWORD 'u'")
    [unseen] = site.source(user="t_user", password="u").preflight(restore).second_copy
    assert (unseen.free, unseen.folder) == (None, None)


@pytest.mark.parametrize("tablespace", ["pg_default", "t_other"])
def test_space_of_a_load_counts_what_the_servers_log_still_grows(site, tablespace):
    site.sql("postgres", "SET allow_in_place_tablespaces = on", "CREATE TABLESPACE t_other LOCATION ''")
    site.sql("postgres", f"CREATE DATABASE till TABLESPACE {tablespace}")
    [target] = targets(site.restore(site.back_up(site.source("till")), only=["till"]), {}, KEPT)
    server = Server(Endpoint("pg", "127.0.0.1", site.server.port, "postgres", site.server.password), [site.server.bin], LOCAL)
    try:
        with server.maintenance() as connection:
            [(most, there)] = connection.execute("SELECT 1 << 30, sum(size)::bigint FROM pg_ls_waldir()").fetchall()
            assert site.sql("postgres", "SHOW max_wal_size") == [("1GB",)]
            assert there < most

            def needed(load):
                return {space.where: space.needed for space in second_copy(server, connection, [(target, load)])}

            assert sum(needed(1 << 40).values()) == (1 << 40) + most - there
            assert sum(needed(there).values()) == there, "files of the log that are there are used again"
            assert "the server of pg" in needed(1 << 40)
    finally:
        site.clean_databases()
        site.sql("postgres", "DROP TABLESPACE t_other")


def test_rollback_refuses_to_move_a_database_that_another_restore_swapped_in(site, live, saved):
    """Two restores to the same empty target: the second swap sets aside the database that the first swap put there."""
    source = site.source("till", renamed={"till": "till_test"})
    first, second = (site.restore(saved, only=["till"]) for _ in range(2))
    for restore in (first, second):
        source.stage(restore)
    for restore in (first, second):
        source.swap(restore)
    number = site.number("till_test")
    with pytest.raises(RestoreError, match="till_test is not the one that was restored"):
        source.roll_back(first)
    source.discard(first)
    assert site.number("till_test") == number
    assert site.state("till_test") == "saved"
    source.roll_back(second)
    source.discard(second)
    source.roll_back(first)
    source.discard(first)
    assert site.own_databases() == set(NAMES)


def test_own_locations_are_the_databases_of_the_plan_or_all_of_the_server(site, live, saved):
    assert {names[2] for names in site.source("till", "gone").own_locations()} == {"till", "gone"}
    site.create("till__stage_00000000")
    owned = {names[2] for names in site.source().own_locations()}
    assert owned >= {*NAMES, "postgres"}
    assert "till__stage_00000000" not in owned
