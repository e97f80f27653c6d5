"""Start a MongoDB server for a drill."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from pathlib import Path

from recovery.common.connections import Endpoint
from recovery.common.errors import RestoreError
from recovery.runners.isolation import INSTEAD, Isolation
from recovery.runners.local_server import ServerFolders, secret, start_server, wait_until
from recovery.sources.base import Access
from recovery.sources.mongo.client import connect

log = logging.getLogger(__name__)

_SUPERUSER = "root"
_MONGO_SETTINGS = (
    ("--replSet", "drill"),
    ("--oplogSize", "128"),
    ("--wiredTigerCacheSizeGB", "0.25"),
    ("--setParameter", "diagnosticDataCollectionEnabled=false"),
)


class MongoServer:
    """A replica set of one, of what is installed on the worker."""

    endings: Mapping[str, signal.Signals] = {"mongod": signal.SIGKILL}

    def start(self, there: ServerFolders, versions: Mapping[str, str], access: Access, isolation: Isolation) -> None:
        """See :meth:`recovery.sources.scratch_server.ScratchServer.start`.

        Server-side JavaScript stays on: views of a good set may need it.
        """
        program = _mongod(access, isolation)
        log.info("scratch server: %s", program)
        there.make(isolation.user)
        password = secret(there.password, None)
        key = there.folder / "key"
        secret(key, isolation.user)
        argv: list[str | Path] = [program, "--dbpath", there.data, "--keyFile", key, "--bind_ip", _socket(there)]
        argv += ["--unixSocketPrefix", there.sockets]  # else it makes another one in /tmp
        argv += [part for setting in _MONGO_SETTINGS for part in setting]
        start_server(there, argv, _socket(there), lambda: _initiate(there, password), isolation)

    def endpoint(self, there: ServerFolders) -> Endpoint:
        """See :meth:`recovery.sources.scratch_server.ScratchServer.endpoint`."""
        extra = {"authSource": "admin", "directConnection": True}
        return Endpoint(f"scratch {there.name}", str(_socket(there)), None, _SUPERUSER, there.password.read_text(), "", extra)


SERVER = MongoServer()


def _mongod(access: Access, isolation: Isolation) -> Path:
    """The first mongod that the server's user may run."""
    places = access.runner.places(access.tools)
    found = [place / "mongod" for place in places if access.runner.has(place / "mongod")]
    for program in found:
        if isolation.user is None or isolation.user.runs(program):
            return program
    closed = f"{found[0]} is closed to the user that it would run as, who has no rights." if found else ""
    missing = f"The program mongod is not on this worker. Looked in {', '.join(map(str, places))}."
    raise RestoreError(closed or missing, f"Install it for all users, name its folder under tools.mongo, {INSTEAD}.")


def _socket(there: ServerFolders) -> Path:
    return there.sockets / "mongodb-27017.sock"


def _initiate(there: ServerFolders, password: str) -> None:
    """Make it a primary, and its superuser; only a client on the same machine may do that, and only once."""
    alone = Endpoint(there.name, str(_socket(there)), extra={"directConnection": True})
    with connect(alone) as client:
        if not client.admin.command("hello").get("setName"):
            member = {"_id": 0, "host": str(_socket(there))}
            client.admin.command("replSetInitiate", {"_id": "drill", "members": [member]})
        wait_until(lambda: bool(client.admin.command("hello")["isWritablePrimary"]), f"the scratch server {there.name}")
        client.admin.command("createUser", _SUPERUSER, pwd=password, roles=["root"])
