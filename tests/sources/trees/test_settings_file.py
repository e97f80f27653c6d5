"""Keys of settings files: which differ, and that nothing else is ever shown."""

import pytest

from recovery.sources.trees.settings_file import LARGEST, OTHER, changed_keys, is_settings_file, key_digests


@pytest.mark.parametrize("path", [".env", "srv/.env", "srv/.env.production", "srv/app.env"])
def test_is_settings_file_accepts_names_of_env_files(path):
    assert is_settings_file(path)


@pytest.mark.parametrize("path", ["srv/env", "srv/.environment", "srv/.env/x", "srv/docker-compose.yml"])
def test_is_settings_file_refuses_other_names(path):
    assert not is_settings_file(path)


def keys(data: bytes) -> list[str]:
    return list(key_digests("x", data))


def test_key_digests_find_every_key():
    data = b"# NOT=this\nA=1\n export B = two words \nC=\"it's\nD=inside\nstill\"\nlower=x\nE=''\nF=\n  \nG\n\xff=\xff\n"
    assert keys(data) == ["A", "B", "C", "lower", "E", "F", OTHER]
    assert keys(b'A=1 # it\'s\nB=\'x\' # y"\nC=a#b\'c\'\r\n\r\nD={"a": "b"}\nE="{"a": "b"}"') == ["A", "B", "C", "D", "E"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(b'KEY="-----BEGIN\nMIIEvQIBADANBgkqhkiG9w0BAQ==\n\nSECRET=\n-----END"\nNEXT=1', ["KEY", "NEXT"], id="in quotes"),
        pytest.param(b"KEY=`a\nsecret=b`\nNEXT=1", ["KEY", "NEXT"], id="in backticks"),
        pytest.param(b"KEY=-----BEGIN\nMIIEvQ\nSECRET=\n-----END\n\nNEXT=1", ["NEXT", OTHER], id="without quotes"),
        pytest.param(b"A=1\n\nKEY=abc\\\nsecret=def\n\nNEXT=1", ["A", OTHER], id="continued"),
        pytest.param(b'A=1\n\nKEY="never closed\n\nSECRET=1', ["A", OTHER], id="quote without end"),
        pytest.param(b'A=1\n\nKEY=a"b\n\nsecret=c\n\nd"\n', ["A", OTHER], id="quote within"),
        pytest.param(b'KEY="""\nsecret=abc\n"""\n', [OTHER], id="three quotes"),
        pytest.param(b"KEY='C:\\'\nB='x\nsecret=abc\n'\n", [OTHER], id="quote behind a backslash"),
        pytest.param(b'Key="x\n\nsecret=y"\n\nNEXT=1', ["NEXT", OTHER], id="of a key in upper and lower case"),
        pytest.param("KEY=a\u2028secret=b\x0bsecret=c\nNEXT=1".encode(), ["KEY", "NEXT"], id="ends of lines of other kinds"),
    ],
)
def test_key_digests_tell_no_line_of_a_value_that_runs_over_lines(data, told):
    assert keys(data) == told


def test_key_digests_change_with_any_other_line():
    assert key_digests("x", b"A=1\nG\n") != key_digests("x", b"A=1\nH\n")
    assert key_digests("x", b'A=1\n\nB="1') != key_digests("x", b'A=1\n\nB="2')


@pytest.mark.timeout(60)
def test_key_digests_of_a_value_of_many_lines_read_each_line_once():
    """Whoever may write such a file could make a backup look at its first line as often as it has lines: for days."""
    assert keys(b'A="' + b"x\n" * (LARGEST // 2)) == [OTHER]


def test_key_digests_change_with_any_line_of_a_quoted_value():
    assert key_digests("x", b'A="1\n2"\n') != key_digests("x", b'A="1\n3"\n')
    assert key_digests("x", b'A="1 \\" 2"\n') != key_digests("x", b'A="1 \\" 3"\n')


def test_key_digests_differ_by_path_and_key_and_contain_no_value():
    one, other = key_digests("a", b"PASSWORD=secret\nSAME=secret\n"), key_digests("b", b"PASSWORD=secret\n")
    assert one["PASSWORD"] != one["SAME"]
    assert one["PASSWORD"] != other["PASSWORD"]
    assert "secret" not in str(one)


def test_changed_keys_lists_keys_that_differ_or_are_missing():
    assert changed_keys({"A": "1", "B": "2", "C": "3"}, {"A": "1", "B": "x", "D": "4"}) == (
        "other values: B; only in the set: C; only there now: D"
    )
    assert changed_keys({"A": "1"}, {"A": "1"}) == ""
