"""PgBouncer in front of a server."""

import os
from pathlib import Path

import psycopg

from sandbox.servers import Postgres, Server, unprivileged


class PgBouncer(Server):
    """A pooler; whoever comes in is ``postgres`` at the server.

    Args:
        folder: its own.
        behind: the server.
        mode: ``session``, ``transaction`` or ``statement``.
        ignored: parameters of a session's start that it drops, where it would refuse the session.
    """

    def __init__(self, folder: Path, behind: Postgres, mode: str, ignored: str) -> None:
        super().__init__(folder)
        self._behind = behind
        self._settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": mode,
            "ignore_startup_parameters": ignored,
        }

    def as_user(self):
        """It refuses to run as root."""
        return unprivileged()

    def prepare(self):
        settings = "\n".join(f"{name} = {value}" for name, value in self._settings.items())
        login = f"host=127.0.0.1 port={self._behind.port} user=postgres password={self._behind.password}"
        (self.folder / "pgbouncer.ini").write_text(f"[databases]\n* = {login}\n[pgbouncer]\n{settings}\n")
        if ids := self.as_user():
            for path in (self.folder, self.folder / "pgbouncer.ini"):
                os.chown(path, *ids)

    def argv(self):
        return ["/usr/sbin/pgbouncer", self.folder / "pgbouncer.ini"]

    def ready(self):
        try:
            psycopg.connect(host="127.0.0.1", port=self.port, user="x", dbname="postgres", connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True
