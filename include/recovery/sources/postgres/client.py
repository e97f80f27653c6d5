"""Reaching a PostgreSQL server: connections, its own client tools, and the settings that make two sides read alike."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors, pq
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Literal
from psycopg.types.json import set_json_loads

from recovery.common.connections import Endpoint
from recovery.common.errors import ConnectionUnusable, RecoveryError, SourceError, SourceUnreachable, ToolError
from recovery.runners.base import Runner, need_shared_files

log = logging.getLogger(__name__)

Connection = psycopg.Connection[TupleRow]

BIN_VARIABLE = "RECOVERY_POSTGRES_BIN"
"""Environment variable with folders of client tools, separated as in PATH."""
TOOLS = ("pg_dump", "pg_dumpall", "pg_restore", "psql")
OLDEST_MAJOR = 13
_FILES = {"sslcert", "sslkey", "sslrootcert", "sslcrl"}
"""Parameters of a Connection that name files."""
_INSTALLED = ("/usr/pgsql-*/bin", "/usr/lib/postgresql/*/bin")
"""Where distributions install them."""

_PINS = {
    "search_path": "",
    "TimeZone": "UTC",
    "DateStyle": "ISO,YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "row_security": "off",
    "default_table_access_method": "heap",
    "default_tablespace": "",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "role": "none",
    "exit_on_error": "off",
    "local_preload_libraries": "",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
"""Settings of every session, ours and the tools': what is read and written must not depend on the database or the role.

A database's owner may give it settings for whoever comes in, and so could make a session another role's, or end it.
"""
_PINS_SINCE = {"idle_session_timeout": 14, "transaction_timeout": 17}
EVENT_TRIGGERS_OFF_SINCE = 17
_PINS_OF_SUPERUSERS = {"ignore_checksum_failure": 0, "zero_damaged_pages": 0, "event_triggers": EVENT_TRIGGERS_OFF_SINCE}
"""Settings to turn off that only a superuser may change, by the version that brought them.

The first two hide damage. An event trigger runs code of its function's owner whenever we change a definition, or come in.
"""
_NO_EVENT_TRIGGERS = {"session_replication_role": "replica"}
"""What turns most of them off in older versions; those that are enabled as ``ALWAYS`` or ``REPLICA`` stay on."""
_TABLES_ONLY = {"restrict_nonsystem_relation_kind": "view, foreign-table"}
"""In sessions of ours, nobody reads a view that took the name of a table; its owner's code would run as us.

PostgreSQL knows it since 17, and since 13.16, 14.13, 15.8 and 16.4.
"""
_PASSING = (
    errors.LockNotAvailable,
    errors.DeadlockDetected,
    errors.SerializationFailure,
    errors.AdminShutdown,
    errors.CannotConnectNow,
)
_MARK = "recovery.session"
"""A setting that every session is begun with, and that only this very session has at the server."""
_NOT_TAKEN = "unsupported startup parameter"
"""What a pooler answers that takes no settings."""
_OURS = {"host", "port", "user", "password", "dbname", "options", "client_encoding", "service"}


@contextmanager
def translated_errors(doing: str, kind: type[RecoveryError] = SourceError) -> Iterator[None]:
    """Turn what the server refuses during a block into an error for the operator.

    Raises:
        SourceUnreachable: if the connection is lost, a lock is not to be had, or something was changed at the same time.
        RecoveryError: of ``kind``, for anything else the server says.
    """
    try:
        yield
    except _PASSING as error:
        raise SourceUnreachable(f"{doing}: {_said(error)}.", "Try again in a few minutes.") from error
    except psycopg.OperationalError as error:
        if error.sqlstate is None:
            raise SourceUnreachable(f"{doing}: the connection was lost ({_said(error)}).", "Check the server, then try again.") from error
        raise kind(f"{doing}: the server says: {_said(error)}.", "Remove the cause at the server, then try again.") from error
    except psycopg.Error as error:
        raise kind(f"{doing}: the server says: {_said(error)}.", "Remove the cause at the server, then try again.") from error


def _said(error: psycopg.Error) -> str:
    parts = [error.diag.message_primary or str(error).strip(), error.diag.message_detail or ""]
    return " ".join(part.strip() for part in parts if part).rstrip(".")


def codec(connection: Connection) -> str:
    """Python's name of the encoding that a database's dump is in; of SQL_ASCII, which is none, one that keeps every byte."""
    name = connection.info.parameter_status("server_encoding") or "UTF8"
    if name == "SQL_ASCII":
        return "latin1"
    with translated_errors(f"Asking for the encoding of {connection.info.dbname}"):
        connection.execute(SQL("SET client_encoding TO {}").format(Literal(name)))
        found = connection.info.encoding
        connection.execute("SET client_encoding TO utf8")
    return found


def tool_major(program: Path, runner: Runner) -> int | None:
    """Major version of a PostgreSQL program; None if it doesn't say."""
    try:
        words = runner.version(program)
    except ToolError:
        log.warning("%s does not say its version and is left out", program)
        return None
    match = re.search(r"\) (\d+)", words)
    return int(match[1]) if match else None


def find_bin(major: int, folders: Sequence[Path], runner: Runner, *, or_newer: bool = False) -> Path:
    """The folder with the client tools of a server's major version.

    Looks in ``folders`` (the plan's), those of RECOVERY_POSTGRES_BIN, where distributions install them, and PATH.

    Args:
        major: the version.
        folders: the plan's folders.
        runner: runs the tools.
        or_newer: the next newer version will do, if that one is nowhere: to read a dump, not to make one or to load it.

    Raises:
        ToolError: if no folder has all of them, with what was found where.
    """
    seen: dict[str, str] = {}
    newer: dict[int, Path] = {}
    for folder in tool_places(folders, runner):
        missing = [name for name in TOOLS if not runner.has(folder / name)]
        if "pg_dump" in missing:
            seen[str(folder)] = "no pg_dump"
            continue
        found = tool_major(folder / "pg_dump", runner)
        if found == major and not missing:
            return folder
        if found and found > major and not missing:
            newer.setdefault(found, folder)
        seen[str(folder)] = f"version {found or 'unknown'}" if found != major else f"version {major}, but no {', '.join(missing)}"
    if or_newer and newer:
        return newer[min(newer)]
    where = "; ".join(f"{folder} ({what})" for folder, what in seen.items())
    raise ToolError(
        f"The PostgreSQL {major} client tools ({', '.join(TOOLS)}) are not all here. Looked in {where}.",
        f"Install them on every worker (Debian: postgresql-client-{major}), or name their folder in the plan under tools.postgres"
        f" or in {BIN_VARIABLE}. Of a server in a container, tools.postgres: container takes those of its image.",
        retryable=False,
    )


def tool_places(folders: Sequence[Path], runner: Runner) -> list[Path]:
    """Where PostgreSQL's programs are looked for, in order; see :func:`find_bin`."""
    from_environment = [Path(part) for part in os.environ.get(BIN_VARIABLE, "").split(os.pathsep) if part]
    return runner.places([*folders, *from_environment], _INSTALLED)


@dataclass(frozen=True)
class About:
    """What a server says of itself."""

    major: int
    version: str
    system: str
    """System identifier: of this cluster and its physical copies, of no other."""
    user: str
    superuser: bool
    standby: bool
    tables_only: bool
    """Whether it knows :data:`_TABLES_ONLY`."""


class Server:
    """A PostgreSQL server as one user reaches it.

    Args:
        endpoint: where it answers, and as whom.
        folders: the plan's folders of client tools.
        runner: runs them.
    """

    def __init__(self, endpoint: Endpoint, folders: Sequence[Path], runner: Runner) -> None:
        self.endpoint = endpoint
        self.runner = runner
        self._folders = list(folders)
        known = {option.keyword.decode(): option.envvar for option in pq.Conninfo.get_defaults()}
        self._variables = {keyword: variable.decode() for keyword, variable in known.items() if variable}
        self._parameters: dict[str, Any] = {
            keyword: str(value) for keyword, value in endpoint.extra.items() if keyword in known and keyword not in _OURS
        }
        if "sslpassword" in self._parameters:
            raise ConnectionUnusable(
                f"The Connection {endpoint.id!r} has an sslpassword, which the client tools take from their command line only.",
                "Use a key file without a passphrase, readable for the worker alone.",
            )
        self._parameters = {"keepalives_idle": "30", "connect_timeout": "10", "application_name": "recovery"} | self._parameters

    def as_role(self, login: str, password: str) -> Server:
        """The same server as another user, who is no superuser, and may read views."""
        other = Server(replace(self.endpoint, login=login, password=password), self._folders, self.runner)
        other.about = replace(self.about, user=login, superuser=False, tables_only=False)
        return other

    def _pins(self) -> dict[str, str | None]:
        """:data:`_PINS`, and those that the server's version and our rights add."""
        since = {name: "0" for name, major in _PINS_SINCE.items() if self.about.major >= major}
        off = {name: "off" for name, major in _PINS_OF_SUPERUSERS.items() if self.about.superuser and self.about.major >= major}
        replica = _NO_EVENT_TRIGGERS if self.about.superuser and self.about.major < EVENT_TRIGGERS_OFF_SINCE else {}
        return {**_PINS, **since, **off, **replica, **(_TABLES_ONLY if self.about.tables_only else {})}

    def _options(self, pins: Mapping[str, str | None]) -> str:
        own = str(self.endpoint.extra.get("options", ""))
        settings = {name: re.sub(r"([\\\s])", r"\\\1", value) for name, value in pins.items() if value is not None}
        return " ".join([*([own] if own else []), *(f"-c {name}={value}" for name, value in settings.items())])

    def connect(self, database: str, *, autocommit: bool = True, **changes: str | None) -> Connection:
        """A session in a database, with nothing in its search path and all names qualified.

        Args:
            database: its name.
            autocommit: each statement is a transaction of its own.
            changes: other settings than :data:`_PINS`; None leaves one as the server has it.

        Raises:
            SourceUnreachable: if the server does not let us in, with its reason.
        """
        return self._connect(database, {**self._pins(), **changes}, autocommit=autocommit)

    def _connect(self, database: str, pins: Mapping[str, str | None], *, autocommit: bool = True) -> Connection:
        mark = secrets.token_hex(8)
        try:
            connection: Connection = psycopg.connect(
                host=self.endpoint.host or None,
                port=self.endpoint.port,
                user=self.endpoint.login or None,
                password=self.endpoint.password or None,
                dbname=database,
                options=self._options({**pins, _MARK: mark}),
                autocommit=autocommit,
                prepare_threshold=None,
                **self._parameters,
            )
        except psycopg.OperationalError as error:
            if _NOT_TAKEN in str(error):
                raise self._pooled(str(error).strip()) from error
            raise SourceUnreachable(
                f"PostgreSQL at {self._address} (Connection {self.endpoint.id!r}) does not let us into"
                f" database {database!r}: {str(error).strip()}.",
                "Check the address, the password and pg_hba.conf, and whether the server has sessions left.",
            ) from error
        self._refuse_pooled(connection, mark)
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            connection.execute("SET client_encoding TO latin1")
            set_json_loads(lambda data: json.loads(data if isinstance(data, str) else str(data, "latin1")), connection)
        else:
            connection.execute("SET client_encoding TO utf8")
        if not autocommit:
            connection.commit()
        return connection

    def _refuse_pooled(self, connection: Connection, mark: str) -> None:
        """A pooler may drop the settings of a session, or share a session of the server among several of ours, between two statements.

        Then nothing holds that was set or locked, and no snapshot stays open.
        """
        try:
            found = connection.execute("SELECT current_setting(%s, true) = %s", [_MARK, mark]).fetchone()
        except psycopg.Error as error:
            connection.close()
            raise self._pooled(str(error).strip()) from error
        if found != (True,):
            connection.close()
            raise self._pooled("its sessions have not the settings that ours were begun with")

    def _pooled(self, why: str) -> ConnectionUnusable:
        return ConnectionUnusable(
            f"Not PostgreSQL itself but a pooler, such as PgBouncer, answers at {self._address} (Connection {self.endpoint.id!r}): {why}.",
            "Write the server's direct address into the Connection, without the pooler.",
        )

    @property
    def _address(self) -> str:
        return self.endpoint.place or f"{self.endpoint.host}:{self.endpoint.port or 5432}"

    def maintenance(self, besides: Sequence[str] = ()) -> Connection:
        """A session in any database but some, for what concerns the whole server.

        Raises:
            SourceUnreachable: if no candidate lets us in.
        """
        return self._maintenance(self._pins(), besides)

    def _maintenance(self, pins: Mapping[str, str | None], besides: Sequence[str] = ()) -> Connection:
        candidates = dict.fromkeys(filter(None, (self.endpoint.schema, "postgres", "template1")))
        failures: list[SourceUnreachable] = []
        for database in candidates:
            if database in besides:
                continue
            try:
                return self._connect(database, pins)
            except SourceUnreachable as error:
                failures.append(error)
        raise (failures or [SourceUnreachable("There is no other database to work from.", "Create the database postgres.")])[0]

    @cached_property
    def about(self) -> About:
        """Version, identity and who we are there.

        Raises:
            SourceError: if the server is older than this project reads.
        """
        query = """SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'),
            (SELECT system_identifier::text FROM pg_control_system()), current_user,
            (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), pg_is_in_recovery(),
            EXISTS (SELECT FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind')"""
        with self._maintenance(_PINS) as connection, translated_errors("Asking the server for its version"):
            row = connection.execute(query).fetchone()
        assert row is not None
        about = About(*row)
        if about.major < OLDEST_MAJOR:
            raise SourceError(
                f"The server is PostgreSQL {about.version}.", f"Upgrade it to {OLDEST_MAJOR} or newer; older ones are not read."
            )
        return about

    @property
    def identity(self) -> str:
        """System identifier and address: a clone has the same identifier, so the address belongs to it."""
        return f"{self.about.system} at {self._address}"

    def databases(self) -> dict[str, bool]:
        """Every database by name, and whether it can be backed up.

        That is one which lets us in, is not the server's own template, and was not left by a DROP DATABASE that was cut short.
        """
        query = """SELECT datname, datallowconn AND datconnlimit <> -2 AND datname NOT IN ('template0', 'template1')
              AND has_database_privilege(oid, 'CONNECT')
            FROM pg_database ORDER BY datname"""
        with self.maintenance() as connection, translated_errors("Listing the databases"):
            return dict(connection.execute(query).fetchall())

    @cached_property
    def bin(self) -> Path:
        """Folder of the client tools of the server's major version; see :meth:`bin_of`."""
        return self.bin_of(self.about.major)

    def bin_of(self, major: int) -> Path:
        """Folder of the client tools of a major version.

        Raises:
            ToolError: if they are not installed, see :func:`find_bin`; or run where this worker's folders are not seen, since
                dumps, lists of entries and scripts are handed over in files.
        """
        need_shared_files(self.runner, "PostgreSQL's client tools")
        return find_bin(major, self._folders, self.runner)

    def environment(self, encoding: str) -> dict[str, str]:
        """Environment of a client tool: address, password, settings. Texts go in and out in ``encoding``."""
        env = {
            "PGHOST": self.endpoint.host,
            "PGPORT": str(self.endpoint.port or ""),
            "PGUSER": self.endpoint.login,
            "PGPASSWORD": self.endpoint.password,
            "PGOPTIONS": self._options(self._pins()),
            "PGCLIENTENCODING": encoding,
            "LC_ALL": "C",
        }
        for keyword, value in self._parameters.items():
            if keyword in self._variables:
                env[self._variables[keyword]] = str(self.runner.seen(Path(value))) if keyword in _FILES and value.startswith("/") else value
        if self.endpoint.inside:
            env["PGHOSTADDR"] = self.endpoint.inside
        return {name: value for name, value in env.items() if value}

    def target(self, database: str) -> str:
        """The ``--dbname`` of a client tool: quoted, so that no name is taken for anything else; without secrets."""
        rest = {keyword: value for keyword, value in self._parameters.items() if keyword not in self._variables}
        return make_conninfo("", dbname=database, **rest)
