"""What differs between two sides is named, and of long values the place is shown where they differ."""

import pytest

from recovery.packs.content_diff import compare


def test_compare_names_every_difference():
    expected = [("table", "a", {"count": 1, "digest": "x"}), ("table", "b", {"count": 1}), ("index", "c", {"valid": True})]
    found = [("table", "a", {"count": 2, "digest": "x"}), ("index", "c", {"valid": True, "more": 1}), ("view", "d", {})]
    assert [str(difference) for difference in compare(expected, found)] == [
        "index c: more is 1, the set has nothing",
        "table a: count is 2, the set has 1",
        "table b: is missing",
        "view d: is there, but not in the set",
    ]
    assert compare(expected, expected) == []


@pytest.mark.parametrize(("before", "after"), [(0, 3000), (30, 3000), (1500, 1500), (3000, 30), (3000, 0)])
def test_compare_of_long_values_shows_both_around_the_first_place_that_differs(before, after):
    found, expected = (f"{'b' * before}{word}{'a' * after}" for word in ("lives", "saved"))
    (difference,) = compare([("view", "v", {"definition": expected})], [("view", "v", {"definition": found})])
    here, there = difference.what.removeprefix("definition is ").split(", the set has ")
    assert "lives" in here
    assert "saved" in there
    for text, whole in ((here, found), (there, expected)):
        assert text.strip("…") in whole
        assert len(text.strip("…")) == 120
        assert (text[0] == "…", text[-1] == "…") == (before > 40, after > 40)


def test_compare_of_a_value_that_was_cut_off_shows_its_end():
    (difference,) = compare([("view", "v", {"definition": "a" * 1000 + "end"})], [("view", "v", {"definition": "a" * 1000})])
    assert difference.what == f"definition is …{'a' * 120}, the set has …{'a' * 117}end"


def test_compare_of_values_of_few_characters_shows_them_whole():
    (difference,) = compare([("view", "v", {"definition": "a" * 119 + "b"})], [("view", "v", {"definition": "a" * 119 + "c"})])
    assert difference.what == f"definition is {'a' * 119}c, the set has {'a' * 119}b"


def test_compare_of_a_fact_with_named_parts_names_each_part_that_differs():
    expected = {"columns": {"a": {"type": "integer", "default": "1"}, "b": {"type": "text"}, "c": {"type": "text", "default": None}}}
    found = {"columns": {"a": {"type": "integer", "default": "2"}, "c": {"type": "text"}, "d": {"type": "text"}}}
    assert [difference.what for difference in compare([("table", "t", expected)], [("table", "t", found)])] == [
        "columns a default is 2, the set has 1",
        "columns b is nothing, the set has {'type': 'text'}",
        "columns c default is nothing, the set has nothing",
        "columns d is {'type': 'text'}, the set has nothing",
    ]
