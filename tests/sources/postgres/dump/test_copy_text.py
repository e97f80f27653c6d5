"""Texts of lines, cut anywhere, with lines of any length."""

import io
import random
import tracemalloc

import pytest
import xxhash

from recovery.sources.postgres.dump.archive import read_pack
from recovery.sources.postgres.dump.copy_text import BLOCK, TableText, in_blocks, lines
from recovery.sources.postgres.dump.table_reader import texts_of
from tests.sources.postgres.dump.test_archive import END, member

HUGE = 48 << 20
PIECE = random.Random(1).randbytes(BLOCK).replace(b"\n", b"x").replace(b"\0", b"x")


def test_lines_do_not_depend_on_block_boundaries():
    text = b"".join(b"x" * (n % 17) + b"\n" for n in range(200)) + b"rest"
    for seed in range(20):
        random.seed(seed)
        cuts = sorted(random.sample(range(len(text)), 30))
        blocks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert [line for found in lines(blocks) for line in found] == text.split(b"\n")


class Table(io.RawIOBase):
    """A table with two huge values between small ones, which is nowhere as a whole."""

    def __init__(self, end: bytes) -> None:
        self.pieces = self.text(end)
        self.rest = b""

    @staticmethod
    def text(end: bytes):
        yield b"1\tsmall\n"
        for _ in range(2):
            yield b"2\t"
            yield from [PIECE] * (HUGE // BLOCK)
            yield b"\n"
        yield b"3\tsmall\n" + end

    def read(self, size: int = -1, /) -> bytes:
        data, self.rest = self.rest, b""
        while len(data) < size and (piece := next(self.pieces, b"")):
            data += piece
        data, self.rest = data[:size], data[size:]
        return data


def huge_facts():
    records = [b"1\tsmall", *[b"2\t" + PIECE * (HUGE // BLOCK)] * 2, b"3\tsmall"]
    total = sum(map(xxhash.xxh3_64_intdigest, records)) % 2**64
    return {"count": 4, "digest": f"{total:016x}", "bytes": sum(map(len, records)) + 4}


def peak_of(read):
    tracemalloc.start()
    try:
        return read(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def of_a_pack():
    [(_, _, facts)] = read_pack("db", [(member("12.dat", b"")[0], Table(END))])
    return facts


def of_a_server():
    table = Table(b"\\.\n")
    (first,) = texts_of(iter(lambda: table.read(BLOCK), b""))
    return first


def of_a_session():
    text = TableText()
    for each in lines(in_blocks(Table.text(b""))):
        text.add(each)
    return text.facts()


@pytest.mark.parametrize("read", [of_a_pack, of_a_server, of_a_session])
def test_table_with_huge_values_is_digested_exactly_and_held_nowhere(read):
    found, peak = peak_of(read)
    assert found == huge_facts()
    assert peak < HUGE // 4


def test_in_blocks_cuts_long_rows_and_joins_short_rows():
    rows = [b"a\n", memoryview(bytes(3 * BLOCK + 7)), b"b\n", *[b"c" * 1000] * 1000]
    blocks = list(in_blocks(rows))
    assert b"".join(blocks) == b"".join(rows)
    assert max(map(len, blocks)) < 2 * BLOCK
    assert len(blocks) < 8
