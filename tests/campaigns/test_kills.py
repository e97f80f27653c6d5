"""A restore whose process is killed at a step of its journal, in a process of its own and with SIGKILL, as by an OOM killer."""

import pytest

from recovery.restore import state
from recovery.runs.journal import Journal
from recovery.runs.stalled import refuse_during_restore
from recovery.sets.records import read_records
from tests.support.kills import Killed, killed_in_process
from tests.support.restore_driver import assert_unchanged, journal_steps, steps, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow

EARLY_OR_LATE = [pytest.param(True, id="before the step is written", marks=pytest.mark.long), pytest.param(False, id="after")]


def all_steps(system, run):
    for _, step in steps(system, run):
        step()


def check_ended(system, run, reason):
    """After the teardowns: either the set is live or what was live before; nothing half, nothing left over, nothing held."""
    where = f"the journal said {journal_steps(run)}, the report {reason!r}"
    if not run.began:
        assert system.fingerprint() == system.before, where
        assert "No set was chosen" in reason, where
        return
    in_use = state.in_use(run)
    assert system.fingerprint() == (system.set_state if in_use else system.before), where
    assert run.journal.closed, where
    left = [name for name in system.leftovers() if not in_use or ("__before_" not in name and ".recovery-" not in name)]
    assert left == [], where
    if not in_use:
        assert all(system.services.values()), f"{system.services}; {where}"
    accepted = any(entry.facts["gate"] == "accept" for entry in run.journal.entries("approved"))
    assert bool(reason) == (not accepted), where
    for destination in run.context.destinations():
        records = read_records(destination, run.manifest().path, run.context.verify_key(), run.manifest())
        assert records.holds == (), f"{destination.name}: {records.holds}; {where}"
        assert len(records.of("report")) == 1, where
    refuse_during_restore(run.plan)
    for folder in ("work", "fetch"):
        assert not list((run.folder / folder).glob("*")), where


def campaign(tmp_path, make, points, early, stride=1):
    """Kill one restore after the other, each of a new system, at these steps; None means at every step, or every ``stride``-th."""
    number = 0
    while points is None or number < len(points):
        number += 1
        at = 1 + (number - 1) * stride if points is None else points[number - 1]
        system = make(tmp_path, f"k{number}{'e' if early else 'l'}")
        run = system.restore()
        killed = killed_in_process(lambda system=system, run=run: all_steps(system, run), at, early=early)
        reason = teardown(run)
        check_ended(system, run, reason)
        system.drop()
        if not killed:
            return at - 1
    return number


def plain(tmp_path, name):
    return SampleSystem(tmp_path / name, name).backed_up_and_damaged()


@pytest.fixture
def whole(postgres_server, mongo_server):
    def make(tmp_path, name):
        return SampleSystem(tmp_path / name, name, postgres=postgres_server, mongo=mongo_server).backed_up_and_damaged()

    return make


@pytest.mark.parametrize("early", EARLY_OR_LATE)
def test_restore_of_files_ends_restored_or_rolled_back_after_kill_at_any_step(tmp_path, early, stride):
    assert campaign(tmp_path, plain, None, early, stride) >= 30


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("early", EARLY_OR_LATE)
def test_restore_of_whole_system_ends_restored_or_rolled_back_after_kill_at_any_step(tmp_path, whole, early):
    assert campaign(tmp_path, whole, None, early) >= 50


@pytest.fixture(scope="module")
def number_of(tmp_path_factory, postgres_server, mongo_server):
    """At which step of a restore of a whole system something is said."""
    system = SampleSystem(
        tmp_path_factory.mktemp("steps") / "steps", "steps", postgres=postgres_server, mongo=mongo_server
    ).backed_up_and_damaged()
    run = system.restore()
    all_steps(system, run)
    teardown(run)
    system.drop()
    lines = journal_steps(run)
    return lambda step: lines.index(step) + 1


CUTOVER_STEPS = [
    "postgres.main: switch",
    "switched postgres.main",
    "mongo.documents: mongo switch planned",
    "switched mongo.documents",
    "files.uploads: exchange",
    "switched files.uploads",
    "starting services",
]


def test_restore_of_whole_system_ends_restored_or_rolled_back_after_kill_in_cutover(tmp_path, whole, number_of):
    campaign(tmp_path, whole, list(map(number_of, CUTOVER_STEPS)), early=False)


@pytest.mark.parametrize("step", ["postgres.main: switch", "mongo.documents: mongo switch planned", "files.uploads: exchange"])
def test_killed_cutover_is_resumed_when_run_again(tmp_path, whole, number_of, step):
    system = whole(tmp_path, "again")
    run = system.restore()
    assert killed_in_process(lambda: all_steps(system, run), number_of(step), early=False)
    source = step.partition(":")[0]
    began = False
    for name, do in steps(system, run):
        began = began or name == f"cutover {source}"
        if began:
            do()
    assert teardown(run) == ""
    assert system.fingerprint() == system.set_state
    system.drop()


def rollback_killed_at(system, run, at, early):
    killed = killed_in_process(lambda: teardown(run), at, early=early)
    reason = teardown(run)
    assert_unchanged(system, run)
    assert run.journal.closed
    assert "rolled back" in reason or "has ended before" in reason, reason
    return killed


@pytest.mark.parametrize("early", EARLY_OR_LATE)
def test_rollback_of_files_is_resumed_after_kill_at_any_step(tmp_path, early, stride):
    for at in range(1, 100, stride):
        system = plain(tmp_path, f"b{at}{'e' if early else 'l'}")
        run = system.restore()
        for name, step in steps(system, run):
            if name == "start services":
                break
            step()
        if not rollback_killed_at(system, run, at, early):
            break
    assert at > 10, "the rollback of two sources has more steps"


def test_rollback_of_whole_system_is_resumed_after_kill(tmp_path, whole):
    points = iter(range(2, 100, 9))
    killed = True
    while killed:
        at = next(points)
        system = whole(tmp_path, f"w{at}")
        run = system.restore()
        for name, step in steps(system, run):
            if name == "start services":
                break
            step()
        killed = rollback_killed_at(system, run, at, early=False)
        system.drop()
    assert at > 10


def test_killed_is_not_a_subclass_of_exception():
    assert not issubclass(Killed, Exception)


def test_journal_skips_line_cut_off_by_kill(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.record("one")
    with (tmp_path / "journal.jsonl").open("ab") as out:
        out.write(b'{"time": "2026-11-23T01:00')
    assert [entry.step for entry in journal.everything()] == ["one"]
    journal.record("two")
    assert [entry.step for entry in journal.everything()] == ["one", "two"]
