"""Gates that are asked again, checks that begin again, and services that stay down: what the journal then says."""

import json

import pytest

from recovery.common.errors import ApprovalError, RestoreError, ToolError
from recovery.restore import answers, choose_set, rollback, steps
from recovery.restore.gate_texts import gate_text
from recovery.restore.report import write
from tests.support.restore_driver import approve_gate, run_until, show_gate, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow


@pytest.fixture
def started(tmp_path):
    system = SampleSystem(tmp_path / "small")
    system.back_up()
    system.disaster()
    return system, system.restore()


def ended(run):
    with pytest.raises(RestoreError) as raised:
        write.finish(run)
    return str(raised.value)


@pytest.mark.parametrize("gate", ["plan", "accept"])
def test_rejected_gate_stays_rejected_when_shown_or_answered_again(started, gate):
    system, run = started
    run_until(system, run, "preflight" if gate == "plan" else "check")
    show_gate(run, gate)
    answers.reject(run, gate, "alice")
    for again in (lambda: show_gate(run, gate), lambda: answers.approve(run, gate, "bob")):
        with pytest.raises(ApprovalError, match=f"alice rejected the gate '{gate}'"):
            again()
    answers.reject(run, gate, None)
    assert answers.answered(run, gate) == "rejected"
    assert f"alice rejected the gate '{gate}'" in teardown(run)


def test_unanswered_gate_can_be_shown_again_and_approved(started):
    system, run = started
    run_until(system, run, "preflight")
    show_gate(run, "plan")
    assert answers.answered(run, "plan") == ""
    answers.reject(run, "plan", None)
    assert answers.answered(run, "plan") == "unanswered"
    approve_gate(run, "plan")
    assert answers.answered(run, "plan") == "approved"
    steps.stage(run, "files.uploads")


@pytest.mark.parametrize("person", ["operator", "carol", ""])
def test_reject_by_non_approver_is_refused(started, person):
    system, run = started
    run_until(system, run, "check")
    show_gate(run, "accept")
    with pytest.raises(ApprovalError, match="is no approver"):
        answers.reject(run, "accept", person)
    answers.reject(run, "accept", None)
    assert "nobody accepted it" in teardown(run)


def test_gate_shown_again_voids_earlier_approval(started):
    system, run = started
    run_until(system, run, "gate accept")
    show_gate(run, "accept")
    teardown(run)
    assert "nobody accepted it" in (run.folder / "report.md").read_text()


@pytest.mark.parametrize("gate", ["plan", "cutover"])
def test_plan_and_cutover_gates_are_not_shown_or_approved_after_plan_change(started, gate):
    system, run = started
    run_until(system, run, "preflight" if gate == "plan" else "verify files.uploads")
    show_gate(run, gate)
    system.write_plan(rpo="25h")
    changed = system.restore()
    with pytest.raises(ApprovalError, match="Since preflight looked, the plan changed"):
        show_gate(changed, gate)
    with pytest.raises(ApprovalError, match="this changed: plan; alice approved something else"):
        answers.approve(changed, gate, "alice")
    assert not answers.answered(changed, gate)


def test_accept_gate_is_shown_and_approved_after_plan_change(started):
    system, run = started
    run_until(system, run, "check")
    system.write_plan(rpo="25h")
    approve_gate(system.restore(), "accept")
    assert answers.answered(run, "accept") == "approved"


def check_again(system, run, ok):
    if ok:
        steps.check_system(run)
    else:
        system.fail("check", "web")
        with pytest.raises(RestoreError, match="1 of 1 checks of the restored system failed"):
            steps.check_system(run)


def test_accept_gate_refuses_approval_of_check_results_from_before_rerun(started):
    system, run = started
    run_until(system, run, "check")
    show_gate(run, "accept")
    check_again(system, run, ok=False)
    with pytest.raises(ApprovalError, match="this changed: checks; alice approved something else") as raised:
        answers.approve(run, "accept", "alice")
    assert raised.value.retryable, "the gate asks again"
    approve_gate(run, "accept")
    shown = run.gate_file("accept", ".md").read_text()
    assert "✘ FAILED" in shown
    assert "✔" not in shown
    rollback.finalize(run)
    assert "was accepted, but its checks did not all succeed" in teardown(run)


@pytest.mark.parametrize("ok", [True, False])
def test_rerun_of_checks_voids_approval_of_accept_gate(started, ok):
    system, run = started
    run_until(system, run, "gate accept")
    check_again(system, run, ok=ok)
    with pytest.raises(ApprovalError, match="alice approved the gate accept, this changed: checks"):
        rollback.finalize(run)
    assert "nobody accepted it" in teardown(run)


def test_accept_gate_and_report_show_only_last_run_of_checks(started):
    system, run = started
    system.fail("check", "web")
    with pytest.raises(RestoreError):
        run_until(system, run, "check")
    system.mend("check", "web")
    steps.check_system(run)
    assert "FAILED" not in gate_text(run, "accept")
    approve_gate(run, "accept")
    rollback.finalize(run)
    assert teardown(run) == ""
    assert [each["ok"] for each in json.loads((run.folder / "report.json").read_text())["checks"]] == [True]


def test_checks_before_second_start_of_services_do_not_count(started):
    system, run = started
    run_until(system, run, "check")
    steps.start_services(run)
    assert "✘ FAILED: the checks did not run to their end" in gate_text(run, "accept")
    approve_gate(run, "accept")
    rollback.finalize(run)
    assert "its checks did not all succeed" in teardown(run)


def test_accept_gate_and_report_show_failed_second_start_of_services(started):
    system, run = started
    run_until(system, run, "check")
    system.fail("start", "web")
    with pytest.raises(ToolError, match="web does not start"):
        steps.start_services(run)
    assert "✘ FAILED: the services did not start" in gate_text(run, "accept")
    system.mend("start", "web")
    approve_gate(run, "accept")
    rollback.finalize(run)
    assert "its services did not start cleanly" in teardown(run)


def test_rollback_with_failed_start_of_services_is_reported_and_can_be_retried(started):
    system, run = started
    before = system.fingerprint()
    run_until(system, run, "stop services")
    system.fail("start", "web")
    with pytest.raises(RestoreError, match="web does not start") as raised:
        rollback.roll_back(run)
    assert raised.value.retryable
    rollback.discard(run)
    assert "THE ROLLBACK IS NOT COMPLETE" in ended(run)
    system.mend("start", "web")
    rollback.roll_back(run)
    rollback.discard(run)
    assert "nothing live was replaced" in ended(run).lower()
    assert system.services == {"web": True, "workers": True}
    assert system.fingerprint() == before


def test_teardown_starts_services_left_down_by_kill_when_restored_system_stays(started):
    system, run = started
    run_until(system, run, "cutover files.uploads")
    run.journal.record("starting services")
    teardown(run)
    assert system.services == {"web": True, "workers": True}


def test_choose_set_refuses_restore_that_ended_before_set_was_chosen(started):
    system, run = started
    assert "No set was chosen" in ended(run)
    with pytest.raises(RestoreError, match="has ended"):
        choose_set.choose(run, system.ask(run))
