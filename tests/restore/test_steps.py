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
from recovery.maintenance import replaced_copies
from recovery.plan.model import Keep
from recovery.restore import answers, choose_set, gate_texts, preflight, rollback
from recovery.restore import steps as restore_steps
from recovery.restore.approvals import Approval, write_signed
from recovery.restore.session import RestoreRun
from recovery.runs.staged_set import RunRecord, StagedSet
from recovery.sets.layout import CONTENTS_FILE, PACKS_FILE, new_set_id
from recovery.sets.prune import prune
from recovery.sets.records import read_records
from sandbox.servers import Mongo, Postgres, wait_for
from tests.support.small import Small, end, forward, said, steps, to_gate


@pytest.fixture
def small(tmp_path):
    """Files and settings, backed up once and then damaged."""
    return Small(tmp_path / "small", "small").damaged()


@pytest.fixture
def whole(tmp_path, postgres_server, mongo_server):
    """With databases."""
    made = Small(tmp_path / "whole", "whole", postgres=postgres_server, mongo=mongo_server).damaged()
    yield made
    made.drop()


def back_up_again(small, run_id):
    """Another complete set, of the damaged system."""
    (small.home / ".env").write_text("DB_PASSWORD=of-later\n")
    return small.back_up(run_id)


def untouched(small, run):
    """Nothing live has changed, and nothing is left over."""
    assert small.fingerprint() == small.before, said(run)
    assert small.leftovers() == [], said(run)
    assert all(small.services.values()), small.told


def do(small, run, name):
    """One step, again or out of order."""
    dict(steps(small, run))[name]()


# There and back -------------------------------------------------------------------------------------------------------


def test_everything_comes_back_and_the_old_is_kept_for_its_days(whole, monkeypatch):
    run = whole.restore()
    forward(whole, run)
    assert end(run) == ""
    assert whole.fingerprint() == whole.set_state
    assert whole.told == ["stop web", "stop workers", "start workers", "start web", "check web"]

    aside = whole.leftovers()
    assert f"whole__before_{run.id}" in aside
    assert f"__before_{run.id}_states" in aside
    assert (whole.storage / f".recovery-{run.id}" / "before" / "new.txt").read_text() == "came later\n"

    monkeypatch.setattr(replaced_copies, "now", lambda: datetime.now(UTC) + timedelta(days=6, hours=23))
    replaced_copies.drop_old(whole.context())
    assert whole.leftovers() == aside, "copies went before their days were over"
    monkeypatch.setattr(replaced_copies, "now", lambda: datetime.now(UTC) + timedelta(days=7, hours=1))
    replaced_copies.drop_old(whole.context())
    assert whole.leftovers() == []
    assert whole.fingerprint() == whole.set_state
    assert [path.name for path in run.folder.iterdir()] == ["journal.jsonl"]


def test_a_refused_copy_goes_after_its_days_too(whole, monkeypatch):
    run = whole.restore()
    forward(whole, run, "check")
    whole.sql("INSERT INTO requests (what) VALUES ('written meanwhile')")
    answers.show(run, "accept", gate_texts.gate_text(run, "accept"))
    answers.reject(run, "accept", "bob")
    assert "the data of before is back" in end(run)
    assert whole.fingerprint() == whole.before
    assert f"whole__stage_{run.id}" in whole.leftovers()
    monkeypatch.setattr(replaced_copies, "now", lambda: datetime.now(UTC) + timedelta(days=8))
    replaced_copies.drop_old(whole.context())
    assert whole.leftovers() == []
    assert whole.fingerprint() == whole.before


def test_some_sources_in_the_order_of_the_plan_whatever_order_was_asked(whole):
    run = whole.restore()
    request = whole.ask(run, sources=("files.uploads", "config.settings"))
    forward(whole, run, "choose", request)
    assert run.request().sources == ("config.settings", "files.uploads")
    preflight.preflight(run)
    to_gate(run, "plan")
    assert "### postgres.main" not in run.findings().text
    with pytest.raises(ApprovalError):
        restore_steps.stage(run, "postgres.main")
    for source_id in run.request().sources:
        restore_steps.stage(run, source_id)
        restore_steps.prove(run, source_id)
    to_gate(run, "switch")
    restore_steps.stop_services(run)
    for source_id in run.request().sources:
        restore_steps.switch(run, source_id)
    restore_steps.start_services(run)
    restore_steps.check_system(run)
    to_gate(run, "accept")
    rollback.keep(run)
    assert end(run) == ""
    after = whole.fingerprint()
    for source_id in ("config.settings", "files.uploads"):
        assert after[source_id] == whole.set_state[source_id]
    for source_id in ("postgres.main", "mongo.documents"):
        assert after[source_id] == whole.before[source_id]


def test_settings_that_differ_are_replaced_only_if_asked(small):
    (small.home / "custom" / "lib" / "flow.py").write_text("STEPS = 4\n")
    run = small.restore()
    forward(small, run)
    assert end(run) == ""
    assert (small.home / "custom" / "lib" / "flow.py").read_text() == "STEPS = 4\n"
    assert (small.home / ".env").exists()
    second = small.restore("restore 2")
    forward(small, second, request=small.ask(second, config="all"))
    assert end(second) == ""
    assert small.fingerprint()["config.settings"] == small.set_state["config.settings"]


def test_documents_with_a_ttl_survive_until_acceptance(tmp_path):
    with Mongo(tmp_path / "mongo", options=["--setParameter", "ttlMonitorSleepSecs=1"]) as server, server.client() as client:
        small = Small(tmp_path / "small", "ttl", mongo=server)
        expires = client["ttl"].short
        # Backed up when its documents had not expired, restored when all of them have.
        client.admin.command("setParameter", 1, ttlMonitorEnabled=False)
        expires.insert_many([{"_id": n, "ends": datetime(2001, 1, 1)} for n in range(50)])
        expires.create_index("ends", expireAfterSeconds=0)
        small.back_up()
        client.admin.command("setParameter", 1, ttlMonitorEnabled=True)
        wait_for("the live documents to expire", lambda: expires.count_documents({}) == 0)
        run = small.restore()
        passes = lambda: client.admin.command("serverStatus")["metrics"]["ttl"]["passes"]  # noqa: E731

        def pass_twice():
            begun = passes()
            wait_for("the TTL monitor to come round twice", lambda: passes() >= begun + 2)

        forward(small, run, "gate switch")
        pass_twice()
        assert client["ttl"][f"__stage_{run.id}_short"].count_documents({}) == 50
        switches = [f"switch {source_id}" for source_id in run.plan.source_ids]
        for name in ("stop services", *switches, "start services", "check"):
            do(small, run, name)
        pass_twice()
        assert expires.count_documents({}) == 50, "documents went before anybody accepted the system"
        to_gate(run, "accept")
        rollback.keep(run)
        assert expires.index_information()["ends_1"]["expireAfterSeconds"] == 0
        wait_for("them to expire after acceptance", lambda: expires.count_documents({}) == 0)
        assert end(run) == ""


# Which set ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"requester": ""}, ApprovalError, "Nobody is known"),
        ({"set": "yesterday"}, PlanError, "is not a set id"),
        ({"set": "20250101T000000Z-0000"}, RestoreError, "There is no set 20250101T000000Z-0000"),
        ({"newest_before": "2026-11-23T01:00:00"}, PlanError, "offset"),
        ({"newest_before": "2020-01-01T00:00:00Z"}, RestoreError, "no good set that ends before"),
        ({"newest_before": "2999-01-01T00:00:00Z"}, PlanError, "still to come"),
        ({"sources": ("files.other",)}, PlanError, "has no source files.other"),
        ({"sources": ()}, PlanError, "No source was chosen"),
    ],
)
def test_wishes_that_are_refused(small, asked, error, words):
    run = small.restore()
    with pytest.raises(error, match=words):
        choose_set.choose(run, small.ask(run, **asked))
    assert not run.began
    assert "No set was chosen" in end(run)
    with pytest.raises(RestoreError, match="has ended"):
        choose_set.choose(run, small.ask(run))


def test_who_is_the_only_approver_can_not_ask(small):
    plan = small.plan()
    alone = plan.model_copy(update={"approvals": plan.approvals.model_copy(update={"approvers": plan.approvals.approvers[:1]})})
    run = RestoreRun(small.context(alone), "restore 1")
    with pytest.raises(ApprovalError, match="alice asked for this restore and is the only approver"):
        choose_set.choose(run, small.ask(run, requester="alice"))


def test_a_set_that_lacks_a_source_and_one_of_another_plan(small, tmp_path):
    partial = small.back_up("partial", sources=("files.uploads",))
    run = small.restore()
    with pytest.raises(RestoreError, match=r"does not have config\.settings"):
        choose_set.choose(run, small.ask(run, set=partial))
    other = Small(tmp_path / "other", "other")
    stranger = other.back_up("stranger")
    for source, target in zip(other.set_folders(stranger), small.set_folders(stranger), strict=True):
        shutil.copytree(source, target)
    with pytest.raises(RestoreError, match=f"no set {stranger}"):
        choose_set.choose(run, small.ask(run, set=stranger))


def test_latest_is_refused_when_it_is_older_than_the_rpo(small, monkeypatch):
    monkeypatch.setattr(choose_set, "now", lambda: datetime.now(UTC) + timedelta(hours=25))
    run = small.restore()
    with pytest.raises(RestoreError, match="RPO"):
        choose_set.choose(run, small.ask(run))
    choose_set.choose(run, small.ask(run, allow_stale=True))
    assert run.manifest().set_id == small.set_id


def test_newest_before_takes_the_set_of_then(small):
    moment = datetime.now(UTC)
    later = back_up_again(small, "later")
    run = small.restore()
    choose_set.choose(run, small.ask(run, newest_before=moment.isoformat()))
    assert run.manifest().set_id == small.set_id != later


def test_the_set_is_chosen_once(small):
    run = small.restore()
    choose_set.choose(run, small.ask(run))
    later = back_up_again(small, "later")
    with pytest.raises(RestoreError, match="has its set"):
        choose_set.choose(run, small.ask(run))
    assert run.manifest().set_id == small.set_id != later


def test_no_prune_takes_the_set_that_is_restored(small):
    newer = [back_up_again(small, f"newer {n}") for n in range(3)]
    run = small.restore()
    forward(small, run, "preflight", small.ask(run, set=small.set_id))
    key = run.context.verify_key()

    def prune_all():
        for destination in run.context.destinations():
            prune(destination, "small", Keep(last=1), good="decoded", key=key, now=datetime.now(UTC), after=newer[-1], others=())
        return [folder.exists() for folder in small.set_folders(small.set_id)]

    assert prune_all() == [True, True]
    end(run)
    assert prune_all() == [False, False]


# Damage ---------------------------------------------------------------------------------------------------------------


def flip(path, at=-100):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def packs(small, place, source="files/uploads"):
    return sorted((small.set_folders(small.set_id)[place] / source).iterdir())


def test_a_damaged_pack_is_taken_from_another_destination(small, caplog):
    flip(packs(small, 0)[0])
    lost, other = packs(small, 0)[1], packs(small, 1)[2]
    lost.unlink()
    kept = other.read_bytes()
    other.write_bytes(b"")
    run = small.restore()
    with pytest.raises(RestoreError, match="No destination has the whole set"):
        forward(small, run)
    end(run)
    other.write_bytes(kept)
    second = small.restore("restore 2")
    forward(small, second)
    assert end(second) == ""
    assert small.fingerprint() == small.set_state
    assert "is not what the manifest says" in caplog.text


def test_a_damaged_pack_everywhere_is_refused_before_anything_live_is_touched(whole):
    for place in (0, 1):
        flip(packs(whole, place)[0])
    run = whole.restore()
    with pytest.raises(RecoveryError, match="could not be fetched from any destination"):
        forward(whole, run)
    assert whole.fingerprint() == whole.before
    assert "Nothing live was replaced" in end(run)
    untouched(whole, run)
    assert whole.told == []


def test_damaged_contents_are_taken_from_another_destination(small):
    flip(small.set_folders(small.set_id)[0] / CONTENTS_FILE)
    run = small.restore()
    forward(small, run)
    assert end(run) == ""
    assert small.fingerprint() == small.set_state


def test_a_damaged_list_of_packs_is_taken_from_another_destination(small):
    flip(small.set_folders(small.set_id)[0] / PACKS_FILE)
    run = small.restore()
    forward(small, run)
    assert end(run) == ""


def test_a_tampered_manifest_is_no_set(small):
    near, far = small.set_folders(small.set_id)
    (near / "manifest.json").write_bytes((near / "manifest.json").read_bytes().replace(b'"near', b'"farr').replace(b'"skew', b'"skEw'))
    flip(near / "manifest.json", 20)
    run = small.restore()
    choose_set.choose(run, small.ask(run))
    assert run.journal.said("chosen")[0].facts["destinations"] == ["far"]
    assert any("manifest" in words for words in run.journal.said("chosen")[0].facts["warnings"])
    end(run)
    flip(far / "manifest.json", 20)
    second = small.restore("restore 2")
    with pytest.raises(RestoreError, match="There is no good set"):
        choose_set.choose(second, small.ask(second))
    untouched(small, run)


def test_the_wrong_identity_is_noticed_before_anything_is_staged(small, tmp_path):
    stranger = Small(tmp_path / "stranger", "stranger")
    wrong = stranger.connections()["stranger_backup_identity"]["password"]
    connections = small.keys.folder / "connections.json"
    kept = json.loads(connections.read_text())
    kept["small_backup_identity"]["password"] = wrong
    connections.write_text(json.dumps(kept))
    run = small.restore()
    choose_set.choose(run, small.ask(run))
    with pytest.raises(RestoreError, match="does not open the set"):
        preflight.preflight(run)
    assert "Nothing live was replaced" in end(run)
    untouched(small, run)


def test_a_proof_that_fails_leaves_live_alone(small, monkeypatch):
    run = small.restore()
    forward(small, run, "stage files.uploads")
    staged = small.storage / f".recovery-{run.id}" / "new" / "top.txt"
    staged.write_text("as in the sex\n")
    with pytest.raises(RecoveryError, match="not equal to the set"):
        do(small, run, "prove files.uploads")
    do(small, run, "gate switch")
    with pytest.raises(RestoreError, match="was not proven"):
        do(small, run, "stop services")
    end(run)
    untouched(small, run)


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


def the_question_itself(run, gate):
    shutil.copy(run.gate_file(gate, ".asked.json"), run.gate_file(gate, ".json"))


def of_another_gate(run, gate):
    other = "switch" if gate == "plan" else "plan"
    if gate == "plan":
        answers.show(run, other, "another text")
        answers.approve(run, other, "alice")
    shutil.copy(run.gate_file(other, ".json"), run.gate_file(gate, ".json"))


def of_another_run(run, gate):
    other = RestoreRun(run.context, "another run")
    shutil.copytree(run.folder, other.folder)
    answers.show(other, gate, run.gate_file(gate, ".md").read_text())
    answers.approve(other, gate, "alice")
    shutil.copy(other.gate_file(gate, ".json"), run.gate_file(gate, ".json"))
    shutil.rmtree(other.folder)


def text_changed(run, gate):
    answers.approve(run, gate, "alice")
    run.gate_file(gate, ".md").write_text("Nothing to see here.")


def text_gone(run, gate):
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


def asked_again(run, gate):
    answers.approve(run, gate, "alice")
    answers.show(run, gate, run.gate_file(gate, ".md").read_text())


def nobody(run, gate):
    pass


FORGERIES = [
    nobody, unsigned, signed_by_another, changed_after_signing, the_question_itself, of_another_gate, of_another_run, text_changed,
    text_gone, target_in_findings_changed, request_changed, asked_again,
]  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES)
@pytest.mark.parametrize("gate", ["plan", "switch"])
def test_a_gate_is_not_opened_by(small, gate, forge):
    run = small.restore()
    forward(small, run, "preflight" if gate == "plan" else "prove files.uploads")
    answers.show(run, gate, gate_texts.gate_text(run, gate))
    forge(run, gate)
    with pytest.raises(ApprovalError):
        do(small, run, "stage config.settings" if gate == "plan" else "stop services")
    assert small.told == []
    if forge is not target_in_findings_changed:
        end(run)
        untouched(small, run)
    assert small.fingerprint() == small.before


def test_another_plan_voids_an_approval(small):
    run = small.restore()
    forward(small, run, "gate switch")
    small.write_plan(rpo="23h")
    with pytest.raises(ApprovalError, match="this changed: plan"):
        restore_steps.stop_services(small.restore())
    end(small.restore())
    untouched(small, run)


@pytest.mark.parametrize("change", ["plan", "text", "request"])
def test_what_changed_between_the_question_and_the_answer_is_not_approved(small, change):
    run = small.restore()
    forward(small, run, "preflight")
    answers.show(run, "plan", gate_texts.gate_text(run, "plan"))
    if change == "plan":
        small.write_plan(rpo="23h")
    elif change == "text":
        run.gate_file("plan", ".md").write_text("other words")
    else:
        request_file = run.folder / "request.json"
        request_file.write_text(request_file.read_text().replace('"missing"', '"all"'))
    with pytest.raises(ApprovalError, match=f"this changed: {change}"):
        answers.approve(small.restore(), "plan", "alice")
    with pytest.raises(ApprovalError):
        restore_steps.stage(small.restore(), "files.uploads")


@pytest.mark.parametrize(("person", "words"), [("operator", "no approver"), ("carol", "no approver"), ("", "no approver")])
def test_who_may_not_answer(small, person, words):
    run = small.restore()
    forward(small, run, "preflight")
    answers.show(run, "plan", gate_texts.gate_text(run, "plan"))
    with pytest.raises(ApprovalError, match=words):
        answers.approve(run, "plan", person)


def test_an_approver_does_not_answer_for_themselves(small):
    run = small.restore()
    forward(small, run, "preflight", small.ask(run, requester="alice"))
    answers.show(run, "plan", gate_texts.gate_text(run, "plan"))
    with pytest.raises(ApprovalError, match="asked for this restore"):
        answers.approve(run, "plan", "alice")
    answers.approve(run, "plan", "bob")
    restore_steps.stage(run, "files.uploads")


def test_another_target_behind_the_same_connection_is_not_touched(tmp_path, whole):
    with Postgres(tmp_path / "elsewhere") as other:
        run = whole.restore()
        forward(whole, run, "gate switch")
        restore_steps.stop_services(run)
        restore_steps.switch(run, "config.settings")
        kept, whole.postgres = whole.postgres, other
        with pytest.raises(ApprovalError, match="not the one that was approved"):
            restore_steps.switch(run, "postgres.main")
        whole.postgres = kept
        assert "switched back" in end(run)
    untouched(whole, run)


def test_a_moved_folder_is_not_touched(small):
    run = small.restore()
    forward(small, run, "gate plan")
    small.storage.rename(small.home / "moved")
    shutil.copytree(small.home / "moved", small.storage, symlinks=True)
    with pytest.raises(ApprovalError, match="not the one that was approved"):
        restore_steps.stage(run, "files.uploads")


# Tasks that are done again, or out of order ---------------------------------------------------------------------------


def test_staging_anew_voids_the_proof(small):
    run = small.restore()
    forward(small, run, "gate switch")
    restore_steps.stage(run, "files.uploads")
    with pytest.raises(RestoreError, match=r"files\.uploads was not proven"):
        restore_steps.stop_services(run)
    assert small.told == []
    restore_steps.prove(run, "files.uploads")
    restore_steps.stop_services(run)


def test_a_staging_that_failed_half_way_can_not_be_proven_or_switched(small):
    run = small.restore()
    forward(small, run, "gate switch")
    for place in (0, 1):
        flip(packs(small, place)[-1])
    with pytest.raises(RecoveryError):
        restore_steps.stage(run, "files.uploads")
    with pytest.raises(RestoreError, match="was not staged"):
        restore_steps.prove(run, "files.uploads")
    with pytest.raises(RestoreError, match="was not proven"):
        restore_steps.stop_services(run)
    end(run)
    untouched(small, run)


@pytest.mark.parametrize(
    "name", ["stage postgres.main", "prove mongo.documents", "stop services", "switch files.uploads", "preflight", "choose"]
)
def test_while_the_last_gate_waits_no_earlier_task_does_anything(whole, name):
    run = whole.restore()
    forward(whole, run, "check")
    told = whole.told
    with pytest.raises(RecoveryError):
        do(whole, run, name)
    assert whole.told == told
    answers.show(run, "accept", gate_texts.gate_text(run, "accept"))
    answers.reject(run, "accept", "bob")
    end(run)
    assert whole.fingerprint() == whole.before


def test_once_ended_nothing_is_done_any_more(whole):
    run = whole.restore()
    forward(whole, run)
    assert end(run) == ""
    whole.sql("INSERT INTO requests (what) VALUES ('life goes on')")
    state, told, left = whole.fingerprint(), whole.told, whole.leftovers()
    for name, step in steps(whole, run):
        try:
            did = step()
        except RecoveryError:
            continue
        assert did is False, f"{name} did something"
    assert "ended before" in end(run)
    assert (whole.fingerprint(), whole.told, whole.leftovers()) == (state, told, left)


LATE = ["stage files.uploads", "prove files.uploads", "stop services", "switch config.settings", "start services"]


@pytest.mark.parametrize("name", LATE)
def test_a_task_that_lives_on_does_nothing_once_the_way_back_began(small, name):
    """Airflow leaves a task whose run was ended by hand alive for seconds: it may reach its lock after the teardown did."""
    order = [step for step, _ in steps(small, small.restore())]
    run = small.restore()
    forward(small, run, order[order.index(name) - 1])
    rollback.switch_back(run)
    told = small.told
    with pytest.raises(RestoreError, match="being taken back"):
        do(small, run, name)
    assert small.told == told
    end(run)
    untouched(small, run)


def test_marking_gates_and_stages_as_done_does_not_do_them(small):
    run = small.restore()
    forward(small, run, "gate plan")
    for name in ("prove files.uploads", "stop services", "switch files.uploads", "start services", "check"):
        with pytest.raises(RecoveryError):
            do(small, run, name)
    assert not rollback.keep(run)
    end(run)
    untouched(small, run)


# Services -------------------------------------------------------------------------------------------------------------


def test_a_stop_that_fails_half_way(small):
    small.fail("stop", "workers")
    run = small.restore()
    with pytest.raises(RecoveryError, match="workers does not stop, on purpose"):
        forward(small, run)
    assert not small.services["web"]
    assert "Nothing live was replaced" in end(run)
    untouched(small, run)


@pytest.mark.parametrize("answer", ["alice accepts", "bob rejects"])
def test_a_start_that_fails_is_for_the_last_gate(small, answer):
    small.fail("start", "web")
    run = small.restore()
    with pytest.raises(RecoveryError, match="web does not start, on purpose"):
        forward(small, run)
    text = gate_texts.gate_text(run, "accept")
    assert "✘ FAILED: the services did not start" in text
    assert "✘ FAILED: the checks did not run" in text
    answers.show(run, "accept", text)
    small.mend("start", "web")
    if answer == "alice accepts":
        answers.approve(run, "accept", "alice")
        rollback.keep(run)
        assert "its services did not start cleanly" in end(run)
        assert small.fingerprint() == small.set_state
    else:
        answers.reject(run, "accept", "bob")
        assert "the data of before is back" in end(run)
        assert small.fingerprint() == small.before
        assert all(small.services.values())


def test_failed_checks_are_told_at_the_last_gate(small):
    small.fail("check", "web")
    run = small.restore()
    with pytest.raises(RestoreError, match="1 of 1 checks of the restored system failed"):
        forward(small, run)
    text = gate_texts.gate_text(run, "accept")
    assert "✘ FAILED" in text
    assert "web does not check, on purpose" in text
    answers.show(run, "accept", text)
    answers.approve(run, "accept", "bob")
    rollback.keep(run)
    assert "its checks did not all succeed" in end(run)


# A way back that fails ------------------------------------------------------------------------------------------------


def test_a_way_back_that_fails_keeps_everything_and_can_be_gone_again(whole, monkeypatch):
    run = whole.restore()
    forward(whole, run, "check")
    answers.show(run, "accept", gate_texts.gate_text(run, "accept"))
    answers.reject(run, "accept", "bob")
    server = whole.postgres
    with server.connect() as connection:
        connection.execute(f'ALTER DATABASE "whole__before_{run.id}" RENAME TO whole_hidden')
    words = end(run)
    assert "THE WAY BACK IS NOT COMPLETE" in words
    assert "postgres.main" in words
    after = whole.fingerprint()
    assert after["files.uploads"] == whole.before["files.uploads"], "one source must not keep the others from coming back"
    assert after["mongo.documents"] == whole.before["mongo.documents"]

    assert not run.journal.closed
    for destination in run.context.destinations():
        assert read_records(destination, run.manifest().path, run.context.verify_key(), run.manifest()).holds
    with pytest.raises(RestoreUnderWay):
        whole.back_up("meanwhile")
    monkeypatch.setattr(replaced_copies, "now", lambda: datetime.now(UTC) + timedelta(days=30))
    replaced_copies.drop_old(whole.context())
    assert any("__stage_" in name for name in whole.leftovers()), "copies were dropped although live is not back"

    with server.connect() as connection:
        connection.execute(f'ALTER DATABASE whole_hidden RENAME TO "whole__before_{run.id}"')
    assert "the data of before is back" in end(run)
    assert whole.fingerprint() == whole.before
    assert run.journal.closed
    back_up_again(whole, "afterwards")


def test_the_way_back_is_not_gone_on_another_server(tmp_path, whole):
    run = whole.restore()
    forward(whole, run, "check")
    answers.show(run, "accept", gate_texts.gate_text(run, "accept"))
    answers.reject(run, "accept", "bob")
    with Postgres(tmp_path / "elsewhere") as other:
        with other.connect() as connection:
            connection.execute("CREATE DATABASE whole")
        kept, whole.postgres = whole.postgres, other
        words = end(run)
        whole.postgres = kept
    assert "THE WAY BACK IS NOT COMPLETE" in words
    assert whole.fingerprint()["postgres.main"] == whole.set_state["postgres.main"]
    assert "the data of before is back" in end(run)
    assert whole.fingerprint() == whole.before


def test_what_appeared_in_the_way_is_kept_aside(small):
    run = small.restore()
    forward(small, run, "switch files.uploads")
    (small.storage / "year1" / "written between").write_text("by a service that was not stopped\n")
    assert "switched back" in end(run)
    assert small.fingerprint() == small.before


# Backups beside a restore ---------------------------------------------------------------------------------------------


def test_a_backup_waits_from_the_switch_to_the_acceptance(small):
    run = small.restore()
    for name, step in steps(small, run):
        step()
        if name == "gate switch":
            small.back_up("allowed", sources=("files.uploads",))
        if name in {"stop services", "switch config.settings", "check", "gate accept"}:
            with pytest.raises(RestoreUnderWay):
                small.back_up(f"refused {name}")
    assert end(run) == ""
    small.back_up("after the end")


def test_a_set_that_was_begun_before_a_switch_is_not_closed_after_it(small):
    plan = small.plan()
    began = datetime.now(UTC)
    staged = StagedSet(plan, new_set_id(began, "around"))
    record = RunRecord(plan="small", set_id=staged.id, run_id="around", started=began, sources=tuple(plan.source_ids))
    finalize.prepare(small.context(), staged, record)

    def read(source_id):
        for step in (backup_steps.dump, backup_steps.compress, backup_steps.verify):
            step(backup_steps.Work(small.context(), staged, source_id))

    read("files.uploads")
    run = small.restore()
    forward(small, run)
    assert end(run) == ""
    read("config.settings")
    with pytest.raises(RestoreError, match="half of before"):
        upload.upload(small.context(), staged, "near")
    assert not any(folder.exists() for folder in small.set_folders(staged.id))


# Staging --------------------------------------------------------------------------------------------------------------


def test_a_worker_that_does_not_see_the_staging_folder_says_so(small):
    run = small.restore()
    forward(small, run, "preflight")
    run.folder.rename(run.folder.with_name("elsewhere"))
    with pytest.raises((StagingError, ApprovalError)):
        restore_steps.stage(run, "files.uploads")


def test_the_lock_of_a_killed_process_is_free(small):
    run = small.restore()
    forward(small, run, "gate plan")
    pid = os.fork()
    if pid == 0:
        with run.changing("files.uploads"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    restore_steps.stage(run, "files.uploads")


def test_the_report_names_the_step_that_failed_but_not_what_it_said(small):
    run = small.restore()
    choose_set.choose(run, small.ask(run))
    shutil.rmtree(small.storage)
    small.storage.write_text("secret")  # no folder: nothing can be restored there
    with pytest.raises(RestoreError, match="would fail"), tasks.failure_noted(run, "preflight"):
        preflight.preflight(run)
    assert "Nothing live was replaced: preflight failed, its log says why." in end(run)
