import logging
import os
import random
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from recovery.common.errors import RetentionError
from recovery.crypto.signing import SigningKey
from recovery.destinations.base import Destination
from recovery.destinations.folder import Folder
from recovery.plan.model import Retention
from recovery.sets import prune as sets_prune
from recovery.sets.prune import prune
from recovery.sets.records import add_record, confirmation, hold, release
from recovery.sets.retention import plan_retention
from recovery.sets.transfer import upload_set
from tests.support.sets import KEY, NOW, keys_of, make_set, manifest, put, run_python, source

DAY = timedelta(days=1)
TODAY = datetime.now(UTC).replace(microsecond=0)


def kept(decisions):
    return {decision.manifest.set_id for decision in decisions if decision.keep}


def plan(sets, held=None, now=NOW, level="decoded", **keep):
    return plan_retention(sets, held or {}, Retention(**keep), level, now)


def ids(*sets):
    return {each.set_id for each in sets}


def daily(count, **changes):
    return [manifest(NOW - number * DAY, **changes) for number in range(count)]


def test_keep_last_keeps_the_newest_sets():
    sets = daily(10)
    assert kept(plan(sets, keep_last=3)) == ids(*sets[:3])
    assert kept(plan(sets, keep_last=20)) == ids(*sets)


def test_keep_within_keeps_the_window_and_the_newest_older_set():
    sets = daily(10)
    assert kept(plan(sets, keep_within="60h")) == ids(*sets[:4])  # three in the window, and one that its first moment goes back to
    assert kept(plan(sets, keep_within="3d")) == ids(*sets[:5])  # a set exactly three days old is in the window
    assert kept(plan(sets, keep_within="90d")) == ids(*sets)


def test_retention_keeps_a_set_that_any_rule_keeps():
    sets = daily(10)
    assert kept(plan(sets, keep_within="60h", keep_last=7)) == ids(*sets[:7])
    assert kept(plan(sets, keep_within="6d", keep_last=2)) == ids(*sets[:8])


def test_retention_keeps_recent_invalid_sets_but_does_not_count_invalid_sets():
    valid = daily(10)
    broken = [
        manifest(each.created + timedelta(hours=1), **({"missing": {"files.uploads": "no answer"}} if number % 2 else {"level": "stored"}))
        for number, each in enumerate(valid)
    ]
    assert kept(plan(valid + broken, keep_last=3)) == ids(*valid[:3], *broken[:3])
    assert kept(plan(valid + broken, keep_within="60h")) == ids(*valid[:4], *broken[:3])


def test_retention_keeps_a_valid_set_behind_hundreds_of_incomplete_sets():
    valid = manifest(NOW - 400 * DAY)
    older = manifest(NOW - 500 * DAY)
    failures = [manifest(NOW - number * DAY, missing={"files.uploads": "no answer"}) for number in range(300)]
    assert ids(valid) <= kept(plan([older, valid, *failures], keep_last=1))
    assert ids(valid) <= kept(plan([older, valid, *failures], keep_within="30d"))


def test_retention_keeps_the_newest_valid_set_at_any_age():
    sets = [manifest(NOW - (400 + number) * DAY) for number in range(3)]
    assert kept(plan(sets, keep_within="1d")) == ids(sets[0])


def test_retention_is_refused_when_no_valid_set_would_be_left():
    with pytest.raises(RetentionError, match="leave no valid set"):
        plan([manifest(NOW - 100 * DAY, level="stored")], keep_within="30d")
    assert plan([], keep_within="30d") == ()
    assert len(kept(plan([manifest(NOW, level="stored")], keep_within="30d"))) == 1


def test_retention_keeps_a_held_set_and_gives_the_hold_as_reason():
    sets = daily(5)
    decisions = plan(sets, {sets[4].set_id: "held by alice: an audit"}, keep_last=1)
    assert kept(decisions) == ids(sets[0], sets[4])
    assert decisions[4].reason == "held by alice: an audit"


def test_retention_keeps_but_does_not_count_a_set_dated_in_the_future():
    future = manifest(NOW + 30 * DAY)
    sets = daily(3)
    assert kept(plan([future, *sets], keep_last=1)) == ids(future, sets[0])


def test_retention_keeps_but_does_not_count_a_set_whose_dump_is_dated_in_the_future():
    """A restore of the latest leaves it out, so what it would take has to stay."""
    odd = manifest(NOW, sources={"files.uploads": source(NOW + DAY, consistency="scan")})
    sets = daily(3)
    assert kept(plan([odd, *sets[1:]], keep_last=1)) == ids(odd, sets[1])


def test_retention_orders_sets_by_recorded_time_and_not_by_set_id():
    younger = manifest(NOW, set_id="20200101T000000Z-0000")
    older = manifest(NOW - DAY, set_id="20300101T000000Z-ffff")
    assert kept(plan([older, younger], keep_last=1)) == ids(younger)


def expected(sets, held, within, last, now):
    """The same rules, said set by set."""
    past_valid = [each for each in sets if each.valid("decoded") and each.created <= now + timedelta(minutes=5)]
    result = set()
    for each in sets:
        newer_valid = [other for other in past_valid if other.created > each.created]
        reasons = [each.set_id in held, each.created > now + timedelta(minutes=5), each in past_valid and not newer_valid]
        if within:
            before_window = [other for other in past_valid if other.created < now - within]
            reasons.append(each.created >= now - within)
            reasons.append(bool(before_window) and each == max(before_window, key=lambda other: other.created))
        if last:
            reasons.append(len(newer_valid) < last)
        if any(reasons):
            result.add(each.set_id)
    return result


def test_retention_of_random_histories_equals_the_rules_applied_set_by_set():
    dice = random.Random(20261123)
    deletions = 0
    for _ in range(400):
        now = NOW + dice.random() * 100 * DAY
        moments = {now - timedelta(minutes=dice.randrange(-30, 80 * 24 * 60)) for _ in range(dice.randrange(1, 25))}
        sets = [
            manifest(moment, level=dice.choice(["decoded", "decoded", "stored"]), missing=dice.choice([None, None, {"files.x": "gone"}]))
            for moment in moments
        ]
        dice.shuffle(sets)
        held = {each.set_id: "held" for each in sets if dice.random() < 0.1}
        within = dice.choice([None, timedelta(days=dice.randrange(1, 60))])
        last = dice.choice([None, dice.randrange(1, 8)]) if within else dice.randrange(1, 8)
        rules = {name: value for name, value in (("keep_within", within), ("keep_last", last)) if value}
        usable = [each for each in sets if each.valid("decoded") and each.created <= now + timedelta(minutes=5)]
        want = expected(sets, held, within, last, now)
        if not usable and want != ids(*sets):
            with pytest.raises(RetentionError):
                plan(sets, held, now, **rules)
            continue
        decisions = plan(sets, held, now, **rules)
        assert kept(decisions) == want
        deletions += len(sets) - len(want)
        if usable:
            assert max(usable, key=lambda each: each.created).set_id in kept(decisions)
            left = [each for each in usable if each.set_id in kept(decisions)]
            assert len(left) >= min(last or 1, len(usable))
            if within:
                for moment in (now - within * dice.random() for _ in range(5)):
                    assert any(each.created <= moment for each in left) == any(each.created <= moment for each in usable)
        survivors = [each for each in sets if each.set_id in kept(decisions)]
        assert kept(plan(survivors, held, now, **rules)) == ids(*survivors)
    assert deletions > 500


def test_retention_applied_every_night_always_keeps_enough_valid_sets():
    dice = random.Random(7)
    sets = []
    for night in range(250):
        now = NOW + night * DAY
        sets.append(manifest(now, missing={"files.x": "gone"} if dice.random() < 0.4 else None))
        valid_before = [each for each in sets if each.valid("decoded")]
        if not valid_before:
            continue
        decisions = plan(sets, now=now, keep_last=5, keep_within="4d")
        sets = [decision.manifest for decision in decisions if decision.keep]
        assert len([each for each in sets if each.valid("decoded")]) >= min(5, len(valid_before))
        assert len(sets) < 40


# The deletion itself ---------------------------------------------------------------------------------------------------


def ship(tmp_path, destination, age, **changes):
    path, made = make_set(tmp_path / "staging", TODAY - age, **changes)
    upload_set(path, destination)
    shutil.rmtree(path)
    return made


def run(destination: Destination, newest, keep=None, now=None, plan_name="openmanus", others=()):
    keep, now = keep or Retention(keep_last=1), now or datetime.now(UTC)
    rules = {"level": "decoded", "rpo": DAY, "key": KEY.verify_key, "after": newest.set_id, "others": others}
    return prune(destination, plan_name, keep, now=now, **rules)


def folders_at(destination):
    return {key.split("/")[1] for key in keys_of(destination, "openmanus/")}


def test_prune_deletes_only_sets_that_no_rule_keeps(destination, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    old = [ship(tmp_path, destination, number * DAY) for number in (3, 2, 1)]
    newest = ship(tmp_path, destination, timedelta())
    foreign = ship(tmp_path, destination, 100 * DAY, plan="other")
    put(destination, "openmanus/notes.txt", b"not a set", tmp_path)
    done = run(destination, newest, Retention(keep_last=2))
    assert done.deleted == (old[0].set_id, old[1].set_id)
    assert set(done.kept) == ids(newest, old[2])
    assert folders_at(destination) == {*ids(newest, old[2]), "notes.txt"}
    assert keys_of(destination, f"{foreign.path}/")
    messages = [record.getMessage() for record in caplog.records]
    shown = next(number for number, message in enumerate(messages) if f"DELETE {old[0].set_id}" in message)
    gone = next(number for number, message in enumerate(messages) if f"{old[0].set_id} is deleted" in message)
    assert shown < gone


def test_prune_is_refused_when_clocks_differ(destination, tmp_path):
    old, newest = ship(tmp_path, destination, 9 * DAY), ship(tmp_path, destination, timedelta())
    for skew in (timedelta(minutes=6), -timedelta(minutes=6), 400 * DAY):
        with pytest.raises(RetentionError, match="clock says"):
            run(destination, newest, now=datetime.now(UTC) + skew)
    assert folders_at(destination) == ids(old, newest)
    run(destination, newest, now=datetime.now(UTC) + timedelta(minutes=4))
    assert folders_at(destination) == ids(newest)


def test_prune_does_not_take_a_slow_destination_for_a_wrong_clock(local, tmp_path, monkeypatch):
    newest = ship(tmp_path, local, timedelta())
    passed = iter([0, 0, 400])
    monkeypatch.setattr(sets_prune.time, "monotonic", lambda: next(passed))
    moment = datetime.now(UTC)
    slow, asked_after_it = Folder("slow", tmp_path / "unmounted"), Folder("third", tmp_path)
    monkeypatch.setattr(asked_after_it, "now", lambda: moment + timedelta(seconds=400))
    assert run(local, newest, now=moment, others=(slow, asked_after_it)).deleted == ()


def test_prune_is_refused_when_the_set_of_the_run_is_missing(local, tmp_path):
    sets = [ship(tmp_path, local, 9 * DAY), ship(tmp_path, local, timedelta())]
    with pytest.raises(RetentionError, match="is not at"):
        run(local, manifest(TODAY))
    (local.root / sets[1].path / "manifest.json.sig").unlink()
    with pytest.raises(RetentionError, match="is not at"):
        run(local, sets[1])
    assert folders_at(local) == ids(*sets)


def test_prune_in_a_gap_names_the_sets_that_are_not_accepted(local, tmp_path, caplog):
    """They may be why there is a gap at all."""
    oldest, hidden = (ship(tmp_path, local, days * DAY) for days in (40, 2))
    ship(tmp_path, local, 31 * DAY)
    newest = ship(tmp_path, local, timedelta())
    (local.root / hidden.path / "manifest.json.sig").unlink()
    with pytest.raises(RetentionError, match=r"1 sets there can't be read or are not accepted"):
        run(local, newest, MONTH)
    assert hidden.set_id in caplog.text
    assert folders_at(local) >= ids(oldest, hidden)


MONTH = Retention(keep_within="30d")


def jumped(tmp_path, destination, days=1):
    """30 nightly sets, and those of so many days since, all made by a clock that was 60 days ahead by then; the newest last."""
    nightly = [ship(tmp_path, destination, (60 + days + number) * DAY) for number in reversed(range(30))]
    return nightly, [ship(tmp_path, destination, number * DAY) for number in reversed(range(days))]


def confirm(destination, made, key=KEY, time=TODAY):
    add_record(destination, confirmation(made, time, "alice", "the machine was off"), key)


@pytest.mark.parametrize("days", [1, 2])
def test_prune_deletes_nothing_after_a_clock_jumped_until_a_person_confirms_the_gap(destination, tmp_path, days):
    nightly, since = jumped(tmp_path, destination, days)
    with pytest.raises(RetentionError, match=f"29 of {30 + days} sets at .* no set was made after set {nightly[-1].set_id}") as caught:
        run(destination, since[-1], MONTH)
    assert f"openmanus_maintenance with confirm_gap {nightly[-1].set_id}" in caught.value.next_step
    assert folders_at(destination) == ids(*nightly, *since)
    confirm(destination, nightly[-1])
    assert len(run(destination, since[-1], MONTH).deleted) == 29
    assert folders_at(destination) == ids(nightly[-1], *since)


def test_prune_is_refused_when_the_clock_jumps_between_upload_and_prune(local, tmp_path, monkeypatch):
    nightly = [ship(tmp_path, local, number * DAY) for number in reversed(range(30))]
    monkeypatch.setattr(local, "now", lambda: datetime.now(UTC) + 60 * DAY)
    with pytest.raises(RetentionError, match=f"29 of 30 sets .* after set {nightly[-1].set_id}"):
        run(local, nightly[-1], MONTH, now=datetime.now(UTC) + 60 * DAY)
    assert folders_at(local) == ids(*nightly)


def test_prune_works_as_before_once_the_clock_is_right_again(local, tmp_path):
    """What the wrong clock has dated counts for nothing. It left no gap, as another backup was made that night."""
    nightly = [ship(tmp_path, local, number * DAY) for number in reversed(range(1, 32))]
    future = ship(tmp_path, local, -60 * DAY)
    newest = ship(tmp_path, local, timedelta())
    assert run(local, newest, MONTH).deleted == (nightly[0].set_id,)
    assert folders_at(local) == ids(*nightly[1:], newest, future)


def test_prune_is_refused_once_the_clock_is_right_again_when_a_night_has_no_set_of_its_own(local, tmp_path):
    nightly = [ship(tmp_path, local, number * DAY) for number in reversed(range(2, 33))]
    future = ship(tmp_path, local, -60 * DAY)
    newest = ship(tmp_path, local, timedelta())
    with pytest.raises(RetentionError, match=f"after set {nightly[-1].set_id}"):
        run(local, newest, MONTH)
    assert folders_at(local) == ids(*nightly, future, newest)
    confirm(local, nightly[-1])
    assert len(run(local, newest, MONTH).deleted) == 2


@pytest.mark.parametrize("forgery", ["other key", "other set", "of before the jump"])
def test_prune_deletes_nothing_when_the_confirmation_of_the_gap_does_not_count(local, tmp_path, forgery):
    nightly, since = jumped(tmp_path, local)
    if forgery == "other key":
        confirm(local, nightly[-1], SigningKey.generate())
    elif forgery == "other set":
        confirm(local, nightly[-2])
        (local.root / nightly[-2].path / "records").rename(local.root / nightly[-1].path / "records")
    else:
        confirm(local, nightly[-1], time=nightly[-1].created + DAY)
    with pytest.raises(RetentionError, match="confirm_gap"):
        run(local, since[-1], MONTH)
    assert folders_at(local) == ids(*nightly, *since)


def test_prune_by_keep_last_alone_needs_no_confirmation(local, tmp_path):
    nightly, since = jumped(tmp_path, local)
    run(local, since[-1], Retention(keep_last=14))
    assert folders_at(local) == ids(*nightly[-13:], *since)


def test_prune_is_refused_in_a_gap_when_keep_last_keeps_only_some_sets(local, tmp_path):
    nightly, since = jumped(tmp_path, local)
    with pytest.raises(RetentionError, match="17 of 31 sets"):
        run(local, since[-1], Retention(keep_within="30d", keep_last=14))
    assert folders_at(local) == ids(*nightly, *since)


def test_prune_goes_on_by_itself_when_sets_fill_the_whole_window_after_a_gap(local, tmp_path):
    """Whatever the clock did in the gap, what lies before it is older than the window by now."""
    before = [ship(tmp_path, local, (50 + number) * DAY) for number in range(3)]
    since = [ship(tmp_path, local, number * DAY) for number in range(31)]
    assert len(run(local, since[0], MONTH).deleted) == 3
    assert folders_at(local) == ids(*since)
    assert not folders_at(local) & ids(*before)


def test_prune_deletes_a_set_whose_hold_ended_among_others_that_are_held(local, tmp_path):
    """Prune itself made the gaps between held sets, so they need no confirmation."""
    held = [ship(tmp_path, local, days * DAY, hold=True) for days in (300, 200, 100)]
    since = [ship(tmp_path, local, number * DAY) for number in range(31)]
    add_record(local, release(held[0], "manifest", TODAY, "alice", "no longer needed"), KEY)
    assert run(local, since[0], MONTH).deleted == (held[0].set_id,)


def test_prune_leaves_folders_without_manifest_alone_after_a_clock_jumped(local, tmp_path):
    since = [ship(tmp_path, local, age) for age in (60 * DAY, timedelta())]
    left = ship(tmp_path, local, 60 * DAY)
    (local.root / left.path / "manifest.json").unlink()
    age(local.root / left.path, days=59)
    assert run(local, since[-1], MONTH).swept == ()
    confirm(local, since[0])
    assert run(local, since[-1], MONTH).swept == (left.set_id,)


def test_prune_keeps_held_sets_until_released(destination, tmp_path):
    born_held = ship(tmp_path, destination, 9 * DAY, hold=True)
    held = ship(tmp_path, destination, 8 * DAY)
    newest = ship(tmp_path, destination, timedelta())
    record = hold(held, TODAY, "restore r", "being restored")
    add_record(destination, record, KEY)
    assert run(destination, newest).deleted == ()
    add_record(destination, release(held, record.name, TODAY, "restore r", "accepted"), KEY)
    assert run(destination, newest).deleted == (held.set_id,)
    add_record(destination, release(born_held, "manifest", TODAY, "alice", "no longer needed"), KEY)
    assert run(destination, newest).deleted == (born_held.set_id,)
    assert folders_at(destination) == ids(newest)


def test_prune_respects_a_hold_added_between_planning_and_deletion(destination, tmp_path, monkeypatch):
    sets = [ship(tmp_path, destination, number * DAY) for number in (3, 2)]
    newest = ship(tmp_path, destination, timedelta())
    real = destination.delete

    def hold_the_next(keys):
        monkeypatch.setattr(destination, "delete", real)
        real(keys)
        add_record(destination, hold(sets[1], TODAY, "restore r", "being restored"), KEY)

    monkeypatch.setattr(destination, "delete", hold_the_next)
    done = run(destination, newest)
    assert done.deleted == (sets[0].set_id,)
    assert set(done.kept) == folders_at(destination) == ids(sets[1], newest)


def test_prune_keeps_a_set_whose_hold_lacks_its_signature(local, tmp_path):
    held, newest = ship(tmp_path, local, 9 * DAY), ship(tmp_path, local, timedelta())
    record = hold(held, TODAY, "alice", "an audit")
    add_record(local, record, KEY)
    (local.root / held.path / "records" / f"{record.name}.json.sig").unlink()
    assert run(local, newest).deleted == ()
    assert folders_at(local) == ids(held, newest)


def test_prune_reports_and_keeps_sets_with_tampered_or_moved_manifests(local, tmp_path):
    tampered, moved, newest = (ship(tmp_path, local, age) for age in (9 * DAY, 8 * DAY, timedelta()))
    path = local.root / tampered.path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"note": ""', b'"note": "x"'))
    (local.root / moved.path).rename(local.root / "openmanus/20200101T000000Z-0000")
    for _ in range(2):
        done = run(local, newest)
        assert done.deleted == done.swept == ()
        assert len(done.findings) == 2
    assert folders_at(local) == {tampered.set_id, "20200101T000000Z-0000", newest.set_id}


def test_prune_keeps_a_set_whose_manifest_changes_before_deletion(local, tmp_path, monkeypatch):
    doomed, newest = ship(tmp_path, local, 9 * DAY), ship(tmp_path, local, timedelta())
    real = sets_prune._plan

    def tamper_after_planning(*arguments):
        decisions = real(*arguments)
        (local.root / doomed.path / "manifest.json").write_bytes(b"{}")
        return decisions

    monkeypatch.setattr(sets_prune, "_plan", tamper_after_planning)
    assert run(local, newest).deleted == ()
    assert doomed.set_id in folders_at(local)


KILLED = """
    import os, signal, sys
    from datetime import UTC, datetime, timedelta
    from pathlib import Path
    from recovery.common.trusted_path import where
    from recovery.crypto.signing import VerifyKey
    from recovery.destinations.folder import Folder
    from recovery.plan.model import Retention
    from recovery.sets.prune import prune
    root, public, after, survive = sys.argv[1:]
    left = int(survive)
    unlink = os.unlink
    def unlink_and_die(path, **named):
        global left
        if b"openmanus" in where(path):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        unlink(path, **named)
    os.unlink = unlink_and_die
    key = VerifyKey.from_pem(Path(public).read_text())
    rules = {"level": "decoded", "rpo": timedelta(days=1), "key": key, "now": datetime.now(UTC), "after": after, "others": ()}
    prune(Folder("local", Path(root)), "openmanus", Retention(keep_last=1), **rules)
"""


@pytest.mark.parametrize("survive", range(8))
def test_prune_finishes_a_deletion_that_was_killed_at_any_file(local, tmp_path, survive):
    doomed, newest = ship(tmp_path, local, 9 * DAY), ship(tmp_path, local, timedelta())
    (tmp_path / "public.pem").write_bytes(KEY.verify_key.pem)
    ended = run_python(KILLED, local.root, tmp_path / "public.pem", newest.set_id, survive)
    assert ended.returncode == -9, ended.stderr
    there = keys_of(local, f"{doomed.path}/")
    assert len(there) == 8 - survive
    assert (f"{doomed.path}/manifest.json" in there) == (survive == 0)
    first = run(local, newest)
    assert first.deleted == ((doomed.set_id,) if survive == 0 else ())
    assert first.swept == ()
    if survive:
        age(local.root / doomed.path, days=4)
        assert run(local, newest).swept == (doomed.set_id,)
    assert folders_at(local) == ids(newest)
    assert list(local.folders("openmanus/")) == [newest.set_id]


def age(folder, days):
    for path in folder.rglob("*"):
        os.utime(path, (TODAY.timestamp() - days * 86400,) * 2)


def test_prune_removes_only_leftovers_that_are_old_and_not_held(local, tmp_path):
    leftovers = [ship(tmp_path, local, 9 * DAY) for _ in range(3)]
    newest = ship(tmp_path, local, timedelta())
    for left in leftovers:
        (local.root / left.path / "manifest.json").unlink()
    add_record(local, hold(leftovers[2], TODAY, "alice", "an audit"), KEY)
    age(local.root / leftovers[0].path, days=4)
    age(local.root / leftovers[1].path, days=2)
    age(local.root / leftovers[2].path, days=4)
    assert run(local, newest).swept == (leftovers[0].set_id,)
    assert folders_at(local) == ids(*leftovers[1:], newest)


def test_prune_skips_symlink_named_like_a_set(local, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "letter").write_text("not a backup")
    newest = ship(tmp_path, local, timedelta())
    (local.root / "openmanus" / "20200101T000000Z-0000").symlink_to(elsewhere)
    age(elsewhere, days=400)
    assert run(local, newest).swept == ()
    assert (elsewhere / "letter").read_text() == "not a backup"


def test_prune_keeps_a_leftover_that_is_held_at_another_destination(local, tmp_path):
    (tmp_path / "other").mkdir()
    other = Folder("other", tmp_path / "other")
    newest = ship(tmp_path, local, timedelta())
    path, held = make_set(tmp_path / "staging", TODAY - 9 * DAY, hold=True)
    for destination in (local, other):
        upload_set(path, destination)
    (local.root / held.path / "manifest.json").unlink()
    age(local.root / held.path, days=4)
    assert run(local, newest, others=[other]).swept == ()
    other.root.rename(tmp_path / "away")
    assert run(local, newest, others=[other]).swept == ()
    (tmp_path / "away").rename(other.root)
    add_record(other, release(held, "manifest", TODAY, "alice", "no longer needed"), KEY)
    assert run(local, newest, others=[other]).swept == (held.set_id,)


def test_prune_keeps_a_set_that_is_being_uploaded(destination, tmp_path):
    newest = ship(tmp_path, destination, timedelta())
    path, being_written = make_set(tmp_path / "staging", TODAY - 30 * DAY)
    put(destination, f"{being_written.path}/postgres/main/shop.000.tar.zst.age", b"x", tmp_path)
    assert run(destination, newest).swept == ()
    assert upload_set(path, destination).set_id in folders_at(destination)
