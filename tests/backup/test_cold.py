"""Cold backups of a real system, whose services are programs."""

import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from recovery.backup import cold, finalize, steps, upload
from recovery.backup.steps import Work
from recovery.common import units
from recovery.common.errors import RestoreUnderWay, StagingError, ToolError
from recovery.restore import answers, rollback
from recovery.restore import steps as restore_steps
from recovery.runs import active, journal, services
from recovery.runs.journal import Journal
from recovery.runs.journal_steps import Step
from recovery.sets.manifest import decode_manifest
from tests.support.kills import Killed, die
from tests.support.restore_driver import run_until, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow

NOW = units.now
STOPPED = ["stop web", "stop workers"]
STARTED = ["start workers", "start web"]


@pytest.fixture
def system(tmp_path):
    return SampleSystem(tmp_path / "small", "small", down_at_most="30m")


@pytest.fixture
def begun(system):
    return system.begin_backup(mode="cold")


def works(system, staged):
    return [Work(system.context(), staged, source_id) for source_id in staged.run().sources]


def read(system, staged):
    for work in works(system, staged):
        steps.dump(work)
        steps.compress(work)


def stored(system, staged):
    """The rest of a backup; its manifest."""
    for work in works(system, staged):
        steps.verify(work)
    finalize.close(system.context(), staged)
    return decode_manifest(staged.manifest.read_bytes(), "staging")


class Ahead(datetime):
    """A clock an hour ahead."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(hours=1)


def later(monkeypatch, **passed):
    monkeypatch.setattr(cold, "now", lambda: NOW() + timedelta(**passed))


def test_cold_backup_reads_while_services_are_down_and_the_manifest_says_for_how_long(system, begun):
    assert cold.stop_services(system.context(), begun) is True
    assert system.service_calls == STOPPED
    read(system, begun)
    assert cold.limit_downtime(system.context(), begun) is True
    assert cold.start_services(system.context(), begun) is True
    assert system.service_calls == STOPPED + STARTED
    manifest = stored(system, begun)
    assert manifest.downtime_seconds == cold.downtime(begun).total_seconds() > 0
    assert manifest.skew_seconds == 0
    assert manifest.apart.startswith("All sources were read while the services were stopped, for ")
    assert cold.start_services(system.context(), begun) is False
    assert cold.limit_downtime(system.context(), begun) is False
    assert system.service_calls == STOPPED + STARTED


def test_hot_backup_leaves_the_services_alone(system):
    staged = system.begin_backup()
    assert cold.stop_services(system.context(), staged) is False
    read(system, staged)
    assert cold.start_services(system.context(), staged) is False
    assert cold.limit_downtime(system.context(), staged) is False
    assert stored(system, staged).downtime_seconds is None
    assert system.service_calls == []


@pytest.mark.parametrize("step", [steps.dump, steps.compress])
def test_cold_backup_reads_no_source_before_services_are_stopped_or_after_they_were_started(system, begun, step):
    uploads = next(work for work in works(system, begun) if work.source_id == "files.uploads")
    with pytest.raises(StagingError, match="services were not down all the time"):
        steps.dump(uploads)
    cold.stop_services(system.context(), begun)
    if step is steps.compress:
        steps.dump(uploads)
    cold.start_services(system.context(), begun)
    with pytest.raises(StagingError, match="services were not down all the time"):
        step(uploads)
    with pytest.raises(StagingError, match="services were not down all the time"):
        cold.stop_services(system.context(), begun)
    assert system.service_calls == STOPPED + STARTED


def test_source_is_refused_when_services_start_while_it_is_read(system, begun):
    cold.stop_services(system.context(), begun)
    with pytest.raises(StagingError, match="services were not down all the time"), cold.reading(system.context(), begun):
        cold.start_services(system.context(), begun)


@pytest.mark.parametrize("point", [Step.SERVICES_STOPPED, Step.STARTING_SERVICES, Step.SERVICES_STARTED])
def test_services_that_a_killed_task_left_down_are_started(system, begun, monkeypatch, point):
    record = Journal.record
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(
            Journal, "record", lambda self, step, *rest, **facts: die() if step == point else record(self, step, *rest, **facts)
        )
        cold.stop_services(system.context(), begun)
        cold.start_services(system.context(), begun)
    assert cold.start_services(system.context(), begun) is True
    assert all(system.services.values())
    assert cold.start_services(system.context(), begun) is False


def test_services_are_started_after_a_stop_that_failed(system, begun):
    system.fail("stop", "workers")
    with pytest.raises(ToolError):
        cold.stop_services(system.context(), begun)
    assert cold.start_services(system.context(), begun) is True
    assert all(system.services.values())


def test_services_are_started_and_the_backup_fails_when_they_were_down_for_too_long(system, begun, monkeypatch):
    cold.stop_services(system.context(), begun)
    later(monkeypatch, minutes=29)
    assert cold.limit_downtime(system.context(), begun) is True
    assert system.service_calls == STOPPED
    later(monkeypatch, minutes=31)
    uploads = next(work for work in works(system, begun) if work.source_id == "files.uploads")
    with pytest.raises(StagingError, match=r"longer than the plan's 30 min\. They run again"):
        cold.limit_downtime(system.context(), begun)
    assert system.service_calls == STOPPED + STARTED
    with pytest.raises(StagingError):
        steps.dump(uploads)


def test_end_of_a_run_whose_plan_lost_cold_backups_starts_the_services(system, begun):
    cold.stop_services(system.context(), begun)
    read(system, begun)
    stored(system, begun)
    system.write_plan(cold="")
    for name in system.plan().destinations:
        upload.upload(system.context(), begun, name)
    with pytest.raises(StagingError, match="They run again"):
        upload.finish(system.context(), begun, begun.run().sources)
    assert system.service_calls == STOPPED + STARTED
    assert upload.finish(system.context(), begun, begun.run().sources) is True


def test_set_is_closed_when_the_clock_went_back_while_services_were_down(system, begun, monkeypatch):
    monkeypatch.setattr(journal, "datetime", Ahead)
    cold.stop_services(system.context(), begun)
    monkeypatch.undo()
    read(system, begun)
    cold.start_services(system.context(), begun)
    assert stored(system, begun).downtime_seconds == 0


def test_source_that_was_read_while_services_started_has_no_record_of_its_dump(system, begun, monkeypatch):
    """Whatever dies after the record is there, the next try takes the source for dumped."""
    cold.stop_services(system.context(), begun)
    [settings] = [work for work in works(system, begun) if work.source_id == "config.settings"]
    make = type(settings.source()).dump
    written = []

    def slow(self, *given):
        made = make(self, *given)
        cold.start_services(system.context(), begun)
        return made

    monkeypatch.setattr(type(settings.source()), "dump", slow)
    monkeypatch.setattr(steps, "write_record", lambda path, _record: written.append(path.name))
    with pytest.raises(StagingError, match="services were not down all the time"):
        steps.dump(settings)
    assert written == []


def test_limit_fails_although_the_services_run_again_when_they_were_down_for_too_long(system, begun, monkeypatch):
    """Whoever started them may have died before it said so."""
    cold.stop_services(system.context(), begun)
    cold.start_services(system.context(), begun)
    plan = system.plan()
    shortest = plan.services.model_copy(update={"down_at_most": timedelta(microseconds=1)})
    context = replace(system.context(), plan=plan.model_copy(update={"services": shortest}))
    with pytest.raises(StagingError, match="longer than the plan's"):
        cold.limit_downtime(context, begun)
    assert system.service_calls == STOPPED + STARTED


def test_next_backup_starts_services_that_one_before_left_down(system, begun):
    cold.stop_services(system.context(), begun)
    system.begin_backup("another run")
    assert system.service_calls == STOPPED + STARTED
    assert not begun.folder.exists()


def test_cold_backup_does_not_start_services_that_a_restore_has_stopped(system):
    system.back_up()
    staged = system.begin_backup("cold", mode="cold")
    cold.stop_services(system.context(), staged)
    run = system.restore()
    run_until(system, run, "stop services")
    assert cold.start_services(system.context(), staged) is True
    assert system.service_calls == STOPPED * 2
    assert teardown(run) != ""
    assert system.service_calls == STOPPED * 2 + STARTED


def test_services_are_started_when_a_restore_that_has_ended_could_not_start_its_own(system):
    system.back_up()
    run = system.restore()
    run_until(system, run, f"cutover {run.plan.source_ids[-1]}")
    system.fail("start", "web")
    with pytest.raises(ToolError):
        restore_steps.start_services(run)
    assert "its services do not start" in teardown(run)
    assert run.journal.closed
    system.mend("start", "web")
    staged = system.begin_backup("cold", mode="cold")
    cold.stop_services(system.context(), staged)
    cold.start_services(system.context(), staged)
    assert all(system.services.values())


def test_services_are_not_left_to_a_restore_of_another_plan_which_starts_others(system, tmp_path, monkeypatch):
    other = SampleSystem(tmp_path / "other", "other", plans=system.plans)
    other.edit_plan(str(other.storage), str(system.storage))
    monkeypatch.setenv("RECOVERY_PLANS", str(system.plans))
    other.back_up()
    staged = system.begin_backup("cold", mode="cold")
    cold.stop_services(system.context(), staged)
    run = other.restore()
    run_until(other, run, "stop services")
    with pytest.raises(RestoreUnderWay, match="services of small are STOPPED until it ends") as caught:
        cold.start_services(system.context(), staged)
    assert caught.value.retryable
    assert system.service_calls == STOPPED
    teardown(run)
    assert cold.start_services(system.context(), staged) is True
    assert system.service_calls == STOPPED + STARTED


def test_rollback_stops_services_only_when_no_cold_backup_starts_them(system, monkeypatch):
    """Else what it takes back would be used meanwhile."""
    system.back_up()
    run = system.restore()
    run_until(system, run, "check")
    answers.reject(run, "accept", "alice")
    look = "import pathlib, sys; from recovery.common.files import is_locked; sys.exit(is_locked(pathlib.Path(sys.argv[1])))"
    held = []
    run_all = services.run_all

    def noting(commands, given):
        held.append((commands[0][1], subprocess.run([sys.executable, "-c", look, active.services_lock(system.plan())]).returncode))
        run_all(commands, given)

    monkeypatch.setattr(services, "run_all", noting)
    rollback.roll_back(run)
    assert held[0] == ("stop", 1)


def test_services_that_were_started_half_are_not_stopped_again_for_the_same_set(system, begun):
    cold.stop_services(system.context(), begun)
    system.fail("start", "web")
    with pytest.raises(ToolError):
        cold.start_services(system.context(), begun)
    assert system.services == {"web": False, "workers": True}
    with pytest.raises(StagingError, match="services were not down all the time"):
        cold.stop_services(system.context(), begun)


def test_cold_backup_does_not_stop_services_during_a_restore(system):
    system.back_up("before")
    begun = system.begin_backup(mode="cold")
    run = system.restore()
    run_until(system, run, "stop services")
    with pytest.raises(RestoreUnderWay):
        cold.stop_services(system.context(), begun)
    teardown(run)


def test_first_gate_of_a_cold_set_says_so(system, begun):
    cold.stop_services(system.context(), begun)
    read(system, begun)
    cold.start_services(system.context(), begun)
    stored(system, begun)
    for name in system.plan().destinations:
        upload.upload(system.context(), begun, name)
    run = system.restore()
    run_until(system, run, "preflight")
    assert "a cold backup" in run.findings().text
