"""A restore whose process is killed at a step of its journal, in a process of its own and with SIGKILL, as by an OOM killer."""

import os
import signal
import traceback

import pytest

from recovery.backup import finalize
from recovery.restore import state
from recovery.runs.journal import Journal
from recovery.sets.records import read_records
from tests.support.small import Small, end, said, steps

EARLY_OR_LATE = [pytest.param(True, id="before the step is written", marks=pytest.mark.long), pytest.param(False, id="after")]


def in_a_process(work, kill_at, *, early):
    """Do work in a process that is killed at the n-th thing that its journal says: before it is written, or after.

    Returns:
        True if it was killed, False if it did not come so far.
    """
    pid = os.fork()
    if pid == 0:
        count = 0
        append = Journal._append

        def appended(journal, line):
            nonlocal count
            count += 1
            if count == kill_at and early:
                os.kill(os.getpid(), signal.SIGKILL)
            append(journal, line)
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        Journal._append = appended
        try:
            work()
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the work failed by itself; see its traceback"
    return os.WIFSIGNALED(status)


def all_steps(small, run):
    for _, step in steps(small, run):
        step()


def check_ended(small, run, reason):
    """After the teardowns: either the set is live or what was live before; nothing half, nothing left over, nothing held."""
    where = f"the journal said {said(run)}, the report {reason!r}"
    if not run.began:
        assert small.fingerprint() == small.before, where
        assert "No set was chosen" in reason, where
        return
    in_use = state.in_use(run)
    assert small.fingerprint() == (small.set_state if in_use else small.before), where
    assert run.journal.closed, where
    left = [name for name in small.leftovers() if not in_use or ("__before_" not in name and ".recovery-" not in name)]
    assert left == [], where
    if not in_use:
        assert all(small.services.values()), f"{small.services}; {where}"
    accepted = any(entry.facts["gate"] == "accept" for entry in run.journal.said("approved"))
    assert bool(reason) == (not accepted), where
    for destination in run.context.destinations():
        records = read_records(destination, run.manifest().path, run.context.verify_key(), run.manifest())
        assert records.holds == (), f"{destination.name}: {records.holds}; {where}"
        assert len(records.of("report")) == 1, where
    finalize.refuse_during_restore(run.plan)
    for folder in ("work", "fetch"):
        assert not list((run.folder / folder).glob("*")), where


def campaign(tmp_path, make, points, early, stride=1):
    """Kill one restore after the other, each of a new system, at these steps; None means at every step, or every ``stride``-th."""
    number = 0
    while points is None or number < len(points):
        number += 1
        at = 1 + (number - 1) * stride if points is None else points[number - 1]
        small = make(tmp_path, f"k{number}{'e' if early else 'l'}")
        run = small.restore()
        killed = in_a_process(lambda small=small, run=run: all_steps(small, run), at, early=early)
        reason = end(run)
        check_ended(small, run, reason)
        small.drop()
        if not killed:
            return at - 1
    return number


def plain(tmp_path, name):
    return Small(tmp_path / name, name).damaged()


@pytest.fixture
def whole(postgres_server, mongo_server):
    def make(tmp_path, name):
        return Small(tmp_path / name, name, postgres=postgres_server, mongo=mongo_server).damaged()

    return make


@pytest.mark.parametrize("early", EARLY_OR_LATE)
def test_at_every_step_of_a_system_of_files(tmp_path, early, stride):
    assert campaign(tmp_path, plain, None, early, stride) >= 30


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("early", EARLY_OR_LATE)
def test_at_every_step_of_a_whole_system(tmp_path, whole, early):
    assert campaign(tmp_path, whole, None, early) >= 50


@pytest.fixture(scope="module")
def number_of(tmp_path_factory, postgres_server, mongo_server):
    """At which step of a restore of a whole system something is said."""
    small = Small(tmp_path_factory.mktemp("steps") / "steps", "steps", postgres=postgres_server, mongo=mongo_server).damaged()
    run = small.restore()
    all_steps(small, run)
    end(run)
    small.drop()
    lines = said(run)
    return lambda step: lines.index(step) + 1


SWITCH_STEPS = [
    "postgres.main: switch",
    "switched postgres.main",
    "mongo.documents: mongo switch planned",
    "switched mongo.documents",
    "files.uploads: exchange",
    "switched files.uploads",
    "starting services",
]


def test_at_the_steps_of_the_switch_of_a_whole_system(tmp_path, whole, number_of):
    campaign(tmp_path, whole, list(map(number_of, SWITCH_STEPS)), early=False)


@pytest.mark.parametrize("step", ["postgres.main: switch", "mongo.documents: mongo switch planned", "files.uploads: exchange"])
def test_a_killed_switch_is_resumed_by_doing_it_again(tmp_path, whole, number_of, step):
    small = whole(tmp_path, "again")
    run = small.restore()
    assert in_a_process(lambda: all_steps(small, run), number_of(step), early=False)
    source = step.partition(":")[0]
    began = False
    for name, do in steps(small, run):
        began = began or name == f"switch {source}"
        if began:
            do()
    assert end(run) == ""
    assert small.fingerprint() == small.set_state
    small.drop()


def back_killed_at(small, run, at, early):
    killed = in_a_process(lambda: end(run), at, early=early)
    reason = end(run)
    assert small.fingerprint() == small.before, said(run)
    assert small.leftovers() == [], said(run)
    assert all(small.services.values()), small.services
    assert run.journal.closed
    assert "switched back" in reason or "has ended before" in reason, reason
    return killed


@pytest.mark.parametrize("early", EARLY_OR_LATE)
def test_the_way_back_itself_at_every_step(tmp_path, early, stride):
    for at in range(1, 100, stride):
        small = plain(tmp_path, f"b{at}{'e' if early else 'l'}")
        run = small.restore()
        for name, step in steps(small, run):
            if name == "start services":
                break
            step()
        if not back_killed_at(small, run, at, early):
            break
    assert at > 10, "the way back of two sources has more steps"


def test_the_way_back_of_databases(tmp_path, whole):
    points = iter(range(2, 100, 9))
    killed = True
    while killed:
        at = next(points)
        small = whole(tmp_path, f"w{at}")
        run = small.restore()
        for name, step in steps(small, run):
            if name == "start services":
                break
            step()
        killed = back_killed_at(small, run, at, early=False)
        small.drop()
    assert at > 10


def test_a_killed_journal_line_is_passed_over(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.say("one")
    with (tmp_path / "journal.jsonl").open("ab") as out:
        out.write(b'{"time": "2026-11-23T01:00')
    assert [entry.step for entry in journal.entries()] == ["one"]
    journal.say("two")
    assert [entry.step for entry in journal.entries()] == ["one", "two"]
