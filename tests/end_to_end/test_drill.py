"""Drills through a real Airflow: set off by a new set, green, red, and with nothing to do."""

import json
from email import message_from_string
from email.policy import default

import pytest

from recovery.restore.session import RestoreSession
from recovery.sets.records import read_records
from sandbox.servers import wait_for
from tests.end_to_end.conftest import mail_lines

SAMPLE_PLANS = {
    "drilled": {"servers": ("postgres", "mongo"), "more": f"drill: {{on_new_set: true, destinations: [near]}}\n{mail_lines()}"},
    "drill_red": {},
}
TEARDOWNS = {"roll_back", "discard", "report"}


def verification_records(run):
    found = read_records(run.context.destination("near"), run.manifest().path, run.context.verify_key(), run.manifest())
    assert found.holds == ()
    return found.of("proof")


def drill_of(system, run_id):
    return RestoreSession(system.context(), f"drill {run_id}")


def words(person, dag, run_id):
    states = person.states(dag, run_id)
    failed = {name: person.log_text(dag, run_id, name)[-4000:] for name, state in states.items() if state == "failed"}
    return json.dumps({"states": states, **failed}, indent=1)


def next_run(person, dag, before=()):
    wait_for(f"a run of {dag}", lambda: set(person.run_ids(dag)) - set(before))
    (run_id,) = set(person.run_ids(dag)) - set(before)
    return run_id


@pytest.fixture(scope="module")
def begun(airflow, sample_systems):
    """The first run of each scenario, so that both go on at the same time: a backup, and a drill of a damaged set."""
    dags = [f"{name}_drill" for name in SAMPLE_PLANS]
    airflow.admin.wait_dags(*dags)
    airflow.admin.unpause(*dags)
    for pack in (sample_systems["drill_red"].folder / "far" / "drill_red").rglob("uploads.000.tar.zst.age"):
        pack.chmod(0o600)
        damaged = pack.read_bytes()
        pack.write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    operator = airflow.user("operator")
    return {
        "drilled": operator.trigger("drilled_backup", {}),
        "drill_red": operator.trigger("drill_red_drill", {"destination": "far"}),
    }


def test_new_set_triggers_drill_and_verified_set_is_not_drilled_again(airflow, sample_systems, begun, operator):
    system = sample_systems["drilled"]
    before, backup = system.fingerprint(), begun["drilled"]
    assert operator.wait_run("drilled_backup", backup, timeout=240) == "success", words(operator, "drilled_backup", backup)
    run_id = next_run(operator, "drilled_drill")
    assert operator.wait_run("drilled_drill", run_id, timeout=300) == "success", words(operator, "drilled_drill", run_id)
    assert set(operator.states("drilled_drill", run_id).values()) == {"success"}

    run = drill_of(system, run_id)
    (verification,) = verification_records(run)
    assert verification.facts["sources"] == list(run.plan.source_ids)
    assert run.manifest().run_id == backup
    assert f"# Drill {run.id} of drilled" in operator.log_text("drilled_drill", run_id, "report")
    assert system.fingerprint() == before
    assert (system.leftovers(), system.service_calls) == ([], [])
    assert not (run.folder / "scratch.json").exists()

    (asset,) = [each for each in operator.call("GET", "/assets", limit=200)["assets"] if each["uri"] == "x-recovery://drilled/complete-set"]
    airflow.admin.call("POST", "/assets/events", {"asset_id": asset["id"]})
    idle = next_run(operator, "drilled_drill", [run_id])
    assert operator.wait_run("drilled_drill", idle, timeout=240) == "success", words(operator, "drilled_drill", idle)
    states = operator.states("drilled_drill", idle)
    assert states.pop("choose_set") == "success"
    states.pop("discard")
    assert set(states.values()) == {"skipped"}
    assert "nothing is due" in operator.log_text("drilled_drill", idle, "choose_set")


def test_drill_of_damaged_set_fails_and_sends_mail(sample_systems, begun, operator, mails):
    system = sample_systems["drill_red"]
    run_id = begun["drill_red"]
    assert operator.wait_run("drill_red_drill", run_id, timeout=240) == "failed", words(operator, "drill_red_drill", run_id)
    run = drill_of(system, run_id)
    assert run.request().requester == "operator"
    states = operator.states("drill_red_drill", run_id)
    assert {name for name, state in states.items() if state == "failed"} == {"stage_and_verify.stage.files.uploads", "report"}
    assert states["check_system"] == "upstream_failed"
    assert states["discard"] == "success"
    assert "It was not verified that the set can be restored: files.uploads" in operator.log_text("drill_red_drill", run_id, "report")
    assert verification_records(run) == ()
    assert not (run.folder / "scratch.json").exists()

    def was_sent():
        subjects = (message_from_string(message.text, policy=default)["Subject"] for message in mails.messages)
        return "[drill_red] Drill FAILED" in subjects

    wait_for("the mail about it", was_sent)
