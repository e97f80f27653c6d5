"""Restores to somewhere else than the live system."""

import json
import os
import signal
from contextlib import nullcontext

import pytest
import yaml

from recovery.common.errors import ApprovalError, PlanError, RestoreError
from recovery.common.files import write_record
from recovery.drill import steps as drill_steps
from recovery.restore import choose_set, preflight
from recovery.restore import steps as restore_steps
from recovery.restore.session import RestoreSession
from tests.support.restore_driver import approve_gate, journal_steps, refused_by_preflight, run_until, steps, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow


@pytest.fixture
def whole(tmp_path, postgres_server, mongo_server):
    """A damaged system with a set of before, and a target on the same servers, which asks for the second gate only."""
    made = SampleSystem(
        tmp_path / "whole", "whole", postgres=postgres_server, mongo=mongo_server, gates=("cutover",)
    ).backed_up_and_damaged()
    yield made
    made.drop()


@pytest.fixture
def system(tmp_path):
    """Files and settings only, with a target without gates."""
    return SampleSystem(tmp_path / "small", "small", gates=()).backed_up_and_damaged()


def test_restore_to_target_equals_set_and_leaves_live_system_unchanged(whole):
    run = whole.restore()
    run_until(whole, run, request=whole.ask(run, target="elsewhere"))
    assert teardown(run) == "", journal_steps(run)
    assert whole.elsewhere_fingerprint() == whole.set_state
    assert whole.fingerprint() == whole.before
    assert whole.service_calls == []  # the services of the live system
    assert [entry.facts["gate"] for entry in run.journal.entries("approved")] == ["cutover"]


def test_checks_of_sources_not_restored_are_not_asked_at_target(whole):
    path = whole.plans / "whole.yaml"
    checks = "".join(
        f"  - {{name: {name}, {kind}: {{source: {source}, database: whole, {question}, equals: 1}}, retries: 0}}\n"
        for name, kind, source, question in (
            ("of postgres", "sql", "postgres.main", "query: SELECT 1"),
            ("of mongo", "mongo", "mongo.documents", "collection: states, filter: {_id: 1}"),
        )
    )
    path.write_text(path.read_text().replace("checks:\n", f"checks:\n{checks}"))
    run = whole.restore()
    run_until(whole, run, request=whole.ask(run, target="elsewhere", sources=("mongo.documents",)))
    assert teardown(run) == "", journal_steps(run)
    facts = json.loads((run.folder / "report.json").read_text())
    assert facts["checks"] == [{"check": "of mongo", "ok": True}]
    assert facts["unasked"] == ["of postgres", "service"]


def test_preflight_refuses_occupied_target_unless_overwrite_names_target(whole):
    first = whole.restore("first")
    run_until(whole, first, request=whole.ask(first, target="elsewhere"))
    assert teardown(first) == ""
    run = whole.restore("second")
    choose_set.choose(run, whole.ask(run, target="elsewhere"))
    with pytest.raises(RestoreError, match="not empty") as refused:
        preflight.preflight(run)
    assert all(source_id in str(refused.value) for source_id in whole.plan().source_ids)
    assert "overwrite" in str(refused.value)
    assert "Nothing live" in teardown(run)
    run = whole.restore("third")
    run_until(whole, run, request=whole.ask(run, target="elsewhere", overwrite="elsewhere"))
    assert teardown(run) == "", journal_steps(run)
    assert whole.elsewhere_fingerprint() == whole.set_state
    assert whole.fingerprint() == whole.before


def test_restore_ended_before_cutover_leaves_target_empty(whole):
    run = whole.restore()
    run_until(whole, run, "gate plan", whole.ask(run, target="elsewhere"))
    for source_id in run.request().sources:
        restore_steps.stage(run, source_id)
    assert teardown(run)
    assert whole.fingerprint() == whole.before
    assert whole.leftovers() == []
    assert not whole.elsewhere.exists() or not list((whole.elsewhere / "storage").glob("*"))


def test_stop_services_is_refused_without_approval_of_gate_of_target(whole):
    run = whole.restore()
    for name, step in steps(whole, run, whole.ask(run, target="elsewhere")):
        if name == "gate cutover":
            continue
        if name == "stop services":
            with pytest.raises(ApprovalError, match="gate cutover was not approved"):
                step()
            break
        step()


def test_target_without_gates_needs_no_requester_and_no_approval(system):
    run = system.restore()
    run_until(system, run, request=system.ask(run, target="elsewhere", requester=""))
    assert teardown(run) == "", journal_steps(run)
    assert system.elsewhere_fingerprint()["files.uploads"] != system.before["files.uploads"]
    assert run.journal.entries("asked") == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"target": "elsewher"}, "no target 'elsewher'.*live, elsewhere"),
        ({"target": "elsewhere", "overwrite": "yes"}, "overwrite names 'yes'"),
        ({"overwrite": "live"}, "overwrite names 'live'"),
        ({"target": "elsewhere", "method": "in place"}, "in place is for the live system only"),
        ({"sources": ("files.uploads",), "only": {"config.settings": ("/etc",)}}, "Parts of config.settings"),
        ({"sources": ()}, "No source was chosen"),
    ],
)
def test_choose_set_refuses_invalid_request_for_target(system, asked, words):
    run = system.restore()
    with pytest.raises(PlanError, match=words):
        choose_set.choose(run, system.ask(run, **asked))
    assert not run.began


@pytest.fixture
def by_another_name(whole):
    """The target leads to the live servers, under the live names, by other Connections."""
    whole.edit_plan(f"connection: whole_postgres, {AWAY}", "connection: other_postgres")
    whole.edit_plan(f"connection: whole_mongo, {AWAY}", "connection: other_mongo")
    known = whole.connections
    whole.connections = lambda: (
        known() | {f"other_{kind}": known()[f"whole_{kind}"] | {"host": "localhost"} for kind in ("postgres", "mongo")}
    )
    return whole


AWAY = "databases: {whole: whole_elsewhere}"


def refused(system, **asked):
    """What preflight refuses, of a restore to the target."""
    run = system.restore(f"refused {asked}")
    return refused_by_preflight(run, system.ask(run, target="elsewhere", **asked))


@pytest.mark.parametrize(("source", "only"), [("postgres.main", ()), ("mongo.documents", ()), ("mongo.documents", ("whole.states",))])
def test_preflight_refuses_target_that_is_live_system_under_other_connection(by_another_name, source, only):
    asked = {"sources": (source,), "only": {source: only} if only else {}, "overwrite": "elsewhere"}
    assert "is the live system itself" in refused(by_another_name, **asked)


def test_preflight_refuses_target_that_became_live_after_backup(whole):
    """A database that today's plan names and the set does not have; a source that the set does not have; a folder."""
    kinds = ("postgres", "mongo")
    known = whole.connections
    whole.connections = lambda: known() | {f"other_{kind}": known()[f"whole_{kind}"] | {"host": "localhost"} for kind in kinds}
    for kind in kinds:
        whole.edit_plan(f"connection: whole_{kind}, databases: [whole]", f"connection: whole_{kind}, databases: [whole, younger]")
        whole.edit_plan(f"connection: whole_{kind}, {AWAY}", f"connection: other_{kind}, databases: {{whole: younger}}")
    whole.edit_plan('  files:\n    uploads: {path: "', f'  files:\n    younger: {{path: {whole.folder}/younger}}\n    uploads: {{path: "')
    (whole.folder / "alias").symlink_to(whole.folder / "younger")
    whole.edit_plan(f"path: {whole.elsewhere}/storage", f"path: {whole.folder}/alias/storage")
    for source in ("postgres.main", "mongo.documents", "files.uploads"):
        assert "is the live system itself" in refused(whole, sources=(source,)), source


def test_preflight_refuses_target_in_live_system_of_other_plan(whole, monkeypatch):
    monkeypatch.setenv("RECOVERY_PLANS", str(whole.plans))
    other = yaml.safe_load((whole.plans / "whole.yaml").read_text()) | {"plan": "other", "targets": {}, "checks": []}
    other["sources"] = {
        "postgres": {"main": {"connection": "whole_postgres", "databases": ["whole_elsewhere"]}},
        "mongo": {"documents": {"connection": "gone"}},
        "config": {"settings": {"paths": [str(whole.elsewhere)]}},
    }
    (whole.plans / "other.yaml").write_text(yaml.safe_dump(other))
    (whole.plans / "broken.yaml").write_text("plan: broken")
    words = refused(whole, sources=("postgres.main", "mongo.documents", "files.uploads"))
    assert words.count("is the live system of the plan other") == 2
    assert "mongo.documents: the target" not in words
    run = whole.restore()
    run_until(whole, run, "preflight", whole.ask(run, target="elsewhere", sources=("mongo.documents",)))
    silent = "can't be compared: mongo.documents of the plan other, the plan file broken.yaml does not answer"
    assert silent in run.findings().text
    assert teardown(run)


def test_preflight_accepts_restore_to_target_when_live_server_is_unreachable(whole):
    whole.edit_plan(f"connection: whole_postgres, {AWAY}", f"connection: other_postgres, {AWAY}")
    known = whole.connections
    alive = known()["whole_postgres"]
    whole.connections = lambda: known() | {"other_postgres": alive, "whole_postgres": alive | {"port": 1}}
    run = whole.restore()
    run_until(whole, run, "preflight", whole.ask(run, target="elsewhere", sources=("postgres.main",)))
    assert "can't be compared: postgres.main" in run.findings().text
    teardown(run)


def test_preflight_refuses_two_sources_with_same_location_at_target(tmp_path):
    system = SampleSystem(tmp_path / "twice", "twice", gates=())
    system.edit_plan('  files:\n    uploads: {path: "', f'  files:\n    more: {{path: {system.folder}/more}}\n    uploads: {{path: "')
    system.edit_plan("files: {uploads: {", f"files: {{more: {{path: {system.folder}/alias}}, uploads: {{")
    (system.folder / "more").mkdir()
    (system.folder / "alias").symlink_to(system.elsewhere / "storage")
    system.back_up()
    words = refused(system, sources=("config.settings", "files.more", "files.uploads"))
    assert "files.more and files.uploads would replace each other at elsewhere" in words
    assert "config.settings and" not in words
    (system.folder / "alias").unlink()
    run = system.restore()
    run_until(system, run, request=system.ask(run, target="elsewhere"))
    assert teardown(run) == ""


def test_preflight_refuses_live_database_reached_by_two_connections(whole):
    known = whole.connections
    whole.connections = lambda: known() | {"other_postgres": known()["whole_postgres"] | {"host": "localhost"}}
    twin = "  postgres:\n    twin: {connection: other_postgres, databases: [whole]}\n"
    whole.edit_plan("  postgres:\n    main: {connection", f"{twin}    main: {{connection")
    both = ("postgres.twin", "postgres.main")
    run = whole.restore()
    choose_set.choose(run, whole.ask(run, set=whole.back_up(sources=both), sources=both))
    with pytest.raises(RestoreError, match=r"postgres\.twin and postgres\.main would replace each other at live"):
        preflight.preflight(run)
    teardown(run)


# Two at once ----------------------------------------------------------------------------------------------------------


def test_choose_set_refuses_second_restore_to_same_target_until_first_has_ended(system):
    first = system.restore("first")
    run_until(system, first, "verify files.uploads", system.ask(first, target="elsewhere"))
    second = system.restore("second")
    asked = system.ask(second, target="elsewhere", requester="alice")
    with pytest.raises(RestoreError, match=f"The restore {first.id} of small to elsewhere has not ended: operator asked .*, run 'first'"):
        choose_set.choose(second, asked)
    assert not second.began
    beside = system.restore("beside")
    run_until(system, beside, "preflight", system.ask(beside))
    assert f"Not in these numbers is what others under way need: restore {first.id} of small to elsewhere." in beside.findings().text
    dry = system.restore("dry")
    run_until(system, dry, "preflight", system.ask(dry, target="elsewhere", dry_run=True))
    into_live = system.restore("into live")
    with pytest.raises(RestoreError, match=f"The restore {beside.id} of small to live has not ended"):
        choose_set.choose(into_live, system.ask(into_live))
    teardown(first)
    choose_set.choose(second, asked)
    for run in (beside, dry, into_live):
        teardown(run)
    choose_set.choose(system.restore("later"), system.ask(system.restore("later")))


@pytest.mark.parametrize(("folder", "refused"), [("storage/below", True), ("other", False)])
def test_choose_set_refuses_restore_to_second_target_only_when_targets_overlap(system, folder, refused):
    target = f"targets:\n  again: {{sources: {{files: {{uploads: {{path: {system.elsewhere}/{folder}}}}}}}}}\n"
    system.edit_plan("targets:\n", target)
    first, second = system.restore("first"), system.restore("second")
    run_until(system, first, "choose", system.ask(first, target="elsewhere"))
    with pytest.raises(RestoreError, match="to elsewhere has not ended") if refused else nullcontext():
        choose_set.choose(second, system.ask(second, target="again", sources=("files.uploads",)))


def test_drill_and_restore_to_same_target_exclude_each_other(system):
    system.edit_plan("services:\n  stop", "drill: {target: elsewhere}\nservices:\n  stop")
    run, practice = system.restore(), RestoreSession(system.context(), "drill monday")
    run_until(system, run, "verify files.uploads", system.ask(run, target="elsewhere"))
    with pytest.raises(RestoreError, match=f"The restore {run.id} of small to elsewhere has not ended"):
        drill_steps.choose_drill(practice, drill_steps.DrillRequest())
    assert "No set was chosen" in teardown(practice)
    teardown(run)
    again = RestoreSession(system.context(), "drill tuesday")
    assert drill_steps.choose_drill(again, drill_steps.DrillRequest())
    with pytest.raises(RestoreError, match=f"The drill {again.id} of small to elsewhere has not ended: the schedule .*, run 'tuesday'"):
        choose_set.choose(system.restore("second"), system.ask(system.restore("second"), target="elsewhere"))


def test_restore_killed_before_set_was_chosen_does_not_block_other_restores(system):
    """Killed after its request was written and before it had its set; then its own choice, made again."""
    killed = system.restore("killed")
    pid = os.fork()
    if pid == 0:
        killed.journal.record = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        choose_set.choose(killed, system.ask(killed))
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert (killed.folder / "request.json").exists()
    run = system.restore()
    choose_set.choose(run, system.ask(run))
    teardown(run)
    killed = system.restore("killed")
    choose_set.choose(killed, system.ask(killed))
    assert killed.began


def test_choose_set_lets_single_restore_begin_of_several_at_once(system):
    children = []
    for number in range(4):
        children.append(os.fork())
        if not children[-1]:
            run = system.restore(f"restore {number}")
            try:
                choose_set.choose(run, system.ask(run))
            except RestoreError:
                os._exit(3)
            finally:
                os._exit(0)
    assert sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children) == [0, 3, 3, 3]


def test_restore_of_lost_run_is_ended_by_new_run_with_same_run_id(system):
    lost = system.restore("lost")
    run_until(system, lost, "verify files.uploads", system.ask(lost, target="elsewhere"))
    again = system.restore("lost")
    with pytest.raises(RestoreError, match="has its set"):
        choose_set.choose(again, system.ask(again, target="elsewhere"))
    assert teardown(again)
    assert lost.journal.closed
    run = system.restore("next")
    run_until(system, run, request=system.ask(run, target="elsewhere"))
    assert teardown(run) == ""


def test_cutover_refuses_data_added_to_empty_target_while_gate_waited(whole):
    run = whole.restore()
    run_until(whole, run, "verify files.uploads", whole.ask(run, target="elsewhere"))
    approve_gate(run, "cutover")
    with whole.mongo.client() as client:
        client.whole_elsewhere.theirs.insert_one({"_id": 1})
    restore_steps.stop_services(run)
    restore_steps.cut_over(run, "config.settings")
    restore_steps.cut_over(run, "postgres.main")
    with pytest.raises(RestoreError, match=r"mongo.documents: the target elsewhere was empty and is so no more: whole_elsewhere.theirs"):
        restore_steps.cut_over(run, "mongo.documents")
    assert "rolled back" in teardown(run)
    with whole.mongo.client() as client:
        assert set(client.whole_elsewhere.list_collection_names()) == {"theirs", "system.views"}
    assert not [name for name in whole.leftovers() if "theirs" not in name]


def test_target_change_in_plan_voids_approval_of_cutover_gate(whole):
    run = whole.restore()
    run_until(whole, run, "verify files.uploads", whole.ask(run, target="elsewhere"))
    approve_gate(run, "cutover")
    text = (whole.plans / "whole.yaml").read_text()
    (whole.plans / "whole.yaml").write_text(text.replace("whole_elsewhere", "whole_elsewhere_too"))
    with pytest.raises(ApprovalError, match="plan"):
        restore_steps.stop_services(whole.restore())


@pytest.mark.parametrize("change", [{"drill": True}, {"target": "elsewhere"}, {"drill": True, "target": "elsewhere"}])
def test_stage_refuses_request_rewritten_in_staging(system, change):
    run = system.restore()
    run_until(system, run, "preflight")
    write_record(run.folder / "request.json", run.request().model_copy(update=change))
    for source_id in run.plan.source_ids:
        with pytest.raises(ApprovalError):
            restore_steps.stage(system.restore(), source_id)
    assert system.leftovers() == []


def test_plan_change_after_preflight_stops_restore_without_gates(system):
    run = system.restore()
    run_until(system, run, "verify files.uploads", system.ask(run, target="elsewhere"))
    system.write_plan(rpo="25h")
    with pytest.raises(ApprovalError, match="Since preflight looked, the plan changed"):
        restore_steps.stop_services(system.restore())
