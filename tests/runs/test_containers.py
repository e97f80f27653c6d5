"""The journal's containers: what ran when they were looked at first is never forgotten."""

from dataclasses import asdict

import pytest

from recovery.runs.containers import Noted, noted
from recovery.runs.journal import Journal
from recovery.runs.journal_steps import Step


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl")


def container(name, level=0, *, ran=True, started_at="t1"):
    return Noted(None, name, "", "", level, ran, started_at, "")


def found(journal, *containers):
    journal.record(Step.CONTAINERS_FOUND, containers=[asdict(each) for each in containers])


def test_nothing_was_found_in_a_journal_that_says_nothing(journal):
    assert noted(journal) == []


def test_containers_are_in_the_order_of_stopping(journal):
    found(journal, container("db", 2), container("app"), container("queue", 1))
    assert [each.name for each in noted(journal)] == ["app", "queue", "db"]


def test_second_look_forgets_nothing_that_ran(journal):
    found(journal, container("a"), container("b", ran=False), container("gone"))
    found(journal, container("a", ran=False, started_at="t2"), container("b", started_at="t3"), container("new", ran=False))
    assert {each.name: (each.ran, each.started_at) for each in noted(journal)} == {
        "a": (True, "t2"),
        "b": (True, "t3"),
        "gone": (True, "t1"),
        "new": (False, "t1"),
    }


def test_containers_of_two_engines_may_have_one_name(journal):
    other = Noted("other", "a", "", "", 0, False, "t1", "")
    found(journal, container("a"), other)
    assert [each.ran for each in noted(journal)] == [True, False]
