"""Where a MongoDB server answers that runs in a container."""

from __future__ import annotations

from dataclasses import replace

from recovery.common.connections import Endpoint
from recovery.common.errors import ConnectionUnusable
from recovery.plan.kinds.mongo import MongoSettings, MongoTarget
from recovery.sources.base import Access
from recovery.sources.mongo.client import options

_PORT = 27017
_LEADS_ELSEWHERE = {"srv", "directconnection", "loadbalanced"}


def endpoint(at: MongoSettings | MongoTarget, access: Access) -> Endpoint:
    """Where a server of a plan answers, and as whom.

    Of a server in a container, the Connection has the port inside it, and its host leads nowhere. Members of a replica set know each
    other by names that the worker may not know, so the driver stays with this one.

    Raises:
        ConnectionUnusable: if a Connection is missing, or demands TLS that a tunnel does not have.
        ContainerError: if nothing leads to the server.
    """
    found = access.connect(at.connection)
    if at.reach is None:
        return found
    port = found.port or _PORT
    way = access.ways.to(at.reach.docker, access.connect, port, f"mongodb-{port}.sock")
    extra = {key: value for key, value in found.extra.items() if key.lower() not in _LEADS_ELSEWHERE}
    reached = replace(found, place=way.place, extra={**extra, "directConnection": True})
    if way.socket is None:
        return replace(reached, host=f"[{way.address}]" if ":" in way.address else way.address, port=port)
    if options(found).get("tls"):
        raise ConnectionUnusable(
            f"The Connection {found.id!r} demands TLS, and {way.place} is reached by a tunnel, in which MongoDB's drivers have none.",
            "Let the worker join a network of the container, or leave tls out: the tunnel is a local socket, and the connection to the"
            " Engine.",
        )
    return replace(reached, host=str(way.socket), port=None)
