# pathlib has no paths of bytes.
# ruff: noqa: PTH102, PTH118, PTH123, PTH211

import hashlib
import io
import os
import random
import subprocess
import tarfile

import pytest

from recovery.common.errors import ArtifactError
from recovery.packs.tar_reader import BLOCK, members

TAR = ["tar", "--create", "--format=posix", "--pax-option=delete=atime,delete=ctime", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes", "GNU.sparse.realsize": "5000"}


def grow(folder, chance: random.Random):
    """A tree with everything that a pack may hold, always the same for the same seed."""
    folders = [os.fsencode(folder)]
    files = []
    for number in range(60):
        name = os.path.join(chance.choice(folders), odd_name(chance, number))
        kind = chance.choice(["file", "file", "file", "folder", "link", "hard link", "fifo", "holes"])
        if kind == "folder":
            os.mkdir(name)
            folders.append(name)
        elif kind == "link":
            os.symlink(chance.choice([b"/nowhere", b"x" * 180, b"../up", os.fsencode("ü")]), name)
        elif kind == "hard link" and files:
            os.link(chance.choice(files), name)
        elif kind == "fifo":
            os.mkfifo(name)
        else:
            write_file(name, chance, holes=kind == "holes")
            files.append(name)


def odd_name(chance, number):
    stem = chance.choice([b"plain", b"with space", b"new\nline", b"\xff\xfe", "Zoë".encode(), b"-dash", b"percent%20=", b"L" * 240])
    return stem + b"%d" % number


def write_file(name, chance, holes):
    with open(name, "wb") as out:
        for _ in range(chance.randrange(6)):
            if holes:
                out.seek(chance.randrange(1, 3_000_000), os.SEEK_CUR)
            out.write(chance.randbytes(chance.choice([0, 1, 511, 512, 513, 70_000])))
        if holes:
            out.truncate(out.tell() + chance.randrange(2_000_000))
    if chance.random() < 0.3:
        os.setxattr(name, b"user.note=" + b"%d" % chance.randrange(9), chance.randbytes(40))
    times = chance.randrange(10**18, 2 * 10**18)
    os.utime(name, ns=(times, times))


def facts(info, data):
    digest = hashlib.sha256(data.read()).hexdigest() if data else None
    xattrs = {key: value for key, value in info.pax_headers.items() if key.startswith("SCHILY")}
    return info.name, info.type, info.size, info.linkname, info.mode, info.mtime, info.uid, info.gid, xattrs, digest


def read_all(stream: bytes):
    return [facts(member.info, member.open()) for member in members(io.BytesIO(stream))]


@pytest.mark.parametrize("seed", range(8))
def test_tar_reader_reads_the_same_members_as_the_standard_library(tmp_path, seed):
    grow(tmp_path, random.Random(seed))
    stream = subprocess.run([*TAR, "--sparse", "."], cwd=tmp_path, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(stream), mode="r:", errors="surrogateescape") as stock:
        expected = [facts(info, stock.extractfile(info) if info.isreg() else None) for info in stock]
    found = read_all(stream)
    assert [each[1:] for each in found] == [each[1:] for each in expected]
    # of a sparse file with an odd name the library takes the stand-in that GNU tar writes for others; so the names from tar itself
    listed = subprocess.run(["tar", "--list", "--quoting-style=literal"], input=stream, check=True, capture_output=True).stdout
    names = [name + "/" * (kind == tarfile.DIRTYPE) + "\n" for name, kind, *_ in found]
    assert "".join(names).encode("utf-8", "surrogateescape") == listed
    assert len(expected) > 50


def test_tar_reader_raw_bytes_of_all_members_equal_the_stream(tmp_path):
    grow(tmp_path, random.Random(3))
    stream = subprocess.run([*TAR, "--sparse", "."], cwd=tmp_path, check=True, capture_output=True).stdout
    raw = b"".join(chunk for member in members(io.BytesIO(stream)) for chunk in member.raw())
    assert stream.startswith(raw)
    assert not stream[len(raw) :].strip(b"\0")


def test_tar_reader_finds_the_next_member_after_unread_and_half_read_members(tmp_path):
    for number in range(9):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 1000 * number)
    stream = subprocess.run([*TAR, *map(str, range(9))], cwd=tmp_path, check=True, capture_output=True).stdout
    seen = []
    for member in members(io.BytesIO(stream)):
        seen.append(member.info.name)
        if int(member.info.name) % 2:
            member.open().read(700)
    assert seen == list(map(str, range(9)))


@pytest.mark.parametrize("size", [0, 1, 512, 1 << 20, 3_000_001])
def test_tar_reader_reads_a_sparse_file_without_data(tmp_path, size):
    (tmp_path / "holes").touch()
    os.truncate(tmp_path / "holes", size)
    stream = subprocess.run([*TAR, "--sparse", "holes"], cwd=tmp_path, check=True, capture_output=True).stdout
    assert read_all(stream)[0][-1] == hashlib.sha256(bytes(size)).hexdigest()


# Damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_stream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    (folder / "a").write_bytes(b"a" * 700)
    (folder / ("n" * 120)).write_bytes(b"long")
    (folder / "link").symlink_to("a")
    with (folder / "holes").open("wb") as out:
        out.write(b"x" * 4096)
        out.truncate(1 << 20)
    names = ["a", "n" * 120, "link", "holes"]
    return subprocess.run([*TAR, "--sparse", "--blocking-factor=1", *names], cwd=folder, check=True, capture_output=True).stdout


def test_tar_reader_refuses_a_stream_truncated_at_any_position(small_stream):
    whole = read_all(small_stream)
    end = len(small_stream) - 2 * BLOCK
    for length in [*range(0, end, 97), *range(0, end + 1, BLOCK)]:
        with pytest.raises(ArtifactError):
            read_all(small_stream[:length])
    assert len(whole) == 4


@pytest.mark.slow
def test_tar_reader_raises_only_artifact_errors_on_flipped_bytes(small_stream):
    """Whatever a byte becomes, the reader ends, with an error of ours or with what it read; the hash of the pack tells the rest."""
    chance = random.Random(1)
    refused = 0
    for position in range(0, len(small_stream), 7):
        data = bytearray(small_stream)
        data[position] ^= chance.randrange(1, 256)
        try:
            read_all(bytes(data))
        except ArtifactError:
            refused += 1
    assert refused > 100


def test_tar_reader_refuses_data_after_the_end(small_stream):
    with pytest.raises(ArtifactError, match="behind its end"):
        read_all(small_stream + b"more")


# Forged headers -----------------------------------------------------------------------------------------------------


def header(name="f", kind=tarfile.REGTYPE, size=0, **changes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for key, value in changes.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.USTAR_FORMAT)


def extended(*records: bytes, kind=tarfile.XHDTYPE) -> bytes:
    data = b"".join(records)
    return header("x", kind, len(data)) + data + bytes(-len(data) % BLOCK)


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode()
    length = len(text) + 1
    while len(str(length)) + len(text) != length:
        length += 1
    return str(length).encode() + text


def sparse(map_text: bytes, data: bytes = b"", **changes) -> bytes:
    body = map_text.ljust(BLOCK, b"\0") + data
    values = {key: changes.get(key.rpartition(".")[2], value) for key, value in SPARSE.items()}
    return extended(*(record(*item) for item in values.items())) + header("f", size=len(body)) + body + bytes(-len(body) % BLOCK)


def test_tar_reader_reads_a_well_formed_sparse_file():
    assert read_all(sparse(b"2\n10\n5\n100\n3\n", b"helloxyz") + bytes(2 * BLOCK))[0][2] == 5000


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(extended(record("path", "../../evil"), kind=tarfile.XGLTYPE) + header(), id="global header"),
        pytest.param(header("x", tarfile.GNUTYPE_LONGNAME, 512) + b"../../evil".ljust(512, b"\0") + header(), id="long name of GNU"),
        pytest.param(header("x", tarfile.GNUTYPE_LONGLINK, 512) + b"/etc".ljust(512, b"\0") + header(), id="long link of GNU"),
        pytest.param(extended(record("path", "a")) + extended(record("path", "b")) + header(), id="two extended headers"),
        pytest.param(extended(record("path", "a"), record("path", "b")) + header(), id="one keyword twice"),
        pytest.param(extended(record("hdrcharset", "BINARY")) + header(), id="foreign keyword"),
        pytest.param(extended(record("path", "ok\0/../evil")) + header(), id="zero byte in a name"),
        pytest.param(header("link", tarfile.SYMTYPE, 1024, linkname="a") + bytes(1024), id="link with data"),
        pytest.param(extended(record("size", "512")) + header("dir", tarfile.DIRTYPE) + bytes(512), id="folder with data"),
        pytest.param(extended(record("path", "d/")) + header("f", size=512) + bytes(512), id="file with the name of a folder"),
        pytest.param(header("f", tarfile.CONTTYPE), id="contiguous file"),
        pytest.param(header("f", b"S"), id="sparse file of GNU"),
        pytest.param(extended(record("size", "-1")) + header(), id="negative size"),
        pytest.param(extended(record("size", "9" * 5000)) + header(), id="endless size"),
        pytest.param(extended(record("uid", "x")) + header(), id="no number"),
        pytest.param(extended(record("mtime", "NaN")) + header(), id="no time"),
        pytest.param(extended(b"9" * 6000 + b" path=a\n") + header(), id="endless length"),
        pytest.param(extended(b"5 path=a\n") + header(), id="wrong length"),
        pytest.param(header("x", tarfile.XHDTYPE, 8**11 - 1), id="endless header"),
        pytest.param(extended(record("GNU.sparse.name", "evil")) + header(), id="half a sparse file"),
        pytest.param(sparse(b"1\n0\n1\n", b"x", major="0"), id="old sparse file"),
        pytest.param(sparse(b"2\n100\n5\n50\n3\n", b"helloxyz"), id="map that goes back"),
        pytest.param(sparse(b"1\n4000\n2000\n", b"x" * 2000), id="map beyond the end"),
        pytest.param(sparse(b"1\n0\n2000\n", b"x" * 100), id="map with too little data"),
        pytest.param(sparse(b"9" * BLOCK, b"9" * 4000), id="map without lines"),
        pytest.param(sparse(b"1\n-5\n3\n", b"xyz"), id="negative map"),
    ],
)
def test_tar_reader_refuses_headers_that_the_pack_format_does_not_allow(stream):
    with pytest.raises(ArtifactError):
        read_all(stream + bytes(2 * BLOCK))
