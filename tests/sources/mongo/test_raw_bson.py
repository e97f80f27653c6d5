import itertools
import random

import bson
import pytest
import xxhash

from recovery.sources.mongo.raw_bson import DamagedBson, digest, documents, split


@pytest.fixture(scope="module")
def stream():
    chosen = random.Random(3)
    return b"".join(bson.encode({"_id": n, "text": "x" * chosen.randint(0, 300), "inner": {"list": [n] * 3}}) for n in range(200))


def in_pieces(data, size):
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 3, 4, 5, 64, 1000, 10**6])
def test_documents_and_digest_match_the_driver_for_any_block_size(stream, size):
    found = list(itertools.chain.from_iterable(documents(in_pieces(stream, size))))
    assert [bson.decode(document) for document in found] == bson.decode_all(stream)
    assert digest(in_pieces(stream, size)) == {
        "count": 200,
        "bytes": len(stream),
        "digest": f"{sum(map(xxhash.xxh3_64_intdigest, found)) % 2**64:016x}",
    }


def test_digest_changes_with_a_flipped_bit_and_not_with_document_order(stream):
    found = list(itertools.chain.from_iterable(documents([stream])))
    assert digest(reversed(found)) == digest([stream])
    changed = bytearray(stream)
    changed[20] ^= 1
    assert digest([bytes(changed)])["digest"] != digest([stream])["digest"]


def test_digest_of_an_empty_stream_counts_no_documents():
    assert digest([]) == {"count": 0, "digest": "0" * 16, "bytes": 0}


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 5, 100, 333])
def test_digest_of_a_truncated_stream_fails(stream, lost):
    with pytest.raises(DamagedBson):
        digest(in_pieces(stream[:-lost], 1 << 16))


@pytest.mark.parametrize("length", [0, 4, -1, 17 * 1024 * 1024, 2**31 - 1])
def test_split_fails_on_an_impossible_document_length(stream, length):
    with pytest.raises(DamagedBson, match="length"):
        split(length.to_bytes(4, "little", signed=True) + stream)


def test_digest_fails_on_a_wrong_document_length(stream):
    wrong = bytearray(stream)
    wrong[0] += 1
    with pytest.raises(DamagedBson):
        digest([bytes(wrong)])


def test_digest_fails_on_bytes_after_the_last_document(stream):
    for extra in (b"\0", b"\0\0\0\0", b"hello"):
        with pytest.raises(DamagedBson):
            digest([stream, extra])


def test_digest_error_has_the_byte_offset_of_the_damage(stream):
    with pytest.raises(DamagedBson, match=f"after byte {len(stream)}"):
        digest([stream, b"\0"])
