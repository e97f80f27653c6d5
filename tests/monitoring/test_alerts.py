"""Mails and pings, to a real SMTP server and a real HTTP server."""

import shutil
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_string
from email.policy import default
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from recovery.common.connections import Endpoint
from recovery.common.errors import ConnectionUnusable, DestinationError
from recovery.monitoring import alerts
from recovery.plan.model import Mail
from tests.support.small import Small


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


def test_a_ping_arrives():
    with web() as server:
        alerts.ping(dead_man(server))
        alerts.ping(dead_man(server, host="http://127.0.0.1", schema=""))
        alerts.ping(dead_man(server, extra={}))
        assert server.asked == ["/ping/1", "/ping/1", "/"]


def test_a_whole_address_as_host_is_taken_as_it_is():
    with web() as server:
        alerts.ping(Endpoint(id="dead_man", host=f"http://127.0.0.1:{server.port}/uuid-of-the-check"))
        assert server.asked == ["/uuid-of-the-check"]


@pytest.mark.parametrize("status", [301, 404, 500])
def test_anything_but_success_is_an_error_that_does_not_tell_the_address(status):
    with web(status, location="/elsewhere") as server:
        with pytest.raises(ConnectionUnusable, match="dead_man did not take the ping") as error:
            alerts.ping(dead_man(server, extra={"path": "/secret-token"}))
        assert server.asked == ["/secret-token"]
    assert "secret-token" not in str(error.value)
    assert error.value.__suppress_context__


def test_nobody_there_is_an_error():
    with web() as server:
        pass
    with pytest.raises(ConnectionUnusable, match="ConnectError") as error:
        alerts.ping(dead_man(server))
    assert error.value.retryable


def test_only_a_backup_of_now_that_every_destination_has_is_told(tmp_path, monkeypatch):
    small = Small(tmp_path / "small", "small")
    with web() as server:

        def connect(name):
            return dead_man(server) if name == "dead_man" else small.connect(name)

        set_id = small.back_up("told")
        plan = small.plan()
        assert alerts.tell_success(plan, "dead_man", set_id, connect)
        assert server.asked == ["/ping/1"]
        with monkeypatch.context() as later:
            later.setattr(alerts, "now", lambda: datetime.now(UTC) + plan.objectives.rpo)
            assert not alerts.tell_success(plan, "dead_man", set_id, connect)
        shutil.rmtree(small.set_folders(set_id)[1])
        with pytest.raises(DestinationError, match=r"far has no .* Nobody was told that the backup succeeded"):
            alerts.tell_success(plan, "dead_man", set_id, connect)
        assert server.asked == ["/ping/1"]


# Mail ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path, smtp, monkeypatch):
    connection = f'{{"conn_type": "smtp", "host": "127.0.0.1", "port": {smtp.port}, "extra": {{"disable_ssl": true, "disable_tls": true}}}}'
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", connection)
    more = "alerts: {mail: {connection: mail, to: [oncall@example.org, boss@example.org], sender: recovery@example.org}}\n"
    small = Small(tmp_path / "small", "small", more=more)
    monkeypatch.setenv("RECOVERY_PLANS", str(small.plans))
    return small.plan()


def text_of(message):
    parsed = message_from_string(message.text, policy=default)
    return parsed["subject"], parsed.get_body(("html", "plain")).get_content()


def context(**more):
    run = SimpleNamespace(run_id="manual__{{ 7*7 }}<b>", dag_id="small_backup")
    return {"dag_run": run, "reason": "task_failure", "ti": None} | more


def test_a_failed_run_is_told(plan, smtp):
    for callback in alerts.on_failure(plan, "Backup"):
        callback(context())
    (message,) = smtp.messages
    subject, text = text_of(message)
    assert message.to == ["oncall@example.org", "boss@example.org"]
    assert message.sender == "recovery@example.org"
    assert subject == "[small] Backup FAILED"
    assert "task_failure" in text
    assert "/dags/small_backup/runs/" in text
    assert "49" not in text
    assert "<b>" not in text


def test_a_waiting_gate_is_told_with_its_text_as_it_is(plan, smtp):
    alerts.gate_waits("small", "plan", "Replaces table {{ dag_run }} and {% raw %} <script>\nä", context())
    subject, text = text_of(smtp.messages[0])
    assert subject == "[small] restore waits for approval: plan"
    assert "&lt;script&gt;" in text
    assert "&#123;&#123; dag_run }}" in text
    assert "ä" in text


def test_a_mail_that_cannot_be_sent_does_not_fail_a_gate(plan, monkeypatch, caplog):
    monkeypatch.setenv(
        "AIRFLOW_CONN_MAIL",
        '{"conn_type": "smtp", "host": "127.0.0.1", "port": 1, "extra": {"disable_ssl": true, "timeout": 1, "retry_limit": 1}}',
    )
    alerts.gate_waits("small", "plan", "text", context())
    assert "could not be sent; nobody was told" in caplog.text


def test_without_mail_nobody_is_told(tmp_path, smtp, monkeypatch):
    small = Small(tmp_path / "small", "small")
    monkeypatch.setenv("RECOVERY_PLANS", str(small.plans))
    assert not alerts.on_failure(small.plan(), "Backup")
    alerts.gate_waits("small", "plan", "text", context())
    alerts.nobody_accepted("small", context())
    assert smtp.messages == []


def test_mail_settings_are_what_the_plan_says(plan):
    assert plan.alerts.mail == Mail(connection="mail", to=("oncall@example.org", "boss@example.org"), sender="recovery@example.org")
