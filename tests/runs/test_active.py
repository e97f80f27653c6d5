"""Two plans with a shared location: a restore of one plan is in the way of the other plan."""

from datetime import UTC, datetime, timedelta

import pytest

from recovery.backup import finalize, steps, upload
from recovery.common.errors import RestoreError, RestoreUnderWay
from recovery.restore import choose_set, preflight
from recovery.runs import active, stalled
from recovery.runs.staged_set import RunRecord, StagedSet
from recovery.sets.layout import new_set_id
from tests.support.restore_driver import run_until, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow


@pytest.fixture
def system(tmp_path, monkeypatch):
    made = SampleSystem(tmp_path / "small", "small")
    made.set_id = made.back_up()
    monkeypatch.setenv("RECOVERY_PLANS", str(made.plans))
    return made


@pytest.fixture
def twin(system, tmp_path):
    """Another plan of the folder, with the uploads of the first among its sources."""
    made = SampleSystem(tmp_path / "twin", "twin", plans=system.plans)
    path = made.plans / "twin.yaml"
    path.write_text(path.read_text().replace(f"{made.storage}", f"{system.storage}"))
    made.set_id = made.back_up()
    return made


@pytest.fixture
def stranger(system, tmp_path):
    """Another plan of the folder, with a system of its own."""
    made = SampleSystem(tmp_path / "stranger", "stranger", plans=system.plans)
    made.set_id = made.back_up()
    return made


def test_backup_waits_for_the_restore_of_a_plan_with_a_shared_location(system, twin, stranger):
    run = system.restore()
    run_until(system, run, "stop services")
    with pytest.raises(RestoreUnderWay, match=f"restore {run.id} of small to live is between"):
        twin.back_up("meanwhile")
    stranger.back_up("meanwhile")
    teardown(run)
    twin.back_up("afterwards")


def test_backup_fails_at_once_when_a_restore_in_its_way_stands_still(system, twin, monkeypatch):
    """It waits for one that goes on; of one that stands still nobody may know yet."""
    run = system.restore()
    run_until(system, run, "stop services")
    later = datetime.now(UTC) + timedelta(minutes=16)
    monkeypatch.setattr(stalled, "now", lambda: later)
    for made in (system, twin):
        words = f"restore {run.id} of small to live, .* Its services are STOPPED.* no backup is made"
        with pytest.raises(RestoreError, match=words) as caught:
            made.back_up("meanwhile")
        assert not isinstance(caught.value, RestoreUnderWay)
    teardown(run)
    system.back_up("afterwards")


def test_upload_refuses_a_set_begun_before_the_cutover_of_an_overlapping_plan(system, twin):
    plan, began = twin.plan(), datetime.now(UTC)
    staged = StagedSet(plan, new_set_id(began, "around"))
    record = RunRecord(plan="twin", set_id=staged.id, run_id="around", started=began, sources=("files.uploads",))
    finalize.prepare(twin.context(), staged, record)
    for step in (steps.dump, steps.compress, steps.verify):
        step(steps.Work(twin.context(), staged, "files.uploads"))
    run = system.restore()
    run_until(system, run)
    assert teardown(run) == ""
    with pytest.raises(RestoreError, match=f"restore {run.id} of small to live cut over this system"):
        upload.upload(twin.context(), staged, "near")


def test_upload_refuses_a_set_begun_before_a_cutover_by_a_clock_that_was_ahead(system):
    """The clock is right again at the cutover, which so seems to be long before the backup began."""
    ahead = datetime.now(UTC) + timedelta(days=60)
    staged = StagedSet(system.plan(), new_set_id(ahead, "around"))
    record = RunRecord(plan="small", set_id=staged.id, run_id="around", started=ahead, sources=("files.uploads",))
    finalize.prepare(system.context(), staged, record)
    for step in (steps.dump, steps.compress, steps.verify):
        step(steps.Work(system.context(), staged, "files.uploads"))
    run = system.restore()
    run_until(system, run)
    assert teardown(run) == ""
    with pytest.raises(RestoreError, match=f"restore {run.id} of small to live cut over this system"):
        upload.upload(system.context(), staged, "near")


def test_upload_of_a_backup_that_began_after_a_restore_needs_no_clock(system):
    run = system.restore()
    run_until(system, run)
    assert teardown(run) == ""
    system.back_up("by a clock far behind", when=datetime.now(UTC) - timedelta(days=60))


def test_restore_is_refused_while_a_restore_of_an_overlapping_plan_has_not_ended(system, twin, stranger):
    first, second, beside = system.restore(), twin.restore(), stranger.restore()
    run_until(system, first, "choose")
    with pytest.raises(RestoreError, match=f"The restore {first.id} of small to live has not ended"):
        choose_set.choose(second, twin.ask(second))
    run_until(stranger, beside, "preflight")
    assert f"need: restore {first.id} of small to live." in beside.findings().text
    teardown(first)
    run_until(twin, second, "preflight")


def test_preflight_refuses_both_restores_when_two_plans_chose_at_the_same_time(system, twin, monkeypatch):
    runs = [(system, system.restore()), (twin, twin.restore())]
    with monkeypatch.context() as patched:
        patched.setattr(active, "others", lambda plan, folder: [])
        for made, run in runs:
            run_until(made, run, "choose")
    for _, run in runs:
        with pytest.raises(RestoreError, match="to live has not ended"):
            preflight.preflight(run)


def test_backup_waits_for_a_restore_of_an_overlapping_plan_with_a_damaged_request(system, twin, stranger, caplog):
    """A damaged request stands in the way of plans that share a location with its plan, and of no other plan."""
    run = system.restore()
    run_until(system, run, "stop services")
    (run.folder / "request.json").write_text("{")
    stranger.back_up("meanwhile")
    with pytest.raises(RestoreUnderWay, match=f"restore {run.id} of small to live is between"):
        twin.back_up("meanwhile")
    assert "What a restore of another plan is for can't be told" in caplog.text


def test_backup_waits_for_a_restore_of_another_plan_into_its_live_system(system, tmp_path):
    other = SampleSystem(tmp_path / "other", "other", plans=system.plans, gates=())
    path = other.plans / "other.yaml"
    path.write_text(path.read_text().replace(f"{other.elsewhere}/storage", f"{system.storage}"))
    other.back_up()
    run = other.restore()
    run_until(other, run, "choose", other.ask(run, target="elsewhere", sources=("files.uploads",)))
    system.back_up("before the cutover")
    run.journal.record("stopping services")
    with pytest.raises(RestoreUnderWay, match=f"restore {run.id} of other to elsewhere is between"):
        system.back_up("meanwhile")


def test_backup_continues_beside_a_broken_plan_file_with_a_warning(system, caplog):
    (system.plans / "broken.yaml").write_text("plan: [")
    system.back_up("beside a broken plan")
    assert "the plan file broken.yaml is under way can't be told" in caplog.text
