import asyncio

import pytest

from recovery.common.errors import ContainerError
from recovery.runners.docker.stream import Stream


def read(*received):
    """What is read of bytes that arrive in pieces."""

    async def pieces():
        reader = asyncio.StreamReader()
        for piece in received:
            reader.feed_data(piece)
        reader.feed_eof()
        return [piece async for piece in Stream(reader, None).pieces()]

    return asyncio.run(pieces())


def frame(number, data):
    return bytes([number, 0, 0, 0]) + len(data).to_bytes(4) + data


def test_frames_are_read_exactly_however_they_arrive():
    whole = frame(1, b"out") + frame(2, b"err") + frame(1, b"") + frame(1, b"put")
    expected = [(1, b"out"), (2, b"err"), (1, b"put")]
    assert read(whole) == expected
    one_by_one = read(*(bytes([byte]) for byte in whole))
    assert b"".join(data for number, data in one_by_one if number == 1) == b"output"


@pytest.mark.parametrize("length", range(1, 11))
def test_frame_that_is_cut_is_an_error(length):
    with pytest.raises(ContainerError, match="was cut"):
        read(frame(1, b"out")[:length])


@pytest.mark.parametrize("head", [b"\3\0\0\0\0\0\0\1x", b"\1\0\0\1\0\0\0\1x", b"HTTP/1.1 400"])
def test_stream_without_frames_is_an_error(head):
    with pytest.raises(ContainerError, match="no frames"):
        read(head)
