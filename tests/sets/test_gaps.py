from datetime import timedelta

import pytest

from recovery.crypto.signing import SigningKey
from recovery.sets.gaps import find_gaps, longest_wait, unconfirmed
from recovery.sets.records import add_record, confirmation
from tests.support.sets import KEY, NOW, manifest

DAY = timedelta(days=1)


def made(*ages, **changes):
    """Sets of so many days ago."""
    return [manifest(NOW - age * DAY, **changes) for age in ages]


def gaps(sets, now=NOW, rpo=DAY):
    return [(gap.before, gap.until) for gap in find_gaps(sets, rpo=rpo, now=now)]


def test_sets_as_far_apart_as_the_rpo_and_the_wait_for_a_restore_leave_no_gap():
    assert gaps(made(0, 1, 2.5, 3.5)) == []
    assert longest_wait(DAY) == 1.5 * DAY


def test_gap_lies_between_sets_that_are_further_apart():
    newest, middle, oldest = made(0, 3, 10)
    assert gaps([middle, newest, oldest]) == [(middle, newest.created), (oldest, middle.created)]
    assert gaps([middle, newest, oldest], rpo=3 * DAY) == [(oldest, middle.created)]


def test_gap_lies_between_the_newest_set_and_now():
    [made_last] = made(0)
    later = NOW + 60 * DAY
    assert gaps([made_last], now=later) == [(made_last, later)]
    assert gaps([]) == []


def test_sets_dated_in_the_future_fill_no_gap():
    future, newest, older = made(-3, 0, 1)
    assert gaps([future, newest, older]) == []
    assert gaps([future, older], now=NOW + 2 * DAY) == [(older, NOW + 2 * DAY)]


def test_incomplete_and_unverified_sets_fill_a_gap():
    """Each shows a clock that goes as it should."""
    sets = [*made(0, 3), *made(1, missing={"files.uploads": "no answer"}), *made(2, level="stored")]
    assert gaps(sets) == []


def test_gap_in_words_names_the_set_before_it_and_its_length():
    [older] = made(60)
    [gap] = find_gaps([older], rpo=DAY, now=NOW)
    assert str(gap) == f"after set {older.set_id}, from 2026-09-24T12:00:00Z to 2026-11-23T12:00:00Z, 60 d"


# Confirmation ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def destination(local):
    return local


def left(sets, destination, now=NOW):
    return [gap.before for gap in unconfirmed(find_gaps(sets, rpo=DAY, now=now), destination, KEY.verify_key, rpo=DAY)]


def confirm(destination, before, time=NOW, key=KEY):
    add_record(destination, confirmation(before, time, "alice", "the machine was off"), key)


def test_confirmation_counts_for_its_gap_and_those_before_it(destination):
    sets = made(0, 3, 10, 20)
    assert left(sets, destination) == sets[1:]
    confirm(destination, sets[2])
    assert left(sets, destination) == [sets[1]]
    confirm(destination, sets[1])
    assert left(sets, destination) == []


def test_confirmation_of_a_gap_until_now_counts_once_the_next_set_is_made(destination):
    sets = made(3)
    confirm(destination, sets[0])
    assert left(sets, destination) == []
    next_day = manifest(NOW + DAY)
    assert left([*sets, next_day], destination, now=NOW + DAY) == []


def test_confirmation_does_not_count_for_a_clock_that_jumps_after_it(destination):
    sets = made(3)
    confirm(destination, sets[0])
    assert left([*sets, manifest(NOW + 60 * DAY)], destination, now=NOW + 60 * DAY) == sets
    assert left(sets, destination, now=NOW + 60 * DAY) == sets


def test_confirmation_without_the_signature_of_the_key_does_not_count(destination):
    sets = made(0, 3)
    confirm(destination, sets[1], key=SigningKey.generate())
    assert left(sets, destination) == [sets[1]]
