from datetime import UTC, datetime

import pytest

from recovery.common.errors import PlanError, RestoreUnderWay
from recovery.crypto.signing import SigningKey
from recovery.destinations import make_destination
from recovery.maintenance.holds import release_holds
from recovery.restore import choose_set, rollback
from recovery.sets import records
from recovery.sets.catalog import read_manifest
from tests.support.restore_driver import approve_gate, run_until, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow


@pytest.fixture
def system(tmp_path):
    return SampleSystem(tmp_path / "small")


def holds(system, set_id):
    """Why each destination keeps the set, by destination."""
    plan = system.plan()
    key = SigningKey.from_endpoint(system.connect(plan.signing)).verify_key
    found = {}
    for name, settings in plan.destinations.items():
        destination = make_destination(name, settings, lambda connection: None)
        manifest = read_manifest(destination, f"{plan.plan}/{set_id}", key)
        found[name] = [hold.why for hold in records.read_records(destination, manifest.path, key, manifest).holds]
    return found


def test_release_holds_releases_at_every_destination_and_records_the_person(system):
    set_id = system.back_up(hold=True)
    assert all(len(why) == 1 for why in holds(system, set_id).values())
    release_holds(system.context(), set_id, "olga")
    assert holds(system, set_id) == {"near": [], "far": []}
    released = next((system.folder / "near" / "small" / set_id / "records").glob("*-release.json")).read_text()
    assert "olga" in released


def test_release_holds_refuses_the_set_of_a_restore_under_way(system):
    set_id = system.back_up()
    run = system.restore()
    choose_set.choose(run, system.ask(run))
    with pytest.raises(RestoreUnderWay, match=run.id):
        release_holds(system.context(), set_id, "olga")
    assert all(holds(system, set_id).values())


def test_release_holds_refuses_a_safety_set_until_its_restore_has_ended(system):
    system.back_up()
    run = system.restore()
    run_until(system, run, "check", system.ask(run, method="in place"))
    safety_set = run.safety.manifest().set_id
    with pytest.raises(RestoreUnderWay, match=run.id):
        release_holds(system.context(), safety_set, "olga")
    assert all(holds(system, safety_set).values())
    approve_gate(run, "accept")
    rollback.finalize(run)
    assert teardown(run) == ""
    release_holds(system.context(), safety_set, "olga")
    assert not any(holds(system, safety_set).values())


@pytest.mark.parametrize("set_id", ["latest", "../x", "20200101T000000Z-0000"])
def test_release_holds_refuses_an_invalid_or_unknown_set_id(system, set_id):
    system.back_up(when=datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(PlanError):
        release_holds(system.context(), set_id, "olga")
