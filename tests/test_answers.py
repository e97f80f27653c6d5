"""Gates that are asked again, and services that stay down: what the journal then says."""

import pytest

from recovery import answers, report, way_back
from recovery.errors import RestoreError
from tests.small import Small, end, forward, to_gate


@pytest.fixture
def started(tmp_path):
    small = Small(tmp_path / "small")
    small.back_up()
    small.disaster()
    return small, small.restore()


def ended(run):
    with pytest.raises(RestoreError) as raised:
        report.finish(run)
    return str(raised.value)


def test_asking_again_voids_a_no_whose_task_was_killed_before_it_failed(started):
    small, run = started
    forward(small, run, "check")
    to_gate(run, "accept", person=None)
    answers.reject(run, "accept", "alice")
    to_gate(run, "accept", person="bob")
    way_back.keep(run)
    assert not way_back.switch_back(run)
    way_back.discard(run)
    report.finish(run)
    assert "**SUCCESS**" in (run.folder / "report.md").read_text()


def test_asking_again_voids_a_yes(started):
    small, run = started
    forward(small, run, "gate accept")
    to_gate(run, "accept", person=None)
    end(run)
    assert "nobody accepted it" in (run.folder / "report.md").read_text()


def test_services_that_do_not_start_on_the_way_back_are_told_and_tried_again(started):
    small, run = started
    before = small.fingerprint()
    forward(small, run, "stop services")
    small.fail("start", "web")
    with pytest.raises(RestoreError, match="web does not start") as raised:
        way_back.switch_back(run)
    assert raised.value.retryable
    way_back.discard(run)
    assert "THE WAY BACK IS NOT COMPLETE" in ended(run)
    small.mend("start", "web")
    way_back.switch_back(run)
    way_back.discard(run)
    assert "nothing live was replaced" in ended(run).lower()
    assert small.services == {"web": True, "workers": True}
    assert small.fingerprint() == before


def test_services_that_a_kill_left_down_are_started_when_the_restored_system_stays(started):
    small, run = started
    forward(small, run, "switch files.uploads")
    run.journal.say("starting services")
    end(run)
    assert small.services == {"web": True, "workers": True}


def test_a_restore_that_was_refused_at_its_start_can_not_be_begun_again(started):
    from recovery import preflight

    small, run = started
    assert "No set was chosen" in ended(run)
    with pytest.raises(RestoreError, match="has ended"):
        preflight.choose(run, small.ask(run))
