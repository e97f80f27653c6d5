"""``docs/how-to/rights.md``: its statements, as they stand there, give the rights that are enough, and what it says of the others."""

import json
import os
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import psycopg
import pymongo.errors
import pytest

from recovery.common.errors import SourceError, SourceUnreachable
from recovery.plan.kinds.postgres import SqlQuestion
from sandbox.servers import Postgres
from tests.support.local_restore import LocalRestore, back_up, read_dump
from tests.support.mongo_samples import mongo
from tests.support.postgres_site import Site, contents, texts

PROJECT = Path(__file__).parent.parent
PAGE = (PROJECT / "docs/how-to/rights.md").read_text()
PASSWORD = "a new random one"
SHOP = r"""
    CREATE ROLE shop_owner LOGIN PASSWORD 'o'; CREATE ROLE shop_reports; CREATE DATABASE shop OWNER shop_owner;
    REVOKE CONNECT ON DATABASE shop FROM public;
    \connect shop
    CREATE SCHEMA sales AUTHORIZATION shop_owner; CREATE SCHEMA reports AUTHORIZATION shop_reports;
    GRANT USAGE ON SCHEMA sales TO shop_reports;
    SET ROLE shop_owner;
    CREATE TABLE sales.orders (id serial PRIMARY KEY, tenant text NOT NULL, total numeric CHECK (total > 0));
    INSERT INTO sales.orders (tenant, total) SELECT 'a', n FROM generate_series(1, 100) n;
    ALTER TABLE sales.orders ENABLE ROW LEVEL SECURITY; ALTER TABLE sales.orders FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON sales.orders USING (tenant = current_user);
    GRANT SELECT, REFERENCES ON sales.orders TO shop_reports;
    CREATE FUNCTION sales.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    CREATE TRIGGER stamp BEFORE INSERT ON sales.orders FOR EACH ROW EXECUTE FUNCTION sales.stamp();
    ALTER DEFAULT PRIVILEGES IN SCHEMA sales GRANT SELECT ON TABLES TO shop_reports;
    SELECT lo_from_bytea(4711, 'large');
    CREATE TABLE sales.stock AS SELECT 7 AS n;
    SET ROLE shop_reports;
    CREATE TABLE reports.lines (of int REFERENCES sales.orders (id)); INSERT INTO reports.lines VALUES (1), (2);
    CREATE VIEW reports.sums AS SELECT count(*) FROM sales.orders;
    RESET ROLE;
    CREATE DATABASE shop_foreign;
    \connect shop_foreign
    CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER away FOREIGN DATA WRAPPER nothing;
    CREATE USER MAPPING FOR shop_reports SERVER away OPTIONS (password 'theirs');
"""


def block(name):
    """The statements of a block of the page."""
    (found,) = re.findall(rf"^<!-- {re.escape(name)} -->\n```\w+\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture(scope="module", params=(16, 18))
def site(request, server_folder, tmp_path_factory):
    """A server with a database of two owners, and the roles of the page."""
    with Postgres(server_folder / f"postgres-page-{request.param}", request.param) as server:
        site = Site(server, tmp_path_factory.mktemp(f"page-{request.param}"))
        psql(site, "postgres", SHOP)
        psql(site, "postgres", block("postgres: back up") + block("postgres: restore"))
        objects = block("postgres: large objects")
        psql(site, "shop", objects + objects.replace("recovery_backup", "recovery"))
        yield site


def psql(site, database, script):
    argv = [site.server.bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database]
    server = {"PGHOST": "127.0.0.1", "PGPORT": str(site.server.port), "PGUSER": "postgres", "PGPASSWORD": site.server.password}
    subprocess.run(argv, env={**os.environ, **server}, input=script, text=True, check=True, stdout=subprocess.DEVNULL)


def source(site, user, *databases):
    return site.source(*databases or ("shop",), user=user, password=PASSWORD)


def test_postgres_role_for_backups_saves_what_a_superuser_saves_except_options_of_user_mappings(site):
    few, all_of_it = (
        site.back_up(site.source("shop", "shop_foreign", **who)) for who in ({"user": "recovery_backup", "password": PASSWORD}, {})
    )
    assert list(read_dump(few).warnings) == [
        "shop_foreign: the options of its 1 user mappings are not saved; only a superuser can read them."
    ]
    assert (few / "dump/globals/globals.sql").read_text().count("PASSWORD 'SCRAM-SHA-256$") == 4
    for name in ("shop", "shop_foreign", "globals"):
        found, expected = (contents(each, name) for each in (few, all_of_it))
        assert found.keys() == expected.keys()
        assert {key[0] for key in found if found[key] != expected[key]} <= {"snapshot", "user mapping", "text"}
    few, all_of_it = ((each / "dump/globals/globals.sql").read_text() for each in (few, all_of_it))
    assert re.sub(r"^\\.*", "", few, flags=re.MULTILINE) == re.sub(r"^\\.*", "", all_of_it, flags=re.MULTILINE)


def test_postgres_role_for_backups_can_change_nothing(site):
    for statement in (
        "INSERT INTO reports.lines VALUES (3)",
        "DELETE FROM sales.orders",
        "CREATE TABLE sales.mine ()",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "ALTER ROLE recovery_backup SUPERUSER",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_catalog.pg_read_file('/etc/passwd')",
        "SELECT lo_unlink(4711)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            site.sql("shop", statement, user="recovery_backup", password=PASSWORD)
    assert site.sql(
        "shop", "SELECT count(*) FROM pg_authid WHERE rolpassword LIKE 'SCRAM%'", user="recovery_backup", password=PASSWORD
    ) == [(4,)]


def test_preflight_refuses_a_restore_with_the_postgres_role_for_backups(site):
    restore = site.restore(site.back_up(source(site, "recovery_backup")))
    refusals = texts(source(site, "recovery_backup"), restore, "refusal")
    for right in ("CREATEDB", "CREATEROLE", "pg_signal_backend", "GRANT shop_owner TO", "GRANT shop_reports TO"):
        assert right in refusals


@pytest.mark.parametrize("in_place", [False, True], ids=["swap", "in place"])
def test_postgres_role_for_restores_is_enough(site, in_place):
    lines = "SELECT count(*) FROM reports.lines"
    one = source(site, "recovery")
    saved = site.back_up(one)
    site.sql("shop", "DELETE FROM reports.lines WHERE of = 2")
    restore = site.restore(saved, in_place=in_place)
    assert texts(one, restore, "refusal") == ""
    if in_place:
        one.replace(restore)
    else:
        one.stage(restore)
    assert one.verify_staged(restore) == []
    if in_place:
        one.let_in(restore)
    else:
        one.swap(restore)
        assert site.sql("shop", lines) == [(2,)]
        one.roll_back(restore)
        assert site.sql("shop", lines) == [(1,)]
        one.swap(restore)
        one.finalize(restore)
        one.discard(restore)
        one.drop_replaced(restore)
    assert site.sql("shop", lines) == [(2,)]
    assert site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery\\_load%'") == []
    again = contents(site.back_up(one), "shop")
    assert {key for key, facts in contents(saved, "shop").items() if key[0] != "snapshot" and again.get(key) != facts} == set()


@pytest.mark.parametrize(
    ("take", "give", "said"),
    [
        ("ALTER ROLE recovery NOCREATEDB", "ALTER ROLE recovery CREATEDB", "ALTER ROLE recovery CREATEDB"),
        ("ALTER ROLE recovery NOCREATEROLE", "ALTER ROLE recovery CREATEROLE", "ALTER ROLE recovery CREATEROLE"),
        ("REVOKE pg_signal_backend FROM recovery", "GRANT pg_signal_backend TO recovery", "GRANT pg_signal_backend TO recovery"),
        ("REVOKE shop_owner FROM recovery", "GRANT shop_owner TO recovery", "GRANT shop_owner TO recovery"),
        ("REVOKE shop_reports FROM recovery", "GRANT shop_reports TO recovery", "GRANT shop_reports TO recovery"),
    ],
)
def test_preflight_names_each_right_that_the_postgres_role_for_restores_lacks(site, take, give, said):
    restore = site.restore(site.back_up(source(site, "recovery")))
    site.sql("postgres", take)
    try:
        assert said in texts(source(site, "recovery"), restore, "refusal")
    finally:
        site.sql("postgres", give)


def test_backup_fails_or_warns_without_the_other_rights_of_the_postgres_role_for_restores(site):
    site.sql("postgres", "ALTER ROLE recovery NOBYPASSRLS")
    with pytest.raises(SourceError, match=r"sales\.orders \(row security hides rows\)"):
        site.back_up(source(site, "recovery"))
    site.sql("postgres", "ALTER ROLE recovery BYPASSRLS", "REVOKE pg_read_all_data FROM recovery")
    assert any("passwords are not saved" in warning for warning in read_dump(site.back_up(source(site, "recovery"))).warnings)
    site.sql(
        "postgres", "GRANT pg_read_all_data TO recovery", "REVOKE CONNECT ON DATABASE shop FROM recovery", "REVOKE shop_owner FROM recovery"
    )
    with pytest.raises(SourceUnreachable, match="permission denied for database"):
        site.back_up(source(site, "recovery"))
    site.sql("postgres", "GRANT CONNECT ON DATABASE shop TO recovery", "GRANT shop_owner TO recovery")


def test_checks_with_sql_need_the_admin_option_on_the_owner(site):
    question = SqlQuestion(source="postgres.main", database="shop", query="SELECT max(n) FROM sales.stock", equals=7)
    at_most = timedelta(seconds=20)
    for user in ("recovery_backup", "recovery"):
        with pytest.raises(SourceError) as refused:
            source(site, user).answer(question, at_most)
        assert "GRANT shop_owner TO" in refused.value.next_step
    psql(site, "postgres", block("postgres: checks and hooks"))
    try:
        assert source(site, "recovery").answer(question, at_most) == 7
    finally:
        site.sql("postgres", "REVOKE ADMIN OPTION FOR shop_owner FROM recovery")


@pytest.fixture
def of_single_tables(site):
    psql(site, "postgres", block("postgres: single tables"))
    yield
    site.sql("postgres", "REVOKE ADMIN OPTION FOR shop_owner, shop_reports FROM recovery")


def test_restore_of_a_single_table_needs_few_more_rights(site, of_single_tables):
    one = source(site, "recovery")
    restore = site.restore(site.back_up(one), only=["shop.reports.lines"])
    site.sql("shop", "DELETE FROM reports.lines WHERE of = 2")
    assert texts(one, restore, "refusal") == ""
    one.stage(restore)
    assert one.verify_staged(restore) == []
    for step in (one.swap, one.finalize, one.discard, one.drop_replaced):
        step(restore)
    assert site.sql("shop", "SELECT count(*) FROM reports.lines") == [(2,)]
    assert site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery\\_load%'") == []


def test_preflight_names_the_right_that_a_restore_of_a_single_table_lacks(site):
    restore = site.restore(site.back_up(source(site, "recovery")), only=["shop.reports.lines"])
    assert "GRANT shop_reports TO recovery WITH ADMIN OPTION" in texts(source(site, "recovery"), restore, "refusal")


def test_postgres_role_for_restores_cannot_get_the_rights_of_a_superuser(site):
    for statement in (
        "ALTER ROLE recovery SUPERUSER",
        "CREATE ROLE mine SUPERUSER",
        "ALTER ROLE postgres PASSWORD 'mine'",
        "GRANT postgres TO recovery",
        "GRANT pg_execute_server_program TO recovery",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_catalog.pg_read_file('/etc/passwd')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            site.sql("shop", statement, user="recovery", password=PASSWORD)


@pytest.fixture
def account(mongo_server):
    """Makes the user of a block of the page; their login."""
    made = []
    with mongo_server.client() as client:

        def make(name):
            user, password, roles = re.search(r'user: "(\w+)", pwd: "([\w ]+)", roles: (\[.*?\])', block(name)).groups()
            client.admin.command("createUser", user, pwd=password, roles=json.loads(roles))
            made.append(user)
            return {"login": user, "password": password}

        yield make
        for user in made:
            client.admin.command("dropUser", user)
        client.drop_database("rights")


@pytest.fixture
def documents(mongo_server, account):
    with mongo_server.client() as client:
        client.rights.plain.insert_many([{"_id": n} for n in range(10)])
        client.rights.command("createUser", "theirs", pwd="x", roles=["read"])
        yield client.rights
        client.rights.command("dropAllUsersFromDatabase")


def test_mongo_user_for_backups_saves_data_and_users_and_can_change_nothing(mongo_server, documents, account, tmp_path, caplog):
    login = account("mongo: back up")
    set_folder = back_up(mongo(mongo_server, "rights", **login), tmp_path / "set")
    assert not read_dump(set_folder).warnings
    assert "whether staging has room for the dump can't be told" in caplog.text
    assert contents(set_folder, "documents").keys() >= {("collection", "rights.plain"), ("user", "rights.theirs")}
    with mongo_server.client(username=login["login"], password=login["password"]) as client:
        for change in (
            lambda: client.rights.plain.insert_one({}),
            lambda: client.rights.plain.drop(),
            lambda: client.rights.command("createUser", "mine", pwd="x", roles=["read"]),
            lambda: client.admin.command("grantRolesToUser", login["login"], roles=["root"]),
        ):
            with pytest.raises(pymongo.errors.OperationFailure, match="not authorized"):
                change()
    with mongo_server.client() as client:
        client.admin.command("grantRolesToUser", login["login"], roles=["clusterMonitor"])
    caplog.clear()
    back_up(mongo(mongo_server, "rights", **login), tmp_path / "again")
    assert "staging has room" not in caplog.text


def test_mongo_user_for_restores_is_enough_and_can_become_root(mongo_server, documents, account, tmp_path):
    login = account("mongo: restore")
    source = mongo(mongo_server, "rights", **login)
    set_folder = back_up(source, tmp_path / "set")
    documents.plain.delete_many({})
    documents.command("dropUser", "theirs")
    restore = LocalRestore(set_folder, tmp_path / "work")
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    source.finalize(restore)
    source.discard(restore)
    source.drop_replaced(restore)
    assert documents.plain.count_documents({}) == 10
    assert documents.command("usersInfo", "theirs")["users"]
    with mongo_server.client(username=login["login"], password=login["password"]) as client:
        client.admin.command("grantRolesToUser", login["login"], roles=["root"])


ACTIONS = {
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "complete_multipart_upload": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "delete_objects": "s3:DeleteObject",
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "list_objects_v2": "s3:ListBucket",
    "put_object": "s3:PutObject",
    "upload_part": "s3:PutObject",
}
"""What Amazon's documentation says that each call needs."""


def test_s3_policy_allows_what_the_code_calls_and_no_more():
    code = "".join(path.read_text() for path in (PROJECT / "include/recovery/destinations").glob("s3*.py"))
    called = set(re.findall(r"\b_?client\.(?!get_paginator)(\w+)\(|get_paginator\(\"(\w+)\"\)", code))
    bucket, objects = json.loads(block("s3"))["Statement"]
    assert {one or other for one, other in called} == set(ACTIONS)
    assert {*bucket["Action"], *objects["Action"]} == set(ACTIONS.values())
    assert all("List" in action for action in bucket["Action"])
    assert not any("List" in action for action in objects["Action"])
    assert (bucket["Resource"], objects["Resource"]) == ("arn:aws:s3:::backups", "arn:aws:s3:::backups/prod/*")
