"""Restores to somewhere else than the live system."""

import json

import pytest

from recovery import preflight, restore
from recovery.errors import ApprovalError, PlanError, RestoreError
from recovery.staging import write_record
from tests.small import Small, end, forward, said, steps, to_gate


@pytest.fixture
def whole(tmp_path, postgres_server, mongo_server):
    """A damaged system with a set of before, and a target on the same servers, which asks for the second gate only."""
    made = Small(tmp_path / "whole", "whole", postgres=postgres_server, mongo=mongo_server, gates=("switch",))
    made.set_id = made.back_up()
    made.set_state = made.fingerprint()
    made.disaster()
    made.before = made.fingerprint()
    yield made
    made.drop()


@pytest.fixture
def small(tmp_path):
    """Files and settings only, with a target without gates."""
    made = Small(tmp_path / "small", "small", gates=())
    made.set_id = made.back_up()
    made.disaster()
    made.before = made.fingerprint()
    return made


def test_a_whole_system_comes_back_elsewhere_and_the_live_one_is_not_touched(whole):
    run = whole.restore()
    forward(whole, run, request=whole.ask(run, target="elsewhere"))
    assert end(run) == "", said(run)
    assert whole.elsewhere_fingerprint() == whole.set_state
    assert whole.fingerprint() == whole.before
    assert whole.told == []  # the services of the live system
    assert [entry.facts["gate"] for entry in run.journal.said("approved")] == ["switch"]


def test_checks_of_sources_that_were_not_restored_are_not_asked_there(whole):
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
    forward(whole, run, request=whole.ask(run, target="elsewhere", sources=("mongo.documents",)))
    assert end(run) == "", said(run)
    facts = json.loads((run.folder / "report.json").read_text())
    assert facts["checks"] == [{"check": "of mongo", "ok": True}]
    assert facts["unasked"] == ["of postgres", "service"]


def test_what_is_there_already_is_replaced_only_if_its_name_was_written_again(whole):
    first = whole.restore("first")
    forward(whole, first, request=whole.ask(first, target="elsewhere"))
    assert end(first) == ""
    run = whole.restore("second")
    preflight.choose(run, whole.ask(run, target="elsewhere"))
    with pytest.raises(RestoreError, match="not empty") as refused:
        preflight.preflight(run)
    assert all(source_id in str(refused.value) for source_id in whole.plan().source_ids)
    assert "overwrite" in str(refused.value)
    assert "Nothing live" in end(run)
    run = whole.restore("third")
    forward(whole, run, request=whole.ask(run, target="elsewhere", overwrite="elsewhere"))
    assert end(run) == "", said(run)
    assert whole.elsewhere_fingerprint() == whole.set_state
    assert whole.fingerprint() == whole.before


def test_rejected_there_leaves_nothing_there(whole):
    run = whole.restore()
    forward(whole, run, "gate plan", whole.ask(run, target="elsewhere"))
    for source_id in run.request().sources:
        restore.stage(run, source_id)
    assert end(run)
    assert whole.fingerprint() == whole.before
    assert whole.leftovers() == []
    assert not whole.elsewhere.exists() or not list((whole.elsewhere / "storage").glob("*"))


def test_the_gate_that_the_target_has_can_not_be_passed_by(whole):
    run = whole.restore()
    for name, step in steps(whole, run, whole.ask(run, target="elsewhere")):
        if name == "gate switch":
            continue
        if name == "stop services":
            with pytest.raises(ApprovalError, match="gate switch was not approved"):
                step()
            break
        step()


def test_a_target_without_gates_needs_nobody(small):
    run = small.restore()
    forward(small, run, request=small.ask(run, target="elsewhere", requester=""))
    assert end(run) == "", said(run)
    assert small.elsewhere_fingerprint()["files.uploads"] != small.before["files.uploads"]
    assert run.journal.said("asked") == []


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
def test_wrong_wishes_are_refused_before_anything_begins(small, asked, words):
    run = small.restore()
    with pytest.raises(PlanError, match=words):
        preflight.choose(run, small.ask(run, **asked))
    assert not run.began


def test_a_target_that_is_the_live_system_by_another_name_is_noticed(whole):
    text = (whole.plans / "whole.yaml").read_text()
    lines = [line.replace("whole_postgres", "other_postgres").partition(", databases: {whole: whole_elsewhere}")[0] + "}}"
             if "whole_elsewhere" in line and "postgres" in line else line for line in text.splitlines()]  # fmt: skip
    (whole.plans / "whole.yaml").write_text("\n".join(lines) + "\n")
    known = whole.connections
    whole.connections = lambda: known() | {"other_postgres": known()["whole_postgres"] | {"host": "localhost"}}
    run = whole.restore()
    preflight.choose(run, whole.ask(run, target="elsewhere", sources=("postgres.main",)))
    with pytest.raises(RestoreError, match="is the live system itself"):
        preflight.preflight(run)


def test_a_target_changed_after_its_gate_voids_the_approval(whole):
    run = whole.restore()
    forward(whole, run, "prove files.uploads", whole.ask(run, target="elsewhere"))
    to_gate(run, "switch")
    text = (whole.plans / "whole.yaml").read_text()
    (whole.plans / "whole.yaml").write_text(text.replace("whole_elsewhere", "whole_elsewhere_too"))
    with pytest.raises(ApprovalError, match="plan"):
        restore.stop_services(whole.restore())


@pytest.mark.parametrize("change", [{"drill": True}, {"target": "elsewhere"}, {"drill": True, "target": "elsewhere"}])
def test_a_request_that_somebody_rewrote_in_staging_opens_no_gate(small, change):
    run = small.restore()
    forward(small, run, "preflight")
    write_record(run.folder / "request.json", run.request().model_copy(update=change))
    for source_id in run.plan.source_ids:
        with pytest.raises(ApprovalError):
            restore.stage(small.restore(), source_id)
    assert small.leftovers() == []


def test_a_plan_that_changed_since_preflight_stops_a_restore_that_asks_nobody(small):
    run = small.restore()
    forward(small, run, "prove files.uploads", small.ask(run, target="elsewhere"))
    small.write_plan(rpo="25h")
    with pytest.raises(ApprovalError, match="Since preflight looked, the plan changed"):
        restore.stop_services(small.restore())
