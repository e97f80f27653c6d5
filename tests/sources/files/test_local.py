"""Files: a folder there and back, on real file systems, with kills in the middle."""

# pathlib has no paths of bytes.
# ruff: noqa: PTH101, PTH108, PTH118, PTH123

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
from array import array
from pathlib import Path

import pytest

from recovery.common.errors import ArtifactError, RestoreError, SourceError
from recovery.common.held_folder import HeldFolder
from recovery.common.trusted_path import where
from recovery.packs.content_index import read_rows, write_rows
from recovery.packs.extract import extract
from recovery.packs.pack import Pack, open_pack
from recovery.plan.kinds.files import FilesSettings
from recovery.runners.local import LOCAL
from recovery.sources.files.local import Files
from recovery.sources.trees import filesystem
from recovery.sources.trees.inventory import hold
from recovery.sources.trees.walk import Walk
from tests.support import file_zoo
from tests.support.file_zoo import as_nobody, entries, make_deep, open_up, rows, snapshot
from tests.support.kills import Killed, Killer, killed_at_each_point
from tests.support.local_restore import LocalRestore, back_up, identities, reader_of

IS_ROOT = os.geteuid() == 0


def files(folder: Path, *exclude: str) -> Files:
    return Files("uploads", FilesSettings(path=folder, exclude=exclude), runner=LOCAL)


@pytest.fixture
def live(tmp_path):
    folder = tmp_path / "live"
    for path, content in {"same": "same", "changed": "old", "gone": "gone", "sub/a": "a", "sub/b": "b"}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    os.utime(folder, ns=(1, 1_600_000_000_000_000_001))
    folder.chmod(0o2770)
    return folder


def disturb(live: Path) -> None:
    """A later state of the same folder."""
    (live / "changed").write_text("new")
    (live / "gone").unlink()
    (live / "newer").write_text("newer")
    shutil.rmtree(live / "sub")
    (live / "sub").write_text("a file now")
    (live / "scratch.tmp").write_text("scratch")
    live.chmod(0o700)
    os.setxattr(live, "user.later", b"1")
    os.utime(live, ns=(1, 1_650_000_000_000_000_001))


def restored(source: Files, restore: LocalRestore) -> None:
    assert [finding.text for finding in source.preflight(restore).findings if finding.level == "refusal"] == []
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    source.finalize(restore)
    source.discard(restore)


def finding_texts(source: Files, restore: LocalRestore, level: str) -> str:
    return "\n".join(finding.text for finding in source.preflight(restore).findings if finding.level == level)


# Backup and back ----------------------------------------------------------------------------------------------------


def test_restore_of_every_kind_of_entry_is_exact(tmp_path):
    live = tmp_path / "live"
    file_zoo.build(live)
    source = files(live)
    before = snapshot(live)
    back_up(source, tmp_path / "set", pack_size=1 << 20)
    assert len(list((tmp_path / "set" / "packs").iterdir())) > 2, "the tree is to be spread over packs"
    for path in live.iterdir():
        path.rename(tmp_path / path.name)
    (live / "other").write_text("other")
    restored(source, LocalRestore(tmp_path / "set", tmp_path / "work"))
    assert snapshot(live) == before
    assert (live / "holes").stat().st_blocks * 512 < 1 << 20
    assert (live / "linked").stat().st_ino == (live / "a/b/c/linked too").stat().st_ino
    back_up(source, tmp_path / "again")
    assert rows(tmp_path / "again", "uploads", "tree") == rows(tmp_path / "set", "uploads", "tree")
    assert entries(tmp_path / "again", "uploads") == entries(tmp_path / "set", "uploads")


@pytest.mark.parametrize("in_place", [False, True])
def test_file_of_a_terabyte_with_little_data_is_backed_up_verified_compared_and_restored_by_its_data(tmp_path, live, in_place):
    def write(middle: bytes) -> None:
        with (live / "lastlog").open("wb") as out:
            out.truncate(1 << 40)
            for place, data in ((0, b"first"), (1 << 39, middle * 100_000), ((1 << 40) - 4, b"last")):
                out.seek(place)
                out.write(data)

    def pieces() -> list[bytes]:
        with (live / "lastlog").open("rb") as file:
            return [os.pread(file.fileno(), 500_000, place) for place in (0, 1 << 39, (1 << 40) - 4)]

    write(b"saved")
    before = pieces()
    source = files(live)
    back_up(source, tmp_path / "set")
    write(b"later")
    restore = LocalRestore(tmp_path / "set", tmp_path / "work", in_place=in_place)
    [changed] = [change for change in source.compare(restore) if (change.kind, change.what) == ("file", "changed")]
    assert changed.names == ("lastlog",)
    assert changed.bytes < 1 << 20
    room = source.preflight(restore).second_copy[0]
    assert room.needed < 1 << 20
    texts = finding_texts(source, restore, "fact")
    assert texts.count(" KiB") == 2, "what comes and what is there"
    assert "TiB" not in texts
    if in_place:
        source.replace(restore)
    else:
        source.stage(restore)
    assert source.verify_staged(restore) == []
    if not in_place:
        source.swap(restore)
    assert pieces() == before
    assert (live / "lastlog").stat().st_size == 1 << 40
    assert (live / "lastlog").stat().st_blocks * 512 < 2 << 20


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a tmpfs")
def test_restore_on_a_tmpfs_is_exact(tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        live = Path(memory) / "live"
        live.mkdir()
        (live / "file").write_text("in memory")
        os.utime(live / "file", ns=(1, 1_600_000_000_123_456_789))
        before = snapshot(live)
        source = files(live)
        back_up(source, tmp_path / "set")
        (live / "file").unlink()
        restored(source, LocalRestore(tmp_path / "set", tmp_path / "work"))
        assert snapshot(live) == before


def test_unsupported_xattrs_are_a_preflight_warning_and_not_verified(tmp_path, live, monkeypatch):
    os.setxattr(live / "same", "user.kept", b"1")
    source = files(live)
    back_up(source, tmp_path / "set")
    monkeypatch.setattr(filesystem, "_PROBES", {"user.too-long-for-any-file-system" + "x" * 255: b"1"})
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    assert "Extended attributes that can't be set" in finding_texts(source, restore, "warning")
    assert "user.kept" in finding_texts(source, restore, "warning")
    source.stage(restore)
    os.removexattr(restore_path(live, restore) / "new/same", "user.kept")
    assert source.verify_staged(restore) == []


def test_restore_into_a_folder_with_default_acl_is_exact(tmp_path, live):
    """An upload folder that several users share; what is staged in it must not inherit its access control list."""
    os.setxattr(live, "system.posix_acl_default", file_zoo.ACL)
    source = files(live)
    back_up(source, tmp_path / "set")
    saved = snapshot(live)
    (live / "inherits").touch()
    restored(source, LocalRestore(tmp_path / "set", tmp_path / "work"))
    assert snapshot(live) == saved


def restore_path(live: Path, restore: LocalRestore) -> Path:
    return live / f".recovery-{restore.id}"


@pytest.mark.slow
def test_restore_of_5000_files_is_exact(tmp_path):
    live = tmp_path / "live"
    for number in range(5000):
        path = live / f"{number % 50:02d}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 20)
    source = files(live)
    back_up(source, tmp_path / "set")
    before = snapshot(live)
    shutil.rmtree(live / "07")
    (live / "08" / "8.jpg").write_bytes(b"damaged")
    restored(source, LocalRestore(tmp_path / "set", tmp_path / "work"))
    assert snapshot(live) == before
    ((_, _, tree),) = rows(tmp_path / "set", "uploads", "tree")
    assert (tree["files"], tree["folders"]) == (5000, 51)


@pytest.mark.long
def test_restore_of_100_000_files_is_exact_with_every_method(tmp_path):
    """There and back, compared, as a part, and in place."""
    live = tmp_path / "live"
    for number in range(100_000):
        path = live / f"{number % 500:03d}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    source = files(live)
    back_up(source, tmp_path / "set")
    before = snapshot(live)
    shutil.rmtree(live / "007")
    (live / "008" / "8.jpg").write_bytes(b"damaged")
    (live / "009" / "later.jpg").write_bytes(b"later")
    for number, (only, in_place) in enumerate([(("007/*", "008/8.jpg"), False), ((), True), ((), False)]):
        restore = LocalRestore(tmp_path / "set", tmp_path / f"work{number}", only=only, in_place=in_place)
        found = {(change.kind, change.what): change.count for change in source.compare(restore)}
        assert found["file", "equal" if number else "added"] == (100_000 if number == 2 else 99_999 if number else 200)
        if in_place:
            source.replace(restore)
            assert source.verify_staged(restore) == []
        else:
            restored(source, restore)
        if number == 0:
            assert (live / "009/later.jpg").exists()
            (live / "008" / "8.jpg").write_bytes(b"damaged")
    assert snapshot(live) == before


def test_dump_warns_of_what_is_only_named_like_a_work_folder(tmp_path, live):
    work = live / ".recovery-0123abcd"
    (work / "before").mkdir(parents=True)
    work.chmod(0o700)
    assert warnings(live, tmp_path / "work folder") == ()
    (live / "sub/.recovery-20251130-notes").write_text("data")
    (live / ".recovery-20251130").mkdir(mode=0o755)
    (said,) = warnings(live, tmp_path / "data")
    assert "named like work folders of restores, so left out" in said
    assert all(name in said for name in ("live/.recovery-20251130,", "sub/.recovery-20251130-notes"))
    assert warnings(live, tmp_path / "excluded", ".recovery-2025*") == ()


def warnings(live: Path, folder: Path, *exclude: str) -> tuple[str, ...]:
    folder.mkdir()
    return Files("uploads", FilesSettings(path=live, exclude=exclude), runner=LOCAL).dump(folder, lambda: None).warnings


@pytest.fixture
def deep(tmp_path):
    """A folder that pytest could not remove."""
    (tmp_path / "deep").mkdir()
    yield tmp_path / "deep"
    subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [False, True])
def test_restore_of_1100_nested_folders_is_exact(tmp_path, deep, in_place):
    make_deep(deep, ["d"] * 1100)
    source = files(deep)
    before = found_below(deep)
    back_up(source, tmp_path / "set")
    subprocess.run(["rm", "-rf", deep / "d"], check=True)
    (deep / "d").mkdir()
    make_deep(deep / "d", ["e"] * 1100)
    restore = LocalRestore(tmp_path / "set", tmp_path / "work", in_place=in_place)
    if in_place:
        source.replace(restore)
        assert source.verify_staged(restore) == []
    else:
        restored(source, restore)
        source.drop_replaced(restore)
    assert found_below(deep) == before


def found_below(folder: Path) -> bytes:
    return subprocess.run(["find", ".", "-printf", "%p %y %T@ %m\\n"], cwd=folder, check=True, capture_output=True).stdout


def test_preflight_passes_over_what_vanishes_meanwhile(tmp_path, live, monkeypatch):
    source = files(live)
    back_up(source, tmp_path / "set")
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    look = filesystem.obstacles

    def vanishing(folder, names, **options):
        (live / "same").unlink()
        return look(folder, names, **options)

    monkeypatch.setattr(filesystem, "obstacles", vanishing)
    assert finding_texts(source, restore, "refusal") == ""
    assert not (live / "same").exists()


def test_preflight_refuses_paths_too_long_for_staging_except_in_place(tmp_path, deep):
    left = 4095 - len(str(deep)) - len("/file") - 20
    make_deep(deep, ["n" * 99] * (left // 100) + ["m" * (left % 100)])
    source = files(deep)
    back_up(source, tmp_path / "set")
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    assert f"get longer in {deep} than the 4095 bytes that Linux takes: nnn" in finding_texts(source, restore, "refusal")
    restore.in_place = True
    assert finding_texts(source, restore, "refusal") == ""
    source.replace(restore)
    assert source.verify_staged(restore) == []


def test_dump_fails_on_a_path_too_long_to_read(tmp_path, deep):
    make_deep(deep, ["n" * 200] * 25)
    assert "File name too long" in refusal(files(deep), tmp_path)


def test_walk_does_not_enter_what_is_too_deep_to_read(deep):
    """Who makes folders in folders without end has the worker remember all of their paths otherwise."""
    make_deep(deep, ["n" * 200] * 100)
    walk = Walk(deep)
    assert len(list(walk)) == (4095 - len(os.fsencode(deep))) // 201 + 1
    assert len(walk.problems) == 1


def test_walk_goes_no_further_after_many_problems(deep):
    make_deep(deep, ["n" * 200] * 19)
    with HeldFolder.open(deep) as held:
        for number in range(1500):
            os.close(os.open(held.at(b"/".join([b"n" * 200] * 19) + f"/{number:0>250}".encode()), os.O_CREAT))
    walk = Walk(deep)
    assert len(list(walk)) <= 21
    assert len(walk.problems) == 1000


def test_excluded_entries_are_not_saved_and_are_set_aside_with_replaced_folders(tmp_path, live):
    (live / "old.tmp").write_text("excluded")
    (live / "sub/deep.tmp").write_text("excluded too")
    (live / "cache").mkdir()
    (live / "cache/x").touch()
    source = files(live, "*.tmp", "cache/*")
    back_up(source, tmp_path / "set")
    assert entries(tmp_path / "set", "uploads").keys() == {".", "same", "changed", "gone", "sub", "sub/a", "sub/b", "cache"}
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    assert f"stay where they are, unless the set has them: {'old.tmp'}" in finding_texts(source, restore, "fact")
    assert "are set aside with their folder" in finding_texts(source, restore, "fact")
    restored(source, restore)
    assert (live / "old.tmp").read_text() == "excluded"
    assert not (live / "sub/deep.tmp").exists()
    assert (restore_path(live, restore) / "before/sub/deep.tmp").read_text() == "excluded too"


def test_restore_replaces_entries_of_the_set_that_the_plan_excludes_now(tmp_path, live):
    (live / "x.tmp").write_text("saved")
    back_up(files(live), tmp_path / "set")
    (live / "x.tmp").write_text("later")
    restored(files(live, "*.tmp"), LocalRestore(tmp_path / "set", tmp_path / "work"))
    assert (live / "x.tmp").read_text() == "saved"


def test_dump_warns_of_sockets(tmp_path, live):
    with file_zoo.listen(live / "app.sock"):
        (tmp_path / "dump").mkdir()
        dump = files(live).dump(tmp_path / "dump", lambda: None)
    assert dump.warnings == (f"uploads: sockets and devices are left out: {live}/app.sock.",)


def test_messages_escape_undecodable_and_multiline_file_names(tmp_path, live):
    odd = os.path.join(os.fsencode(live), b"\xff\nodd")
    with file_zoo.listen(live / "sock"):
        (live / "sock").rename(os.fsdecode(odd + b".sock"))
        (tmp_path / "dump").mkdir()
        (warning,) = files(live).dump(tmp_path / "dump", lambda: None).warnings
    assert f"{live}/\\xff\\nodd.sock" in warning
    with open(odd, "wb"):
        pass
    source = files(live)
    os.unlink(odd + b".sock")
    back_up(source, tmp_path / "set")
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    source.stage(restore)
    os.unlink(os.path.join(os.fsencode(restore_path(live, restore)), b"new", b"\xff\nodd"))
    assert "entry \\xff\\nodd: is missing" in map(str, source.verify_staged(restore))


def test_dump_is_scan_consistent_and_calls_opened_before_the_scan(tmp_path, live):
    (tmp_path / "dump").mkdir()
    seen = []
    dump = files(live).dump(tmp_path / "dump", lambda: seen.append(list((tmp_path / "dump").iterdir())))
    assert seen == [[]], "the scan counts from the moment it is opened"
    assert dump.consistency == "scan"
    assert dump.point.opened <= dump.point.closed


# What can't be read -------------------------------------------------------------------------------------------------


def test_dump_of_a_missing_folder_or_of_a_file_fails(tmp_path):
    with pytest.raises(SourceError, match="is not there"):
        files(tmp_path / "nothing").dump(tmp_path, lambda: None)
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="is not a folder"):
        files(tmp_path / "file").dump(tmp_path, lambda: None)


def test_dump_fails_with_the_name_of_every_unreadable_entry(live):
    with tempfile.TemporaryDirectory() as point:
        Path(point).chmod(0o755)
        source, out = Path(point) / "source", Path(point) / "out"
        shutil.copytree(live, source)
        source.chmod(0o755)
        out.mkdir()
        out.chmod(0o777)
        (source / "same").chmod(0)
        (source / "sub").chmod(0)
        (source / "closed").mkdir(mode=0)
        said = as_nobody(refusal, files(source), out)
    for name in ("same", "sub", "closed"):
        assert f"{source}/{name} (Permission denied)" in said
    assert "3 entries" in said


def refusal(source: Files, out: Path) -> str:
    with pytest.raises(SourceError) as error:
        source.dump(out, lambda: None)
    return error.value.what


# What changes while it is read --------------------------------------------------------------------------------------


def changed(set_folder: Path) -> dict:
    return {path: facts["what"] for _, path, facts in rows(set_folder, "uploads", "changed")}


def back_up_while(source: Files, folder: Path, meanwhile) -> Path:
    """A backup with something done between the scan and the packing."""

    class Meanwhile(Files):
        def dump(self, folder, opened):
            dump = super().dump(folder, opened)
            meanwhile()
            return dump

    changing = Meanwhile.__new__(Meanwhile)
    changing.__dict__.update(source.__dict__)
    return back_up(changing, folder)


def test_backup_records_and_tolerates_entries_changed_or_deleted_meanwhile(tmp_path, live):
    os.link(live / "same", live / "second name")

    def meanwhile() -> None:
        (live / "changed").write_text("longer than before")
        (live / "gone").unlink()
        shutil.rmtree(live / "sub")
        (live / "same").unlink()
        (live / "late").write_text("came after the scan")

    back_up_while(files(live), tmp_path / "set", meanwhile)
    assert changed(tmp_path / "set") == {
        "changed": "changed while read",
        "gone": "vanished",
        "sub": "vanished",
        "sub/a": "vanished",
        "sub/b": "vanished",
        "same": "vanished",
        "second name": "changed while read",
    }
    assert entries(tmp_path / "set", "uploads").keys() == {".", "changed", "second name"}
    restored(files(live), LocalRestore(tmp_path / "set", tmp_path / "work"))
    assert (live / "changed").read_text() == "longer than before"
    assert (live / "second name").read_text() == "same"


@pytest.mark.parametrize("becomes", ["link", "file"])
def test_backup_fails_when_a_folder_becomes_a_file_or_symlink_meanwhile(tmp_path, live, becomes):
    """It would be packed with what was listed below it, and tar could unpack only the one or the other."""

    def meanwhile() -> None:
        (live / "sub").rename(tmp_path / "moved")
        (live / "sub").symlink_to(tmp_path / "moved") if becomes == "link" else (live / "sub").touch()

    with pytest.raises(ArtifactError, match=f"the folder sub became a {becomes} while it was packed"):
        back_up_while(files(live), tmp_path / "set", meanwhile)


def test_backup_tolerates_files_that_become_hard_links_meanwhile(tmp_path, live):
    """What deduplicating tools do at night, in the order that a listing did not foresee."""
    names = [f"copy {number}" for number in range(9)]
    for name in names:
        (live / name).write_text("all the same")

    def meanwhile() -> None:
        for name in names[1:]:
            (live / name).unlink()
            os.link(live / names[0], live / name)

    back_up_while(files(live), tmp_path / "set", meanwhile)
    shutil.rmtree(live)
    restored(files(live), LocalRestore(tmp_path / "set", tmp_path / "work"))
    assert (live / names[0]).stat().st_nlink == 9


def test_backup_records_a_file_resized_while_tar_reads(tmp_path, live):
    (live / "log").write_bytes(os.urandom(64 << 20))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            os.truncate(live / "log", 1000)
            with (live / "log").open("ab") as out:
                out.write(b"x" * (8 << 20))

    writer = threading.Thread(target=write)
    try:
        back_up_while(files(live), tmp_path / "set", writer.start)
    finally:
        stop.set()
        writer.join()
    assert changed(tmp_path / "set")["log"] == "changed while read"


@pytest.mark.parametrize("fact", ["inode", "mounted"])
def test_hold_fails_on_a_landmark_with_another_inode_or_mount(tmp_path, live, fact):
    """Numbers of entries on two file systems may be equal by chance."""
    (tmp_path / "dump").mkdir()
    files(live).dump(tmp_path / "dump", lambda: None)
    inventory = tmp_path / "dump/uploads.inventory.jsonl"
    ((kind, path, facts),) = read_rows(inventory, "landmark")
    assert (path, facts) == (".", {"inode": live.stat().st_ino, "mounted": False})
    hold("files.uploads", live, inventory)
    others = [row for row in read_rows(inventory) if row[0] != "landmark"]
    write_rows(inventory, [*others, (kind, path, facts | {fact: facts[fact] + 1})])
    with pytest.raises(SourceError, match="was another folder or file system"):
        hold("files.uploads", live, inventory)


@pytest.mark.parametrize("mount", ["fuse.sshfs storage:/ /", "cifs //nas/share /"])
def test_hold_ignores_inodes_of_network_file_systems(tmp_path, live, monkeypatch, mount):
    """Their numbers are others on another worker, or after a while."""
    (tmp_path / "dump").mkdir()
    files(live).dump(tmp_path / "dump", lambda: None)
    live.rename(tmp_path / "moved")
    live.mkdir()
    inventory = tmp_path / "dump/uploads.inventory.jsonl"
    with pytest.raises(SourceError, match="was another folder or file system"):
        hold("files.uploads", live, inventory)
    monkeypatch.setattr(filesystem, "mount_of", lambda folder: mount)
    hold("files.uploads", live, inventory)


def contents(source: Files, dump_folder: Path, read) -> list:
    return list(reader_of(source).contents("uploads", dump_folder / "uploads.inventory.jsonl", read))


def test_reader_fails_on_an_archive_without_a_scanned_entry(tmp_path, live):
    source = files(live)
    back_up(source, tmp_path / "set")
    read = rows(tmp_path / "set", "uploads", "entry")
    assert len(contents(source, tmp_path / "set/dump", read)) == len(read) + 1
    for lost in ("sub/a", "sub", "same"):
        with pytest.raises(ArtifactError, match=f"lacks {lost}, which had not vanished"):
            contents(source, tmp_path / "set/dump", [row for row in read if row[1] != lost])


def test_reader_fails_on_an_archive_with_an_unscanned_or_duplicate_entry(tmp_path, live):
    source = files(live)
    back_up(source, tmp_path / "set")
    read = rows(tmp_path / "set", "uploads", "entry")
    with pytest.raises(ArtifactError, match="has stranger, which the scan did not see"):
        contents(source, tmp_path / "set/dump", [*read, ("entry", "stranger", read[0][2])])
    with pytest.raises(ArtifactError, match="the scan did not see"):
        contents(source, tmp_path / "set/dump", [*read, read[0]])


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


def test_contents_know_vanished_entries_without_the_live_folder(tmp_path, live):
    """Weeks later, or where the source is not mounted, nobody could look at it."""
    (live / "odd: näme\n").write_text("odd")
    source = files(live)
    back_up_while(source, tmp_path / "set", lambda: emptied(live))
    assert set(changed(tmp_path / "set").values()) == {"vanished"}
    assert changed(tmp_path / "set")["odd: näme\n"] == "vanished"
    read = rows(tmp_path / "set", "uploads", "entry")
    live.rmdir()
    assert contents(source, tmp_path / "set/dump", read) == list(read_rows(tmp_path / "set/uploads.contents.jsonl"))
    with pytest.raises(ArtifactError, match="which had not vanished"):
        contents(source, tmp_path / "set/dump", [])


def test_contents_mark_a_file_that_changed_only_while_it_was_packed(tmp_path, live):
    source = files(live)
    back_up(source, tmp_path / "set")
    inventory = tmp_path / "set/dump/uploads.inventory.jsonl"
    (live / "sub/a").unlink()
    write_rows(inventory, [*list(read_rows(inventory)), *(("read", path, {"what": "changed"}) for path in ("sub/a", "sub"))])
    found = contents(source, tmp_path / "set/dump", rows(tmp_path / "set", "uploads", "entry"))
    assert [row for row in found if row[0] == "changed"] == [("changed", "sub/a", {"what": "changed while read"})]


def test_inventory_totals_equal_the_totals_of_the_contents(tmp_path, live):
    source = files(live)
    back_up(source, tmp_path / "set")
    ((_, _, scanned),) = read_rows(tmp_path / "set/dump/uploads.inventory.jsonl", "tree")
    ((_, _, kept),) = rows(tmp_path / "set", "uploads", "tree")
    assert scanned == {name: kept[name] for name in scanned}
    assert (scanned["files"], scanned["bytes"]) == (5, 13)


# Swap and back ----------------------------------------------------------------------------------------------------


def test_rollback_is_exact_and_keeps_files_written_after_the_swap(tmp_path, live):
    source = files(live, "*.tmp")
    saved = snapshot(live)
    back_up(source, tmp_path / "set")
    disturb(live)
    later = snapshot(live)
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    source.stage(restore)
    assert snapshot(live) == later, "staging changes nothing that is live"
    source.swap(restore)
    assert without(snapshot(live), b"scratch.tmp") == saved
    assert source.replaced_copies() == [restore.id]
    (live / "written by a service").write_text("after the swap")
    source.roll_back(restore)
    assert snapshot(live) == later
    assert (restore_path(live, restore) / "new/written by a service").exists()
    source.discard(restore)
    assert snapshot(live) == later
    assert source.replaced_copies() == []
    assert not restore_path(live, restore).exists()


def without(tree: dict, *names: bytes) -> dict:
    return {path: what for path, what in tree.items() if path not in names}


@pytest.fixture
def killer(monkeypatch):
    """Ends the process at a rename; a test adds the entries of the journal."""
    killer = Killer()
    killer.watch(monkeypatch, filesystem.rename)
    return killer


@pytest.fixture
def disturbed(tmp_path, live):
    source = files(live, "*.tmp")
    saved = snapshot(live)
    back_up(source, tmp_path / "set")
    disturb(live)
    return source, saved, snapshot(live)


@pytest.mark.slow
@pytest.mark.parametrize("then", ["resume", "back"])
def test_swap_killed_at_any_point_is_resumed_or_rolled_back(tmp_path, live, disturbed, killer, then):
    source, saved, later = disturbed
    restores = {}

    def swap(steps: int) -> None:
        restore = restores[steps] = LocalRestore(tmp_path / "set", tmp_path / f"work{steps}")
        restore.on_journal = killer.point
        left, killer.left = killer.left, None
        source.stage(restore)
        killer.left = left
        source.swap(restore)

    points = 0
    for steps in killed_at_each_point(killer, swap):
        points += 1
        restore = restores[steps]
        if then == "resume":
            source.swap(restore)
            assert without(snapshot(live), b"scratch.tmp") == saved
        source.roll_back(restore)
        assert snapshot(live) == later
        source.discard(restore)
        assert snapshot(live) == later
        assert not restore_path(live, restore).exists()
    assert points == 10, "an entry of the journal, four entries set aside, four brought, an entry of the journal"


@pytest.mark.slow
def test_rollback_killed_at_any_point_is_resumed(tmp_path, live, disturbed, killer):
    source, saved, later = disturbed
    restores = {}

    def back(steps: int) -> None:
        restore = restores[steps] = LocalRestore(tmp_path / "set", tmp_path / f"work{steps}")
        left, killer.left = killer.left, None
        source.stage(restore)
        source.swap(restore)
        assert without(snapshot(live), b"scratch.tmp") == saved
        (live / "written later").touch()
        restore.on_journal = killer.point
        killer.left = left
        source.roll_back(restore)

    for steps in killed_at_each_point(killer, back):
        source.roll_back(restores[steps])
        assert snapshot(live) == later
        source.discard(restores[steps])
    assert len(restores) > 8


def test_stage_killed_while_unpacking_starts_over(tmp_path, live, disturbed):
    source, _, later = disturbed
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    unpack = restore.unpack

    def half(artifact, folder, only=None):
        unpack(artifact, folder, lambda info: info.name != "same")
        (folder / "half written").touch()
        raise Killed

    restore.unpack = half
    with pytest.raises(Killed):
        source.stage(restore)
    restore.unpack = unpack
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.discard(restore)
    assert snapshot(live) == later


def test_restore_steps_are_repeatable_and_stage_after_the_swap_is_refused(tmp_path, live, disturbed):
    source, saved, _ = disturbed
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    source.roll_back(restore)
    source.discard(restore)
    source.stage(restore)
    source.swap(restore)
    with pytest.raises(RestoreError, match="already swapped"):
        source.stage(restore)
    source.swap(restore)
    source.discard(restore)
    source.discard(restore)
    assert without(snapshot(live), b"scratch.tmp") == saved
    assert (restore_path(live, restore) / "before/newer").exists(), "discard leaves what was live"


def test_stage_and_swap_after_rollback_are_refused(tmp_path, disturbed):
    source, _, _ = disturbed
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    source.stage(restore)
    source.swap(restore)
    source.roll_back(restore)
    source.roll_back(restore)
    with pytest.raises(RestoreError, match="already swapped"):
        source.stage(restore)
    with pytest.raises(RestoreError, match="was rolled back"):
        source.swap(restore)


def test_discard_of_a_partial_swap_and_swap_after_rollback_are_refused(tmp_path, disturbed, killer):
    source, _, _ = disturbed
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    source.stage(restore)
    killer.left = 3
    with pytest.raises(Killed):
        source.swap(restore)
    with pytest.raises(RestoreError, match="half swapped"):
        source.discard(restore)
    source.roll_back(restore)
    with pytest.raises(RestoreError, match="was rolled back"):
        source.swap(restore)


def test_swap_stops_on_concurrent_writes_and_rollback_keeps_the_written_file(tmp_path, live, disturbed, monkeypatch):
    source, _, later = disturbed
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    source.stage(restore)
    rename = filesystem.rename

    def interfering(source: bytes, target: bytes) -> None:
        rename(source, target)
        if where(target).endswith(b"/before/changed"):
            (live / "changed").write_text("a service wrote this")

    monkeypatch.setattr(filesystem, "rename", interfering)
    with pytest.raises(RestoreError, match="something still writes there"):
        source.swap(restore)
    source.roll_back(restore)
    assert snapshot(live) == later
    assert (restore_path(live, restore) / "late/changed").read_text() == "a service wrote this"


def test_rename_never_replaces_an_existing_file(tmp_path, monkeypatch):
    source, target = tmp_path / "a", tmp_path / "b"
    for _ in range(2):
        source.write_text("a")
        target.write_text("b")
        with pytest.raises(FileExistsError):
            filesystem.rename(os.fsencode(source), os.fsencode(target))
        assert target.read_text() == "b"
        target.unlink()
        filesystem.rename(os.fsencode(source), os.fsencode(target))
        assert target.read_text() == "a"
        monkeypatch.setattr(filesystem, "_RENAME_NOREPLACE", 1 << 20)


# A verification that fails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda new: (new / "sub/a").write_text("A"), "sub/a: sha256"),
        (lambda new: (new / "sub/b").unlink(), "sub/b: is missing"),
        (lambda new: (new / "stranger").touch(), "stranger: is there, but not in the set"),
        (lambda new: (new / "same").chmod(0o666), "same: mode is 0666"),
        (lambda new: os.utime(new / "same", ns=(1, 1)), "same: mtime is 1"),
        (lambda new: new.chmod(0o777), ".: mode is 0777"),
    ],
)
def test_verify_staged_reports_each_difference_from_the_set(tmp_path, live, disturbed, harm, named):
    source, _, _ = disturbed
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    source.stage(restore)
    harm(restore_path(live, restore) / "new")
    assert named in "\n".join(map(str, source.verify_staged(restore)))


def test_verify_staged_reports_contents_that_disagree_with_the_totals(tmp_path, live, disturbed):
    source, _, _ = disturbed
    contents_file = tmp_path / "set/uploads.contents.jsonl"
    write_rows(tmp_path / "less", (row for row in list(read_rows(contents_file)) if row[1] != "same"))
    (tmp_path / "less").rename(contents_file)
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    source.stage(restore)
    found = "\n".join(map(str, source.verify_staged(restore)))
    assert "tree .: files is 4, the set has 5" in found
    assert "entry same: is there, but not in the set" in found


# A missing folder ---------------------------------------------------------------------------------------------------


def test_restore_creates_a_missing_folder_and_fingerprint_stays_the_same(tmp_path, live):
    deep = live / "deep" / "down"
    live.rename(tmp_path / "moved")
    deep.parent.mkdir(parents=True)
    (tmp_path / "moved").rename(deep)
    saved = snapshot(deep)
    source = files(deep)
    back_up(source, tmp_path / "set")
    shutil.rmtree(live)
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    missing = source.preflight(restore)
    assert missing.fingerprint.startswith("gone below ")
    assert f"{deep} is gone; it is created again in {tmp_path}." in [finding.text for finding in missing.findings]
    assert not live.exists(), "preflight changes nothing"
    source.stage(restore)
    assert source.preflight(restore).fingerprint == missing.fingerprint, "a folder that the restore created is still gone"
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert snapshot(deep) == saved
    source.discard(restore)
    assert source.replaced_copies() == []
    assert snapshot(deep) == saved


def test_rollback_and_discard_remove_a_folder_missing_before_the_restore(tmp_path, live):
    source = files(live)
    back_up(source, tmp_path / "set")
    shutil.rmtree(live)
    for swapped in (False, True):
        restore = LocalRestore(tmp_path / "set", tmp_path / f"work{swapped}")
        source.stage(restore)
        if swapped:
            source.swap(restore)
            source.roll_back(restore)
        source.discard(restore)
        assert not live.exists()


# Preflight ----------------------------------------------------------------------------------------------------------


def test_preflight_reports_replaced_files_and_needed_space(tmp_path, live, disturbed):
    source, _, later = disturbed
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    preflight = source.preflight(restore)
    assert preflight.fingerprint == source.fingerprint(restore)
    assert preflight.fingerprint.endswith(f", inode {live.stat().st_ino}")
    assert str(live.stat().st_dev) not in preflight.fingerprint.split(" ")
    facts = finding_texts(source, restore, "fact")
    assert "5 files in 2 folders" in facts
    assert "has 4 files now" in facts
    assert "3 of them were written after the newest file of the set" in finding_texts(source, restore, "warning")
    assert preflight.bytes_needed == {}
    (space,) = preflight.second_copy
    assert (space.where, space.folder) == (str(live), str(live))
    assert space.needed == 7 * 4096 + 13
    assert space.free > 0
    assert snapshot(live) == later


def test_preflight_of_an_empty_folder_says_that_it_has_no_files(tmp_path, live, disturbed):
    source, _, _ = disturbed
    for entry in live.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert f"{live} has no files now.\n" in finding_texts(source, LocalRestore(tmp_path / "set", tmp_path / "work"), "fact") + "\n"


def test_preflight_refuses_a_worker_without_rights_to_the_folder(tmp_path, disturbed, live):
    if not IS_ROOT:
        pytest.skip("changes to another user")
    source, _, _ = disturbed
    open_up(tmp_path)
    for path in (tmp_path / "set").rglob("*"):
        path.chmod(0o755)
    live.chmod(0o755)
    restore = LocalRestore(tmp_path / "set", tmp_path / "work")
    assert f"{live} is not writable for this worker" in as_nobody(finding_texts, source, restore, "refusal")
    assert "owners are not compared" in as_nobody(finding_texts, source, restore, "warning")
    live.chmod(0o1777)
    assert "belongs to another user" in as_nobody(finding_texts, source, restore, "refusal")


def test_restore_without_root_is_exact(tmp_path):
    """Owners become the worker's own; everything else is compared and comes back."""
    if not IS_ROOT:
        pytest.skip("test_restore_of_every_kind_of_entry_is_exact is the same then")
    with tempfile.TemporaryDirectory() as point:
        os.chown(point, file_zoo.NOBODY, file_zoo.NOBODY)
        live = Path(point) / "live"
        as_nobody(file_zoo.build, live)
        source = files(live)
        before = snapshot(live)
        unsealed(back_up(source, Path(point) / "set"))

        def there_and_back() -> bool:
            os.chmod(live / "a/b/c", 0o755)
            shutil.rmtree(live)
            restored(source, Unsealed(Path(point) / "set", Path(point) / "work"))
            return snapshot(live) == before

        assert as_nobody(there_and_back)


@pytest.mark.parametrize("live_too", [False, True])
@pytest.mark.parametrize("how", ["swap", "swap, killed in a rename", "in place"])
def test_restore_of_read_only_folders_without_root_is_exact(tmp_path, monkeypatch, how, live_too):
    """To move a folder takes the right to write to it."""
    if not IS_ROOT:
        pytest.skip("the set is opened by root")
    with tempfile.TemporaryDirectory() as point:
        os.chown(point, file_zoo.NOBODY, file_zoo.NOBODY)
        live = Path(point) / "live"

        def build(content: str) -> None:
            (live / "read only" / "too").mkdir(parents=True)
            (live / "read only" / "file").write_text(content)
            for folder in ("read only/too", "read only"):
                (live / folder).chmod(0o555)

        as_nobody(build, "saved")
        source = files(live)
        before = snapshot(live)
        unsealed(back_up(source, Path(point) / "set"))
        for folder in ("read only", "read only/too"):
            (live / folder).chmod(0o755)
        shutil.rmtree(live / "read only")
        if live_too:
            as_nobody(build, "later")
        later = snapshot(live)

        def back() -> None:
            restore = Unsealed(Path(point) / "set", Path(point) / "work", in_place=how == "in place")
            assert finding_texts(source, restore, "refusal") == ""
            if restore.in_place:
                source.replace(restore)
                assert source.verify_staged(restore) == []
                assert snapshot(live) == before
                return
            source.stage(restore)
            assert source.verify_staged(restore) == []
            if "killed" in how:
                with monkeypatch.context() as patch, pytest.raises(Killed):
                    patch.setattr(os, "chmod", killed_at_the_second(os.chmod))
                    source.swap(restore)
            source.swap(restore)
            assert snapshot(live) == before
            if "killed" in how:
                with monkeypatch.context() as patch, pytest.raises(Killed):
                    patch.setattr(os, "chmod", killed_at_the_second(os.chmod))
                    source.roll_back(restore)
            source.roll_back(restore)
            source.discard(restore)
            assert snapshot(live) == later

        as_nobody(back)


def killed_at_the_second(real):
    calls = []

    def do(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        real(*arguments, **named)

    return do


def unsealed(set_folder: Path) -> None:
    """Decrypt and decompress every pack, for who can't start the Python that does it."""
    for facts in json.loads((set_folder / "packs.json").read_text())["uploads"]:
        pack = Pack(**facts)
        with (set_folder / "packs" / pack.file).open("rb") as source, open_pack(source, pack, identities(set_folder)) as reader:
            with (set_folder / f"{pack.file}.tar").open("wb") as out:
                while chunk := reader.read(1 << 20):
                    out.write(chunk)


class Unsealed(LocalRestore):
    """A restore from what ``unsealed`` left."""

    def unpack(self, artifact, folder, only=None):
        for path in sorted(self.set_folder.glob("*.tar")):
            with path.open("rb") as reader:
                extract(reader, folder, only)


@pytest.mark.skipif(not IS_ROOT, reason="only root may set the mark")
def test_preflight_refuses_immutable_files(tmp_path, live, disturbed):
    source, _, _ = disturbed
    request_get, request_set, immutable = 0x80086601, 0x40086602, 0x10
    with (live / "same").open() as file:
        flags = array("I", [0, 0])
        try:
            fcntl.ioctl(file, request_get, flags, True)
            fcntl.ioctl(file, request_set, array("I", [flags[0] | immutable, 0]))
        except OSError:
            pytest.skip("this file system has no such mark")
        try:
            refusal = finding_texts(source, LocalRestore(tmp_path / "set", tmp_path / "work"), "refusal")
            in_place = finding_texts(source, LocalRestore(tmp_path / "set", tmp_path / "work", in_place=True), "refusal")
        finally:
            fcntl.ioctl(file, request_set, flags)
    assert f"{live}/same is marked immutable" in refusal
    assert f"so they can't be removed: {live}/same" in in_place


@pytest.fixture
def mounted(live):
    (live / "mount point").mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "none", live / "mount point"], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("may not mount here")
    (live / "mount point" / "inside").write_text("on another file system")
    yield live / "mount point"
    subprocess.run(["umount", live / "mount point"], check=True)


def test_mount_below_the_folder_is_saved_and_refused_by_preflight(tmp_path, live, mounted):
    source = files(live)
    back_up(source, tmp_path / "set")
    assert "mount point/inside" in entries(tmp_path / "set", "uploads")
    refusal = finding_texts(source, LocalRestore(tmp_path / "set", tmp_path / "work"), "refusal")
    assert f"something is mounted, which can't be renamed: {mounted}" in refusal


def test_mount_of_is_the_same_for_one_file_system_mounted_twice(tmp_path, live, mounted):
    """As on two workers: device numbers and mount points are theirs, file system and inode are not."""
    (mounted / "deep").mkdir()
    other = tmp_path / "other worker"
    other.mkdir()
    subprocess.run(["mount", "--bind", mounted, other], check=True)
    try:
        assert filesystem.mount_of(mounted / "deep") == filesystem.mount_of(other / "deep")
        assert filesystem.mount_of(mounted) != filesystem.mount_of(live)
    finally:
        subprocess.run(["umount", other], check=True)


def test_remove_refuses_a_folder_with_mount_points(live, mounted):
    with pytest.raises(RestoreError, match="has mount points in it"):
        filesystem.remove(HeldFolder.open(live.parent), b"live")
    assert (mounted / "inside").exists()


# Set-aside copies ---------------------------------------------------------------------------------------------------


def test_drop_replaced_deletes_data_of_one_restore_and_keeps_staged_data(tmp_path, live):
    source = files(live)
    back_up(source, tmp_path / "set")
    restores = [LocalRestore(tmp_path / "set", tmp_path / f"work{number}") for number in range(2)]
    for restore in restores:
        restored(source, restore)
    saved = snapshot(live)
    assert source.replaced_copies() == sorted(restore.id for restore in restores)
    source.drop_replaced(restores[0])
    assert source.replaced_copies() == [restores[1].id]
    assert snapshot(live) == saved
    waiting = LocalRestore(tmp_path / "set", tmp_path / "waiting")
    source.stage(waiting)
    source.drop_replaced(waiting)
    assert source.verify_staged(waiting) == [], "what is staged is no copy of before"
