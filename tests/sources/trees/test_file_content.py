"""The digest of a file: by its content alone, and as fast as its data are few."""

import hashlib
import io
import random
import subprocess

import pytest

from recovery.packs.pack import read_members
from recovery.sources.trees.entries import of_members, of_walk
from recovery.sources.trees.file_content import BLOCK, of_content
from recovery.sources.trees.walk import Walk


def digest(content: bytes):
    return of_content(io.BytesIO(content), len(content))[0]


def write(path, size, pieces):
    with path.open("wb") as out:
        out.truncate(size)
        for start, piece in pieces:
            out.seek(start)
            out.write(piece)


def on_disk(folder):
    return {path: facts for _, path, facts in of_walk(Walk(folder)) if facts["type"] == "file"}


def archived(folder, *options):
    argv = ["tar", "--create", "--format=posix", "--pax-option=delete=atime,delete=ctime", *options, "."]
    stream = subprocess.run(argv, cwd=folder, check=True, capture_output=True).stdout
    found = of_members(read_members(io.BytesIO(stream)))
    return {path.removeprefix("./"): facts for _, path, facts in found if facts["type"] == "file"}


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, (1 << 20) + 5])
def test_content_without_blocks_of_zeros_has_its_plain_sha256(size):
    content = random.Random(size).randbytes(size)
    assert digest(content) == {"sha256": hashlib.sha256(content).hexdigest()}


def test_content_of_other_length_or_place_of_zeros_has_another_digest():
    data, empty = b"x" * BLOCK, bytes(BLOCK)
    contents = [
        data + empty,
        empty + data,
        data + empty + empty,
        empty + empty,
        data + empty + data,
        data + data + empty,
        data + empty + b"\0",
    ]
    found = [(digest(content)["sparse_sha256"], len(content)) for content in contents]
    assert len(set(found)) == len(contents)
    assert len({sparse for sparse, _ in found}) == len(contents)


@pytest.mark.parametrize("seed", range(6))
def test_digest_is_the_same_on_disk_with_and_without_holes_and_of_an_archive(tmp_path, seed):
    chance = random.Random(seed)
    folder = tmp_path / "tree"
    folder.mkdir()
    pieces = [(chance.randrange(5 << 20), chance.randbytes(chance.choice([1, 4096, 70_000]))) for _ in range(chance.randrange(6))]
    pieces += [(chance.randrange(5 << 20), bytes(chance.choice([4096, 300_000]))) for _ in range(2)]
    write(folder / "holes", chance.choice([5 << 20, (5 << 20) + 12_345]), pieces)
    content = (folder / "holes").read_bytes()
    (folder / "dense").write_bytes(content)
    sides = [on_disk(folder), archived(folder), archived(folder, "--sparse")]
    assert {facts["sparse_sha256"] for side in sides for facts in side.values()} == {digest(content)["sparse_sha256"]}
    assert sides[0]["holes"]["stored"] < len(content), "there is a hole"


def test_file_that_is_read_in_pieces_has_the_digest_of_its_content():
    class Halting(io.BytesIO):
        def read(self, size=-1, /):
            return super().read(min(size, 40_001))

    content = bytes(5 * BLOCK) + b"x" * 100_000 + bytes(3 * BLOCK)
    assert of_content(Halting(content), len(content))[0] == digest(content)


def test_digest_of_terabytes_of_holes_reads_the_data_alone(tmp_path, monkeypatch):
    folder = tmp_path / "tree"
    folder.mkdir()
    write(folder / "lastlog", 8 << 40, [(0, b"first"), (5 << 40, b"middle" * 1000), ((8 << 40) - 5, b"final")])
    read = []
    plain_read = io.FileIO.read

    class Counted(io.FileIO):
        def read(self, size=-1, /):
            read.append(len(data := plain_read(self, size)))
            return data

    monkeypatch.setattr("recovery.sources.trees.entries._open", lambda path: Counted(path, "rb"))
    facts = on_disk(folder)["lastlog"]
    assert sum(read) < 10 << 20
    assert facts["stored"] < 1 << 20
    other = archived(folder, "--sparse")["lastlog"]
    assert (facts["sparse_sha256"], facts["size"]) == (other["sparse_sha256"], 8 << 40)
    write(folder / "lastlog", 8 << 40, [(0, b"first"), (5 << 40, b"middle" * 1000), ((8 << 40) - 5, b"finaL")])
    assert on_disk(folder)["lastlog"]["sparse_sha256"] != facts["sparse_sha256"]
