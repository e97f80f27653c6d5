"""A proxy of an Engine's socket that permits some calls only, as a cautious operator has one."""

import json
import re
import socket
import threading
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

_VERSION = re.compile(r"^/v\d+\.\d+(?=/)")


class FilteringProxy(ThreadingMixIn, UnixStreamServer):
    """Passes permitted calls on to an Engine, and answers others with 403; use it in a ``with`` block.

    Args:
        engine: address of the Engine.
        folder: its socket is made there.
        permitted: calls such as ``GET /containers/<id>/json``.
    """

    daemon_threads = True

    def __init__(self, engine: str, folder: Path, permitted: list[str]) -> None:
        self.engine = engine.removeprefix("unix://")
        self.address = f"unix://{folder}/permitted.sock"
        self.permitted = {call: re.compile(re.sub("<[a-z]+>", "[^/]+", call)) for call in permitted}
        self.used: set[str] = set()
        """Those of the permitted calls that somebody has made."""
        self.refused: list[str] = []
        super().__init__(self.address.removeprefix("unix://"), _Call)
        threading.Thread(target=self.serve_forever, args=[0.1], daemon=True).start()

    def permits(self, call: str) -> bool:
        found = {permitted for permitted, pattern in self.permitted.items() if pattern.fullmatch(call)}
        self.used |= found
        self.refused += [] if found else [call]
        return bool(found)

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()


class _Call(BaseHTTPRequestHandler):
    """One call; the connection ends with it, so each call is looked at."""

    server: FilteringProxy

    def _pass_on(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = f"{self.command} {_VERSION.sub('', self.path.partition('?')[0])}"
        if not self.server.permits(call):
            self.wfile.write(_refusal(call))
            return
        with closing(socket.socket(socket.AF_UNIX)) as engine:
            engine.connect(self.server.engine)
            engine.sendall(self._head() + body)
            threading.Thread(target=_copy, args=(self.connection, engine), daemon=True).start()
            _copy(engine, self.connection)

    def _head(self) -> bytes:
        headers = dict(self.headers)
        headers["Connection"] = "Upgrade" if "Upgrade" in headers else "close"
        lines = [f"{self.command} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode()

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = _pass_on  # noqa: N815 - names of the library

    def log_message(self, *_) -> None:
        """Print nothing; the library would also want a client with an address."""


def _refusal(call: str) -> bytes:
    body = json.dumps({"message": f"{call} is not permitted here"}).encode()
    head = ["HTTP/1.1 403 Forbidden", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([*head, "", ""]).encode() + body


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Pass on until the source has ended, and the end as well."""
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
