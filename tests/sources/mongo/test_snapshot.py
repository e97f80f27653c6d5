import pytest
from bson import Int64, decode, decode_all, encode
from pymongo.cursor import RawBatchCursor
from pymongo.errors import CursorNotFound, OperationFailure
from pymongo.message import _OpMsg

from recovery.sources.mongo.snapshot import MAJORITY, Batches, raw_batches


@pytest.fixture
def collection(mongo_server, request):
    with mongo_server.client() as client:
        name = f"d{abs(hash(request.node.nodeid)) % 10**10}"
        client.drop_database(name)
        yield client[name].things
        client.drop_database(name)


@pytest.mark.parametrize(
    "sizes",
    [[], [0], [1] * 64, [1] * 65, [10] * 30_000, [n * 40 for n in range(700)], [3, 16 * 1024 * 1024 - 100, 5], [1] * 70 + [9_000_000] * 3],
    ids=["none", "one", "a sample", "a sample and one", "small ones", "growing ones", "the largest", "small, then large"],
)
def test_raw_batches_have_the_same_documents_as_the_driver(collection, sizes, monkeypatch):
    """The driver's way is closed while ours reads: it makes an object of each document."""
    written = [encode({"_id": n, "array": [{"n": n}, []], "text": "x" * size}) for n, size in enumerate(sizes)]
    for start in range(0, len(written), 10_000):
        collection.insert_many(decode(document) for document in written[start : start + 10_000])
    own = b"".join(collection.with_options(read_concern=MAJORITY).find_raw_batches())
    with monkeypatch.context() as patch:
        patch.delattr(RawBatchCursor, "_unpack_response")
        read = list(raw_batches(collection.database.client, collection.database.name, collection.name, MAJORITY))
    assert b"".join(read) == own == b"".join(written)


def test_batches_of_an_invalid_query_fail(collection):
    collection.insert_one({})
    with pytest.raises(OperationFailure, match="unknown top level operator"):
        list(Batches(collection, {"$nope": 1}))


def test_batches_fail_after_the_server_killed_the_cursor(collection):
    collection.insert_many([{} for _ in range(100)])
    with Batches(collection, batch_size=10) as batches:
        next(batches)
        collection.database.command("killCursors", collection.name, cursors=[batches.cursor_id])
        with pytest.raises(CursorNotFound):
            list(batches)


def test_batches_leave_a_reply_of_another_shape_to_the_driver(collection):
    documents = [{"n": n} for n in range(3)]
    answer = _OpMsg(0, encode({"ok": 1.0, "cursor": {"id": Int64(0), "ns": "a.b", "nextBatch": documents}}))
    (read,) = Batches(collection)._unpack_response(answer, None, None, user_fields={"cursor": {"nextBatch": 1}})
    assert decode_all(read["cursor"]["nextBatch"][0]) == documents
