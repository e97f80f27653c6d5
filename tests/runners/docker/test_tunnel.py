"""A tunnel into a container whose image is somebody else's: what its relay does holds up nobody here, and is no log of its own."""

import socket
import threading
import time
from contextlib import closing

import pytest

from recovery.runners.docker import stream
from recovery.runners.docker.relay import Relay
from recovery.runners.docker.tunnel import Tunnel
from tests.support.scripted_engine import SOME, SWITCHED, ScriptedEngine, frame

RELAY = Relay("perl", "127.0.0.1", ["perl"])


@pytest.fixture
def client():
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.settimeout(10)
        yield made


def test_closing_does_not_wait_for_a_relay_that_does_not_read(tmp_path, monkeypatch, client):
    ended = threading.Event()

    def deaf(to):
        to.sendall(SWITCHED)
        ended.wait()

    monkeypatch.setattr(stream, "_FLUSHED_WITHIN", 0.3)
    with ScriptedEngine(tmp_path, deaf) as engine:
        tunnel = Tunnel(engine, SOME, RELAY, "socket")
        client.connect(str(tunnel.socket))
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(1 << 24))
        closes = threading.Thread(target=tunnel.close, daemon=True)
        closes.start()
        closes.join(30)
        assert not closes.is_alive()
        ended.set()


def test_words_of_a_relay_are_escaped_and_end(tmp_path, caplog, client):
    def talks(to):
        to.sendall(SWITCHED + frame(2, b"no\n2026-11-23 all is well \x1b[2J"))
        for _ in range(50):
            to.sendall(frame(2, b"x" * 100_000))
        to.sendall(frame(1, b"data"))

    with ScriptedEngine(tmp_path, talks) as engine:
        tunnel = Tunnel(engine, SOME, RELAY, "socket")
        try:
            client.connect(str(tunnel.socket))
            assert client.recv(100) == b"data"
            assert client.recv(100) == b""
        finally:
            tunnel.close()
    assert r"perl in db: no\n2026-11-23 all is well \x1b[2J" in caplog.messages
    assert len(caplog.text) < 10_000


def test_unforeseen_error_of_a_connection_is_in_the_log(tmp_path, caplog, client, monkeypatch):
    def breaks(_):
        raise RuntimeError("nobody has foreseen this")

    monkeypatch.setattr(stream.Stream, "pieces", breaks)
    with ScriptedEngine(tmp_path, lambda to: (to.sendall(SWITCHED), time.sleep(0.2))) as engine:
        tunnel = Tunnel(engine, SOME, RELAY, "socket")
        try:
            client.connect(str(tunnel.socket))
            assert client.recv(100) == b""
        finally:
            tunnel.close()
    assert "nobody has foreseen this" in caplog.text
