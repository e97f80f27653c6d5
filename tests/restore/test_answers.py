"""Gates that are asked again, checks that begin again, and services that stay down: what the journal then says."""

import json

import pytest

from recovery.common.errors import ApprovalError, RestoreError, ToolError
from recovery.restore import answers, choose_set, rollback, steps
from recovery.restore.gate_texts import gate_text
from recovery.restore.report import write
from tests.support.small import Small, end, forward, to_gate


@pytest.fixture
def started(tmp_path):
    small = Small(tmp_path / "small")
    small.back_up()
    small.disaster()
    return small, small.restore()


def ended(run):
    with pytest.raises(RestoreError) as raised:
        write.finish(run)
    return str(raised.value)


@pytest.mark.parametrize("gate", ["plan", "accept"])
def test_a_no_is_final_though_its_task_was_killed_before_it_failed(started, gate):
    small, run = started
    forward(small, run, "preflight" if gate == "plan" else "check")
    to_gate(run, gate, person=None)
    answers.reject(run, gate, "alice")
    for again in (lambda: to_gate(run, gate, person=None), lambda: answers.approve(run, gate, "bob")):
        with pytest.raises(ApprovalError, match=f"alice rejected the gate '{gate}'"):
            again()
    answers.reject(run, gate, None)
    assert answers.answered(run, gate) == "rejected"
    assert f"alice rejected the gate '{gate}'" in end(run)


def test_silence_counts_until_the_gate_asks_again(started):
    small, run = started
    forward(small, run, "preflight")
    to_gate(run, "plan", person=None)
    assert answers.answered(run, "plan") == ""
    answers.reject(run, "plan", None)
    assert answers.answered(run, "plan") == "unanswered"
    to_gate(run, "plan")
    assert answers.answered(run, "plan") == "approved"
    steps.stage(run, "files.uploads")


@pytest.mark.parametrize("person", ["operator", "carol", ""])
def test_who_may_not_answer_can_not_say_no_either(started, person):
    small, run = started
    forward(small, run, "check")
    to_gate(run, "accept", person=None)
    with pytest.raises(ApprovalError, match="is no approver"):
        answers.reject(run, "accept", person)
    answers.reject(run, "accept", None)
    assert "nobody accepted it" in end(run)


def test_asking_again_voids_a_yes(started):
    small, run = started
    forward(small, run, "gate accept")
    to_gate(run, "accept", person=None)
    end(run)
    assert "nobody accepted it" in (run.folder / "report.md").read_text()


def check_again(small, run, ok):
    if ok:
        steps.check_system(run)
    else:
        small.fail("check", "web")
        with pytest.raises(RestoreError, match="1 of 1 checks of the restored system failed"):
            steps.check_system(run)


def test_a_yes_to_what_checks_said_before_they_began_again_is_void(started):
    small, run = started
    forward(small, run, "check")
    to_gate(run, "accept", person=None)
    check_again(small, run, ok=False)
    with pytest.raises(ApprovalError, match="this changed: checks; alice approved something else") as raised:
        answers.approve(run, "accept", "alice")
    assert raised.value.retryable, "the gate asks again"
    to_gate(run, "accept")
    shown = run.gate_file("accept", ".md").read_text()
    assert "✘ FAILED" in shown
    assert "✔" not in shown
    rollback.keep(run)
    assert "was accepted, but its checks did not all succeed" in end(run)


@pytest.mark.parametrize("ok", [True, False])
def test_checks_that_begin_again_void_a_yes(started, ok):
    small, run = started
    forward(small, run, "gate accept")
    check_again(small, run, ok=ok)
    with pytest.raises(ApprovalError, match="alice approved the gate accept, this changed: checks"):
        rollback.keep(run)
    assert "nobody accepted it" in end(run)


def test_only_the_last_round_of_checks_is_told(started):
    small, run = started
    small.fail("check", "web")
    with pytest.raises(RestoreError):
        forward(small, run, "check")
    small.mend("check", "web")
    steps.check_system(run)
    assert "FAILED" not in gate_text(run, "accept")
    to_gate(run, "accept")
    rollback.keep(run)
    assert end(run) == ""
    assert [each["ok"] for each in json.loads((run.folder / "report.json").read_text())["checks"]] == [True]


def test_checks_before_the_services_were_started_again_count_no_more(started):
    small, run = started
    forward(small, run, "check")
    steps.start_services(run)
    assert "✘ FAILED: the checks did not run to their end" in gate_text(run, "accept")
    to_gate(run, "accept")
    rollback.keep(run)
    assert "its checks did not all succeed" in end(run)


def test_services_that_did_not_start_the_second_time_are_told(started):
    small, run = started
    forward(small, run, "check")
    small.fail("start", "web")
    with pytest.raises(ToolError, match="web does not start"):
        steps.start_services(run)
    assert "✘ FAILED: the services did not start" in gate_text(run, "accept")
    small.mend("start", "web")
    to_gate(run, "accept")
    rollback.keep(run)
    assert "its services did not start cleanly" in end(run)


def test_services_that_do_not_start_on_the_way_back_are_told_and_tried_again(started):
    small, run = started
    before = small.fingerprint()
    forward(small, run, "stop services")
    small.fail("start", "web")
    with pytest.raises(RestoreError, match="web does not start") as raised:
        rollback.switch_back(run)
    assert raised.value.retryable
    rollback.discard(run)
    assert "THE WAY BACK IS NOT COMPLETE" in ended(run)
    small.mend("start", "web")
    rollback.switch_back(run)
    rollback.discard(run)
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
    small, run = started
    assert "No set was chosen" in ended(run)
    with pytest.raises(RestoreError, match="has ended"):
        choose_set.choose(run, small.ask(run))
