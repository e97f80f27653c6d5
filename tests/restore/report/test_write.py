import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from recovery.common.errors import RestoreError, VerificationError
from recovery.common.units import human_moment, parse_moment
from recovery.restore import answers, rollback, steps
from recovery.restore.gate_texts import gate_text
from recovery.restore.report import write
from recovery.restore.report.facts import BY_PEOPLE
from recovery.runs import journal
from recovery.runs.journal_steps import Step
from recovery.sets.records import read_records
from tests.support.restore_driver import approve_gate, run_until, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow

FORMAT = Path(__file__).parents[3] / "docs/reference/format.md"


@pytest.fixture
def system(tmp_path):
    made = SampleSystem(tmp_path / "small", "small")
    made.set_id = made.back_up()
    made.disaster()
    return made


def report_text(run):
    """The report, in which cells of tables are filled up with spaces."""
    return re.sub(" +", " ", (run.folder / "report.md").read_text())


def ended(run):
    """Why the report failed."""
    with pytest.raises(RestoreError) as raised:
        write.finish(run)
    return str(raised.value)


def records(run):
    return [read_records(each, run.manifest().path, run.context.verify_key(), run.manifest()) for each in run.context.destinations()]


def test_report_of_success_is_stored_at_all_destinations_with_verification_record(system):
    run = system.restore()
    run_until(system, run)
    assert teardown(run) == ""
    for found in records(run):
        (kept,) = found.of("report")
        assert kept.text == "restored"
        assert [kept.facts[name] for name in ("restore", "set", "requester", "result")] == [run.id, system.set_id, "operator", "success"]
        assert [(each["gate"], each["answer"], each["person"]) for each in kept.facts["answers"]] == [
            ("plan", "approved", "alice"), ("cutover", "approved", "alice"), ("accept", "approved", "alice"),
        ]  # fmt: skip
        assert {each["step"] for each in kept.facts["steps"]} >= {
            "stage", "verify", "stop services", "cut over", "start services", "check system",
        }  # fmt: skip
        assert 0 < kept.facts["downtime_seconds"] < kept.facts["back_seconds"] < kept.facts["restore_seconds"]
        assert 0 < kept.facts["working_seconds"] <= kept.facts["restore_seconds"]
        (verification,) = found.of("proof")
        assert "config.settings, files.uploads" in verification.text
        assert verification.facts == {"restore": run.id, "sources": ["config.settings", "files.uploads"], "only": {}}
        assert found.findings == ()
        assert found.holds == ()


def test_report_of_failure_is_stored_without_verification_record(system):
    run = system.restore()
    run_until(system, run, "verify files.uploads")
    answers.show(run, "cutover", gate_text(run, "cutover"))
    answers.reject(run, "cutover", "bob")
    words = teardown(run)
    assert "bob rejected the gate 'cutover'; nothing live was replaced." in words
    for found in records(run):
        (kept,) = found.of("report")
        assert kept.text == "bob rejected the gate 'cutover'; nothing live was replaced."
        assert found.of("proof") == ()
    text = report_text(run)
    assert "**FAILED: bob rejected" in text
    assert "| cutover | rejected | bob |" in text


def test_records_of_restore_omit_arguments_and_output_of_checks(system):
    """A record is signed, but not encrypted; the words are in the task's log and at the gate."""
    run = system.restore()
    path = system.plans / "small.yaml"
    path.write_text(path.read_text().replace("check, web]", 'check, web, "--password=hush-hush"]'))
    run = system.restore("restore 2")
    run_until(system, run)
    assert teardown(run) == ""
    for target in system.set_folders(system.set_id):
        for file in (target / "records").iterdir():
            assert b"hush-hush" not in file.read_bytes()
            assert b"check is done" not in file.read_bytes()
    assert "✔ service" in (run.folder / "report.md").read_text()


def test_finish_reports_missing_destination_and_closes_journal(system):
    run = system.restore()
    run_until(system, run)
    shutil.rmtree(system.folder / "far")
    words = teardown(run)
    assert "The restore succeeded, but its report could not be kept." in words
    assert "far" in words
    assert run.journal.closed
    assert (run.folder / "report.md").read_text().count("SUCCESS") == 1


def test_report_of_success_with_leftovers_is_failure_and_keeps_verification_record(system):
    run = system.restore()
    run_until(system, run)
    run.journal.record(Step.NOT_DISCARDED, faults=["files.uploads: Permission denied"])
    words = ended(run)
    assert words.startswith("Not everything that was staged could be removed: files.uploads: Permission denied")
    assert json.loads((run.folder / "report.json").read_text())["result"].startswith("Not everything that was staged")
    assert "SUCCESS" not in (run.folder / "report.md").read_text()
    for found in records(run):
        assert [kept.text[:14] for kept in found.of("report")] == ["Not everything"]
        assert len(found.of("proof")) == 1


@pytest.mark.parametrize("steps", [(Step.DISCARDED, Step.NOT_DISCARDED), (Step.NOT_DISCARDED, Step.DISCARDED)], ids=lambda each: each[-1])
def test_report_names_leftovers_by_the_last_attempt_when_the_clock_was_set_back(system, monkeypatch, steps):
    run = system.restore()
    run_until(system, run)
    for step, days in zip(steps, (60, 0), strict=True):
        moment = datetime.now(UTC) + timedelta(days=days)
        with monkeypatch.context() as patched:
            patched.setattr(journal, "datetime", SimpleNamespace(now=lambda zone, moment=moment: moment))
            run.journal.record(step, faults=["files.uploads: Permission denied"])
    if steps[-1] == Step.NOT_DISCARDED:
        assert ended(run).startswith("Not everything that was staged could be removed")
    else:
        write.finish(run)


def test_finish_without_signing_key_reports_missing_signature_and_closes_journal(system):
    run = system.restore()
    run_until(system, run)
    system.keys.folder.joinpath("connections.json").write_text("{}")
    words = ended(system.restore())
    assert "The restore succeeded, but its report could not be kept. Nothing could be signed" in words
    assert run.journal.closed


def test_report_has_recorded_facts_and_empty_fields_for_manual_entries(system):
    """What is lost, who decided what, minutes of each step, what is set aside until when; as JSON, and the same in words."""
    run = system.restore()
    run_until(system, run, request=system.ask(run, sources=("files.uploads",), only={"files.uploads": ("year1/**", "top.txt")}))
    assert teardown(run) == ""
    facts = json.loads((run.folder / "report.json").read_text())
    assert facts == records(run)[0].of("report")[0].facts
    manifest = run.manifest()
    assert [parse_moment(facts[name]) for name in ("set_begins", "set_ends", "started")] == [
        manifest.begins, manifest.ends, run.request().started,
    ]  # fmt: skip
    assert facts["data_loss_seconds"] == (run.request().started - manifest.begins).total_seconds()
    assert facts["only"] == {"files.uploads": ["year1/**", "top.txt"]}
    assert [facts[name] for name in ("kind", "target", "method", "destinations")] == ["restore", "live", "swap", ["near", "far"]]
    assert all(each["waited_seconds"] >= 0 for each in facts["answers"])
    (aside,) = facts["set_aside"]
    assert (aside["source"], aside["what"]) == ("files.uploads", "the previous data")
    assert (system.storage / aside["mark"]).is_dir()
    assert parse_moment(aside["until"]) - parse_moment(facts["ended"]) == timedelta(days=7)
    assert facts["by_people"] == dict.fromkeys(BY_PEOPLE, "")
    text = report_text(run)
    for words in (
        "**SUCCESS**",
        "- Of files.uploads only: year1/\\*\\*, top.txt",
        f"since {human_moment(parse_moment(facts['set_begins']))}\n",
        "within the RTO of 2 h",
        "| verify | files.uploads |",
        f"| accept | approved | alice | {human_moment(parse_moment(facts['answers'][-1]['time']))} |",
        f"| files.uploads | the previous data | `{aside['mark']}` | {human_moment(parse_moment(aside['until']))} |",
        "| Who was told what, and when | |",
    ):
        assert words in text, text
    (verification,) = records(run)[0].of("proof")
    assert verification.text == "restored and verified: files.uploads (year1/**, top.txt)", "a part is not said to be the whole"
    assert verification.facts == {"restore": run.id, "sources": ["files.uploads"], "only": {"files.uploads": ["year1/**", "top.txt"]}}


def test_report_facts_match_documented_keys(system):
    run = system.restore()
    run_until(system, run)
    section = FORMAT.read_text().split("### Facts of a report")[1].split("\n## ")[0]
    documented = [name for row in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE) for name in re.findall(r"`([a-z_]+)`", row)]
    assert sorted(documented) == sorted(write.describe(run, ""))
    teardown(run)


def test_report_names_differing_entries_after_failed_verification(system):
    run = system.restore()
    run_until(system, run, "stage files.uploads")
    (system.storage / f".recovery-{run.id}" / "new" / "top.txt").write_text("damaged on the way\n")
    with pytest.raises(VerificationError):
        steps.verify(run, "files.uploads")
    assert "Nothing live was replaced: the run was ended by hand, or a worker died" in teardown(run)
    facts = json.loads((run.folder / "report.json").read_text())
    (difference,) = facts["differences"]
    assert (difference["source"], difference["count"]) == ("files.uploads", len(difference["names"]))
    assert "entry top.txt" in difference["names"]
    assert facts["set_aside"] == []
    assert facts["back_seconds"] is None
    assert "## Differences found" in (run.folder / "report.md").read_text()


def test_report_lists_rejected_data_of_each_source_as_set_aside(system):
    run = system.restore()
    run_until(system, run, "check")
    answers.show(run, "accept", gate_text(run, "accept"))
    answers.reject(run, "accept", "alice")
    assert "alice rejected the gate 'accept'; the previous data is back." in teardown(run)
    facts = json.loads((run.folder / "report.json").read_text())
    assert {(each["source"], each["what"]) for each in facts["set_aside"]} == {
        (source, "the rejected data, with what was written to it") for source in ("config.settings", "files.uploads")
    }
    kept_until = datetime.fromisoformat(facts["ended"]) + run.plan.keep_replaced
    assert {datetime.fromisoformat(each["until"]).date() for each in facts["set_aside"]} == {kept_until.date()}
    assert facts["downtime_seconds"] > 0
    assert facts["back_seconds"] is None


def test_report_states_whether_rpo_and_rto_were_met(system):
    run = system.restore()
    run_until(system, run)
    facts = write.describe(run, "")
    late = facts | {"data_loss_seconds": timedelta(hours=25).total_seconds(), "back_seconds": timedelta(hours=3).total_seconds()}
    assert write.render(facts).count("within") == 2
    assert write.render(late).count("BEYOND") == 2
    ahead = write.render(facts | {"data_loss_seconds": -3600.0})
    assert "Data loss unknown, since the set is dated 1 h in the future" in ahead
    teardown(run)


def test_report_separates_waiting_time_at_gates_from_working_time(system):
    run = system.restore()
    run_until(system, run, "preflight")
    approve_gate(run, "plan")
    facts = write.describe(run, "")
    (asked,) = run.journal.entries("asked")
    (approved,) = run.journal.entries("approved")
    assert facts["waiting_seconds"] == pytest.approx((approved.time - asked.time).total_seconds())
    assert facts["working_seconds"] == pytest.approx(facts["restore_seconds"] - facts["waiting_seconds"])
    teardown(run)


def test_report_of_restore_to_target_without_gates_is_success(tmp_path):
    system = SampleSystem(tmp_path / "small", "small", gates=())
    (system.elsewhere / "storage").mkdir(parents=True)
    system.back_up()
    run = system.restore()
    run_until(system, run, request=system.ask(run, target="elsewhere", requester=""))
    assert teardown(run) == ""
    facts = json.loads((run.folder / "report.json").read_text())
    assert [facts[name] for name in ("result", "target", "gates", "answers", "set_aside")] == ["success", "elsewhere", [], [], []]
    text = (run.folder / "report.md").read_text()
    assert "into the target elsewhere" in text
    assert "Nobody was asked: this target has no gates." in text


def test_report_of_failed_check_at_target_without_gates_claims_no_acceptance(tmp_path):
    system = SampleSystem(tmp_path / "small", "small", gates=())
    (system.elsewhere / "storage").mkdir(parents=True)
    system.back_up()
    run = system.restore()
    run_until(system, run, "start services", system.ask(run, target="elsewhere", requester=""))
    run.journal.record(Step.CHECKING)
    rollback.finalize(run)
    assert "The restored system is in use, but its checks did not all succeed." in teardown(run)


def test_report_states_missing_acceptance_for_target_with_accept_gate(tmp_path):
    system = SampleSystem(tmp_path / "small", "small", gates=("accept",))
    (system.elsewhere / "storage").mkdir(parents=True)
    system.back_up()
    run = system.restore()
    run_until(system, run, "check", system.ask(run, target="elsewhere"))
    assert "in use, but nobody accepted it" in teardown(run)


def in_place(system, run):
    return system.ask(run, sources=("files.uploads",), method="in place")


def test_report_of_in_place_restore_names_held_safety_set(system):
    (system.home / ".env").write_text("the safety set wants all sources\n")
    run = system.restore()
    run_until(system, run, request=in_place(system, run))
    assert teardown(run) == ""
    safety = run.safety.manifest().set_id
    facts = json.loads((run.folder / "report.json").read_text())
    assert [facts[name] for name in ("method", "safety_set", "set_aside")] == ["in place", safety, []]
    assert "safety backup" in {each["step"] for each in facts["steps"]}
    assert f"**safety set {safety}**, held until maintenance releases it" in (run.folder / "report.md").read_text()


def test_report_of_rejected_in_place_restore_names_loaded_safety_set(system):
    (system.home / ".env").write_text("the safety set wants all sources\n")
    before = system.fingerprint()
    run = system.restore()
    run_until(system, run, "check", in_place(system, run))
    answers.show(run, "accept", gate_text(run, "accept"))
    answers.reject(run, "accept", "bob")
    words = f"bob rejected the gate 'accept'; the previous data was loaded again from the safety set {run.safety.manifest().set_id}"
    assert words in teardown(run)
    assert system.fingerprint() == before


def test_report_of_dry_run_is_not_stored_with_set(system):
    before = [sorted(path.rglob("*")) for path in system.set_folders(system.set_id)]
    run = system.restore()
    run_until(system, run, "preflight", system.ask(run, dry_run=True))
    assert teardown(run) == ""
    facts = json.loads((run.folder / "report.json").read_text())
    assert (facts["kind"], facts["result"]) == ("dry run", "dry run")
    text = (run.folder / "report.md").read_text()
    assert text.startswith(f"# Dry run {run.id} of small")
    assert "**DRY RUN: nothing was changed**" in text
    assert run.findings().text in text
    assert "To be filled in" not in text
    assert run.journal.closed
    assert [sorted(path.rglob("*")) for path in system.set_folders(system.set_id)] == before


def test_report_of_dry_run_without_finished_preflight_is_failure(system):
    run = system.restore()
    run_until(system, run, "choose", system.ask(run, dry_run=True))
    assert "The dry run found that the restore would fail" in teardown(run)
    assert json.loads((run.folder / "report.json").read_text())["result"].startswith("The dry run found")


def test_finish_fails_and_closes_journal_when_no_set_was_chosen(system):
    run = system.restore()
    with pytest.raises(RestoreError, match="No set was chosen"):
        write.finish(run)
    assert run.journal.closed
