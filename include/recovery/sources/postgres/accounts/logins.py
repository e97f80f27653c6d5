"""Login roles that a backup or a restore makes for sessions of its own, and drops again."""

from __future__ import annotations

import secrets

from psycopg.sql import SQL, Identifier, Literal

from recovery.sources.postgres.client import Connection


def new_password() -> str:
    """A password for such roles."""
    return secrets.token_urlsafe(24)


def create_login(connection: Connection, role: str, password: str, comment: str) -> None:
    """Create a role that may log in, without any right. A user who is no superuser becomes its member.

    Args:
        connection: to the server.
        role: its name.
        password: the server gets only its verifier.
        comment: what it is for; by it the role is found again.
    """
    secret = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    name = Identifier(role)
    connection.execute(SQL("CREATE ROLE {} LOGIN INHERIT PASSWORD {}").format(name, Literal(secret)))
    connection.execute(SQL("COMMENT ON ROLE {} IS {}").format(name, Literal(comment)))
    if connection.info.parameter_status("is_superuser") != "on":  # who has to own what is the role's, and to end its sessions
        connection.execute(SQL("GRANT {} TO CURRENT_USER").format(name))
