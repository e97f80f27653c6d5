import pytest

from recovery.common.json_text import read_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, -2.5, 1e3, true, null, "b"], "c": {}}', {"a": [1, -2.5, 1000.0, True, None, "b"], "c": {}}),
        ('"café"'.encode(), "café"),
        (b" [ ] \n", []),
        ('{"a": {"a": 1}}', {"a": {"a": 1}}),
        ('"NaN"', "NaN"),
        ("9" * 4300, int("9" * 4300)),
        ("1e308", 1e308),
    ],
)
def test_read_json_returns_the_value(text, value):
    assert read_json(text) == value


def test_read_json_keeps_half_characters_as_names_of_files_have_them():
    assert read_json(r'"\udcff"') == "\udcff"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("9" * 4301, "4300 digits"),
        ("1e999", "a number in it is too large"),
        ("[-1e400]", "a number in it is too large"),
        ("NaN", "NaN is no number in JSON"),
        ('{"a": [-Infinity]}', "-Infinity is no number in JSON"),
        ('{"a": 1, "b": 2, "a": 1}', "a key is written twice"),
        (r'{"a": 1, "\u0061": 2}', "a key is written twice"),
        ('[{"b": {"a": 1, "a": 1}}]', "a key is written twice"),
        (b"\xff", "invalid start byte"),
        (b'"\xed\xa0\x80"', "invalid continuation byte"),
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
        ("\ufeff{}", "Expecting value"),
        ('{"a": 1', "delimiter"),
        ("{'a': 1}", "double quotes"),
        ('"\n"', "Invalid control character"),
    ],
)
def test_read_json_refuses_what_is_no_json_with_a_value_error(text, said):
    with pytest.raises(ValueError, match=said):
        read_json(text)
