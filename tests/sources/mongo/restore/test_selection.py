"""Restores of single databases and collections: what was chosen comes back, and nothing else is touched."""

import tracemalloc

import pytest

from recovery.packs.content_diff import compare
from tests.support.local_restore import LocalRestore, back_up
from tests.support.mongo_samples import OLD, mongo, rows_of, series, state


@pytest.fixture
def dbs(mongo_server, request):
    """Two databases of a server, empty."""
    with mongo_server.client() as client:
        names = [f"parts{abs(hash(request.node.nodeid)) % 10**8}{letter}" for letter in "ab"]
        yield [client[name] for name in names]
        for name in names:
            client.drop_database(name)


def fill(db):
    db.orders.insert_many([{"_id": n, "what": f"order {n}"} for n in range(30)])
    db.orders.create_index("what", unique=True)
    db.orders.create_index("at", expireAfterSeconds=3600)
    db["orders[old]"].insert_one({"_id": 1})
    db["orders[old]"].create_index("x")
    db["dot.ted name"].insert_one({"_id": 1})
    series(db, "weather", 20)
    series(db, "tides", 20)
    db.create_collection("open", viewOn="orders", pipeline=[{"$match": {"open": True}}])
    db.create_collection("open first", viewOn="open", pipeline=[{"$limit": 1}])


def spoil(db):
    """Change or drop everything, and add something."""
    for name in ("orders", "orders[old]", "dot.ted name"):
        db[name].insert_one({"_id": "new"})
    db.weather.insert_one({"at": OLD, "where": 9, "t": 9})
    db.tides.insert_one({"at": OLD, "where": 9, "t": 9})
    db.command("collMod", "open", viewOn="orders", pipeline=[])
    db.drop_collection("open first")
    db.extra.insert_one({"_id": 1})


def of(rows, *names):
    """The rows of some collections and views."""
    return [(kind, name, facts) for kind, name, facts in rows if (name.rpartition("[")[0] if kind == "index" else name) in names]


def put_back(source, set_folder, work, *only):
    restore = LocalRestore(set_folder, work, only=only)
    assert not [finding.text for finding in source.preflight(restore).findings if finding.level == "refusal"]
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    return restore


@pytest.mark.parametrize(
    "names", [("orders",), ("orders[old]",), ("dot.ted name", "weather"), ("open", "open first"), ("weather", "orders")]
)
def test_restore_of_single_collections_and_views_keeps_all_other_data(mongo_server, dbs, tmp_path, names):
    for db in dbs:
        fill(db)
    source = mongo(mongo_server, *(db.name for db in dbs))
    wanted = rows_of(back_up(source, tmp_path / "set"))
    for db in dbs:
        spoil(db)
    before = state(source, tmp_path / "before")
    chosen = [f"{dbs[0].name}.{name}" for name in names]
    restore = put_back(source, tmp_path / "set", tmp_path / "work", *chosen)
    unpacked = {path.relative_to(restore.folder / "unpacked").as_posix() for path in (restore.folder / "unpacked").rglob("*.json")}
    assert len(unpacked) == len(names), "only what was chosen is unpacked"
    source.finalize(restore)
    after = state(source, tmp_path / "after")
    untouched = [row for row in before if row not in of(before, *chosen)]
    assert compare([*untouched, *of(wanted, *chosen)], after) == []
    aside = {name for name in dbs[0].list_collection_names() if name.startswith("__before")}
    assert aside == {f"__before_{restore.id}_{name}" for name in names if not name.startswith("open")}
    source.drop_replaced(restore)


def test_rollback_of_single_collections_returns_the_previous_data(mongo_server, dbs, tmp_path):
    fill(dbs[0])
    source = mongo(mongo_server, dbs[0].name)
    back_up(source, tmp_path / "set")
    spoil(dbs[0])
    before = state(source, tmp_path / "before")
    restore = put_back(
        source, tmp_path / "set", tmp_path / "work", *(f"{dbs[0].name}.{name}" for name in ("orders", "tides", "open first"))
    )
    assert compare(before, state(source, tmp_path / "switched")) != []
    source.roll_back(restore)
    source.discard(restore)
    assert compare(before, state(source, tmp_path / "after")) == []
    assert source.replaced_copies() == []


def test_restore_of_one_database_sets_extra_collections_aside_and_keeps_other_databases(mongo_server, dbs, tmp_path):
    for db in dbs:
        fill(db)
    source = mongo(mongo_server, *(db.name for db in dbs))
    wanted = rows_of(back_up(source, tmp_path / "set"))
    for db in dbs:
        spoil(db)
    before = state(source, tmp_path / "before")
    restore = put_back(source, tmp_path / "set", tmp_path / "work", dbs[0].name)
    source.finalize(restore)
    after = state(source, tmp_path / "after")
    expected = [row for row in wanted if row[1].startswith(dbs[0].name)] + [row for row in before if row[1].startswith(dbs[1].name)]
    assert compare(expected, after) == []
    assert dbs[0][f"__before_{restore.id}_extra"].count_documents({}) == 1
    assert dbs[1].extra.count_documents({}) == 1


# Users and roles ------------------------------------------------------------------------------------------------------


@pytest.fixture
def accounts(dbs):
    """A user and a role of each database, and one of admin with a right in the first; dropped again."""
    admin = dbs[0].client.admin
    for db in dbs:
        db.things.insert_one({"_id": 1})
        db.command("createRole", "helper", privileges=[{"resource": {"db": db.name, "collection": ""}, "actions": ["find"]}], roles=[])
        db.command("createUser", "worker", pwd="w", roles=["helper"])
    admin.command("createUser", f"{dbs[0].name} keeper", pwd="w", roles=[{"role": "read", "db": dbs[0].name}])
    made = {f"{db.name}.worker" for db in dbs} | {f"{db.name}.helper" for db in dbs} | {f"admin.{dbs[0].name} keeper"}

    def there():
        ids = [entry["_id"] for name in ("system.users", "system.roles") for entry in admin[name].find({}, {"_id": 1})]
        return made & set(ids)

    def drop():
        for full in there():
            database, _, name = full.partition(".")
            admin.client[database].command("dropRole" if name == "helper" else "dropUser", name)

    yield there, drop
    drop()


@pytest.mark.parametrize("whole_server", [False, True])
def test_restore_of_one_database_creates_missing_users_and_roles_until_rollback(mongo_server, dbs, accounts, tmp_path, whole_server):
    there, drop = accounts
    source = mongo(mongo_server, *([] if whole_server else [db.name for db in dbs]))
    back_up(source, tmp_path / "set")
    drop()
    restore = put_back(source, tmp_path / "set", tmp_path / "work", dbs[0].name)
    name = dbs[0].name
    assert there() == {f"{name}.worker", f"{name}.helper", f"admin.{name} keeper"}
    source.roll_back(restore)
    source.discard(restore)
    assert there() == set()


def test_restore_of_one_collection_creates_no_users_as_preflight_reports(mongo_server, dbs, accounts, tmp_path):
    there, drop = accounts
    source = mongo(mongo_server, *(db.name for db in dbs))
    back_up(source, tmp_path / "set")
    drop()
    restore = put_back(source, tmp_path / "set", tmp_path / "work", f"{dbs[0].name}.things")
    assert there() == set()
    found = source.preflight(LocalRestore(tmp_path / "set", tmp_path / "work2", only=[f"{dbs[0].name}.things"])).findings
    assert [finding.level for finding in found if "Users and roles are not restored" in finding.text] == ["fact"]
    source.roll_back(restore)


# Refusals and comparison ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("{a}.oders", "of {a} it has orders, "),
        ("nothing", "the database 'nothing'; it has {a}"),
        ("{a}.", "write database or database.collection"),
        (".orders", "write database or database.collection"),
        ("{a}.orders.what_1", "The set does not have '{a}.orders.what_1'"),
    ],
)
def test_preflight_refuses_unknown_or_malformed_parts_with_suggestions(mongo_server, dbs, tmp_path, part, words):
    fill(dbs[0])
    source = mongo(mongo_server, dbs[0].name)
    back_up(source, tmp_path / "set")
    asked = [f"{dbs[0].name}.weather", part.format(a=dbs[0].name)]
    found = source.preflight(LocalRestore(tmp_path / "set", tmp_path / "work", only=asked)).findings
    (refusal,) = [finding.text for finding in found if finding.level == "refusal"]
    assert words.format(a=dbs[0].name) in refusal


def test_preflight_warns_of_a_view_on_a_missing_collection(mongo_server, dbs, tmp_path):
    db = dbs[0]
    fill(db)
    db.create_collection("joined", viewOn="orders", pipeline=[{"$lookup": {"from": "weather", "pipeline": [], "as": "w"}}])
    source = mongo(mongo_server, db.name)
    back_up(source, tmp_path / "set")

    def warnings(*names):
        restore = LocalRestore(tmp_path / "set", tmp_path / "work", only=[f"{db.name}.{name}" for name in names])
        return [finding.text for finding in source.preflight(restore).findings if "will not be there" in finding.text]

    assert warnings("open") == []
    db.orders.drop()
    (warning,) = warnings("open")
    assert f"The view {db.name}.open " in warning
    assert "reads orders, which" in warning
    assert warnings("open", "orders", "joined") == []
    db.weather.drop()
    (warning,) = warnings("open", "orders", "joined")
    assert "reads weather, which" in warning


def test_compare_counts_changes_of_only_the_selected_parts(mongo_server, dbs, tmp_path):
    db = dbs[0]
    fill(db)
    source = mongo(mongo_server, db.name)
    set_folder = back_up(source, tmp_path / "set")
    size = {name: facts["bytes"] for kind, name, facts in rows_of(set_folder) if kind == "collection"}

    def found(*only):
        changes = source.compare(LocalRestore(set_folder, tmp_path / "work", only=only))
        return {(change.kind, change.what): (change.count, change.bytes, change.names) for change in changes}

    assert {what for _, what in found()} == {"equal"}
    spoil(db)
    db.orders.drop_index("what_1")
    db["dot.ted name"].drop()
    before = state(source, tmp_path / "before")
    whole = found()
    names = [f"{db.name}.{name}" for name in ("orders", "orders[old]", "tides", "weather")]
    assert whole["collection", "changed"] == (4, sum(size[name] for name in names), tuple(names))
    assert whole["collection", "added"] == (1, size[f"{db.name}.dot.ted name"], (f"{db.name}.dot.ted name",))
    assert whole["collection", "removed"][0] == 1
    assert whole["index", "added"][2] == (f"{db.name}.dot.ted name[_id_]", f"{db.name}.orders[what_1]")
    assert whole["view", "changed"][2] == (f"{db.name}.open",)
    assert whole["view", "added"][2] == (f"{db.name}.open first",)
    single = found(f"{db.name}.orders")
    assert single["collection", "changed"] == (1, size[f"{db.name}.orders"], (f"{db.name}.orders",))
    assert {kind for kind, _ in single} == {"collection", "index"}
    assert compare(before, state(source, tmp_path / "after")) == [], "it changes nothing"
    db.client.drop_database(db.name)
    assert {what for _, what in found()} == {"added"}


def test_index_with_a_megabyte_of_brackets_in_its_name_costs_no_memory(mongo_server, dbs, tmp_path):
    dbs[0].some.insert_one({"_id": 1})
    dbs[0].some.create_index("x", name="[" * 1_000_000, expireAfterSeconds=1_700_000_000)
    source = mongo(mongo_server, dbs[0].name)
    restore = LocalRestore(back_up(source, tmp_path / "set"), tmp_path / "work")
    tracemalloc.start()
    try:
        source.preflight(restore)
        source.stage(restore)
        assert source.verify_staged(restore) == []
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()
        source.discard(restore)
