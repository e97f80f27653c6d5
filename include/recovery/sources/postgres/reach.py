"""Where a PostgreSQL server answers that runs in a container."""

from __future__ import annotations

from dataclasses import replace

from recovery.common.connections import Endpoint
from recovery.common.errors import ConnectionUnusable
from recovery.plan.kinds.postgres import PostgresSettings, PostgresTarget
from recovery.sources.base import Access

_PORT = 5432
_TLS = {"require", "verify-ca", "verify-full"}
_SYSTEM = "system"
"""Value of ``sslrootcert`` that makes ``verify-full`` the default of ``sslmode``."""


def endpoint(at: PostgresSettings | PostgresTarget, access: Access) -> Endpoint:
    """Where a server of a plan answers, and as whom.

    Of a server in a container, the Connection has the port inside it. Its host is the name that a certificate is compared with, as
    ``sslmode`` wants, and leads nowhere.

    Raises:
        ConnectionUnusable: if a Connection is missing, or demands TLS that a tunnel does not have.
        ContainerError: if nothing leads to the server.
    """
    found = access.connect(at.connection)
    if at.reach is None:
        return found
    port = found.port or _PORT
    way = access.ways.to(at.reach.docker, access.connect, port, f".s.PGSQL.{port}")
    name = found.host if found.host and not found.host.startswith("/") else "container"
    extra = {key: value for key, value in found.extra.items() if key != "hostaddr"}
    reached = replace(found, port=port, place=way.place, extra=extra, inside=way.inside if access.in_containers else "")
    if way.socket is None:
        return replace(reached, host=name, extra={**extra, "hostaddr": way.address})
    if extra.get("sslmode") in _TLS or extra.get("sslrootcert") == _SYSTEM:
        raise ConnectionUnusable(
            f"The Connection {found.id!r} demands TLS (by sslmode or sslrootcert), and {way.place} is reached by a tunnel, in which"
            " PostgreSQL's client has none.",
            "Let the worker join a network of the container, or leave that out: the tunnel is a local socket, and the connection to"
            " the Engine.",
        )
    return replace(reached, host=str(way.socket.parent))
