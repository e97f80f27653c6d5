"""Walking a tree, leaving out, and rows that are equal from disk and archive."""

# pathlib has no paths of bytes.
# ruff: noqa: PTH211

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from recovery.common.errors import ArtifactError
from recovery.common.paths import raw, text
from recovery.packs.pack import read_members
from recovery.plan.excludes import Excludes
from recovery.sources.trees import entries
from recovery.sources.trees.entries import Abilities, Totals, differences, of_members, of_walk
from recovery.sources.trees.walk import Walk, in_order, is_mark, mark, marked_id
from tests.support import file_zoo

EVERYTHING = Abilities(owners=True, xattrs=frozenset({"user", "trusted", "security", "system"}))


@pytest.fixture
def zoo(tmp_path):
    file_zoo.build(tmp_path / "zoo")
    return tmp_path / "zoo"


def tar_rows(folder: Path, work: Path):
    listing = work / "names"
    listing.write_bytes(b"".join(found.path + b"\0" for found, _, _ in in_order(Walk(folder))))
    command = ["tar", "-c", "--format=posix", "--sparse", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--no-recursion"]
    command.append("--pax-option=delete=atime,delete=ctime")
    subprocess.run([*command, "-C", folder, "--null", "-T", listing, "-f", work / "tar"], check=True)
    with (work / "tar").open("rb") as stream:
        yield from of_members(read_members(stream))


def test_rows_from_disk_and_from_an_archive_are_equal(zoo, tmp_path):
    archived = [EVERYTHING.comparable(row) for row in tar_rows(zoo, tmp_path)]
    assert len(archived) > 25
    assert differences(lambda: archived, of_walk(Walk(zoo))) == []
    totals = [Totals(), Totals()]
    for total, rows in zip(totals, (archived, map(EVERYTHING.comparable, of_walk(Walk(zoo)))), strict=True):
        for _, path, facts in rows:
            total.add(path, facts)
    assert totals[0].facts() == totals[1].facts()


def test_file_that_grows_while_it_is_read_is_not_read_without_end(tmp_path, monkeypatch):
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1000)
    reads = []

    class Growing(io.FileIO):
        def read(self, size):
            reads.append(size)
            assert len(reads) < 100
            with path.open("ab") as out:
                out.write(b"y" * 5000)
            return super().read(size)

    monkeypatch.setattr(entries, "_open", lambda place: Growing(path, "rb"))
    [facts] = [facts for _, _, facts in of_walk(Walk(tmp_path, [b"log"]))]
    assert facts["size"] > 1001, "so it is equal to no shorter file that began like it"
    assert sum(reads) <= 2000


@pytest.mark.parametrize("kind", ["link", "socket", "gone", "a link that became a file"])
def test_entry_that_becomes_something_else_before_it_is_read_is_passed_over_while_in_use(tmp_path, kind):
    path = tmp_path / "entry"
    path.symlink_to("x") if kind == "a link that became a file" else path.write_text("saved")
    walk = Walk(tmp_path, [b"entry"])
    [found] = walk
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "socket":
        file_zoo.listen(path).close()
    elif kind != "gone":
        path.write_text("later")

    class Seen(Walk):
        def __iter__(self):
            yield found

    seen = Seen(tmp_path, [b"entry"])
    assert list(of_walk(seen, in_use=True)) == []
    with pytest.raises(OSError, match="entry"):
        list(of_walk(seen))


def test_of_members_reads_exact_facts_of_archive_entries(zoo, tmp_path):
    facts = {path: facts for _, path, facts in tar_rows(zoo, tmp_path)}
    assert facts["old"]["mtime"] == -1_500_000_001
    assert facts["plain"]["mtime"] == 1_700_000_000_123_456_789
    assert facts["plain"]["xattrs"].pop("system.posix_acl_access") == file_zoo.ACL.hex()
    assert facts["plain"]["xattrs"] == {"user.a=b%c": b"line\nline\0".hex(), "user.binary": bytes(range(256)).hex()}
    assert facts["holes"]["size"] == 64 << 20
    assert facts["holes"]["stored"] < 1 << 20
    assert facts["linked"] == {"type": "hardlink", "target": "a/0 linked first"}
    assert facts["."]["mode"] == "2750"
    assert raw(facts["odd target"]["target"]) == b"\xff" * 250
    if os.geteuid() == 0:
        assert (facts["big"]["uid"], facts["big"]["gid"], facts["big"]["mode"]) == (1234, 4_000_000_000, "4755")


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda folder: (folder / "a/b/c/file").write_bytes(b"deeP"), "sha256"),
        (lambda folder: os.utime(folder / "plain", ns=(1, 1_700_000_000_123_456_788)), "mtime"),
        (lambda folder: (folder / "plain").chmod(0o600), "mode"),
        (lambda folder: os.setxattr(folder / "plain", "user.binary", b"other"), "xattrs"),
        (lambda folder: os.removexattr(folder / "a", "user.folder"), "xattrs"),
        (lambda folder: (folder / "empty folder").rmdir(), "is missing"),
        (lambda folder: (folder / "extra").touch(), "is there, but not in the set"),
        (lambda folder: ((folder / "dangling").unlink(), os.symlink("else", folder / "dangling")), "target"),
        (lambda folder: ((folder / "linked").unlink(), (folder / "linked").write_bytes(b"one file, three names")), "type"),
    ],
)
def test_differences_report_each_change_of_content_or_metadata(zoo, change, fact):
    before = list(of_walk(Walk(zoo)))
    change(zoo)
    assert fact in " ".join(map(str, differences(lambda: before, of_walk(Walk(zoo)))))


def test_comparable_row_leaves_out_facts_that_the_worker_can_not_set():
    row = ("entry", "x", {"type": "file", "mode": "6751", "uid": 1, "gid": 2, "stored": 3, "xattrs": {"user.a": "00", "trusted.b": "01"}})
    plain = Abilities(owners=False, xattrs=frozenset({"user"}))
    assert plain.comparable(row)[2] == {"type": "file", "mode": "0751", "xattrs": {"user.a": "00"}}
    assert EVERYTHING.comparable(row)[2] == {name: value for name, value in row[2].items() if name != "stored"}


def test_of_walk_makes_the_given_representative_the_file_of_a_hard_link_group(tmp_path):
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "b")
    rows = {path: facts["type"] for _, path, facts in of_walk(Walk(tmp_path), {b"b"})}
    assert rows == {".": "folder", "a": "hardlink", "b": "file"}


def test_in_order_groups_hard_links_and_lists_inner_folders_before_outer_folders(zoo):
    order = [text(found.path) for found, _, _ in in_order(Walk(zoo))]
    folders = [order.index(path) for path in ("a/b/c", "a/b", "a", ".")]
    assert folders == sorted(folders)
    assert all((zoo / path).is_dir() and not (zoo / path).is_symlink() for path in order[min(folders) :])
    linked = [order.index(path) for path in ("a/0 linked first", "a/b/c/linked too", "linked")]
    assert linked == list(range(linked[0], linked[0] + 3))


def test_walk_leaves_out_and_reports_sockets(tmp_path):
    with file_zoo.listen(tmp_path / "socket"):
        walk = Walk(tmp_path)
        assert [found.path for found in walk] == [b"."]
    assert walk.left_out == [str(tmp_path / "socket")]


def test_of_members_fails_on_a_truncated_file():
    info = tarfile.TarInfo("x")
    info.size = 10
    with pytest.raises(ArtifactError, match="has 4 bytes, its header says 10"):
        list(of_members([(info, io.BytesIO(b"four"))]))


def test_of_members_fails_on_a_device():
    info = tarfile.TarInfo("x")
    info.type = tarfile.CHRTYPE
    with pytest.raises(ArtifactError, match="neither file"):
        list(of_members([(info, None)]))


@pytest.mark.parametrize(
    ("pattern", "matched", "not_matched"),
    [
        ("*.tmp", ["x.tmp", "a/b/x.tmp", ".tmp"], ["x.tmp2", "x.TMP", "a.tmp/x"]),
        ("node_modules", ["node_modules", "a/node_modules"], ["node_modules2"]),
        ("cache/*", ["cache/x"], ["cache", "a/cache/x", "cache/x/y"]),
        ("*/thumbs", ["a/thumbs"], ["thumbs", "a/b/thumbs"]),
        ("**/logs/*.gz", ["logs/x.gz", "a/b/logs/x.gz"], ["logs/a/x.gz"]),
        ("/cache", ["cache"], ["a/cache"]),
        ("/cache/", ["cache"], ["a/cache"]),
        ("cache/", ["cache", "a/cache"], ["caches"]),
        ("[!a]?", ["bc"], ["ab", "b"]),
        ("x\udcff", [text(b"x\xff")], ["x"]),
        ("new*line", ["new\nline"], []),
    ],
)
def test_excludes_match_paths_by_pattern(pattern, matched, not_matched):
    excluded = Excludes([pattern])
    assert [path for path in matched if not excluded(raw(path))] == []
    assert [path for path in not_matched if excluded(raw(path))] == []


def test_walk_skips_an_excluded_folder_with_all_entries_below(tmp_path):
    (tmp_path / "cache" / "deep").mkdir(parents=True)
    (tmp_path / "keep").touch()
    assert {found.path for found in Walk(tmp_path, excluded=Excludes(["cache"]))} == {b".", b"keep"}


def test_walk_skips_work_folders_of_restores(tmp_path):
    for name in (mark("0123abcd"), mark("0123abcd", "settings")):
        assert is_mark(name.encode())
        (tmp_path / name).mkdir()
    for name in (".recovery-", ".recovery-0123ABCD", ".recovery-0123abcde", "x.recovery-0123abcd"):
        assert not is_mark(name.encode())
        (tmp_path / name).mkdir()
    assert len(list(Walk(tmp_path))) == 1 + 4
    assert marked_id(b".recovery-0123abcd") == "0123abcd"
    assert marked_id(b".recovery-0123abcd", "settings") is None
    assert marked_id(b".recovery-0123abcd-settings", "settings") == "0123abcd"
    assert marked_id(b".recovery-0123abcd-settings") is None


class Vanishing(Walk):
    """Each file is deleted once it was seen."""

    def __iter__(self):
        for found in super().__iter__():
            if found.kind == "file":
                (self.root / text(found.path)).unlink()
            yield found


def test_of_walk_tolerates_a_vanished_file_only_if_in_use(tmp_path):
    for in_use in (True, False):
        (tmp_path / "file").touch()
        if in_use:
            assert [path for _, path, _ in of_walk(Vanishing(tmp_path), in_use=True)] == ["."]
        else:
            with pytest.raises(FileNotFoundError):
                list(of_walk(Vanishing(tmp_path)))


def test_walk_yields_no_paths_that_are_only_passed_through(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    walk = Walk(tmp_path, passed=lambda path: path != b"a/b/c")
    assert [found.path for found in walk] == [b"a/b/c"]
