"""Start a MongoDB server for a drill."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from pathlib import Path

from recovery.common.connections import Endpoint
from recovery.common.errors import RestoreError, ToolError
from recovery.runners.local_server import INSTEAD, password_of, secret, start_server, wait_until
from recovery.runners.processes import User
from recovery.sources.base import Access
from recovery.sources.mongo.client import connect

log = logging.getLogger(__name__)

_SUPERUSER = "root"
_MONGO_SETTINGS = (
    ("--bind_ip", "127.0.0.1"),
    ("--nounixsocket",),
    ("--replSet", "drill"),
    ("--oplogSize", "128"),
    ("--wiredTigerCacheSizeGB", "0.25"),
    ("--setParameter", "diagnosticDataCollectionEnabled=false"),
)


class MongoServer:
    """A replica set of one, of what is installed on the worker."""

    endings: Mapping[str, signal.Signals] = {"mongod": signal.SIGKILL}

    def user(self) -> User | None:
        """This process's own."""
        return None

    def start(self, folder: Path, versions: Mapping[str, str], access: Access) -> int:
        """See :meth:`recovery.sources.base.ScratchServer.start`."""
        return _start(folder, access)

    def endpoint(self, folder: Path, port: int) -> Endpoint:
        """See :meth:`recovery.sources.base.ScratchServer.endpoint`."""
        extra = {"authSource": "admin", "directConnection": True}
        return Endpoint(f"scratch {folder.name}", "127.0.0.1", port, _SUPERUSER, password_of(folder), "", extra)


SERVER = MongoServer()


def _start(folder: Path, access: Access) -> int:
    try:
        program = access.runner.find_tool("mongod", access.tools)
    except ToolError as error:
        raise RestoreError(error.what, f"Install it on this worker, name its folder under tools.mongo, {INSTEAD}.") from None
    log.info("scratch server: %s", program)
    folder.mkdir(mode=0o700)
    password = secret(folder.with_name(f"{folder.name}.password"))
    key = folder.with_name(f"{folder.name}.key")
    secret(key)
    settings = [part for setting in _MONGO_SETTINGS for part in setting]
    return start_server(
        folder,
        lambda port: [program, "--dbpath", folder, "--port", str(port), "--keyFile", key, *settings],
        lambda port: _initiated(folder, port, password),
        None,
    )


def _initiated(folder: Path, port: int, password: str) -> None:
    """Make it a primary, and its superuser; only a client on the same machine may do that, and only once."""
    alone = Endpoint(folder.name, "127.0.0.1", port, extra={"directConnection": True})
    with connect(alone) as client:
        if not client.admin.command("hello").get("setName"):
            member = {"_id": 0, "host": f"127.0.0.1:{port}"}
            client.admin.command("replSetInitiate", {"_id": "drill", "members": [member]})
        wait_until(lambda: bool(client.admin.command("hello")["isWritablePrimary"]), f"the scratch server {folder.name}")
        client.admin.command("createUser", _SUPERUSER, pwd=password, roles=["root"])
