"""Restores that stand still: no task of them holds a lock, and their journal has grown no more."""

import subprocess
import sys
from datetime import timedelta

import pytest

from recovery.common import units
from recovery.restore import answers
from recovery.runs import stalled as stalled_restores
from recovery.runs.active import recorded_restores
from recovery.runs.stalled import stalled
from tests.support.restore_driver import approve_gate, run_until, show_gate, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow

NOW = units.now
MINUTE = timedelta(minutes=1)


@pytest.fixture
def system(tmp_path):
    made = SampleSystem(tmp_path / "small", "small")
    made.back_up()
    return made


@pytest.fixture
def said(system, monkeypatch):
    """What is said of the system's only restore after some time."""

    def after(passed):
        monkeypatch.setattr(stalled_restores, "now", lambda: NOW() + passed)
        [restore] = recorded_restores(system.plan())
        return stalled(restore)

    return after


@pytest.mark.parametrize("until", ["stop services", "cutover config.settings", "cutover files.uploads"])
def test_restore_stands_still_when_nothing_goes_on_for_15_minutes_after_services_were_stopped(system, said, until):
    run = system.restore("restore 1")
    run_until(system, run, until)
    assert said(14 * MINUTE) == ""
    words = said(16 * MINUTE)
    assert f"The restore {run.id} of small to live, run 'restore 1' of small_restore, stands still. Its services are STOPPED." in words
    assert "for 16 min, since its journal says 'took" in words


@pytest.mark.parametrize("until", ["preflight", "gate plan", "verify files.uploads", "gate cutover"])
def test_restore_does_not_stand_still_before_services_are_stopped(system, said, until):
    run_until(system, system.restore(), until)
    assert said(timedelta(days=9)) == ""


def test_restore_stands_still_in_its_rollback(system, said):
    run = system.restore()
    run_until(system, run, "cutover config.settings")
    system.fail("start", "web")
    teardown(run)
    assert "Its services are STOPPED" in said(16 * MINUTE)


HOLDER = """
import fcntl, sys
lock = open(sys.argv[1], "ab")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_restore_does_not_stand_still_while_a_task_holds_a_lock_of_it(system, said):
    run = system.restore()
    run_until(system, run, "stop services")
    argv = [sys.executable, "-c", HOLDER, str(run.folder / "locks" / "files.uploads")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as task:
        try:
            assert task.stdout.readline() == b"held\n"
            assert said(timedelta(hours=5)) == ""
        finally:
            task.kill()
    assert "stands still" in said(16 * MINUTE), "the killed task let go of its lock"


def test_restore_waits_at_its_last_gate_for_the_time_to_answer(system, said):
    run = system.restore()
    run_until(system, run, "check")
    assert "Its services run, but it has not ended." in said(16 * MINUTE), "the gate never asked"
    show_gate(run, "accept")
    assert said(timedelta(hours=12)) == ""
    assert "Its services run, but it has not ended." in said(timedelta(hours=12, minutes=16))


@pytest.mark.parametrize("answer", ["approve", "reject"])
def test_restore_stands_still_when_nothing_follows_the_answer_of_its_last_gate(system, said, answer):
    run = system.restore()
    run_until(system, run, "check")
    if answer == "approve":
        approve_gate(run, "accept")
    else:
        show_gate(run, "accept")
        answers.reject(run, "accept", "bob")
    assert "stands still" in said(16 * MINUTE)


def test_restore_that_has_ended_does_not_stand_still(system, said):
    run = system.restore()
    run_until(system, run)
    assert teardown(run) == ""
    assert said(timedelta(days=9)) == ""
