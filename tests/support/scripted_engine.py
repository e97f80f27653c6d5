"""What stands in an Engine's place and does as a test says: what no real one does when it is asked to, or only in the wrong moment."""

import json
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

from recovery.runners.docker.address import EngineAddress
from recovery.runners.docker.engine import Container, Engine

SWITCHED = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
SOME = Container("0" * 64, "db", "running", {"NetworkSettings": {"Networks": {}}, "Config": {"Env": ["PASSWORD=geheim"]}})


_FACTS = {"ApiVersion": "1.41", "Id": "e", "Running": False, "ExitCode": 0, "Config": {"Tty": False}}
"""Of the Engine, a command and a container."""


def frame(number: int, data: bytes) -> bytes:
    """A piece of what a command prints: to its output, 1, or to its errors, 2."""
    return bytes([number, 0, 0, 0]) + len(data).to_bytes(4) + data


class ScriptedEngine:
    """Listens on a Unix socket. Commands are created and end well; what a start of one and a log answer is up to the test.

    Args:
        folder: where the socket goes.
        play: gets the connection when that was asked for.
    """

    def __init__(self, folder: Path, play) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self._answer("/logs" in self.path)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(self.path.endswith("/start"))

            def _answer(self, up_to_the_test):
                if up_to_the_test:
                    self.close_connection = True
                    play(self.connection)
                    return
                body = json.dumps(_FACTS).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(ThreadingUnixStreamServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_):
                pass  # a client that goes away is what is tested

        self._server = Server(str(folder / "engine.sock"), Handler)
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        self.engine = Engine(EngineAddress("the Engine", folder / "engine.sock"))

    def __enter__(self) -> Engine:
        return self.engine

    def __exit__(self, *_) -> None:
        self.engine.close()
        self._server.shutdown()
        self._server.server_close()
