"""Variables of a plan's texts: replaced once, as in Compose; what can't be is told with the key's path."""

import time

import pytest

from recovery.plan.variables import MOST_ERRORS, filled
from recovery.plan.yaml_file import MAX_BYTES

ENVIRONMENT = {"HOME": "/home/me", "EMPTY": "", "TURN": "$HOME ${TURN} $$", "_x1": "under", "HALF": "a\udcff", "NUL": "a\0b"}
NAME_NEEDED = "a $ must be followed by a name; write $$ for a $ itself, and no braces in a default"


def text(value):
    """A text filled in, without an error."""
    result, errors = filled(value, ENVIRONMENT)
    assert errors == []
    return result


def errors(value, environ=None):
    return filled(value, ENVIRONMENT if environ is None else environ)[1]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("$HOME", "/home/me"),
        ("${HOME}", "/home/me"),
        ("$HOME/a$HOME", "/home/me/a/home/me"),
        ("$_x1-", "under-"),
        ("[$EMPTY]", "[]"),
        ("${HOME:-x}${HOME-x}", "/home/me/home/me"),
        ("${EMPTY:-x}", "x"),
        ("[${EMPTY-x}]", "[]"),
        ("${NONE:-x}${NONE-y}", "xy"),
        ("[${NONE:-}]", "[]"),
        ("${NONE:-a:-b $HOME}", "a:-b $HOME"),
        ("${HOME:+set}[${EMPTY:+set}${NONE:+set}]", "set[]"),
        ("${EMPTY+set}[${NONE+set}]", "set[]"),
        ("${HOME:?why}${EMPTY?why}", "/home/me"),
        ("$$", "$"),
        ("$$HOME", "$HOME"),
        ("$$$HOME", "$/home/me"),
        ("$$$$", "$$"),
        ("$${HOME}", "${HOME}"),
        ("{$HOME}", "{/home/me}"),
        ("no variable }{", "no variable }{"),
    ],
)
def test_filled_replaces_a_variable_as_compose_does(written, value):
    assert text(written) == value


def test_filled_does_not_look_for_variables_in_a_value_of_the_environment():
    assert text("$TURN") == ENVIRONMENT["TURN"]


def test_filled_replaces_texts_at_every_depth_and_leaves_keys_and_other_values():
    given = {"$HOME": [1, None, 2.5, True, "$HOME", {"a": ["${NONE:-x}"]}]}
    assert text(given) == {"$HOME": [1, None, 2.5, True, "/home/me", {"a": ["x"]}]}
    assert given["$HOME"][4] == "$HOME"


@pytest.mark.parametrize("written", ["$", "a$", "$ HOME", "$1", "${}", "${", "$}", "${HOME", "${A B}", "${HOME:x}", "${-x}", "$é", "$-"])
def test_filled_refuses_a_dollar_without_a_name(written):
    assert errors({"a": {"b": ["x", written]}}) == [f"a.b.1: {NAME_NEEDED}"]


@pytest.mark.parametrize("written", ["${A:-${B}}", "${A:-{}", "${HOME:-$HOME}", "${A:?${B:-c}}"])
def test_filled_refuses_or_leaves_a_variable_inside_a_default(written):
    result, found = filled({"a": written}, {"HOME": "h"})
    if written == "${HOME:-$HOME}":
        assert (result, found) == ({"a": "h"}, [])
    else:
        assert found[0] == f"a: {NAME_NEEDED}"


@pytest.mark.parametrize(
    ("written", "name", "why"),
    [
        ("$NONE", "NONE", ""),
        ("${NONE}", "NONE", ""),
        ("${NONE?}", "NONE", ""),
        ("${NONE:?make it}", "NONE", " (make it)"),
        ("${EMPTY:?make it}", "EMPTY", " (make it)"),
    ],
)
def test_filled_names_a_variable_that_is_not_set_and_says_what_to_write(written, name, why):
    said = f"a.0: the environment variable {name} is not set{why}; set it, or write ${{{name}:-default}}"
    assert errors({"a": [written]}) == [said]


def test_filled_tells_all_faults_of_all_texts():
    said = errors({"a": "$NONE $ $OTHER", "b": ["$NUL", "$HALF"]})
    assert [sentence.partition(":")[0] for sentence in said] == ["a", "a", "a", "b.0", "b.1"]
    assert said[3] == "b.0: has a NUL character, which neither a path nor an argument can hold; take it out"
    assert said[4] == "b.1: an environment variable in it is not UTF-8; set it to a text that is"


def test_filled_accepts_values_up_to_the_limit_and_refuses_one_character_more():
    assert filled({"a": "$A$B"}, {"A": "x" * (MAX_BYTES - 1), "B": "y"})[1] == []
    with pytest.raises(ValueError, match=r"^grows larger than 64 KiB where a\.1 is filled in from the environment$"):
        filled({"a": ["$A", "${B}"]}, {"A": "x" * (MAX_BYTES - 1), "B": "yy"})


def test_filled_stops_at_the_first_value_too_many():
    """However often a large variable is written."""
    with pytest.raises(ValueError, match="grows larger"):
        filled(["$A" * 30_000], {"A": "x" * 60_000})


def test_filled_fills_a_text_of_many_variables_in_a_moment():
    begun = time.monotonic()
    assert text("$_x1 " * 10_000) == "under " * 10_000
    assert errors("${A:-" * 13_000)[0] == f": {NAME_NEEDED}"
    assert time.monotonic() - begun < 5


def test_filled_keeps_as_many_errors_as_are_shown_and_one():
    assert len(errors("$ " * MOST_ERRORS)) == MOST_ERRORS
    assert len(errors("$ " * 30_000)) == MOST_ERRORS + 1
    assert len(errors(["$NONE"] * 1000)) == MOST_ERRORS + 1
