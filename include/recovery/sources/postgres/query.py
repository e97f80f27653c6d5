"""SQL of the plan's owner: queries of checks, statements of hooks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Timer
from typing import Any

import psycopg
from psycopg import errors, generators
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus

from recovery.common.errors import SourceError, SourceUnreachable
from recovery.sources.base import RestoreView
from recovery.sources.postgres.accounts.query_roles import Asked, Database, database, rights, session
from recovery.sources.postgres.accounts.roles import coming_roles
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.targets import Target

log = logging.getLogger(__name__)

_ROWS = 20
_ONE = "Let the query of the plan give one row with one column."


@dataclass(frozen=True)
class Answer:
    """What the server says to one statement."""

    status: str
    """As ``psql`` shows it: ``UPDATE 5``."""
    rows: list[tuple[Any, ...]] | None = None
    """The first rows, of a statement that gives any."""


def execute(server: Server, asked: Asked, statement: str, timeout: timedelta) -> list[Answer]:
    """Run statements in a database with the search path that it has for its users; what the server notices goes into the log.

    One statement is a transaction of its own, or none at all (``VACUUM``); several are one transaction, unless they
    say otherwise. A query fails where row security would hide rows from it.

    Args:
        server: whose database it is.
        asked: where, with whose rights, and whether it may write.
        statement: one or more.
        timeout: of all of it; the server ends what takes longer, also when this process is gone.

    Raises:
        SourceUnreachable: if the server does not let us in.
        SourceError: if it refuses, or takes too long, with its own words; if nobody's rights will do; if a query gives several rows.
    """
    with (
        session(
            server,
            asked,
            statement_timeout=str(round(timeout.total_seconds() * 1000)),
            default_transaction_read_only="on" if asked.reads else "off",
            search_path=None,
            restrict_nonsystem_relation_kind=None,
            row_security="off" if asked.reads else None,
        ) as connection,
        translated_errors(f"Asking database {asked.database}"),
    ):
        connection.add_notice_handler(lambda notice: log.info("%s: %s", notice.severity, notice.message_primary))
        with _cancelled_after(connection, timeout):
            return list(_answers(connection, statement, only_one=asked.reads))


def _answers(connection: Connection, statement: str, *, only_one: bool) -> Iterator[Answer]:
    """What the server says, row by row: neither this process nor the driver holds more than is kept.

    Raises:
        SourceError: if ``only_one`` row is wanted, and there is a second.
    """
    libpq, reader, rows = connection.pgconn, Transformer(connection), list[tuple[Any, ...]]()
    libpq.send_query(statement.encode())
    libpq.set_single_row_mode()
    connection.wait(generators.send(libpq))
    while result := connection.wait(generators.fetch(libpq)):
        match result.status:
            case ExecStatus.SINGLE_TUPLE if only_one and rows:
                connection.close()  # or the server would be asked to roll back, and first send the rest
                raise SourceError("expected one value, found several rows", _ONE)
            case ExecStatus.SINGLE_TUPLE:
                if len(rows) < _ROWS:
                    reader.set_pgresult(result)
                    rows += reader.load_rows(0, 1, tuple)
            case ExecStatus.TUPLES_OK | ExecStatus.COMMAND_OK | ExecStatus.EMPTY_QUERY:
                status = (result.command_status or b"").decode()
                yield Answer(status, rows if result.nfields else None)
                rows = []
            case ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result, encoding=connection.info.encoding)
            case _:
                raise psycopg.ProgrammingError("COPY to or from a client is not possible here")


def foresee(server: Server, asked: Asked, restore: RestoreView | None, brought: Target | None) -> str:
    """Why nobody's rights will do for SQL; see :meth:`recovery.sources.base.Queryable.foresee`.

    Args:
        server: whose database it is.
        asked: the SQL.
        restore: what is to be restored there, if anything is.
        brought: the database, if the restore brings it as a whole.
    """
    there = server.databases().get(asked.database, False)
    with server.maintenance() as connection, translated_errors(f"Asking who owns database {asked.database}"):
        try:
            if restore and brought and (asked.reads or not there):
                rights(connection, server, asked, _in_set(restore, brought), coming_roles(connection, restore))
            elif there:
                with server.connect(asked.database) as inside:
                    rights(inside, server, asked, database(inside), {})
        except SourceUnreachable:
            raise
        except SourceError as error:
            return f"{error.what} {error.next_step}"
    return ""


def _in_set(restore: RestoreView, target: Target) -> Database:
    makers: set[str | None] = set()
    for kind, _, facts in restore.rows(target.artifact):
        if owner := facts.get("owner"):
            makers.add(owner)
        if kind in {"schema", "database"}:
            makers |= {grantee for grantee, privilege, _ in facts["acl"] or () if privilege == "CREATE"}
    return Database(str(target.brought["owner"]), makers)


@contextmanager
def _cancelled_after(connection: Connection, timeout: timedelta) -> Iterator[None]:
    """The server's own timeout is of each statement, not of several together."""
    timer = Timer(timeout.total_seconds(), connection.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def only_value(answer: Answer) -> object:
    """The value of an answer that has one row of one column.

    Raises:
        SourceError: if it has another shape.
    """
    if answer.rows is None:
        raise SourceError("expected one value, but the statement gives none", _ONE)
    if not answer.rows:
        raise SourceError("expected one value, found no row", _ONE)
    if len(answer.rows[0]) != 1:
        raise SourceError(f"expected one value, found {len(answer.rows[0])} columns", _ONE)
    return answer.rows[0][0]
