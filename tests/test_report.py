import shutil
from datetime import timedelta

import pytest

from recovery import report, restore
from recovery.errors import RestoreError
from recovery.gate_texts import gate_text
from recovery.records import read_records
from recovery.units import iso
from tests.small import Small, end, forward


@pytest.fixture
def small(tmp_path):
    made = Small(tmp_path / "small", "small")
    made.set_id = made.back_up()
    made.disaster()
    return made


def records(run):
    return [read_records(each, run.manifest().path, run.verify_key(), run.manifest()) for each in run.destinations()]


def test_a_success_is_kept_with_the_set_everywhere_and_is_a_proof(small):
    run = small.restore()
    forward(small, run)
    assert end(run) == ""
    for found in records(run):
        (kept,) = found.of("report")
        assert kept.text == "restored"
        assert [kept.facts[name] for name in ("restore", "set", "requester", "result")] == [run.id, small.set_id, "operator", "success"]
        assert [(each["gate"], each["answer"], each["person"]) for each in kept.facts["answers"]] == [
            ("plan", "approved", "alice"), ("switch", "approved", "alice"), ("accept", "approved", "alice"),
        ]  # fmt: skip
        assert {each["step"] for each in kept.facts["steps"]} == {
            "stage", "prove", "stop services", "switch", "start services", "check system",
        }  # fmt: skip
        assert kept.facts["downtime_seconds"] > 0
        assert 0 < kept.facts["working_seconds"] <= kept.facts["restore_seconds"]
        (proof,) = found.of("proof")
        assert "config.settings, files.uploads" in proof.text
        assert found.findings == ()
        assert found.holds == ()


def test_a_failure_is_kept_too_and_is_no_proof(small):
    run = small.restore()
    forward(small, run, "prove files.uploads")
    restore.show(run, "switch", gate_text(run, "switch"))
    restore.reject(run, "switch", "bob")
    words = end(run)
    assert "bob rejected the gate 'switch'; nothing live was replaced." in words
    for found in records(run):
        (kept,) = found.of("report")
        assert kept.text == "bob rejected the gate 'switch'; nothing live was replaced."
        assert found.of("proof") == ()
    text = (run.folder / "report.md").read_text()
    assert "**FAILED: bob rejected" in text
    assert "| switch | rejected | bob |" in text


def test_what_checks_were_given_and_said_stays_out_of_the_record(small):
    """A record is signed, but not encrypted; the words are in the task's log and at the gate."""
    run = small.restore()
    path = small.plans / "small.yaml"
    path.write_text(path.read_text().replace("check, web]", 'check, web, "--password=hush-hush"]'))
    run = small.restore("restore 2")
    forward(small, run)
    assert end(run) == ""
    for place in small.set_folders(small.set_id):
        for file in (place / "records").iterdir():
            assert b"hush-hush" not in file.read_bytes()
            assert b"check is done" not in file.read_bytes()
    assert "✔ service" in (run.folder / "report.md").read_text()


def test_a_destination_that_is_gone_is_named_and_the_restore_is_over(small):
    run = small.restore()
    forward(small, run)
    shutil.rmtree(small.folder / "far")
    words = end(run)
    assert "The restore succeeded, but its report could not be kept." in words
    assert "far" in words
    assert run.journal.closed
    assert (run.folder / "report.md").read_text().count("SUCCESS") == 1


def test_an_answer_counts_until_the_gate_asks_again(small):
    run = small.restore()
    forward(small, run, "preflight")
    for person, answer in (("bob", "rejected"), (None, "unanswered")):
        restore.show(run, "plan", gate_text(run, "plan"))
        assert restore.answered(run, "plan") == ""
        restore.reject(run, "plan", person)
        assert restore.answered(run, "plan") == answer
    restore.show(run, "plan", gate_text(run, "plan"))
    restore.approve(run, "plan", "alice")
    assert restore.answered(run, "plan") == "approved"
    restore.stage(run, "files.uploads")


def test_beyond_the_objectives_is_said(small):
    run = small.restore()
    forward(small, run)
    started = run.request().started
    facts = report.describe(run, "")
    assert facts["started"] == iso(started)
    late = facts | {"data_loss_seconds": timedelta(hours=25).total_seconds(), "restore_seconds": timedelta(hours=3).total_seconds()}
    assert report.render(facts).count("within") == 2
    assert report.render(late).count("BEYOND") == 2
    end(run)


def test_without_a_set_there_is_no_report(small):
    run = small.restore()
    with pytest.raises(RestoreError, match="No set was chosen"):
        report.finish(run)
    assert run.journal.closed
