"""Restores in place: the live collections are dropped and the set's loaded, and the safety set brings them back."""

import itertools
from contextlib import nullcontext

import pytest

from recovery.common.errors import RestoreError, SourceError
from recovery.common.files import empty_folder
from recovery.packs.content_diff import compare
from sandbox.servers import Mongo as MongoServer
from tests.support.kills import MongoKiller, killed_at_tool
from tests.support.local_restore import LocalRestore, back_up, read_dump
from tests.support.mongo_samples import OLD, hard_content, mongo, rows_of, series, state

_names = itertools.count()


@pytest.fixture
def client(mongo_server):
    with mongo_server.client() as client:
        yield client


@pytest.fixture
def db(client):
    name = f"place{next(_names)}"
    yield client[name]
    client[name].command("dropAllUsersFromDatabase")
    client[name].command("dropAllRolesFromDatabase")
    client.drop_database(name)


class InPlace:
    """A restore in place whose two sets, the chosen one and the safety set, share folder and journal."""

    def __init__(self, source, chosen, safety, work, only=()):
        self.source = source
        self.forward, self.back = (
            LocalRestore(folder, work, "0123abcd", only=only, in_place=True, rolling_back=back)
            for folder, back in ((chosen, False), (safety, True))
        )

    def replace(self, restore):
        self.source.replace(restore)
        assert self.source.verify_staged(restore) == []

    def there(self):
        assert not [found.text for found in self.source.preflight(self.forward).findings if found.level == "refusal"]
        self.replace(self.forward)

    def and_back(self):
        self.replace(self.back)
        self.source.finalize(self.back)


def accounts(db):
    users, roles = db.command("usersInfo")["users"], db.command("rolesInfo")["roles"]
    return {entry["user"] for entry in users} | {entry["role"] for entry in roles}


def test_restore_in_place_equals_the_set_and_rollback_equals_the_safety_set(mongo_server, client, db, tmp_path):
    hard_content(client, db.name)
    db.command("createRole", "helper", privileges=[], roles=["read"])
    db.command("createUser", "lost", pwd="its own", roles=["helper"])
    db.command("createUser", "kept", pwd="x", roles=["read"])
    source = mongo(mongo_server, db.name)
    wanted = rows_of(back_up(source, tmp_path / "set"))
    order = list(db.capped.find())
    for name in ("types", "a view on it", "weather", "validated"):
        db.drop_collection(name)
    db.indexed.drop_index("wild")
    db.create_collection("types", viewOn="big", pipeline=[])
    db.weather.insert_one({"_id": "no time series any more"})
    db.create_collection("validated", capped=True, size=4096)
    db.newer.insert_one({"_id": 1})
    series(db, "newer series", 20)
    db.create_collection("newer view", viewOn="newer", pipeline=[])
    db.command("dropUser", "lost")
    db.command("dropRole", "helper")
    db.command("createUser", "newer", pwd="x", roles=["read"])
    before = rows_of(back_up(source, tmp_path / "safety"))
    restore = InPlace(source, tmp_path / "set", tmp_path / "safety", tmp_path / "work")
    restore.there()
    assert accounts(db) == {"lost", "helper", "kept", "newer"}
    with mongo_server.client(username="lost", password="its own", authSource=db.name) as lost:
        assert lost[db.name].indexed.count_documents({}) == 50
    assert [row for row in state(source, tmp_path / "loaded") if row[2].get("ttl") is not None] == []
    source.finalize(restore.forward)
    source.finalize(restore.forward)
    assert compare(wanted, state(source, tmp_path / "there")) == []
    assert list(db.capped.find()) == order
    restore.and_back()
    assert compare(before, state(source, tmp_path / "back")) == []
    assert accounts(db) == {"kept", "newer"}
    assert not [name for name in db.list_collection_names() if name.startswith("__")]
    assert source.replaced_copies() == []


def test_restore_in_place_of_single_collections_keeps_all_other_data(mongo_server, client, db, tmp_path):
    other = client[f"{db.name}b"]
    for where in (db, other):
        where.orders.insert_many([{"_id": n} for n in range(5)])
        where.lines.insert_one({"_id": 1})
        series(where, "weather", 10)
    source = mongo(mongo_server, db.name, other.name)
    wanted = rows_of(back_up(source, tmp_path / "set"))
    for where in (db, other):
        where.orders.drop()
        where.lines.insert_one({"_id": 2})
        where.weather.insert_one({"at": OLD, "where": 9, "t": 9})
    db.newer.insert_one({})
    before = rows_of(back_up(source, tmp_path / "safety"))
    chosen = {f"{db.name}.orders", f"{db.name}.weather"}
    restore = InPlace(source, tmp_path / "set", tmp_path / "safety", tmp_path / "work", sorted(chosen))
    db.lines.insert_one({"_id": "after the safety set"})
    untouched = [row for row in state(source, tmp_path / "untouched") if row[1].partition("[")[0] not in chosen]
    restore.there()
    source.finalize(restore.forward)
    after = state(source, tmp_path / "there")
    assert compare([*untouched, *(row for row in wanted if row[1].partition("[")[0] in chosen)], after) == []
    restore.and_back()
    expected = [*untouched, *(row for row in before if row[1].partition("[")[0] in chosen)]
    assert compare(expected, state(source, tmp_path / "back")) == []
    assert "orders" not in db.list_collection_names(), "it was not there before"
    client.drop_database(other.name)


def test_restore_in_place_and_rollback_keep_a_database_missing_from_the_set(mongo_server, client, db, tmp_path):
    """The safety set has it too, but the restore does not replace it, so the rollback must not either."""
    newer = client[f"{db.name}newer"]
    db.one.insert_one({"_id": 1})
    back_up(mongo(mongo_server, db.name), tmp_path / "set")
    newer.one.insert_one({"_id": 1})
    source = mongo(mongo_server, db.name, newer.name)
    back_up(source, tmp_path / "safety")
    newer.one.insert_one({"_id": "after the safety set"})
    restore = InPlace(source, tmp_path / "set", tmp_path / "safety", tmp_path / "work")
    restore.there()
    restore.and_back()
    assert newer.one.count_documents({}) == 2
    client.drop_database(newer.name)


@pytest.fixture
def changed(mongo_server, db, tmp_path):
    """A source, a set, a safety set of a live database that differs from it in every way, and the rows of both."""
    db.same.insert_many([{"_id": n} for n in range(3)])
    db.same.create_index("at", expireAfterSeconds=3600, name="ttl")
    db.create_collection("kind", viewOn="same", pipeline=[])
    series(db, "weather", 10)
    db.command("createRole", "gone", privileges=[], roles=["read"])
    db.command("createUser", "gone", pwd="x", roles=["gone"])
    source = mongo(mongo_server, db.name)
    wanted = rows_of(back_up(source, tmp_path / "set"))
    db.same.insert_one({"_id": "new"})
    db.kind.drop()
    db.kind.insert_one({"_id": "a collection where the set has a view"})
    db.create_collection("extra view", viewOn="same", pipeline=[])
    series(db, "extra series", 7)
    db.weather.insert_one({"at": OLD, "where": 1, "t": 1})
    db.command("dropUser", "gone")
    db.command("dropRole", "gone")
    before = rows_of(back_up(source, tmp_path / "safety"))
    return InPlace(source, tmp_path / "set", tmp_path / "safety", tmp_path / "work"), wanted, before


def test_restore_in_place_killed_at_any_point_is_repeated_or_rolled_back(changed, db, tmp_path, monkeypatch, stride):
    restore, wanted, before = changed
    killer = MongoKiller(monkeypatch)
    journal = restore.forward._journal
    restore.forward.on_journal = killer.point
    for at in itertools.count(0, stride):
        journal.unlink(missing_ok=True)
        killed = killer.dies(at, lambda: restore.source.replace(restore.forward))
        if at % 4 == 0 or not killed:
            restore.replace(restore.forward)
            restore.source.finalize(restore.forward)
            assert compare(wanted, state(restore.source, tmp_path / f"there{at}")) == []
            assert accounts(db) == {"gone"}
        if restore.forward.recorded_facts("dropping"):
            if at % 2:
                killer.dies(at // 2, lambda: restore.source.replace(restore.back))
            restore.and_back()
        assert compare(before, state(restore.source, tmp_path / f"back{at}")) == [], f"killed before change {at}"
        assert accounts(db) == set()
        if not killed:
            break
    assert at > 8


def test_restore_in_place_drops_nothing_when_the_set_can_not_be_unpacked(changed, tmp_path, monkeypatch):
    restore, _, before = changed

    def damaged(*_):
        raise RestoreError("a pack is damaged", "none")

    monkeypatch.setattr(restore.forward, "unpack", damaged)
    with pytest.raises(RestoreError):
        restore.source.replace(restore.forward)
    assert compare(before, state(restore.source, tmp_path / "after")) == []
    assert restore.forward.recorded_facts("dropping") == []
    with pytest.raises(RestoreError, match="Nothing was replaced"):
        restore.source.replace(restore.back)


def test_preflight_in_place_reports_the_space_that_the_drop_frees(changed, client, db):
    restore, _, _ = changed
    (space,) = restore.source.preflight(restore.forward).second_copy
    assert space.freed >= db.command("collStats", "same")["storageSize"] > 0


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda db: db.same.delete_one({}), "same: count is 2, the set has 3"),
        (lambda db: db.kind.drop(), "kind: is missing"),
        (lambda db: db.extra.insert_one({}), "extra: is there, but not in the set"),
        (lambda db: db.weather.insert_one({"at": OLD, "where": 9}), "weather: count is"),
        (lambda db: db.command("collMod", "same", index={"name": "ttl", "expireAfterSeconds": 9}), "ttl is 9"),
    ],
)
def test_verify_staged_in_place_reports_each_difference_of_the_live_data(changed, db, harm, words):
    restore, _, _ = changed
    restore.there()
    harm(db)
    assert words in "\n".join(map(str, restore.source.verify_staged(restore.forward)))


def test_ttl_of_a_restore_in_place_is_set_only_by_finalize(changed, db):
    restore, _, _ = changed
    restore.there()
    assert "expireAfterSeconds" not in db.same.index_information()["ttl"]
    assert "expireAfterSeconds" not in db.weather.options()
    restore.source.finalize(restore.forward)
    assert db.same.index_information()["ttl"]["expireAfterSeconds"] == 3600
    assert db.weather.options()["expireAfterSeconds"] == 1_700_000_000


def test_preflight_in_place_refuses_collections_that_no_safety_set_has(mongo_server, db, tmp_path):
    """The set is older than the plan, which since then backs up less."""
    db.one.insert_one({})
    db.two.insert_one({})
    back_up(mongo(mongo_server, db.name), tmp_path / "set")
    source = mongo(mongo_server, collections=(f"{db.name}.one",))

    def refusals(**asked):
        found = source.preflight(LocalRestore(tmp_path / "set", tmp_path / "work", **asked)).findings
        return [finding.text for finding in found if finding.level == "refusal"]

    (refusal,) = refusals(in_place=True)
    assert f"so that no safety set has it: {db.name}.two." in refusal
    assert refusals(in_place=True, only=[f"{db.name}.one"]) == []
    assert refusals() == []


def test_restore_in_place_accepts_collection_names_of_the_maximum_length(mongo_server, db, tmp_path):
    db["n" * (255 - len(db.name) - 1)].insert_one({"_id": 1})
    source = mongo(mongo_server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    db["n" * (255 - len(db.name) - 1)].insert_one({"_id": 2})
    InPlace(source, set_folder, set_folder, tmp_path / "work").there()
    assert db["n" * (255 - len(db.name) - 1)].count_documents({}) == 1


def test_restore_in_place_needs_only_the_roles_backup_and_restore(mongo_server, client, changed, db, tmp_path):
    restore, _, before = changed
    client.admin.command("createUser", "in place", pwd="s3cret / x", roles=["backup", "restore"])
    try:
        restore.source = mongo(mongo_server, db.name, login="in place", password="s3cret / x")
        restore.there()
        restore.and_back()
        assert compare(before, state(restore.source, tmp_path / "after")) == []
    finally:
        client.admin.command("dropUser", "in place")


def test_restore_in_place_killed_after_mongorestore_drops_and_loads_again(changed, monkeypatch):
    """A kill in the middle of mongorestore leaves half of it; the next attempt begins with nothing."""
    restore, _, _ = changed
    with killed_at_tool(monkeypatch, "mongorestore", after=True):
        restore.source.replace(restore.forward)
    restore.replace(restore.forward)


@pytest.mark.parametrize("replica_set", [True, False])
def test_safety_set_skips_missing_databases_and_rollback_drops_restored_databases(mongo_server, server_folder, tmp_path, replica_set):
    """A database that the plan names and that is missing is left out and reported; the rollback then drops what was restored."""
    where = mongo_server if replica_set else MongoServer(server_folder / "mongo-disaster", replica_set=False)
    with nullcontext() if replica_set else where, where.client() as client:
        for name in ("disaster", "disaster2"):
            client[name].one.insert_one({"_id": 1})
            client[name].command("createUser", "theirs", pwd="x", roles=["read"])
        source = mongo(where, "disaster", "disaster2")
        wanted = rows_of(back_up(source, tmp_path / "set"))
        for left in (["disaster"], []):
            for name in ("disaster", "disaster2"):
                if name not in left:
                    client.drop_database(name)
                    client[name].command("dropAllUsersFromDatabase")
            with pytest.raises(SourceError, match="does not have disaster"):
                source.dump(empty_folder(tmp_path / "refused"), lambda: None)
            source.damaged = True
            safety = back_up(source, tmp_path / f"safety{len(left)}")
            source.damaged = False
            assert any(text == "disaster2 is not there, and not in this set." for text in read_dump(safety).warnings)
            restore = InPlace(source, tmp_path / "set", safety, tmp_path / f"work{len(left)}")
            restore.there()
            assert compare(wanted, state(source, tmp_path / f"there{len(left)}")) == []
            restore.and_back()
            assert [name for name in client.list_database_names() if name.startswith("disaster")] == left
            assert accounts(client.disaster2) == set()
        client.disaster.command("dropAllUsersFromDatabase")
