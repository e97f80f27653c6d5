"""What the application's user may do to the folder that is restored, while root restores it: nothing outside that folder changes."""

# pathlib has no paths of bytes.
# ruff: noqa: PTH101, PTH104

import json
import os
import shutil
import stat
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from recovery.common.errors import RecoveryError, RestoreError, SourceError
from recovery.plan.kinds.config import ConfigSettings
from recovery.plan.kinds.files import FilesSettings
from recovery.runners.local import LOCAL
from recovery.sources.config.source import Config
from recovery.sources.files.local import Files
from tests.support.attacker import attacker, exchange, state, swapping
from tests.support.file_zoo import NOBODY, as_nobody, entries, open_up
from tests.support.kills import Killed
from tests.support.local_restore import LocalRestore, back_up

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root alone has something to give away")


@pytest.fixture
def outside(tmp_path):
    """A folder of root's, of which nothing may change."""
    folder = tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    for name in ("secret", "changed", "sub/a", "sub/secret"):
        (folder / name).write_text("root's own")
    for path in (folder, folder / "sub"):
        os.chmod(path, 0o700)
    before = state(folder)
    yield folder
    assert state(folder) == before


@pytest.fixture
def live(tmp_path):
    """The application's folder, below one that it owns too."""
    open_up(tmp_path)
    folder = tmp_path / "app" / "live"
    (folder / "sub").mkdir(parents=True)
    for name in ("same", "changed", "sub/a", "sub/b"):
        (folder / name).write_text("saved")
    own(folder.parent)
    return folder


def own(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def files(folder: Path, *exclude: str) -> Files:
    return Files("uploads", FilesSettings(path=folder, exclude=exclude), runner=LOCAL)


def config(folder: Path) -> Config:
    return Config("settings", ConfigSettings(paths=[folder / "changed", folder / "sub"]), runner=LOCAL)


KINDS = {"files": (files, ""), "config": (config, "-settings")}


@pytest.fixture(params=KINDS)
def attacked(request, tmp_path, live):
    """A source, a restore of it, and the path of its work folder; the live entries differ from the set's."""
    make, suffix = KINDS[request.param]
    source = make(live)
    back_up(source, tmp_path / "set")
    (live / "changed").write_text("later")
    shutil.rmtree(live / "sub")
    own(live)
    restore = LocalRestore(tmp_path / "set", tmp_path / "work", options={"config": "all"})
    return source, restore, live / f".recovery-{restore.id}{suffix}"


# Exchanged between two steps ----------------------------------------------------------------------------------------


def by_a_link(work: Path, outside: Path) -> None:
    os.rename(work, work.with_name("away"))
    work.symlink_to(outside)


def by_a_folder(work: Path, outside: Path) -> None:
    """With a plan that would give a folder of root's to the application, as restores once had it there."""
    os.rename(work, work.with_name("away"))
    (work / "new").mkdir(parents=True)
    facts = {"type": "folder", "uid": NOBODY, "gid": NOBODY, "mode": "0777", "mtime": 1}
    (work / "exchange.jsonl").write_text(json.dumps(["folder", os.path.relpath(outside, work.parent), facts, facts]) + "\n")


def by_a_folder_of_links(work: Path, outside: Path) -> None:
    os.rename(work, work.with_name("away"))
    work.mkdir()
    for name in ("new", "before", "late", "apart"):
        (work / name).symlink_to(outside)


def by_another_folder_of_root(work: Path, outside: Path) -> None:
    os.rename(work, work.with_name("away"))
    os.rename(work.parent / "roots", work)


EXCHANGES = [by_a_link, by_a_folder, by_a_folder_of_links, by_another_folder_of_root]


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("step", ["stage", "verify_staged", "swap", "discard"])
def test_step_refuses_an_exchanged_work_folder_and_changes_nothing(attacked, live, outside, step, exchange):
    source, restore, work = attacked
    (live / "roots").mkdir(mode=0o700)
    (live / "roots" / "kept").touch()
    source.stage(restore)
    as_nobody(exchange, work, outside)
    before = state(live)
    with pytest.raises(RestoreError, match=r"somebody exchanged it|set aside, but its journal knows no swap"):
        getattr(source, step)(restore)
    assert state(live) == before


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("step", ["roll_back", "drop_replaced"])
def test_step_after_the_swap_refuses_an_exchanged_work_folder_and_changes_nothing(attacked, live, outside, step, exchange):
    source, restore, work = attacked
    (live / "sub").mkdir()
    own(live / "sub")
    (live / "roots" / "before").mkdir(parents=True)
    (live / "roots").chmod(0o700)
    source.stage(restore)
    source.swap(restore)
    if not (live / "roots").exists():
        os.rename(work / "before/roots", live / "roots")
    as_nobody(exchange, work, outside)
    before = state(live)
    nothing_to_drop = step == "drop_replaced" and exchange in {by_a_link, by_a_folder}
    with nullcontext() if nothing_to_drop else pytest.raises(RestoreError, match="somebody exchanged it"):
        getattr(source, step)(restore)
    assert state(live) == before


def test_swap_refuses_what_was_staged_anew_since_the_verification(attacked, live):
    """Nobody but root can do that; the journal knows it all the same."""
    source, restore, work = attacked
    source.stage(restore)
    assert source.verify_staged(restore) == []
    shutil.move(work / "new", work / "old")
    shutil.copytree(work / "old", work / "new", symlinks=True)
    before = state(live)
    with pytest.raises(RestoreError, match="somebody exchanged it"):
        source.swap(restore)
    assert state(live) == before


def test_work_folder_lets_nobody_in(attacked):
    source, restore, work = attacked
    source.stage(restore)
    assert not as_nobody(os.access, work, os.X_OK)
    work.chmod(0o755)
    with pytest.raises(RestoreError, match="opened it to others"):
        source.swap(restore)


def test_swap_of_a_work_folder_that_is_gone_is_refused(attacked):
    source, restore, work = attacked
    source.stage(restore)
    as_nobody(os.rename, work, work.with_name("away"))
    with pytest.raises(RestoreError, match="is gone: this restore made it"):
        source.swap(restore)


# Exchanged all the time ---------------------------------------------------------------------------------------------


TRIES = [pytest.param(10, id="10 tries"), pytest.param(300, id="300 tries", marks=pytest.mark.long)]


@pytest.mark.slow
@pytest.mark.parametrize("tries", TRIES)
def test_backup_while_a_folder_is_exchanged_for_a_link_has_nothing_of_elsewhere(tmp_path, live, tries):
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    for name in ("a", "b", "c", "d", "e"):
        (live / "sub" / name).write_text("saved")
        (secret / name).write_text("root's own")
    own(live)
    source, read = files(live), 0
    for number in range(3 * tries):
        with attacker(swapping(live / "sub", secret)), suppress(RecoveryError):
            kept = entries(back_up(source, tmp_path / f"set{number}"), "uploads")
            assert {facts["size"] for facts in kept.values() if facts["type"] == "file"} == {5}
            read += "sub/a" in kept
    assert read, "now and then it was there"


@pytest.mark.slow
@pytest.mark.parametrize("tries", TRIES)
def test_partial_restore_while_a_folder_is_exchanged_for_a_link_changes_nothing_outside(tmp_path, live, outside, tries):
    source = files(live)
    back_up(source, tmp_path / "set")
    for number in range(tries):
        restore = LocalRestore(tmp_path / "set", tmp_path / f"work{number}", only=["sub/a"])
        with attacker(swapping(live / "sub", outside)):
            for step in (source.stage, source.swap, source.roll_back, source.discard):
                with suppress(RecoveryError):
                    step(restore)
        put_right(live)


@pytest.mark.slow
@pytest.mark.parametrize("tries", TRIES)
def test_partial_restore_while_a_folder_is_exchanged_for_roots_gives_that_to_nobody(tmp_path, live, tries):
    source = files(live)
    back_up(source, tmp_path / "set")
    for number in range(tries):
        roots = live / "roots"
        roots.mkdir(mode=0o700)
        (roots / "a").write_text("root's own")
        before = {path.stat().st_ino: path.stat() for path in (roots, roots / "a")}
        restore = LocalRestore(tmp_path / "set", tmp_path / f"work{number}", only=["sub/a"])
        source.stage(restore)
        with attacker(lambda: exchange(live / "sub", roots)):  # noqa: B023
            for step in (source.swap, source.roll_back):
                with suppress(RecoveryError):
                    step(restore)
        left = {path.stat().st_ino: path.stat() for path in live.rglob("*")}
        for inode, was in before.items():
            assert (left[inode].st_uid, left[inode].st_mode) == (was.st_uid, was.st_mode)
        put_right(live)


@pytest.mark.slow
@pytest.mark.parametrize("tries", TRIES)
@pytest.mark.parametrize("only", [(), ("sub/a",)])
def test_restore_in_place_while_a_folder_is_exchanged_for_a_link_changes_nothing_outside(tmp_path, live, outside, tries, only):
    source = files(live, "*.tmp")
    back_up(source, tmp_path / "set")
    for number in range(tries):
        (live / "sub/keeps the folder.tmp").touch()
        restore = LocalRestore(tmp_path / "set", tmp_path / f"work{number}", only=only, in_place=True)
        with attacker(swapping(live / "sub", outside)):
            with suppress(RecoveryError):
                source.replace(restore)
        put_right(live)


@pytest.mark.slow
@pytest.mark.parametrize("tries", TRIES)
def test_restore_while_the_work_folder_is_exchanged_for_a_link_changes_nothing_outside(attacked, tmp_path, live, outside, tries):
    source, first, work = attacked
    for number in range(tries):
        restore = LocalRestore(tmp_path / "set", tmp_path / f"work{number}", first.id, options={"config": "all"})
        with attacker(swapping(work, outside)):
            for step in (source.stage, source.swap, source.roll_back, source.discard, source.drop_replaced):
                with suppress(RecoveryError):
                    step(restore)
        for path in live.glob(".recovery-*"):
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
        put_right(live)


def put_right(live: Path) -> None:
    for path in live.iterdir():
        path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
    (live / "sub").mkdir()
    for name in ("same", "changed", "sub/a", "sub/b"):
        (live / name).write_text("later")
    own(live)


# The folder itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_steps_refuse_a_folder_exchanged_for_a_link(tmp_path, live, outside, kind):
    source = KINDS[kind][0](live)
    back_up(source, tmp_path / "set")

    def exchange() -> None:
        os.rename(live, live.with_name("away"))
        live.symlink_to(outside)

    as_nobody(exchange)
    (tmp_path / "dump").mkdir()
    with pytest.raises(SourceError, match="in a folder that other users may write to is not followed"):
        source.dump(tmp_path / "dump", lambda: None)
    restore = LocalRestore(tmp_path / "set", tmp_path / "work", options={"config": "all"})
    assert "in a folder that other users may write to is not followed" in refused(source, restore)
    with pytest.raises(RestoreError, match="in a folder that other users may write to is not followed"):
        source.stage(restore)
    restore.in_place = True
    with pytest.raises(RestoreError, match="in a folder that other users may write to is not followed"):
        source.replace(restore)


def refused(source, restore) -> str:
    try:
        return "\n".join(finding.text for finding in source.preflight(restore).findings if finding.level == "refusal")
    except RestoreError as error:
        return error.what


def test_restore_does_not_create_a_missing_folder_through_a_link(tmp_path, live, outside):
    source = files(live)
    back_up(source, tmp_path / "set")

    def exchange() -> None:
        shutil.rmtree(live)
        live.symlink_to(outside / "new")

    as_nobody(exchange)
    with pytest.raises(RestoreError):
        source.stage(LocalRestore(tmp_path / "set", tmp_path / "work"))


@pytest.mark.parametrize("killed", [False, True])
def test_partial_restore_gives_nothing_to_a_folder_exchanged_since_the_plan(tmp_path, live, killed):
    """What it holds is the folder that it compared; after a kill it knows that one by its inode."""
    source = files(live)
    back_up(source, tmp_path / "set")
    (live / "sub").chmod(0o700)
    (live / "roots").mkdir(mode=0o700)
    restore = LocalRestore(tmp_path / "set", tmp_path / "work", only=["sub/a"])
    source.stage(restore)

    def exchange(step, _facts) -> None:
        if step == "exchange":
            as_nobody(os.rename, live / "sub", live / "away")
            as_nobody(os.rename, live / "roots", live / "sub")
            if killed:
                raise Killed

    restore.after_journal = exchange
    with pytest.raises(Killed) if killed else nullcontext():
        source.swap(restore)
    if killed:
        with pytest.raises(RestoreError, match="another folder than the one that this restore compared"):
            files(live).swap(restore)
    assert (live / "sub").stat().st_uid == 0
    assert stat.S_IMODE((live / "sub").stat().st_mode) == 0o700
