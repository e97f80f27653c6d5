"""Login roles that load a database: one for each owner in it, without any right outside of it.

A set brings code: checks, domains, generated columns, expressions of indexes, materialized views. PostgreSQL runs it
while rows are loaded, and ``SET ROLE`` is no fence, since the code itself can undo it. So no session that loads is a
superuser's, or has the rights of more than one owner. What is loaded belongs to these roles until the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from psycopg import errors
from psycopg.sql import SQL, Identifier

from recovery.common.errors import RestoreError, SourceUnreachable
from recovery.packs.content_index import Facts
from recovery.sources.postgres.accounts.logins import create_login, new_password
from recovery.sources.postgres.client import Connection, Server, translated_errors

OURS = ""
"""In place of an owner: ourselves, for statements that only a superuser may make."""
EVERYONE = "*"
"""In place of an owner: a role that is a member of all of the others, for what belongs to several owners."""
PREFIX = "recovery_load_"


@dataclass(frozen=True)
class Loaders:
    """The login roles of one database."""

    roles: Mapping[str, str]
    """By the owner in the set whose place they take; :data:`EVERYONE` has one, too."""
    password: str = field(repr=False)

    def names(self) -> list[str]:
        """All of them."""
        return list(self.roles.values())


def create(connection: Connection, database: str, owners: Collection[str], set_roles: Mapping[str, Facts]) -> Loaders:
    """Create the roles that load a database.

    Args:
        connection: to the server.
        database: its name there.
        owners: roles that own something in the set.
        set_roles: what the set knows of its roles: who is a member of whom, who is a superuser.

    Raises:
        RestoreError: if the server refuses.
    """
    token, password = secrets.token_hex(4), new_password()
    loaders = Loaders({owner: f"{PREFIX}{token}_{number}" for number, owner in enumerate([EVERYONE, *sorted(owners)])}, password)
    with translated_errors(f"Creating the roles that load {database}", RestoreError), connection.transaction():
        for role in loaders.names():
            create_login(connection, role, password, _mark(database))
            rights = SQL("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {} TO {}")
            connection.execute(rights.format(Identifier(database), Identifier(role)))
        for member, group in _memberships(owners, set_roles):
            names = map(Identifier, (loaders.roles[group], loaders.roles[member]))
            connection.execute(SQL("GRANT {} TO {}").format(*names))
    return loaders


def _mark(database: str) -> str:
    return f"loads database {database} for a restore"


def groups_of(role: str, set_roles: Mapping[str, Facts]) -> set[str]:
    """A role, and all that it is a member of, by whatever way."""
    found, more = {role}, {role}
    while more:
        more = {group for name in more if name in set_roles for group, *_ in set_roles[name]["member of"] or ()} - found
        found |= more
    return found


def _memberships(owners: Collection[str], set_roles: Mapping[str, Facts]) -> Iterator[tuple[str, str]]:
    """Member and group: as in the set, where superusers have the rights of all; never in a circle, which no server takes."""
    reached = {owner: {owner} for owner in owners}
    pairs = [(owner, group) for owner in sorted(owners) for group in sorted(groups_of(owner, set_roles) & set(owners))]
    pairs += [(owner, other) for owner in sorted(owners) if set_roles.get(owner, {}).get("superuser") for other in sorted(owners)]
    for member, group in pairs:
        if group not in reached[member] and member not in reached[group]:
            for each in reached.values():
                if member in each:
                    each |= reached[group]
            yield member, group
    yield from ((EVERYONE, owner) for owner in owners)


def try_login(server: Server, database: str, loaders: Loaders) -> None:
    """Make sure that the server lets these roles in.

    Raises:
        RestoreError: if it does not, with its reason.
    """
    try:
        server.as_role(loaders.roles[EVERYONE], loaders.password).connect(database).close()
    except SourceUnreachable as error:
        raise RestoreError(
            f"The server does not let in the roles that load databases. {error.what}",
            f"Let pg_hba.conf admit roles whose names begin with {PREFIX}, with the method scram-sha-256, from this worker.",
        ) from error


def probe(server: Server) -> None:
    """Make sure, before anything is dropped, that roles which load can be created, log in, and be dropped.

    Raises:
        RestoreError: if one can't.
    """
    with server.maintenance() as connection:
        database = connection.info.dbname
        loaders = create(connection, database, (), {})
        try:
            try_login(server, database, loaders)
        finally:
            with translated_errors("Dropping the role that tried to log in", RestoreError):
                connection.execute(SQL("DROP OWNED BY {}").format(SQL(", ").join(map(Identifier, loaders.names()))))
            drop(connection, database)


def disarm(connection: Connection, loaders: Loaders) -> None:
    """Let the roles of a loaded database log in no more."""
    with translated_errors("Locking the roles that loaded", RestoreError), connection.transaction():
        for role in loaders.names():
            connection.execute(SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(Identifier(role)))


def drop(connection: Connection, database: str) -> None:
    """Drop the roles that load a database, or loaded it and own nothing any more.

    Raises:
        RestoreError: if one still owns something, or has rights on it.
    """
    query = "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) AND shobj_description(oid, 'pg_authid') = %s"
    with translated_errors(f"Dropping the roles that loaded {database}", RestoreError):
        for (role,) in connection.execute(query, [PREFIX, _mark(database)]).fetchall():
            try:
                connection.execute(SQL("DROP ROLE {}").format(Identifier(role)))
            except errors.DependentObjectsStillExist as error:
                raise RestoreError(
                    f"The role {role}, which loaded {database}, still owns something: {error.diag.message_detail}.",
                    "Somebody gave it that. Change its owner, then try again.",
                ) from error
