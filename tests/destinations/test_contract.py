"""What every destination must do. A new one is added to ``KINDS`` and has to pass."""

import hashlib
import io
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from recovery.common.errors import DestinationError
from recovery.destinations.base import Missing, Refused
from recovery.destinations.folder import Folder
from tests.support.sets import keys_of, s3_destination

KINDS = ["folder", pytest.param("s3", marks=pytest.mark.servers)]
MIB = 1 << 20


@pytest.fixture(params=KINDS)
def destination(request, tmp_path):
    if request.param == "folder":
        (tmp_path / "there").mkdir()
        return Folder("local", tmp_path / "there")
    return s3_destination(request.getfixturevalue("s3_server"))


def send(destination, tmp_path, key, data, sha256=None):
    path = tmp_path / secrets.token_hex(8)
    path.write_bytes(data)
    sent = []
    return destination.put(path, key, sha256 or hashlib.sha256(data).hexdigest(), sent.append), sum(sent)


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, 20 * MIB + 7])
def test_what_is_sent_comes_back(destination, tmp_path, size):
    data = secrets.token_bytes(size)
    assert send(destination, tmp_path, "plan/set/pack", data) == (True, size)
    with destination.open("plan/set/pack") as source:
        assert source.read() == data
    entry, *more = destination.list("plan/set/")
    assert not more
    assert (entry.key, entry.bytes) == ("plan/set/pack", size)
    assert abs(entry.modified - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_the_same_again_is_not_sent_and_something_else_is(destination, tmp_path, size):
    data = secrets.token_bytes(size)
    assert send(destination, tmp_path, "a", data) == (True, size)
    assert send(destination, tmp_path, "a", data) == (False, 0)
    other = data[:-1] + bytes([data[-1] ^ 1])
    assert send(destination, tmp_path, "a", other) == (True, size)
    assert destination.read("a", size) == other


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_a_file_that_is_not_what_its_checksum_says_is_refused_and_nothing_arrives(destination, tmp_path, size):
    with pytest.raises(DestinationError, match="is not what the manifest says"):
        send(destination, tmp_path, "a", secrets.token_bytes(size), sha256="0" * 64)
    assert keys_of(destination) == set()


def test_reads_in_pieces(destination, tmp_path):
    data = secrets.token_bytes(3 * MIB)
    send(destination, tmp_path, "a", data)
    out = io.BytesIO()
    with destination.open("a") as source:
        while chunk := source.read(100_000):
            assert len(chunk) <= 100_000
            out.write(chunk)
    assert out.getvalue() == data


def test_a_read_that_is_given_up_does_no_harm(destination, tmp_path):
    send(destination, tmp_path, "a", secrets.token_bytes(3 * MIB))
    with destination.open("a") as source:
        source.read(10)
    assert len(destination.read("a", 3 * MIB)) == 3 * MIB


def test_what_goes_wrong_elsewhere_while_reading_is_not_blamed_on_the_destination(destination, tmp_path):
    send(destination, tmp_path, "a", b"x")
    with pytest.raises(FileNotFoundError), destination.open("a"):
        (tmp_path / "nowhere/x").read_bytes()


def test_what_is_not_there_is_missing(destination):
    with pytest.raises(Missing):
        destination.read("plan/nothing", 10)


def test_an_object_larger_than_it_may_be_is_refused(destination, tmp_path):
    send(destination, tmp_path, "a", b"x" * 101)
    with pytest.raises(Refused, match="larger than the 100 bytes"):
        destination.read("a", 100)


def test_lists_below_a_prefix_and_folders_below_it(destination, tmp_path):
    for key in ("p/s1/manifest.json", "p/s1/postgres/main/a.000.tar.zst.age", "p/s2/manifest.json", "p2/s3/manifest.json", "p/file"):
        send(destination, tmp_path, key, b"x")
    assert keys_of(destination, "p/s1/") == {"p/s1/manifest.json", "p/s1/postgres/main/a.000.tar.zst.age"}
    assert len(keys_of(destination)) == 5
    assert sorted(destination.folders("p/")) == ["s1", "s2"]
    assert sorted(destination.folders("")) == ["p", "p2"]
    assert list(destination.folders("nobody/")) == []
    assert keys_of(destination, "nobody/") == set()


def test_deletes_what_is_there_and_minds_nothing_else(destination, tmp_path):
    for number in range(5):
        send(destination, tmp_path, f"p/s/{number}/x", b"x")
    destination.delete(f"p/s/{number}/x" for number in range(4))
    assert keys_of(destination) == {"p/s/4/x"}
    destination.delete(["p/s/0/x", "p/s/4/x", "never/was"])
    assert keys_of(destination) == set()


def test_its_clock_is_this_machines_here(destination):
    assert abs(destination.now() - datetime.now(UTC)) < timedelta(minutes=1)
    assert keys_of(destination) == set()


def test_what_is_being_read_can_be_swept_around(destination, tmp_path):
    send(destination, tmp_path, "p/s/x", b"x")
    destination.sweep("p/")
    assert keys_of(destination) == {"p/s/x"}


def test_two_writers_of_one_key_leave_one_whole_object(destination, tmp_path):
    data = [secrets.token_bytes(2 * MIB) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: send(destination, tmp_path, "a", each), data))
    assert destination.read("a", 2 * MIB) in data
    assert keys_of(destination) == {"a"}
