"""Login roles for SQL of the plan's owner: queries of checks, statements of hooks. Each lives as long as one session.

Such SQL runs code of the database's owner: of views, functions, triggers, rules, defaults. That code has the rights of the
session's user, whatever ``SET ROLE`` said. So the user is never a superuser. It is a member of the one role whose rights are
needed. Where that is a superuser, it only reads, and only if nobody else can have put code into the database.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import errors
from psycopg.sql import SQL, Identifier

from recovery.common.errors import RecoveryError, SourceError, SourceUnreachable
from recovery.packs.content_index import Facts
from recovery.sources.postgres.accounts.loaders import LOCK_TIMEOUT, OWNS, groups_of
from recovery.sources.postgres.accounts.logins import create_login, new_password
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.definitions.names import quoted_name

log = logging.getLogger(__name__)

PREFIX = "recovery_query_"
_READER = "pg_read_all_data"
_READER_SINCE = 14
_ADMIN_SINCE = 16
"""Before, CREATEROLE alone was enough to give somebody the rights of others."""
_MAKERS = """SELECT pg_get_userbyid(refobjid) FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND deptype = 'o'
      AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION SELECT pg_get_userbyid(nullif(a.grantee, 0)) FROM pg_namespace, aclexplode(nspacl) a WHERE a.privilege_type = 'CREATE'
    UNION SELECT pg_get_userbyid(nullif(a.grantee, 0)) FROM pg_database, aclexplode(datacl) a WHERE a.privilege_type = 'CREATE'
      AND datname = current_database()"""
"""Who owns something in a database, or may make something in it; null for everybody. Owners of schemas are among them."""
_NAME_ANOTHER = "Name a role that is none under `as`, or give the database an owner that is none."


@dataclass(frozen=True)
class Asked:
    """SQL that is to run in a database."""

    database: str
    """Its name at the server."""
    role: str | None
    """Whose rights it needs; None for those of the database's owner."""
    reads: bool
    """Whether it is a query that may write nothing."""


@dataclass(frozen=True)
class Rights:
    """What a session for SQL may do."""

    role: str | None
    """The role whose rights it has; None for one that reads everything, and does nothing else."""
    own: bool = False
    """Whether that role is the Connection's user."""


@dataclass(frozen=True)
class Database:
    """What counts of a database."""

    owner: str
    makers: Collection[str | None]
    """Who owns something in it, or may make something in it; None for everybody."""


def database(connection: Connection) -> Database:
    """The database of a session."""
    query = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    ((owner,),) = connection.execute(query).fetchall()
    return Database(owner, [maker for (maker,) in connection.execute(_MAKERS).fetchall()])


def rights(connection: Connection, server: Server, asked: Asked, where: Database, coming: Mapping[str, Facts]) -> Rights:
    """With whose rights SQL can run.

    Args:
        connection: to the server.
        server: the same.
        asked: the SQL.
        where: its database.
        coming: roles of a set that the server lacks now, or that are asleep.

    Raises:
        SourceError: if there is no way, with what to do.
    """
    me, role = server.about.user, asked.role or where.owner
    powerful = _may_be_superuser(connection, role, coming)
    if powerful is None:
        text = f"SQL is to run as {quoted_name(role)} in {asked.database}, and the server has no such role."
        raise SourceError(text, "Correct `as` in the plan.")
    if not powerful:
        if role == me == where.owner:
            return Rights(role, own=True)
        if role == me:
            raise SourceError(
                f"SQL is to run as {quoted_name(me)} in {asked.database}, who is the Connection's user.", "Name another role under `as`."
            )
        _refuse_if_unable(connection, server, role)
        return Rights(role)
    if asked.role:
        raise SourceError(
            f"SQL is to run as {quoted_name(role)} in {asked.database}, who is a superuser, or may become one.", _NAME_ANOTHER
        )
    _refuse_others_code(connection, server, asked, where, coming)
    _refuse_if_unable(connection, server, _READER)
    return Rights(None)


def _refuse_others_code(connection: Connection, server: Server, asked: Asked, where: Database, coming: Mapping[str, Facts]) -> None:
    belongs = f"Database {asked.database} belongs to {quoted_name(where.owner)}, a superuser"
    if not asked.reads or server.about.major < _READER_SINCE:
        raise SourceError(f"{belongs}, and statements of a plan don't run as one.", _NAME_ANOTHER)
    makers = [maker for maker in where.makers if maker is None or not _may_be_superuser(connection, maker, coming)]
    if others := sorted(quoted_name(maker) if maker else "everybody" for maker in makers if maker != "pg_database_owner"):
        raise SourceError(f"{belongs}, and others own or may make something in it: {', '.join(others)}.", _NAME_ANOTHER)


def _may_be_superuser(connection: Connection, role: str, coming: Mapping[str, Facts]) -> bool | None:
    """Whether a role is a superuser, or a member of one; None if the server has no such role."""
    if role in coming:
        return any(coming[group]["superuser"] for group in groups_of(role, coming) & coming.keys())
    query = """SELECT EXISTS (SELECT FROM pg_roles s WHERE s.rolsuper AND pg_has_role(r.oid, s.oid, 'MEMBER'))
        FROM pg_roles r WHERE r.rolname = %s"""
    row = connection.execute(query, [role]).fetchone()
    return bool(row[0]) if row else None


def _refuse_if_unable(connection: Connection, server: Server, group: str) -> None:
    me, group_name = quoted_name(server.about.user), quoted_name(group)
    if server.about.standby:
        raise SourceError(
            "The server is a standby, where no login role can be made for SQL of the plan.", "Name its primary, or run a program by `argv`."
        )
    if server.about.superuser:
        return
    query = "SELECT rolcreaterole, pg_has_role(to_regrole(%s)::oid, 'MEMBER WITH ADMIN OPTION') FROM pg_roles WHERE rolname = current_user"
    row = connection.execute(query, [SQL("{}").format(Identifier(group)).as_string(connection)]).fetchone()
    assert row is not None
    creates, admin = row
    if not creates or (server.about.major >= _ADMIN_SINCE and not admin):
        raise SourceError(
            f"User {me} may not make a login role with the rights of {group_name}, as which SQL of the plan is run.",
            f"ALTER ROLE {me} CREATEROLE and GRANT {group_name} TO {me} WITH ADMIN OPTION; or run a program by `argv`.",
        )


@contextmanager
def session(server: Server, asked: Asked, **settings: str | None) -> Iterator[Connection]:
    """A session for SQL that has the rights which it needs, and no others.

    Args:
        server: whose database it is.
        asked: the SQL.
        settings: of the session, see :meth:`recovery.sources.postgres.client.Server.connect`.

    Raises:
        SourceUnreachable: if the server does not let us in.
        SourceError: if there is no way; if the role can't be made, log in or be dropped.
    """
    with server.connect(asked.database) as connection:
        with translated_errors(f"Making a login role for SQL in {asked.database}"):
            found = rights(connection, server, asked, database(connection), {})
            if not found.own:
                drop_left(connection, asked.database)
                there = _made(connection, server, asked.database, found)
        if found.own:
            with server.connect(asked.database, autocommit=True, **settings) as inside:
                yield inside
            return
        try:
            with _logged_in(there, asked.database, role=found.role or "none", **settings) as inside:
                yield inside
        except BaseException:
            try:
                _drop(connection, there.about.user)
            except RecoveryError as error:  # the other error says more
                log.warning("%s", error)
            raise
        _drop(connection, there.about.user)


def _logged_in(server: Server, database: str, **settings: str | None) -> Connection:
    try:
        return server.connect(database, autocommit=True, **settings)
    except SourceUnreachable as error:
        raise SourceError(
            f"The server does not let in the role that SQL runs as. {error.what}",
            f"Let pg_hba.conf admit roles whose names begin with {PREFIX}, with the method scram-sha-256, from this worker.",
        ) from error


def _made(connection: Connection, server: Server, database: str, rights: Rights) -> Server:
    role, password = f"{PREFIX}{secrets.token_hex(4)}", new_password()
    name = Identifier(role)
    query = "SELECT pid || ' since ' || backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    ((session,),) = connection.execute(query).fetchall()
    with connection.transaction():
        create_login(connection, role, password, f"{_mark(database)}{session}")
        connection.execute(SQL("GRANT {} TO {}").format(Identifier(rights.role or _READER), name))
        closed = connection.execute("SELECT NOT has_database_privilege(%s, current_database(), 'CONNECT')", [role]).fetchall() == [(True,)]
        if closed and rights.role is None:
            connection.execute(SQL("GRANT CONNECT ON DATABASE {} TO {}").format(Identifier(database), name))
    return server.as_role(role, password)


def _mark(database: str) -> str:
    """What the comment of such a role begins with; the session that made it follows, and ends with it."""
    return f"asks database {database} for session "


def _drop(connection: Connection, role: str) -> None:
    with translated_errors(f"Dropping the role {role}"):
        try:
            _remove(connection, role)
        except errors.LockNotAvailable:
            log.warning("the role %s can log in no more, but stays, since somebody keeps it locked; drop it by hand", role)
        except errors.DependentObjectsStillExist as error:
            if not connection.execute(OWNS, [role]).fetchall():  # everybody can give it rights on things of his own
                stays = "the role %s can log in no more, but stays, since somebody gave it rights; revoke these and drop it by hand: %s"
                log.warning(stays, role, error.diag.message_detail)
                return
            raise SourceError(
                f"The role {role}, which SQL of the plan ran as, still owns something: {error.diag.message_detail}.",
                "Code of the database gave it that. Look whose that is, drop it, and drop the role.",
            ) from error


def drop_left(connection: Connection, database: str) -> None:
    """Drop the roles for SQL in a database whose sessions are gone: somebody killed the process that made them.

    One that can't be dropped can log in no more, and the log says why it stays.
    """
    query = """SELECT r.rolname FROM pg_roles r, LATERAL shobj_description(r.oid, 'pg_authid') mark
        WHERE starts_with(r.rolname, %(prefix)s) AND starts_with(mark, %(mark)s) AND NOT EXISTS (SELECT FROM pg_stat_activity a
          WHERE starts_with(mark, %(mark)s || a.pid || ' since ' || coalesce(a.backend_start::text, '')))"""
    with translated_errors(f"Looking for roles that asked database {database}"):
        for (role,) in connection.execute(query, {"prefix": PREFIX, "mark": _mark(database)}).fetchall():
            try:
                _remove(connection, role)
            except errors.UndefinedObject:
                log.info("somebody else dropped the role %s of a killed process", role)
            except (errors.DependentObjectsStillExist, errors.InsufficientPrivilege, errors.LockNotAvailable) as error:
                log.warning("the role %s, of a killed process, stays; drop it by hand: %s", role, str(error).strip())
            else:
                log.info("dropped the role %s of a killed process", role)


def _remove(connection: Connection, role: str) -> None:
    """Lock a role out, give what it may own in this database to the role whose rights it has, and drop it.

    Only where it has something: these are changes of definitions, on which a database may have triggers.
    """
    name = Identifier(role)
    connection.execute(SQL("ALTER ROLE {} NOLOGIN").format(name))
    connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role])
    query = "SELECT deptype::text FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = %s::regrole"
    if has := {kind for (kind,) in connection.execute(query, [role]).fetchall()}:
        group = """SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
            WHERE r.rolname = %s AND NOT starts_with(g.rolname, 'pg_') AND NOT g.rolsuper ORDER BY m.ctid LIMIT 1"""
        for (owner,) in connection.execute(group, [role]).fetchall() if "o" in has else ():
            connection.execute(SQL("REASSIGN OWNED BY {} TO {}").format(name, Identifier(owner)))
        connection.execute(SQL("DROP OWNED BY {}").format(name))
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
        connection.execute(SQL("DROP ROLE {}").format(name))
