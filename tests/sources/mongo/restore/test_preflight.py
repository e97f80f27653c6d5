"""What the first gate of a restore of MongoDB says."""

import pytest

from tests.support.local_restore import LocalRestore, back_up
from tests.support.mongo_samples import mongo


@pytest.fixture
def db(mongo_server, request):
    with mongo_server.client() as client:
        name = f"gate{abs(hash(request.node.nodeid)) % 10**8}"
        yield client[name]
        client.drop_database(name)


def told(source, restore, level):
    return "\n".join(finding.text for finding in source.preflight(restore).findings if finding.level == level)


def test_restore_of_a_set_without_excluded_collections_says_what_does_not_come_back(mongo_server, db, tmp_path):
    db.orders.insert_one({"_id": 1})
    db.cache.insert_one({"_id": 1})
    source = mongo(mongo_server, db.name, exclude=(f"{db.name}.cache",))
    set_folder = back_up(source, tmp_path / "set")
    restore = LocalRestore(set_folder, tmp_path / "whole")
    words = f"The plan left these out of the backup, so they don't come back: {db.name}.cache (exclude {db.name}.cache)."
    assert words in told(source, restore, "warning")
    in_place = told(source, LocalRestore(set_folder, tmp_path / "in-place", in_place=True), "warning")
    assert "What is live of them is dropped, and then in the safety set alone." in in_place
    refused = told(source, LocalRestore(set_folder, tmp_path / "one", only=[f"{db.name}.cache"]), "refusal")
    assert f"the plan's exclude {db.name}.cache left it out of the backup" in refused
    assert "left these out" not in told(source, LocalRestore(set_folder, tmp_path / "other", only=[f"{db.name}.orders"]), "warning")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert sorted(name.removeprefix(f"__before_{restore.id}_") for name in db.list_collection_names()) == ["cache", "orders", "orders"]
