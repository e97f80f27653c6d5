import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from recovery.common.units import human_duration, human_moment, human_size, iso, parse_duration, parse_moment, parse_size, plain_markdown


@pytest.mark.parametrize(("text", "hours"), [("90s", 0.025), ("30m", 0.5), ("24h", 24), ("7d", 168), ("2w", 336), ("1d12h", 36)])
def test_parse_duration_reads_every_unit_and_sums(text, hours):
    assert parse_duration(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "12", "h", "1x", "0s", "-1h", "1.5h", "1h ", "one day", "99999999w"])
def test_parse_duration_refuses_an_invalid_text_with_an_example(text):
    with pytest.raises(ValueError, match=r"must be longer|write for example"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 << 20), ("1GiB", 1 << 30), ("20GB", 20 * 10**9), ("7", 7), ("7 B", 7), ("3TiB", 3 << 40)]
)
def test_parse_size_reads_binary_and_decimal_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "GiB", "1 gib", "-1", "1.5GiB", "1EB"])
def test_parse_size_refuses_an_invalid_text_with_an_example(text):
    with pytest.raises(ValueError, match="write for example"):
        parse_size(text)


def test_parse_moment_refuses_a_text_without_offset():
    assert parse_moment("2026-11-23T01:00:00+02:00") == datetime(2026, 11, 22, 23, tzinfo=UTC)
    assert parse_moment("2026-11-23T01:00:00Z") == datetime(2026, 11, 23, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="says no offset"):
        parse_moment("2026-11-23T01:00:00")
    with pytest.raises(ValueError, match="is not a moment"):
        parse_moment("yesterday")


@pytest.mark.parametrize("text", ["2026-11-23", "20261123", "2026-11-23 01", "2026-11-23T01:00:00.5"])
def test_parse_moment_proposes_moments_that_are_accepted_for_a_text_without_offset(text):
    with pytest.raises(ValueError, match="says no offset") as refused:
        parse_moment(text)
    proposed = re.findall(r"\S+(?:Z|\+01:00)", str(refused.value))
    assert len(list(map(parse_moment, proposed))) == 2


def test_iso_ends_with_z_and_is_read_by_parse_moment():
    moment = datetime(2026, 11, 23, 1, 2, 3, 456, tzinfo=UTC)
    assert iso(moment) == "2026-11-23T01:02:03.000456Z"
    assert parse_moment(iso(moment)) == moment


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")])
def test_human_size_picks_the_largest_unit(size, text):
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (12, "12 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (273600, "3 d 4 h"),
        (timedelta(days=30), "30 d"),
    ],
)
def test_human_duration_shows_at_most_two_units(seconds, text):
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("shop.orders_2026", "shop.orders_2026"),
        ("x\n\n### Room\n\n- enough", "x\\\\n\\\\n### Room\\\\n\\\\n- enough"),
        ("a | b", "a \\| b"),
        ("**yes** [here](x) <b> `c` ~~d~~ &lt; __e__", "\\*\\*yes\\*\\* \\[here\\](x) \\<b\\> \\`c\\` \\~\\~d\\~\\~ \\&lt; \\_\\_e\\_\\_"),
        ("a\u202eb\u2028c", "a\\\\u202eb\\\\u2028c"),
    ],
)
def test_plain_markdown_shows_a_name_as_it_is_on_one_line(text, shown):
    assert plain_markdown(text) == shown


def test_human_moment_is_the_full_second_before_or_after_in_utc():
    moment = datetime(2026, 11, 23, 1, 59, 59, 1, tzinfo=timezone(timedelta(hours=1)))
    assert human_moment(moment) == "2026-11-23 00:59:59Z"
    assert human_moment(moment, up=True) == "2026-11-23 01:00:00Z"
    assert parse_moment(human_moment(moment)) == datetime(2026, 11, 23, 0, 59, 59, tzinfo=UTC)
    assert human_moment(moment.replace(microsecond=0), up=True) == "2026-11-23 00:59:59Z"


def test_plain_markdown_cuts_a_text_that_nobody_can_read():
    assert plain_markdown("x" * 4000) == "x" * 4000
    assert len(plain_markdown("x" * 10_000_000)) < 5000
