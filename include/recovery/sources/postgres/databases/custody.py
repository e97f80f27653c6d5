"""Databases that a swap closes and sets aside belong to us meanwhile.

Their owners could drop the copy, let sessions in again as fast as these are ended, or keep a lock on the name. So a
database is taken from its owner first, closed then, and its sessions are ended last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from recovery.common.errors import RecoveryError, RestoreError
from recovery.common.wording import ROLLS_BACK, shortened
from recovery.sources.postgres.accounts.server_globals import database_facts, grant
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.definitions.names import quoted_name

log = logging.getLogger(__name__)

_END_SESSIONS_WITHIN = 30.0
_TRIES = 20
"""To take a database from an owner who changes it meanwhile: the server then says that the row was updated by another."""
_BLOCKED_FOR = 1.0
"""Seconds between two looks at who blocks us."""
_PREPARED = """SELECT DISTINCT p.gid, quote_ident(p.owner), p.database, r.rolsuper
    FROM pg_locks w JOIN pg_locks h ON h.granted AND h.pid IS NULL AND ROW(h.locktype, h.database, h.classid, h.objid, h.objsubid,
        h.relation, h.transactionid) IS NOT DISTINCT FROM ROW(w.locktype, w.database, w.classid, w.objid, w.objsubid, w.relation,
        w.transactionid)
      JOIN pg_locks own ON own.locktype = 'transactionid' AND own.pid IS NULL AND own.virtualtransaction = h.virtualtransaction
      JOIN pg_prepared_xacts p ON p.transaction = own.transactionid JOIN pg_roles r ON r.rolname = p.owner
    WHERE w.pid = %s AND NOT w.granted"""
"""Transactions that hold what a session waits for, and that have no session any more."""


@dataclass(frozen=True)
class Former:
    """Which database it was, and whose."""

    number: int
    """Its oid, which a rename does not change."""
    owner: str
    rights: list[list[Any]]
    """Its owner's and ours, as ``acl`` has them, if we have some: an owner's rights take up those that he had before."""


def number(connection: Connection, database: str) -> int | None:
    """The oid of a database; None if there is none of that name, or only what a DROP DATABASE left that did not end."""
    row = connection.execute("SELECT oid FROM pg_database WHERE datname = %s AND datconnlimit <> -2", [database]).fetchone()
    return None if row is None else int(row[0])


def former(connection: Connection, database: str) -> Former | None:
    """Whose a database is; None if there is none of that name."""
    facts, me = database_facts(connection, database), connection.info.user
    if facts is None or (found := number(connection, database)) is None:
        return None
    both = [right for right in facts["acl"] or () if right[0] in {me, facts["owner"]}]
    return Former(found, facts["owner"], both if any(grantee == me for grantee, *_ in both) else [])


@contextmanager
def undisturbed(server: Server, databases: Sequence[str]) -> Iterator[Connection]:
    """A session outside of some databases. Who holds a lock that it waits for is ended, but for superusers.

    Every role may keep the name of a database locked, from any other database, even without a session.
    """
    done = Event()
    with server.maintenance(databases) as connection, server.maintenance(databases) as other:
        watching = Thread(target=_end_blockers, args=[server, other, connection.info.backend_pid, databases, done], daemon=True)
        watching.start()
        try:
            yield connection
        finally:
            done.set()
            watching.join()


def _end_blockers(server: Server, connection: Connection, waiting: int, databases: Sequence[str], done: Event) -> None:
    query = """SELECT a.pid, quote_ident(a.usename), a.application_name, a.datname,
          CASE WHEN NOT r.rolsuper THEN pg_terminate_backend(a.pid) END
        FROM unnest(pg_blocking_pids(%s)) b (pid) JOIN pg_stat_activity a USING (pid) JOIN pg_roles r ON r.oid = a.usesysid"""
    said: set[tuple[object, ...]] = set()
    try:
        while not done.wait(_BLOCKED_FOR):
            for pid, user, application, database, ended in set(connection.execute(query, [waiting]).fetchall()) - said:
                said.add((pid, user, application, database, ended))
                doing = "is ended, since it blocks the swap" if ended else "blocks the swap: end it at the server"
                log.warning("the session of %s (%s) in %s, process %d, %s", user, application, database, pid, doing)
            for gid, owner, database, superuser in connection.execute(_PREPARED, [waiting]).fetchall():
                if (gid, database) not in said:
                    said.add((gid, database))
                    log.warning("the prepared transaction %r of %s in %s blocks the swap", gid, owner, database)
                    if not superuser and database not in databases and server.about.superuser:
                        with server.connect(database) as there:
                            there.execute(SQL("ROLLBACK PREPARED {}").format(Literal(gid)))
    except (psycopg.Error, RecoveryError) as error:
        log.warning("who blocks the swap can't be seen: %s", str(error).strip())


def allow(connection: Connection, database: str, let_in: bool) -> None:
    """Let connections into a database, or none."""
    connection.execute(SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(Identifier(database), Literal(let_in)))


def close(connection: Connection, databases: Sequence[str]) -> None:
    """Take databases from their owners, let nobody into them any more, and end every session in them.

    A session that we may not end, such as a superuser's, is waited for: nobody comes in anew meanwhile.

    Raises:
        RestoreError: if the server refuses, or a session does not end.
    """
    with translated_errors(f"Closing {', '.join(databases)}", RestoreError):
        for database in databases:
            _take(connection, database)
            allow(connection, database, False)
        deadline, said = time.monotonic() + _END_SESSIONS_WITHIN, set[str]()
        while left := _end_sessions(connection, databases):
            if new := sorted({session for session, ended in left.items() if not ended} - said):
                log.warning("%s may not end sessions, and waits for their end: %s", quoted_name(connection.info.user), ", ".join(new))
                said.update(new)
            if time.monotonic() > deadline:
                ours = ", ".join(left)
                who = f", some of which {quoted_name(connection.info.user)} may not end" if said & left.keys() else ""
                raise RestoreError(f"Sessions do not end{who}: {ours}.", f"End them at the server. {ROLLS_BACK}")
            time.sleep(0.1)


def _take(connection: Connection, database: str) -> None:
    for left in reversed(range(_TRIES)):
        try:
            connection.execute(SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(Identifier(database)))
            return
        except psycopg.errors.InternalError_:
            if not left:
                raise


def _end_sessions(connection: Connection, databases: Sequence[str]) -> dict[str, bool]:
    """End every session, each in words, and whether we may; but for autovacuum's, which a rename itself makes go away, and waits for.

    Who is no superuser sees of autovacuum neither the kind nor a user, and of a superuser's session not the kind.
    """
    query = """SELECT pid, coalesce(quote_ident(usename), backend_type), application_name, datname FROM pg_stat_activity
        WHERE datname = ANY (%s) AND pid <> pg_backend_pid() AND coalesce(usename, nullif(backend_type, 'autovacuum worker')) IS NOT NULL"""
    found: dict[str, bool] = {}
    for pid, user, application, database in connection.execute(query, [list(databases)]).fetchall():
        session = f"{user} ({application}) in {database}, process {pid}"
        try:
            connection.execute("SELECT pg_terminate_backend(%s)", [pid])
            found[session] = True
        except psycopg.errors.InsufficientPrivilege:
            found[session] = False
    if ended := [session for session, ended in found.items() if ended]:
        log.info("ending %d sessions: %s", len(ended), shortened(ended))
    return found


def give_back(connection: Connection, database: str, was: Former) -> None:
    """Give a database back to its former owner, in the transaction that is open. If that role is gone, it stays ours."""
    if (now := former(connection, database)) is None or now.owner == was.owner:
        return
    if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [was.owner]).fetchall():
        log.warning("the role %s is gone: database %s, which was its own, now belongs to us", quoted_name(was.owner), database)
        return
    name, owner = Identifier(database), Identifier(was.owner)
    connection.execute(SQL("ALTER DATABASE {} OWNER TO {}").format(name, owner))
    if was.rights:
        connection.execute(SQL("REVOKE ALL ON DATABASE {} FROM {}").format(name, owner))
    for grantee, right, may_grant in sorted(was.rights, key=lambda given: given[0] != was.owner):  # ours last, else we would be who gives
        connection.execute(grant(right, SQL("DATABASE {}").format(name), grantee, may_grant))
