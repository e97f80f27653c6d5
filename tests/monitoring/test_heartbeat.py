"""Heartbeats, to a real HTTP server."""

import shutil
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from recovery.common.connections import Endpoint
from recovery.common.errors import ConnectionUnusable, DestinationError
from recovery.monitoring import heartbeat
from tests.support.system import SampleSystem


@contextmanager
def web(status=200, location=None):
    """An HTTP server that keeps the paths it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.end_headers()

        def log_message(self, *args):
            """Keep quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(port=server.server_port, asked=asked)
        server.shutdown()


def dead_man(server, **changes):
    return Endpoint(
        **{"id": "dead_man", "host": "127.0.0.1", "port": server.port, "schema": "http", "extra": {"path": "/ping/1"}} | changes
    )


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_ping_calls_the_address_of_the_connection():
    with web() as server:
        heartbeat.ping(dead_man(server))
        heartbeat.ping(dead_man(server, host="http://127.0.0.1", schema=""))
        heartbeat.ping(dead_man(server, extra={}))
        assert server.asked == ["/ping/1", "/ping/1", "/"]


def test_ping_takes_a_complete_url_as_host_unchanged():
    with web() as server:
        heartbeat.ping(Endpoint(id="dead_man", host=f"http://127.0.0.1:{server.port}/uuid-of-the-check"))
        assert server.asked == ["/uuid-of-the-check"]


@pytest.mark.parametrize("status", [301, 404, 500])
def test_ping_fails_on_any_status_except_success_without_revealing_the_path(status):
    with web(status, location="/elsewhere") as server:
        with pytest.raises(ConnectionUnusable, match="dead_man did not take the heartbeat") as error:
            heartbeat.ping(dead_man(server, extra={"path": "/secret-token"}))
        assert server.asked == ["/secret-token"]
    assert "secret-token" not in str(error.value)
    assert error.value.__suppress_context__


def test_ping_fails_retryably_when_no_server_answers():
    with web() as server:
        pass
    with pytest.raises(ConnectionUnusable, match="ConnectError") as error:
        heartbeat.ping(dead_man(server))
    assert error.value.retryable


def test_heartbeat_is_sent_only_for_a_recent_backup_at_every_destination(tmp_path, monkeypatch):
    system = SampleSystem(tmp_path / "small", "small")
    with web() as server:

        def connect(name):
            return dead_man(server) if name == "dead_man" else system.connect(name)

        set_id = system.back_up("told")
        context, plan = system.context(connect=connect), system.plan()
        assert heartbeat.send(context, "dead_man", set_id)
        assert server.asked == ["/ping/1"]
        with monkeypatch.context() as later:
            later.setattr(heartbeat, "now", lambda: datetime.now(UTC) + plan.objectives.rpo)
            assert not heartbeat.send(context, "dead_man", set_id)
        shutil.rmtree(system.set_folders(set_id)[1])
        with pytest.raises(DestinationError, match=r"far has no .* Nobody was told that the backup succeeded"):
            heartbeat.send(context, "dead_man", set_id)
        assert server.asked == ["/ping/1"]
