"""Parts of a folder: paths and patterns are restored, everything else stays as it is; and a folder restored elsewhere."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from recovery.common.errors import RestoreError
from recovery.plan.kinds.files import FilesSettings
from recovery.plan.location import contained_in
from recovery.runners.local import LOCAL
from recovery.sources.files.local import Files
from recovery.sources.trees import filesystem
from recovery.sources.trees.selection import Only
from tests.sources.files.test_local import finding_texts, restored
from tests.support import file_zoo
from tests.support.file_zoo import snapshot
from tests.support.kills import Killer, killed_at_each_point
from tests.support.local_restore import LocalRestore, back_up

OLD = 1_600_000_000_000_000_001


def files(folder: Path, *exclude: str, there: Path | None = None) -> Files:
    return Files("uploads", FilesSettings(path=folder, exclude=exclude), there, runner=LOCAL)


def fill(folder: Path, content: dict[str, str]) -> None:
    for path, text in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def age(folder: Path) -> None:
    """Times of long ago, so that any change shows."""
    for point, _, names in os.walk(folder, topdown=False):
        for number, name in enumerate(sorted([*names, "."])):
            os.utime(Path(point) / name, ns=(1, OLD + number), follow_symlinks=False)


@pytest.fixture
def live(tmp_path):
    folder = tmp_path / "live"
    fill(
        folder,
        {
            "top.txt": "top",
            "a.pdf": "a",
            "2025/12/old.pdf": "old",
            "2026/03/one.pdf": "one",
            "2026/03/two.txt": "two",
            "2026/03/deep/three.pdf": "three",
            "2026/04/four.pdf": "four",
            "other/top.txt": "another top",
        },
    )
    (folder / "2026").chmod(0o2750)
    (folder / "2026/03").chmod(0o700)
    age(folder)
    return folder


@pytest.fixture
def saved(tmp_path, live):
    """What the set has."""
    found = snapshot(live)
    back_up(files(live), tmp_path / "set")
    return found


def disturb(live: Path) -> None:
    """A later state: something of everything changed, came, or went."""
    fill(live, {"top.txt": "later", "a.pdf": "later", "2026/03/one.pdf": "later", "2026/03/came.pdf": "came", "other/top.txt": "later"})
    (live / "2026/03/deep/three.pdf").unlink()
    (live / "2026/04/four.pdf").chmod(0o600)
    os.setxattr(live / "2026", "user.later", b"1")
    age(live)


_numbers = iter(range(1000))


def a_restore(tmp_path: Path, *only: str, **given) -> LocalRestore:
    return LocalRestore(tmp_path / "set", tmp_path / f"work{next(_numbers)}", only=only, **given)


def below(tree: dict, *starts: str) -> dict:
    paths = tuple(start.encode() for start in starts)
    return {path: what for path, what in tree.items() if any(path == start or path.startswith(start + b"/") for start in paths)}


def apart(tree: dict, *starts: str) -> dict:
    return {path: what for path, what in tree.items() if path not in below(tree, *starts)}


# What is selected ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "touched"),
    [
        (["2026/03"], ["2026/03"]),
        (["/2026/03/"], ["2026/03"]),
        (["2026/**"], ["2026"]),
        (["2026/*"], ["2026/03", "2026/04"]),
        (["*.pdf"], ["a.pdf", "2025/12/old.pdf", "2026/03/one.pdf", "2026/03/deep/three.pdf", "2026/04/four.pdf"]),
        (["2026/**/*.pdf"], ["2026/03/one.pdf", "2026/03/deep/three.pdf", "2026/04/four.pdf"]),
        (["top.txt"], ["top.txt"]),
        (["**/top.txt"], ["top.txt", "other/top.txt"]),
        (["2026/04/four.pdf", "a.pdf"], ["2026/04/four.pdf", "a.pdf"]),
        (["2026/03", "2026/03/deep/three.pdf"], ["2026/03"]),
        (["*"], ["top.txt", "a.pdf", "2025", "2026", "other"]),
    ],
)
def test_restore_of_parts_is_exact_and_changes_no_other_entries(tmp_path, live, saved, only, touched):
    disturb(live)
    later = snapshot(live)
    source, restore = files(live), a_restore(tmp_path, *only)
    restored(source, restore)
    found = snapshot(live)
    assert below(found, *touched) == below(saved, *touched)
    assert apart(found, *touched) == apart(later, *touched), "content, metadata and times, of folders too"
    before = live / f".recovery-{restore.id}" / "before"
    assert below(snapshot(before), *touched) == below(later, *touched)
    assert source.replaced_copies() == [restore.id]
    source.drop_replaced(restore)
    assert not (live / f".recovery-{restore.id}").exists()
    assert snapshot(live) == found


def test_restore_of_a_folder_removes_extra_files_and_of_a_pattern_keeps_extra_files(tmp_path, live, saved):
    disturb(live)
    restored(files(live), a_restore(tmp_path, "2026/03/*.pdf"))
    assert (live / "2026/03/came.pdf").read_text() == "came", "the set has no such file, so none was asked for"
    restored(files(live), a_restore(tmp_path, "2026/03"))
    assert not (live / "2026/03/came.pdf").exists()


def test_rollback_of_parts_is_exact_and_keeps_new_files_beside_the_parts(tmp_path, live, saved):
    disturb(live)
    shutil.rmtree(live / "2025")
    age(live)
    later = snapshot(live)
    source, restore = files(live), a_restore(tmp_path, "2025/12/old.pdf", "2026/03", "a.pdf")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    assert snapshot(live) == later, "staging changes nothing that is live"
    source.swap(restore)
    (live / "2026/03/written by a service").write_text("after the swap")
    (live / "new at the top").write_text("stays")
    source.roll_back(restore)
    (live / "new at the top").unlink()
    os.utime(live, ns=(1, later[b"."][3]))
    assert snapshot(live) == later
    source.discard(restore)
    assert snapshot(live) == later
    assert source.replaced_copies() == []


def test_restore_of_a_file_creates_missing_parent_folders_as_in_the_set(tmp_path, live, saved):
    shutil.rmtree(live / "2026")
    age(live)
    later = snapshot(live)
    source, restore = files(live), a_restore(tmp_path, "2026/03/one.pdf")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    found = snapshot(live)
    assert found == later | {path: saved[path] for path in (b"2026", b"2026/03", b"2026/03/one.pdf")}
    source.roll_back(restore)
    source.discard(restore)
    assert snapshot(live) == later


@pytest.mark.parametrize("back", [False, True])
def test_restore_of_a_part_creates_a_missing_root_folder_until_rollback(tmp_path, live, saved, back):
    shutil.rmtree(live)
    source, restore = files(live), a_restore(tmp_path, "2026/04/four.pdf")
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    assert snapshot(live) == {path: saved[path] for path in (b".", b"2026", b"2026/04", b"2026/04/four.pdf")}
    if back:
        source.roll_back(restore)
    source.discard(restore)
    assert live.exists() != back


@pytest.mark.slow
@pytest.mark.parametrize("then", ["resume", "back"])
def test_swap_of_parts_killed_at_any_point_is_resumed_or_rolled_back(tmp_path, live, saved, monkeypatch, then):
    disturb(live)
    shutil.rmtree(live / "2025")
    age(live)
    later = snapshot(live)
    killer = Killer()
    killer.watch(monkeypatch, filesystem.rename)
    restores = {}
    touched = ["2025", "2026/03/deep/three.pdf", "a.pdf", "2026/04"]

    def swap(steps: int) -> None:
        restore = restores[steps] = a_restore(tmp_path, "2025/**/*.pdf", "2026/03/deep/three.pdf", "a.pdf", "2026/04")
        restore.on_journal = killer.point
        left, killer.left = killer.left, None
        source.stage(restore)
        killer.left = left
        source.swap(restore)

    source = files(live)
    for steps in killed_at_each_point(killer, swap):
        if then == "resume":
            source.swap(restores[steps])
            assert below(snapshot(live), *touched) == below(saved, *touched)
            assert apart(snapshot(live), *touched) == apart(later, *touched)
        source.roll_back(restores[steps])
        assert snapshot(live) == later
        source.discard(restores[steps])
        assert snapshot(live) == later
    assert len(restores) == 9, "two entries of the journal, two entries set aside, four brought, and the end"


# Hard links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_place", [False, True])
def test_restore_of_hard_links_without_their_target_makes_a_separate_file(tmp_path, live, in_place):
    """The set has them as links to a file that stays away: they become a file of their own."""
    (live / "0 first").write_text("one file")
    (live / "linked").mkdir()
    for name in ("linked/b", "linked/c", "zz"):
        os.link(live / "0 first", live / name)
    os.setxattr(live / "zz", "user.shared", b"1")
    age(live)
    back_up(files(live), tmp_path / "set")
    (live / "0 first").write_text("changed, with all its names")
    shutil.rmtree(live / "linked")
    age(live)
    first = (live / "0 first").stat()
    source, restore = files(live), a_restore(tmp_path, "linked", "z*", in_place=in_place)
    if in_place:
        source.replace(restore)
        assert source.verify_staged(restore) == []
    else:
        restored(source, restore)
    one = [(live / name).stat() for name in ("linked/b", "linked/c", "zz")]
    assert {status.st_ino for status in one} == {one[0].st_ino}
    assert one[0].st_nlink == 3
    assert (live / "zz").read_text() == "one file"
    assert os.getxattr(live / "linked/b", "user.shared") == b"1"
    assert (live / "0 first").read_text() == "changed, with all its names"
    assert (live / "0 first").stat().st_ino == first.st_ino
    assert (live / "linked").stat().st_mtime_ns == OLD
    assert not (live / f".recovery-{restore.id}/apart").exists()


def test_restore_of_every_kind_of_entry_by_a_pattern_is_exact(tmp_path):
    live = tmp_path / "live"
    file_zoo.build(live)
    source, before = files(live), snapshot(live)
    back_up(source, tmp_path / "set", pack_size=1 << 20)
    for path in live.iterdir():
        path.rename(tmp_path / path.name)
    restored(source, a_restore(tmp_path, "**"))
    assert apart(snapshot(live), ".") == apart(before, ".")


# What can't be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "words"),
    [
        ("2026/3", "is '2026/3'; it has, for example, 2026/03."),
        ("2026/03/oen.pdf", "for example, 2026/03/one.pdf."),
        ("four.pdf", "for example, 2026/04/four.pdf"),
        ("2027/**", "for example, 2026, 2025."),
        ("*.doc", "for example, 2025, 2026, a.pdf, other, top.txt."),
        ("2026/../a.pdf", "'2026/../a.pdf' can't be a path or pattern"),
        ("2026//03", "'2026//03' can't be"),
        ("/", "'/' can't be"),
        (".", "'.' can't be"),
        ("a\0b", r"'a\x00b' can't be"),
    ],
)
def test_preflight_refuses_unknown_or_invalid_parts_with_suggestions(tmp_path, live, saved, only, words):
    restore = a_restore(tmp_path, "a.pdf", only)
    preflight = files(live).preflight(restore)
    (said,) = [finding.text for finding in preflight.findings if finding.level == "refusal"]
    assert words in said
    assert "a.pdf'" not in said.replace(repr(only), "")
    assert preflight.fingerprint == files(live).fingerprint(restore)


def test_preflight_refuses_a_part_of_an_empty_set(tmp_path):
    (tmp_path / "live").mkdir()
    back_up(files(tmp_path / "live"), tmp_path / "set")
    assert "it has nothing." in finding_texts(files(tmp_path / "live"), a_restore(tmp_path, "x"), "refusal")


def test_only_matches_a_path_with_brackets_literally():
    only = Only(["[draft] x.pdf", "in/*"])
    assert only.top("[draft] x.pdf") == "[draft] x.pdf"
    assert only.top("in/a/b") == "in/a"
    assert only.top("in") is None
    assert only.top("[draft] x.pdf.old") is None
    assert Only(["*", "?", "**"]).top(".") is None


@pytest.mark.parametrize("made", ["file", "link"])
def test_restore_of_a_file_is_refused_when_the_parent_folder_is_a_file_or_symlink(tmp_path, live, saved, made):
    shutil.rmtree(live / "2026")
    if made == "file":
        (live / "2026").write_text("a file now")
    else:
        Path(live / "2026").symlink_to(tmp_path)
    source, restore = files(live), a_restore(tmp_path, "2026/03/one.pdf")
    assert f"{live}/2026 is not a folder" in finding_texts(source, restore, "refusal")
    source.stage(restore)
    with pytest.raises(RestoreError, match="is not a folder"):
        source.swap(restore)
    restored(source, a_restore(tmp_path, "2026"))
    assert (live / "2026/03/one.pdf").read_text() == "one"


def test_preflight_of_a_part_counts_only_entries_of_the_part(tmp_path, live, saved):
    disturb(live)
    later = snapshot(live)
    source, restore = files(live), a_restore(tmp_path, "2026/03")
    preflight = source.preflight(restore)
    facts = finding_texts(source, restore, "fact")
    assert f"{live} gets what the set has of 2026/03: 3 files in 3 folders, 11 B." in facts
    assert "has 3 files of these now" in facts
    assert "1 of them were written after" in finding_texts(source, restore, "warning")
    assert [space.needed for space in preflight.second_copy] == [6 * 4096 + 11]
    assert snapshot(live) == later


# Excluded entries ---------------------------------------------------------------------------------------------------


def test_excluded_entries_are_set_aside_only_with_a_restored_folder(tmp_path, live, saved):
    (live / "2026/03/x.tmp").write_text("excluded")
    source = files(live, "*.tmp")
    restored(source, a_restore(tmp_path, "2026/03/*.pdf"))
    assert (live / "2026/03/x.tmp").exists()
    restore = a_restore(tmp_path, "2026")
    restored(source, restore)
    assert (live / f".recovery-{restore.id}/before/2026/03/x.tmp").read_text() == "excluded"


# Comparing ----------------------------------------------------------------------------------------------------------


def compared(source: Files, restore: LocalRestore) -> dict:
    return {(change.kind, change.what): (change.count, change.bytes, change.names) for change in source.compare(restore)}


def test_compare_counts_added_changed_removed_and_equal_entries(tmp_path, live, saved):
    source = files(live, "*.tmp")
    assert compared(source, a_restore(tmp_path)) == {
        ("file", "equal"): (8, 33, tuple(sorted(p for p in map(os.fsdecode, saved) if (live / p).is_file()))),
        ("folder", "equal"): (8, 0, (".", "2025", "2025/12", "2026", "2026/03", "2026/03/deep", "2026/04", "other")),
    }
    disturb(live)
    (live / "x.tmp").write_text("excluded")
    Path(live / "link").symlink_to("nowhere")
    age(live)
    later = snapshot(live)
    found = compared(source, a_restore(tmp_path))
    assert found["file", "added"] == (1, 5, ("2026/03/deep/three.pdf",))
    assert found["file", "changed"] == (
        6,
        25,
        ("2026/03/one.pdf", "2026/03/two.txt", "2026/04/four.pdf", "a.pdf", "other/top.txt", "top.txt"),
    )
    assert found["file", "removed"] == (1, 4, ("2026/03/came.pdf",))
    assert found["file", "equal"][0] == 1
    assert found["link", "removed"] == (1, 0, ("link",))
    assert found["folder", "changed"][2] == ("2026",)
    assert snapshot(live) == later


def test_compare_of_a_part_counts_only_entries_of_the_part(tmp_path, live, saved):
    source = files(live)
    disturb(live)
    assert compared(source, a_restore(tmp_path, "2026/03/*.pdf")) == {("file", "changed"): (1, 3, ("2026/03/one.pdf",))}
    assert compared(source, a_restore(tmp_path, "2025")) == {
        ("file", "equal"): (1, 3, ("2025/12/old.pdf",)),
        ("folder", "equal"): (2, 0, ("2025", "2025/12")),
    }
    shutil.rmtree(live)
    assert compared(source, a_restore(tmp_path, "2026/04/four.pdf")) == {
        ("file", "added"): (1, 4, ("2026/04/four.pdf",)),
        ("folder", "added"): (2, 0, ("2026", "2026/04")),
    }
    assert not live.exists()


def test_compare_reports_a_folder_that_became_a_file_as_changed(tmp_path, live, saved):
    shutil.rmtree(live / "other")
    (live / "other").write_text("a file")
    found = compared(files(live), a_restore(tmp_path, "other"))
    assert found == {("folder", "changed"): (1, 0, ("other",)), ("file", "added"): (1, 11, ("other/top.txt",))}


# Elsewhere ----------------------------------------------------------------------------------------------------------


def test_restore_to_a_target_folder_is_exact_and_changes_no_live_entries(tmp_path, live, saved):
    disturb(live)
    later = snapshot(live)
    there = tmp_path / "staging" / "uploads"
    source = files(live, there=there)
    restore = a_restore(tmp_path)
    assert source.occupied_locations(restore) == {}
    assert source.fingerprint(restore).startswith("gone below ")
    restored(source, restore)
    assert snapshot(there) == saved
    assert snapshot(live) == later
    assert source.occupied_locations(a_restore(tmp_path)) == {("files", *there.parts): f"{there} has 8 files, 7 folders (33 B)"}
    assert list(source.occupied_locations(a_restore(tmp_path, "2026/03/*.pdf")).values()) == [f"{there} has 1 file (3 B)"]
    assert list(source.occupied_locations(a_restore(tmp_path, "2026/03/deep")).values()) == [f"{there} has 1 file, 1 folder (5 B)"]


def test_rollback_in_a_target_folder_leaves_no_files(tmp_path, live, saved):
    there = tmp_path / "staging" / "uploads"
    source, restore = files(live, there=there), a_restore(tmp_path, "2026/03")
    source.stage(restore)
    source.swap(restore)
    assert (there / "2026/03/one.pdf").exists()
    source.roll_back(restore)
    source.discard(restore)
    assert not (tmp_path / "staging").exists()


def test_locations_are_equal_for_a_folder_reached_through_symlinks(tmp_path, live, saved):
    restore = a_restore(tmp_path)
    here = files(live).locations(restore)
    Path(tmp_path / "other name").symlink_to(live)
    assert files(live, there=tmp_path / "other name").locations(restore) == here
    assert files(live, there=tmp_path / "copy").locations(restore) != here
    Path(tmp_path / "here").symlink_to(tmp_path)
    assert files(live, there=tmp_path / "copy" / "x").locations(restore) == files(live, there=tmp_path / "here/copy/x").locations(restore)
    assert files(live, there=tmp_path / "copy").locations(restore) == files(live, there=tmp_path / "copy").locations(
        a_restore(tmp_path, "2026")
    )


def test_locations_overlap_for_a_folder_mounted_twice(tmp_path, live, saved):
    other = tmp_path / "mounted"
    other.mkdir()
    if subprocess.run(["mount", "--bind", live, other], check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        there = files(live, there=other).locations(a_restore(tmp_path))
        assert any(contained_in(location, there) for location in files(live).locations(a_restore(tmp_path)))
        assert any(contained_in(location, there) for location in files(live, there=live / "2026").locations(a_restore(tmp_path)))
        assert not any(contained_in(location, there) for location in files(live, there=tmp_path / "third").locations(a_restore(tmp_path)))
        (live / "inner").mkdir()
        assert "lie in one another" in finding_texts(files(live, there=other / "inner"), a_restore(tmp_path), "refusal")
    finally:
        subprocess.run(["umount", other], check=True)


@pytest.mark.parametrize("there", ["live/copy", "."])
def test_preflight_refuses_a_target_folder_inside_or_around_the_live_folder(tmp_path, live, saved, there):
    assert "lie in one another" in finding_texts(files(live, there=tmp_path / there), a_restore(tmp_path), "refusal")
    assert "lie in one another" not in finding_texts(files(live, there=tmp_path / "elsewhere"), a_restore(tmp_path), "refusal")
