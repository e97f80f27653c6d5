"""Connections as plain objects, and who looks them up: Airflow in its tasks, the command line, a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class Endpoint:
    """Where something answers, and as whom. ``repr`` shows no secret."""

    id: str
    """The Connection's id, for messages."""
    host: str = ""
    port: int | None = None
    login: str = ""
    password: str = field(default="", repr=False)
    schema: str = ""
    """Database name or path, as the kind of connection has it."""
    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    place: str = ""
    """Of a server in a container: what it is called, in messages and where servers are compared. Its address may change with each step."""
    inside: str = ""
    """The server's address for client tools that run in its container's network; empty if they run on this worker."""

    @property
    def on_this_machine(self) -> bool:
        """Whether the server's files are this machine's: its address is loopback, or the path of a Unix socket, and no tunnel's."""
        return not self.place and (self.host in {"", "localhost", "::1"} or self.host.startswith(("127.", "/")))


Connect = Callable[[str], Endpoint]
"""Looks a Connection up by its id.

Raises:
    ConnectionUnusable: if there is none of that id.
"""


@dataclass(frozen=True)
class Clients:
    """What a plan only names: Connections by their ids, and the S3 clients that some of them describe."""

    connect: Connect
    s3: Callable[[str], S3Client]
    """The S3 client of a Connection's id; raises as :attr:`connect`."""
