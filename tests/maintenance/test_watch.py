from datetime import timedelta

import pytest

from recovery.backup import cold
from recovery.common import units
from recovery.common.errors import RestoreError
from recovery.drill.steps import DrillRequest, choose_drill
from recovery.maintenance.watch import watch
from recovery.restore.session import RestoreSession
from recovery.runs import stalled
from recovery.runs.journal_steps import Step
from tests.support.restore_driver import run_until, steps, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow

NOW = units.now


@pytest.fixture
def system(tmp_path):
    made = SampleSystem(tmp_path / "small", "small", gates=())
    made.back_up()
    return made


@pytest.fixture
def watched(system, monkeypatch):
    """Whether restores have to be watched further, after some time."""

    def after(**passed):
        monkeypatch.setattr(stalled, "now", lambda: NOW() + timedelta(**passed))
        return watch(system.plan())

    return after


def test_watch_goes_on_until_the_restore_has_ended(system, watched):
    run = system.restore()
    assert watched() is False
    run_until(system, run, "preflight")
    assert watched(hours=12) is True
    for _, step in list(steps(system, run))[2:]:
        step()
    assert watched() is True
    assert teardown(run) == ""
    assert watched() is False


def test_watch_raises_the_alarm_for_services_that_a_cold_backup_left_down(system, watched, monkeypatch):
    system.write_plan(cold="\n  down_at_most: 30m")
    staged = system.begin_backup(mode="cold")
    cold.stop_services(system.context(), staged)
    assert watched() is True
    monkeypatch.setattr(cold, "now", lambda: NOW() + timedelta(minutes=44))
    assert watched() is True
    monkeypatch.setattr(cold, "now", lambda: NOW() + timedelta(minutes=46))
    with pytest.raises(RestoreError, match=r"of small_backup, has stopped the services 46 min ago, and nothing starts them") as caught:
        watched()
    assert "Start them by hand now" in caught.value.next_step
    cold.start_left_down(system.context(), system.begin_backup("other"))
    assert watched() is False


def test_watch_passes_over_a_set_whose_backup_ends_meanwhile(system, watched):
    staged = system.begin_backup()
    staged.folder.with_name("gone").symlink_to("nowhere")  # listed, and not there when it is looked at
    assert watched() is False


def test_watch_names_a_restore_that_stands_still_beside_a_cold_backup(system, watched, monkeypatch):
    system.write_plan(cold="\n  down_at_most: 30m")
    cold.stop_services(system.context(), system.begin_backup(mode="cold"))
    run = system.restore("live")
    run_until(system, run, "stop services")
    monkeypatch.setattr(cold, "now", lambda: NOW() + timedelta(hours=1))
    with pytest.raises(RestoreError, match=f"nothing starts them.*{run.id} .*stands still") as caught:
        watched(hours=1)
    assert "Start them by hand now" in caught.value.next_step
    assert stalled.NEXT_STEP in caught.value.next_step


def test_watch_raises_the_alarm_for_every_restore_that_stands_still(system, watched):
    live, elsewhere = system.restore("live"), system.restore("elsewhere")
    run_until(system, live, "stop services")
    run_until(system, elsewhere, "stop services", system.ask(elsewhere, target="elsewhere"))
    assert watched(minutes=14) is True
    with pytest.raises(RestoreError) as caught:
        watched(minutes=16)
    for run in (live, elsewhere):
        assert f"run {run.run_id!r} of small_restore, stands still. Its services are STOPPED" in caught.value.what
    assert "Unpause that DAG" in caught.value.next_step


def test_watch_leaves_a_drill_in_scratch_servers_alone(system, watched):
    """One that was cut off is ended by the next drill."""
    drill = RestoreSession(system.context(), "drill 1")
    choose_drill(drill, DrillRequest())
    drill.journal.record(Step.STOPPING_SERVICES)
    assert watched(minutes=16) is False


def test_watch_leaves_a_dry_run_and_a_restore_without_a_run_alone(system, watched):
    """The second waits at a gate for longer than it may: nobody goes on with it, and nothing is stopped."""
    run = system.restore("dry")
    run_until(system, run, "preflight", system.ask(run, dry_run=True))
    assert watched() is False
    run_until(system, system.restore("forgotten"), "preflight")
    assert watched(hours=12, minutes=14) is True
    assert watched(hours=12, minutes=16) is False
