import asyncio
import socket
import threading
from contextlib import suppress

import pytest

from recovery.common.errors import ContainerError
from recovery.runners.docker import stream
from recovery.runners.docker.address import EngineAddress
from recovery.runners.docker.engine import ASK_THE_PROXY
from recovery.runners.docker.stream import NotStarted, Stream, run
from tests.support.scripted_engine import SOME, SWITCHED, ScriptedEngine, frame


def read(*received):
    """What is read of bytes that arrive in pieces."""

    async def pieces():
        reader = asyncio.StreamReader()
        for piece in received:
            reader.feed_data(piece)
        reader.feed_eof()
        return [piece async for piece in Stream(reader, None).pieces()]

    return asyncio.run(pieces())


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


# Commands of somebody else's image ---------------------------------------------------------------------------------------


@pytest.fixture
def ended():
    """Set when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_command_ends_with_its_status_and_its_output(tmp_path):
    with ScriptedEngine(tmp_path, lambda to: to.sendall(SWITCHED + frame(2, b"words") + frame(1, b"out"))) as engine:
        assert run(engine, SOME.id, ["cat"]) == (0, b"out")


def test_command_that_prints_without_end_does_not_fill_the_memory(tmp_path):
    def prints(to):
        to.sendall(SWITCHED)
        with suppress(OSError):
            for _ in range(64):
                to.sendall(frame(1, bytes(1 << 20)))

    with ScriptedEngine(tmp_path, prints) as engine, pytest.raises(ContainerError, match="cat in the container prints without end"):
        run(engine, SOME.id, ["cat"])


def test_command_that_does_not_end_is_named_and_not_the_engine(tmp_path, monkeypatch, ended):
    def waits(to):
        to.sendall(SWITCHED)
        ended.wait()

    monkeypatch.setattr(stream, "_ENDS_WITHIN", 0.3)
    with ScriptedEngine(tmp_path, waits) as engine, pytest.raises(ContainerError, match="cat in the container did not end") as told:
        run(engine, SOME.id, ["cat"])
    assert told.value.retryable


def test_engine_that_never_answers_a_start_is_an_error(tmp_path, monkeypatch, ended):
    monkeypatch.setattr(stream, "_ANSWERS_WITHIN", 0.3)
    with ScriptedEngine(tmp_path, lambda _: ended.wait()) as engine, pytest.raises(ContainerError, match="does not answer") as told:
        asyncio.run(asyncio.wait_for(stream.attach(engine, "e"), 30))
    assert told.value.retryable


@pytest.mark.parametrize(
    ("status", "not_started", "retryable"),
    [(403, False, False), (404, False, True), (409, False, True), (400, True, False), (500, True, False)],
)
def test_only_a_refusal_that_may_be_about_the_program_says_so(tmp_path, status, not_started, retryable):
    def refuses(to):
        to.sendall(f"HTTP/1.1 {status} No\r\n\r\nwords\x1b".encode())

    with ScriptedEngine(tmp_path, refuses) as engine, pytest.raises(ContainerError, match=rf"{status} No: words\\x1b") as told:
        run(engine, SOME.id, ["cat"])
    assert (isinstance(told.value, NotStarted), told.value.retryable) == (not_started, retryable)
    assert (told.value.next_step == ASK_THE_PROXY) == (status == 403)


def test_closing_does_not_wait_for_who_does_not_read(tmp_path, monkeypatch, ended):
    def deaf(to):
        to.sendall(SWITCHED)
        ended.wait()

    async def write_and_close(engine):
        opened = await stream.attach(engine, "e")
        opened.writer.write(bytes(1 << 24))
        await asyncio.wait_for(opened.close(), 30)

    monkeypatch.setattr(stream, "_FLUSHED_WITHIN", 0.3)
    with ScriptedEngine(tmp_path, deaf) as engine:
        asyncio.run(write_and_close(engine))


def test_closing_sends_all_that_was_written_before(tmp_path):
    received = []

    def reads(to):
        to.sendall(SWITCHED)
        while piece := to.recv(1 << 16):
            received.append(len(piece))

    async def write_and_close(engine):
        opened = await stream.attach(engine, "e")
        opened.writer.write(bytes(1 << 22))
        await opened.close()

    with ScriptedEngine(tmp_path, reads) as engine:
        asyncio.run(write_and_close(engine))
    assert sum(received) == 1 << 22


def test_connection_to_a_distant_engine_notices_that_it_is_gone():
    async def options(port):
        _, writer = await stream._connect(EngineAddress("the Engine", None, "127.0.0.1", port))
        connected = writer.get_extra_info("socket")
        found = [
            connected.getsockopt(*option)
            for option in ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))
        ]
        writer.close()
        return found

    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert asyncio.run(options(listening.getsockname()[1])) == [1, 30]
