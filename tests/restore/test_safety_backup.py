"""Restores in place: a safety backup, then dropped and loaded; and rolled back from the safety backup."""

import pytest

from recovery.common.errors import ApprovalError, RecoveryError, RestoreError, ToolError, VerificationError
from recovery.maintenance import replaced_copies
from recovery.packs.content_diff import Difference
from recovery.restore import answers, choose_set, safety_backup
from recovery.restore import steps as restore_steps
from recovery.restore.source_view import SourceRestore
from recovery.sets.records import read_records
from recovery.sources.model import LeftOut
from recovery.sources.postgres.databases import in_place, rehearsal
from sandbox.servers import Postgres
from tests.support.file_zoo import snapshot
from tests.support.kills import Killed, die
from tests.support.restore_driver import journal_steps, run_until, show_gate, steps, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow


def ask(whole, run, **asked):
    return whole.ask(run, method="in place", config="all", **asked)


def holds(whole, run, manifest):
    return [read_records(each, manifest.path, run.context.verify_key(), manifest).holds for each in run.context.destinations()]


def test_in_place_restore_replaces_live_data_and_keeps_safety_set(whole):
    run = whole.restore()
    run_until(whole, run, request=ask(whole, run))
    assert teardown(run) == "", journal_steps(run)
    assert whole.fingerprint() == whole.set_state
    assert whole.leftovers() == []
    made = run.safety.manifest()
    assert made.complete
    assert made.hold
    assert made.level == "decoded"
    assert run.id in made.note
    later = whole.restore("later")
    choose_set.choose(later, whole.ask(later))
    assert later.manifest().set_id == whole.set_id  # not the safety set, which is newer
    assert all(holds(whole, run, made))
    replaced_copies.drop(run)
    assert not any(holds(whole, run, made))


def test_in_place_restore_rejected_at_accept_gate_is_rolled_back(whole):
    run = whole.restore()
    run_until(whole, run, "gate accept", ask(whole, run))
    answers.reject(run, "accept", "alice")
    assert "alice rejected" in teardown(run)
    assert whole.fingerprint() == whole.before, journal_steps(run)
    assert all(whole.services.values())


def not_equal(monkeypatch, run, source_id):
    """Let the verification of what was loaded in place of a source find a difference; the rollback's finds none that is not there."""
    kind = type(run.source(source_id))
    verify = kind.verify_staged

    def found(source, what):
        return [Difference("thing", "this one", "on purpose")] if not what.rolling_back else verify(source, what)

    monkeypatch.setattr(kind, "verify_staged", found)


@pytest.mark.parametrize("broken", ["postgres.main", "mongo.documents", "files.uploads", "config.settings"])
def test_rollback_loads_safety_set_after_failed_cutover_in_place(whole, broken, monkeypatch):
    run = whole.restore()
    run_until(whole, run, "safety", ask(whole, run))
    not_equal(monkeypatch, run, broken)
    with pytest.raises(VerificationError, match="on purpose"):
        for name, step in steps(whole, run, run.request()):
            if name.startswith("cutover "):
                step()
    assert whole.fingerprint() != whole.before
    assert f"loaded again from the safety set {run.safety.manifest().set_id}, and verified" in teardown(run)
    assert whole.fingerprint() == whole.before, journal_steps(run)
    assert all(whole.services.values())


def test_in_place_restore_with_failed_start_of_services_can_be_rejected_at_accept_gate(whole):
    run = whole.restore()
    whole.fail("start", "web")
    with pytest.raises(ToolError):
        run_until(whole, run, "start services", ask(whole, run))
    show_gate(run, "accept")
    answers.reject(run, "accept", "alice")
    whole.mend("start", "web")
    assert "alice rejected" in teardown(run)
    assert whole.fingerprint() == whole.before, journal_steps(run)
    assert all(whole.services.values())


def test_in_place_restore_sets_aside_what_it_can_and_gates_say_what_was_rehearsed(whole):
    run = whole.restore()
    run_until(whole, run, "cutover postgres.main", ask(whole, run))
    assert "is set aside by a rename, and dropped once the restored one is accepted" in run.gate_file("plan", ".md").read_text()
    assert "Database whole was loaded with all rows beside the live one" in run.gate_file("cutover", ".md").read_text()
    assert f"whole__before_{run.id}" in whole.leftovers()
    assert teardown(run)
    assert whole.fingerprint() == whole.before


def test_in_place_restore_leaves_nothing_out_that_the_rehearsal_could_make(whole, monkeypatch):
    run = whole.restore()
    run_until(whole, run, "safety", ask(whole, run))
    lacking = [LeftOut("whole: index public i", "index i can't be made")]
    monkeypatch.setattr(type(run.source("postgres.main")), "left_out", lambda *_: lacking)
    with pytest.raises(RestoreError, match="something can't be made that could be made in the rehearsal: index i"):
        restore_steps.cut_over(run, "postgres.main")
    assert teardown(run)
    assert whole.fingerprint() == whole.before


def test_in_place_restore_without_room_shows_at_last_gate_what_can_not_be_made(whole, monkeypatch):
    for module in (in_place, rehearsal):
        monkeypatch.setattr(module, "has_room", lambda *_: False)
    run = whole.restore()
    run_until(whole, run, "safety", ask(whole, run))
    assert "without rows, since there is no known room" in run.gate_file("cutover", ".md").read_text()
    lacking = [LeftOut("whole: index public i", "index i can't be made")]
    monkeypatch.setattr(type(run.source("postgres.main")), "left_out", lambda *_: lacking)
    for name, step in steps(whole, run, run.request()):
        if name.startswith("cutover ") or name in {"start services", "check", "gate accept", "finalize"}:
            step()
    assert "index i can't be made" in run.gate_file("accept", ".md").read_text()
    assert teardown(run) == ""


BROKEN = """CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';
    CREATE TABLE doubled (i int, j int GENERATED ALWAYS AS (twice(i)) STORED); INSERT INTO doubled VALUES (3);
    CREATE OR REPLACE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 0'"""
"""A table whose rows no server takes any more."""


def test_rollback_in_place_that_does_not_end_keeps_services_down_until_runbook_is_followed(whole, monkeypatch):
    """The runbook's chapter on it, step by step."""
    for module in (in_place, rehearsal):
        monkeypatch.setattr(module, "has_room", lambda *_: False)
    whole.sql(BROKEN)
    before = whole.fingerprint()
    run = whole.restore()
    run_until(whole, run, "gate accept", ask(whole, run))
    answers.reject(run, "accept", "alice")
    words = teardown(run)
    assert "THE ROLLBACK IS NOT COMPLETE" in words
    assert "The services stay stopped" in words
    assert "the rows of table public doubled can't be loaded: division by zero" in words
    assert not any(whole.services.values())
    assert not run.journal.closed
    whole.sql("CREATE OR REPLACE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1'")
    whole.sql("INSERT INTO doubled VALUES (3)")
    whole.sql("CREATE OR REPLACE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 0'")
    assert "alice rejected" in teardown(run)
    assert whole.fingerprint() == before, journal_steps(run)
    assert all(whole.services.values())
    assert run.journal.closed


def collection(whole, name):
    return whole.mongo.client()[whole.name][name]


WRITES = {
    "postgres.main": (lambda whole: whole.sql("INSERT INTO requests (what) VALUES ('late')"), "requests"),
    "mongo.documents": (lambda whole: collection(whole, "states").insert_one({"_id": 4711}), "states"),
    "files.uploads": (lambda whole: (whole.storage / "late.txt").write_text("late"), "late.txt"),
    "config.settings": (lambda whole: (whole.home / "custom/lib/flow.py").write_text("late"), "flow.py"),
    "config.settings too": (lambda whole: (whole.home / ".env").write_text("late"), ".env"),
}


@pytest.mark.parametrize("written", WRITES)
def test_cutover_in_place_refuses_live_data_written_after_safety_backup(whole, written):
    write, named = WRITES[written]
    source_id = written.split()[0]
    run = whole.restore()
    run_until(whole, run, "safety", ask(whole, run, sources=(source_id,)))
    write(whole)
    as_written = whole.fingerprint()
    with pytest.raises(RestoreError, match=rf"{source_id} is not, or not any more, as the safety set has it: .*{named}"):
        restore_steps.cut_over(run, source_id)
    assert "The cutover failed; nothing live was replaced" in teardown(run)
    assert whole.fingerprint() == as_written
    assert all(whole.services.values())


@pytest.fixture
def trees(tmp_path):
    """The same without databases."""
    return SampleSystem(tmp_path / "trees", "trees")


def ready(system, run, source_id, **asked):
    """Take the steps up to the safety backup of one source."""
    run_until(system, run, "safety", system.ask(run, method="in place", sources=(source_id,), **asked))


def dies_before_it_drops(monkeypatch, run, source_id):
    """What is replaced is decided by then; no step of the journal lies between that and the comparison with the safety set."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SourceRestore, "refuse_if_changed", die)
        restore_steps.cut_over(run, source_id)


def refused(system, run, source_id, named):
    as_written = system.fingerprint()
    with pytest.raises(RestoreError, match=rf"{source_id} is not, or not any more, as the safety set has it: .*{named}"):
        restore_steps.cut_over(run, source_id)
    assert "nothing live was replaced" in teardown(run)
    assert system.fingerprint() == as_written


@pytest.mark.parametrize(
    ("only", "late", "killed"),
    [("year1", "year1/late.txt", False), ("top*", "top.txt", False), ("year1/upload 1.bin", "year1/late.txt", True)],
)
def test_cutover_in_place_refuses_files_created_where_part_was_missing(trees, monkeypatch, only, late, killed):
    trees.backed_up_and_damaged()
    (trees.storage / "top.txt").unlink()
    run = trees.restore()
    ready(trees, run, "files.uploads", only={"files.uploads": (only,)})
    if killed:
        dies_before_it_drops(monkeypatch, run, "files.uploads")
    (trees.storage / late).parent.mkdir(exist_ok=True)
    (trees.storage / late).write_text("late")
    refused(trees, run, "files.uploads", late)


@pytest.mark.parametrize(("config", "killed", "before"), [("all", False, None), ("missing", True, None), ("missing", True, "late")])
def test_cutover_in_place_refuses_settings_created_where_some_were_missing(trees, monkeypatch, config, killed, before):
    """Without ``config: all``, nor if the safety set has the same: they were missing when it was decided what is replaced."""
    trees.backed_up_and_damaged()
    flow = trees.home / "custom/lib/flow.py"
    flow.unlink()
    if before:
        flow.write_text(before)
    run = trees.restore()
    ready(trees, run, "config.settings", config=config)
    flow.unlink(missing_ok=True)
    if killed:
        dies_before_it_drops(monkeypatch, run, "config.settings")
    flow.write_text("late")
    refused(trees, run, "config.settings", "flow.py")


def test_cutover_in_place_of_missing_settings_keeps_settings_created_before_cutover(trees):
    trees.backed_up_and_damaged()
    flow = trees.home / "custom/lib/flow.py"
    flow.unlink()
    run = trees.restore()
    ready(trees, run, "config.settings", config="missing")
    flow.write_text("late")
    restore_steps.cut_over(run, "config.settings")
    assert flow.read_text() == "late"
    assert "as-in-the-set" in (trees.home / ".env").read_text()
    assert teardown(run)
    assert flow.read_text() == "late"
    assert not (trees.home / ".env").exists()


@pytest.mark.parametrize("accepted", [True, False])
def test_settings_excluded_from_enclosing_folder_are_restored_and_rolled_back_in_place(trees, accepted):
    """Replacing them gives the folder another time, which is no loss."""
    path = trees.plans / "trees.yaml"
    path.write_text(path.read_text().replace(f'{trees.storage}", exclude: ["*.tmp"]', f'{trees.home}", exclude: [.env, custom]'))
    trees.backed_up_and_damaged()
    (trees.home / ".env").write_text("changed")
    before = snapshot(trees.home, times=False)
    run = trees.restore()
    run_until(trees, run, "finalize" if accepted else "gate accept", ask(trees, run))
    assert trees.fingerprint() == trees.set_state
    if not accepted:
        answers.reject(run, "accept", "alice")
    assert (teardown(run) == "") == accepted, journal_steps(run)
    assert trees.fingerprint() == trees.set_state if accepted else snapshot(trees.home, times=False) == before
    assert trees.leftovers() == []


def test_cutover_in_place_accepts_documents_expired_after_safety_backup(whole):
    for name in ("odd[2024]", "odd"):
        collection(whole, name).insert_one({"_id": 1})
    collection(whole, "odd[2024]").create_index("at", expireAfterSeconds=1_000_000_000)
    before = whole.fingerprint()
    run = whole.restore()
    run_until(whole, run, "safety", ask(whole, run, sources=("mongo.documents",)))
    collection(whole, "sessions").delete_one({"_id": 3})
    restore_steps.cut_over(run, "mongo.documents")
    assert teardown(run)
    assert whole.fingerprint() == before, journal_steps(run)


def test_cutover_in_place_refuses_database_missing_from_safety_set(whole):
    """The plan names no databases; somebody keeps writers out of one while the second gate waits."""
    path = whole.plans / "whole.yaml"
    path.write_text(path.read_text().replace("whole_postgres, databases: [whole]", "whole_postgres"))
    run = whole.restore()
    run_until(whole, run, "gate cutover", ask(whole, run, sources=("postgres.main",)))
    with whole.postgres.connect() as connection:
        connection.execute("ALTER DATABASE whole ALLOW_CONNECTIONS false")
    for name, step in steps(whole, run, run.request()):
        if name in {"stop services", "safety"}:
            step()
    with pytest.raises(RestoreError, match=r"as the safety set has it: .*whole"):
        restore_steps.cut_over(run, "postgres.main")
    assert "nothing live was replaced" in teardown(run)
    with whole.postgres.connect() as connection:
        connection.execute("ALTER DATABASE whole ALLOW_CONNECTIONS true")
    assert whole.fingerprint() == whole.before


def test_safety_backup_refuses_server_other_than_approved(whole, server_folder):
    run = whole.restore()
    run_until(whole, run, "stop services", ask(whole, run, sources=("postgres.main",)))
    with Postgres(server_folder / "another", 18) as other:
        own, whole.postgres = whole.postgres, other
        with pytest.raises(ApprovalError, match="not the one that was approved"):
            safety_backup.back_up_live(run)
        whole.postgres = own
    assert not run.journal.entries("safe")
    assert teardown(run)
    assert whole.fingerprint() == whole.before


def test_cutover_in_place_without_safety_set_is_refused(whole):
    for target in ("near", "far"):
        (whole.folder / target).rename(whole.folder / f"gone {target}")
    run = whole.restore()
    for name, step in steps(whole, run, ask(whole, run)):
        if name == "choose":
            for target in ("near", "far"):
                (whole.folder / f"gone {target}").rename(whole.folder / target)
        if name == "safety":
            for target in ("near", "far"):
                (whole.folder / target).rename(whole.folder / f"gone {target}")
            with pytest.raises(RestoreError, match="No destination takes the safety set"):
                step()
            break
        step()
    with pytest.raises(RestoreError, match="no safety set"):
        restore_steps.cut_over(run, "files.uploads")
    for target in ("near", "far"):
        (whole.folder / f"gone {target}").rename(whole.folder / target)
    assert teardown(run)
    assert whole.fingerprint() == whole.before
    assert all(whole.services.values())


def test_safety_backup_succeeds_with_single_reachable_destination(whole):
    run = whole.restore()
    run_until(whole, run, "stop services", ask(whole, run))
    (whole.folder / "near").rename(whole.folder / "gone")
    safety_backup.back_up_live(run)
    assert run.journal.entries("safe")[-1].facts["destinations"] == ["far"]
    (whole.folder / "gone").rename(whole.folder / "near")
    teardown(run)
    made = run.safety.manifest()
    assert holds(whole, run, made)[1]
    replaced_copies.drop(run)
    assert not holds(whole, run, made)[1]
    assert whole.fingerprint() == whole.before


def test_rollback_in_place_keeps_writes_made_before_services_stopped(whole):
    run = whole.restore()
    run_until(whole, run, "gate cutover", ask(whole, run))
    (whole.storage / "while the gate waited").write_text("work\n")
    for name, step in steps(whole, run, run.request()):
        if name in {"stop services", "safety", "start services", "check", "gate accept"} or name.startswith("cutover"):
            step()
    answers.reject(run, "accept", "alice")
    teardown(run)
    assert (whole.storage / "while the gate waited").read_text() == "work\n"


def test_verify_in_place_of_corrupt_pack_fails_and_leaves_live_data_unchanged(whole):
    run = whole.restore()
    run_until(whole, run, "gate plan", ask(whole, run))
    for folder in whole.set_folders(whole.set_id):
        pack = next((folder / "files" / "uploads").glob("*.age"))
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(bytes(data))
    restore_steps.stage(run, "files.uploads")
    with pytest.raises(RecoveryError, match="could not be fetched"):
        restore_steps.verify(run, "files.uploads")
    assert teardown(run)
    assert whole.fingerprint() == whole.before


def test_in_place_restore_of_part_leaves_rest_unchanged(whole):
    run = whole.restore()
    run_until(whole, run, request=ask(whole, run, sources=("files.uploads",), only={"files.uploads": ("year1",)}))
    assert teardown(run) == "", journal_steps(run)
    found = whole.fingerprint()
    assert found["files.uploads"] == whole.before["files.uploads"] | {"year1": whole.set_state["files.uploads"]["year1"]}
    assert {name: value for name, value in found.items() if name != "files.uploads"} == {
        name: value for name, value in whole.before.items() if name != "files.uploads"
    }
