"""Settings: single files and folders, below another folder, compared, and in place."""

import itertools
import os
import shutil
import stat
from pathlib import Path

import pytest

from recovery.common.errors import RestoreError, SourceError
from recovery.plan.kinds.config import ConfigSettings
from recovery.plan.location import contained_in
from recovery.runners.local import LOCAL
from recovery.sources.config.source import Config
from recovery.sources.trees import filesystem
from tests.sources.config.test_source import OLD_PASSWORD, PASSWORD, comparable, config, disturb, finished, home, swapped, texts
from tests.support.file_zoo import entries, snapshot
from tests.support.kills import Killed, Killer, killed_at_each_point
from tests.support.local_restore import LocalRestore, back_up

__all__ = ["home"]

_numbers = itertools.count()


@pytest.fixture
def source(home, tmp_path):
    source = config(home)
    back_up(source, tmp_path / "set")
    return source


def a_restore(tmp_path: Path, *only, options=None, in_place=False, set_folder="set", like=None) -> LocalRestore:
    rolling_back = set_folder == "safety"
    work = like.folder if like else tmp_path / f"work{next(_numbers)}"
    return LocalRestore(
        tmp_path / set_folder, work, like and like.id, options, only=map(str, only), in_place=in_place, rolling_back=rolling_back
    )


def without(tree: dict, *paths: str) -> dict:
    return {path: what for path, what in tree.items() if os.fsdecode(path) not in paths}


# Parts --------------------------------------------------------------------------------------------------------------


def test_restore_of_one_changed_file_replaces_the_file_without_config_all(tmp_path, home, source):
    disturb(home)
    later = comparable(home)
    restore = a_restore(tmp_path, home / ".env")
    said = texts(source, restore, "warning")
    assert f"{home}/.env (content; other values: DB_PASSWORD; only there now: NEW_KEY)" in said
    assert PASSWORD not in said
    assert "custom" not in texts(source, restore)
    swapped(source, restore)
    assert PASSWORD in (home / ".env").read_text()
    assert without(comparable(home), ".env") == without(later, ".env")
    source.roll_back(restore)
    source.discard(restore)
    assert comparable(home) == later


def test_restore_of_one_file_in_a_named_folder_changes_no_other_files(tmp_path, home, source):
    disturb(home)
    later = comparable(home)
    restore = a_restore(tmp_path, home / "custom/plugins/two.py")
    swapped(source, restore)
    finished(source, restore)
    assert (home / "custom/plugins/two.py").read_text() == "two\n"
    assert without(comparable(home), "custom/plugins/two.py") == later


def test_restore_of_a_folder_keeps_files_missing_from_the_set(tmp_path, home, source):
    disturb(home)
    later = comparable(home)
    (home / "custom").chmod(0o700)
    restore = a_restore(tmp_path, f"{home}/custom/")
    assert f"Not in the set, and left alone: {home}/custom/later.py." in texts(source, restore)
    swapped(source, restore)
    finished(source, restore)
    assert (home / "custom/app.py").read_text() == "print()\n"
    assert (home / "custom/later.py").read_text() == "later\n"
    assert stat.S_IMODE((home / "custom").stat().st_mode) == 0o755
    assert OLD_PASSWORD in (home / ".env").read_text()
    assert without(comparable(home), "custom/app.py", "custom/plugins/two.py") == without(later, "custom/app.py")


def test_restore_of_a_file_creates_missing_parent_folders_with_saved_metadata(tmp_path, home, source):
    saved = snapshot(home)
    shutil.rmtree(home / "custom")
    later = comparable(home)
    restore = a_restore(tmp_path, home / "custom/plugins/two.py")
    swapped(source, restore)
    found = snapshot(home)
    for path in (b"custom", b"custom/plugins", b"custom/plugins/two.py"):
        assert found.pop(path) == saved[path], "folders above come with what the set says of them"
    assert without(comparable(home), "custom", "custom/plugins", "custom/plugins/two.py") == later
    source.roll_back(restore)
    source.discard(restore)
    assert comparable(home) == later


def test_restore_of_a_file_keeps_the_changed_mode_of_the_parent_folder(tmp_path, home, source):
    (home / "custom").chmod(0o700)
    (home / "custom/app.py").unlink()
    restore = a_restore(tmp_path, home / "custom/app.py", options={"config": "all"})
    swapped(source, restore)
    finished(source, restore)
    assert stat.S_IMODE((home / "custom").stat().st_mode) == 0o700


def test_restore_of_a_file_is_refused_when_the_parent_folder_is_a_file(tmp_path, home, source):
    shutil.rmtree(home / "custom")
    (home / "custom").write_text("a file")
    restore = a_restore(tmp_path, home / "custom/app.py")
    assert f"{home}/custom is a file where the set has a folder, and what was asked for lies in it" in texts(source, restore, "refusal")
    source.stage(restore)
    with pytest.raises(RestoreError, match="what was asked for lies in it"):
        source.swap(restore)
    assert (home / "custom").read_text() == "a file"


def test_restore_of_one_path_ignores_missing_folders_of_other_paths(tmp_path, home):
    other = tmp_path / "etc" / "app"
    other.mkdir(parents=True)
    (other / "other.env").write_text("A=1\n")
    source = Config("settings", ConfigSettings(paths=[home / ".env", other / "other.env"]), runner=LOCAL)
    back_up(source, tmp_path / "set")
    shutil.rmtree(other.parent)
    restore = a_restore(tmp_path, home / ".env")
    assert source.fingerprint(restore).endswith(f"inode {home.stat().st_ino}")
    (home / ".env").unlink()
    swapped(source, restore)
    assert (home / ".env").exists()
    assert not other.parent.exists()


def test_restore_of_a_hard_link_to_another_named_path_has_the_content(tmp_path, home):
    """Each folder gets its own, also as a part."""
    (home.parent / "other").mkdir()
    os.link(home / ".env", home.parent / "other" / "linked.env")
    source = Config("settings", ConfigSettings(paths=[home / ".env", home.parent / "other/linked.env"]), runner=LOCAL)
    back_up(source, tmp_path / "set")
    assert entries(tmp_path / "set", "settings")[f"{home.parent}/other/linked.env"[1:]]["type"] == "hardlink"
    for only in ([], [home.parent / "other/linked.env"]):
        (home.parent / "other/linked.env").unlink()
        restore = a_restore(tmp_path, *only)
        swapped(source, restore)
        finished(source, restore)
        assert PASSWORD in (home.parent / "other/linked.env").read_text()


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("{home}/.evn", "is '{home}/.evn'; it has, for example, {home}/.env."),
        ("{home}/custom/plugins/three.py", "for example, {home}/custom/plugins/one.py, {home}/custom/plugins/two.py."),
        ("{home}/custom/*", "for example, {home}/custom/app.py"),
        ("/etc/passwd", "for example, {home}/.env, {home}/custom, {home}/docker-compose.yml."),
        (".env", "'.env' can't be the path of a named file or folder"),
        ("/", "'/' can't be"),
        ("{home}/../openmanus/.env", "can't be"),
    ],
)
def test_preflight_refuses_unknown_or_invalid_paths_with_suggestions(tmp_path, home, source, part, words):
    said = texts(source, a_restore(tmp_path, part.format(home=home)), "refusal")
    assert words.format(home=home) in said


# Elsewhere ----------------------------------------------------------------------------------------------------------


def elsewhere(home: Path, there: Path) -> Config:
    paths = [home / name for name in (".env", "docker-compose.yml", "custom")]
    return Config("settings", ConfigSettings(paths=paths, exclude=["*.pyc"]), there, runner=LOCAL)


def test_restore_below_a_target_folder_changes_no_live_files(tmp_path, home, source):
    disturb(home)
    later = comparable(home)
    there = tmp_path / "staging"
    moved = elsewhere(home, there)
    restore = a_restore(tmp_path)
    assert moved.occupied_locations(restore) == {}
    said = texts(moved, restore)
    assert f"{there}{home}/.env" in said.partition("Missing, and brought back: ")[2]
    assert "no longer named" not in said
    swapped(moved, restore)
    finished(moved, restore)
    new = there / str(home)[1:]
    assert PASSWORD in (new / ".env").read_text()
    assert (new / "custom/plugins/two.py").read_text() == "two\n"
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (there, *new.parents) if there in {folder, *folder.parents}} == {0o700}
    assert comparable(home) == later
    assert list(moved.occupied_locations(restore).values()) == [
        f"{new}/.env: 1 file (44 B)",
        f"{new}/docker-compose.yml: 1 file (13 B)",
        f"{new}/custom: 3 files, 2 folders, 1 link (16 B)",
    ]
    (new / ".env").write_text("changed there\n")
    again = a_restore(tmp_path, options={"config": "all"})
    swapped(moved, again)
    finished(moved, again)
    assert moved.replaced_copies() == [again.id]
    assert source.replaced_copies() == []
    moved.drop_replaced(again)
    assert moved.replaced_copies() == []


def test_rollback_below_a_target_folder_leaves_no_files(tmp_path, home, source):
    moved, restore = elsewhere(home, tmp_path / "staging"), a_restore(tmp_path, home / ".env")
    swapped(moved, restore)
    assert [path.name for path in (tmp_path / "staging").rglob("*") if path.is_file() and ".recovery" not in str(path)] == [".env"]
    moved.roll_back(restore)
    moved.discard(restore)
    assert not (tmp_path / "staging").exists()


def test_locations_contain_parts_and_resolve_symlinks_of_a_target_folder(tmp_path, home, source):
    whole, part = a_restore(tmp_path), a_restore(tmp_path, home / ".env")
    assert ("files", *(home / "custom").parts) in source.locations(whole)
    assert source.locations(part) < source.locations(whole)
    inside = source.locations(a_restore(tmp_path, home / "custom" / "plugins"))
    assert all(contained_in(location, source.locations(whole)) for location in inside)
    assert source.own_locations() == source.locations(whole)
    assert not elsewhere(home, tmp_path / "staging").locations(whole) & source.locations(whole)
    (tmp_path / "link").symlink_to("/")
    assert elsewhere(home, tmp_path / "link").locations(whole) == source.locations(whole)
    shutil.rmtree(home)
    assert elsewhere(home, tmp_path / "link").locations(whole) == source.locations(whole)


# Comparing ----------------------------------------------------------------------------------------------------------


def compared(source: Config, restore: LocalRestore) -> dict:
    return {
        (change.kind, change.what): (change.count, [name.rpartition("/")[2] for name in change.names]) for change in source.compare(restore)
    }


def test_compare_counts_changed_files_only_with_config_all_or_as_a_part(tmp_path, home, source):
    assert set(compared(source, a_restore(tmp_path))) == {("file", "equal"), ("folder", "equal"), ("link", "equal")}
    disturb(home)
    (home / "custom").chmod(0o700)
    found = compared(source, a_restore(tmp_path))
    assert found["file", "added"] == (1, ["two.py"])
    assert ("file", "changed") not in found, "what differs stays"
    found = compared(source, a_restore(tmp_path, options={"config": "all"}))
    assert found["file", "changed"] == (2, [".env", "app.py"])
    assert found["folder", "changed"] == (1, ["custom"])
    assert ("file", "removed") not in found, "what the set does not have stays"
    assert compared(source, a_restore(tmp_path, home / ".env")) == {("file", "changed"): (1, [".env"])}
    (change,) = source.compare(a_restore(tmp_path, home / ".env"))
    assert change.bytes == 44


# In place -----------------------------------------------------------------------------------------------------------


def both_ways(tmp_path, home, *only, **options):
    """A restore in place, and its rollback with a set of what was there before."""
    safe = config(home)
    safe.damaged = True
    back_up(safe, tmp_path / "safety")
    forth = a_restore(tmp_path, *only, options=options, in_place=True)
    return forth, a_restore(tmp_path, *only, options=options, in_place=True, set_folder="safety", like=forth)


def changed_since_backup(source: Config, forth: LocalRestore, back: LocalRestore) -> list[str]:
    """What is found not to be in the set of now, just before anything is dropped."""
    found = []

    def refuse():
        found.extend(f"{change.kind} {change.what}: {', '.join(change.names)}" for change in source.changed_since_backup(back))
        raise Killed

    forth.refuse_if_changed = refuse
    with pytest.raises(Killed):
        source.replace(forth)
    del forth.refuse_if_changed
    return found


def go(source: Config, restore: LocalRestore) -> None:
    source.replace(restore)
    assert source.verify_staged(restore) == []
    source.finalize(restore)


@pytest.mark.parametrize("choice", ["missing", "all"])
def test_restore_in_place_follows_the_config_choice_and_rollback_is_exact(tmp_path, home, source, choice):
    disturb(home)
    (home / "custom").chmod(0o700)
    (home / ".env").unlink() if choice == "missing" else None
    later = comparable(home)
    forth, back = both_ways(tmp_path, home, config=choice)
    needed = source.preflight(forth)
    assert needed.bytes_needed[str(home)] > 0
    assert needed.second_copy == ()
    fingerprint = source.fingerprint(forth)
    assert changed_since_backup(source, forth, back) == []
    go(source, forth)
    assert PASSWORD in (home / ".env").read_text()
    assert (home / "custom/plugins/two.py").exists()
    assert (home / "custom/app.py").read_text() == ("print()\n" if choice == "all" else "print(1)\n")
    assert stat.S_IMODE((home / "custom").stat().st_mode) == (0o755 if choice == "all" else 0o700)
    assert (home / "custom/later.py").exists()
    assert not list(home.rglob(".recovery-*"))
    assert source.replaced_copies() == []
    assert source.fingerprint(forth) == fingerprint
    go(source, back)
    assert comparable(home) == later
    assert not list(home.rglob(".recovery-*"))


@pytest.mark.parametrize("choice", ["missing", "all"])
def test_changed_since_backup_lists_files_created_after_the_safety_set(tmp_path, home, source, choice):
    """In a folder that was missing, so that all that is in it would be removed."""
    shutil.rmtree(home / "custom/plugins")
    forth, back = both_ways(tmp_path, home, config=choice)
    assert changed_since_backup(source, forth, back) == []
    (home / "custom/plugins").mkdir()
    (home / "custom/plugins/other.py").touch()
    (home / "custom/app.pyc").touch()
    plugins = f"{home}/custom/plugins"[1:]
    assert changed_since_backup(source, forth, back) == [f"file removed: {plugins}/other.py", f"folder removed: {plugins}"]


def test_restore_in_place_of_parts_changes_no_other_files_and_rollback_is_exact(tmp_path, home, source):
    disturb(home)
    later = comparable(home)
    forth, back = both_ways(tmp_path, home, home / "custom/plugins", home / ".env")
    go(source, forth)
    assert PASSWORD in (home / ".env").read_text()
    assert without(comparable(home), ".env", "custom/plugins/two.py") == without(later, ".env")
    go(source, back)
    assert comparable(home) == later


def test_rollback_in_place_removes_a_folder_missing_before_the_restore(tmp_path, home, source):
    shutil.rmtree(home.parent)
    forth, back = both_ways(tmp_path, home)
    assert back.artifacts() == []
    go(source, forth)
    assert (home / "custom/plugins/two.py").exists()
    go(source, back)
    assert not home.parent.exists()


def test_verify_staged_in_place_reports_changed_missing_and_extra_files(tmp_path, home, source):
    disturb(home)
    forth, back = both_ways(tmp_path, home, config="all")
    source.replace(forth)
    (home / ".env").chmod(0o644)
    (home / "custom/plugins/two.py").unlink()
    said = "\n".join(map(str, source.verify_staged(forth)))
    assert "two.py: is missing" in said
    assert ".env: mode" in said
    source.replace(back)
    (home / "custom/plugins/two.py").write_text("again")
    assert "two.py: is there, but not in the set" in "\n".join(map(str, source.verify_staged(back)))


def test_preflight_in_place_refuses_paths_that_no_safety_set_has(tmp_path, home, source):
    """The plan named more when the set was made; it names less now."""
    disturb(home)
    for now in (config(home, "custom"), config(home, "custom", "docker-compose.yml")):
        forth = a_restore(tmp_path, options={"config": "all"}, in_place=True)
        assert f"so that no safety set has it: {home}/.env." in texts(now, forth, "refusal")
        assert texts(now, a_restore(tmp_path, in_place=True), "refusal") == "", "what differs stays then"
        forth.in_place = False
        assert texts(now, forth, "refusal") == ""


def test_preflight_in_place_refuses_a_replaced_folder_with_an_excluded_file(tmp_path, home, source):
    shutil.rmtree(home / "custom")
    (home / ".env").unlink()
    (home / ".env").mkdir()
    (home / ".env/kept.pyc").touch()
    forth = a_restore(tmp_path, options={"config": "all"}, in_place=True)
    assert f"no safety set has it: {home}/.env/kept.pyc." in texts(source, forth, "refusal")


def test_verify_staged_of_a_rollback_reports_files_missing_from_the_safety_set(tmp_path, home, source):
    disturb(home)
    safe = config(home, "custom")
    back_up(safe, tmp_path / "safety")
    forth = a_restore(tmp_path, options={"config": "all"}, in_place=True)
    back = a_restore(tmp_path, options={"config": "all"}, in_place=True, set_folder="safety", like=forth)
    go(source, forth)
    source.replace(back)
    assert [f"{one.name}: {one.what}" for one in source.verify_staged(back)] == [
        f"{str(home)[1:]}/.env: was there before, and no safety set has it"
    ]


def test_restore_in_place_removes_nothing_when_the_set_can_not_be_fetched(tmp_path, home, source):
    disturb(home)
    (home / "docker-compose.yml").unlink()
    shutil.rmtree(home / "custom")
    before = snapshot(home)
    forth = a_restore(tmp_path, options={"config": "all"}, in_place=True)

    def away(*_):
        raise RestoreError("the destination is away", "none")

    forth.unpack = away
    with pytest.raises(RestoreError, match="away"):
        source.replace(forth)
    assert snapshot(home) == before
    assert forth.recorded_facts("dropping") == []
    del forth.unpack
    go(source, forth)
    assert len(forth.recorded_facts("dropping")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("then", ["again", "back"])
def test_restore_in_place_killed_at_any_point_is_repeated_or_rolled_back(tmp_path, home, source, monkeypatch, then):
    disturb(home)
    (home / "custom").chmod(0o700)
    later = comparable(home)
    killer = Killer()
    killer.watch(monkeypatch, filesystem.rename, filesystem.clear, filesystem.set_metadata)
    safe = config(home)
    safe.damaged = True
    back_up(safe, tmp_path / "safety")
    restores = {}

    def replace(steps: int) -> None:
        forth = restores[steps] = a_restore(tmp_path, options={"config": "all"}, in_place=True)
        forth.on_journal = killer.point
        source.replace(forth)

    for steps in killed_at_each_point(killer, replace):
        forth = restores[steps]
        if then == "again":
            go(source, forth)
            assert PASSWORD in (home / ".env").read_text()
        go(source, a_restore(tmp_path, options={"config": "all"}, in_place=True, set_folder="safety", like=forth))
        assert comparable(home) == later
        assert not list(home.rglob(".recovery-*"))
    assert len(restores) == 11, "three entries of the journal, three entries removed, three moved, a folder, and the end"


def test_dump_with_a_missing_path_fails_unless_the_source_is_damaged(tmp_path, home, source):
    (home / ".env").unlink()
    with pytest.raises(SourceError, match=r"\.env"):
        source.dump(tmp_path, lambda: None)
    source.damaged = True
    back_up(source, tmp_path / "safety")
    assert f"{home}/custom"[1:] in entries(tmp_path / "safety", "settings")
    (tmp_path / "dump").mkdir()
    assert source.dump(tmp_path / "dump", lambda: None).warnings == (f"settings: not there, so not in the set: {home}/.env.",)
