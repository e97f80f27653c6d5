# pathlib has no paths of bytes.
# ruff: noqa: PTH118

import json
import os
import random
import signal
import socket
import subprocess
from pathlib import Path

import pyrage
import pytest
import zstandard

from recovery.common.errors import ArtifactError, SourceError
from recovery.common.held_folder import HeldFolder
from recovery.packs.artifact import Artifact, Member, members_below, read_listing, write_listing
from recovery.packs.pack import Pack, open_pack, read_members, safe_name, seal
from tests.support.packs import HARD_NAMES, IDENTITY, RECIPIENT, compressed, hard_tree, pack, read, sealed_stream, unpack
from tests.support.processes import plant
from tests.support.sets import run_python


def seen(root):
    """Every entry below a folder: type, mode, data or target."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            here = Path(os.fsdecode(path))
            data = here.readlink() if here.is_symlink() else here.read_bytes() if here.is_file() else None
            found[os.path.relpath(path, os.fsencode(root))] = (status.st_mode, data, status.st_mtime_ns if name in files else 0)
    return found


@pytest.fixture
def tree(tmp_path):
    return hard_tree(tmp_path / "root")


def test_open_pack_in_a_folder_with_planted_modules_imports_none_of_them(tree, tmp_path, monkeypatch):
    (one,), _ = pack(tree, tmp_path / "out")
    marker = tmp_path / "imported"
    (tmp_path / "planted").mkdir()
    plant(tmp_path / "planted", marker)
    monkeypatch.chdir(tmp_path / "planted")
    monkeypatch.setenv("PYTHONPATH", ":.")
    with (tmp_path / "out" / one.file).open("rb") as sealed, open_pack(sealed, one, [IDENTITY]) as stream:
        assert list(read_members(stream))
    assert not marker.exists(), marker.read_text()


# There and back -----------------------------------------------------------------------------------------------------


def test_packs_of_a_tree_with_unusual_names_are_unpacked_equal(tree, tmp_path):
    packs, said = pack(tree, tmp_path / "out", pack_size=20_000)
    assert said == []
    assert len(packs) > 4
    unpack(tmp_path / "out", packs, tmp_path / "back")
    assert seen(tmp_path / "back") == seen(tree)


def test_pack_record_matches_the_stored_file_and_its_content(tree, tmp_path):
    (one,), _ = pack(tree, tmp_path / "out")
    assert one.file == "tree.000.tar.zst.age"
    stored = tmp_path / "out" / one.file
    stock = f"age -d -i identity {stored} > plain.zst; zstd -dc plain.zst > plain.tar; sha256sum {stored}; stat -c %s plain.tar {stored}"
    (tmp_path / "identity").write_text(str(IDENTITY))
    said = subprocess.run(["sh", "-c", stock], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
    assert said == [one.sha256, str(stored), str(one.raw_bytes), str(one.stored_bytes)]
    assert zstandard.get_frame_parameters((tmp_path / "plain.zst").read_bytes()).has_checksum


def test_pack_is_unpacked_equal_by_stock_tools(tree, tmp_path):
    packs, _ = pack(tree, tmp_path / "out", pack_size=30_000)
    (tmp_path / "identity").write_text(str(IDENTITY))
    (tmp_path / "back").mkdir()
    for one in packs:
        stock = f"age --decrypt -i identity out/{one.file} | zstd -d | tar -x -p -C back"
        subprocess.run(["sh", "-c", stock], cwd=tmp_path, check=True, capture_output=True)
    assert seen(tmp_path / "back") == seen(tree)


def test_pack_is_decrypted_by_the_identity_of_each_recipient(tree, tmp_path):
    second = pyrage.x25519.Identity.generate()
    packs, _ = pack(tree, tmp_path / "out", recipients=(RECIPIENT, str(second.to_public())))
    assert read(tmp_path / "out", packs[0], second) == read(tmp_path / "out", packs[0])


def test_listing_is_read_back_as_written(tmp_path):
    members = [Member(name, number, number if number % 3 else None) for number, name in enumerate(HARD_NAMES)]
    write_listing(tmp_path / "listing", members)
    assert list(read_listing(tmp_path / "listing")) == members


def test_read_listing_refuses_a_truncated_listing(tmp_path):
    write_listing(tmp_path / "listing", [Member(b"a", 1), Member(b"bc", 2)])
    os.truncate(tmp_path / "listing", (tmp_path / "listing").stat().st_size - 1)
    with pytest.raises(ArtifactError, match="cut off"):
        list(read_listing(tmp_path / "listing"))


def test_safe_name_makes_unique_file_names_of_artifact_names(tmp_path, tree):
    names = ["a", "A", "a b", "a/b", "..", ".a", "ä", "a%20b", "_", "x" * 60, "a\nb"]
    safe = [safe_name(name) for name in names]
    assert len(set(safe)) == len(names)
    assert all("/" not in name and not name.startswith(".") and name.isascii() and name.isprintable() and " " not in name for name in safe)
    (one,), _ = pack(tree, tmp_path / "out", name="über/../x")
    assert one.file == "%C3%BCber%2F..%2Fx.000.tar.zst.age"


# Where packs begin --------------------------------------------------------------------------------------------------


def sizes_of(out, packs):
    return [[name for name, _ in read(out, one)] for one in packs]


def test_seal_fills_packs_and_gives_a_larger_member_a_pack_of_its_own(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for name, size in {"a": 3000, "b": 3000, "c": 50_000, "d": 3000, "e": 3000, "f": 3000}.items():
        (root / name).write_bytes(bytes(size))
    packs, _ = pack(root, tmp_path / "out", pack_size=11_000)
    assert sizes_of(tmp_path / "out", packs) == [["a", "b"], ["c"], ["d", "e"], ["f"]]


def test_seal_keeps_the_hard_links_of_a_file_in_the_same_pack(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    members = []
    for group in range(4):
        (root / f"{group}-0").write_bytes(os.urandom(5000))
        for number in range(1, 5):
            (root / f"{group}-{number}").hardlink_to(root / f"{group}-0")
        members += [Member(b"%d-%d" % (group, number), 5000 if number == 0 else 0, group) for number in range(5)]
    packs, _ = pack(root, tmp_path / "out", members, pack_size=8000)
    assert len(packs) == 4
    for number, one in enumerate(packs):
        assert [name for name, _ in read(tmp_path / "out", one)] == [f"{number}-{link}" for link in range(5)]
    unpack(tmp_path / "out", packs, tmp_path / "back")
    assert (tmp_path / "back" / "2-0").stat().st_nlink == 5


def test_seal_reports_every_member_with_the_number_of_its_pack(tmp_path, tree):
    told = []
    artifact = Artifact(name="tree", root=str(tree), bytes=0)
    (tmp_path / "out").mkdir()
    packs, _ = seal(
        artifact, members_below(tree), tmp_path / "out",
        reach=HeldFolder.open(tree), recipients=[RECIPIENT], pack_size=20_000, level=1,
        packed=lambda number, member: told.append((number, os.fsdecode(member.path))),
    )  # fmt: skip
    found = [(number, name) for number, one in enumerate(packs) for name, _ in read(tmp_path / "out", one)]
    assert told == found


def test_seal_of_an_empty_folder_makes_no_pack(tmp_path):
    (tmp_path / "root").mkdir()
    packs, said = pack(tmp_path / "root", tmp_path / "out")
    assert (packs, said, list((tmp_path / "out").glob("*.age"))) == ([], [], [])


# What changes meanwhile ---------------------------------------------------------------------------------------------


def test_seal_reports_a_missing_live_member_and_packs_the_other_members(tree, tmp_path):
    members = [Member(b"sub/plain", 0), Member(b"sub/gone", 10), Member(b"link", 0)]
    (one,), disturbed = pack(tree, tmp_path / "out", members, live=True)
    assert [name for name, _ in read(tmp_path / "out", one)] == ["sub/plain", "link"]
    assert disturbed == [(b"sub/gone", "vanished")]


def test_seal_fails_when_a_member_of_a_dump_is_missing(tree, tmp_path):
    with pytest.raises(SourceError, match="sub/gone vanished while it was packed"):
        pack(tree, tmp_path / "out", [Member(b"sub/plain", 0), Member(b"sub/gone", 10)])
    assert not list((tmp_path / "out").glob("*.age"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("live", [True, False])
def test_seal_fails_on_an_unreadable_member(tree, tmp_path, live):
    (tree / "sub" / "plain").chmod(0)
    with pytest.raises(SourceError, match="Permission denied"):
        pack(tree, tmp_path / "out", [Member(b"sub/plain", 0)], live=live)


def test_seal_fails_on_a_socket(tmp_path):
    (tmp_path / "root").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "root" / "s"))
        with pytest.raises(SourceError, match="s vanished while it was packed"):
            pack(tmp_path / "root", tmp_path / "out")


# Damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_packs(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    chance = random.Random(5)
    for number in range(20):
        (root / f"{number:02}").write_bytes(chance.randbytes(9000))
    out = tmp_path_factory.mktemp("packs")
    packs, _ = pack(root, out, pack_size=100_000)
    assert len(packs) == 3
    return out, packs


def damaged_copy(two_packs, tmp_path, change):
    out, packs = two_packs
    data = bytearray((out / packs[0].file).read_bytes())
    changed = change(data)
    (tmp_path / packs[0].file).write_bytes(data if changed is None else changed)
    with pytest.raises(ArtifactError) as error:
        read(tmp_path, packs[0])
    return str(error.value)


@pytest.mark.slow
def test_open_pack_refuses_a_pack_truncated_at_any_position(two_packs, tmp_path):
    length = two_packs[1][0].stored_bytes
    for cut in [0, 1, 20, 100, 150, 180, 200, 300, *range(1000, length, 7919), length - 17, length - 16, length - 1]:
        damaged_copy(two_packs, tmp_path, lambda data, cut=cut: data[:cut])


@pytest.mark.slow
def test_open_pack_refuses_a_pack_with_a_flipped_bit(two_packs, tmp_path):
    length = two_packs[1][0].stored_bytes
    for position in [*range(0, 240, 5), *range(240, length, 6007), length - 1]:

        def flip(data, position=position):
            data[position] ^= 1 << position % 8

        damaged_copy(two_packs, tmp_path, flip)


def test_open_pack_refuses_bytes_after_the_end(two_packs, tmp_path):
    damaged_copy(two_packs, tmp_path, lambda data: data + b"x")
    damaged_copy(two_packs, tmp_path, lambda data: data + data)


def test_open_pack_refuses_another_pack_under_the_same_file_name(two_packs, tmp_path):
    out, packs = two_packs
    assert "recorded" in damaged_copy(two_packs, tmp_path, lambda data: (out / packs[1].file).read_bytes())


def test_open_pack_with_wrong_identity_fails(two_packs):
    with pytest.raises(ArtifactError, match="identity does not open"):
        read(*[two_packs[0], two_packs[1][0]], identity=pyrage.x25519.Identity.generate())


@pytest.mark.parametrize(
    "changes",
    [{"raw_bytes": 1}, {"sha256": "0" * 64}, {"stored_bytes": 1}],
    ids=lambda changes: next(iter(changes)),
)
def test_open_pack_refuses_a_record_that_does_not_match_the_file(two_packs, changes):
    out, packs = two_packs
    with pytest.raises(ArtifactError, match="is not what its record says"):
        read(out, packs[0].model_copy(update=changes))


def test_open_pack_raises_the_error_of_a_caller_that_stops_midway(two_packs):
    out, packs = two_packs

    def stop_half_way():
        with (out / packs[0].file).open("rb") as source, open_pack(source, packs[0], [IDENTITY]) as reader:
            next(read_members(reader))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop_half_way()


def test_open_pack_fails_when_the_pack_is_not_read_to_its_end(two_packs):
    out, packs = two_packs
    with pytest.raises(ArtifactError, match="more than was read"), (out / packs[0].file).open("rb") as source:
        with open_pack(source, packs[0], [IDENTITY]) as reader:
            reader.read(512)


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        (b"not zstd", "can't be read"),
        (compressed(b"x" * 9999)[:-5], "can't be read"),
        (compressed(bytes(2048)) + b"x" * 99, "can't be read"),
        (zstandard.compress(bytes(2048)), "no checksum"),
        (compressed(bytes(4096)), "raw_bytes is 4096, recorded 2048"),
    ],
)
def test_open_pack_refuses_damage_inside_the_encryption(tmp_path, inner, words):
    one = sealed_stream(bytes(2048), tmp_path, inner)
    with pytest.raises(ArtifactError, match=words):
        read(tmp_path, one)


# Kills and memory ---------------------------------------------------------------------------------------------------

_SEAL = """
    import json, os, resource, signal, sys
    from pathlib import Path
    from recovery.common.held_folder import HeldFolder
    from recovery.packs import pack as packing
    from recovery.packs.artifact import Artifact, members_below
    root, out, recipient, identity, then = sys.argv[1:]
    if then:
        level = packing.zstandard.ZstdCompressor
        class Killing:
            def __init__(self, **how):
                self.real = level(**how)
            def compressobj(self):
                self.real, self.seen = self.real.compressobj(), 0
                return self
            def compress(self, data):
                self.seen += len(data)
                if self.seen > 3000000:
                    os.kill(os.getpid(), signal.SIGKILL)
                return self.real.compress(data)
        packing.zstandard.ZstdCompressor = Killing
    members = members_below(Path(root))
    tree = Artifact(name="tree", root=root, bytes=0)
    reach = HeldFolder.open(Path(root))
    packs, _ = packing.seal(tree, members, Path(out), reach=reach, recipients=[recipient], pack_size=1 << 40, level=1)
    import pyrage
    for pack in packs:
        with (Path(out) / pack.file).open("rb") as source:
            with packing.open_pack(source, pack, [pyrage.x25519.Identity.from_str(identity)]) as reader:
                for info, data in packing.read_members(reader):
                    while data and data.read(1 << 20):
                        pass
    print(json.dumps([pack.model_dump() for pack in packs]))
    print(sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def in_a_process(root, out, then=""):
    out.mkdir(exist_ok=True)
    return run_python(_SEAL, root, out, RECIPIENT, IDENTITY, then)


def test_seal_killed_midway_leaves_no_pack_and_a_repeated_seal_succeeds(tmp_path):
    (tmp_path / "root").mkdir()
    for number in range(40):
        (tmp_path / "root" / f"{number:02}").write_bytes(os.urandom(200_000))
    done = in_a_process(tmp_path / "root", tmp_path / "out", "killed")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list((tmp_path / "out").glob("*.age"))
    again = in_a_process(tmp_path / "root", tmp_path / "out")
    assert again.returncode == 0, again.stderr
    (one,) = (Pack(**facts) for facts in json.loads(again.stdout.splitlines()[0]))
    assert len(read(tmp_path / "out", one)) == 40


@pytest.mark.slow
def test_seal_and_open_pack_use_memory_independent_of_the_artifact_size(tmp_path):
    peaks = []
    for size in (1 << 20, 1 << 30):
        root = tmp_path / str(size)
        root.mkdir()
        with (root / "data").open("wb") as out:
            out.truncate(size)
            for place in range(0, size, 64 << 20):
                out.seek(place)
                out.write(os.urandom(1 << 19))
        done = in_a_process(root, tmp_path / f"out {size}")
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.splitlines()[1]) // 1024)
    assert peaks[1] - peaks[0] < 60, f"MiB: {peaks}"
