import dataclasses
import datetime
import itertools
import json
import shutil
import subprocess
import time

import bson
import pytest

from recovery.common.errors import RecoveryError, RestoreError, VerificationError
from recovery.packs.content_diff import compare
from recovery.packs.content_index import read_rows
from recovery.plan.kinds.mongo import MongoSettings
from recovery.runners.local import LOCAL
from recovery.sources.mongo import catalog
from recovery.sources.mongo.client import ClientTools
from recovery.sources.mongo.restore import timeseries
from recovery.sources.mongo.restore.load import mongorestore
from recovery.sources.mongo.source import Mongo
from sandbox.servers import Mongo as MongoServer
from tests.support.kills import Killed, MongoKiller, killed_at_tool
from tests.support.local_restore import LocalRestore, back_up
from tests.support.mongo_samples import OLD, TOOLS, endpoint, hard_content, mongo, series, state

names = itertools.count()


@pytest.fixture(scope="module")
def server(server_folder):
    """A replica set whose TTL monitor runs every second."""
    options = ["--setParameter", "ttlMonitorSleepSecs=1"]
    with MongoServer(server_folder / "mongo-restore", options=options) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture
def db(client):
    name = f"r{next(names)}"
    yield client[name]
    client.drop_database(name)


def contents(folder):
    return list(read_rows(folder / "documents.contents.jsonl"))


def begun(source, set_folder, work):
    restore = LocalRestore(set_folder, work)
    source.stage(restore)
    assert source.verify_staged(restore) == []
    return restore


# There and back -------------------------------------------------------------------------------------------------------


def test_restore_after_changes_and_drops_equals_the_set_and_keeps_replaced_data(server, client, db, tmp_path):
    hard_content(client, db.name)
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    order = list(db.capped.find())
    db.types.delete_many({})
    db.indexed.drop_index("wild")
    db.weather.drop()
    db.top.drop()
    db.unknown.insert_one({})
    restore = LocalRestore(set_folder, tmp_path / "work")
    found = source.preflight(restore)
    assert not [finding for finding in found.findings if finding.level == "refusal"]
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    source.finalize(restore)
    source.discard(restore)
    assert compare(contents(set_folder), state(source, tmp_path / "again")) == []
    assert list(db.capped.find()) == order
    assert db["a view on it"].count_documents({}) == 39
    assert source.replaced_copies() == [restore.id]
    assert db[f"__before_{restore.id}_unknown"].count_documents({}) == 1
    source.drop_replaced(restore)
    assert source.replaced_copies() == []
    assert not [name for name in db.list_collection_names() if name.startswith("__")]


@pytest.mark.parametrize("in_place", [False, True])
def test_restore_of_definitions_that_look_like_extended_json_equals_the_set(server, db, tmp_path, in_place):
    odd = {"a": {"$ne": {"$oid": "no id"}}}
    db.command("create", "one", validator=odd)
    db.command("create", "legacy", autoIndexId=True)
    db.one.create_index("a", partialFilterExpression={"a": {"$eq": {"$numberInt": "5"}}})
    look_alike = [{"$addFields": {"x": {"$literal": {"$date": "tomorrow"}}}}]
    db.create_collection("view", viewOn="one", pipeline=look_alike)
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    db.command("collMod", "view", viewOn="one", pipeline=[])
    db.command("collMod", "one", validator={})
    restore = LocalRestore(set_folder, tmp_path / "work", in_place=in_place)
    if in_place:
        source.replace(restore)
        assert source.verify_staged(restore) == []
    else:
        source.swap(begun(source, set_folder, tmp_path / "work"))
    options = {entry["name"]: entry["options"] for entry in db.list_collections()}
    assert (options["one"]["validator"], options["view"]["pipeline"]) == (odd, look_alike)
    assert options["legacy"] == {"autoIndexId": True}


def test_rollback_returns_a_view_that_looks_like_extended_json(server, db, tmp_path):
    db.one.insert_one({})
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    look_alike = [{"$addFields": {"x": {"$literal": {"$oid": "no id"}}}}]
    db.create_collection("view", viewOn="one", pipeline=look_alike)
    restore = begun(source, set_folder, tmp_path / "work")
    source.swap(restore)
    assert "view" not in db.list_collection_names()
    source.roll_back(restore)
    assert [entry["options"]["pipeline"] for entry in db.list_collections(filter={"name": "view"})] == [look_alike]


def test_restore_creates_a_missing_database(server, client, db, tmp_path):
    db.one.insert_many([{"_id": n} for n in range(5)])
    series(db, "weather", 20)
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    client.drop_database(db.name)
    restore = LocalRestore(set_folder, tmp_path / "work")
    found = source.preflight(restore)
    assert any("is not there" in finding.text for finding in found.findings)
    assert not [finding for finding in found.findings if finding.level == "refusal"]
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    source.finalize(restore)
    source.discard(restore)
    assert compare(contents(set_folder), state(source, tmp_path / "again")) == []
    assert source.replaced_copies() == []


def test_restore_and_rollback_of_a_standalone_server_are_exact(server_folder, tmp_path):
    with MongoServer(server_folder / "mongo-alone", replica_set=False) as alone, alone.client() as client:
        hard_content(client, "hard")
        source = mongo(alone, "hard")
        set_folder = back_up(source, tmp_path / "set")
        client.hard.types.drop()
        client.hard.new.insert_one({})
        before = state(source, tmp_path / "before")
        restore = LocalRestore(set_folder, tmp_path / "work")
        assert not [finding for finding in source.preflight(restore).findings if finding.level == "refusal"]
        source.stage(restore)
        assert source.verify_staged(restore) == []
        source.swap(restore)
        source.roll_back(restore)
        assert compare(before, state(source, tmp_path / "back")) == []
        source.discard(restore)
        source.swap(restore := begun(source, set_folder, tmp_path / "work2"))
        source.finalize(restore)
        source.finalize(restore)
        assert compare(contents(set_folder), state(source, tmp_path / "again")) == []


def test_finalize_skips_a_collection_dropped_after_the_swap(server, db, tmp_path):
    for name in ("tokens", "more"):
        db[name].create_index("at", expireAfterSeconds=60, name="ttl")
    source = mongo(server, db.name)
    restore = begun(source, back_up(source, tmp_path / "set"), tmp_path / "work")
    source.swap(restore)
    db.tokens.drop()
    source.finalize(restore)
    assert db.more.index_information()["ttl"]["expireAfterSeconds"] == 60


def shuffled(row):
    """A row of an index without the order of its options' fields, which mongorestore loses."""
    kind, name, facts = row
    return (kind, name, facts | {"definition": json.dumps(json.loads(facts["definition"]), sort_keys=True)}) if kind == "index" else row


def test_artifact_is_restorable_with_stock_mongorestore(server, client, db, server_folder, tmp_path):
    hard_content(client, db.name)
    db.command("createUser", "theirs", pwd="secret", roles=["readWrite"])
    set_folder = back_up(mongo(server), tmp_path / "set")
    db.command("dropUser", "theirs")
    LocalRestore(set_folder, tmp_path / "work").unpack("documents", tmp_path / "work")
    with MongoServer(server_folder / "mongo-other", replica_set=False) as other:
        config = tmp_path / "config"
        config.write_text(f"password: {json.dumps(other.password)}\n")
        argv = [
            TOOLS[0] / "mongorestore",
            f"--config={config}",
            f"--port={other.port}",
            "--username=root",
            "--authenticationDatabase=admin",
        ]
        subprocess.run([*argv, f"--dir={tmp_path / 'work'}", "--bypassDocumentValidation", "--stopOnError", "--quiet"], check=True)
        with other.client(username="theirs", password="secret", authSource=db.name) as theirs:
            assert theirs[db.name].types.count_documents({}) == 10
        there = state(mongo(other, db.name), tmp_path / "there")
    wanted = [row for row in contents(set_folder) if row[0] not in {"user", "role"} and row[1].partition(".")[0] == db.name]
    assert compare(map(shuffled, wanted), map(shuffled, there)) == []


def test_restore_of_a_source_of_one_collection_keeps_other_collections(server, db, tmp_path):
    for name in ("one", "two"):
        db[name].insert_one({"_id": 1})
    source = mongo(server, collections=(f"{db.name}.one",))
    restore = begun(source, back_up(source, tmp_path / "set"), tmp_path / "work")
    for name in ("one", "two", "three"):
        db[name].insert_one({"_id": 2})
    source.swap(restore)
    assert {name: db[name].count_documents({}) for name in ("one", "two", "three")} == {"one": 1, "two": 2, "three": 1}


def test_restore_needs_only_the_roles_backup_and_restore(server, client, db, tmp_path):
    hard_content(client, db.name)
    db.command("createUser", "needed", pwd="x", roles=["readWrite"])
    client.admin.command("createUser", "restorer", pwd="s3cret / x", roles=["backup", "restore"])
    source = mongo(server, db.name, login="restorer", password="s3cret / x")
    try:
        set_folder = back_up(source, tmp_path / "set")
        db.command("dropUser", "needed")
        restore = LocalRestore(set_folder, tmp_path / "work")
        assert not [finding for finding in source.preflight(restore).findings if finding.level == "refusal"]
        source.stage(restore)
        assert source.verify_staged(restore) == []
        source.swap(restore)
        source.roll_back(restore)
        source.swap(restore := begun(source, set_folder, tmp_path / "work2"))
        source.finalize(restore)
        source.discard(restore)
        assert source.replaced_copies() == [restore.id]
        source.drop_replaced(restore)
    finally:
        client.admin.command("dropUser", "restorer")
    assert compare([row for row in contents(set_folder) if row[0] != "user"], state(mongo(server, db.name), tmp_path / "again")) == []


# Users and roles ------------------------------------------------------------------------------------------------------


def test_swap_creates_only_missing_users_and_rollback_drops_the_created_users(server, client, db, tmp_path):
    db.one.insert_one({})
    db.command("createRole", "helper", privileges=[], roles=["read"])
    db.command("createUser", "lost", pwd="old one", roles=["helper"])
    db.command("createUser", "kept", pwd="old one", roles=["helper"])
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    db.command("dropUser", "lost")
    db.command("dropRole", "helper")
    db.command("updateUser", "kept", pwd="new one", roles=["readWrite"])
    restore = LocalRestore(set_folder, tmp_path / "work")
    texts = [finding.text for finding in source.preflight(restore).findings]
    assert any("Made at the swap" in text and "lost" in text and "helper" in text and "kept" not in text for text in texts)
    assert any("stay as they are" in text and "kept" in text and "lost" not in text for text in texts)
    source.stage(restore)
    source.swap(restore)
    with server.client(username="lost", password="old one", authSource=db.name) as lost:
        assert lost[db.name].one.count_documents({}) == 1
    with server.client(username="kept", password="new one", authSource=db.name) as kept:
        kept[db.name].one.insert_one({})
    source.roll_back(restore)
    assert {user["user"] for user in db.command("usersInfo")["users"]} == {"kept"}
    assert db.command("rolesInfo")["roles"] == []
    db.command("dropUser", "kept")


def test_artifact_users_of_named_database_are_restorable_with_stock_mongorestore(server, db, tmp_path):
    db.one.insert_one({})
    db.command("createRole", "helper", privileges=[], roles=["read"])
    db.command("createUser", "theirs", pwd="secret", roles=["helper"])
    set_folder = back_up(mongo(server, db.name), tmp_path / "set")
    db.command("dropUser", "theirs")
    db.command("dropRole", "helper")
    db.one.drop()
    LocalRestore(set_folder, tmp_path / "work").unpack("documents", tmp_path / "work")
    config = tmp_path / "config"
    config.write_text(f"password: {json.dumps(server.password)}\n")
    argv = [TOOLS[0] / "mongorestore", f"--config={config}", f"--port={server.port}", "--username=root", "--authenticationDatabase=admin"]
    argv += [f"--db={db.name}", "--restoreDbUsersAndRoles", f"--dir={tmp_path / 'work' / db.name}", "--quiet"]
    subprocess.run(argv, check=True)
    with server.client(username="theirs", password="secret", authSource=db.name) as theirs:
        assert theirs[db.name].one.count_documents({}) == 1
    db.command("dropUser", "theirs")


# TTL ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def expired(client, db):
    """Collections whose documents the server would delete within a second, if it were not told to wait."""
    client.admin.command("setParameter", 1, ttlMonitorEnabled=False)
    db.tokens.insert_many([{"_id": n, "at": OLD} for n in range(50)])
    db.tokens.create_index("at", expireAfterSeconds=60, name="expiry")
    db.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True}, expireAfterSeconds=60)
    db.clustered.insert_many([{"_id": OLD + datetime.timedelta(days=n)} for n in range(5)])
    series(db, "weather", 30, datetime.datetime(2020, 1, 1))
    db.command("collMod", "weather", expireAfterSeconds=60)
    yield {"tokens": 50, "clustered": 5, "weather": 30}
    client.admin.command("setParameter", 1, ttlMonitorEnabled=True)


def passes(client, count=2):
    """Let the TTL monitor run."""
    client.admin.command("setParameter", 1, ttlMonitorEnabled=True)

    def done():
        return client.admin.command("serverStatus")["metrics"]["ttl"]["passes"]

    goal = done() + count
    while done() < goal:
        time.sleep(0.1)


def counts(db, prefix=""):
    return {name: db[prefix + name].count_documents({}) for name in ("tokens", "clustered", "weather")}


def test_ttl_deletes_no_restored_documents_before_finalize(server, client, db, expired, tmp_path):
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    client.drop_database(db.name)
    restore = LocalRestore(set_folder, tmp_path / "work")
    source.stage(restore)
    passes(client)
    assert counts(db, f"__stage_{restore.id}_") == expired
    assert source.verify_staged(restore) == []
    source.swap(restore)
    passes(client)
    assert counts(db) == expired
    source.finalize(restore)
    passes(client)
    assert counts(db) == {"tokens": 0, "clustered": 0, "weather": 0}
    again = {(kind, name): facts for kind, name, facts in state(source, tmp_path / "again")}
    assert again["index", f"{db.name}.tokens[expiry]"]["ttl"] == "60"
    assert again["collection", f"{db.name}.clustered"]["ttl"] == "60"
    assert again["collection", f"{db.name}.weather"]["ttl"] == "60"


def test_ttl_is_off_for_replaced_data_and_on_again_after_rollback(server, client, db, expired, tmp_path):
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    restore = begun(source, set_folder, tmp_path / "work")
    source.swap(restore)
    passes(client)
    assert db[f"__before_{restore.id}_tokens"].count_documents({}) == 50
    assert db[f"__before_{restore.id}_clustered"].count_documents({}) == 5
    client.admin.command("setParameter", 1, ttlMonitorEnabled=False)
    source.roll_back(restore)
    assert counts(db) == expired
    assert compare(contents(set_folder), state(source, tmp_path / "again")) == []
    passes(client)
    assert counts(db) == {"tokens": 0, "clustered": 0, "weather": 0}


def test_rollback_goes_on_without_a_ttl_index_dropped_since_the_swap(server, db, tmp_path):
    db.some.insert_one({"_id": 1, "at": OLD})
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    for name in ("first", "second"):
        db[name].create_index("at", expireAfterSeconds=1_700_000_000)
    restore = begun(source, set_folder, tmp_path / "work")
    source.swap(restore)
    db[f"__before_{restore.id}_first"].drop_indexes()
    source.roll_back(restore)
    assert "at_1" not in db.first.index_information()
    assert db.second.index_information()["at_1"]["expireAfterSeconds"] == 1_700_000_000


def test_ttl_stays_off_for_replaced_data_after_finalize(server, client, db, expired, tmp_path):
    source = mongo(server, db.name)
    restore = begun(source, back_up(source, tmp_path / "set"), tmp_path / "work")
    source.swap(restore)
    source.finalize(restore)
    passes(client)
    assert counts(db, f"__before_{restore.id}_") == expired


# Kills ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def changed(server, client, db, tmp_path):
    """A set, and a live database that differs from it in every way."""
    db.same.insert_many([{"_id": n} for n in range(3)])
    db.same.create_index("_id")
    db.same.create_index("at", expireAfterSeconds=3600, name="ttl")
    db.lost.insert_one({"_id": "only in the set"})
    db.create_collection("kind", viewOn="same", pipeline=[])
    db.create_collection("view", viewOn="same", pipeline=[{"$match": {"a": 1}}])
    series(db, "weather", 10)
    db.command("createUser", "gone", pwd="x", roles=["read"])
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    db.same.insert_one({"_id": "new"})
    db.lost.drop()
    db.kind.drop()
    db.kind.insert_one({"_id": "a collection where the set has a view"})
    db.view.drop()
    db.create_collection("view", viewOn="same", pipeline=[{"$match": {"a": 2}}])
    db.create_collection("extra view", viewOn="view", pipeline=[])
    db.extra.insert_one({"_id": "not in the set"})
    series(db, "extra series", 7)
    db.weather.insert_one({"at": OLD, "where": 1, "t": 1})
    db.command("dropUser", "gone")
    return source, set_folder


def test_swap_killed_at_any_point_is_resumed_or_rolled_back(server, db, changed, tmp_path, monkeypatch, stride):
    source, set_folder = changed
    wanted = [row for row in contents(set_folder) if row[0] not in {"user", "role"}]
    before = state(source, tmp_path / "before")
    killer = MongoKiller(monkeypatch)
    at = 0
    while True:
        restore = LocalRestore(set_folder, tmp_path / f"work{at}")
        source.stage(restore)
        restore.on_journal = killer.point
        killed = killer.dies(at, lambda: source.swap(restore))  # noqa: B023 - called at once
        if at % 3 == 0:
            source.swap(restore)
            source.finalize(restore)
            assert compare(wanted, state(source, tmp_path / f"after{at}")) == []
            db.command("usersInfo", "gone")["users"][0]
        for again in range(100):
            if not killer.dies(at // 2 + 5 * again, lambda: source.roll_back(restore)):  # noqa: B023
                break
        source.discard(restore)
        assert compare(before, state(source, tmp_path / f"back{at}")) == [], f"killed before change {at}"
        assert db.command("usersInfo")["users"] == []
        source.drop_replaced(restore)
        if not killed:
            break
        at += stride
    assert at > 20


def test_stage_killed_at_any_point_starts_over(server, db, changed, tmp_path, monkeypatch):
    source, set_folder = changed
    killer = MongoKiller(monkeypatch)
    restore = LocalRestore(set_folder, tmp_path / "work")
    for at in itertools.count():
        if not killer.dies(at, lambda: source.stage(restore)):
            break
    assert at > 2
    assert source.verify_staged(restore) == []
    before = {name for name in db.list_collection_names() if not name.startswith("__stage") and not name.startswith("system.")}
    source.discard(restore)
    assert {name for name in db.list_collection_names() if not name.startswith("system.")} == before


@pytest.mark.parametrize("times", [1, 10])
def test_swap_loses_no_write_to_a_time_series_made_after_it_was_saved(server, db, tmp_path, times):
    series(db, "weather", 50)
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    restore = begun(source, set_folder, tmp_path / "work")
    late = []

    def write(step, facts):
        if step == timeseries.SAVED and len(late) < times:
            late.append(step)
            db.weather.insert_one({"at": OLD + datetime.timedelta(days=9000), "where": 7})

    restore.after_journal = write
    if times == 1:
        source.swap(restore)
        assert db.weather.count_documents({"where": 7}) == 0
    else:
        with pytest.raises(RestoreError, match=rf"still writes to the time series {db.name}\.weather"):
            source.swap(restore)
    source.roll_back(restore)
    assert db.weather.count_documents({"where": 7}) == len(late) > 0


def test_rollback_goes_on_whatever_is_in_its_way(server, db, tmp_path):
    """Somebody who shares the server makes collections under the names that the rollback needs."""
    longest = "n" * (255 - len(db.name) - 1 - 20)
    for name in ("some", longest):
        db[name].insert_one({"_id": "live"})
    source = mongo(server, db.name)
    restore = begun(source, back_up(source, tmp_path / "set"), tmp_path / "work")
    for name in ("some", longest):
        db[name].insert_one({"_id": "newer"})
    source.swap(restore)
    db.some.rename("away")
    for name in ("some", f"__replaced_{restore.id}_some", f"__stage_{restore.id}_{longest}"):
        db[name].insert_one({"_id": "in the way"})
    source.roll_back(restore)
    assert {document["_id"] for name in ("some", longest) for document in db[name].find()} == {"live", "newer"}
    kept = [name for name in db.list_collection_names() if name.startswith(f"__replaced_{restore.id}_")]
    assert [db[name].find_one()["_id"] for name in kept] == ["in the way"] * 3


@pytest.mark.parametrize("kind", ["view", "timeseries"])
def test_rollback_drops_a_view_and_names_a_time_series_in_its_way(server, db, tmp_path, kind):
    db.some.insert_one({"_id": "live"})
    source = mongo(server, db.name)
    restore = begun(source, back_up(source, tmp_path / "set"), tmp_path / "work")
    source.swap(restore)
    db.some.rename("away")
    db.create_collection("some", **({"viewOn": "away"} if kind == "view" else {"timeseries": {"timeField": "at"}}))
    if kind == "timeseries":
        with pytest.raises(RestoreError, match=rf"time series {db.name}\.some was made since the swap"):
            source.roll_back(restore)
        db.some.drop()
    source.roll_back(restore)
    assert db.some.find_one() == {"_id": "live"}
    assert db.list_collections(filter={"name": "some"}).next()["type"] == "collection"


def test_rollback_keeps_rejected_time_series_with_writes_after_the_swap(server, db, tmp_path):
    for name in ("weather", "quiet"):
        series(db, name, 10)
    source = mongo(server, db.name)
    restore = begun(source, back_up(source, tmp_path / "set"), tmp_path / "work")
    source.swap(restore)
    db.weather.insert_one({"at": OLD, "where": "written after the swap"})
    source.roll_back(restore)
    source.discard(restore)
    assert {name: db[name].count_documents({}) for name in ("weather", "quiet")} == {"weather": 10, "quiet": 10}
    kept = db[f"__replaced_{restore.id}_weather"]
    assert kept.count_documents({}) == 11
    assert kept.count_documents({"where": "written after the swap"}) == 1
    assert f"__replaced_{restore.id}_quiet" not in db.list_collection_names()
    source.drop_replaced(restore)
    assert not [name for name in db.list_collection_names() if name.startswith("__")]


@pytest.mark.parametrize("killed", [False, True])
def test_swap_keeps_a_collection_created_meanwhile_under_the_name_of_a_time_series(server, db, tmp_path, monkeypatch, killed):
    series(db, "weather", 10)
    source = mongo(server, db.name)
    restore = begun(source, back_up(source, tmp_path / "set"), tmp_path / "work")
    if killed:
        with killed_at_tool(monkeypatch, "mongorestore"):
            source.swap(restore)
        db.weather.insert_one({"who": "somebody"})
    else:
        bring = timeseries.bring

        def late(target, *arguments):
            db.weather.insert_one({"who": "somebody"})
            bring(target, *arguments)

        monkeypatch.setattr(timeseries, "bring", late)
    with pytest.raises(RestoreError, match="weather was created while its location was empty"):
        source.swap(restore)
    assert [found["who"] for found in db.weather.find()] == ["somebody"]
    with pytest.raises(RestoreError, match="weather was created while its location was empty"):
        source.roll_back(restore)
    db.weather.rename("theirs")
    source.roll_back(restore)
    assert db.weather.count_documents({}) == 10
    assert db.theirs.count_documents({}) == 1


def test_preflight_estimates_space_for_staged_data_from_database_compression(server, client, db, tmp_path):
    db.one.insert_many([{"_id": n} for n in range(1000)])
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    size = next(facts["bytes"] for kind, _, facts in contents(set_folder) if kind == "collection")
    (space,) = source.preflight(LocalRestore(set_folder, tmp_path / "work")).second_copy
    assert space.needed == size, "a small database tells nothing"
    assert "test_mongo" in space.where
    assert 0 < space.free < shutil.disk_usage(server.folder).total
    assert server.folder.samefile(space.folder), "it is seen from here, so that the same disk is not counted twice"
    db.dull.insert_many([{"_id": n, "data": "x" * (8 << 20)} for n in range(9)])
    client.admin.command("fsync")
    set_folder = back_up(source, tmp_path / "set2")
    (space,) = source.preflight(LocalRestore(set_folder, tmp_path / "work2")).second_copy
    assert space.needed < 72 << 20 >> 1


def test_preflight_without_privilege_for_statistics_reports_unknown_free_space(server, client, db, tmp_path):
    db.one.insert_one({})
    set_folder = back_up(mongo(server, db.name), tmp_path / "set")
    privileges = [{"resource": {"db": db.name, "collection": ""}, "actions": ["find", "listCollections", "listIndexes"]}]
    privileges.append({"resource": {"db": "admin", "collection": ""}, "actions": ["listCollections"]})
    privileges.append({"resource": {"db": "admin", "collection": "system.version"}, "actions": ["find"]})
    client.admin.command("createRole", "blind", privileges=privileges, roles=[])
    client.admin.command("createUser", "blind", pwd="x", roles=["blind"])
    try:
        found = mongo(server, db.name, login="blind", password="x").preflight(LocalRestore(set_folder, tmp_path / "work"))
    finally:
        client.admin.command("dropUser", "blind")
        client.admin.command("dropRole", "blind")
    assert [space.free for space in found.second_copy] == [None]


# Verification and refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda db, stage: db[f"{stage}many"].delete_one({}), "count is 2, the set has 3"),
        (lambda db, stage: db[f"{stage}many"].update_one({}, {"$set": {"x": 5}}), "digest is"),
        (lambda db, stage: db[f"{stage}many"].drop_index("x_1"), "many[x_1]: is missing"),
        (lambda db, stage: db[f"{stage}many"].create_index("y"), "many[y_1]: is there, but not in the set"),
        (lambda db, stage: db[f"{stage}many"].drop(), "many: is missing"),
        (lambda db, stage: db[f"{stage}seen"].drop(), "seen: is missing"),
        (lambda db, stage: db[f"{stage}weather"].insert_one({"at": OLD, "where": 9}), "weather: count is"),
        (lambda db, stage: db.command("collMod", f"{stage}many", validator={"x": 1}), "options is"),
        (lambda db, stage: db.command("collMod", f"{stage}many", index={"name": "x_1", "expireAfterSeconds": 9}), "ttl is 9"),
    ],
)
def test_verify_staged_reports_each_difference_from_the_set(server, db, tmp_path, harm, words):
    db.many.insert_many([{"_id": n, "x": n} for n in range(3)])
    db.many.create_index("x")
    db.create_collection("seen", viewOn="many", pipeline=[])
    series(db, "weather", 5)
    source = mongo(server, db.name)
    restore = begun(source, back_up(source, tmp_path / "set"), tmp_path / "work")
    harm(db, f"__stage_{restore.id}_")
    assert words in "\n".join(map(str, source.verify_staged(restore)))


def test_swap_stops_on_concurrent_writes_and_rollback_sets_the_written_data_aside(server, db, tmp_path, monkeypatch):
    db.busy.insert_one({"_id": "live"})
    source = mongo(server, db.name)
    restore = begun(source, back_up(source, tmp_path / "set"), tmp_path / "work")
    killer = MongoKiller(monkeypatch)
    restore.on_journal = lambda *_: setattr(killer, "left", 1)
    with pytest.raises(Killed):
        source.swap(restore)
    db.busy.insert_one({"_id": "came in between"})
    with pytest.raises(RestoreError, match="still writes"):
        source.swap(restore)
    source.roll_back(restore)
    assert [document["_id"] for document in db.busy.find()] == ["live"]
    assert [document["_id"] for document in db[f"__replaced_{restore.id}_busy"].find()] == ["came in between"]
    assert source.replaced_copies() == [restore.id]
    source.drop_replaced(restore)
    assert f"__replaced_{restore.id}_busy" not in db.list_collection_names()


def test_rollback_with_a_damaged_copy_of_a_time_series_fails(server, db, tmp_path):
    series(db, "weather", 40)
    source = mongo(server, db.name)
    restore = begun(source, back_up(source, tmp_path / "set"), tmp_path / "work")
    source.swap(restore)
    (saved,) = (tmp_path / "work/before").rglob("*.bson")
    data = saved.read_bytes()
    saved.write_bytes(data[: int.from_bytes(data[:4], "little")])
    with pytest.raises(VerificationError, match="weather"):
        source.roll_back(restore)


def test_mongorestore_fails_on_a_duplicate_key_and_leaves_no_config_file(server, db, tmp_path):
    folder = tmp_path / "dump" / db.name
    folder.mkdir(parents=True)
    (folder / "twice.bson").write_bytes(bson.encode({"_id": 1}) * 2)
    (folder / "twice.metadata.json").write_text('{"indexes": [], "collectionName": "twice", "type": "collection"}')
    for in_order in (False, True):
        with pytest.raises(RecoveryError):
            mongorestore(endpoint(server), ClientTools(LOCAL, TOOLS), tmp_path / "dump", 1, in_order=in_order)
    assert not list(tmp_path.rglob(".mongo*"))


def test_preflight_refuses_a_user_without_rights_and_lists_missing_privileges(server, client, db, tmp_path):
    db.one.insert_one({})
    series(db, "weather", 5)
    set_folder = back_up(mongo(server, db.name), tmp_path / "set")
    client.admin.command("createUser", "reader", pwd="x", roles=["backup"])
    try:
        source = mongo(server, db.name, login="reader", password="x")
        found = source.preflight(LocalRestore(set_folder, tmp_path / "work"))
    finally:
        client.admin.command("dropUser", "reader")
    refusals = [finding.text for finding in found.findings if finding.level == "refusal"]
    assert len(refusals) == 1
    assert all(word in refusals[0] for word in ("createCollection", "collMod", "insert", "dropCollection", db.name, "restore"))


def test_preflight_refuses_collection_names_too_long_for_staging(server, db, tmp_path):
    fits, too_long = (n * "n" for n in (255 - len(db.name) - 1 - 20, 255 - len(db.name) - 1 - 19))
    for name in (fits, too_long):
        db[name].insert_one({})
    source = mongo(server, db.name)
    found = source.preflight(LocalRestore(back_up(source, tmp_path / "set"), tmp_path / "work"))
    refusals = [finding.text for finding in found.findings if finding.level == "refusal"]
    assert len(refusals) == 1
    assert too_long in refusals[0]


def test_preflight_lists_effects_of_the_restore_and_changes_nothing(server, client, db, tmp_path):
    hard_content(client, db.name)
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    db.newer.insert_one({})
    before = state(source, tmp_path / "before")
    restore = LocalRestore(set_folder, tmp_path / "work")
    with client[db.name].indexed.watch():
        found = source.preflight(restore)
    text = "\n".join(finding.text for finding in found.findings)
    for words in ("newer", "weather", "indexed[ttl]", "replica set rs0", "change streams"):
        assert words in text
    assert found.bytes_needed[str(restore.folder)] > 25 << 20
    assert compare(before, state(source, tmp_path / "after")) == []


def test_fingerprint_is_stable_and_differs_by_server_and_host(server, mongo_server, db, tmp_path):
    db.one.insert_one({})
    set_folder = back_up(mongo(server, db.name), tmp_path / "set")
    here, again = (mongo(server, db.name).preflight(LocalRestore(set_folder, tmp_path / name)).fingerprint for name in ("a", "b"))
    there = mongo(mongo_server, db.name).preflight(LocalRestore(set_folder, tmp_path / "c")).fingerprint
    assert here == again
    assert here != there
    elsewhere = mongo(server, db.name, host="localhost").preflight(LocalRestore(set_folder, tmp_path / "d")).fingerprint
    assert here != elsewhere, "a clone has the same UUID"
    assert here == mongo(server, db.name).fingerprint(LocalRestore(set_folder, tmp_path / "e"))


def test_preflight_refuses_when_mongorestore_is_missing(server, db, tmp_path, monkeypatch):
    db.one.insert_one({})
    set_folder = back_up(mongo(server, db.name), tmp_path / "set")
    monkeypatch.setenv("PATH", "/nowhere")
    source = Mongo("documents", MongoSettings(connection="x", databases=(db.name,)), endpoint(server), [], runner=LOCAL)
    found = source.preflight(LocalRestore(set_folder, tmp_path / "work"))
    assert [finding for finding in found.findings if finding.level == "refusal" and "mongorestore" in finding.text]


# Depth ----------------------------------------------------------------------------------------------------------------


def test_stage_keeps_the_field_order_of_index_options(server, db, tmp_path):
    """A partial index on a subdocument holds other documents if the subdocument's fields change places."""
    wanted = {"c": {name: n for n, name in enumerate("zyxwvutsr")}}
    db.some.insert_many([wanted, {"c": dict(reversed(wanted["c"].items()))}])
    db.some.create_index("c", partialFilterExpression=wanted, name="partial")
    db.some.create_index("$**", wildcardProjection=dict.fromkeys("zyxwvutsr", 1), name="wild")
    source = mongo(server, db.name)
    restore = begun(source, back_up(source, tmp_path / "set"), tmp_path / "work")
    found = db[f"__stage_{restore.id}_some"].index_information()
    assert list(found["partial"]["partialFilterExpression"]["c"]) == list("zyxwvutsr")
    assert db[f"__stage_{restore.id}_some"].count_documents(wanted, hint="partial") == 1


def test_stage_fails_when_an_index_can_not_be_built(server, db, tmp_path, monkeypatch):
    db.some.insert_many([{"_id": n, "x": 1} for n in range(2)])
    db.some.create_index("x", name="x")
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    read = catalog.from_metadata
    unique = {"v": 2, "key": {"x": 1}, "name": "x", "unique": True}
    monkeypatch.setattr(catalog, "from_metadata", lambda *given: dataclasses.replace(read(*given), indexes=(unique,)))
    with pytest.raises(RecoveryError, match="duplicate key"):
        source.stage(LocalRestore(set_folder, tmp_path / "work"))


def many_documents(server, db, tmp_path, count):
    batch = 50_000
    for first in range(0, count, batch):
        db.small.insert_many([{"_id": n, "k": n % 97, "t": f"document {n}"} for n in range(first, first + batch)], ordered=False)
    db.small.create_index("k")
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    db.small.delete_many({"k": 5})
    restore = begun(source, set_folder, tmp_path / "work")
    source.swap(restore)
    source.finalize(restore)
    assert compare(contents(set_folder), state(source, tmp_path / "again")) == []
    assert db.small.count_documents({}) == count
    source.drop_replaced(restore)


def test_restore_of_100_000_small_documents_equals_the_set(server, db, tmp_path):
    many_documents(server, db, tmp_path, 100_000)


@pytest.mark.long
def test_restore_of_two_million_small_documents_equals_the_set(server, db, tmp_path):
    many_documents(server, db, tmp_path, 2_000_000)


def test_restored_user_has_password_mechanisms_restrictions_and_custom_data(server, client, db, tmp_path):
    db.one.insert_one({})
    privileges = [{"resource": {"db": db.name, "collection": "one"}, "actions": ["find", "insert"]}]
    restrictions = [{"clientSource": ["127.0.0.1"]}]
    db.command("createRole", "base", privileges=privileges, roles=[])
    db.command("createRole", "above", privileges=[], roles=["base"], authenticationRestrictions=restrictions)
    values = {"customData": {"z": 1, "a": [1.5, OLD]}, "mechanisms": ["SCRAM-SHA-1"], "authenticationRestrictions": restrictions}
    db.command("createUser", "ü ser.x", pwd="p", roles=["above"], **values)

    def there():
        users = client.admin["system.users"].find({"db": db.name})
        return [*users, *client.admin["system.roles"].find({"db": db.name})]

    before = there()
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    for name in ("dropAllUsersFromDatabase", "dropAllRolesFromDatabase"):
        db.command(name)
    source.swap(begun(source, set_folder, tmp_path / "work"))
    assert sorted(there(), key=str) == sorted(before, key=str)
    with server.client(username="ü ser.x", password="p", authSource=db.name, authMechanism="SCRAM-SHA-1") as own:
        own[db.name].one.insert_one({})
    for name in ("dropAllUsersFromDatabase", "dropAllRolesFromDatabase"):
        db.command(name)
