"""What is written is read by this project's reader, and unpacked by GNU tar as what it was."""

# pathlib has no paths of bytes.

import itertools
import os
import random
import shutil
import stat
import struct
import subprocess
import tracemalloc
from contextlib import suppress
from io import BytesIO

import pytest

from recovery.common.errors import SourceError
from recovery.common.held_folder import HeldFolder
from recovery.packs import tar_reader, tar_writer
from recovery.packs.artifact import members_below
from recovery.packs.tar_writer import TarWriter
from tests.support.attacker import attacker, exchange, swapping
from tests.support.file_zoo import ACL, NOBODY, as_nobody, open_up, snapshot
from tests.support.packs import hard_tree

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="root alone may do that")


def stream(root, paths=None):
    """The stream of a folder's entries, or of some, and what happened to them."""
    out = BytesIO()
    writer = TarWriter(HeldFolder.open(root), out.write)
    paths = [member.path for member in members_below(root)] if paths is None else paths
    happened = {path: what for path in paths if (what := writer.add(path))}
    writer.close()
    return out.getvalue(), happened


def read(data):
    return {member.info.name: member.info for member in tar_reader.members(BytesIO(data))}


def contents(data):
    return {member.info.name: file.read() for member in tar_reader.members(BytesIO(data)) if (file := member.open())}


def unpacked(data, folder):
    folder.mkdir()
    options = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--preserve-permissions", "--delay-directory-restore"]
    done = subprocess.run(["tar", "--extract", *options, f"--directory={folder}"], input=data, capture_output=True, check=True)
    assert all(b"time stamp" in line for line in done.stderr.splitlines()), "tar wonders about odd times, and nothing else"
    return folder


def same(tmp_path, root, but=lambda: None):
    """GNU tar makes of the stream what the folder is; its members."""
    data, happened = stream(root)
    assert happened == {}
    but()
    back = unpacked(data, tmp_path / "back")
    found, was = snapshot(back), snapshot(root)
    for tree in (found, was):
        del tree[b"."]  # was not written
    assert found == was
    return read(data)


# What an entry can be -----------------------------------------------------------------------------------------------


def test_entries_of_every_kind_and_name_come_back(tmp_path):
    root = hard_tree(tmp_path / "root")
    (root / ("d" * 200) / ("ü" * 100)).mkdir(parents=True)
    os.mkfifo(root / "pipe")
    (root / "long link").symlink_to("t" * 300)
    (root / "sub/odd link").symlink_to(os.fsdecode(b"\xff\xfe"))
    (root / "sub").chmod(0o2751)
    (root / "pipe").chmod(0o640)
    same(tmp_path, root)


def test_times_come_back_to_the_nanosecond_before_1970_and_after_2242(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for number, time in enumerate([0, 1, -1, -1_500_000_000, 1_700_000_000_123_456_789, 5_000_000_000 * 10**9, 10**18 + 1, 7 * 10**9]):
        (root / str(number)).touch()
        os.utime(root / str(number), ns=(0, time))
    found = same(tmp_path, root)
    assert "mtime" not in found["7"].pax_headers, "a whole second needs no extended header"


@as_root
def test_large_numbers_of_owners_come_back(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for number in (0, 0o7777777, 0o7777777 + 1, 4_000_000_000):
        (root / str(number)).touch()
        os.chown(root / str(number), number, number)
    same(tmp_path, root)


@as_root
def test_extended_attributes_of_files_folders_and_links_come_back(tmp_path):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "file").touch()
    (root / "link").symlink_to("file")
    for place in ("folder", "file"):
        os.setxattr(root / place, "user.odd=%=name", bytes(range(256)))
        os.setxattr(root / place, "user.long", b"x" * 3000)
    os.setxattr(root / "link", "trusted.of the link", b"\n", follow_symlinks=False)
    os.setxattr(root / "file", "security.ima", b"of this host")
    same(tmp_path, root, but=lambda: os.removexattr(root / "file", "security.ima"))


def test_an_extended_record_counts_its_own_digits_at_every_length(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for length in [*range(60, 130), *range(950, 1010), *range(3900, 4000)]:
        (root / f"{length}").symlink_to("x" * length)
    same(tmp_path, root)


def test_hard_links_are_written_once_and_a_link_by_another_way_is_no_second_name(tmp_path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_bytes(b"x" * 100_000)
    os.link(root / "a", root / "sub/b")
    (root / "l").symlink_to("a")
    os.link(root / "l", root / "m", follow_symlinks=False)
    (root / "alone").write_bytes(b"x" * 100_000)
    data, _ = stream(root)
    assert len(data) < 250_000
    same(tmp_path, root)
    back = tmp_path / "back"
    assert (back / "a").stat().st_ino == (back / "sub/b").stat().st_ino
    assert (back / "l").lstat().st_ino == (back / "m").lstat().st_ino


def test_stream_of_nothing_is_an_archive(tmp_path):
    (tmp_path / "root").mkdir()
    data, happened = stream(tmp_path / "root")
    assert (read(data), happened) == ({}, {})
    unpacked(data, tmp_path / "back")


def test_root_folder_itself_comes_back(tmp_path):
    (tmp_path / "root").mkdir(mode=0o750)
    data, _ = stream(tmp_path / "root", [b"."])
    back = unpacked(data, tmp_path / "back")
    assert stat.S_IMODE(back.stat().st_mode) == 0o750


# Holes --------------------------------------------------------------------------------------------------------------


MIB = 1 << 20
SPARSE = {
    "only a hole": (5 * MIB, []),
    "hole at the end": (5 * MIB, [(0, 4096)]),
    "hole at the beginning": (5 * MIB + 3, [(4 * MIB, MIB + 3)]),
    "holes between": (64 * MIB, [(MIB * number, 5000) for number in range(0, 63, 7)]),
    "many": (400 * MIB, [(128 * 1024 * number, 4096) for number in range(3000)]),
    "terabyte": (1 << 40, [(0, 10), ((1 << 39) + 7, 4096)]),
}


@pytest.mark.parametrize("name", SPARSE)
def test_file_with_holes_costs_its_data_and_comes_back_with_holes(tmp_path, name):
    size, segments = SPARSE[name]
    root = tmp_path / "root"
    root.mkdir()
    with (root / "holes").open("wb") as out:
        out.truncate(size)
        for start, length in segments:
            out.seek(start)
            out.write(random.Random(start).randbytes(length))
    data, happened = stream(root)
    assert happened == {}
    assert len(data) <= (root / "holes").stat().st_blocks * 512 + len(segments) * 20 + 8192
    found = read(data)["holes"]
    assert found.size == size
    back = unpacked(data, tmp_path / "back") / "holes"
    assert back.stat().st_size == size
    assert back.stat().st_blocks <= (root / "holes").stat().st_blocks + 16
    with back.open("rb") as ours, (root / "holes").open("rb") as theirs:
        for start in [0, *(start for start, _ in segments), size - 10]:
            for file in (ours, theirs):
                file.seek(max(start - 100, 0))
            assert ours.read(9000) == theirs.read(9000)


def peak_of(do):
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_file_with_many_holes_costs_little_memory_when_it_is_written_and_read(tmp_path):
    pieces = 20_000
    with (tmp_path / "holes").open("wb") as out:
        for number in range(pieces):
            out.seek(number * 8192)
            out.write(b"x")
    with (tmp_path / "stream").open("w+b") as out:
        writer = TarWriter(HeldFolder.open(tmp_path), out.write)
        assert peak_of(lambda: writer.add(b"holes")) < pieces * 80
        writer.close()
        out.seek(0)
        [member] = itertools.islice(tar_reader.members(out), 1)
        assert peak_of(member.open) < pieces * 40
        assert member.info.size == (pieces - 1) * 8192 + 1


def test_reader_gives_a_file_with_holes_whole(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with (root / "holes").open("wb") as out:
        out.write(b"begin")
        out.seek(3 * MIB)
        out.write(b"middle")
        out.truncate(7 * MIB + 1)
    assert contents(stream(root)[0])["holes"] == (root / "holes").read_bytes()


# What happens meanwhile ---------------------------------------------------------------------------------------------


class Meddled:
    """A reach that does something once, when an entry is asked for."""

    def __init__(self, root, do, at=1):
        self._held = HeldFolder.open(root)
        self._do = do
        self._at = at

    def at(self, path):
        self._at -= 1
        if self._at == 0:
            self._do()
        return self._held.at(path)


def meddled(root, path, do, at=1):
    out = BytesIO()
    writer = TarWriter(Meddled(root, do, at), out.write)
    happened = writer.add(path)
    writer.close()
    return happened, contents(out.getvalue())


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "root/sub/file").write_bytes(b"x" * 5000)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("secret")
    return tmp_path / "root"


def became_a_pipe(root):
    (root / "sub/file").unlink()
    os.mkfifo(root / "sub/file")


@pytest.mark.parametrize(
    ("do", "at"),
    [
        pytest.param(lambda root: (root / "sub/file").unlink(), 1, id="file gone"),
        pytest.param(lambda root: (root / "sub/file").unlink(), 2, id="file gone before the look"),
        pytest.param(lambda root: (root / "sub/file").unlink(), 3, id="file gone after the look"),
        pytest.param(lambda root: shutil.rmtree(root / "sub"), 1, id="folder gone"),
        pytest.param(lambda root: [shutil.rmtree(root / "sub"), (root / "sub").write_text("a file")], 1, id="folder became a file"),
        pytest.param(became_a_pipe, 3, id="file became a pipe after the look"),
    ],
)
def test_member_that_vanished_is_not_written(root, do, at):
    assert meddled(root, b"sub/file", lambda: do(root), at) == ("vanished", {})


def test_member_below_a_link_that_took_the_folders_place_is_not_read(root, tmp_path):
    (root / "sub").rename(tmp_path / "away")
    (root / "sub").symlink_to(tmp_path / "elsewhere")
    data, happened = stream(root, [b"sub/file"])
    assert (read(data), happened) == ({}, {b"sub/file": "vanished"})


def test_link_that_took_the_place_of_a_file_after_the_look_is_not_followed(root, tmp_path):
    def exchange():
        (root / "sub/file").unlink()
        (root / "sub/file").symlink_to(tmp_path / "elsewhere/file")

    assert meddled(root, b"sub/file", exchange, at=3) == ("vanished", {})


class Filling(BytesIO):
    """Does something at the first data that is written."""

    def __init__(self, do):
        super().__init__()
        self._do = do

    def write(self, data):
        if self._do:
            self._do, do = None, self._do
            do()
        return super().write(data)


@pytest.mark.parametrize(
    ("do", "kept"),
    [
        (lambda file: os.truncate(file, 1000), b"x" * 1000 + bytes(4000)),
        (lambda file: file.write_bytes(b"y" * 9000), b"y" * 5000),
        (lambda file: os.utime(file), b"x" * 5000),
    ],
    ids=["shrank", "grew", "touched"],
)
def test_file_that_changes_while_it_is_read_is_whole_and_said_to_have_changed(root, do, kept):
    out = Filling(lambda: do(root / "sub/file"))
    writer = TarWriter(HeldFolder.open(root), out.write)
    assert writer.add(b"sub/file") == "changed"
    writer.close()
    assert contents(out.getvalue()) == {"sub/file": kept}


def test_file_with_holes_that_shrinks_is_whole_and_said_to_have_changed(root):
    os.truncate(root / "sub/file", 50 * MIB)
    out = Filling(lambda: os.truncate(root / "sub/file", 1000))
    writer = TarWriter(HeldFolder.open(root), out.write)
    assert writer.add(b"sub/file") == "changed"
    writer.close()
    found = contents(out.getvalue())["sub/file"]
    assert (len(found), found[:1000], found[1000:].count(0)) == (50 * MIB, b"x" * 1000, 50 * MIB - 1000)


def test_file_with_holes_that_shrinks_while_its_holes_are_looked_for_is_said_to_have_changed(root, monkeypatch):
    os.truncate(root / "sub/file", 50 * MIB)
    seek = os.lseek

    def shrinking(descriptor, position, what):
        if what == os.SEEK_HOLE:
            os.truncate(root / "sub/file", 0)
        return seek(descriptor, position, what)

    monkeypatch.setattr(os, "lseek", shrinking)
    data, happened = stream(root, [b"sub/file"])
    assert happened == {b"sub/file": "changed"}
    assert contents(data)["sub/file"] == bytes(50 * MIB)


CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
"""As Linux keeps the one to bind to low ports."""


def with_setuid(file):
    os.chown(file, 0, NOBODY)
    file.chmod(0o4775)


def with_setgid(file):
    os.chown(file, NOBODY, 0)
    file.chmod(0o2755)


def with_capability(file):
    os.chown(file, NOBODY, NOBODY)
    os.setxattr(file, "security.capability", CAPABILITY)


@as_root
@pytest.mark.parametrize("arm", [with_setuid, with_setgid, with_capability])
def test_file_with_rights_of_its_own_that_another_user_writes_to_is_refused(root, tmp_path, arm):
    """Its header is written by then, and would give the rights to what came in."""
    open_up(tmp_path)
    file = root / "sub/file"
    arm(file)
    out = Filling(lambda: as_nobody(file.write_bytes, b"y" * 5000))
    with pytest.raises(SourceError, match="sub/file lost its setuid or setgid bit, or its capabilities, while it was packed"):
        TarWriter(HeldFolder.open(root), out.write).add(b"sub/file")


@as_root
@pytest.mark.parametrize("arm", [with_setuid, with_setgid, with_capability])
def test_file_with_rights_of_its_own_comes_back_with_them(root, tmp_path, arm):
    arm(root / "sub/file")
    same(tmp_path, root)


@as_root
def test_folder_that_its_owners_folder_is_exchanged_for_is_not_packed_in_its_place(root, tmp_path):
    """A restore would let the application read what root's folder kept from it."""
    open_up(tmp_path)
    os.chown(root, NOBODY, NOBODY)
    (root / "sub").chmod(0o700)
    as_nobody((root / "mine").mkdir)
    folders = {}
    TarWriter(HeldFolder.open(root), BytesIO().write, folders).add(b"sub/file")
    for old, new in (("sub", "away"), ("mine", "sub")):
        as_nobody(os.rename, root / old, root / new)
    with pytest.raises(SourceError, match=r"^sub was exchanged for another folder while it was packed"):
        TarWriter(HeldFolder.open(root), BytesIO().write, folders).add(b"sub")


@as_root
def test_folder_far_above_an_entry_that_is_exchanged_is_not_packed(root, tmp_path):
    (root / "sub/inner").mkdir()
    (root / "sub/inner/file").touch()
    writer = TarWriter(HeldFolder.open(root), BytesIO().write)
    writer.add(b"sub/inner/file")
    (root / "sub").rename(root / "away")
    (root / "sub/inner").mkdir(parents=True)
    os.chown(root / "sub", NOBODY, NOBODY)
    assert writer.add(b"sub/inner") is None, "has the same rights"
    with pytest.raises(SourceError, match=r"^sub was exchanged"):
        writer.add(b"sub")


def test_folder_that_is_made_anew_while_its_entries_are_packed_is_written(root):
    writer = TarWriter(HeldFolder.open(root), BytesIO().write)
    writer.add(b"sub/file")
    (root / "sub").rename(root / "away")
    (root / "sub").mkdir()
    assert writer.add(b"sub") is None


@as_root
@pytest.mark.parametrize("at", [1, 2, 3])
def test_folder_has_the_owner_and_the_access_control_list_of_one_folder(root, at):
    (root / "other").mkdir()
    os.chown(root / "other", NOBODY, NOBODY)
    os.setxattr(root / "other", "system.posix_acl_access", ACL)
    out = BytesIO()
    writer = TarWriter(Meddled(root, lambda: exchange(root / "sub", root / "other"), at), out.write)
    writer.add(b"sub")
    writer.close()
    info = read(out.getvalue())["sub"]
    assert (info.uid == NOBODY) == ("SCHILY.xattr.system.posix_acl_access" in info.pax_headers)


def test_extended_attributes_larger_than_any_reader_takes_are_an_error_of_the_member(root, monkeypatch):
    """Some file systems have no limit of their own below; the pack would be called damaged."""
    monkeypatch.setattr(tar_writer, "read_xattrs", lambda place: {f"user.{number}": bytes(1 << 16) for number in range(1100)})
    with pytest.raises(OSError, match="extended attributes are larger than 64 MiB"):
        stream(root, [b"sub/file"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_member_that_may_not_be_read_is_an_error(root):
    (root / "sub/file").chmod(0)
    with pytest.raises(PermissionError):
        stream(root, [b"sub/file"])


@as_root
@pytest.mark.parametrize("place", ["sub", "sub/file"])
@pytest.mark.parametrize("tries", [pytest.param(2000, id="2,000 tries"), pytest.param(200_000, id="200,000 tries", marks=pytest.mark.long)])
def test_stream_has_nothing_of_elsewhere_while_its_owner_exchanges_entries(root, tmp_path, place, tries):
    open_up(tmp_path)
    (tmp_path / "elsewhere").chmod(0o700)
    for folder in (root, root / "sub"):
        folder.chmod(0o777)
    target = tmp_path / "elsewhere" / ("file" if place == "sub/file" else ".")
    reads = 0
    with attacker(swapping(root / place, target)):
        for _ in range(tries):
            with suppress(OSError):
                found = contents(stream(root, [b"sub/file"])[0])
                assert found in ({}, {"sub/file": b"x" * 5000})
                reads += len(found)
    assert reads, "now and then it was there"
