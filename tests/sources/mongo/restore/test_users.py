import itertools

import pytest

from recovery.common.errors import RestoreError
from recovery.sources.mongo.restore.load import Target
from tests.support.local_restore import LocalRestore, back_up
from tests.support.mongo_samples import mongo

names = itertools.count()
EVERYTHING = [{"resource": {"anyResource": True}, "actions": ["anyAction"]}]


@pytest.fixture
def db(mongo_server):
    with mongo_server.client() as client:
        name = f"u{next(names)}"
        client[name].things.insert_one({"_id": 1})
        yield client[name]
        client.drop_database(name)
        client[name].command("dropAllUsersFromDatabase")
        client[name].command("dropAllRolesFromDatabase")


@pytest.fixture
def admin(db):
    """Accounts with rights far beyond the database, and some with rights in it only."""
    admin, outside = db.client.admin, db.client["$external"]
    admin.command("createRole", "all", privileges=EVERYTHING, roles=[])
    admin.command("createRole", "through", privileges=[], roles=["all"])
    admin.command("createUser", "boss", pwd="x", roles=["root", {"role": "read", "db": db.name}])
    outside.command("createUser", "CN=a.b,O=c", roles=[{"role": "read", "db": db.name}, {"role": "readAnyDatabase", "db": "admin"}])
    db.command("createUser", "strong", pwd="x", roles=[{"role": "through", "db": "admin"}])
    db.command("createUser", "weak", pwd="x", roles=["dbOwner"])

    def drop():
        for where, name in ((admin, "boss"), (outside, "CN=a.b,O=c"), (db, "strong"), (db, "weak")):
            if where.command("usersInfo", name)["users"]:
                where.command("dropUser", name)
        for name in ("all", "through"):
            if admin.command("rolesInfo", name)["roles"]:
                admin.command("dropRole", name)

    yield admin, drop
    drop()


@pytest.fixture
def staged(mongo_server, db, admin, tmp_path):
    """A restore of the database, whose accounts were dropped since its backup."""
    source = mongo(mongo_server, db.name)
    restore = LocalRestore(back_up(source, tmp_path / "set"), tmp_path / "work")
    admin[1]()
    source.stage(restore)
    assert source.verify_staged(restore) == []
    return source, restore


def test_preflight_names_users_and_roles_that_get_rights_beyond_the_restored_databases_back(staged):
    source, restore = staged
    (words,) = [finding.text for finding in source.preflight(restore).findings if "rights beyond" in finding.text]
    for account in (
        "role admin.all (privileges in all databases or the server)",
        "role admin.through (privileges in all databases or the server)",
        "user $external.CN=a.b,O=c (admin.readAnyDatabase)",
        "user admin.boss (admin.root)",
        ".strong (privileges in all databases or the server)",
    ):
        assert account in words
    assert "weak" not in words


def test_users_and_roles_come_with_the_swap_and_go_with_the_rollback(db, admin, staged):
    source, restore = staged
    wanted = {"admin.all", "admin.through", "admin.boss", "$external.CN=a.b,O=c", f"{db.name}.strong", f"{db.name}.weak"}

    def there():
        return {entry["_id"] for name in ("system.users", "system.roles") for entry in admin[0][name].find()} & wanted

    assert there() == set()
    source.swap(restore)
    assert there() == wanted
    source.roll_back(restore)
    assert there() == set()


def test_swap_with_users_keeps_collections_with_the_names_that_mongorestore_uses(admin, staged):
    source, restore = staged
    for name in ("tempusers", "temproles"):
        admin[0][name].insert_one({"_id": "somebody's own"})
    try:
        source.swap(restore)
        assert [admin[0][name].find_one() for name in ("tempusers", "temproles")] == [{"_id": "somebody's own"}] * 2
    finally:
        for name in ("tempusers", "temproles"):
            admin[0][name].drop()


def test_swap_fails_when_a_user_is_made_with_other_rights(db, staged, monkeypatch):
    source, restore = staged
    load = Target.load

    def load_and_grant(target, folder, *options, **given):
        loaded = load(target, folder, *options, **given)
        db.command("grantRolesToUser", "weak", roles=[{"role": "root", "db": "admin"}])
        return loaded

    monkeypatch.setattr(Target, "load", load_and_grant)
    with pytest.raises(RestoreError, match=rf"did not make user {db.name}\.weak"):
        source.swap(restore)
    source.roll_back(restore)
    assert not db.command("usersInfo", "weak")["users"]
