"""Drills on real servers, called as Airflow's tasks call them."""

import json
import os
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pymongo
import pytest

from recovery.common.errors import PlanError, RecoveryError, RestoreError, StagingError
from recovery.drill import steps as drill_steps
from recovery.drill.steps import DrillRequest
from recovery.maintenance import replaced_copies
from recovery.plan.model import Retention
from recovery.restore import preflight, rollback
from recovery.restore import steps as restore_steps
from recovery.restore.report import write
from recovery.restore.session import RestoreSession
from recovery.runners import processes as runners_processes
from recovery.runs.stalled import refuse_during_restore
from recovery.sets.layout import MANIFEST_FILE, PACKS_FILE, SIGNATURE_FILE
from recovery.sets.manifest import parse_manifest, write_manifest
from recovery.sets.prune import prune
from recovery.sets.records import read_records
from recovery.sources.mongo.client import address
from recovery.targets import scratch
from sandbox.servers import wait_for
from tests.support.processes import command_lines_with, in_a_process, servers_in, without_namespaces
from tests.support.restore_driver import assert_unchanged, journal_steps, maintain_daily
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_servers_stay(tmp_path):
    """Whatever becomes of a test."""
    yield
    for path in tmp_path.glob("*/staging/*/restores/*/scratch.json"):
        scratch.remove(path.parent)


@pytest.fixture
def system(tmp_path):
    """Files and settings, backed up once."""
    made = SampleSystem(tmp_path / "small", "small")
    made.set_id = made.back_up()
    made.before = made.fingerprint()
    return made


@pytest.fixture
def whole(tmp_path, postgres_server, mongo_server):
    """With databases, and a target beside the scratch servers."""
    made = SampleSystem(tmp_path / "drilled", "drilled", postgres=postgres_server, mongo=mongo_server, gates=())
    made.set_id = made.back_up()
    made.before = made.fingerprint()
    yield made
    made.drop()


def a_drill(system, number=1):
    return RestoreSession(system.context(), f"drill {number}")


def steps(run, drill_request=None):
    """Every task of a drill in order, as ``(name, function)``, but for its end."""
    yield "choose", lambda: drill_steps.choose_drill(run, drill_request or DrillRequest())
    yield "scratch", lambda: drill_steps.start_scratch(run)
    yield "preflight", lambda: preflight.preflight(run)
    for source_id in run.request().sources:
        yield f"stage {source_id}", lambda source_id=source_id: restore_steps.stage(run, source_id)
        yield f"verify {source_id}", lambda source_id=source_id: restore_steps.verify(run, source_id)
    yield "stop services", lambda: restore_steps.stop_services(run)
    for source_id in run.request().sources:
        yield f"cutover {source_id}", lambda source_id=source_id: restore_steps.cut_over(run, source_id)
    yield "start services", lambda: restore_steps.start_services(run)
    yield "check", lambda: restore_steps.check_system(run)


def run_until(run, until="check", drill_request=None):
    for name, step in steps(run, drill_request):
        step()
        if name == until:
            return
    raise AssertionError(f"there is no step {until}")


def teardown(run):
    """The teardowns, as Airflow runs them whatever happened; why the drill failed, empty if it did not."""
    faults = []
    for step in (rollback.roll_back, rollback.discard, drill_steps.finish):
        try:
            step(run)
        except RecoveryError as error:
            faults.append(f"{step.__name__}: {error}")
    return "\n".join(faults)


def drilled(system, number=1, drill_request=None):
    """A whole drill; where its set came from, or why it failed."""
    run = a_drill(system, number)
    run_until(run, drill_request=drill_request)
    return teardown(run) or run.request().destination


def root_of(run):
    """The scratch folder of a drill that is under way."""
    return scratch.Scratch.model_validate_json((run.folder / "scratch.json").read_bytes()).root


def nothing_left(system, run, root=None):
    """Nothing live has changed, nothing of the drill runs, lies around or is held."""
    assert_unchanged(system, run)
    assert run.journal.closed, journal_steps(run)
    for name in ("work", "fetch", "scratch.json"):
        assert not (run.folder / name).exists() or not list((run.folder / name).iterdir()), name
    if root:
        assert command_lines_with(root) == []
        assert not root.exists()
    for destination in run.context.destinations():
        assert not [hold.why for hold in records_at(run, destination.name).holds if run.id in hold.why]


def records_at(run, name):
    return read_records(run.context.destination(name), run.manifest().path, run.context.verify_key(), run.manifest())


def verification_records_at(run, name):
    return records_at(run, name).of("proof")


def verification_records(run):
    return {name: verification_records_at(run, name) for name in run.plan.destinations}


# Into scratch servers -------------------------------------------------------------------------------------------------


def test_drill_verifies_whole_system_on_scratch_servers_and_stores_verification_record(whole):
    whole.edit_plan(
        "checks:\n",
        "checks:\n  - {sql: {source: postgres.main, database: drilled, query: SELECT count(*) FROM requests, equals: 500}}\n",
    )
    run = a_drill(whole)
    run_until(run, "scratch")
    root = root_of(run)
    assert servers_in(root) == {"postgres", "mongod"}
    for _, step in list(steps(run))[2:]:
        step()
    assert (root / "files.uploads" / "files" / "top.txt").read_text() == "as in the set\n"
    refuse_during_restore(run.plan)  # a backup does not wait for it
    assert teardown(run) == ""
    nothing_left(whole, run, root)
    assert whole.service_calls == [], "the live system's services are none of a drill's business"

    (verification,) = verification_records(run)["near"]
    assert verification_records(run)["far"] == ()
    facts = verification.facts
    assert (facts["drill"], facts["destination"], facts["level"], facts["target"]) == (run.id, "near", "restored", "scratch")
    assert facts["sources"] == list(run.plan.source_ids)
    assert (facts["checks"], facts["unasked"]) == (1, ["service"])
    assert verification.text.endswith("; checks asked: 1, not asked here: service; nothing had to be left out")
    timed = {f"{step} {source_id}" for step in ("stage", "verify", "cut over") for source_id in run.plan.source_ids}
    assert facts["seconds"].keys() == timed | {"start scratch servers", "preflight", "stop services", "start services", "check system"}
    assert sum(facts["seconds"].values()) <= facts["total_seconds"] + 0.1
    assert facts["rto_seconds"] == 7200
    text = (run.folder / "report.md").read_text()
    assert "- Restored in scratch after" in text, "the time is not that of the real servers"
    assert text.startswith(f"# Drill {run.id} of drilled\n\n**SUCCESS**")
    assert ("⚠ The scratch servers" in text) == bool(os.geteuid()), "root keeps them apart from the worker completely"
    assert re.search(r"\| stage +\| postgres\.main +\|", text)
    assert "- ✔ a query in drilled of postgres.main\n- Not asked here: service\n" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to be kept from giving a network away")
def test_drill_lists_what_a_restore_would_leave_out(tmp_path, postgres_server):
    system = SampleSystem(tmp_path / "lacking", "lacking", postgres=postgres_server)
    system.sql("CREATE TABLE p (i int PRIMARY KEY); CREATE TABLE c (i int CONSTRAINT known REFERENCES p)")
    system.sql("SET session_replication_role = replica; INSERT INTO c VALUES (7)")
    try:
        system.back_up()
        run = a_drill(system)
        run_until(run)
        assert teardown(run) == ""
        assert "lacking: fk constraint public c known" in (run.folder / "report.md").read_text()
        (record,) = verification_records(run)["near"]
        assert record.facts["left_out"] == ["postgres.main: lacking: fk constraint public c known is restored as not valid"]
        assert "a restore would leave out: postgres.main: lacking: fk constraint public c known" in record.text
    finally:
        system.drop()


def test_report_says_that_scratch_servers_shared_the_network_of_the_worker(whole):
    run = a_drill(whole)

    def start():
        without_namespaces()
        run_until(run, "scratch", DrillRequest(sources=("mongo.documents",)))

    assert in_a_process(start) == 0
    for _, step in list(steps(run))[2:]:
        step()
    assert teardown(run) == ""
    lacks = json.loads((run.folder / "report.json").read_text())["not_isolated"]
    assert len(lacks) == 1
    assert lacks[0].startswith("The scratch servers share the worker's network.")
    assert "- ⚠ The scratch servers share the worker's network. Code of the set that opens" in (run.folder / "report.md").read_text()


def test_choose_drill_removes_remains_of_killed_drill(whole):
    killed = a_drill(whole, 1)
    pid = os.fork()
    if pid == 0:
        run_until(killed, "stage mongo.documents")
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    root = root_of(killed)
    assert servers_in(root) == {"postgres", "mongod"}
    assert records_at(killed, "near").holds

    again = a_drill(whole, 2)
    run_until(again, "choose")
    nothing_left(whole, killed, root)
    assert "It was not verified that the set can be restored" in killed.journal.entries("closed")[-1].facts["reason"]
    assert teardown(again) != ""
    nothing_left(whole, again)


def test_teardown_removes_scratch_servers_killed_during_cutover(whole):
    run = a_drill(whole)
    run_until(run, "cutover postgres.main")
    root = root_of(run)
    runners_processes.end_all(root, {"postgres": signal.SIGQUIT, "mongod": signal.SIGKILL})
    reason = teardown(run)
    assert "roll_back" in reason
    assert "the cutover did not succeed" in reason
    nothing_left(whole, run, root)


def test_drill_restores_users_and_roles_to_scratch_servers(whole):
    with whole.mongo.client() as client:
        client.drilled.command("createRole", "clerk", privileges=[], roles=["read"])
        client.drilled.command("createUser", "carol", pwd="secret", roles=["clerk"])
        try:
            whole.back_up("with users")
        finally:
            client.drilled.command("dropUser", "carol")
            client.drilled.command("dropRole", "clerk")
    run = a_drill(whole)
    run_until(run, "cutover mongo.documents", DrillRequest(by_hand=True, sources=("mongo.documents",)))
    found = run.target.context.endpoint("scratch mongo.documents")
    with pymongo.MongoClient(address(found), username="carol", password="secret", authSource="drilled") as client:
        assert client.drilled.states.count_documents({}) == 300
    assert "Users and roles are not restored" not in run.findings().text
    teardown(run)
    nothing_left(whole, run)


def test_teardown_waits_for_running_scratch_start_and_removes_scratch_folder(system):
    run, begun, go = a_drill(system), system.folder / "begun", system.folder / "go"
    run_until(run, "choose")
    pid = os.fork()
    if pid == 0:
        root = scratch._root

        def slow(*arguments):
            begun.touch()
            wait_for("the end of the drill", go.exists)
            return root(*arguments)

        scratch._root = slow
        drill_steps.start_scratch(run)
        os._exit(0)
    wait_for("the start", begun.exists)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(teardown, run)
        wait_for("the end", lambda: run.journal.entries("discarding"))
        go.touch()
        ended.result()
    assert os.waitpid(pid, 0)[1] == 0
    nothing_left(system, run)
    assert not list(run.folder.glob("recovery-drill-*"))


def test_drill_fails_until_remains_on_other_worker_are_removed(system):
    run = a_drill(system)
    run_until(run, "cutover files.uploads")
    root = root_of(run)

    def on(host):
        path = run.folder / "scratch.json"
        path.write_text(scratch.Scratch.model_validate_json(path.read_bytes()).model_copy(update={"host": host}).model_dump_json())

    here = scratch.socket.gethostname()
    on("worker-7")
    assert "are on the worker worker-7" in teardown(a_drill(system)), "each task looks anew where it is"
    assert run.journal.closed
    assert not records_at(run, "near").holds, "the set is not needed any more"
    again = a_drill(system, 2)
    run_until(again)
    assert f"left of earlier drills, with data of the set: Drill {run.id}: " in teardown(again)
    assert "worker-7" in (again.folder / "report.md").read_text()
    assert len(verification_records(again)["far"]) == 1, "it has verified the set all the same"
    drilled(system, 3)
    with pytest.raises(RestoreError, match="worker-7"):
        drill_steps.choose_drill(a_drill(system, 4), DrillRequest())
    with pytest.raises(RestoreError, match="worker-7"):
        replaced_copies.drop(run)
    assert root_of(run) == root
    on(here)
    assert drill_steps.choose_drill(a_drill(system, 5), DrillRequest()) is False
    nothing_left(system, run, root)


# Into a target --------------------------------------------------------------------------------------------------------


def test_drill_to_target_leaves_target_empty(whole):
    whole.edit_plan("targets:\n", "drill: {target: elsewhere}\ntargets:\n")
    whole.elsewhere.mkdir()
    run = a_drill(whole)
    run_until(run, "cutover files.uploads")
    there = whole.elsewhere_fingerprint()
    assert [name for name, found in there.items() if found != whole.before[name]] == ["mongo.documents"], "its TTL waits for acceptance"
    restore_steps.start_services(run)
    restore_steps.check_system(run)
    assert teardown(run) == ""
    nothing_left(whole, run)
    assert not (run.folder / "scratch.json").exists()
    assert len(verification_records(run)["near"]) == 1
    assert verification_records(run)["near"][0].facts["target"] == "elsewhere"
    with whole.mongo.client() as client:
        assert client.drilled_elsewhere.list_collection_names(filter={"name": {"$not": {"$regex": r"^system\."}}}) == []
    assert not [path for path in whole.elsewhere.rglob("*") if not path.is_dir()]
    again = a_drill(whole, 2)
    run_until(again, "preflight")
    assert teardown(again).startswith("finish: It was not verified"), "the target is empty again, so preflight has nothing against it"


def test_drill_time_includes_services_and_checks_of_target(tmp_path):
    system = SampleSystem(tmp_path / "small", "small", gates=())
    system.set_id, system.before = system.back_up(), system.fingerprint()
    system.elsewhere.mkdir()
    tell = f"{system.folder}/service"
    system.edit_plan(
        "targets:\n  elsewhere:\n",
        f"""drill: {{target: elsewhere}}
targets:
  elsewhere:
    services: {{stop: [[sleep, "0.2"], [{tell}, stop, staging]], start: [[sleep, "0.2"], [{tell}, start, staging]]}}
    checks: [{{name: staging answers, argv: [sh, -c, "sleep 0.2; {tell} check staging"]}}]
""",
    )
    assert drilled(system) == "near"
    verbs = ["stop", "start", "check", "stop", "start"]
    assert system.service_calls == [f"{verb} staging" for verb in verbs], "and the live ones are left alone"
    (verification,) = verification_records(a_drill(system))["near"]
    assert all(verification.facts["seconds"][step] >= 0.2 for step in ("stop services", "start services", "check system"))
    assert verification.facts["total_seconds"] >= 0.6
    assert (verification.facts["checks"], verification.facts["unasked"]) == (1, ["service"])
    nothing_left(system, a_drill(system))


def test_drill_with_failed_check_fails_and_cleans_up(tmp_path):
    system = SampleSystem(tmp_path / "small", "small", gates=())
    system.set_id, system.before = system.back_up(), system.fingerprint()
    system.elsewhere.mkdir()
    system.edit_plan(
        "targets:\n  elsewhere:\n",
        "drill: {target: elsewhere}\ntargets:\n  elsewhere:\n    checks: [{argv: [sh, -c, exit 3], retries: 0}]\n",
    )
    run = a_drill(system)
    with pytest.raises(RestoreError, match="1 of 1 checks"):
        run_until(run)
    reason = teardown(run)
    assert "verified against the set and cut over, but not every check succeeded: sh." in reason
    nothing_left(system, run)
    assert verification_records(run) == {"near": (), "far": ()}


@pytest.mark.parametrize("again", ["check", "start"])
def test_drill_counts_only_last_run_of_checks(tmp_path, again):
    system = SampleSystem(tmp_path / "small", "small", gates=())
    system.set_id, system.before = system.back_up(), system.fingerprint()
    system.elsewhere.mkdir()
    tell = f"{system.folder}/service"
    services = f"services: {{stop: [[{tell}, stop, web]], start: [[{tell}, start, web]]}}"
    checks = f"checks: [{{name: web answers, argv: [{tell}, check, web], retries: 0}}]"
    system.edit_plan("targets:\n  elsewhere:\n", f"drill: {{target: elsewhere}}\ntargets:\n  elsewhere:\n    {services}\n    {checks}\n")
    run = a_drill(system)
    run_until(run)
    system.fail(again, "web")
    with pytest.raises(RecoveryError):
        {"check": restore_steps.check_system, "start": restore_steps.start_services}[again](run)
    system.mend(again, "web")
    reason = teardown(run)
    assert {"check": "not every check succeeded: web answers.", "start": "the cutover did not succeed"}[again] in reason
    assert verification_records(run) == {"near": (), "far": ()}
    nothing_left(system, run)


def test_check_result_is_recorded_before_next_check_runs(tmp_path, monkeypatch):
    system = SampleSystem(tmp_path / "small", "small", gates=())
    system.set_id, system.before = system.back_up(), system.fingerprint()
    system.elsewhere.mkdir()
    checks = "checks: [{name: first, argv: [sh, -c, exit 3], retries: 0}, {name: second, argv: ['true']}]"
    system.edit_plan("targets:\n  elsewhere:\n", f"drill: {{target: elsewhere}}\ntargets:\n  elsewhere:\n    {checks}\n")
    run, run_check = a_drill(system), restore_steps.run_check

    def killed_at_the_second(check, target):
        if check.name == "second":
            raise KeyboardInterrupt
        return run_check(check, target)

    monkeypatch.setattr(restore_steps, "run_check", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_until(run)
    assert "not every check succeeded: first." in teardown(run)


# Red ------------------------------------------------------------------------------------------------------------------


def test_drill_with_corrupt_pack_fails_and_cleans_up(system):
    pack = next((system.folder / "near" / "small" / system.set_id / "files").rglob("*.age"))
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    run = a_drill(system)
    with pytest.raises(RestoreError, match="could not be fetched from any destination"):
        run_until(run)
    root = root_of(run)
    assert "It was not verified that the set can be restored: files.uploads" in teardown(run)
    nothing_left(system, run, root)
    assert verification_records(run) == {"near": (), "far": ()}
    assert drilled(system, 2, DrillRequest(by_hand=True, destination="far")) == "far", (
        "a copy that is whole elsewhere verifies nothing of this one"
    )


def test_choose_drill_refuses_set_older_than_rpo_unless_set_is_named(system, monkeypatch):
    monkeypatch.setattr(drill_steps, "now", lambda: datetime.now(UTC) + timedelta(hours=25))
    run = a_drill(system)
    with pytest.raises(RestoreError, match=f"{system.set_id}, is 1 d 1 h old; the plan's RPO is 1 d"):
        drill_steps.choose_drill(run, DrillRequest())
    assert not run.began
    assert "No set was chosen" in teardown(run)
    assert "This drill has ended before: no set was chosen." in teardown(run), "clearing its tasks does not turn it green"
    run_until(a_drill(system, 2), "choose", DrillRequest(by_hand=True, set=system.set_id))


def test_drill_beyond_rto_fails_and_names_slowest_steps(system, monkeypatch):
    system.edit_plan("rto: 2h", "rto: 1s")
    verify = restore_steps.verify

    def slow(run, source_id):
        with restore_steps.timed(run, "sleep", source_id):
            time.sleep(1.05)
        verify(run, source_id)

    monkeypatch.setattr(restore_steps, "verify", slow)
    run = a_drill(system)
    run_until(run, drill_request=DrillRequest(sources=("config.settings",)))
    reason = teardown(run)
    assert "BEYOND the RTO of 1.0 s. The slowest steps: sleep " in reason
    assert verification_records(run) == {"near": (), "far": ()}
    nothing_left(system, run)


def test_drill_fails_when_scratch_folder_can_not_be_removed(system, monkeypatch):
    run = a_drill(system)
    run_until(run)

    def stuck(folder):
        raise StagingError("It is stuck.", "Pull.")

    with monkeypatch.context() as patched:
        patched.setattr(scratch, "remove", stuck)
        reason = teardown(run)
    assert "Not everything that the drill made was removed" in reason
    assert "It is stuck" in reason
    root = root_of(run)
    run_until(a_drill(system, 2), "choose")
    assert not root.exists(), "the next drill removes what an earlier one could not"


# Which set, and from where ----------------------------------------------------------------------------------------------


def test_drills_rotate_destinations_and_skip_set_verified_at_all_destinations(system):
    assert [drilled(system, 1), drilled(system, 2)] == ["near", "far"]
    idle = a_drill(system, 3)
    assert drill_steps.choose_drill(idle, DrillRequest()) is False
    assert teardown(idle) == ""
    assert not idle.began
    with pytest.raises(RestoreError, match="Trigger a new drill"):
        drill_steps.choose_drill(idle, DrillRequest())
    assert drilled(system, 4, DrillRequest(by_hand=True)) == "near", "by hand it is always due, and near was drilled longer ago"
    system.back_up("newer")
    assert drilled(system, 5) == "far", "now far was drilled longer ago, and of another set"
    assert drilled(system, 6) == "near"


def test_drill_reported_by_a_clock_far_ahead_does_not_keep_its_destination_from_its_turn(system, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(write, "now", lambda: datetime.now(UTC) + timedelta(days=60))
        assert drilled(system, 1) == "near"
    assert drilled(system, 2) == "far"
    system.back_up("newer")
    assert drilled(system, 3) == "near"


def test_manual_drill_of_single_source_does_not_count_for_rotation(system):
    assert drilled(system, 1, DrillRequest(by_hand=True, sources=("config.settings",))) == "near"
    assert [drilled(system, 2), drilled(system, 3)] == ["near", "far"]
    assert drilled(system, 4, DrillRequest(by_hand=True, destination="far", sources=("config.settings",))) == "far"
    assert drilled(system, 5, DrillRequest(by_hand=True)) == "near"


@pytest.mark.parametrize("known_by", ["staging", "records"])
def test_failed_drill_of_destination_does_not_block_other_destinations(system, known_by):
    near = system.folder / "near" / "small" / system.set_id
    damaged = next((near / "files").rglob("*.age"))
    damaged.chmod(0o600)
    damaged.write_bytes(b"")
    run = a_drill(system)
    with pytest.raises(RestoreError):
        run_until(run)
    assert teardown(run)
    shutil.rmtree(near / "records" if known_by == "staging" else run.folder)
    system.back_up("newer")
    assert [drilled(system, 2), drilled(system, 3)] == ["far", "near"]


def remove(system, set_id, target="far"):
    shutil.rmtree(system.folder / target / "small" / set_id)


def age(system, set_id, **span):
    """Let a set be of an earlier time."""
    key = a_drill(system).context.signing_key()
    for folder in system.set_folders(set_id):
        if not folder.exists():
            continue
        found = parse_manifest(
            (folder / MANIFEST_FILE).read_bytes(), (folder / SIGNATURE_FILE).read_bytes(), key.verify_key, f"small/{set_id}"
        )
        points = {name: entry.point.opened - timedelta(**span) for name, entry in found.sources.items()}
        sources = {
            name: entry.model_copy(update={"point": entry.point.model_copy(update={"opened": points[name], "closed": points[name]})})
            for name, entry in found.sources.items()
        }
        write_manifest(folder, found.model_copy(update={"sources": sources, "created": found.created - timedelta(**span)}), key)


def test_drill_fails_for_unreadable_destination_but_verifies_set_at_other_destination(system):
    far = system.folder / "far"
    far.rename(system.folder / "gone")
    run = a_drill(system, 1)
    run_until(run)
    words = "The destination far can't be read, so nothing is known of what a restore from there would bring"
    assert words in teardown(run)
    assert f"**FAILED: {words}" in (run.folder / "report.md").read_text()
    assert len(verification_records_at(run, "near")) == 1, "it has verified the set all the same"
    idle = a_drill(system, 2)
    with pytest.raises(RestoreError, match=words):
        drill_steps.choose_drill(idle, DrillRequest())
    assert "No set was chosen" in teardown(idle)
    assert words in drilled(system, 3, DrillRequest(by_hand=True))
    assert drilled(system, 4, DrillRequest(by_hand=True, destination="near")) == "near"
    assert drilled(system, 5, DrillRequest(by_hand=True, set=system.set_id)) == "near", "of a named set it is known where it is"
    (system.folder / "gone").rename(far)
    assert drilled(system, 6) == "far"


def test_drill_fails_each_time_while_destination_lacks_new_sets_for_longer_than_rpo(system):
    age(system, system.set_id, days=30)
    age(system, system.back_up("with a wrong clock"), days=-365)  # a set of the future is no excuse
    for night in (1, 2):
        newest = system.back_up(f"night {night}")
        remove(system, newest)
        run = a_drill(system, night)
        run_until(run)
        assert run.request().destination == "near", "each of them is the first to be drilled"
        words = f"The destination far lacks the newest valid set, {newest}: its newest is 30 d old, the RPO is 1 d."
        assert words in teardown(run)
        assert f"**FAILED: {words}" in (run.folder / "report.md").read_text()
        assert len(verification_records_at(run, "near")) == 1, "it has verified the set all the same"
        nothing_left(system, run)


def test_drill_only_warns_when_newest_set_is_not_yet_uploaded_within_rpo(system):
    age(system, system.set_id, hours=23)
    newer = system.back_up("newer")
    shutil.move(system.folder / "far" / "small" / newer, system.folder / "uploading")
    run = a_drill(system, 1)
    run_until(run)
    assert teardown(run) == ""
    assert f"⚠ The destination far lacks the newest valid set, {newer}: its newest is 23 h" in (run.folder / "report.md").read_text()
    with pytest.raises(RestoreError, match=f"far lacks the newest valid set, {newer}"):
        drill_steps.choose_drill(a_drill(system, 2), DrillRequest())
    shutil.move(system.folder / "uploading", system.folder / "far" / "small" / newer)
    assert drilled(system, 3) == "far"


def test_drill_fails_for_destination_without_sets_only_when_oldest_set_exceeds_rpo(system):
    remove(system, system.set_id)
    run = a_drill(system, 1)
    run_until(run)
    assert teardown(run) == ""
    assert f"⚠ The destination far lacks the newest valid set, {system.set_id}: it has none." in (run.folder / "report.md").read_text()
    age(system, system.set_id, days=2)
    remove(system, system.back_up("later"))
    run = a_drill(system, 2)
    run_until(run)
    assert ": it has none." in teardown(run)


def test_maintenance_deletes_folder_of_idle_drill(system, monkeypatch):
    drilled(system, 1), drilled(system, 2)
    idle, failed = a_drill(system, 3), a_drill(system, 4)
    drill_steps.choose_drill(idle, DrillRequest())
    teardown(idle)
    with monkeypatch.context() as patched:
        patched.setattr(drill_steps, "now", lambda: datetime.now(UTC) + timedelta(days=2))
        with pytest.raises(RestoreError):
            drill_steps.choose_drill(failed, DrillRequest())
    teardown(failed)
    replaced_copies.drop_old_copies(system.context())
    assert idle.folder.exists()
    maintain_daily(system, monkeypatch)
    assert not idle.folder.exists()
    assert failed.journal.closed


def test_drills_rotate_only_destinations_named_for_drills(system):
    system.write_plan(more="drill: {destinations: [far]}\n")
    assert drilled(system, 1) == "far"
    assert drill_steps.choose_drill(a_drill(system, 2), DrillRequest()) is False
    system.back_up("newer")
    for path in (system.folder / "far" / "small").iterdir():
        if path.name != system.set_id:
            shutil.rmtree(path)
    with pytest.raises(RestoreError, match="is not at far, but at near"):
        drill_steps.choose_drill(a_drill(system, 3), DrillRequest())


def test_forged_verification_record_is_ignored(system):
    run = a_drill(system)
    run_until(run)
    teardown(run)
    (record,) = (system.folder / "near" / "small" / system.set_id / "records").glob("*-proof.json")
    for suffix in ("", ".sig"):
        there = system.folder / "far" / "small" / system.set_id / "records" / f"{record.name}{suffix}"
        there.parent.mkdir(exist_ok=True)
        content = record.with_name(f"{record.name}{suffix}").read_bytes()
        there.write_bytes(content.replace(b'"near"', b'"far"'))
    assert drilled(system, 2) == "far"


def test_choose_drill_refuses_invalid_request(system):
    for drill_request, words in (
        (DrillRequest(destination="moon"), "no destination 'moon'"),
        (DrillRequest(sources=("postgres.main",)), "no source postgres.main"),
        (DrillRequest(set="yesterday"), "is not a set id"),
    ):
        with pytest.raises(PlanError, match=words):
            drill_steps.choose_drill(a_drill(system), drill_request)


def test_manual_drill_restores_only_requested_sources(system):
    run = a_drill(system)
    run_until(run, drill_request=DrillRequest(person="alice", by_hand=True, sources=("config.settings",)))
    assert not (root_of(run) / "files.uploads").exists()
    assert teardown(run) == ""
    assert (run.request().requester, run.request().sources) == ("alice", ("config.settings",))
    assert verification_records(run)["near"][0].facts["sources"] == ["config.settings"]


def test_prune_keeps_set_until_drill_has_ended(system):
    for number in range(3):
        system.back_up(f"newer {number}")
    run = a_drill(system)
    run_until(run, "preflight", DrillRequest(by_hand=True, set=system.set_id))
    newest = drill_steps.read_catalog("small", run.context.destinations(), run.context.verify_key()).sets[0].manifest.set_id

    def pruned():
        rules = {"level": "decoded", "rpo": run.plan.objectives.rpo, "key": run.context.verify_key(), "after": newest, "others": ()}
        prune(run.context.destination("near"), "small", Retention(keep_last=1), now=datetime.now(UTC), **rules)
        return not Path(system.folder, "near", "small", system.set_id, PACKS_FILE).exists()

    assert not pruned()
    teardown(run)
    assert pruned()


def test_maintenance_empties_folder_of_ended_drill_except_journal(system):
    run = a_drill(system)
    run_until(run)
    teardown(run)
    replaced_copies.drop(run)
    assert [path.name for path in run.folder.iterdir()] == ["journal.jsonl"]
