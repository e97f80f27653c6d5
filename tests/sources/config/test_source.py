"""Config: named files and folders, what is missing or differs, and the rollback."""

# pathlib has no paths of bytes.
# ruff: noqa: PTH108, PTH115, PTH118, PTH123, PTH211

import itertools
import logging
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from recovery.common.errors import RestoreError, SourceError
from recovery.plan.kinds.config import ConfigSettings
from recovery.runners.local import LOCAL
from recovery.sources.config.source import Config
from recovery.sources.trees import filesystem
from tests.support.file_zoo import as_nobody, entries, open_up, snapshot
from tests.support.kills import Killer, killed_at_each_point
from tests.support.local_restore import LocalRestore, back_up

PASSWORD = "correct-horse-battery"
OLD_PASSWORD = "incorrect-horse"


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "srv" / "openmanus"
    (home / "custom" / "plugins").mkdir(parents=True)
    (home / ".env").write_text(f"DB_PASSWORD={PASSWORD}\nPORT=8000\n")
    (home / ".env").chmod(0o600)
    (home / "docker-compose.yml").write_text("services: {}\n")
    (home / "custom" / "app.py").write_text("print()\n")
    (home / "custom" / "plugins" / "one.py").write_text("one\n")
    (home / "custom" / "plugins" / "two.py").write_text("two\n")
    (home / "custom" / "plugins" / "one.pyc").write_bytes(b"\0")
    os.symlink("plugins/one.py", home / "custom" / "default.py")
    (home / "not named").write_text("stays")
    for path in (home / ".env", home / "custom" / "plugins", home / "custom"):
        os.utime(path, ns=(1, 1_600_000_000_000_000_001))
    return home


def config(home: Path, *names: str, name: str = "settings") -> Config:
    paths = [home / path for path in names or (".env", "docker-compose.yml", "custom")]
    return Config(name, ConfigSettings(paths=paths, exclude=["*.pyc"]), runner=LOCAL)


@pytest.fixture
def source(home, tmp_path):
    source = config(home)
    back_up(source, tmp_path / "set")
    return source


def a_restore(tmp_path: Path, **options: str) -> LocalRestore:
    a_restore.number = getattr(a_restore, "number", 0) + 1
    return LocalRestore(tmp_path / "set", tmp_path / f"work{a_restore.number}", options=options)


def texts(source: Config, restore: LocalRestore, level: str | None = None) -> str:
    return "\n".join(finding.text for finding in source.preflight(restore).findings if level in {None, finding.level})


def swapped(source: Config, restore: LocalRestore) -> None:
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)


def finished(source: Config, restore: LocalRestore) -> None:
    source.finalize(restore)
    source.discard(restore)


def disturb(home: Path) -> None:
    """A later state: one file is deleted, one differs, one equal, one more."""
    (home / ".env").write_text(f"DB_PASSWORD={OLD_PASSWORD}\nPORT=8000\nNEW_KEY=1\n")
    (home / "custom" / "plugins" / "two.py").unlink()
    (home / "custom" / "app.py").write_text("print(1)\n")
    (home / "custom" / "later.py").write_text("later\n")


def comparable(home: Path) -> dict:
    """Times of folders that entries went through are not put back."""
    tree = snapshot(home)
    for what in tree.values():
        if stat.S_ISDIR(what[0]):
            what[3] = 0
    return tree


# Backup and back ----------------------------------------------------------------------------------------------------


def test_restore_of_deleted_files_and_folders_is_exact(tmp_path, home, source):
    saved = snapshot(home)
    named = entries(tmp_path / "set", "settings")
    below = str(home).lstrip("/")
    assert named.keys() == {
        f"{below}/{name}"
        for name in (
            ".env",
            "docker-compose.yml",
            "custom",
            "custom/app.py",
            "custom/default.py",
            "custom/plugins",
            "custom/plugins/one.py",
            "custom/plugins/two.py",
        )
    }
    (home / ".env").unlink()
    shutil.rmtree(home / "custom")
    restore = a_restore(tmp_path)
    swapped(source, restore)
    finished(source, restore)
    del saved[b"custom/plugins/one.pyc"]
    saved[b"."][3] = (home.stat()).st_mtime_ns
    assert snapshot(home) == saved
    assert stat.S_IMODE((home / ".env").stat().st_mode) == 0o600
    assert source.replaced_copies() == [], "nothing was replaced, so nothing was kept"


def test_restore_creates_a_missing_folder_and_fingerprint_stays_the_same(tmp_path, home, source):
    saved = snapshot(home)
    shutil.rmtree(home.parent)
    restore = a_restore(tmp_path)
    identity = source.preflight(restore).fingerprint
    assert identity.startswith("gone below ")
    assert f"{home} is gone; it is created again in {tmp_path}" in texts(source, restore, "fact")
    swapped(source, restore)
    assert source.preflight(restore).fingerprint == identity
    finished(source, restore)
    assert {path: what for path, what in snapshot(home).items() if path != b"."} == {
        path: what for path, what in saved.items() if path not in {b".", b"not named", b"custom/plugins/one.pyc"}
    }


def test_rollback_removes_a_folder_missing_before_the_restore(tmp_path, home, source):
    shutil.rmtree(home.parent)
    restore = a_restore(tmp_path)
    swapped(source, restore)
    source.roll_back(restore)
    source.discard(restore)
    assert not home.parent.exists()


def test_restore_by_default_writes_only_missing_files(tmp_path, home, source):
    disturb(home)
    later = comparable(home)
    restore = a_restore(tmp_path)
    swapped(source, restore)
    finished(source, restore)
    found = comparable(home)
    assert found.pop(b"custom/plugins/two.py")[-2] == b"two\n"
    assert found == later


def test_restore_with_config_all_replaces_changed_files_and_keeps_extra_files(tmp_path, home, source):
    disturb(home)
    (home / "custom").chmod(0o700)
    inode = (home / "docker-compose.yml").stat().st_ino
    restore = a_restore(tmp_path, config="all")
    swapped(source, restore)
    finished(source, restore)
    assert PASSWORD in (home / ".env").read_text()
    assert (home / "custom/app.py").read_text() == "print()\n"
    assert (home / "custom/plugins/two.py").read_text() == "two\n"
    assert (home / "custom/later.py").read_text() == "later\n", "what the set does not have stays"
    assert (home / "docker-compose.yml").stat().st_ino == inode, "what is equal is left alone"
    assert stat.S_IMODE((home / "custom").stat().st_mode) == 0o755
    assert source.replaced_copies() == [restore.id]
    kept = home / f".recovery-{restore.id}-settings"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    below = str(home).lstrip("/")
    assert OLD_PASSWORD in (kept / "before" / below / ".env").read_text()
    assert not (kept / "new").exists()
    config(tmp_path, "the plan names something else by now").drop_replaced(restore)
    assert not kept.exists()


@pytest.mark.parametrize("choice", ["missing", "all"])
def test_restore_replaces_a_file_by_the_folder_of_the_set_only_with_config_all(tmp_path, home, source, choice):
    shutil.rmtree(home / "custom")
    (home / "custom").write_text("a file")
    restore = a_restore(tmp_path, config=choice)
    assert "custom (a file where the set has a folder)" in texts(source, restore)
    swapped(source, restore)
    assert (home / "custom").is_dir() == (choice == "all")
    source.roll_back(restore)
    source.discard(restore)
    assert (home / "custom").read_text() == "a file"


def test_restore_of_a_hard_linked_file_with_undecodable_name_has_the_content(tmp_path, home):
    odd = os.path.join(os.fsencode(home), b"custom/\xff\nodd")
    with open(odd, "wb") as out:
        out.write(b"odd")
    os.link(odd, home / "custom" / "zz linked")
    source = config(home)
    back_up(source, tmp_path / "set")
    os.unlink(odd)
    restore = a_restore(tmp_path)
    swapped(source, restore)
    finished(source, restore)
    with open(odd, "rb") as data:
        assert data.read() == b"odd"


def test_named_symlink_is_restored_with_its_target_and_dump_fails_if_dangling(tmp_path, home):
    (home / "releases" / "7").mkdir(parents=True)
    (home / "releases" / "7" / "code.py").write_text("seven")
    os.symlink("releases/7", home / "current")
    source = config(home, "current")
    back_up(source, tmp_path / "set")
    shutil.rmtree(home / "releases")
    (home / "current").unlink()
    restore = a_restore(tmp_path)
    swapped(source, restore)
    finished(source, restore)
    assert (home / "current" / "code.py").read_text() == "seven"
    assert os.readlink(home / "current") == "releases/7"
    (home / "current").unlink()
    os.symlink("releases/8", home / "current")
    with pytest.raises(SourceError, match="releases/8"):
        source.dump(tmp_path, lambda: None)


def test_restores_of_two_sources_in_one_folder_with_one_id_are_independent(tmp_path, home):
    """They get the same restore id."""
    sources = [config(home, ".env", name="settings"), config(home, "custom", name="code")]
    restores = []
    for source in sources:
        back_up(source, tmp_path / source.name)
        restores.append(LocalRestore(tmp_path / source.name, tmp_path / f"work-{source.name}", "0123abcd", {"config": "all"}))
    (home / ".env").write_text("A=1")
    (home / "custom/app.py").unlink()
    for source, restore in zip(sources, restores, strict=True):
        source.stage(restore)
    for source, restore in zip(sources, restores, strict=True):
        assert source.verify_staged(restore) == []
        source.swap(restore)
        finished(source, restore)
    assert sources[0].replaced_copies() == ["0123abcd"]
    assert sources[1].replaced_copies() == []
    assert (home / "custom/app.py").exists()


# Preflight ----------------------------------------------------------------------------------------------------------


def test_preflight_lists_changed_keys_and_never_values(tmp_path, home, source, caplog):
    caplog.set_level(logging.DEBUG)
    disturb(home)
    later = comparable(home)
    for choice, verb in (("missing", "stays as it is"), ("all", "old passwords included")):
        restore = a_restore(tmp_path, config=choice)
        said = texts(source, restore)
        assert verb in said
        assert f"{home}/.env (content; other values: DB_PASSWORD; only there now: NEW_KEY)" in said
        assert f"{home}/custom/app.py (content)" in said
        assert f"Missing, and brought back: {home}/custom/plugins/two.py." in said
        assert f"{home}/docker-compose.yml" in said.partition("Equal, and left alone: ")[2]
        assert f"Not in the set, and left alone: {home}/custom/later.py." in said
        swapped(source, restore)
        source.roll_back(restore)
        source.discard(restore)
        assert comparable(home) == later
        for secret in (PASSWORD, OLD_PASSWORD):
            assert secret not in said + caplog.text
    contents = (tmp_path / "set" / "settings.contents.jsonl").read_text()
    assert PASSWORD not in contents


def test_preflight_ignores_a_changed_modification_time(tmp_path, home, source):
    os.utime(home / ".env", ns=(1, 1))
    assert ".env" in texts(source, a_restore(tmp_path)).partition("Equal, and left alone: ")[2]


def test_preflight_reports_a_changed_mode_and_restore_resets_the_mode(tmp_path, home, source):
    (home / ".env").chmod(0o644)
    assert f"{home}/.env (mode)" in texts(source, a_restore(tmp_path))
    restore = a_restore(tmp_path, config="all")
    swapped(source, restore)
    assert stat.S_IMODE((home / ".env").stat().st_mode) == 0o600


def test_preflight_fails_on_an_unknown_config_choice(tmp_path, source):
    with pytest.raises(RestoreError, match="'some' is not a choice"):
        source.preflight(a_restore(tmp_path, config="some"))


def test_preflight_warns_of_paths_no_longer_named_in_the_plan(tmp_path, home, source):
    assert f"no longer named in the plan: {home}/custom" in texts(
        config(home, ".env", "docker-compose.yml"), a_restore(tmp_path), "warning"
    )


def test_preflight_refuses_unreadable_files_and_unwritable_folders(tmp_path, home, source):
    if os.geteuid():
        pytest.skip("changes to another user")
    open_up(tmp_path)
    restore = a_restore(tmp_path)
    said = as_nobody(texts, source, restore, "refusal")
    assert f"{home}/.env can't be compared: Permission denied" in said
    (home / ".env").chmod(0o644)
    assert f"{home} is not writable for this worker" in as_nobody(texts, source, restore, "refusal")


def test_preflight_refuses_a_mounted_file_only_with_config_all(tmp_path, home, source):
    (tmp_path / "outside").write_text("A=1\n")
    made = subprocess.run(["mount", "--bind", tmp_path / "outside", home / ".env"], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("may not mount here")
    try:
        assert texts(source, a_restore(tmp_path), "refusal") == "", "it stays as it is"
        assert f"{home}/.env is a mount point of its own" in texts(source, a_restore(tmp_path, config="all"), "refusal")
    finally:
        subprocess.run(["umount", home / ".env"], check=True)


# Secrecy ------------------------------------------------------------------------------------------------------------


def test_staged_files_are_unreadable_for_other_users(tmp_path, home, source):
    if os.geteuid():
        pytest.skip("changes to another user")
    open_up(tmp_path)
    restore = a_restore(tmp_path)
    unpack = restore.unpack
    seen = []

    def watched(artifact, folder, only=None):
        unpack(artifact, folder, only)
        seen.append(as_nobody(os.access, folder, os.R_OK) or as_nobody(os.access, folder / str(home / ".env").lstrip("/"), os.R_OK))

    restore.unpack = watched
    source.stage(restore)
    assert seen == [False]


# Kills --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("then", ["resume", "back"])
def test_swap_killed_at_any_point_is_resumed_or_rolled_back(tmp_path, home, source, monkeypatch, then):
    disturb(home)
    (home / "custom").chmod(0o700)
    later = comparable(home)
    killer = Killer()
    killer.watch(monkeypatch, filesystem.rename)
    restores = {}

    def swap(steps: int) -> None:
        restore = restores[steps] = a_restore(tmp_path, config="all")
        restore.on_journal = killer.point
        left, killer.left = killer.left, None
        source.stage(restore)
        killer.left = left
        source.swap(restore)

    points = 0
    for steps in killed_at_each_point(killer, swap):
        points += 1
        if then == "resume":
            source.swap(restores[steps])
            assert PASSWORD in (home / ".env").read_text()
            assert (home / "custom/plugins/two.py").exists()
        source.roll_back(restores[steps])
        assert comparable(home) == later
        source.discard(restores[steps])
        assert comparable(home) == later
        assert not list(home.rglob(".recovery-*"))
    assert points == 7, "two entries of the journal, two files set aside, three brought"


@pytest.mark.slow
def test_rollback_killed_at_any_point_is_resumed(tmp_path, home, source, monkeypatch):
    disturb(home)
    later = comparable(home)
    killer = Killer()
    killer.watch(monkeypatch, filesystem.rename)
    restores = {}

    def back(steps: int) -> None:
        restore = restores[steps] = a_restore(tmp_path, config="all")
        left, killer.left = killer.left, None
        source.stage(restore)
        source.swap(restore)
        restore.on_journal = killer.point
        killer.left = left
        source.roll_back(restore)

    for steps in killed_at_each_point(killer, back):
        source.roll_back(restores[steps])
        assert comparable(home) == later
        source.discard(restores[steps])
    assert len(restores) == 8


def test_rollback_after_a_failed_rename_in_the_swap_is_exact(tmp_path, home, source, monkeypatch):
    disturb(home)
    later = comparable(home)
    restore = a_restore(tmp_path, config="all")
    source.stage(restore)
    rename = filesystem.rename
    calls = itertools.count()

    def refusing(source: bytes, target: bytes) -> None:
        if next(calls) == 2:
            raise OSError(16, "Device or resource busy")
        rename(source, target)

    monkeypatch.setattr(filesystem, "rename", refusing)
    with pytest.raises(RestoreError, match="Device or resource busy"):
        source.swap(restore)
    source.roll_back(restore)
    assert comparable(home) == later
