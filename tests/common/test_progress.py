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


def test_progress_logs_a_line_only_when_due(lines, monkeypatch):
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


def test_progress_counts_the_bytes_of_all_threads():
    progress = Progress("reading", 80_000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [progress.add(1) for _ in range(10_000)], range(8)))
    assert progress.done == 80_000
    assert progress.summary().startswith("78.1 KiB in ")


def test_progress_counts_blocks_of_an_iterable():
    progress = Progress("reading")
    assert list(progress.counted([b"ab", b"", b"c"])) == [b"ab", b"", b"c"]
    assert progress.done == 3


def test_telling_logs_lines_until_an_exception_ends_the_block(lines):
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
