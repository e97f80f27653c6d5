"""What a plan file may hold is read; one step beyond is refused in words, with the place."""

import datetime
import os
import re
import socket

import pytest

from recovery.plan.yaml_file import LONGEST_KEY, LONGEST_NUMBER, MAX_BYTES, MAX_DEPTH, MAX_VALUES, read_yaml


@pytest.fixture
def read(tmp_path):
    """The value of a text, or of bytes."""

    def of(content):
        path = tmp_path / "plan.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_yaml(path)

    return of


@pytest.fixture
def refusal(read):
    """What is said of a text that is not read."""

    def of(content):
        with pytest.raises(ValueError) as raised:
            read(content)
        assert type(raised.value) is ValueError
        return str(raised.value)

    return of


def nested(levels):
    return "[" * levels + "]" * levels


def listed(values):
    """A text that has so many values: the list and its items."""
    return f"[{', '.join('a' * (values - 1))}]"


def keyed(values):
    """A text that has so many keys and values: the object, its keys and what is under them."""
    return f"{{{', '.join(f'k{number}: a' for number in range((values - 1) // 2))}}}"


def key_of(length):
    return f'"{"k" * length}": a'


LIMITS = {
    "bytes": (lambda size: b"a: " + b"x" * (size - 3), MAX_BYTES, "is larger than 64 KiB, which no plan needs"),
    "bytes of long characters": (
        lambda size: f"a: {'é' * ((size - 4) // 2)}{'x' * (size % 2 + 1)}".encode(),
        MAX_BYTES,
        "is larger than 64 KiB, which no plan needs",
    ),
    "values": (listed, MAX_VALUES, f"line 1, column {MAX_VALUES * 3 - 1}: there are more than {MAX_VALUES} keys and values"),
    "levels": (nested, MAX_DEPTH, f"line 1, column {MAX_DEPTH + 1}: values are nested deeper than {MAX_DEPTH} levels"),
    "a key": (key_of, LONGEST_KEY, f"line 1, column 1: a key has at most {LONGEST_KEY} characters"),
    "a whole number": (lambda digits: f"a: {'9' * digits}", LONGEST_NUMBER, "line 1, column 4: a number has at most 40 characters"),
    "a hexadecimal number": (lambda size: f"a: 0x{'f' * (size - 2)}", LONGEST_NUMBER, "line 1, column 4: a number has at most 40"),
    "a fraction": (lambda size: f"a: 0.{'1' * (size - 2)}", LONGEST_NUMBER, "line 1, column 4: a number has at most 40 characters"),
    "a date": (lambda size: f"a: 2026-11-23 01:00:00{' ' * (size - 20)}Z", LONGEST_NUMBER, "line 1, column 4: a number has at most 40"),
}
"""How to write so many of something, the most that are read, and what is said of one more."""


@pytest.mark.parametrize("what", LIMITS)
def test_read_yaml_accepts_a_file_at_the_limit(read, what):
    written, most, _ = LIMITS[what]
    assert read(written(most))


@pytest.mark.parametrize("what", LIMITS)
def test_read_yaml_refuses_a_file_one_above_the_limit(refusal, what):
    written, most, said = LIMITS[what]
    assert said in refusal(written(most + 1))


def test_read_yaml_counts_keys_as_values(read, refusal):
    assert len(read(keyed(MAX_VALUES - 1))) == MAX_VALUES // 2 - 1
    assert "there are more than" in refusal(keyed(MAX_VALUES + 1))


def test_read_yaml_accepts_a_long_text_where_a_long_number_is_refused(read):
    assert read(f'a: "{"9" * 5000}"') == {"a": "9" * 5000}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: &anchor b", {"a": "b"}),
        ("? a\n: b", {"a": "b"}),
        ('{"1": a, "true": b, "<<": c}', {"1": "a", "true": "b", "<<": "c"}),
        ("a: 1_000", {"a": 1000}),
        ("a: 1.5", {"a": 1.5}),
        ("a: yes", {"a": True}),
        ("a: ~", {"a": None}),
        ("a: 2026-11-23", {"a": datetime.date(2026, 11, 23)}),
        ("a: =", {"a": "="}),
        ("a: <<", {"a": "<<"}),
        ("a: |\n  b\n  c\n", {"a": "b\nc\n"}),
        ("\ufeffa: b", {"a": "b"}),
        ("%YAML 1.1\n---\na: b\n...\n", {"a": "b"}),
        ("a: ${A:-*b}", {"a": "${A:-*b}"}),
        ('a: "\\U0001f600"', {"a": "\U0001f600"}),
    ],
)
def test_read_yaml_returns_the_value_of_a_text(read, text, value):
    assert read(text) == value


NUMBER = "looks like a number, a date or a time, and is none; a text can be written in quotes"
ALIAS = "aliases (*name) are not allowed; write the value again, or as ${NAME:-default}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &b 1\nc: *b", f"line 2, column 4: {ALIAS}"),
        ("a: &b\n  c: *b", f"line 2, column 6: {ALIAS}"),
        ("a: *nothing", f"line 1, column 4: {ALIAS}"),
        ("&b c: 1\n*b : 2", f"line 2, column 1: {ALIAS}"),
        ("<<: *b", "line 1, column 5: aliases"),
        ("a: !!str 1", "line 1, column 4: tags such as 'tag:yaml.org,2002:str' are not allowed; a text can be written in quotes"),
        ("a: ! 1", "line 1, column 4: tags such as '!' are not allowed"),
        ("!!map {a: 1}", "line 1, column 1: tags such as 'tag:yaml.org,2002:map' are not allowed"),
        ("- a\n- !!python/object/apply:os.system [x]", "line 2, column 3: tags such as 'tag:yaml.org,2002:python/object/apply:"),
        ("!!str a: b", "line 1, column 1: tags such as 'tag:yaml.org,2002:str'"),
        ("%TAG ! tag:x,\n---\na: !b c", "line 3, column 4: tags such as 'tag:x,b' are not allowed"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is written twice"),
        ('{a: {b: 1, "b": 2}}', "line 1, column 12: the key 'b' is written twice"),
        ("- {a: 1}\n- {a: 1, a: 1}", "line 2, column 10: the key 'a' is written twice"),
        ("1: a", "line 1, column 1: a key must be a text, and this is '1'; a text can be written in quotes"),
        ("on: a", "line 1, column 1: a key must be a text, and this is 'on'"),
        ("~: a", "line 1, column 1: a key must be a text, and this is '~'"),
        ("<<: {a: 1}", "line 1, column 1: a key must be a text, and this is '<<'"),
        ("=: a", "line 1, column 1: a key must be a text, and this is '='"),
        ("{[a]: b}", "line 1, column 2: a key must be a text, and this is a list or an object"),
        ("{{a: b}: c}", "line 1, column 2: a key must be a text, and this is a list or an object"),
        ("a: .inf", "line 1, column 4: .inf is no number that can be compared or counted"),
        ("a: -.inf", "line 1, column 4: -.inf is no number"),
        ("a: .nan", "line 1, column 4: .nan is no number"),
        ("a: 1.0e+999", "line 1, column 4: 1.0e+999 is no number"),
        ("a: 0b_", f"line 1, column 4: '0b_' {NUMBER}"),
        ("- 0x_", f"line 1, column 3: '0x_' {NUMBER}"),
        ("a: 2026-02-30", f"line 1, column 4: '2026-02-30' {NUMBER}"),
        ("a: 2026-02-28 25:00:00", f"line 1, column 4: '2026-02-28 25:00:00' {NUMBER}"),
        ("a: 2026-02-28 05:00:00+99:00", f"line 1, column 4: '2026-02-28 05:00:00+99:00' {NUMBER}"),
        ("a: 1\n---\nb: 2", "line 2, column 1: expected a single document in the stream, but found another document"),
        ("a: [b", "line 2, column 1: while parsing a flow sequence, did not find expected ',' or ']'"),
        ("a:\n\tb: c", "line 2, column 1: while scanning for the next token, found character that cannot start any token"),
        ('a: "\\ud800"', "line 1, column 7: while parsing a quoted scalar, found invalid Unicode character escape code"),
        ("%YAML 9.9\n---\na: b", "line 1, column 1: found incompatible YAML document"),
        ("a: b\0", "byte 5: control characters are not allowed"),
        ("a: é\x1b[2J", "byte 6: control characters are not allowed"),
    ],
)
def test_read_yaml_refuses_what_no_plan_needs_with_its_place(refusal, text, said):
    assert refusal(text).startswith(f"is not readable YAML: {said}")


@pytest.mark.parametrize(
    ("data", "place"), [(b"\xff\xfea\0", 1), (b"a: \xc0\xaf", 4), (b"a: \xed\xa0\x80", 4), (b"a: caf\xe9", 7), (b"a: \xc3", 4)]
)
def test_read_yaml_refuses_bytes_that_are_not_utf_8_with_their_place(refusal, data, place):
    assert refusal(data) == f"is not UTF-8: the byte {place} does not belong there"


def test_read_yaml_shortens_what_it_shows_of_a_tag_and_a_key(refusal):
    for text in (f"a: !{'x' * 5000} b", f"{{{'k' * LONGEST_KEY}: 1, {'k' * LONGEST_KEY}: 1}}"):
        assert len(refusal(text)) < 200


def test_read_yaml_reads_a_link_to_a_file_as_a_mounted_plan_is(tmp_path):
    (tmp_path / "data").write_text("a: b")
    (tmp_path / "plan.yaml").symlink_to("data")
    assert read_yaml(tmp_path / "plan.yaml") == {"a": "b"}


def _unreadable(path):
    path.symlink_to(path.name)


def _socket(path):
    bound = socket.socket(socket.AF_UNIX)
    here = os.open(path.parent, os.O_PATH)  # the name of a socket is short
    bound.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)
    bound.close()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), r"is a folder; put a file there"),
        (os.mkfifo, r"is a pipe, a socket or a device; put a file there"),
        (_socket, r"is a pipe, a socket or a device; put a file there"),
        (lambda path: path.symlink_to("/dev/zero"), r"is a pipe, a socket or a device; put a file there"),
        (lambda path: path.symlink_to("nowhere"), r"can't be read: No such file or directory"),
        (_unreadable, r"can't be read: Too many levels of symbolic links"),
    ],
    ids=["folder", "pipe", "socket", "device", "link to nothing", "link to itself"],
)
def test_read_yaml_refuses_what_is_no_file_without_waiting(tmp_path, make, said):
    make(tmp_path / "plan.yaml")
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        read_yaml(tmp_path / "plan.yaml")
