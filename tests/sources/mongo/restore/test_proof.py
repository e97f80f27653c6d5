"""What was proven of MongoDB is what goes live, whoever can write to the live database meanwhile."""

import itertools
import os
import signal
import threading
from contextlib import suppress

import pymongo
import pytest

from recovery.common.errors import RestoreError, SourceError
from recovery.sources.mongo import snapshot
from recovery.sources.mongo import source as mongo_source
from recovery.sources.mongo.restore import swap
from sandbox.servers import Mongo as MongoServer
from tests.support.local_restore import LocalRestore, back_up, read_dump
from tests.support.mongo_samples import mongo

names = itertools.count()


@pytest.fixture(scope="module", params=["replica set", "standalone"])
def server(request, server_folder):
    with MongoServer(server_folder / f"mongo-proof-{request.param[:4]}", replica_set=request.param == "replica set") as running:
        yield running


@pytest.fixture
def db(server):
    with server.client() as client:
        name = f"p{next(names)}"
        client[name].many.insert_many([{"_id": n, "x": n} for n in range(3)])
        client[name].many.create_index("x")
        yield client[name]
        client.drop_database(name)


@pytest.fixture
def proven(server, db, tmp_path):
    """A source, and a restore of it that was verified; what is live has changed since the backup."""
    source = mongo(server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    db.many.insert_one({"_id": "live"})
    restore = LocalRestore(set_folder, tmp_path / "work")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    return source, restore


def is_live(db):
    return {document["_id"] for document in db.many.find()} == {0, 1, 2, "live"}


@pytest.fixture
def readings(monkeypatch):
    """How often documents were read to compare them."""
    counted = []
    read = mongo_source.rows_with_documents
    monkeypatch.setattr(mongo_source, "rows_with_documents", lambda *args: counted.append(1) or read(*args))
    return counted


def in_transaction(db, many):
    with db.client.start_session() as session, session.start_transaction():
        db[many].update_one({"_id": 0}, {"$set": {"x": 7}}, session=session)
        db[many].delete_one({"_id": 1}, session=session)


def exchanged(db, many):
    db[many].drop()
    db[many].insert_many([{"_id": n, "x": n} for n in range(2)])


HARMS = {
    "a deletion": lambda db, many: db[many].delete_one({}),
    "a change of one value": lambda db, many: db[many].update_one({"_id": 2}, {"$set": {"x": 5}}),
    "an insertion": lambda db, many: db[many].insert_one({"_id": 9}),
    "a transaction": in_transaction,
    "an index that is gone": lambda db, many: db[many].drop_index("x_1"),
    "a validator": lambda db, many: db.command("collMod", many, validator={"x": 1}),
    "another collection of the name": exchanged,
    "a capped conversion": lambda db, many: db.command("convertToCapped", many, size=4096),
}


@pytest.mark.parametrize("harm", HARMS)
def test_swap_refuses_what_was_changed_after_the_proof_and_the_live_data_stays(server, db, proven, harm):
    source, restore = proven
    if harm == "a transaction" and not server.replica_set:
        harm = "a deletion"  # a standalone server has no transactions
    HARMS[harm](db, f"__stage_{restore.id}_many")
    with pytest.raises(RestoreError):
        source.swap(restore)
    source.roll_back(restore)
    source.discard(restore)
    assert is_live(db)


def test_swap_after_an_untouched_proof_reads_again_only_where_there_is_no_oplog(server, db, proven, readings):
    source, restore = proven
    db.other.insert_one({"_id": "somewhere else"})
    source.swap(restore)
    assert readings == ([] if server.replica_set else [1])
    assert [document["_id"] for document in db.many.find()] == [0, 1, 2]


def test_swap_goes_on_after_a_change_that_was_taken_back(db, proven, readings):
    source, restore = proven
    staged = db[f"__stage_{restore.id}_many"]
    staged.update_one({"_id": 2}, {"$set": {"x": 5}})
    staged.update_one({"_id": 2}, {"$set": {"x": 2}})
    source.swap(restore)
    assert readings == [1]


def test_swap_without_a_proof_verifies(server, db, tmp_path, readings):
    source = mongo(server, db.name)
    restore = LocalRestore(back_up(source, tmp_path / "set"), tmp_path / "work")
    source.stage(restore)
    source.swap(restore)
    assert readings == [1]


LATE_HARMS = [harm for harm in HARMS if harm not in {"an insertion", "a capped conversion"}]


@pytest.mark.parametrize("harm", LATE_HARMS)
def test_change_between_the_last_look_and_the_renames_fails_the_swap(server, db, proven, harm):
    """On a standalone server the last look is after the renames, where it finds what nobody had told."""
    source, restore = proven
    harm = "a deletion" if harm == "a transaction" and not server.replica_set else harm
    staged = f"__stage_{restore.id}_many"
    restore.on_journal = lambda step, _: HARMS[harm](db, staged) if step == "mongo switch planned" else None
    with pytest.raises(RestoreError, match=rf"{db.name}\.many"):
        source.swap(restore)
    source.roll_back(restore)
    source.discard(restore)
    assert is_live(db)


def test_collection_exchanged_in_the_moment_of_the_renames_fails_the_swap(db, proven, monkeypatch):
    source, restore = proven
    staged, list_names = f"__stage_{restore.id}_many", swap.by_uuid

    def exchange(client, databases):
        monkeypatch.undo()
        found = list_names(client, databases)
        db[staged].rename("away")
        db[staged].insert_many([{"_id": n, "x": -n} for n in range(3)])
        return found

    monkeypatch.setattr(swap, "by_uuid", exchange)
    with pytest.raises(RestoreError, match="exchanged"):
        source.swap(restore)
    source.roll_back(restore)
    source.discard(restore)
    assert is_live(db)
    assert db[f"__replaced_{restore.id}_many"].find_one({"_id": 1})["x"] == -1


def test_live_collection_exchanged_in_the_moment_of_the_renames_is_not_lost(db, proven, monkeypatch):
    source, restore = proven
    list_names = swap.by_uuid

    def exchange(client, databases):
        monkeypatch.undo()
        found = list_names(client, databases)
        db.many.rename("away")
        db.many.insert_one({"_id": "other"})
        return found

    monkeypatch.setattr(swap, "by_uuid", exchange)
    with pytest.raises(RestoreError, match="exchanged"):
        source.swap(restore)
    source.roll_back(restore)
    assert is_live(db)


@pytest.mark.parametrize("server", ["replica set"], indirect=True)
def test_user_who_may_not_read_the_oplog_verifies_again(server, db, tmp_path, readings):
    set_folder = back_up(mongo(server, db.name), tmp_path / "set")
    with server.client() as client:
        everywhere = {"resource": {"db": "", "collection": ""}, "actions": ["listCollections", "viewUser", "viewRole"]}
        client.admin.command("createRole", "lists", privileges=[everywhere], roles=[])
        client.admin.command("createUser", "narrow", pwd="n", roles=[{"role": "dbOwner", "db": db.name}, "lists"])
        try:
            source, restore = mongo(server, db.name, login="narrow", password="n"), LocalRestore(set_folder, tmp_path / "work")
            source.stage(restore)
            assert source.verify_staged(restore) == []
            source.swap(restore)
        finally:
            client.admin.command("dropUser", "narrow")
            client.admin.command("dropRole", "lists")
    assert len(readings) == 2
    assert [document["_id"] for document in db.many.find()] == [0, 1, 2]


class Member(MongoServer):
    """A second member of another server's replica set."""

    def ready(self) -> bool:
        with suppress(pymongo.errors.PyMongoError), self.client() as client:
            return bool(client.admin.command("ping")["ok"])
        return False


@pytest.fixture(scope="module")
def lagging(server_folder):
    """A replica set whose majority needs its second member, and the second member."""
    with MongoServer(server_folder / "mongo-first", auth=False) as first, Member(server_folder / "mongo-second", auth=False) as second:
        with first.client() as client:
            config = client.admin.command("replSetGetConfig")["config"]
            config["members"].append({"_id": 1, "host": f"127.0.0.1:{second.port}", "priority": 0})
            config["version"] += 1
            config["settings"]["electionTimeoutMillis"] = 60_000
            client.admin.command("replSetReconfig", config)
            client.awaited.get_collection("some", write_concern=pymongo.WriteConcern(w=2)).insert_one({})
        yield first, second
        first.stop_signal = second.stop_signal = signal.SIGKILL  # asked to end, a primary waits for the other one


def test_proof_and_backup_do_not_wait_for_ever_for_a_majority(lagging, tmp_path, monkeypatch):
    first, second = lagging
    monkeypatch.setattr(snapshot, "_MAJORITY_WITHIN_MS", 1000)
    with first.client() as client:
        client.waits.many.insert_one({})
        source = mongo(first, "waits")
        restore = LocalRestore(back_up(source, tmp_path / "set"), tmp_path / "work")
        source.stage(restore)
        os.kill(second.pid, signal.SIGSTOP)
        try:
            client.waits.get_collection("many", write_concern=pymongo.WriteConcern(w=1)).insert_one({})
            with pytest.raises(SourceError, match="No majority of the replica set"):
                source.verify_staged(restore)
            warnings = read_dump(back_up(source, tmp_path / "again")).warnings
        finally:
            os.kill(second.pid, signal.SIGCONT)
    assert any("no majority of the replica set" in warning for warning in warnings)


def test_proof_includes_what_was_written_before_it_and_no_majority_had(lagging, tmp_path):
    first, second = lagging
    with first.client() as client:
        client.lag.many.insert_many([{"_id": n} for n in range(3)])
        source = mongo(first, "lag")
        restore = LocalRestore(back_up(source, tmp_path / "set"), tmp_path / "work")
        source.stage(restore)
        os.kill(second.pid, signal.SIGSTOP)
        waking = threading.Timer(3, os.kill, (second.pid, signal.SIGCONT))
        waking.start()
        staged = client.lag.get_collection(f"__stage_{restore.id}_many", write_concern=pymongo.WriteConcern(w=1))
        staged.delete_one({"_id": 1})
        differences = source.verify_staged(restore)
        waking.join()
    assert {difference.name for difference in differences} == {"lag.many"}
