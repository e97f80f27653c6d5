import shutil
from datetime import UTC, datetime, timedelta

import pytest

from recovery.backup import finalize, upload
from recovery.common.errors import DestinationError, PlanError, RetentionError
from recovery.destinations.folder import Folder
from recovery.maintenance import gaps
from recovery.maintenance.gaps import confirm_gap
from recovery.runs.staged_set import StagedSet
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow

REAL = datetime.now(UTC)


@pytest.fixture
def clock(monkeypatch):
    """Sets the clock of everything that prune and its confirmation look at: of this worker, and so of its folders."""

    def to(day):
        class Clock(datetime):
            @classmethod
            def now(cls, tz=None):
                return REAL + timedelta(days=day)

        for module in (finalize, upload):
            monkeypatch.setattr(module, "datetime", Clock)
        monkeypatch.setattr(gaps, "now", Clock.now)
        monkeypatch.setattr(Folder, "now", lambda self: Clock.now())

    return to


@pytest.fixture
def system(tmp_path, clock):
    """Three nightly backups, and one of a clock that is 60 days ahead; ``near`` keeps 30 days, ``far`` three sets."""
    made = SampleSystem(tmp_path / "small")
    made.sets = []
    for day in (0, 1, 2, 63):
        clock(day)
        made.sets.append(made.back_up(f"day {day}"))
    return made


def pruned(system):
    for name in ("near", "far"):
        upload.prune(system.context(), StagedSet(system.plan(), system.sets[-1]), name)
    return sets_at(system, "near")


def sets_at(system, name):
    return {path.parent.name for path in (system.folder / name / "small").glob("*/manifest.json")}


def confirmations(system):
    return [path.relative_to(system.folder).parts[:3:2] for path in system.folder.glob("*/small/*/records/*-confirmation.json")]


def test_confirm_gap_lets_prune_delete_again_and_records_the_person(system):
    with pytest.raises(RetentionError, match=f"with confirm_gap {system.sets[2]}"):
        pruned(system)
    assert sets_at(system, "near") == set(system.sets)
    confirm_gap(system.context(), system.sets[2], "olga")
    assert pruned(system) == set(system.sets[2:])
    assert sorted(confirmations(system)) == [("far", system.sets[2]), ("near", system.sets[2])]
    record = next((system.folder / "near" / "small" / system.sets[2] / "records").glob("*-confirmation.json")).read_text()
    assert "olga" in record


@pytest.mark.parametrize("wanted", ["latest", "../x", "20200101T000000Z-0000", 0, 3])
def test_confirm_gap_refuses_a_set_without_a_gap_after_it_and_names_those_that_have_one(system, wanted):
    set_id = system.sets[wanted] if isinstance(wanted, int) else wanted
    with pytest.raises(PlanError, match=f"There is no gap after a set .*: no set was made after set {system.sets[2]}"):
        confirm_gap(system.context(), set_id, "olga")
    assert confirmations(system) == []


def test_confirm_gap_refuses_once_the_clock_is_right_again(system, clock):
    clock(3)
    with pytest.raises(PlanError, match="there is none at any destination"):
        confirm_gap(system.context(), system.sets[2], "olga")


def test_confirm_gap_confirms_at_the_other_destinations_and_fails_when_one_cannot_be_read(system):
    shutil.move(system.folder / "near", system.folder / "away")
    with pytest.raises(DestinationError, match=r"confirmed at 1 destinations.*\n.*near"):
        confirm_gap(system.context(), system.sets[2], "olga")
    assert confirmations(system) == [("far", system.sets[2])]
