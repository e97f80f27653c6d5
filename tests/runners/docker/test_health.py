"""What a container printed is shown without what must stay secret."""

import threading
import time

from recovery.runners.docker import health
from recovery.runners.docker.health import log_last_lines, without_secrets
from tests.support.scripted_engine import SOME, ScriptedEngine, frame


def test_values_of_the_environment_and_passwords_in_addresses_are_left_out():
    details = {"Config": {"Env": ["PASSWORD=long-secret-tail", "PART=long-secret", "SHORT=ab", "EMPTY=", "BARE"]}}
    text = "long-secret-tail, long-secret, ab; redis://:word@cache and http://a:b@c/d@e"
    assert without_secrets(text, details) == "***, ***, ab; redis://:***@cache and http://a:***@c/d@e"


def test_container_without_an_environment():
    assert without_secrets("plain", {"Config": {"Env": None}}) == "plain"


def test_log_that_does_not_end_holds_nothing_up(tmp_path, monkeypatch, caplog):
    ended = threading.Event()

    def stalls(to):
        words = frame(1, b"it has geheim\n")
        to.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(words), words))
        ended.wait(60)

    monkeypatch.setattr(health, "_LOG_WITHIN", 0.5)
    with ScriptedEngine(tmp_path, stalls) as engine:
        began = time.monotonic()
        log_last_lines(engine, SOME)
        assert time.monotonic() - began < 30
        ended.set()
    assert "db: it has ***" in caplog.messages
