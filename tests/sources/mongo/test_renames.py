"""Restores to somewhere else, where databases and collections have other names."""

import re

import pytest

from recovery.common.errors import PlanError
from recovery.packs.content_diff import compare
from recovery.plan.kinds.mongo import MongoTarget
from recovery.plan.location import contained_in
from recovery.sources.mongo.renames import Names, read_by
from sandbox.servers import Mongo as MongoServer
from tests.support.local_restore import LocalRestore, back_up
from tests.support.mongo_samples import hard_content, mongo, rows_of, series, state


@pytest.fixture(scope="module")
def elsewhere(server_folder):
    with MongoServer(server_folder / "mongo-elsewhere", replica_set=False) as running:
        yield running


@pytest.fixture
def db(mongo_server, request):
    with mongo_server.client() as client:
        name = f"shop{abs(hash(request.node.nodeid)) % 10**8}"
        yield client[name]
        client.drop_database(name)


@pytest.fixture
def there(elsewhere):
    """A database of the other server that is dropped after the test."""
    with elsewhere.client() as client:
        yield client["there"]
        client.drop_database("there")


def target(databases=(), **collections):
    return MongoTarget(connection="x", databases=dict(databases), collections=collections.pop("collections", collections))


def refusals(source, restore):
    return [finding.text for finding in source.preflight(restore).findings if finding.level == "refusal"]


def renamed(rows, old, new):
    """Rows with another name for the database."""
    return [(kind, name.replace(old, new, 1), facts) for kind, name, facts in rows]


def bring(source, set_folder, work, **asked):
    restore = LocalRestore(set_folder, work, **asked)
    assert refusals(source, restore) == []
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    source.finalize(restore)
    source.discard(restore)
    return restore


def test_restore_to_target_renames_the_database_and_leaves_out_users(mongo_server, elsewhere, db, there, tmp_path):
    hard_content(db.client, db.name)
    db.command("createUser", "theirs", pwd="x", roles=["read"])
    wanted = rows_of(back_up(mongo(mongo_server, db.name), tmp_path / "set"))
    db.command("dropUser", "theirs")
    source = mongo(elsewhere, db.name, there=target({db.name: "there"}))
    restore = LocalRestore(tmp_path / "set", tmp_path / "first")
    assert source.occupied_locations(restore) == {}
    assert {change.what for change in source.compare(restore)} == {"added"}
    assert any("not brought to another system" in finding.text for finding in source.preflight(restore).findings)
    bring(source, tmp_path / "set", tmp_path / "work")
    assert compare(renamed(wanted, db.name, "there"), state(mongo(elsewhere, "there"), tmp_path / "after")) == []
    assert {change.what for change in source.compare(restore)} == {"equal"}
    assert there.client.admin["system.users"].count_documents({"user": "theirs"}) == 0
    assert db.name not in there.client.list_database_names()


JOINS = [
    {"$lookup": {"from": "orders", "pipeline": [{"$unionWith": "lines"}, {"$match": {"from": "orders"}}], "as": "orders"}},
    {"$graphLookup": {"from": "lines", "startWith": "$a", "connectFromField": "a", "connectToField": "b", "as": "orders"}},
    {"$unionWith": {"coll": "orders", "pipeline": [{"$lookup": {"from": "other", "localField": "a", "foreignField": "a", "as": "o"}}]}},
    {"$facet": {"orders": [{"$unionWith": "orders"}]}},
]


def test_view_restored_to_target_reads_renamed_collections_with_fields_unchanged(mongo_server, elsewhere, db, there, tmp_path):
    db.orders.insert_many([{"_id": n, "a": n, "from": "orders"} for n in range(5)])
    db.lines.insert_one({"a": 1, "b": 1})
    db.other.insert_one({"a": 1})
    series(db, "weather", 10)
    db.create_collection("joined", viewOn="orders", pipeline=JOINS[:3])
    db.create_collection("facets", viewOn="lines", pipeline=JOINS[3:])
    db.create_collection("on a view", viewOn="joined", pipeline=[])
    db.create_collection("hourly", viewOn="weather", pipeline=[{"$group": {"_id": "$where"}}])
    set_folder = back_up(mongo(mongo_server, db.name), tmp_path / "set")
    others = {f"{db.name}.{old}": new for old, new in (("orders", "o.2"), ("lines", "l"), ("weather", "w"), ("joined", "j"))}
    source = mongo(elsewhere, db.name, there=target({db.name: "there"}, collections=others))
    bring(source, set_folder, tmp_path / "work")
    found = {entry["name"]: entry["options"] for entry in there.list_collections()}
    wanted = [
        {"$lookup": {"from": "o.2", "pipeline": [{"$unionWith": "l"}, {"$match": {"from": "orders"}}], "as": "orders"}},
        {"$graphLookup": {"from": "l", "startWith": "$a", "connectFromField": "a", "connectToField": "b", "as": "orders"}},
        {"$unionWith": {"coll": "o.2", "pipeline": [{"$lookup": {"from": "other", "localField": "a", "foreignField": "a", "as": "o"}}]}},
    ]
    assert found["j"] == {"viewOn": "o.2", "pipeline": wanted}
    assert found["facets"] == {"viewOn": "l", "pipeline": [{"$facet": {"orders": [{"$unionWith": "o.2"}]}}]}
    assert found["on a view"] == {"viewOn": "j", "pipeline": []}
    assert found["hourly"]["viewOn"] == "w"
    assert {name for name in found if not name.startswith(("system.", "__"))} == {
        "o.2",
        "l",
        "other",
        "w",
        "j",
        "facets",
        "on a view",
        "hourly",
    }
    assert [there[name].count_documents({}) for name in ("o.2", "l", "w", "j", "on a view", "hourly")] == [5, 1, 10, 10, 10, 3]
    assert there["w"].options()["expireAfterSeconds"] == 1_700_000_000


def test_read_by_finds_every_collection_in_a_view_pipeline():
    assert read_by({"viewOn": "base", "pipeline": JOINS}) == {"base", "orders", "lines", "other"}


def test_restore_of_one_collection_to_target_keeps_other_collections(mongo_server, elsewhere, db, there, tmp_path):
    for name in ("one", "two"):
        db[name].insert_many([{"_id": n} for n in range(3)])
    there.mine.insert_one({"_id": 1})
    set_folder = back_up(mongo(mongo_server, db.name), tmp_path / "set")
    source = mongo(elsewhere, db.name, there=target({db.name: "there"}, collections={f"{db.name}.one": "first"}))
    bring(source, set_folder, tmp_path / "work", only=[f"{db.name}.one"])
    assert sorted(there.list_collection_names()) == ["first", "mine"]
    assert there.first.count_documents({}) == 3


def test_rollback_in_an_occupied_target_returns_the_previous_collections(mongo_server, elsewhere, db, there, tmp_path):
    db.one.insert_many([{"_id": n} for n in range(3)])
    there.one.insert_many([{"_id": n} for n in range(1500)])
    there.create_collection("seen", viewOn="one", pipeline=[])
    series(there, "weather", 5)
    set_folder = back_up(mongo(mongo_server, db.name), tmp_path / "set")
    source = mongo(elsewhere, db.name, there=target({db.name: "there"}))
    before = state(mongo(elsewhere, "there"), tmp_path / "before")
    restore = LocalRestore(set_folder, tmp_path / "work")
    occupied_locations = {names[2:]: words for names, words in source.occupied_locations(restore).items()}
    assert occupied_locations["there", "one"].startswith("there.one with about 1,500 documents, ")
    assert occupied_locations["there", "seen"] == "the view there.seen"
    assert occupied_locations.keys() == {("there", "one"), ("there", "seen"), ("there", "weather")}
    assert source.occupied_locations(LocalRestore(set_folder, tmp_path / "w", only=[f"{db.name}.other"])) == {}
    source.stage(restore)
    source.swap(restore)
    assert source.replaced_copies() == [restore.id]
    assert there.list_collection_names().count("weather") == 0
    source.roll_back(restore)
    source.discard(restore)
    assert compare(before, state(mongo(elsewhere, "there"), tmp_path / "after")) == []


def test_locations_identify_a_collection_by_server_and_target_name(mongo_server, elsewhere, db, tmp_path):
    db.one.insert_one({})
    db.two.insert_one({})
    set_folder = back_up(mongo(mongo_server, db.name), tmp_path / "set")

    def locations(where, there=None, only=(), **changes):
        source = mongo(where, db.name, there=there, **changes)
        return source.locations(LocalRestore(set_folder, tmp_path / "work", only=only))

    live = locations(mongo_server)
    assert locations(mongo_server, target(), host="localhost") == live
    assert not locations(elsewhere, target()) & live
    assert not locations(mongo_server, target({db.name: "there"})) & live
    one = locations(mongo_server, only=[f"{db.name}.one"])
    assert all(contained_in(location, live) for location in one)
    assert mongo(mongo_server, db.name).own_locations() == live
    assert mongo(mongo_server, collections=(f"{db.name}.one",)).own_locations() == one
    assert live < mongo(mongo_server).own_locations()
    assert locations(mongo_server, target(), [f"{db.name}.one"]) == one
    assert not locations(mongo_server, target(one="three", collections={f"{db.name}.one": "three"}), [f"{db.name}.one"]) & one
    assert locations(mongo_server, target(collections={f"{db.name}.two": "one"}), [f"{db.name}.two"]) == one


@pytest.mark.parametrize(
    ("databases", "collections", "words"),
    [
        ({}, {"one": "two"}, "{db}.one and {db}.two would both become {db}.two at the target"),
        ({}, {"one": "x", "two": "x"}, "would both become {db}.x at the target"),
        ({"{db}": "{db}b"}, {}, "{db}.one and {db}b.one would both become {db}b.one at the target"),
    ],
)
def test_preflight_refuses_two_collections_renamed_to_the_same_name(mongo_server, elsewhere, db, tmp_path, databases, collections, words):
    other = db.client[f"{db.name}b"]
    db.one.insert_one({})
    db.two.insert_one({})
    other.one.insert_one({})
    set_folder = back_up(mongo(mongo_server, db.name, other.name), tmp_path / "set")
    db.client.drop_database(other.name)
    names = {old.format(db=db.name): new.format(db=db.name) for old, new in databases.items()}
    there = target(names, collections={f"{db.name}.{old}": new for old, new in collections.items()})
    found = refusals(mongo(elsewhere, db.name, there=there), LocalRestore(set_folder, tmp_path / "work"))
    assert any(words.format(db=db.name) in text for text in found)


@pytest.mark.parametrize(
    ("databases", "collections", "words"),
    [
        ({"shop": "local"}, {}, "shop can't become 'local': that database is the server's own"),
        ({"shop": "a b"}, {}, "no name of a database"),
        ({"shop": "é" * 32}, {}, "no name of a database"),
        ({}, {"shop.one": "a$b"}, "shop.one can't become 'a$b': that is no name of a collection"),
        ({}, {"shop.one": ""}, "no name of a collection"),
        ({}, {"shop.one": "system.x"}, "not the users' own"),
        ({}, {"shop.one": "__before_01234567_one"}, "not the users' own"),
    ],
)
def test_target_with_invalid_database_or_collection_name_is_refused(databases, collections, words):
    with pytest.raises(PlanError, match=re.escape(words)):
        Names.of(target(databases, collections=collections))


def test_preflight_warns_of_target_names_for_data_missing_from_the_set(mongo_server, elsewhere, db, tmp_path):
    db.one.insert_one({})
    set_folder = back_up(mongo(mongo_server, db.name), tmp_path / "set")
    source = mongo(elsewhere, db.name, there=target({"not": "there"}, collections={f"{db.name}.oen": "x"}))
    texts = [
        finding.text for finding in source.preflight(LocalRestore(set_folder, tmp_path / "work")).findings if finding.level == "warning"
    ]
    assert [text for text in texts if f"renames {db.name}.oen, which" in text]
    assert [text for text in texts if "renames not, which" in text]


def test_view_text_without_renamed_collections_is_unchanged_to_the_letter():
    text = '{"pipeline": [{"$match": {"at": {"$date": "2001-01-01T00:00:00Z"}, "n": 1e+300}}],  "viewOn": "a"}'
    assert Names(collections={"db.b": "c"}).view_text("db", text) == text
