"""Login roles that load a database: one for each owner in it, without any right outside of it but to use its tablespaces.

A set brings code: checks, domains, generated columns, expressions of indexes, materialized views. PostgreSQL runs it
while rows are loaded, and ``SET ROLE`` is no fence, since the code itself can undo it. So no session that loads is a
superuser's, or has the rights of more than one owner, but the one that loads the contents of large objects, which run
nothing. What is loaded belongs to these roles until the end.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from psycopg import errors
from psycopg.sql import SQL, Composed, Identifier

from recovery.common.errors import RestoreError, SourceUnreachable
from recovery.packs.content_index import Facts
from recovery.sources.postgres.accounts.logins import create_login, new_password
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.targets import DATABASE_OWNER, KEPT, Terms

log = logging.getLogger(__name__)

OURS = ""
"""In place of an owner: ourselves, for statements that only a superuser may make."""
EVERYONE = "\0"
"""In place of an owner: a role that is a member of those of all owners, for what is nobody's and runs no code. No role has that name."""
PREFIX = "recovery_load_"
_READS_ALL = "pg_read_all_data"
_READS_ALL_SINCE = 14
_PARAMETERS_SINCE = 15_00_00
LOCK_TIMEOUT = "5s"
"""How long the drop of a role waits for who keeps it locked: everybody can, by giving it rights on things of his own."""
OWNS = "SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = %s::regrole AND deptype = 'o'"
"""Whether a role owns something."""


@dataclass(frozen=True)
class Family:
    """A tree of tables that belong to several owners."""

    tables: frozenset[str]
    owners: frozenset[str]


@dataclass(frozen=True)
class Loaders:
    """The login roles of one database."""

    roles: Mapping[str, str]
    """By the owner whose place they take, and by the families' keys."""
    password: str = field(repr=False)
    families: Mapping[str, Family] = field(default_factory=dict)
    """By keys that begin as :data:`EVERYONE`; see :mod:`recovery.sources.postgres.databases.inheritance`."""
    terms: Terms = KEPT
    """Who gets what they have loaded."""

    def of_owners(self) -> dict[str, str]:
        """Those in the place of one owner."""
        return {owner: role for owner, role in self.roles.items() if not owner.startswith(EVERYONE)}

    def names(self) -> list[str]:
        """All of them that were created for it."""
        return [role for role in self.roles.values() if role.startswith(PREFIX)]

    def server(self, server: Server, owner: str) -> Server:
        """The server as the role in an owner's place."""
        role = self.roles[owner]
        return server.as_role(role, server.endpoint.password if role == server.about.user else self.password)


def create(
    connection: Connection,
    database: str,
    owners: Collection[str],
    set_roles: Mapping[str, Facts],
    objects: Iterable[Facts] = (),
    families: Mapping[str, Family] | None = None,
) -> Loaders:
    """Create the roles that load a database; :data:`EVERYONE` has one, too, and so has each family.

    Args:
        connection: to the server.
        database: its name there.
        owners: roles that own something in the set.
        set_roles: what the set knows of its roles: who is a member of whom, who is a superuser.
        objects: facts of what the set has of the database: some of it needs rights outside of it.
        families: tables that several owners have together. Their roles are members of nothing.

    Raises:
        RestoreError: if the server refuses.
    """
    loaders = replace(_named([EVERYONE, *sorted(owners), *(families or ())]), families=families or {})
    with translated_errors(f"Creating the roles that load {database}", RestoreError), connection.transaction():
        for role in loaders.names():
            create_login(connection, role, loaders.password, _mark(database))
            connection.execute(SQL("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {} TO {}").format(Identifier(database), Identifier(role)))
        for member, group in _memberships(owners, set_roles):
            names = map(Identifier, (loaders.roles[group], loaders.roles[member]))
            connection.execute(SQL("GRANT {} TO {}").format(*names))
        for statement in _rights_outside(connection, loaders, list(objects)):
            connection.execute(statement)
    return loaders


def _rights_outside(connection: Connection, loaders: Loaders, objects: Sequence[Facts]) -> Iterator[Composed]:
    """Rights to put something into tablespaces, and to make functions with settings of extensions, which nobody has loaded yet."""
    for tablespace in sorted({facts["tablespace"] for facts in objects if facts.get("tablespace")} - {"pg_default"}):
        names = SQL(", ").join(map(Identifier, loaders.names()))
        yield SQL("GRANT CREATE ON TABLESPACE {} TO {}").format(Identifier(tablespace), names)
    if connection.info.server_version >= _PARAMETERS_SINCE and connection.info.parameter_status("is_superuser") == "on":
        for owner, setting in sorted({(facts["owner"], name) for facts in objects for name in facts.get("custom settings") or ()}):
            name = SQL(".").join(map(Identifier, setting.split(".")))
            yield SQL("GRANT SET ON PARAMETER {} TO {}").format(name, Identifier(loaders.roles.get(owner, loaders.roles[EVERYONE])))


def create_members(server: Server, connection: Connection, database: str, owners: Collection[str], purpose: str) -> Loaders:
    """Create roles that work in a live database: each has the rights of one owner there, by membership, and no others.

    The role in the place of a superuser is none: it may read everything, and do what everybody may. We ourselves work as
    an owner that is ourselves and no superuser.

    Args:
        server: where the database is.
        connection: to it.
        database: its name there.
        owners: roles of the server.
        purpose: in place of the database in :func:`drop`.

    Raises:
        RestoreError: if the server refuses.
    """
    ourselves = set() if server.about.superuser else {server.about.user} & set(owners)
    created = _named(sorted(set(owners) - ourselves))
    with translated_errors(f"Creating the roles that load tables of {database}", RestoreError), connection.transaction():
        superusers = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles WHERE rolsuper").fetchall()}
        of_database = connection.execute("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", [database]).fetchall()
        for name, role in created.roles.items():
            owner = of_database[0][0] if name == DATABASE_OWNER else name
            create_login(connection, role, created.password, _mark(purpose))
            if owner not in superusers or server.about.major >= _READS_ALL_SINCE:
                group = _READS_ALL if owner in superusers else owner
                connection.execute(SQL("GRANT {} TO {}").format(Identifier(group), Identifier(role)))
            if connection.execute("SELECT has_database_privilege(%s, %s, 'CONNECT')", [role, database]).fetchone() == (False,):
                statement = SQL("GRANT CONNECT ON DATABASE {} TO {}")
                connection.execute(statement.format(Identifier(database), Identifier(role)))
    return Loaders({**created.roles, **{owner: owner for owner in ourselves}}, created.password)


@contextmanager
def members(server: Server, connection: Connection, database: str, owners: Collection[str], purpose: str) -> Iterator[Loaders]:
    """Roles of :func:`create_members`, for as long as a block runs."""
    loaders = create_members(server, connection, database, owners, purpose)
    try:
        yield loaders
    finally:
        with translated_errors(f"Dropping roles that worked in {database}", RestoreError):
            for role in loaders.names():
                _drop_role(connection, role, database)


def _named(owners: Sequence[str]) -> Loaders:
    token, password = secrets.token_hex(4), new_password()
    return Loaders({owner: f"{PREFIX}{token}_{number}" for number, owner in enumerate(owners)}, password)


def _mark(purpose: str) -> str:
    return f"loads database {purpose} for a restore"


def groups_of(role: str, set_roles: Mapping[str, Facts]) -> set[str]:
    """A role, and all that it is a member of, by whatever way."""
    found, more = {role}, {role}
    while more:
        more = {group for name in more if name in set_roles for group, *_ in set_roles[name]["member of"] or ()} - found
        found |= more
    return found


def with_database_owner(set_roles: Mapping[str, Facts], owner: str) -> dict[str, Facts]:
    """Roles of a set with the membership that the owner of a database has in it, and that is written nowhere."""
    facts = set_roles.get(owner, {})
    return {**set_roles, owner: {**facts, "member of": [*(facts.get("member of") or ()), [DATABASE_OWNER]]}}


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
        loaders.server(server, next(iter(loaders.roles))).connect(database).close()
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


def names(connection: Connection, purpose: str) -> list[str]:
    """The roles that were created to load a database, or for another purpose."""
    query = "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s) AND shobj_description(oid, 'pg_authid') = %s ORDER BY oid"
    return [role for (role,) in connection.execute(query, [PREFIX, _mark(purpose)]).fetchall()]


def drop(connection: Connection, database: str) -> None:
    """Drop the roles that load a database, or loaded it and own nothing any more.

    Raises:
        RestoreError: if one still owns something.
    """
    with translated_errors(f"Dropping the roles that loaded {database}", RestoreError):
        for role in names(connection, database):
            _drop_role(connection, role, database)


def _drop_role(connection: Connection, role: str, database: str) -> None:
    """Drop a role. One on whom somebody lays rights on things of his own, or keeps a lock by that, stays and can log in no more.

    Everybody can do that to every role, from every database.
    """
    connection.execute(SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(Identifier(role)))
    owns = bool(connection.execute(OWNS, [role]).fetchall())
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
            if not owns:
                connection.execute(SQL("DROP OWNED BY {}").format(Identifier(role)))  # its rights on tablespaces and settings
            connection.execute(SQL("DROP ROLE {}").format(Identifier(role)))
    except errors.DependentObjectsStillExist as error:
        if owns:
            raise RestoreError(
                f"The role {role}, which loaded {database}, still owns something: {error.diag.message_detail}.",
                "Somebody gave it that. Change its owner, then try again.",
            ) from error
        stays = "the role %s can log in no more, but stays, since somebody gave it rights; revoke these and drop it by hand: %s"
        log.warning(stays, role, error.diag.message_detail)
    except errors.LockNotAvailable:
        log.warning("the role %s can log in no more, but stays, since somebody keeps it locked; drop it by hand", role)
