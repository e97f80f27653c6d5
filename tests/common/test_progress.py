import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from recovery.common import progress as module
from recovery.common.progress import Pace, Progress, telling


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "recovery")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_line_is_said_when_it_is_due_and_not_before(lines, monkeypatch):
    Progress("packing shop", 100).add(50)
    assert lines() == []
    monkeypatch.setattr(module, "Pace", lambda: Pace(0))
    known, unknown = Progress("packing shop", 2 << 20), Progress("reading")
    known.add(1 << 20)
    unknown.add(512)
    assert lines()[0].startswith("packing shop: 1.0 MiB of 2.0 MiB (50 %), ")
    assert lines()[1].startswith("reading: 512 B so far, ")
    assert all(line.endswith("/s") for line in lines())
    assert not Pace(3600).due()


def test_threads_may_share_it():
    progress = Progress("reading", 80_000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [progress.add(1) for _ in range(10_000)], range(8)))
    assert progress.done == 80_000
    assert progress.summary().startswith("78.1 KiB in ")


def test_blocks_are_counted_as_they_pass():
    progress = Progress("reading")
    assert list(progress.counted([b"ab", b"", b"c"])) == [b"ab", b"", b"c"]
    assert progress.done == 3


def test_a_program_is_told_of_until_the_block_ends_whatever_ends_it(lines):
    said = Event()

    def say():
        said.set()
        return "shop: 3 MiB dumped"

    with pytest.raises(ZeroDivisionError), telling(say, every=0.001):
        assert said.wait(30)
        raise ZeroDivisionError
    count = len(lines())
    assert set(lines()) == {"shop: 3 MiB dumped"}
    assert len(lines()) == count
