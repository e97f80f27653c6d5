"""Where a Docker Engine listens, as its Connection says it: a Unix socket, or an address with TLS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from recovery.common.connections import Endpoint
from recovery.common.errors import ConnectionUnusable

LOCAL_SOCKET = Endpoint("the local Docker Engine", "unix:///var/run/docker.sock")
"""Where a plan's Engine is if it names no Connection."""

_PORT = 2376
_FILES = ("tls_ca_cert", "tls_client_cert", "tls_client_key")


@dataclass(frozen=True)
class EngineAddress:
    """Where an Engine listens."""

    title: str
    """What it is called in messages."""
    socket: Path | None = None
    """Its Unix socket; None if it is reached by TCP."""
    host: str = ""
    port: int = _PORT
    ca: Path | None = None
    """The certificates that its own is checked with; None if nothing is encrypted."""
    certificate: Path | None = None
    """What the worker shows, with its key."""
    key: Path | None = None

    @property
    def url(self) -> str:
        """As the client library wants it."""
        if self.socket:
            return f"unix://{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.ca else 'http'}://{host}:{self.port}"


def address_of(endpoint: Endpoint) -> EngineAddress:
    """Read a Connection.

    Its host is ``unix://`` with the path of a socket, or a name or address with a port. Its extra then has ``tls_ca_cert``,
    ``tls_client_cert`` and ``tls_client_key``, all of them paths of files on the worker. Whoever reaches an Engine is root on its
    machine, so an address without TLS has to be asked for: ``"tls": false``, for a proxy in a network of its own.

    Raises:
        ConnectionUnusable: if it describes no Engine, or a file is missing.
    """
    title = endpoint.id if endpoint is LOCAL_SOCKET else f"the Docker Engine of the Connection {endpoint.id!r}"
    if endpoint.host.startswith(("unix://", "/")):
        return EngineAddress(title, _existing(endpoint, "host", endpoint.host.removeprefix("unix://")))
    host, port = _host_and_port(endpoint)
    extra: dict[str, Any] = endpoint.extra
    if extra.get("tls") is False:
        return EngineAddress(title, None, host, port)
    ca, certificate, key = (_existing(endpoint, name, str(extra.get(name, ""))) for name in _FILES)
    return EngineAddress(title, None, host, port, ca, certificate, key)


def _host_and_port(endpoint: Endpoint) -> tuple[str, int]:
    text = endpoint.host.removeprefix("tcp://").removeprefix("https://")
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port or endpoint.port or _PORT
    except ValueError:
        host, port = None, 0
    if not host or parts.netloc != text:
        raise _unusable(endpoint, f"has the host {endpoint.host!r}", "Write unix:///var/run/docker.sock, or a name or address.")
    return host, port


def _existing(endpoint: Endpoint, name: str, text: str) -> Path:
    if not text:
        raise _unusable(endpoint, f"reaches an Engine by TCP and has no {name}", f"Write {', '.join(_FILES)} into its extra.")
    path = Path(text)
    if not path.is_absolute():
        raise _unusable(endpoint, f"has {name} {text!r}, which is no absolute path", "Write the whole path.")
    if not path.exists():
        raise _unusable(endpoint, f"has {name} {text!r}, and this worker has no such file", "Start the Engine, or mount the file here.")
    return path


def _unusable(endpoint: Endpoint, what: str, next_step: str) -> ConnectionUnusable:
    whose = (
        f"The Connection {endpoint.id!r}" if endpoint is not LOCAL_SOCKET else "The local Docker Engine, of a plan without a Connection,"
    )
    return ConnectionUnusable(f"{whose} {what}.", next_step)
