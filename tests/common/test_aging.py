from datetime import UTC, datetime, timedelta

import pytest

from recovery.common import aging
from recovery.common.aging import seen_age

DAY = timedelta(days=1)
BEGAN = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def look(tmp_path, monkeypatch):
    """A look at something that began on day 0, by a clock that says some day."""

    def at(day):
        monkeypatch.setattr(aging, "now", lambda: BEGAN + day * DAY)
        return seen_age(tmp_path / "age.json", BEGAN, 1.5 * DAY) / DAY

    return at


def test_seen_age_of_daily_looks_is_the_time_since_the_beginning(look):
    assert [look(day) for day in (0.5, 1.5, 2.5, 3.75)] == [0.5, 1.5, 2.5, 3.75]
    assert look(3.75) == 3.75


def test_seen_age_grows_by_one_wait_at_most_when_the_clock_jumps_ahead(look):
    assert [look(day) for day in (1, 62, 63, 4, 5)] == [1, 2.5, 3.5, 3.5, 4.5]


def test_seen_age_of_what_began_by_a_wrong_clock_begins_with_the_first_look(look):
    assert look(99) == 1.5
    assert look(-60) == 1.5
    assert look(-59) == 2.5


def test_seen_age_begins_anew_when_its_file_is_damaged(look, tmp_path, caplog):
    look(1)
    (tmp_path / "age.json").write_text('{"time": "2026')
    assert look(2) == 1.5
    assert "is damaged" in caplog.text
