import datetime
import io
import json
import socket
import struct
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import bson
import pytest

from recovery.common.connections import Endpoint
from recovery.common.errors import ArtifactError, ConnectionUnusable, SourceError, SourceUnreachable, ToolError
from recovery.packs.content_diff import compare
from recovery.packs.content_index import read_rows
from recovery.runners.local import LOCAL
from recovery.sources.mongo.catalog import data_path
from recovery.sources.mongo.client import options, server, tool_uri
from recovery.sources.mongo.reader import MongoReader
from sandbox.servers import Mongo as MongoServer
from tests.support.local_restore import back_up, read_dump
from tests.support.mongo_samples import TOOLS, hard_content, mongo, read_bson, series


@pytest.fixture(scope="module")
def standalone(server_folder):
    with MongoServer(server_folder / "mongo-standalone", replica_set=False) as running:
        yield running


@pytest.fixture
def client(mongo_server):
    with mongo_server.client() as client:
        yield client


@pytest.fixture
def db(client, request):
    name = f"d{abs(hash(request.node.nodeid)) % 10**10}"
    client.drop_database(name)
    yield client[name]
    client.drop_database(name)


def dump(source, folder, opened=lambda: None):
    folder.mkdir()
    return source.dump(folder, opened)


def user(client, name, roles, password="secret"):
    client.admin.command("createUser", name, pwd=password, roles=roles)
    return {"login": name, "password": password}


# Dumps ----------------------------------------------------------------------------------------------------------------


def test_dump_files_equal_the_files_of_mongodump(mongo_server, client, db, tmp_path):
    hard_content(client, db.name)
    dump(mongo(mongo_server, db.name), tmp_path / "ours")
    config = tmp_path / "config"
    config.write_text(f"password: {json.dumps(mongo_server.password)}\n")
    argv = [TOOLS[0] / "mongodump", f"--config={config}", f"--port={mongo_server.port}", "--username=root", f"--db={db.name}", "--quiet"]
    subprocess.run([*argv, "--authenticationDatabase=admin", f"--out={tmp_path / 'theirs'}"], check=True)
    ours, theirs = tmp_path / "ours/documents" / db.name, tmp_path / "theirs" / db.name
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()} - {"prelude.json"}
    for path in ours.glob("*.bson"):
        assert path.read_bytes() == (theirs / path.name).read_bytes(), path.name
    for path in ours.glob("*.json"):
        assert json.loads(path.read_text()) == json.loads((theirs / path.name).read_text()), path.name


def test_snapshot_dump_never_splits_a_transaction_across_two_databases(mongo_server, client, db, tmp_path):
    """A writer adds the same number to two collections of two databases, each pair in a transaction, all the time."""
    other = client[f"{db.name}_other"]
    for place in (db.left, other.right):
        place.insert_many([{"_id": -n, "x": "y" * 1000} for n in range(1, 3000)])
    stop, written = threading.Event(), []

    def write():
        with mongo_server.client() as own, own.start_session() as session:
            while not stop.is_set():
                with session.start_transaction():
                    own[db.name].left.insert_one({"_id": len(written)}, session=session)
                    own[other.name].right.insert_one({"_id": len(written)}, session=session)
                written.append(1)

    def opened():
        more = len(written) + 20
        while len(written) < more:
            time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = dump(mongo(mongo_server, db.name, other.name, jobs=1), tmp_path / "dump", opened)
    finally:
        stop.set()
        writer.join()
    left, right = (
        {document["_id"] for document in read_bson(tmp_path / "dump/documents" / name)}
        for name in (f"{db.name}/left.bson", f"{other.name}/right.bson")
    )
    client.drop_database(other.name)
    assert left == right
    assert len(left) >= 2999
    assert len(written) > len(left) - 2999, "the writer was not writing while the dump was read"
    assert made.consistency == "snapshot"
    assert not made.warnings
    seconds, _, ordinal = made.point.position.partition(":")
    assert abs(int(seconds) - time.time()) < 600
    assert int(ordinal) > 0


def test_dump_falls_back_to_fuzzy_with_warnings_when_the_snapshot_expires(mongo_server, client, db, tmp_path):
    db.some.insert_many([{"_id": n} for n in range(10)])
    window = client.admin.command("getParameter", minSnapshotHistoryWindowInSeconds=1)["minSnapshotHistoryWindowInSeconds"]

    def opened():
        for n in range(30):
            db.some.update_one({"_id": 1}, {"$set": {"n": n}})
            time.sleep(0.1)

    client.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=0)
    try:
        made = dump(mongo(mongo_server, db.name), tmp_path / "dump", opened)
    finally:
        client.admin.command("setParameter", 1, minSnapshotHistoryWindowInSeconds=window)
    assert made.consistency == "fuzzy"
    assert made.point.position is None
    assert "mongodump" in made.versions
    assert any("no snapshot" in warning for warning in made.warnings)
    assert any("had to start again" in warning for warning in made.warnings)
    assert len(read_bson(tmp_path / "dump/documents" / db.name / "some.bson")) == 10


def test_dump_opens_a_new_snapshot_when_a_collection_is_dropped_meanwhile(mongo_server, client, db, tmp_path):
    db.stays.insert_one({})
    db.goes.insert_one({})
    made = dump(mongo(mongo_server, db.name), tmp_path / "dump", db.goes.drop)
    assert made.consistency == "snapshot"
    names = {name for kind, name, _ in read_rows(tmp_path / "dump/documents.inventory.jsonl") if kind == "collection"}
    assert names == {f"{db.name}.stays"}
    assert not (tmp_path / "dump/documents" / db.name / "goes.bson").exists()


def test_dump_with_a_capped_collection_is_fuzzy_and_warns_of_the_collection(mongo_server, db, tmp_path):
    db.create_collection("log", capped=True, size=10_000)
    db.log.insert_one({"n": 1})
    db.plain.insert_one({"n": 1})
    made = dump(mongo(mongo_server, db.name), tmp_path / "dump")
    assert made.consistency == "fuzzy"
    assert any(f"{db.name}.log" in warning and "plain" not in warning for warning in made.warnings)
    assert len(read_bson(tmp_path / "dump/documents" / db.name / "log.bson")) == 1


def test_dump_inventory_has_counts_and_sizes_of_files_for_snapshot_and_mongodump(mongo_server, standalone, tmp_path):
    """A file that was cut between two documents is found, whoever wrote it: no snapshot's count is needed for that."""
    for kind, where in (("snapshot", mongo_server), ("mongodump", standalone)):
        with where.client() as client:
            client.counted.plain.insert_many([{"_id": n} for n in range(10)])
            client.counted["odd (1 document)"].insert_one({})
            client.counted.create_collection("log", capped=True, size=10_000).insert_many([{"_id": n} for n in range(10)])
            series(client.counted, "weather", 50)
            made = dump(mongo(where, "counted"), tmp_path / kind)
            client.drop_database("counted")
        [artifact] = made.artifacts
        root = tmp_path / kind / "documents"
        assert artifact.bytes == sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        inventory = {name: facts for _, name, facts in read_rows(tmp_path / kind / "documents.inventory.jsonl", "collection")}
        for name in ("plain", "log", "weather", "odd (1 document)"):
            path = root / data_path("counted", name, inventory[f"counted.{name}"]["type"])
            assert inventory[f"counted.{name}"]["bytes"] == path.stat().st_size
            assert inventory[f"counted.{name}"]["count"] == len(read_bson(path)) > 0
        assert contents(tmp_path / kind)
        for name in ("plain", "log"):
            path = root / f"counted/{name}.bson"
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            with pytest.raises(ArtifactError, match=rf"count of collection counted\.{name} \(5 instead of 10\)"):
                contents(tmp_path / kind)
            path.write_bytes(whole)


def test_dump_of_standalone_server_is_fuzzy_with_a_warning_and_has_every_collection(standalone, tmp_path):
    with standalone.client() as client:
        hard_content(client, "hard")
        client.hard["__stage_0123abcd_left"].insert_one({})
        client.admin.command("createUser", "keeper", pwd="x", roles=["readAnyDatabase"])
        set_folder = back_up(mongo(standalone, "hard"), tmp_path / "set")
        made = read_dump(set_folder)
        assert made.consistency == "fuzzy"
        assert made.point.opened <= made.point.closed
        assert any("standalone" in warning for warning in made.warnings)
        names = {name for _, name, _ in read_rows(set_folder / "documents.contents.jsonl", "collection", "view")}
        live = {f"hard.{name}" for name in client.hard.list_collection_names() if not name.startswith("__")}
        assert names == {name for name in live if not name.startswith(("hard.system.buckets", "hard.system.views"))}
        client.drop_database("hard")


def test_mongodump_leaves_no_password_in_any_file(standalone, tmp_path):
    with standalone.client() as client:
        client.some.thing.insert_one({})
    dump(mongo(standalone, "some"), tmp_path / "dump")
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert standalone.password.encode() not in everything
    assert not list(tmp_path.rglob(".mongo*"))


# What is a source -----------------------------------------------------------------------------------------------------


def test_dump_of_whole_server_skips_system_collections_and_leftovers_of_restores(mongo_server, client, db, tmp_path):
    db.mine.insert_one({})
    client.admin.own.insert_one({})
    for left in ("__stage_0123abcd_mine", "__before_0123abcd_mine", "__replaced_0123abcd_mine"):
        db[left].insert_one({})
    db["__stage_not a mark"].insert_one({})
    dump(mongo(mongo_server), tmp_path / "dump")
    names = {name for kind, name, _ in read_rows(tmp_path / "dump/documents.inventory.jsonl") if kind == "collection"}
    client.admin.own.drop()
    assert {name for name in names if name.startswith(f"{db.name}.")} == {f"{db.name}.mine", f"{db.name}.__stage_not a mark"}
    assert {name for name in names if name.startswith(("admin.", "config.", "local."))} == {"admin.own"}


@pytest.mark.parametrize("replica_set", [True, False])
def test_dump_skips_the_temporary_collection_of_a_running_aggregation(mongo_server, standalone, tmp_path, replica_set):
    """Nobody can make one with a command, so a set that had one could not be restored."""
    where = mongo_server if replica_set else standalone

    def aggregate():
        made = {"op": "c", "ns": "aggregating.$cmd", "o": {"create": "tmp.agg_out.1", "temp": True}}
        client.admin.command("applyOps", [made])

    with where.client() as client:
        client.aggregating.one.insert_one({})
        if replica_set:
            aggregate()
        dump(mongo(where, "aggregating"), tmp_path / "dump", opened=lambda: None if replica_set else aggregate())
        client.drop_database("aggregating")
    found = {path.name for path in (tmp_path / "dump/documents/aggregating").iterdir()}
    assert found - {"prelude.json"} == {"one.bson", "one.metadata.json"}


def test_dump_refuses_two_indexes_that_no_row_tells_apart(mongo_server, db, tmp_path):
    """Each would stand for the other in the contents, and a restore could lose one."""
    db.a.create_index("x", name="b][c")
    db["a[b]"].create_index("x", name="c")
    with pytest.raises(SourceError, match=rf"told apart in a set: index {db.name}\.a\[b\]\[c\]"):
        dump(mongo(mongo_server, db.name), tmp_path / "dump")


def looks_alike(db):
    db.command("create", "one", validator={"a": {"$ne": {"$numberInt": "5"}}})
    db.create_collection("view", viewOn="one", pipeline=[{"$addFields": {"x": {"$literal": {"$date": "tomorrow"}}}}])


def test_snapshot_dump_has_definitions_that_look_like_extended_json(mongo_server, db, tmp_path):
    looks_alike(db)
    rows = {row[1]: row[2] for row in read_rows(back_up(mongo(mongo_server, db.name), tmp_path / "set") / "documents.contents.jsonl")}
    assert '{"$literal": {"$date": "tomorrow"}}' in rows[f"{db.name}.view"]["options"]
    assert '{"$ne": {"$numberInt": "5"}}' in rows[f"{db.name}.one"]["options"]


def test_mongodump_refuses_definitions_that_look_like_extended_json_by_name(standalone, tmp_path):
    with standalone.client() as client:
        looks_alike(client.looks_alike)
        try:
            with pytest.raises(ToolError, match=r"collection `looks_alike\.(one|view)`"):
                dump(mongo(standalone, "looks_alike"), tmp_path / "dump")
        finally:
            client.drop_database("looks_alike")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ({"create": "XXX"}, "database not_text has a name or definition that is no UTF-8"),
        ({"create": "one", "validator": {"a": "XXX"}}, "database not_text has a name or definition that is no UTF-8"),
        ({"createUser": "u", "pwd": "x", "roles": [], "customData": {"a": "XXX"}}, "a user, a role or another text that is no UTF-8"),
    ],
)
def test_dump_of_a_server_with_a_name_that_is_no_text_fails_by_database(server_folder, tmp_path, command, words):
    with MongoServer(server_folder / f"no-text-{next(iter(command))}-{len(command)}", auth=False) as own, own.client() as client:
        client.not_text.some.insert_one({})
        send(own, bson.encode(command | {"$db": "not_text"}).replace(b"XXX", b"a\xff\xfe"))
        with pytest.raises(SourceError, match=words):
            dump(mongo(own), tmp_path / "dump")


def send(where, command):
    """A command in bytes, as no driver sends it."""
    body = bytes(5) + command
    with socket.create_connection(("127.0.0.1", where.port)) as own:
        own.sendall(struct.pack("<iiii", 16 + len(body), 1, 0, 2013) + body)
        assert b"ok" in own.recv(1 << 16)


def test_dump_of_named_collections_skips_all_other_collections(mongo_server, db, tmp_path):
    for name in ("one", "two", "three"):
        db[name].insert_one({})
    db.create_collection("a view", viewOn="one", pipeline=[])
    chosen = (f"{db.name}.one", f"{db.name}.a view")
    dump(mongo(mongo_server, collections=chosen), tmp_path / "dump")
    rows = list(read_rows(tmp_path / "dump/documents.inventory.jsonl"))
    assert {name for kind, name, _ in rows if kind in {"collection", "view"}} == set(chosen)
    assert ("database", db.name, {"whole": False}) in rows


@pytest.mark.parametrize(
    ("databases", "collections", "named"),
    [(("not_there",), (), "not_there"), ((), ("openmanus.not_there",), "openmanus.not_there"), (("config",), (), "config")],
)
def test_dump_of_missing_or_system_database_or_collection_fails(mongo_server, tmp_path, databases, collections, named):
    with pytest.raises(SourceError, match=named):
        dump(mongo(mongo_server, *databases, collections=collections), tmp_path / "dump")


def test_dump_of_an_empty_server_fails(server_folder, tmp_path):
    with MongoServer(server_folder / "mongo-empty", replica_set=False, auth=False) as empty:
        with pytest.raises(SourceError, match="no collection at all"):
            dump(mongo(empty), tmp_path / "dump")


def test_dump_of_whole_server_has_users_and_roles_without_keys_in_the_contents(standalone, tmp_path):
    with standalone.client() as client:
        client.app.things.insert_one({})
        client.app.command("createRole", "reader", privileges=[], roles=["read"])
        client.app.command("createUser", "worker", pwd="w", roles=["reader"])
        set_folder = back_up(mongo(standalone), tmp_path / "set")
        rows = {(kind, name): facts for kind, name, facts in read_rows(set_folder / "documents.contents.jsonl", "user", "role")}
        assert rows["user", "app.worker"]["roles"] == ["app.reader"]
        assert rows["user", "app.worker"]["mechanisms"] == ["SCRAM-SHA-1", "SCRAM-SHA-256"]
        assert ("user", "admin.root") in rows
        assert rows["role", "app.reader"]["roles"] == ["app.read"]
        assert "storedKey" not in (set_folder / "documents.contents.jsonl").read_text()
        assert {path.name for path in (set_folder / "dump/documents/admin").iterdir()} == {
            "system.users.bson",
            "system.roles.bson",
            "system.version.bson",
        }
        client.app.command("dropUser", "worker")
        client.app.command("dropRole", "reader")
        client.drop_database("app")


def test_dump_of_named_database_has_only_users_and_roles_related_to_the_database(mongo_server, client, db, tmp_path):
    db.things.insert_one({})
    admin = client.admin
    made = [("createRole", db, "inner", {"privileges": [], "roles": ["read"]})]
    privileges = [{"resource": {"db": db.name, "collection": ""}, "actions": ["find"]}]
    made += [("createRole", admin, "finder", {"privileges": privileges, "roles": []})]
    made += [("createRole", admin, "boss", {"privileges": [], "roles": ["finder", "base"]})]
    made += [("createRole", admin, "unrelated", {"privileges": [], "roles": []})]
    made.insert(0, ("createRole", admin, "base", {"privileges": [], "roles": []}))
    made += [("createUser", db, "own", {"pwd": "x", "roles": ["inner"]})]
    made += [("createUser", admin, "granted", {"pwd": "x", "roles": [{"role": "readWrite", "db": db.name}]})]
    made += [("createUser", admin, "by role", {"pwd": "x", "roles": ["boss"]})]
    made += [("createUser", admin, "stranger", {"pwd": "x", "roles": ["unrelated", "readAnyDatabase"]})]
    for command, where, name, values in made:
        where.command(command, name, **values)
    try:
        set_folder = back_up(mongo(mongo_server, db.name), tmp_path / "set")
    finally:
        for command, where, name, _ in reversed(made):
            where.command(command.replace("create", "drop"), name)
    found = {(kind, name) for kind, name, _ in read_rows(set_folder / "documents.contents.jsonl", "user", "role")}
    assert found == {
        ("user", f"{db.name}.own"),
        ("user", "admin.granted"),
        ("user", "admin.by role"),
        ("role", f"{db.name}.inner"),
        ("role", "admin.finder"),
        ("role", "admin.boss"),
        ("role", "admin.base"),
    }
    assert (set_folder / "dump/documents" / db.name / "$admin.system.users.bson").exists()


# Rights and connections -----------------------------------------------------------------------------------------------


@pytest.fixture
def account(client):
    names = []

    def make(name, roles, password="secret"):
        names.append(name)
        return user(client, name, roles, password)

    yield make
    for name in names:
        client.admin.command("dropUser", name)


def test_snapshot_dump_needs_only_the_role_backup(mongo_server, client, db, account, tmp_path):
    series(db, "weather")
    db.plain.insert_one({})
    login = account("saver", ["backup"], "p@ss:/w%rd ü?#")
    made = dump(mongo(mongo_server, db.name, **login), tmp_path / "dump")
    assert made.consistency == "snapshot"
    assert not made.warnings


def test_mongodump_needs_only_the_role_backup(standalone, tmp_path):
    with standalone.client() as client:
        series(client.rights, "weather")
        login = user(client, "saver", ["backup"], "p@ss:/w%rd ü?#")
        assert dump(mongo(standalone, "rights", **login), tmp_path / "dump").consistency == "fuzzy"
        assert (tmp_path / "dump/documents/rights/system.buckets.weather.bson").stat().st_size > 0
        client.admin.command("dropUser", "saver")
        client.drop_database("rights")


def test_dump_without_privilege_to_read_users_warns_of_missing_users_and_roles(mongo_server, db, account, tmp_path):
    db.plain.insert_one({})
    made = dump(mongo(mongo_server, db.name, **account("reader", ["readAnyDatabase"])), tmp_path / "dump")
    assert any("Users and roles are not in the dump" in warning for warning in made.warnings)


def test_dump_as_user_of_one_database_succeeds_for_the_database_and_fails_beyond(mongo_server, client, db, account, tmp_path):
    db.plain.insert_one({})
    login = account("narrow", [{"role": "read", "db": db.name}])
    dump(mongo(mongo_server, db.name, **login), tmp_path / "one")
    with pytest.raises(SourceError, match="backup"):
        dump(mongo(mongo_server, db.name, "admin", **login), tmp_path / "two")
    with pytest.raises(SourceError, match="backup"):
        dump(mongo(mongo_server, **login), tmp_path / "all")


def test_dump_fails_with_wrong_password_unknown_option_or_unreachable_server(mongo_server, tmp_path):
    with pytest.raises(ConnectionUnusable, match="refuses the login") as caught:
        dump(mongo(mongo_server, password="wr0ng-one"), tmp_path / "1")
    assert "wr0ng-one" not in str(caught.value)
    with pytest.raises(ConnectionUnusable, match="not usable"):
        dump(mongo(mongo_server, extra={"noSuchOption": 1}), tmp_path / "2")
    with pytest.raises(SourceUnreachable, match="does not answer"):
        dump(mongo(mongo_server, port=1, extra={"serverSelectionTimeoutMS": 200}), tmp_path / "3")


def test_connection_to_mongos_is_refused():
    class Router:
        class admin:  # noqa: N801 - there is no mongos here to ask
            command = staticmethod(lambda name: {"msg": "isdbgrid", "isWritablePrimary": True})

    with pytest.raises(SourceError, match="mongos"):
        server(Router)


def test_connection_extra_becomes_options_and_tool_uri_as_in_airflow():
    extra = {"srv": True, "ssl": True, "allow_insecure": True, "replicaSet": "rs0", "connectTimeoutMS": 30000}
    where = Endpoint("x", host="db.example.com", login="a b", password="p@/:%", schema="people", extra=extra)
    assert options(where) == {
        "tls": True,
        "tlsAllowInvalidCertificates": True,
        "replicaSet": "rs0",
        "connectTimeoutMS": 30000,
        "authSource": "people",
    }
    assert tool_uri(where) == (
        "mongodb+srv://a%20b:p%40%2F%3A%25@db.example.com/?replicaSet=rs0&connectTimeoutMS=30000&tls=true&authSource=people&tlsInsecure=true"
    )
    assert options(Endpoint("x", host="a,b", login="u", extra={"authSource": "own"}))["authSource"] == "own"
    assert options(Endpoint("x", host="a,b", login="u", extra={"auth_source": "own"}))["authSource"] == "own"
    assert options(Endpoint("x", host="a,b", login="u"))["authSource"] == "admin"
    assert options(Endpoint("x", host="a", extra={"ssl": False, "tls": "false"})) == {"tls": "false"}
    assert tool_uri(Endpoint("x", host="h", port=27018)) == "mongodb://h:27018/"


# Contents -------------------------------------------------------------------------------------------------------------


def packed(root: Path):
    """The members of a pack, as if it had just been opened."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, path.relative_to(root).as_posix(), recursive=False)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for info in tar:
            yield info, tar.extractfile(info)


@pytest.fixture(scope="module")
def dumped(mongo_server, tmp_path_factory):
    """A small dump, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("dumped")
    with mongo_server.client() as client:
        db = client.damaged
        db.many.insert_many([{"_id": n, "text": "x" * n} for n in range(100)])
        db.many.create_index("text")
        db.create_collection("empty")
        db.create_collection("some", viewOn="many", pipeline=[])
        series(db, "weather", 50)
        mongo(mongo_server, "damaged").dump(folder, lambda: None)
        client.drop_database("damaged")
    return folder


@pytest.fixture
def copy(dumped, tmp_path):
    subprocess.run(["cp", "-a", f"{dumped}/.", tmp_path], check=True)
    return tmp_path


def contents(folder):
    reader = MongoReader(LOCAL)
    rows = reader.read_pack("documents", packed(folder / "documents"))
    return list(reader.contents("documents", folder / "documents.inventory.jsonl", rows))


def test_contents_have_facts_of_every_database_collection_view_and_index(copy):
    rows = {(kind, name): facts for kind, name, facts in contents(copy)}
    assert rows["collection", "damaged.many"]["count"] == 100
    assert rows["collection", "damaged.empty"] == {
        "type": "collection",
        "options": "{}",
        "ttl": None,
        "count": 0,
        "bytes": 0,
        "digest": "0" * 16,
    }
    assert rows["collection", "damaged.weather"]["type"] == "timeseries"
    assert rows["view", "damaged.some"]["options"] == '{"pipeline": [], "viewOn": "many"}'
    assert rows["index", "damaged.many[text_1]"]["definition"] == '{"key": {"text": 1}, "name": "text_1"}'
    assert rows["database", "damaged"] == {"whole": True}


def test_reader_fails_on_a_bson_file_truncated_at_any_length(copy):
    path = copy / "documents/damaged/many.bson"
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 3):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match=r"many\.bson"):
            contents(copy)


def test_reader_fails_on_bson_file_truncated_between_documents_by_the_count(copy):
    path = copy / "documents/damaged/many.bson"
    whole = path.read_bytes()
    path.write_bytes(whole[: -int.from_bytes(bson.encode({"_id": 99, "text": "x" * 99})[:4], "little")])
    with pytest.raises(ArtifactError, match=r"count of collection damaged\.many \(99 instead of 100\)"):
        contents(copy)


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("many.bson", r"the documents of damaged\.many"),
        ("empty.bson", r"the documents of damaged\.empty"),
        ("many.metadata.json", r"the definition of damaged/many\.bson"),
        ("some.metadata.json", r"view damaged\.some"),
        ("system.buckets.weather.bson", r"the documents of damaged\.weather"),
    ],
)
def test_reader_fails_on_a_missing_data_or_metadata_file(copy, lost, words):
    (copy / "documents/damaged" / lost).unlink()
    with pytest.raises(ArtifactError, match=words):
        contents(copy)


@pytest.mark.parametrize("harm", [list.pop, lambda indexes: indexes[1].update(unique=True)], ids=["missing", "changed"])
def test_reader_fails_on_an_index_that_differs_from_the_inventory(copy, harm):
    path = copy / "documents/damaged/many.metadata.json"
    document = json.loads(path.read_text())
    harm(document["indexes"])
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"index damaged\.many\[text_1\]"):
        contents(copy)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"indexes": {}}', b'{"indexes": [], "type": "other"}', b'{"indexes": [{}]}', b"\xff\xfe"]
)
def test_reader_fails_on_a_damaged_metadata_file(copy, text):
    (copy / "documents/damaged/many.metadata.json").write_bytes(text)
    with pytest.raises(ArtifactError, match=r"many\.metadata\.json"):
        contents(copy)


def test_reader_fails_on_a_foreign_file_in_the_dump(copy):
    (copy / "documents/damaged/notes.txt").write_text("hello")
    with pytest.raises(ArtifactError, match=r"notes\.txt"):
        contents(copy)


def test_contents_of_two_backups_of_the_same_data_are_equal(mongo_server, client, db, tmp_path):
    hard_content(client, db.name)
    one, two = (back_up(mongo(mongo_server, db.name), tmp_path / name) for name in ("one", "two"))
    assert compare(*(read_rows(folder / "documents.contents.jsonl") for folder in (one, two))) == []


def test_recovery_point_interval_contains_the_opening_of_the_snapshot(mongo_server, db, tmp_path):
    db.plain.insert_one({})
    marks = []
    made = dump(mongo(mongo_server, db.name), tmp_path / "dump", lambda: marks.append(datetime.datetime.now(datetime.UTC)))
    assert len(marks) == 1
    assert made.point.opened <= marks[0] <= made.point.closed


# Left out on purpose --------------------------------------------------------------------------------------------------


@pytest.mark.servers
@pytest.mark.parametrize("server_kind", ["mongo_server", "standalone"])
def test_dump_without_excluded_collections_names_what_it_lacks(request, server_kind, tmp_path):
    where = request.getfixturevalue(server_kind)
    with where.client() as client:
        client.drop_database("excluding")
        db = client.excluding
        for name in ("orders", "cache_a", "cache_b"):
            db[name].insert_one({"_id": 1})
        series(db, "metrics", 20)
        db.create_collection("cache_view", viewOn="orders", pipeline=[])
        source = mongo(where, "excluding", exclude=("excluding.cache_*", "excluding.metrics", "*.sessions"))
        set_folder = back_up(source, tmp_path / "set")
        source.damaged = True
        everything = back_up(source, tmp_path / "safety")
        client.drop_database("excluding")
    rows = list(read_rows(set_folder / "documents.contents.jsonl"))
    assert {name for kind, name, _ in rows if kind in {"collection", "view"}} == {"excluding.orders", "excluding.cache_view"}
    assert {name: facts for kind, name, facts in rows if kind == "left out"} == {
        "excluding.cache_a": {"what": "collection", "by": "exclude excluding.cache_*"},
        "excluding.cache_b": {"what": "collection", "by": "exclude excluding.cache_*"},
        "excluding.metrics": {"what": "timeseries", "by": "exclude excluding.metrics"},
    }
    packed = {path.name for path in (set_folder / "dump").rglob("*.bson")}
    assert not {name for name in packed if "cache" in name or "metrics" in name}
    told = read_dump(set_folder).warnings
    assert "Left out by exclude excluding.cache_*: excluding.cache_a, excluding.cache_b." in told
    assert "Nothing fits exclude *.sessions; look whether it is written right." in told
    found = {name for kind, name, _ in read_rows(everything / "documents.contents.jsonl") if kind == "collection"}
    assert found == {"excluding.orders", "excluding.cache_a", "excluding.cache_b", "excluding.metrics"}


def test_dump_of_nothing_but_excluded_collections_is_refused(mongo_server, db, tmp_path):
    db.orders.insert_one({"_id": 1})
    with pytest.raises(SourceError, match="excludes everything"):
        dump(mongo(mongo_server, db.name, exclude=(f"{db.name}.*",)), tmp_path / "dump")
