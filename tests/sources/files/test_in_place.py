"""Files in place: removed and unpacked where they are, again after any kill, and back with a safety set."""

import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from recovery.common.errors import RestoreError, SourceError
from recovery.plan.kinds.files import FilesSettings
from recovery.restore import answers
from recovery.runners.local import LOCAL
from recovery.sources.files.local import Files
from recovery.sources.trees import filesystem
from tests.sources.files.test_local import Unsealed, finding_texts, restored, unsealed
from tests.sources.files.test_selection import age, apart, below, fill
from tests.support import file_zoo
from tests.support.file_zoo import as_nobody, listen, open_up, snapshot
from tests.support.kills import Killed, Killer
from tests.support.local_restore import LocalRestore, back_up
from tests.support.restore_driver import run_until, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow


def files(folder: Path, *exclude: str, damaged: bool = False) -> Files:
    made = Files("uploads", FilesSettings(path=folder, exclude=exclude), runner=LOCAL)
    made.damaged = damaged
    return made


@pytest.fixture
def live(tmp_path):
    folder = tmp_path / "live"
    fill(folder, {"same": "same", "changed": "old", "gone": "gone", "sub/a": "a", "sub/deep/b": "b", "lost/c": "c", "lost/d": "d"})
    (folder / "sub").chmod(0o2750)
    age(folder)
    return folder


def disturb(live: Path) -> None:
    fill(live, {"changed": "new", "newer": "newer", "sub/later": "later", "more/e": "e"})
    (live / "gone").unlink()
    shutil.rmtree(live / "lost")
    os.setxattr(live / "sub", "user.later", b"1")
    live.chmod(0o700)
    age(live)


class Both:
    """A restore in place with the set of then, and the rollback with the set of now."""

    def __init__(self, tmp_path: Path, live: Path, *only: str, exclude=(), change=disturb, number: int = 0) -> None:
        self.live = live
        self.source = files(live, *exclude)
        self.saved = snapshot(live)
        folder = tmp_path / f"sets{number}"
        back_up(self.source, folder / "set")
        change(live)
        self.later = snapshot(live) if live.exists() else None
        back_up(files(live, *exclude, damaged=True), folder / "safety")
        self.forth = LocalRestore(folder / "set", folder / "work", only=only, in_place=True)
        self.back = LocalRestore(folder / "safety", folder / "work", self.forth.id, only=only, in_place=True, rolling_back=True)

    def changed_since_backup(self) -> list[str]:
        """What is found not to be in the set of now, just before anything is dropped."""
        found = []

        def refuse():
            found.extend(
                f"{change.kind} {change.what}: {', '.join(change.names)}" for change in self.source.changed_since_backup(self.back)
            )
            raise Killed

        self.forth.refuse_if_changed = refuse
        with pytest.raises(Killed):
            self.source.replace(self.forth)
        return found

    def go(self, restore: LocalRestore) -> None:
        self.source.replace(restore)
        assert self.source.verify_staged(restore) == []
        self.source.finalize(restore)

    def end(self) -> None:
        """The rollback, and what must be there then."""
        self.go(self.back)
        assert (snapshot(self.live) if self.live.exists() else None) == self.later


def refusals(source: Files, restore: LocalRestore) -> str:
    return finding_texts(source, restore, "refusal")


# There and back -----------------------------------------------------------------------------------------------------


def test_restore_in_place_and_rollback_are_exact(tmp_path, live):
    both = Both(tmp_path, live)
    inode = live.stat().st_ino
    assert refusals(both.source, both.forth) == ""
    assert "all of them are removed" in finding_texts(both.source, both.forth, "fact")
    fingerprint = both.source.fingerprint(both.forth)
    both.go(both.forth)
    assert snapshot(live) == both.saved
    assert not list(live.glob(".recovery-*"))
    assert both.source.replaced_copies() == []
    assert live.stat().st_ino == inode
    (live / "written by a service").write_text("after the restore")
    (live / "lost/too").write_text("after the restore")
    both.end()
    assert both.source.fingerprint(both.forth) == fingerprint


@pytest.mark.parametrize("linked", ["above", "itself"])
def test_restore_of_a_folder_behind_a_symlink_is_exact_with_both_methods(tmp_path, live, linked):
    """The operator's own links are no trap, unlike those that a set brings."""
    (tmp_path / "link").symlink_to(tmp_path if linked == "above" else live)
    path = tmp_path / "link/live" if linked == "above" else tmp_path / "link"
    both = Both(tmp_path, path)
    both.go(both.forth)
    assert snapshot(live) == both.saved
    both.end()
    beside = LocalRestore(tmp_path / "sets0/set", tmp_path / "sets0/beside")
    restored(both.source, beside)
    assert snapshot(live) == both.saved
    both.source.roll_back(beside)
    both.source.discard(beside)
    assert snapshot(live) == both.later
    assert path.is_symlink() == (linked == "itself")


def test_restore_in_place_of_every_kind_of_entry_is_exact(tmp_path):
    live = tmp_path / "live"
    file_zoo.build(live)

    def change(live: Path) -> None:
        shutil.rmtree(live / "a")
        (live / "absolute").unlink()
        (live / "to folder").unlink()
        (live / "to folder").mkdir()
        (live / "empty folder").rmdir()
        (live / "empty folder").symlink_to("plain")
        (live / "plain").chmod(0o777)

    both = Both(tmp_path, live, change=change)
    both.go(both.forth)
    assert snapshot(live) == both.saved
    assert (live / "holes").stat().st_blocks * 512 < 1 << 20
    both.end()


@pytest.mark.parametrize("only", [(), ("lost", "*.x", "same"), ("sub/deep/b", "sub/la*")])
def test_restore_in_place_creates_a_missing_folder_and_rollback_removes_the_folder(tmp_path, live, only):
    fill(live, {"1.x": "x", "sub/later": "then"})
    age(live)
    both = Both(tmp_path, live, *only, change=shutil.rmtree)
    fingerprint = both.source.fingerprint(both.forth)
    assert fingerprint.startswith("gone below")
    both.go(both.forth)
    if not only:
        assert snapshot(live) == both.saved
    assert snapshot(live)[b"."] == both.saved[b"."]
    assert both.source.fingerprint(both.forth) == fingerprint, "a folder that the restore created is still gone"
    both.end()
    assert not live.exists()
    assert both.source.fingerprint(both.forth) == fingerprint


def test_dump_of_a_missing_folder_fails_unless_the_source_is_damaged(tmp_path, live):
    (tmp_path / "dump").mkdir()
    with pytest.raises(SourceError, match="is not there"):
        files(tmp_path / "nothing").dump(tmp_path / "dump", lambda: None)
    dump = files(tmp_path / "nothing", damaged=True).dump(tmp_path / "dump", lambda: None)
    assert dump.artifacts == ()
    assert dump.warnings == (f"uploads: not there, so not in the set: {tmp_path}/nothing.",)
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="is not a folder"):
        files(tmp_path / "file", damaged=True).dump(tmp_path, lambda: None)


# Parts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "touched"),
    [
        (["sub"], ["sub"]),
        (["lost/c"], ["lost"]),
        (["c*", "sub/deep/*", "**/d"], ["changed", "sub/deep/b", "lost"]),
        (["gone", "same"], ["gone", "same"]),
    ],
)
def test_restore_in_place_of_parts_and_rollback_change_no_other_entries(tmp_path, live, only, touched):
    both = Both(tmp_path, live, *only)
    assert refusals(both.source, both.forth) == ""
    both.go(both.forth)
    found = snapshot(live)
    wanted = below(both.saved, *touched)
    if only == ["lost/c"]:
        del wanted[b"lost/d"]
    assert below(found, *touched) == wanted
    assert apart(found, *touched) == apart(both.later, *touched)
    (live / "sub/written by a service").write_text("stays, unless its folder was replaced")
    (live / "lost").exists() and (live / "lost/more").write_text("goes with a folder that was not there")
    both.go(both.back)
    if only != ["sub"]:
        (live / "sub/written by a service").unlink()
        os.utime(live / "sub", ns=(1, both.later[b"sub"][3]))
    assert snapshot(live) == both.later


# Excluded entries and mounts ----------------------------------------------------------------------------------------


def test_restore_in_place_keeps_excluded_files_and_sockets(tmp_path, live):
    exclude = ("*.tmp", "cache/*")
    both = Both(tmp_path, live, exclude=exclude)
    fill(live, {"top.tmp": "1", "sub/x.tmp": "2", "more/y.tmp": "3", "cache/z": "4"})
    live.chmod(0o711)
    with file_zoo.listen(live / "app.sock"), file_zoo.listen(live / "sub/app.sock"):
        both.go(both.forth)
        assert (live / "app.sock").is_socket()
        assert (live / "sub/app.sock").is_socket()
    assert [(live / path).read_text() for path in ("top.tmp", "sub/x.tmp", "more/y.tmp", "cache/z")] == ["1", "2", "3", "4"]
    assert not (live / "more/e").exists()
    kept = {b"top.tmp", b"sub/x.tmp", b"more", b"more/y.tmp", b"cache", b"cache/z", b"app.sock", b"sub/app.sock"}
    found = {path: what for path, what in snapshot(live).items() if path not in kept}
    assert found == both.saved
    both.go(both.back)
    assert (live / "sub/x.tmp").read_text() == "2"


def test_restore_in_place_skips_entries_that_the_plan_excludes_now(tmp_path, live):
    fill(live, {"sub/x.tmp": "then", "gone.tmp": "then", "top.tmp": "a file then"})
    both = Both(tmp_path, live)
    for name in ("gone.tmp", "top.tmp"):
        (live / name).unlink()
    both.source = files(live, "*.tmp")
    (live / "sub/x.tmp").write_text("now")
    (live / "top.tmp").mkdir()
    (live / "top.tmp/y").write_text("now")
    assert "left out, and what is there stays: gone.tmp, sub/x.tmp, top.tmp." in finding_texts(both.source, both.forth, "warning")
    for restore in (both.forth, both.back):
        both.go(restore)
        assert (live / "sub/x.tmp").read_text() == (live / "top.tmp/y").read_text() == "now"
        assert not (live / "gone.tmp").exists()
        assert (live / "sub/later").exists() == (restore is both.back)


def test_restore_in_place_of_parts_skips_entries_that_the_plan_excludes_now(tmp_path, live):
    fill(live, {"sub/x.tmp": "then", "y.tmp": "then"})
    both = Both(tmp_path, live, "sub", "y.tmp", change=lambda live: fill(live, {"sub/x.tmp": "now", "y.tmp": "now", "sub/a": "later"}))
    both.source = files(live, "*.tmp")
    assert refusals(both.source, both.forth) == ""
    both.go(both.forth)
    assert [(live / path).read_text() for path in ("sub/x.tmp", "y.tmp", "sub/a")] == ["now", "now", "a"]
    both.forth.only = ("y.tmp",)
    assert "That is all that was asked for" in refusals(both.source, both.forth)


def test_restore_in_place_of_a_part_ignores_a_symlink_beside_the_part(tmp_path, live):
    both = Both(tmp_path, live, "sub", change=disturb)
    (live / "lost").symlink_to(tmp_path)
    both.go(both.forth)
    assert (live / "sub/a").exists()
    assert (live / "lost").is_symlink()


@pytest.mark.parametrize("only", [(), ("lost/c", "sub", "ch*", "z")])
def test_changed_since_backup_lists_only_entries_changed_after_the_safety_set(tmp_path, live, only):
    """Hard links of which only one is asked for; what is excluded, and gives folders another time; and then what was written."""
    for one in ("changed", "sub/a"):
        os.link(live / one, live / f"{one} too")
    os.link(live / "same", live / "z")
    both = Both(tmp_path, live, *only, exclude=("*.tmp",), change=lambda live: shutil.rmtree(live / "lost"))
    fill(live, {"top.tmp": "1", "sub/x.tmp": "2"})
    with file_zoo.listen(live / "sub/app.sock"):
        assert both.changed_since_backup() == []
    os.utime(live / "z", ns=(1, 1))
    (live / "sub/deep").chmod(0o700)
    fill(live, {"lost/other": "late", "sub/late": "late"})
    found = both.changed_since_backup()
    assert "file removed: lost/other, sub/late" in found
    assert f"file changed: {'z' if only else 'same'}" in found
    assert "folder changed: sub/deep" in found
    assert "folder removed: lost" in found
    assert len(found) == 4


def test_changed_since_backup_lists_a_changed_mode_of_the_root_folder(tmp_path, live):
    both = Both(tmp_path, live)
    live.chmod(0o711)
    assert both.changed_since_backup() == ["folder changed: ."]
    assert Both(tmp_path, live, "sub", number=1, change=lambda live: live.chmod(0o750)).changed_since_backup() == []


@pytest.mark.parametrize("change", [disturb, shutil.rmtree])
def test_journal_notes_dropping_before_a_restore_in_place_changes_live_files(tmp_path, live, change):
    both = Both(tmp_path, live, change=change)

    def dies(step, _facts):
        if step == "dropping":
            raise Killed

    both.forth.on_journal = dies
    with pytest.raises(Killed):
        both.source.replace(both.forth)
    assert (snapshot(live) if live.exists() else None) == both.later
    both.forth.on_journal = lambda step, facts: None
    both.go(both.forth)
    both.end()
    assert len(both.forth.recorded_facts("dropping")) == 1


def test_preflight_in_place_reports_freed_space_without_excluded_files(tmp_path, live):
    fill(live, {"large": "x" * (1 << 20), "large.tmp": "x" * (1 << 20)})
    both = Both(tmp_path, live, exclude=("*.tmp",))
    (space,) = both.source.preflight(both.forth).second_copy
    assert 1 << 20 <= space.freed < 2 << 20


@pytest.mark.parametrize("only", [(), ("sub/a",)])
def test_restore_in_place_into_folders_with_default_acl_is_exact(tmp_path, live, only):
    """What is unpacked straight into them must not inherit, and they must be as before afterwards."""
    for folder in (live, live / "sub"):
        os.setxattr(folder, "system.posix_acl_default", file_zoo.ACL)
    both = Both(tmp_path, live, *only, change=lambda live: (live / "sub/a").write_text("later"))
    both.go(both.forth)
    assert snapshot(live) == both.saved
    both.end()


@pytest.fixture
def mount(live):
    """Mounts a file system of memory on a folder."""
    made = []

    def mounted(folder: Path, *options: str) -> Path:
        if subprocess.run(["mount", "-t", "tmpfs", *options, "none", folder], check=False, capture_output=True).returncode:
            pytest.skip("may not mount here")
        made.append(folder)
        return folder

    yield mounted
    for folder in reversed(made):
        subprocess.run(["umount", folder], check=True)


def test_restore_in_place_replaces_files_below_a_mount_point_and_keeps_the_mount(tmp_path, live, mount):
    mount(live / "sub")
    fill(live, {"sub/a": "a", "sub/deep/b": "b"})
    age(live)
    both = Both(tmp_path, live)
    assert refusals(both.source, both.forth) == ""
    assert f"emptied and filled where it is: {live}/sub" in finding_texts(both.source, both.forth, "fact")
    both.go(both.forth)
    assert snapshot(live) == both.saved
    assert live.joinpath("sub").is_mount()
    both.end()


@pytest.mark.parametrize("in_place", [False, True])
def test_restore_and_rollback_of_a_mounted_folder_keep_the_mount_point(tmp_path, live, mount, in_place):
    """Both methods, of everything and of a part."""
    mount(live)
    for number, only in enumerate([(), ("lost", "ch*")]):
        fill(live, {"same": "same", "changed": "old", "gone": "gone", "lost/c": "c", "sub/a": "a"})
        age(live)
        both = Both(tmp_path, live, *only, number=number)
        both.forth.in_place = in_place
        assert refusals(both.source, both.forth) == ""
        if in_place:
            both.go(both.forth)
            both.end()
            continue
        both.source.stage(both.forth)
        assert both.source.verify_staged(both.forth) == []
        both.source.swap(both.forth)
        assert below(snapshot(live), "lost", "changed") == below(both.saved, "lost", "changed")
        both.source.roll_back(both.forth)
        both.source.discard(both.forth)
        assert snapshot(live) == both.later
    assert live.is_mount()


def test_preflight_refuses_parts_at_or_below_a_mount_point(tmp_path, live, mount):
    both = Both(tmp_path, live, "same", change=lambda live: None)
    mount(live / "sub")
    both.forth.in_place = False
    assert refusals(both.source, both.forth) == ""
    both.forth.only = ("sub",)
    assert "is a mount point" in refusals(both.source, both.forth)
    both.forth.only = ("sub/deep/b",)
    assert f"{live}/sub is a mount point" in refusals(both.source, both.forth)


def test_preflight_in_place_refuses_a_mounted_file(tmp_path, live):
    both = Both(tmp_path, live, change=lambda live: None)
    if subprocess.run(["mount", "--bind", live / "same", live / "changed"], check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        assert f"single files are mounted, which can't be removed: {live}/changed" in refusals(both.source, both.forth)
    finally:
        subprocess.run(["umount", live / "changed"], check=True)


def test_preflight_in_place_refuses_a_set_larger_than_free_plus_freed_space(tmp_path, live, mount):
    fill(live, {"large": "x" * (3 << 20)})
    back_up(files(live), tmp_path / "set")
    mount(live, "-o", "size=2m")
    (live / "small").write_bytes(b"x" * (1 << 20))
    restore = LocalRestore(tmp_path / "set", tmp_path / "work", in_place=True)
    assert "free, and 1.0 MiB more once the live files are removed; the set needs 3.0 MiB" in refusals(files(live), restore)
    restore.in_place = False
    assert "the set needs" not in refusals(files(live), restore)
    (space,) = files(live).preflight(restore).second_copy
    assert space.free < space.needed


def test_verify_staged_in_place_reports_differences_below_the_replaced_entries(tmp_path, live):
    both = Both(tmp_path, live)
    both.source.replace(both.forth)
    (live / "sub/a").write_text("A")
    (live / "gone").unlink()
    (live / "sub/stranger").touch()
    (live / "newcomer").touch()
    said = "\n".join(map(str, both.source.verify_staged(both.forth)))
    for words in ("sub/a: sha256", "gone: is missing", "sub/stranger: is there, but not in the set"):
        assert words in said
    assert "newcomer" not in said


# Kills --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("only", [(), ("lost/c", "sub", "ch*", "z")])
@pytest.mark.parametrize(("then", "first"), [("again", 0), ("back", 1), ("back again", 2)])
def test_restore_in_place_killed_at_any_point_is_repeated_or_rolled_back(tmp_path, live, monkeypatch, only, then, first, stride):
    """Again until it is done, or back from wherever it was; a rollback that is killed is done again. Each takes a third at most."""
    os.link(live / "changed", live / "z")
    age(live)
    both = Both(tmp_path, live, *only)
    killer = Killer()
    killer.watch(monkeypatch, os.unlink, os.rmdir, filesystem.set_metadata, filesystem.rename, filesystem.sync)
    for restore in (both.forth, both.back):
        restore.on_journal = killer.point
        killer.watch_unpacking(restore)
    asked = ["lost/c", "sub", "changed", "z"] if only else ["."]

    for left in itertools.count(first, 3 * stride):
        if then == "back again":
            both.source.replace(both.forth)
        killer.left = left
        try:
            both.source.replace(both.back if then == "back again" else both.forth)
        except Killed:
            killer.left = None
        else:
            break
        if then == "again":
            both.go(both.forth)
            found = snapshot(live)
            assert found == both.saved if not only else below(found, *asked) == below(both.saved, *asked)
        both.end()
        assert not list(live.glob(".recovery-*"))
    assert left > 20


# Without root, and what refuses -------------------------------------------------------------------------------------


def test_restore_in_place_without_root_is_exact(tmp_path):
    if os.geteuid():
        pytest.skip("the other tests are the same then")
    with tempfile.TemporaryDirectory() as folder:
        point = Path(folder)
        os.chown(point, file_zoo.NOBODY, file_zoo.NOBODY)
        live = point / "live"
        as_nobody(file_zoo.build, live)
        source, before = files(live), snapshot(live)
        unsealed(back_up(source, point / "set"))

        def there() -> bool:
            (live / "a/b/c/file").write_text("other")
            restore = Unsealed(point / "set", point / "work", in_place=True)
            source.replace(restore)
            return source.verify_staged(restore) == [] and snapshot(live) == before

        assert as_nobody(there)


def test_restore_in_place_fails_on_unreadable_folders_and_undeletable_files(tmp_path, live):
    if os.geteuid():
        pytest.skip("changes to another user")
    both = Both(tmp_path, live, change=lambda live: None)
    open_up(tmp_path)
    for path in (tmp_path / "sets0").rglob("*"):
        path.chmod(0o755)
    (live / "sub").chmod(0)
    assert "can be read" in as_nobody(refusals, both.source, both.forth)
    (live / "sub").chmod(0o755)
    live.chmod(0o777)
    with pytest.raises(RestoreError, match=r"could not be replaced in place: (Operation not permitted|Permission denied)"):
        as_nobody(both.source.replace, both.forth)


@pytest.fixture
def of_two(tmp_path):
    """A folder of a worker that is not root, with one in it that is root's, and a set of it."""
    if os.geteuid():
        pytest.skip("needs two users")
    with tempfile.TemporaryDirectory() as folder:
        point = Path(folder)
        live = point / "live"
        fill(live, {"sub/a": "old", "sub/deep/b": "old"})
        for path in (point, live, *live.rglob("*")):
            os.chown(path, file_zoo.NOBODY, file_zoo.NOBODY)
        unsealed(back_up(files(live), point / "set"))
        os.chown(live / "sub/deep", 0, file_zoo.NOBODY)
        yield point


def test_preflight_in_place_refuses_what_the_worker_may_not_remove_however_deep(of_two):
    """It would be found once the rest is removed, and by the rollback again."""
    source = files(of_two / "live")
    restore = Unsealed(of_two / "set", of_two / "work", in_place=True)
    os.chown(of_two / "work", file_zoo.NOBODY, file_zoo.NOBODY)
    assert f"folders of other users: {of_two}/live/sub/deep" in as_nobody(refusals, source, restore)
    (of_two / "live/sub/deep/b").unlink()
    assert as_nobody(refusals, source, restore) == ""
    as_nobody(source.replace, restore)


@pytest.mark.parametrize("in_place", [False, True])
def test_restore_without_root_replaces_folders_of_others_that_it_may_write_to(of_two, in_place):
    (of_two / "live/sub/deep").chmod(0o775)
    source = files(of_two / "live")

    def there() -> None:
        restore = Unsealed(of_two / "set", of_two / "work", in_place=in_place)
        assert refusals(source, restore) == ""
        if in_place:
            source.replace(restore)
            assert source.verify_staged(restore) == []
            return
        source.stage(restore)
        source.swap(restore)
        source.drop_replaced(restore)

    as_nobody(there)
    assert (of_two / "live/sub/deep").stat().st_uid == file_zoo.NOBODY
    assert not list((of_two / "live").glob(".recovery-*"))


def test_preflight_in_place_refuses_a_socket_in_the_place_of_an_entry(tmp_path, live):
    """It would stay, and be in the way once the rest is removed."""
    source = files(live)
    back_up(source, tmp_path / "set")
    (live / "same").unlink()
    with listen(live / "same"):
        restore = LocalRestore(tmp_path / "set", tmp_path / "work", in_place=True)
        assert f"Sockets or devices stay, where the set has something else: {live}/same" in refusals(source, restore)
        restore.in_place = False
        assert refusals(source, restore) == ""


# Through a whole restore --------------------------------------------------------------------------------------------


def test_restore_in_place_creates_missing_sources_and_reject_removes_the_sources(tmp_path):
    """Their safety set has nothing of them; after a reject at the last gate, they are missing again."""
    system = SampleSystem(tmp_path / "small", "small")
    set_id = system.back_up()
    saved = system.fingerprint()
    shutil.rmtree(system.storage)
    shutil.rmtree(system.home / "custom")
    before = snapshot(system.home, times=False)
    for number, refused in enumerate([True, False]):
        run = system.restore(f"restore {number}")
        run_until(system, run, "gate accept" if refused else "finalize", system.ask(run, set=set_id, method="in place", config="all"))
        assert system.fingerprint() == saved
        if refused:
            answers.reject(run, "accept", "alice")
        assert teardown(run) == "" or refused
        assert system.storage.exists() != refused
        assert not refused or snapshot(system.home, times=False) == before
    assert system.fingerprint() == saved
    assert system.leftovers() == []
