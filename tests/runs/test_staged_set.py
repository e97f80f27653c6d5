import os
import stat
import time
from datetime import UTC, datetime, timedelta

import pytest

from recovery.common import aging
from recovery.common.errors import StagingError
from recovery.common.files import write_record
from recovery.plan.model import Staging
from recovery.runs.staged_set import RunRecord, StagedSet, open_staging, staged_sets, sweep
from tests.support.file_zoo import NOBODY, as_nobody, open_up
from tests.support.system import SampleSystem

OTHER = 65533
NOW = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)


@pytest.fixture
def plan(tmp_path):
    return SampleSystem(tmp_path / "small", "small").plan()


def staged(plan, number, age=timedelta(0), size=0, closed=True, uploaded=()):
    """A set in staging, as a run left it some time ago."""
    made = StagedSet(plan, f"202611{number:02}T010000Z-{number:04}")
    made.set_folder.mkdir(parents=True)
    write_record(made.run_file, RunRecord(plan=plan.plan, set_id=made.id, run_id=f"run {number}", started=NOW, sources=("files.uploads",)))
    (made.set_folder / "pack.age").write_bytes(bytes(size))
    if closed:
        made.manifest.write_text("{}")
    for name in uploaded:
        made.mark_uploaded(name)
    then = time.time() - age.total_seconds()
    os.utime(made.folder, (then, then))
    return made


def left(plan):
    return [each.id[6:8] for each in sorted(staged_sets(plan), key=lambda each: each.id)]


# Where it lies -------------------------------------------------------------------------------------------------------


def placed(plan, folder):
    return plan.model_copy(update={"staging": Staging(folder=folder)})


def test_open_staging_makes_a_folder_for_this_user_alone(plan, tmp_path):
    open_staging(placed(plan, tmp_path / "a/b"), tmp_path / "a/b/c")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/c")] == [0o700] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")
@pytest.mark.parametrize("as_root", [True, False])
def test_open_staging_below_a_folder_of_another_user_is_refused_for_root_and_a_warning_for_others(plan, tmp_path, caplog, as_root):
    """That user could exchange it for one with a plan of an exchange that makes root change any folder."""
    open_up(tmp_path)
    folder = tmp_path / "app/staging"
    folder.parent.mkdir()
    os.chown(folder.parent, OTHER, OTHER)
    words = f"Other users may write to {folder.parent}, so they could exchange the staging folder {folder}"
    if as_root:
        with pytest.raises(StagingError, match=words):
            open_staging(placed(plan, folder), folder / "small")
        return
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)

    def warned():
        open_staging(placed(plan, folder), folder / "small")
        return caplog.text

    assert words in as_nobody(warned)


# Sweeping -----------------------------------------------------------------------------------------------------------


def test_sweep_deletes_an_open_set_of_another_run(plan):
    staged(plan, 1, closed=False)
    sweep(plan, "another")
    assert left(plan) == []


def test_sweep_keeps_a_closed_set_until_every_destination_has_a_copy(plan):
    staged(plan, 1)
    staged(plan, 2, uploaded=["near"])
    staged(plan, 3, uploaded=["near", "far"])
    sweep(plan, "another")
    assert left(plan) == ["01", "02"]


def test_sweep_keeps_the_own_set_of_the_run(plan):
    own = staged(plan, 1, closed=False, age=timedelta(days=99))
    sweep(plan, own.id)
    assert left(plan) == ["01"]


def sweep_on_day(plan, monkeypatch, day):
    monkeypatch.setattr(aging, "now", lambda: datetime.now(UTC) + timedelta(days=day))
    sweep(plan, "another")


def test_sweep_deletes_a_closed_set_when_nightly_runs_have_seen_it_for_3_days(plan, monkeypatch):
    old = staged(plan, 1, age=timedelta(hours=1))
    for day in (0, 1, 2, 2.95):
        sweep_on_day(plan, monkeypatch, day)
    staged(plan, 2)
    assert left(plan) == ["01", "02"]
    sweep_on_day(plan, monkeypatch, 3)
    assert left(plan) == ["02"]
    assert not old.age_file.exists()


def test_sweep_keeps_a_closed_set_when_the_clock_jumps_ahead(plan, monkeypatch):
    """Of one run, and of the next; and it goes on to count when the clock is right again."""
    staged(plan, 1)
    for day in (0, 61, 62):
        sweep_on_day(plan, monkeypatch, day)
        assert left(plan) == ["01"]
    for day in (2, 2.9):
        sweep_on_day(plan, monkeypatch, day)
    assert left(plan) == []


def test_sweep_keeps_a_closed_set_that_was_staged_by_a_clock_far_behind(plan):
    staged(plan, 1, age=timedelta(days=60))
    sweep(plan, "another")
    assert left(plan) == ["01"]


def test_sweep_deletes_only_the_oldest_sets_over_the_staging_cap(plan):
    capped = plan.model_copy(update={"staging": Staging(folder=plan.staging.folder, cap=25_000)})
    for number in range(1, 5):
        staged(plan, number, age=timedelta(hours=9 - number), size=10_000)
    sweep(capped, "another")
    assert left(plan) == ["03", "04"]
    sweep(plan, "another")
    assert left(plan) == ["03", "04"]


def test_sweep_logs_the_destinations_that_lack_a_closed_set(plan, caplog):
    staged(plan, 1, uploaded=["near"])
    sweep(plan, "another")
    assert "still waits in staging for far: clear its failed upload" in caplog.text


def test_sweep_ignores_stray_files_and_restore_folders(plan):
    (plan.staging.folder / plan.plan / "sets").mkdir(parents=True)
    (plan.staging.folder / plan.plan / "sets" / "README").touch()
    (plan.staging.folder / plan.plan / "restores" / "0123abcd").mkdir(parents=True)
    sweep(plan, "another")
    assert (plan.staging.folder / plan.plan / "restores" / "0123abcd").is_dir()
