"""The steps of a restore, on real servers, called as Airflow's tasks call them."""

import json
import os
import shutil
import signal
from datetime import UTC, datetime, timedelta

import pytest

from recovery.airflow import tasks
from recovery.backup import finalize, upload
from recovery.backup import steps as backup_steps
from recovery.common.errors import ApprovalError, PlanError, RecoveryError, RestoreError, RestoreUnderWay, StagingError
from recovery.crypto.signing import SigningKey
from recovery.plan.model import Retention
from recovery.restore import answers, choose_set, gate_texts, preflight, rollback
from recovery.restore import steps as restore_steps
from recovery.restore.approvals import Approval, write_signed
from recovery.restore.session import RestoreSession
from recovery.runs.journal_steps import Step
from recovery.runs.staged_set import RunRecord, StagedSet
from recovery.sets.layout import CONTENTS_FILE, PACKS_FILE, new_set_id
from recovery.sets.prune import prune
from recovery.sets.records import read_records
from recovery.sources.model import LeftOut
from sandbox.servers import Mongo, Postgres, wait_for
from tests.support.kills import killed_at_statement
from tests.support.restore_driver import (
    approve_gate,
    assert_unchanged,
    maintain_daily,
    maintain_on,
    refused_by_preflight,
    run_until,
    steps,
    teardown,
)
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow


@pytest.fixture
def system(tmp_path):
    """Files and settings, backed up once and then damaged."""
    return SampleSystem(tmp_path / "small", "small").backed_up_and_damaged()


def back_up_again(system, run_id):
    """Another complete set, of the damaged system."""
    (system.home / ".env").write_text("DB_PASSWORD=of-later\n")
    return system.back_up(run_id)


def do(system, run, name):
    """One step, again or out of order."""
    dict(steps(system, run))[name]()


# There and back -------------------------------------------------------------------------------------------------------


def test_restore_equals_set_and_previous_data_is_kept_for_keep_replaced(whole, monkeypatch):
    run = whole.restore()
    run_until(whole, run)
    assert teardown(run) == ""
    assert whole.fingerprint() == whole.set_state
    assert whole.service_calls == ["stop web", "stop workers", "start workers", "start web", "check web"]

    aside = whole.leftovers()
    assert f"whole__before_{run.id}" in aside
    assert f"__before_{run.id}_states" in aside
    assert (whole.storage / f".recovery-{run.id}" / "before" / "new.txt").read_text() == "came later\n"

    maintain_daily(whole, monkeypatch, 6.95)
    assert whole.leftovers() == aside, "copies went before their days were over"
    maintain_on(whole, monkeypatch, 7.05)
    assert whole.leftovers() == []
    assert whole.fingerprint() == whole.set_state
    assert [path.name for path in run.folder.iterdir()] == ["journal.jsonl"]


def test_maintenance_deletes_rejected_data_after_keep_replaced(whole, monkeypatch):
    run = whole.restore()
    run_until(whole, run, "check")
    whole.sql("INSERT INTO requests (what) VALUES ('written meanwhile')")
    answers.show(run, "accept", gate_texts.gate_text(run, "accept"))
    answers.reject(run, "accept", "bob")
    assert "the previous data is back" in teardown(run)
    assert whole.fingerprint() == whole.before
    assert f"whole__stage_{run.id}" in whole.leftovers()
    marks = {each["mark"] for each in json.loads((run.folder / "report.json").read_text())["set_aside"]}
    assert all(any(mark in name for mark in marks) for name in whole.leftovers()), (marks, whole.leftovers())
    maintain_daily(whole, monkeypatch)
    assert whole.leftovers() == []
    assert whole.fingerprint() == whole.before


def test_restore_of_some_sources_follows_plan_order_and_leaves_other_sources(whole):
    run = whole.restore()
    request = whole.ask(run, sources=("files.uploads", "config.settings"))
    run_until(whole, run, "choose", request)
    assert run.request().sources == ("config.settings", "files.uploads")
    preflight.preflight(run)
    approve_gate(run, "plan")
    assert "### postgres.main" not in run.findings().text
    with pytest.raises(ApprovalError):
        restore_steps.stage(run, "postgres.main")
    for source_id in run.request().sources:
        restore_steps.stage(run, source_id)
        restore_steps.verify(run, source_id)
    approve_gate(run, "cutover")
    restore_steps.stop_services(run)
    for source_id in run.request().sources:
        restore_steps.cut_over(run, source_id)
    restore_steps.start_services(run)
    restore_steps.check_system(run)
    approve_gate(run, "accept")
    rollback.finalize(run)
    assert teardown(run) == ""
    after = whole.fingerprint()
    for source_id in ("config.settings", "files.uploads"):
        assert after[source_id] == whole.set_state[source_id]
    for source_id in ("postgres.main", "mongo.documents"):
        assert after[source_id] == whole.before[source_id]


def test_restore_replaces_changed_settings_only_when_requested(system):
    (system.home / "custom" / "lib" / "flow.py").write_text("STEPS = 4\n")
    run = system.restore()
    run_until(system, run)
    assert teardown(run) == ""
    assert (system.home / "custom" / "lib" / "flow.py").read_text() == "STEPS = 4\n"
    assert (system.home / ".env").exists()
    second = system.restore("restore 2")
    run_until(system, second, request=system.ask(second, config="all"))
    assert teardown(second) == ""
    assert system.fingerprint()["config.settings"] == system.set_state["config.settings"]


@pytest.mark.servers
def test_documents_with_a_ttl_survive_until_acceptance(tmp_path):
    with Mongo(tmp_path / "mongo", options=["--setParameter", "ttlMonitorSleepSecs=1"]) as server, server.client() as client:
        system = SampleSystem(tmp_path / "small", "ttl", mongo=server)
        expires = client["ttl"].short
        # Backed up when its documents had not expired, restored when all of them have.
        client.admin.command("setParameter", 1, ttlMonitorEnabled=False)
        expires.insert_many([{"_id": n, "ends": datetime(2001, 1, 1)} for n in range(50)])
        expires.create_index("ends", expireAfterSeconds=0)
        system.back_up()
        client.admin.command("setParameter", 1, ttlMonitorEnabled=True)
        wait_for("the live documents to expire", lambda: expires.count_documents({}) == 0)
        run = system.restore()
        passes = lambda: client.admin.command("serverStatus")["metrics"]["ttl"]["passes"]  # noqa: E731

        def pass_twice():
            begun = passes()
            wait_for("the TTL monitor to come round twice", lambda: passes() >= begun + 2)

        run_until(system, run, "gate cutover")
        pass_twice()
        assert client["ttl"][f"__stage_{run.id}_short"].count_documents({}) == 50
        cutovers = [f"cutover {source_id}" for source_id in run.plan.source_ids]
        for name in ("stop services", *cutovers, "start services", "check"):
            do(system, run, name)
        pass_twice()
        assert expires.count_documents({}) == 50, "documents went before anybody accepted the system"
        approve_gate(run, "accept")
        rollback.finalize(run)
        assert expires.index_information()["ends_1"]["expireAfterSeconds"] == 0
        wait_for("them to expire after acceptance", lambda: expires.count_documents({}) == 0)
        assert teardown(run) == ""


# Which set ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"requester": ""}, ApprovalError, "Nobody is known"),
        ({"set": "yesterday"}, PlanError, "is not a set id"),
        ({"set": "20250101T000000Z-0000"}, RestoreError, "There is no set 20250101T000000Z-0000"),
        ({"newest_before": "2026-11-23T01:00:00"}, PlanError, "offset"),
        ({"newest_before": "2020-01-01T00:00:00Z"}, RestoreError, "no valid set that ends before"),
        ({"newest_before": "2999-01-01T00:00:00Z"}, PlanError, "still to come"),
        ({"sources": ("files.other",)}, PlanError, "has no source files.other"),
        ({"sources": ()}, PlanError, "No source was chosen"),
    ],
)
def test_choose_set_refuses_invalid_request(system, asked, error, words):
    run = system.restore()
    with pytest.raises(error, match=words):
        choose_set.choose(run, system.ask(run, **asked))
    assert not run.began
    assert "No set was chosen" in teardown(run)
    with pytest.raises(RestoreError, match="has ended"):
        choose_set.choose(run, system.ask(run))


def test_choose_set_refuses_request_of_only_approver(system):
    plan = system.plan()
    alone = plan.model_copy(update={"approvals": plan.approvals.model_copy(update={"approvers": plan.approvals.approvers[:1]})})
    run = RestoreSession(system.context(alone), "restore 1")
    with pytest.raises(ApprovalError, match="alice asked for this restore and is the only approver"):
        choose_set.choose(run, system.ask(run, requester="alice"))


def test_choose_set_refuses_set_without_requested_source_and_set_of_other_plan(system, tmp_path):
    partial = system.back_up("partial", sources=("files.uploads",))
    run = system.restore()
    with pytest.raises(RestoreError, match=r"does not have config\.settings"):
        choose_set.choose(run, system.ask(run, set=partial))
    other = SampleSystem(tmp_path / "other", "other")
    stranger = other.back_up("stranger")
    for source, target in zip(other.set_folders(stranger), system.set_folders(stranger), strict=True):
        shutil.copytree(source, target)
    with pytest.raises(RestoreError, match=f"no set {stranger}"):
        choose_set.choose(run, system.ask(run, set=stranger))


def test_choose_set_refuses_latest_set_older_than_rpo_unless_stale_is_allowed(system, monkeypatch):
    monkeypatch.setattr(choose_set, "now", lambda: datetime.now(UTC) + timedelta(hours=25))
    run = system.restore()
    with pytest.raises(RestoreError, match="RPO"):
        choose_set.choose(run, system.ask(run))
    choose_set.choose(run, system.ask(run, allow_stale=True))
    assert run.manifest().set_id == system.set_id


def test_choose_set_newest_before_takes_last_set_before_given_time(system):
    moment = datetime.now(UTC)
    later = back_up_again(system, "later")
    run = system.restore()
    choose_set.choose(run, system.ask(run, newest_before=moment.isoformat()))
    assert run.manifest().set_id == system.set_id != later


def test_choose_set_refuses_second_choice_in_same_run(system):
    run = system.restore()
    choose_set.choose(run, system.ask(run))
    later = back_up_again(system, "later")
    with pytest.raises(RestoreError, match="has its set"):
        choose_set.choose(run, system.ask(run))
    assert run.manifest().set_id == system.set_id != later


def test_prune_keeps_set_until_restore_has_ended(system):
    newer = [back_up_again(system, f"newer {n}") for n in range(3)]
    run = system.restore()
    run_until(system, run, "preflight", system.ask(run, set=system.set_id))
    rules = {"level": "decoded", "rpo": run.plan.objectives.rpo, "key": run.context.verify_key(), "after": newer[-1], "others": ()}

    def prune_all():
        for destination in run.context.destinations():
            prune(destination, "small", Retention(keep_last=1), now=datetime.now(UTC), **rules)
        return [folder.exists() for folder in system.set_folders(system.set_id)]

    assert prune_all() == [True, True]
    teardown(run)
    assert prune_all() == [False, False]


# Damage ---------------------------------------------------------------------------------------------------------------


def flip(path, at=-100):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def packs(system, target, source="files/uploads"):
    return sorted((system.set_folders(system.set_id)[target] / source).iterdir())


def test_restore_fetches_damaged_or_missing_pack_from_other_destination(system, caplog):
    flip(packs(system, 0)[0])
    lost, other = packs(system, 0)[1], packs(system, 1)[2]
    lost.unlink()
    kept = other.read_bytes()
    other.write_bytes(b"")
    run = system.restore()
    with pytest.raises(RestoreError, match="No destination has the whole set"):
        run_until(system, run)
    teardown(run)
    other.write_bytes(kept)
    second = system.restore("restore 2")
    run_until(system, second)
    assert teardown(second) == ""
    assert system.fingerprint() == system.set_state
    assert "is not what the manifest says" in caplog.text


def test_restore_with_pack_damaged_everywhere_fails_and_leaves_live_data_unchanged(whole):
    for target in (0, 1):
        flip(packs(whole, target)[0])
    run = whole.restore()
    with pytest.raises(RecoveryError, match="could not be fetched from any destination"):
        run_until(whole, run)
    assert whole.fingerprint() == whole.before
    assert "Nothing live was replaced" in teardown(run)
    assert_unchanged(whole, run)
    assert whole.service_calls == []


def test_restore_fetches_damaged_contents_from_other_destination(system):
    flip(system.set_folders(system.set_id)[0] / CONTENTS_FILE)
    run = system.restore()
    run_until(system, run)
    assert teardown(run) == ""
    assert system.fingerprint() == system.set_state


def test_restore_fetches_damaged_list_of_packs_from_other_destination(system):
    flip(system.set_folders(system.set_id)[0] / PACKS_FILE)
    run = system.restore()
    run_until(system, run)
    assert teardown(run) == ""


def test_choose_set_ignores_destination_with_tampered_manifest(system):
    near, far = system.set_folders(system.set_id)
    (near / "manifest.json").write_bytes((near / "manifest.json").read_bytes().replace(b'"near', b'"farr').replace(b'"skew', b'"skEw'))
    flip(near / "manifest.json", 20)
    run = system.restore()
    choose_set.choose(run, system.ask(run))
    assert run.journal.entries("chosen")[0].facts["destinations"] == ["far"]
    assert any("manifest" in words for words in run.journal.entries("chosen")[0].facts["warnings"])
    teardown(run)
    flip(far / "manifest.json", 20)
    second = system.restore("restore 2")
    with pytest.raises(RestoreError, match="There is no valid set"):
        choose_set.choose(second, system.ask(second))
    assert_unchanged(system, run)


def test_preflight_refuses_wrong_identity(system, tmp_path):
    stranger = SampleSystem(tmp_path / "stranger", "stranger")
    wrong = stranger.connections()["stranger_backup_identity"]["password"]
    connections = system.keys.folder / "connections.json"
    kept = json.loads(connections.read_text())
    kept["small_backup_identity"]["password"] = wrong
    connections.write_text(json.dumps(kept))
    run = system.restore()
    choose_set.choose(run, system.ask(run))
    with pytest.raises(RestoreError, match="does not open the set"):
        preflight.preflight(run)
    assert "Nothing live was replaced" in teardown(run)
    assert_unchanged(system, run)


def test_failed_verification_leaves_live_data_unchanged(system, monkeypatch):
    run = system.restore()
    run_until(system, run, "stage files.uploads")
    staged = system.storage / f".recovery-{run.id}" / "new" / "top.txt"
    staged.write_text("as in the sex\n")
    with pytest.raises(RecoveryError, match="not equal to the set"):
        do(system, run, "verify files.uploads")
    do(system, run, "gate cutover")
    with pytest.raises(RestoreError, match="was not verified"):
        do(system, run, "stop services")
    teardown(run)
    assert_unchanged(system, run)


# What does not open a gate --------------------------------------------------------------------------------------------


def unsigned(run, gate):
    body = Approval(question=answers.question_now(run, gate), approver="alice", answered=datetime.now(UTC)).model_dump_json()
    run.gate_file(gate, ".json").write_text(json.dumps({"statement": body, "signature": ""}))


def signed_by_another(run, gate):
    forged = Approval(question=answers.question_now(run, gate), approver="alice", answered=datetime.now(UTC))
    write_signed(run.gate_file(gate, ".json"), forged, SigningKey.generate())


def changed_after_signing(run, gate):
    answers.approve(run, gate, "alice")
    path = run.gate_file(gate, ".json")
    path.write_text(path.read_text().replace("alice", "bobby"))


def question_copied_as_approval(run, gate):
    shutil.copy(run.gate_file(gate, ".asked.json"), run.gate_file(gate, ".json"))


def approval_of_another_gate(run, gate):
    other = "cutover" if gate == "plan" else "plan"
    if gate == "plan":
        answers.show(run, other, "another text")
        answers.approve(run, other, "alice")
    shutil.copy(run.gate_file(other, ".json"), run.gate_file(gate, ".json"))


def approval_of_another_run(run, gate):
    other = RestoreSession(run.context, "another run")
    shutil.copytree(run.folder, other.folder)
    answers.show(other, gate, run.gate_file(gate, ".md").read_text())
    answers.approve(other, gate, "alice")
    shutil.copy(other.gate_file(gate, ".json"), run.gate_file(gate, ".json"))
    shutil.rmtree(other.folder)


def text_changed(run, gate):
    answers.approve(run, gate, "alice")
    run.gate_file(gate, ".md").write_text("Nothing to see here.")


def text_deleted(run, gate):
    answers.approve(run, gate, "alice")
    run.gate_file(gate, ".md").unlink()


def target_in_findings_changed(run, gate):
    answers.approve(run, gate, "alice")
    path = run.folder / "findings.json"
    found = json.loads(path.read_text())
    found["targets"]["files.uploads"] = "1:2"
    path.write_text(json.dumps(found))


def request_changed(run, gate):
    answers.approve(run, gate, "alice")
    path = run.folder / "request.json"
    path.write_text(path.read_text().replace('"missing"', '"all"'))


def gate_shown_again(run, gate):
    answers.approve(run, gate, "alice")
    answers.show(run, gate, run.gate_file(gate, ".md").read_text())


def no_answer(run, gate):
    pass


FORGERIES = [
    no_answer, unsigned, signed_by_another, changed_after_signing, question_copied_as_approval, approval_of_another_gate,
    approval_of_another_run, text_changed, text_deleted, target_in_findings_changed, request_changed, gate_shown_again,
]  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES)
@pytest.mark.parametrize("gate", ["plan", "cutover"])
def test_gate_stays_shut_without_valid_approval(system, gate, forge):
    run = system.restore()
    run_until(system, run, "preflight" if gate == "plan" else "verify files.uploads")
    answers.show(run, gate, gate_texts.gate_text(run, gate))
    forge(run, gate)
    with pytest.raises(ApprovalError):
        do(system, run, "stage config.settings" if gate == "plan" else "stop services")
    assert system.service_calls == []
    if forge is not target_in_findings_changed:
        teardown(run)
        assert_unchanged(system, run)
    assert system.fingerprint() == system.before


def test_plan_change_voids_approval_of_cutover_gate(system):
    run = system.restore()
    run_until(system, run, "gate cutover")
    system.write_plan(rpo="23h")
    with pytest.raises(ApprovalError, match="this changed: plan"):
        restore_steps.stop_services(system.restore())
    teardown(system.restore())
    assert_unchanged(system, run)


@pytest.mark.parametrize("change", ["plan", "text", "request"])
def test_approval_is_refused_when_plan_text_or_request_changed_after_gate_was_shown(system, change):
    run = system.restore()
    run_until(system, run, "preflight")
    answers.show(run, "plan", gate_texts.gate_text(run, "plan"))
    if change == "plan":
        system.write_plan(rpo="23h")
    elif change == "text":
        run.gate_file("plan", ".md").write_text("other words")
    else:
        request_file = run.folder / "request.json"
        request_file.write_text(request_file.read_text().replace('"missing"', '"all"'))
    with pytest.raises(ApprovalError, match=f"this changed: {change}"):
        answers.approve(system.restore(), "plan", "alice")
    with pytest.raises(ApprovalError):
        restore_steps.stage(system.restore(), "files.uploads")


@pytest.mark.parametrize(("person", "words"), [("operator", "no approver"), ("carol", "no approver"), ("", "no approver")])
def test_approval_by_non_approver_is_refused(system, person, words):
    run = system.restore()
    run_until(system, run, "preflight")
    answers.show(run, "plan", gate_texts.gate_text(run, "plan"))
    with pytest.raises(ApprovalError, match=words):
        answers.approve(run, "plan", person)


def test_approval_by_requester_is_refused(system):
    run = system.restore()
    run_until(system, run, "preflight", system.ask(run, requester="alice"))
    answers.show(run, "plan", gate_texts.gate_text(run, "plan"))
    with pytest.raises(ApprovalError, match="asked for this restore"):
        answers.approve(run, "plan", "alice")
    answers.approve(run, "plan", "bob")
    restore_steps.stage(run, "files.uploads")


def test_cutover_refuses_other_server_behind_same_connection(tmp_path, whole):
    with Postgres(tmp_path / "elsewhere") as other:
        run = whole.restore()
        run_until(whole, run, "gate cutover")
        restore_steps.stop_services(run)
        restore_steps.cut_over(run, "config.settings")
        kept, whole.postgres = whole.postgres, other
        with pytest.raises(ApprovalError, match="not the one that was approved"):
            restore_steps.cut_over(run, "postgres.main")
        whole.postgres = kept
        assert "rolled back" in teardown(run)
    assert_unchanged(whole, run)


def test_stage_refuses_folder_replaced_by_copy(system):
    run = system.restore()
    run_until(system, run, "gate plan")
    system.storage.rename(system.home / "moved")
    shutil.copytree(system.home / "moved", system.storage, symlinks=True)
    with pytest.raises(ApprovalError, match="not the one that was approved"):
        restore_steps.stage(run, "files.uploads")


# Tasks that are done again, or out of order ---------------------------------------------------------------------------


def test_second_stage_voids_verification(system):
    run = system.restore()
    run_until(system, run, "gate cutover")
    restore_steps.stage(run, "files.uploads")
    with pytest.raises(RestoreError, match=r"files\.uploads was not verified"):
        restore_steps.stop_services(run)
    assert system.service_calls == []
    restore_steps.verify(run, "files.uploads")
    restore_steps.stop_services(run)


def test_failed_second_stage_can_not_be_verified_or_cut_over(system):
    run = system.restore()
    run_until(system, run, "gate cutover")
    for target in (0, 1):
        flip(packs(system, target)[-1])
    with pytest.raises(RecoveryError):
        restore_steps.stage(run, "files.uploads")
    with pytest.raises(RestoreError, match="was not staged"):
        restore_steps.verify(run, "files.uploads")
    with pytest.raises(RestoreError, match="was not verified"):
        restore_steps.stop_services(run)
    teardown(run)
    assert_unchanged(system, run)


@pytest.mark.parametrize(
    "name", ["stage postgres.main", "verify mongo.documents", "stop services", "cutover files.uploads", "preflight", "choose"]
)
def test_earlier_tasks_are_refused_while_accept_gate_waits(whole, name):
    run = whole.restore()
    run_until(whole, run, "check")
    told = whole.service_calls
    with pytest.raises(RecoveryError):
        do(whole, run, name)
    assert whole.service_calls == told
    answers.show(run, "accept", gate_texts.gate_text(run, "accept"))
    answers.reject(run, "accept", "bob")
    teardown(run)
    assert whole.fingerprint() == whole.before


def test_tasks_change_nothing_after_restore_has_ended(whole):
    run = whole.restore()
    run_until(whole, run)
    assert teardown(run) == ""
    whole.sql("INSERT INTO requests (what) VALUES ('life goes on')")
    state, told, left = whole.fingerprint(), whole.service_calls, whole.leftovers()
    for name, step in steps(whole, run):
        try:
            did = step()
        except RecoveryError:
            continue
        assert did is False, f"{name} did something"
    assert "ended before" in teardown(run)
    assert (whole.fingerprint(), whole.service_calls, whole.leftovers()) == (state, told, left)


LATE = ["stage files.uploads", "verify files.uploads", "stop services", "cutover config.settings", "start services"]


@pytest.mark.parametrize("name", LATE)
def test_late_task_is_refused_after_rollback_has_begun(system, name):
    """Airflow leaves a task whose run was ended by hand alive for seconds: it may reach its lock after the teardown did."""
    order = [step for step, _ in steps(system, system.restore())]
    run = system.restore()
    run_until(system, run, order[order.index(name) - 1])
    rollback.roll_back(run)
    told = system.service_calls
    with pytest.raises(RestoreError, match="being rolled back"):
        do(system, run, name)
    assert system.service_calls == told
    teardown(run)
    assert_unchanged(system, run)


def test_tasks_are_refused_when_earlier_tasks_were_only_marked_as_done(system):
    run = system.restore()
    run_until(system, run, "gate plan")
    for name in ("verify files.uploads", "stop services", "cutover files.uploads", "start services", "check"):
        with pytest.raises(RecoveryError):
            do(system, run, name)
    assert not rollback.finalize(run)
    teardown(run)
    assert_unchanged(system, run)


def test_start_of_services_before_cutover_is_refused(system):
    run = system.restore()
    run_until(system, run, "gate cutover")
    with pytest.raises(RestoreError, match=r"config\.settings, files\.uploads was not cut over; marking a task"):
        restore_steps.start_services(run)
    teardown(run)
    assert_unchanged(system, run)


# Services -------------------------------------------------------------------------------------------------------------


def test_failed_stop_of_services_leaves_live_data_unchanged_and_restarts_services(system):
    system.fail("stop", "workers")
    run = system.restore()
    with pytest.raises(RecoveryError, match="workers does not stop, on purpose"):
        run_until(system, run)
    assert not system.services["web"]
    assert "Nothing live was replaced" in teardown(run)
    assert_unchanged(system, run)


@pytest.mark.parametrize("answer", ["alice accepts", "bob rejects"])
def test_failed_start_of_services_is_shown_at_accept_gate_for_decision(system, answer):
    system.fail("start", "web")
    run = system.restore()
    with pytest.raises(RecoveryError, match="web does not start, on purpose"):
        run_until(system, run)
    text = gate_texts.gate_text(run, "accept")
    assert "✘ FAILED: the services did not start" in text
    assert "✘ FAILED: the checks did not run" in text
    answers.show(run, "accept", text)
    system.mend("start", "web")
    if answer == "alice accepts":
        answers.approve(run, "accept", "alice")
        rollback.finalize(run)
        assert "its services did not start cleanly" in teardown(run)
        assert system.fingerprint() == system.set_state
    else:
        answers.reject(run, "accept", "bob")
        assert "the previous data is back" in teardown(run)
        assert system.fingerprint() == system.before
        assert all(system.services.values())


def test_failed_checks_are_shown_at_accept_gate_and_in_report(system):
    system.fail("check", "web")
    run = system.restore()
    with pytest.raises(RestoreError, match="1 of 1 checks of the restored system failed"):
        run_until(system, run)
    text = gate_texts.gate_text(run, "accept")
    assert "✘ FAILED" in text
    assert "web does not check, on purpose" in text
    answers.show(run, "accept", text)
    answers.approve(run, "accept", "bob")
    rollback.finalize(run)
    assert "its checks did not all succeed" in teardown(run)


# What can't be made again -----------------------------------------------------------------------------------------------

ORPHANS = """CREATE TABLE p (i int PRIMARY KEY); CREATE TABLE c (i int CONSTRAINT known REFERENCES p);
    SET session_replication_role = replica; INSERT INTO c VALUES (7), (8)"""
"""A foreign key that the rows of its table do not hold."""


@pytest.fixture
def orphans(tmp_path, postgres_server):
    made = SampleSystem(tmp_path / "orphans", "orphans", postgres=postgres_server)
    made.sql(ORPHANS)
    made.backed_up_and_damaged()
    yield made
    made.drop()


@pytest.mark.parametrize(
    "asked", [{}, {"sources": ("postgres.main",), "only": {"postgres.main": ("orphans.public",)}}], ids=["all", "tables"]
)
def test_second_gate_names_what_can_not_be_made_and_all_rows_are_restored(orphans, asked):
    run = orphans.restore()
    run_until(orphans, run, "gate cutover", orphans.ask(run, **asked))
    assert "No drill is known that has restored these sources" in run.gate_file("plan", ".md").read_text()
    shown = run.gate_file("cutover", ".md").read_text()
    assert "Not everything of the set can be made again" in shown
    assert "fk constraint public c known is restored as not valid. It holds for new rows" in shown
    do(orphans, run, "stop services")
    for source_id in run.request().sources:
        restore_steps.cut_over(run, source_id)
    for name in ("start services", "check", "gate accept", "finalize"):
        do(orphans, run, name)
    assert teardown(run) == ""
    assert "orphans: fk constraint public c known" in (run.folder / "report.md").read_text()


def test_approval_is_void_when_something_else_can_not_be_made(orphans):
    run = orphans.restore()
    run_until(orphans, run, "gate cutover")
    lacking = [LeftOut("orphans: index public other", "of another try")]
    run.record_left_out(Step.VERIFIED, "postgres.main", lacking)
    with pytest.raises(ApprovalError, match="Since alice approved the gate cutover, this changed: left_out"):
        restore_steps.stop_services(run)
    assert teardown(run)
    assert_unchanged(orphans, run)


# A rollback that fails ------------------------------------------------------------------------------------------------


def test_failed_rollback_keeps_all_copies_and_can_be_retried(whole, monkeypatch):
    run = whole.restore()
    run_until(whole, run, "check")
    answers.show(run, "accept", gate_texts.gate_text(run, "accept"))
    answers.reject(run, "accept", "bob")
    server = whole.postgres
    with server.connect() as connection:
        connection.execute(f'ALTER DATABASE "whole__before_{run.id}" RENAME TO whole_hidden')
    words = teardown(run)
    assert "THE ROLLBACK IS NOT COMPLETE" in words
    assert "postgres.main" in words
    after = whole.fingerprint()
    assert after["files.uploads"] == whole.before["files.uploads"], "one source must not keep the others from coming back"
    assert after["mongo.documents"] == whole.before["mongo.documents"]
    assert not any(whole.services.values()), "services must not start on a source that is not back"

    assert not run.journal.closed
    for destination in run.context.destinations():
        assert read_records(destination, run.manifest().path, run.context.verify_key(), run.manifest()).holds
    with pytest.raises(RestoreUnderWay):
        whole.back_up("meanwhile")
    maintain_daily(whole, monkeypatch, 30)
    assert any("__stage_" in name for name in whole.leftovers()), "copies were dropped although live is not back"

    with server.connect() as connection:
        connection.execute(f'ALTER DATABASE whole_hidden RENAME TO "whole__before_{run.id}"')
    assert "the previous data is back" in teardown(run)
    assert whole.fingerprint() == whole.before
    assert run.journal.closed
    back_up_again(whole, "afterwards")


def test_rollback_refuses_other_server_behind_same_connection(tmp_path, whole):
    run = whole.restore()
    run_until(whole, run, "check")
    answers.show(run, "accept", gate_texts.gate_text(run, "accept"))
    answers.reject(run, "accept", "bob")
    with Postgres(tmp_path / "elsewhere") as other:
        with other.connect() as connection:
            connection.execute("CREATE DATABASE whole")
        kept, whole.postgres = whole.postgres, other
        words = teardown(run)
        whole.postgres = kept
    assert "THE ROLLBACK IS NOT COMPLETE" in words
    assert whole.fingerprint()["postgres.main"] == whole.set_state["postgres.main"]
    assert "the previous data is back" in teardown(run)
    assert whole.fingerprint() == whole.before


def test_rollback_removes_files_written_to_live_folder_after_cutover(system):
    run = system.restore()
    run_until(system, run, "cutover files.uploads")
    (system.storage / "year1" / "written between").write_text("by a service that was not stopped\n")
    assert "rolled back" in teardown(run)
    assert system.fingerprint() == system.before


# Backups beside a restore ---------------------------------------------------------------------------------------------


def test_backup_is_refused_between_cutover_and_acceptance(system):
    run = system.restore()
    for name, step in steps(system, run):
        step()
        if name == "gate cutover":
            system.back_up("allowed", sources=("files.uploads",))
        if name in {"stop services", "cutover config.settings", "check", "gate accept"}:
            with pytest.raises(RestoreUnderWay):
                system.back_up(f"refused {name}")
    assert teardown(run) == ""
    system.back_up("after the end")


def test_upload_refuses_set_begun_before_cutover(system):
    plan = system.plan()
    began = datetime.now(UTC)
    staged = StagedSet(plan, new_set_id(began, "around"))
    record = RunRecord(plan="small", set_id=staged.id, run_id="around", started=began, sources=tuple(plan.source_ids))
    finalize.prepare(system.context(), staged, record)

    def read(source_id):
        for step in (backup_steps.dump, backup_steps.compress, backup_steps.verify):
            step(backup_steps.Work(system.context(), staged, source_id))

    read("files.uploads")
    run = system.restore()
    run_until(system, run)
    assert teardown(run) == ""
    read("config.settings")
    with pytest.raises(RestoreError, match="half of before"):
        upload.upload(system.context(), staged, "near")
    assert not any(folder.exists() for folder in system.set_folders(staged.id))


# Staging --------------------------------------------------------------------------------------------------------------


def test_stage_fails_when_restore_folder_is_missing_from_staging(system):
    run = system.restore()
    run_until(system, run, "preflight")
    run.folder.rename(run.folder.with_name("elsewhere"))
    with pytest.raises(StagingError, match=r"request\.json is not there.*") as raised:
        restore_steps.stage(run, "files.uploads")
    assert "mount the staging folder that all workers of the plan share" in str(raised.value)


def test_lock_of_killed_process_is_released(system):
    run = system.restore()
    run_until(system, run, "gate plan")
    pid = os.fork()
    if pid == 0:
        with run.changing("files.uploads"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    restore_steps.stage(run, "files.uploads")


def test_report_names_failed_step_and_refers_to_log(system):
    run = system.restore()
    choose_set.choose(run, system.ask(run))
    shutil.rmtree(system.storage)
    system.storage.write_text("secret")  # no folder: nothing can be restored there
    with pytest.raises(RestoreError, match="would fail"), tasks.failure_noted(run, "preflight"):
        preflight.preflight(run)
    assert "Nothing live was replaced: preflight failed, its log says why." in teardown(run)


# Beside the live data ---------------------------------------------------------------------------------------------------


def beside(system, run, **asked):
    return system.ask(run, method="beside", sources=("postgres.main",), only={"postgres.main": ("whole.public.requests",)}, **asked)


def test_tables_are_left_beside_after_one_gate_and_stay_after_keep_replaced(whole, monkeypatch, caplog):
    run = whole.restore()
    run_until(whole, run, "preflight", beside(whole, run))
    assert run.gates == ("plan",)
    assert gate_texts.headline(run, "plan") == "May parts of this set be restored beside the live data, to stay there?"
    text = gate_texts.gate_text(run, "plan")
    assert "into the **live system**, **beside**" in text
    assert "There is no other gate" in text
    assert "method swap" not in text
    assert "is not in it" in text
    assert "is lost" not in text
    approve_gate(run, "plan")
    restore_steps.stage(run, "postgres.main")
    restore_steps.verify(run, "postgres.main")
    restore_steps.verify(run, "postgres.main")
    with pytest.raises(RestoreError, match="lies beside the live data, and stays"):
        restore_steps.stage(run, "postgres.main")
    assert teardown(run) == ""

    schema = f"restored_{run.id}"
    facts = json.loads((run.folder / "report.json").read_text())
    assert (facts["result"], facts["method"], facts["gates"], facts["downtime_seconds"]) == ("success", "beside", ["plan"], None)
    (words,) = facts["left_beside"]["postgres.main"]
    assert f"Schema {schema} of database whole has 1 relation of" in words
    report = (run.folder / "report.md").read_text().replace("\\", "")
    assert f"DROP SCHEMA {schema} CASCADE" in report
    assert "Nothing live was replaced" in report
    assert "Data loss" not in report
    maintain_daily(whole, monkeypatch)
    assert f"postgres.main: {words}" in caplog.text
    with whole.postgres.connect("whole") as connection:
        assert connection.execute(f"SELECT count(*) FROM {schema}.requests").fetchone() == (500,)
        connection.execute(f"DROP SCHEMA {schema} CASCADE")
    assert_unchanged(whole, run)
    assert whole.service_calls == []


def test_report_of_tables_beside_says_where_to_look_when_the_task_died_as_it_left_them(whole, monkeypatch):
    run = whole.restore()
    run_until(whole, run, "stage postgres.main", beside(whole, run))
    with killed_at_statement(monkeypatch, "COMMIT", after=True, since=f"RENAME TO .restored_{run.id}"):
        restore_steps.verify(run, "postgres.main")
    teardown(run)
    (words,) = json.loads((run.folder / "report.json").read_text())["left_beside"]["postgres.main"]
    assert f"Look for what has {run.id} in its name" in words
    whole.sql(f"DROP SCHEMA restored_{run.id} CASCADE")


def test_report_of_tables_beside_says_that_nothing_was_left_when_verify_failed(whole):
    run = whole.restore()
    run_until(whole, run, "stage postgres.main", beside(whole, run))
    whole.sql(f"UPDATE public__stage_{run.id}.requests SET what = 'other' WHERE id = 7")
    with pytest.raises(RecoveryError, match="not equal to the set"):
        restore_steps.verify(run, "postgres.main")
    assert "Nothing live was replaced" in teardown(run)
    assert json.loads((run.folder / "report.json").read_text())["left_beside"] == {}
    assert_unchanged(whole, run)


def test_tables_are_not_left_beside_when_the_plan_changed_since_the_approval(whole):
    run = whole.restore()
    run_until(whole, run, "stage postgres.main", beside(whole, run))
    whole.write_plan(rpo="23h")
    with pytest.raises(ApprovalError, match="this changed: plan; the approval is void"):
        restore_steps.verify(whole.restore(), "postgres.main")
    whole.write_plan()
    assert "Nothing live was replaced" in teardown(run)
    assert_unchanged(whole, run)


def test_method_beside_is_refused_for_kinds_without_it(whole):
    run = whole.restore()
    request = whole.ask(
        run, method="beside", sources=("postgres.main", "files.uploads"), only={"postgres.main": ("whole.public.requests",)}
    )
    assert "files.uploads can't be left beside its live data" in refused_by_preflight(run, request)
