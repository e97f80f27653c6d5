import multiprocessing
import os
import time
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

from recovery.common.errors import StagingError
from recovery.common.files import check_space, locked, read_record, write_atomically, write_record, written_in
from recovery.plan.model import Staging
from recovery.runs.staged_set import RunRecord, StagedSet, staged_sets, sweep
from tests.support.sets import run_python
from tests.support.system import SampleSystem

NOW = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)


class Fact(BaseModel):
    number: int


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


# Records ------------------------------------------------------------------------------------------------------------


def test_records_come_back(tmp_path):
    write_record(tmp_path / "fact.json", Fact(number=7))
    assert read_record(tmp_path / "fact.json", Fact) == Fact(number=7)
    assert [path.name for path in tmp_path.iterdir()] == ["fact.json"]


@pytest.mark.parametrize("content", ["", "{", '{"number": "x"}', '{"numbers": 7}'])
def test_a_damaged_record_is_said(tmp_path, content):
    (tmp_path / "fact.json").write_text(content)
    with pytest.raises(StagingError, match=r"fact\.json is damaged"):
        read_record(tmp_path / "fact.json", Fact)


def test_a_missing_record_says_what_staging_must_be(tmp_path):
    with pytest.raises(StagingError, match="share one staging folder"):
        read_record(tmp_path / "fact.json", Fact)


@pytest.mark.parametrize("at", ["fsync", "rename"])
def test_a_kill_while_writing_leaves_the_old_record(tmp_path, at):
    write_record(tmp_path / "fact.json", Fact(number=1))
    code = """
        import os, signal, sys
        from pathlib import Path
        from recovery.common.files import write_atomically
        die = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[2] == "fsync":
            os.fsync = die
        else:
            Path.rename = die
        write_atomically(Path(sys.argv[1]), b'{"number": 2}')
    """
    assert run_python(code, tmp_path / "fact.json", at).returncode == -9
    assert read_record(tmp_path / "fact.json", Fact) == Fact(number=1)
    write_atomically(tmp_path / "fact.json", b'{"number": 3}')
    assert read_record(tmp_path / "fact.json", Fact) == Fact(number=3)


# Locks and room -----------------------------------------------------------------------------------------------------


def _count_up(path, lock):
    for _ in range(50):
        with locked(lock):
            path.write_text(str(int(path.read_text()) + 1))


def test_a_lock_keeps_processes_apart(tmp_path):
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_count_up, args=(tmp_path / "number", tmp_path / "sub" / "lock")) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert (tmp_path / "number").read_text() == "200"


def test_a_killed_process_lets_go_of_its_lock(tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        from recovery.common.files import locked
        with locked(Path(sys.argv[1])):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, tmp_path / "lock").returncode == -9
    with locked(tmp_path / "lock"):
        pass


def test_no_room_is_said_with_the_folder(tmp_path):
    check_space(tmp_path, 1, "this")
    with pytest.raises(StagingError, match=rf"{tmp_path} has .* free, but that needs about"):
        check_space(tmp_path, 1 << 60, "that")


def test_only_errors_of_the_disk_are_said_to_be_of_staging(tmp_path):
    with pytest.raises(StagingError, match=f"{tmp_path} can't be written: No space left"), written_in(tmp_path):
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")
    with pytest.raises(FileNotFoundError), written_in(tmp_path):
        (tmp_path / "none").read_text()


# Sweeping -----------------------------------------------------------------------------------------------------------


def test_what_a_run_left_open_goes(plan):
    staged(plan, 1, closed=False)
    sweep(plan, "another")
    assert left(plan) == []


def test_a_closed_set_waits_for_its_destinations(plan):
    staged(plan, 1)
    staged(plan, 2, uploaded=["near"])
    staged(plan, 3, uploaded=["near", "far"])
    sweep(plan, "another")
    assert left(plan) == ["01", "02"]


def test_this_runs_own_set_stays_whatever_it_is(plan):
    own = staged(plan, 1, closed=False, age=timedelta(days=99))
    sweep(plan, own.id)
    assert left(plan) == ["01"]


def test_a_closed_set_waits_only_so_long(plan):
    staged(plan, 1, age=timedelta(days=3, minutes=1))
    staged(plan, 2, age=timedelta(days=2, hours=23))
    sweep(plan, "another")
    assert left(plan) == ["02"]


def test_over_the_cap_the_oldest_go_and_no_more(plan):
    capped = plan.model_copy(update={"staging": Staging(folder=plan.staging.folder, cap=25_000)})
    for number in range(1, 5):
        staged(plan, number, age=timedelta(hours=9 - number), size=10_000)
    sweep(capped, "another")
    assert left(plan) == ["03", "04"]
    sweep(plan, "another")
    assert left(plan) == ["03", "04"]


def test_what_waits_is_said_with_where_it_is_missing(plan, caplog):
    staged(plan, 1, uploaded=["near"])
    sweep(plan, "another")
    assert "still waits in staging for far: clear its failed upload" in caplog.text


def test_stray_files_do_no_harm(plan):
    (plan.staging.folder / plan.plan / "sets").mkdir(parents=True)
    (plan.staging.folder / plan.plan / "sets" / "README").touch()
    (plan.staging.folder / plan.plan / "restores" / "0123abcd").mkdir(parents=True)
    sweep(plan, "another")
    assert (plan.staging.folder / plan.plan / "restores" / "0123abcd").is_dir()
