"""The health check of components that beat, against a small server that answers as Airflow's does; tests/docker runs it against Airflow."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.error import URLError

import pytest

from tools.compose import check_heartbeat


@contextmanager
def health(states):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(states).encode())

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(("status", "expected"), [("healthy", 0), ("unhealthy", 1), (None, 1)])
def test_component_is_healthy_only_if_airflow_says_so(status, expected):
    with health({"triggerer": {"status": status}, "scheduler": {"status": "healthy"}}) as address:
        assert check_heartbeat.main("triggerer", address) == expected


def test_check_fails_if_the_api_server_does_not_answer():
    with pytest.raises(URLError):
        check_heartbeat.main("triggerer", "http://127.0.0.1:1")
