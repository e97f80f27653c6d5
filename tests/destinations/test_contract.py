"""What every destination must do. A new one is added to the fixture ``destination`` and has to pass."""

import hashlib
import io
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from recovery.common.errors import DestinationError
from recovery.destinations.base import Missing, Refused
from tests.support.sets import keys_of

MIB = 1 << 20


def send(destination, tmp_path, key, data, sha256=None):
    path = tmp_path / secrets.token_hex(8)
    path.write_bytes(data)
    sent = []
    return destination.put(path, key, sha256 or hashlib.sha256(data).hexdigest(), sent.append), sum(sent)


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, 20 * MIB + 7])
def test_put_stores_the_content_that_open_and_list_return(destination, tmp_path, size):
    data = secrets.token_bytes(size)
    assert send(destination, tmp_path, "plan/set/pack", data) == (True, size)
    with destination.open("plan/set/pack") as source:
        assert source.read() == data
    entry, *more = destination.list("plan/set/")
    assert not more
    assert (entry.key, entry.bytes) == ("plan/set/pack", size)
    assert abs(entry.modified - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_put_sends_changed_content_but_not_unchanged_content(destination, tmp_path, size):
    data = secrets.token_bytes(size)
    assert send(destination, tmp_path, "a", data) == (True, size)
    assert send(destination, tmp_path, "a", data) == (False, 0)
    other = data[:-1] + bytes([data[-1] ^ 1])
    assert send(destination, tmp_path, "a", other) == (True, size)
    assert destination.read("a", size) == other


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_put_refuses_a_file_with_wrong_checksum_and_stores_nothing(destination, tmp_path, size):
    with pytest.raises(DestinationError, match="is not what the manifest says"):
        send(destination, tmp_path, "a", secrets.token_bytes(size), sha256="0" * 64)
    assert keys_of(destination) == set()


def test_open_reads_an_object_in_chunks(destination, tmp_path):
    data = secrets.token_bytes(3 * MIB)
    send(destination, tmp_path, "a", data)
    out = io.BytesIO()
    with destination.open("a") as source:
        while chunk := source.read(100_000):
            assert len(chunk) <= 100_000
            out.write(chunk)
    assert out.getvalue() == data


def test_open_closed_before_the_end_leaves_the_object_readable(destination, tmp_path):
    send(destination, tmp_path, "a", secrets.token_bytes(3 * MIB))
    with destination.open("a") as source:
        source.read(10)
    assert len(destination.read("a", 3 * MIB)) == 3 * MIB


def test_open_raises_errors_of_its_caller_unchanged(destination, tmp_path):
    send(destination, tmp_path, "a", b"x")
    with pytest.raises(FileNotFoundError), destination.open("a"):
        (tmp_path / "nowhere/x").read_bytes()


def test_read_of_a_missing_object_raises_missing(destination):
    with pytest.raises(Missing):
        destination.read("plan/nothing", 10)


def test_read_refuses_an_object_larger_than_the_limit(destination, tmp_path):
    send(destination, tmp_path, "a", b"x" * 101)
    with pytest.raises(Refused, match="larger than the 100 bytes"):
        destination.read("a", 100)


def test_list_and_folders_return_only_entries_below_the_prefix(destination, tmp_path):
    for key in ("p/s1/manifest.json", "p/s1/postgres/main/a.000.tar.zst.age", "p/s2/manifest.json", "p2/s3/manifest.json", "p/file"):
        send(destination, tmp_path, key, b"x")
    assert keys_of(destination, "p/s1/") == {"p/s1/manifest.json", "p/s1/postgres/main/a.000.tar.zst.age"}
    assert len(keys_of(destination)) == 5
    assert sorted(destination.folders("p/")) == ["s1", "s2"]
    assert sorted(destination.folders("")) == ["p", "p2"]
    assert list(destination.folders("nobody/")) == []
    assert keys_of(destination, "nobody/") == set()


def test_keys_with_special_characters_are_not_mixed_up(destination, tmp_path):
    keys = {f"p/s/{name}" for name in ("a b", "a+b", "a%20b", "a%2Bb", "a%252Bb", "ä", "%C3%A4", "a&b=c", "a#b", "a?b", "x'y\"z<")}
    for key in keys:
        send(destination, tmp_path, key, key.encode())
    assert keys_of(destination, "p/s/") == keys
    assert all(destination.read(key, 100) == key.encode() for key in keys)
    destination.delete(keys - {"p/s/a%2Bb"})
    assert keys_of(destination) == {"p/s/a%2Bb"}


def test_delete_removes_the_given_keys_and_ignores_missing_keys(destination, tmp_path):
    for number in range(5):
        send(destination, tmp_path, f"p/s/{number}/x", b"x")
    destination.delete(f"p/s/{number}/x" for number in range(4))
    assert keys_of(destination) == {"p/s/4/x"}
    destination.delete(["p/s/0/x", "p/s/4/x", "never/was"])
    assert keys_of(destination) == set()


def test_now_returns_the_current_time_and_leaves_no_object(destination):
    assert abs(destination.now() - datetime.now(UTC)) < timedelta(minutes=1)
    assert keys_of(destination) == set()


def test_sweep_keeps_finished_objects(destination, tmp_path):
    send(destination, tmp_path, "p/s/x", b"x")
    destination.sweep("p/")
    assert keys_of(destination) == {"p/s/x"}


def test_concurrent_puts_of_the_same_key_leave_a_single_undamaged_object(destination, tmp_path):
    data = [secrets.token_bytes(2 * MIB) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: send(destination, tmp_path, "a", each), data))
    assert destination.read("a", 2 * MIB) in data
    assert keys_of(destination) == {"a"}
