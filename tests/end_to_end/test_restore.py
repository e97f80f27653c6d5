"""Restores through a real Airflow: every gate refused, missed, forged and answered too fast; tasks killed; runs marked by hand.

Each scenario has a plan and a system of its own, so several run at the same time; one test reports on each.
"""

import contextlib
import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from recovery.common.units import iso
from recovery.crypto.signing import SigningKey
from recovery.restore import answers
from recovery.restore.approvals import Approval, write_signed
from recovery.sets.records import read_records
from sandbox.person import Refused
from sandbox.servers import wait_for
from tests.support.restore_play import RestorePlay, waiting_for

SCENARIOS = {}
PARAMETERS = []
SAMPLE_PLANS = {}


def scenario(*marks, **settings):
    """Register a scenario, with the settings of its system."""

    def register(function):
        name = function.__name__[:40]  # the longest that a plan's name may be
        SCENARIOS[name] = function
        SAMPLE_PLANS[name] = settings
        PARAMETERS.append(pytest.param(name, marks=marks))
        return function

    return register


@pytest.fixture(scope="module")
def plays(request, airflow, sample_systems, mails):
    """The scenarios that were selected, as futures; several run at once."""
    chosen = [item.callspec.params["name"] for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    with ThreadPoolExecutor(6) as pool:
        yield {
            name: pool.submit(lambda name=name: SCENARIOS[name](RestorePlay(name, airflow, sample_systems[name], mails))) for name in chosen
        }
        pool.shutdown(cancel_futures=True)


# Answers --------------------------------------------------------------------------------------------------------------


@scenario()
def plan_rejected(play):
    play.trigger().reject("approve_plan")
    words = play.ended()
    assert "bob rejected the gate 'plan'; nothing live was replaced" in words
    play.assert_nothing_changed()
    assert not play.run.journal.entries("staging")
    play.wait_until("the mail about the failure", lambda: bool(play.mails("Restore FAILED")))
    waited, *_asked_again = play.mails("waits for approval: plan")
    assert play.run.manifest().set_id in waited
    assert play.run_id in play.mails("Restore FAILED")[0]


@scenario()
def cutover_rejected_and_own_gate_refused(play):
    play.trigger(play.alice)
    with pytest.raises(Refused) as refused:
        play.carol.answer(play.gate("approve_plan"), at_once=True)
    assert refused.value.status == 403
    play.answer_in_vain(play.alice, "Approve", "alice asked for this restore and can't approve it")
    play.answer_in_vain(play.operator, "Reject", "operator is no approver of this plan")
    with pytest.raises(Refused):
        play.carol.trigger(play.dag)
    play.approve("approve_plan", person=play.bob)
    gate = play.gate("approve_cutover")
    assert "verified against the set" in gate.body
    assert play.system.fingerprint() == play.before, "something live was touched before the cutover was approved"
    play.answer(gate, "Reject", play.bob)
    assert "bob rejected the gate 'cutover'; nothing live was replaced" in play.ended()
    play.assert_nothing_changed()
    assert play.system.service_calls == []


@scenario(servers=("postgres", "mongo"))
def accept_rejected_and_later_writes_kept_aside(play):
    play.trigger().approve("approve_plan", "approve_cutover")
    gate = play.gate("accept")
    assert "web: check is done" in gate.body
    restored = play.system.fingerprint()
    for state in (restored, play.set_state):
        state["mongo.documents"].pop("sessions (indexes, options)")  # its TTL is put on after acceptance
    assert restored == play.set_state
    (play.system.storage / "year0" / "written after the cutover").write_text("hours of work\n")
    (play.system.storage / "also after").write_text("more\n")
    play.system.sql("INSERT INTO requests (what) VALUES ('after the cutover')")
    with play.system.mongo.client() as client:
        client[play.system.name].states.insert_one({"_id": "after"})
    play.answer(gate, "Reject", play.bob)
    assert "bob rejected the gate 'accept'; the previous data is back" in play.ended()
    assert play.system.fingerprint() == play.before
    assert all(play.system.services.values())
    play.assert_nothing_held()
    aside = play.system.storage / f".recovery-{play.run.id}" / "new"
    assert (aside / "year0" / "written after the cutover").read_text() == "hours of work\n"
    assert (aside / "also after").read_text() == "more\n"
    assert f"{play.system.name}__stage_{play.run.id}" in play.system.leftovers()
    with play.system.mongo.client() as client:
        assert client[play.system.name][f"__stage_{play.run.id}_states"].find_one({"_id": "after"})


@scenario(pytest.mark.long, timeout="4s")
def plan_unanswered(play):
    play.trigger()
    assert "nobody answered the gate 'plan' in time" in play.ended()
    play.assert_nothing_changed()


@scenario()
def accept_unanswered(play):
    play.system.block("check", "web")
    play.trigger().approve("approve_plan", "approve_cutover")
    play.wait_until("the checks", lambda: play.system.blocked("check", "web") is not None)
    play.system.write_plan(timeout="3s")
    play.system.unblock("check", "web")
    words = play.ended()
    assert "in use, but nobody accepted it" in words
    assert play.system.fingerprint() == play.set_state
    play.assert_nothing_held()
    assert len(play.mails("NOT accepted in time")) == 1
    assert (play.system.storage / f".recovery-{play.run.id}" / "before" / "new.txt").exists()


@scenario(pytest.mark.long, timeout="80s")
def cutover_unanswered(play):
    play.trigger().approve("approve_plan")
    play.gate("approve_cutover")
    assert "nobody answered the gate 'cutover' in time" in play.ended()
    play.assert_nothing_changed()


@scenario()
def answers_in_first_second_and_backup_waits(play):
    play.trigger()
    answered = set()

    def answer(gate):
        """At once; again as a person would, where Airflow lost it."""
        play.alice.answer(gate, at_once=gate.task_id not in answered)
        answered.add(gate.task_id)

    while (gate := play.alice.next_gate(play.dag, play.run_id)) and gate.task_id != "accept":
        answer(gate)
    assert gate, play.failure_logs()
    backup = play.operator.trigger(f"{play.system.name}_backup")
    play.operator.wait_task(f"{play.system.name}_backup", backup, "prepare", {"up_for_reschedule"})
    assert "between its cutover and its acceptance" in play.operator.log_text(f"{play.system.name}_backup", backup, "prepare", 1)
    while gate:
        answer(gate)
        gate = play.alice.next_gate(play.dag, play.run_id)
    play.ended("success")
    assert play.system.fingerprint() == play.set_state
    play.operator.clear(f"{play.system.name}_backup", backup, "prepare")
    assert play.operator.wait_run(f"{play.system.name}_backup", backup) == "success"


@scenario(pytest.mark.long)
def answer_that_airflow_kept(play):
    """As it is where Airflow took the gate for one that still ran: it has the answer, and does not pass it on."""
    play.trigger()
    play.gate("approve_plan")
    with play.airflow.metadata.connect("airflow") as database:
        database.execute(
            """UPDATE hitl_detail SET responded_at = now(), chosen_options = '["Approve"]', params_input = '{}',
                responded_by = '{"id": "alice", "name": "alice"}'
            WHERE ti_id = (SELECT id FROM task_instance WHERE dag_id = %s AND run_id = %s AND task_id = 'approve_plan')""",
            [play.dag, play.run_id],
        )
    assert play.alice.gates(play.dag, play.run_id) == [], "nobody is asked any more"
    wait_for("the gate to look for the answer", lambda: answers.answered(play.run, "plan") == "approved")
    play.reject("approve_cutover")
    play.ended()
    play.assert_nothing_changed()


# Parts, targets, methods ------------------------------------------------------------------------------------------------


@scenario(servers=("postgres", "mongo"))
def dry_run_needs_no_answers(play):
    play.trigger(dry_run=True)
    play.ended("success")
    for words in ("| table | removed | 1 |", "| file | changed | 1 |", "This was a dry run"):
        assert words in play.log("preflight")
    assert play.system.fingerprint() == play.before
    assert play.system.leftovers() == []
    for destination in play.run.context.destinations():
        assert not read_records(destination, play.run.manifest().path, play.run.context.verify_key(), play.run.manifest()).verified
    states = play.alice.states(play.dag, play.run_id)
    done = {"choose_set", "preflight", "discard", "report"}
    assert {task for task, state in states.items() if state == "success"} == done
    assert set(states.values()) == {"success", "skipped"}


@scenario(servers=("postgres",))
def one_table_and_one_folder(play):
    table = f"{play.system.name}.public.requests"
    play.trigger(sources=["postgres.main", "files.uploads"], **{"only.postgres.main": [table], "only.files.uploads": ["year1"]})
    gate = play.gate("approve_plan")
    assert f"Only: {table}" in gate.body.replace("\\", "")
    play.approve("approve_plan", "approve_cutover", "accept")
    play.ended("success")
    found = play.system.fingerprint()
    for source, names in (("postgres.main", {"requests", "requests_id_seq"}), ("files.uploads", {"year1"})):
        wanted = play.before[source] | {name: play.set_state[source][name] for name in names}
        assert found[source] == wanted
    assert found["config.settings"] == play.before["config.settings"]
    _beside(play, table)


def _beside(play, table):
    """The same table again, beside the restored one: one gate, and no task of a cutover."""
    called, before = [*play.system.service_calls], play.system.fingerprint()
    play.trigger(sources=["postgres.main"], method="beside", **{"only.postgres.main": [table]}).approve("approve_plan")
    play.ended("success")
    states = play.alice.states(play.dag, play.run_id)
    cutover = {"approve_cutover", "stop_services", "safety_backup", "cutover.postgres.main", "start_services", "check_system", "accept"}
    assert {states[name] for name in cutover | {"finalize"}} == {"skipped"}
    schema = f"restored_{play.run.id}"
    assert f"DROP SCHEMA {schema} CASCADE" in play.log("report").replace("\\", "")
    with closing(play.system.postgres.connect(play.system.name)) as connection:
        assert connection.execute(f"SELECT count(*) FROM {schema}.requests").fetchone() == (500,)
        connection.execute(f"DROP SCHEMA {schema} CASCADE")
    assert (play.system.service_calls, play.system.fingerprint()) == (called, before)


@scenario(pytest.mark.long, servers=("postgres", "mongo"), gates=("cutover",))
def into_a_target_with_one_gate(play):
    with pytest.raises(Refused) as refused:
        play.trigger(target="elsewere")
    assert refused.value.status == 400
    play.trigger(target="elsewhere").approve("approve_cutover")
    play.ended("success")
    assert play.system.elsewhere_fingerprint() == play.set_state
    assert play.system.fingerprint() == play.before
    states = play.alice.states(play.dag, play.run_id)
    assert states["approve_plan"] == states["accept"] == "skipped"
    assert play.system.service_calls == []


@scenario(servers=("postgres", "mongo"))
def in_place_rejected_at_the_last_gate(play):
    play.trigger(method="in place", config="all").approve("approve_plan", "approve_cutover")
    gate = play.gate("accept")
    assert "those writes are lost" in gate.body
    restored = play.system.fingerprint()
    assert restored["files.uploads"] == play.set_state["files.uploads"]
    assert restored["postgres.main"] == play.set_state["postgres.main"]
    play.answer(gate, "Reject", play.bob)
    assert "bob rejected the gate 'accept'; the previous data was loaded again from the safety set" in play.ended()
    play.assert_nothing_changed()


# What must not open a gate --------------------------------------------------------------------------------------------


@scenario()
def plan_gate_marked_and_forged(play):
    play.trigger()
    play.gate("approve_plan")
    run = play.run
    answer = {"chosen_options": ["Approve"], "params_input": {}, "responded_by_user": {"id": "alice", "name": "alice"}}
    play.operator.write_xcom(play.dag, play.run_id, "approve_plan", "return_value", answer)
    forged = Approval(question=answers.question_now(run, "plan"), approver="alice", answered=datetime.now(UTC))
    write_signed(run.gate_file("plan", ".json"), forged, SigningKey.generate())
    play.operator.mark_task(play.dag, play.run_id, "approve_plan", "success")
    words = play.ended()
    assert "The approval of the gate plan is not one" in words
    play.assert_nothing_changed()
    assert not run.journal.entries("staging")


@scenario(pytest.mark.long)
def cutover_gate_marked_as_skipped(play):
    play.trigger().approve("approve_plan")
    play.gate("approve_cutover")
    play.operator.mark_task(play.dag, play.run_id, "approve_cutover", "skipped")
    assert "The gate cutover was not approved by anyone" in play.ended()
    play.assert_nothing_changed()
    assert play.system.service_calls == []


@scenario(pytest.mark.long)
def last_gate_marked_as_success(play):
    play.trigger().approve("approve_plan", "approve_cutover")
    play.gate("accept")
    play.operator.mark_task(play.dag, play.run_id, "accept", "success")
    words = play.ended()
    assert "The gate accept was not approved by anyone" in words
    assert "nobody accepted it" in words
    assert play.system.fingerprint() == play.set_state
    play.assert_nothing_held()


@scenario()
def plan_file_changed_while_the_gate_waits(play):
    play.trigger()
    gate = play.gate("approve_plan")
    play.system.write_plan(rpo="25h")
    play.answer(gate)
    words = play.ended()
    assert "alice approved something else" in words or "Since preflight looked, the plan changed" in words  # where the answer was lost
    play.assert_nothing_changed()


@scenario(servers=("postgres",))
def connection_changed_after_the_gate(play):
    play.trigger().approve("approve_plan")
    play.system.block("stop", "web")
    play.approve("approve_cutover")
    play.wait_until("services to be stopped", lambda: play.system.blocked("stop", "web") is not None)
    name = f"{play.system.name}_postgres"
    original = play.system.connections()[name]
    other = play.airflow.metadata
    play.airflow.admin.put_connection(name, original | {"port": other.port, "password": other.password})
    try:
        play.system.unblock("stop", "web")
        play.wait_until("the cutover to fail", lambda: play.alice.states(play.dag, play.run_id)["cutover.postgres.main"] == "failed")
    finally:
        play.airflow.admin.put_connection(name, original)
    words = play.ended()
    assert "The target of postgres.main is not the one that was approved" in words
    assert "rolled back" in words
    assert play.run.journal.entries("switched", "config.settings"), "nothing had been cut over before, so nothing was rolled back"
    play.assert_nothing_changed()


@scenario()
def unknown_parameters(play):
    play.trigger(sett="latest")
    words = play.ended()
    assert "This DAG has no parameter sett" in words
    with pytest.raises(Refused) as refused:
        play.operator.trigger(play.dag, {"sources": ["files.other"]})
    assert refused.value.status == 400
    assert not play.run.began
    assert play.system.fingerprint() == play.before


# Kills ----------------------------------------------------------------------------------------------------------------


@scenario(pytest.mark.long)
def killed_while_stopping_services(play):
    play.system.block("stop", "workers")
    play.trigger().approve("approve_plan", "approve_cutover")
    play.wait_until("services to be stopped", lambda: play.system.blocked("stop", "workers") is not None)
    assert not play.system.services["web"]
    os.kill(play.system.blocked("stop", "workers"), signal.SIGKILL)
    play.ended()
    play.system.unblock("stop", "workers")
    play.assert_nothing_changed()
    assert play.system.service_calls[-2:] == ["start workers", "start web"]


@scenario()
def killed_between_two_swaps(play):
    play.trigger().approve("approve_plan")
    play.gate("approve_cutover")
    with play.source_in_use("files.uploads") as lock:
        play.approve("approve_cutover")
        play.wait_for_step("switched", "config.settings")
        play.wait_until("the next cutover", lambda: waiting_for(lock) is not None)
        os.kill(waiting_for(lock), signal.SIGKILL)
        play.wait_until("it to fail", lambda: play.alice.states(play.dag, play.run_id)["cutover.files.uploads"] == "failed")
    assert "everything was rolled back" in play.ended()
    play.assert_nothing_changed()


@scenario(pytest.mark.long)
def killed_while_starting_services_then_rejected(play):
    play.system.block("start", "web")
    play.trigger().approve("approve_plan", "approve_cutover")
    play.wait_until("services to be started", lambda: play.system.blocked("start", "web") is not None)
    os.kill(play.system.blocked("start", "web"), signal.SIGKILL)
    gate = play.gate("accept")
    assert "✘ FAILED: the services did not start" in gate.body
    assert "✘ FAILED: the checks did not run" in gate.body
    play.system.unblock("start", "web")
    play.answer(gate, "Reject", play.bob)
    assert "the previous data is back" in play.ended()
    assert play.system.fingerprint() == play.before
    assert all(play.system.services.values())


@scenario()
def killed_during_rollback(play):
    play.trigger().approve("approve_plan", "approve_cutover")
    gate = play.gate("accept")
    play.system.block("stop", "web")
    play.answer(gate, "Reject", play.bob)
    play.wait_until("the rollback", lambda: play.system.blocked("stop", "web") is not None)
    os.kill(play.system.blocked("stop", "web"), signal.SIGKILL)
    play.system.unblock("stop", "web")
    assert "the previous data is back" in play.ended()
    assert play.system.fingerprint() == play.before
    assert all(play.system.services.values())
    assert play.alice.tasks(play.dag, play.run_id)["roll_back"].try_number > 1


# By hand --------------------------------------------------------------------------------------------------------------


@scenario(pytest.mark.long)
def run_marked_failed_while_staging(play):
    play.trigger()
    play.gate("approve_plan")
    with play.source_in_use("files.uploads") as lock:
        play.approve("approve_plan")
        play.wait_until("staging", lambda: waiting_for(lock) is not None)
        play.operator.mark_run(play.dag, play.run_id, "failed")
    play.ended()
    play.assert_nothing_changed()


@scenario()
def run_marked_success_at_the_cutover_gate(play):
    play.trigger().approve("approve_plan")
    gate = play.gate("approve_cutover")
    play.operator.mark_run(play.dag, play.run_id, "success")
    play.teardowns_ended()
    play.assert_nothing_changed()
    assert play.alice.states(play.dag, play.run_id)["report"] == "failed"
    with contextlib.suppress(Refused):
        play.alice.answer(gate)
    play.assert_nothing_changed()


@scenario(pytest.mark.long)
def run_marked_failed_during_the_cutover(play):
    play.system.block("stop", "workers")
    play.trigger().approve("approve_plan", "approve_cutover")
    play.wait_until("services to be stopped", lambda: play.system.blocked("stop", "workers") is not None)
    play.operator.mark_run(play.dag, play.run_id, "failed")
    play.ended()
    play.system.unblock("stop", "workers")
    play.assert_nothing_changed()
    assert not play.run.journal.entries("services stopped")


@scenario(pytest.mark.long)
def run_marked_success_at_the_last_gate(play):
    play.trigger().approve("approve_plan", "approve_cutover")
    play.gate("accept")
    play.operator.mark_run(play.dag, play.run_id, "success")
    play.teardowns_ended()
    assert "in use, but nobody accepted it" in play.failure_logs()
    assert play.system.fingerprint() == play.set_state
    assert all(play.system.services.values())
    play.assert_nothing_held()


@scenario(pytest.mark.long)
def checks_begin_to_fail_at_the_last_gate(play):
    play.trigger().approve("approve_plan", "approve_cutover")
    gate = play.gate("accept")
    assert "✘" not in gate.body
    play.system.fail("check", "web")
    play.operator.clear(play.dag, play.run_id, "check_system")
    wait_for("the checks to fail", lambda: play.alice.states(play.dag, play.run_id)["check_system"] == "failed")
    play.alice.answer(gate)  # to what the checks said before
    wait_for("the gate to ask again", lambda: play.alice.tasks(play.dag, play.run_id)["accept"].try_number > 1)
    assert "its log has what counts" in play.gate("accept").body  # it is the text of before
    assert "✘ FAILED" in play.log("accept")
    play.reject("accept")
    assert "the previous data is back" in play.ended()
    assert play.system.fingerprint() == play.before


@scenario()
def checks_fail_and_tasks_are_cleared_after_the_end(play):
    play.system.fail("check", "web")
    play.trigger().approve("approve_plan", "approve_cutover")
    gate = play.gate("accept")
    assert "✘ FAILED" in gate.body
    assert "web does not check, on purpose" in gate.body
    play.answer(gate)
    assert "its checks did not all succeed" in play.ended()
    assert play.system.fingerprint() == play.set_state
    play.assert_nothing_held()

    (play.system.storage / "written later").write_text("the life after\n")
    later = play.system.fingerprint()
    told = play.system.service_calls
    play.operator.clear(play.dag, play.run_id)
    words = play.ended()
    assert "This run was cleared" in words
    assert play.system.fingerprint() == later
    assert play.system.service_calls == told
    for task in ("stage_and_verify.stage.files.uploads", "cutover.files.uploads", "stop_services"):
        play.operator.clear(play.dag, play.run_id, task)
        found = play.alice.wait_task(play.dag, play.run_id, task, {"success", "failed", "upstream_failed"})
        assert found.state != "success", task
        play.ended()
    assert play.system.fingerprint() == later
    assert play.system.service_calls == told


# Pauses ---------------------------------------------------------------------------------------------------------------

PAUSE = 20
"""Seconds in which Airflow starts a task if it ever does."""


def make_old(run, minutes):
    """Move all that a restore's journal says into the past."""
    path = run.folder / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["time"] = iso(datetime.fromisoformat(line["time"]) - timedelta(minutes=minutes))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def begun_tasks(play):
    return {task for task, state in play.alice.states(play.dag, play.run_id).items() if state}


@scenario()
def paused_with_services_down(play):
    admin, maintenance, backups = play.airflow.admin, f"{play.system.name}_maintenance", f"{play.system.name}_backup"
    admin.wait_dags(maintenance)
    admin.unpause(maintenance)
    play.system.block("stop", "workers")
    play.trigger().approve("approve_plan", "approve_cutover")
    play.wait_until("the services to stop", lambda: play.system.blocked("stop", "workers") is not None)
    admin.pause(play.dag)
    play.system.unblock("stop", "workers")
    assert play.alice.wait_task(play.dag, play.run_id, "stop_services", {"success", "failed"}).state == "success", "it was not let finish"
    begun = begun_tasks(play)
    time.sleep(PAUSE)
    assert begun_tasks(play) == begun, "a task was started although the DAG is paused"
    assert not any(play.system.services.values())
    watching = [run for run in admin.run_ids(maintenance) if run.startswith("asset_triggered")]
    assert [admin.states(maintenance, run)["watch_restores"] for run in watching] == ["up_for_reschedule"]
    assert {admin.states(maintenance, run)["drop_replaced_data"] for run in watching} == {"skipped"}

    make_old(play.run, minutes=16)
    looked, backup = (play.operator.trigger(dag) for dag in (maintenance, backups))
    assert play.operator.wait_run(maintenance, looked) == "failed"
    assert play.operator.wait_run(backups, backup) == "failed"
    for dag, run, task in ((maintenance, looked, "watch_restores"), (backups, backup, "prepare")):
        words = play.operator.log_text(dag, run, task)
        assert f"run {play.run_id!r} of {play.dag}, stands still. Its services are STOPPED." in words, words
    [told] = play.mails("STANDS STILL")
    assert "Its services are STOPPED" in told

    play.operator.mark_run(play.dag, play.run_id, "failed")
    time.sleep(PAUSE)
    assert not any(play.system.services.values()), "a paused DAG ran its rollback"
    admin.unpause(play.dag)
    assert "Nothing live was replaced" in play.ended()
    play.assert_nothing_changed()


@scenario(pytest.mark.long)
def answered_while_paused(play):
    admin = play.airflow.admin
    play.trigger().approve("approve_plan", "approve_cutover")
    gate = play.gate("accept")
    admin.pause(play.dag)
    play.answer(gate)
    time.sleep(PAUSE)
    assert answers.answered(play.run, "accept") == "", "an answer took effect although the DAG is paused"
    admin.unpause(play.dag)
    play.ended("success")
    assert play.system.fingerprint() == play.set_state


@pytest.mark.parametrize("name", PARAMETERS)
def test_restore(plays, name):
    plays[name].result()


# The whole ------------------------------------------------------------------------------------------------------------


def test_restore_of_whole_sample_after_disaster_equals_backup(system, operator, alice, mails):
    backup, restores = "openmanus_backup", "openmanus_restore"
    run = operator.trigger(backup)
    assert operator.wait_run(backup, run) == "success", operator.states(backup, run)
    before = system.fingerprint()
    system.disaster()
    run = operator.trigger(restores)
    asked = []
    while gate := alice.next_gate(restores, run):
        asked.append(gate)
        alice.answer(gate)
    assert operator.run_state(restores, run) == "success", operator.states(restores, run)
    after = system.fingerprint()
    for source, things in before.items():
        assert after[source] == things, f"{source} is not what it was"
    assert list(dict.fromkeys(gate.task_id for gate in asked)) == ["approve_plan", "approve_cutover", "accept"]
    plan = next(gate.body for gate in asked if gate.task_id == "approve_plan")
    for words in ("**operator** asks", "All data written in the last", *before.keys() - {"config"}):
        assert words in plan
    states = operator.tasks(restores, run)
    order = [
        "stop_services", "cutover.config.settings", "cutover.config.code", "cutover.postgres.main", "cutover.mongo.documents",
        "cutover.files.uploads", "start_services", "check_system",
    ]  # fmt: skip
    assert sorted(order, key=lambda task: states[task].started) == order
    assert states["roll_back"].state == "skipped"
    report = re.sub(" +", " ", operator.log_text(restores, run, "report"))
    for words in ("SUCCESS", "| accept | approved | alice |", "within the RPO", "within the RTO"):
        assert words in report
