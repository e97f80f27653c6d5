"""Start a MongoDB server for a drill."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from recovery.common.connections import Endpoint
from recovery.common.errors import RestoreError, ToolError
from recovery.runners.base import Runner
from recovery.runners.local_server import INSTEAD, secret, start_server, superuser, wait_until

log = logging.getLogger(__name__)
_MONGO_SETTINGS = (
    ("--bind_ip", "127.0.0.1"),
    ("--nounixsocket",),
    ("--replSet", "drill"),
    ("--oplogSize", "128"),
    ("--wiredTigerCacheSizeGB", "0.25"),
    ("--setParameter", "diagnosticDataCollectionEnabled=false"),
)


def start_mongo(folder: Path, folders: Sequence[Path], runner: Runner) -> int:
    """Make and start a replica set of one whose data folder this is; beside it ``.password``, ``.key`` and ``.log``.

    Args:
        folder: its data folder, which is not there yet.
        folders: the plan's folders of MongoDB's programs.
        runner: finds them; the server itself always runs on this worker.

    Returns:
        Its port.

    Raises:
        RestoreError: if no ``mongod`` is installed, or it does not start.
    """
    try:
        program = runner.find_tool("mongod", folders)
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
    from recovery.sources.mongo.client import connect

    alone = Endpoint(folder.name, "127.0.0.1", port, extra={"directConnection": True})
    with connect(alone) as client:
        if not client.admin.command("hello").get("setName"):
            member = {"_id": 0, "host": f"127.0.0.1:{port}"}
            client.admin.command("replSetInitiate", {"_id": "drill", "members": [member]})
        wait_until(lambda: bool(client.admin.command("hello")["isWritablePrimary"]), f"the scratch server {folder.name}")
        client.admin.command("createUser", superuser("mongo"), pwd=password, roles=["root"])
