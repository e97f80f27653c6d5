"""What pg_restore could not make is tried once more, entry by entry, by the same role, with the database's own search path.

A dump is restored with nothing in the search path, and tables in any order. Functions that name others without their
schema, and checks that read other tables, don't bear that. So rows are loaded again once all others are there, at last
without the checks of their table, which are added afterwards. What follows the rows is left out where it can't be made.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Composed, Literal

from recovery.common.errors import RestoreError, ToolError
from recovery.common.wording import shortened
from recovery.packs.content_index import Facts
from recovery.sources.postgres.accounts.loaders import Loaders
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.databases.entries import Entry, Step
from recovery.sources.postgres.databases.postponed_checks import Check, checks_of, not_validated
from recovery.sources.postgres.databases.privileged import statements
from recovery.sources.postgres.definitions.names import NAME, QUALIFIED, quoted_name
from recovery.sources.postgres.dump import archive, archive_rows
from recovery.sources.postgres.exceptions import Unmade, listed_name, may_be_left_out
from recovery.sources.postgres.targets import Target

log = logging.getLogger(__name__)

_FAILED = re.compile(r"from TOC entry (\d+); ")
"""What it says before an error. Its processes write side by side, so a line may begin with that of another."""
_TO_ITS_END = re.compile(r"pg_restore: warning: errors ignored on restore: \d+")
_BEGINS = re.compile(r"(pg_restore: (?:error|warning|fatal|hint|detail):|HINT: |Command was: )|pg_restore: |DETAIL: |CONTEXT: ")
"""What begins one of its sentences, which may have several lines; grouped are those of failures, but for values of rows."""
_LAST_WORDS = 20
_FAULTS = ("08", "40", "53", "57", "58", "XX")
"""Classes of SQLSTATE that say nothing about a definition: connection, deadlock, resources, operator, system, internal."""
_COPIES = re.compile(rf"COPY ({QUALIFIED}) ")
_ADDS_CHECK = re.compile(rf"ALTER TABLE (?:ONLY )?{QUALIFIED}\s+ADD CONSTRAINT {NAME} (?:FOREIGN KEY|CHECK) .*(?<! NOT VALID);", re.DOTALL)
"""What adds a constraint that a table can have without all of its rows fitting."""
_LACKS = {"MATERIALIZED VIEW DATA": "populated", "INDEX ATTACH": "parent"}
"""The fact of an object that an entry makes which does not make the object itself."""
_RETURN = " _RETURN"
"""The rule that fills a view, of which pg_dump makes only the columns before the rows if it depends on a key."""
_NAMES_ONLY = ("0A", "23", "2B", "42", "54", "55")
"""Classes of SQLSTATE whose primary message has names alone: of integrity, privileges, syntax and names, limits, states."""
_SEARCH_PATH = "search_path="
_TRUSTED = """SELECT quote_ident(n.nspname) FROM unnest(%(schemas)s::name[]) WITH ORDINALITY s (name, place)
      JOIN pg_namespace n ON n.nspname = s.name
    WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname <> 'pg_database_owner' AND NOT pg_has_role(r.oid, %(owner)s, 'MEMBER')
        AND (has_schema_privilege(r.oid, n.oid, 'CREATE') OR pg_has_role(r.oid, n.nspowner, 'MEMBER')))
      AND NOT EXISTS (SELECT FROM (SELECT pronamespace, proowner FROM pg_proc UNION ALL SELECT oprnamespace, oprowner FROM pg_operator)
        made (there, maker) WHERE there = n.oid AND NOT pg_has_role(maker, %(owner)s, 'MEMBER'))
    ORDER BY s.place"""
"""Schemas where nobody but an owner, and who has the owner's rights, can make things, or has functions or operators."""
_WORDS = 300
"""Characters of the server's words that are kept: those of a function may be long."""


class Listener:
    """Hears from pg_restore, which tells all that it does, which entries failed."""

    def __init__(self) -> None:
        self._failed: set[int] = set()
        self._said: deque[str] = deque(maxlen=_LAST_WORDS)
        self._ended = False
        self._matters = True

    def hear(self, line: str) -> None:
        """Take a line of its words."""
        self._failed.update(map(int, _FAILED.findall(line)))
        self._ended |= bool(_TO_ITS_END.fullmatch(line))
        if begins := _BEGINS.match(line):
            self._matters = begins[1] is not None
        if self._matters:
            self._said.append(line)
            log.info("%s", line)

    def failed(self, step: Step, error: ToolError) -> list[Entry]:
        """The entries of a step that failed, all others having been tried.

        Raises:
            ToolError: if it was something else that failed.
        """
        found = [entry for entry in step.entries if entry.number in self._failed]  # words of a function may hold any other number
        if not self._ended or not found:
            raise ToolError("\n".join(["pg_restore did not come to its end:", *self._said, ""]), "Read what it said.") from error
        return found


@dataclass(frozen=True)
class Copied:
    """The rows of a table, as they come into it."""

    table: str
    """Its name, as SQL writes it."""
    statement: bytes | Composed
    """``COPY ... FROM stdin``, in the dump's encoding."""
    text: Iterable[bytes]


@dataclass(frozen=True)
class Rows:
    """Rows of a table that could not be loaded."""

    loader: str
    name: str
    """Of the table, for people."""
    opened: Callable[[], AbstractContextManager[Copied]]


@dataclass
class SecondTry:
    """What pg_restore could not make of one database, or of some of its tables."""

    server: Server
    inside: Connection
    """To the database that is loaded, as ourselves."""
    loaders: Loaders
    target: Target
    folder: Path
    """The unpacked dump."""
    roles: Mapping[str, Facts]
    """Of the set's server."""
    refusal: Callable[[str], RestoreError]
    """Of a load that lacks what may not be left out, by what that is."""
    to_the_end: bool = False
    """What may not be left out is left out, too, and said at the end: a rollback brings back what it can."""
    tables: Collection[str] | None = None
    """Those that are made in a database which has more. Nothing else is changed there, and who else uses it is not trusted."""
    shown: Callable[[str], str] = str
    """A name or text as people know it."""
    unmade: list[Unmade] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """What may not be left out, and could not be made, a sentence each."""
    _rows: list[Rows] = field(default_factory=list)
    _checks: list[Check] = field(default_factory=list)

    def restore(self, step: Step, jobs: int) -> None:
        """Restore a step of the dump's table of contents, without owners and rights; at first by pg_restore.

        Raises:
            RestoreError: if what can't be made may not be left out, or the reason is not in the definition.
            ToolError: if pg_restore fails otherwise, or at tables of several owners, where one failure is the end.
        """
        if step.loader in self.loaders.families:
            self._pg_restore(step, jobs)
            return
        listener = Listener()
        try:
            self._pg_restore(step, jobs, listener.hear)
        except ToolError as error:
            self._make_all(step, listener.failed(step, error))

    def _pg_restore(self, step: Step, jobs: int, on_line: Callable[[str], None] | None = None) -> None:
        there, workers = self.loaders.server(self.server, step.loader), 1 if step.alone else min(jobs, len(step.entries))
        argv: list[str | Path] = [there.bin / "pg_restore", "--format=directory", "--no-password"]
        argv += ["--verbose"] if on_line else ["--exit-on-error"]  # without the first it does not say which entry fails
        argv += ["--no-owner", "--no-acl", "--no-subscriptions", f"--jobs={workers}", f"--dbname={there.target(self.inside.info.dbname)}"]
        argv += ["--enable-row-security"]  # of tables that materialized views read; rows are loaded before it is turned on
        with archive.use_list(there.runner, step.lines) as option:
            environment = there.environment(self.target.facts["encoding"])
            with there.runner.tool([*argv, option, self.folder], env=environment, on_line=on_line, reads=self.folder):
                pass

    def _make_all(self, step: Step, failed: Sequence[Entry]) -> None:
        """Make entries of a step that failed, one by one; rows wait for :meth:`load_rows`."""
        for entry in failed:
            if entry.what == "TABLE DATA":
                self.postpone(Rows(step.loader, entry.name, partial(self._of_dump, entry)))
            if entry.what.startswith("BLOB"):
                self._lose(f"large objects of {entry.name} can't be loaded; pg_restore says why in the log")
        if others := [entry for entry in failed if entry.what != "TABLE DATA" and not entry.what.startswith("BLOB")]:
            with self._session(step.loader) as connection:
                for entry in others:
                    script = archive.script(self.server.runner, self.server.bin, self.folder, [entry.line])
                    made = statements(script.decode(self.target.snapshot["codec"]), places=True)
                    self._make(connection, entry, list(made))

    def make_once_more(self, entry: Entry, statement: str) -> None:
        """Make what an entry stands for by a statement.

        Raises:
            RestoreError: as :meth:`restore`.
        """
        with self._session(entry.loader) as connection:
            self._make(connection, entry, [statement])

    def postpone(self, rows: Rows) -> None:
        """Load rows in :meth:`load_rows`."""
        self._rows.append(rows)

    @contextmanager
    def _of_dump(self, entry: Entry) -> Iterator[Copied]:
        with archive_rows.rows(self.server.runner, self.server.bin, self.folder, entry.line) as (statement, text):
            match = _COPIES.match(statement.decode(self.target.snapshot["codec"]))
            assert match is not None, statement
            yield Copied(match[1], statement, text)

    def _make(self, connection: Connection, entry: Entry, made: Sequence[str]) -> None:
        if error := self._refusal(connection, made):
            not_valid = [f"{each[:-1]} NOT VALID;" if _ADDS_CHECK.fullmatch(each) else each for each in made]
            if not_valid != made and not self._refusal(connection, not_valid):
                self._leave_out(entry, error, "validated")
            else:
                self._leave_out(entry, error, _LACKS.get(entry.what, ""))

    def _refusal(self, connection: Connection, made: Sequence[str]) -> psycopg.Error | None:
        """Why the server does not make statements; None if it has made them."""
        try:
            with connection.transaction():
                for statement in made:
                    connection.execute(SQL(statement), binary=True)  # so the server takes it for one statement, or not at all
        except psycopg.Error as error:
            self.refuse_fault(connection, error)
            return error
        return None

    def _leave_out(self, entry: Entry, error: psycopg.Error, lacks: str) -> None:
        words = words_of(error)
        if entry.what == "COMMENT":  # of something that is left out, else the verification misses it
            log.info("%s: %s %s is left out: %s", self.target.saved, entry.what.lower(), self.shown(entry.name), self.shown(words))
        elif entry.what == "RULE" and entry.name.endswith(_RETURN):
            self._note(Unmade("VIEW", entry.name.removesuffix(_RETURN), words, "definition"))
        elif may_be_left_out(entry.what):
            self._note(Unmade(entry.what, entry.name, words, lacks))
        else:
            self._lose(f"{entry.what.lower()} {entry.name} can't be made: {words}")

    def _note(self, unmade: Unmade) -> None:
        self.unmade.append(replace(unmade, name=self.shown(unmade.name), why=self.shown(unmade.why)))
        log.warning("%s: %s", self.target.saved, self.unmade[-1])

    def _lose(self, sentence: str) -> None:
        self.lost.append(self.shown(sentence))
        log.error("%s: %s", self.target.saved, self.lost[-1])
        if not self.to_the_end:
            self.refuse_lost()

    def refuse_lost(self) -> None:
        """Refuse a load that lacks what may not be left out.

        Raises:
            RestoreError: if there is such a thing.
        """
        if self.lost:
            raise self.refusal(shortened(self.lost, between="; "))

    def load_rows(self) -> None:
        """Load the rows of tables again that failed while not all others were there; at last without the checks of the table.

        Raises:
            RestoreError: if they can't be loaded.
        """
        for rows in self._rows:
            with self._session(rows.loader) as connection:
                log.info("%s: loading the rows of %s once more, with the search path of the database", self.target.saved, rows.name)
                if self._copy(connection, rows) and (why := self._why_not_without_checks(connection, rows)):
                    self._lose(f"the rows of table {rows.name} can't be loaded: {why}")
        self._add_checks()

    def _why_not_without_checks(self, connection: Connection, rows: Rows) -> str:
        try:
            error = self._copy(connection, rows, without_checks=True)
        except RestoreError as refusal:  # to take a check away, such as one that children of another owner have
            return refusal.what
        return words_of(error) if error else ""

    def _copy(self, connection: Connection, rows: Rows, *, without_checks: bool = False) -> psycopg.Error | None:
        try:
            with rows.opened() as copied:
                if without_checks:
                    self._drop_checks(copied.table)
                with connection.transaction(), connection.cursor().copy(copied.statement) as copy:
                    for block in copied.text:
                        copy.write(block)
        except psycopg.Error as error:
            self.refuse_fault(connection, error)
            return error
        return None

    def _drop_checks(self, table: str) -> None:
        while checks := [check for check in checks_of(self.inside, table) if self._is_ours(check)]:
            for check in checks:
                log.info("%s: check %s of %s is added after the rows", self.target.saved, check.name, check.of)
                self._execute(check, check.dropped())
                self._checks.append(check)

    def _is_ours(self, check: Check) -> bool:
        return check.role in self.loaders.roles.values() and (self.tables is None or check.of in self.tables)

    def _add_checks(self) -> None:
        refused: dict[Check, psycopg.Error] = {}
        for check in self._checks:
            self._execute(check, check.added())
            if check.comment is not None:
                self._execute(check, check.commented())
        for check in self._checks:
            if check.valid and (error := self.validate(self._loader(check), check)):
                refused[check] = error
        for check, of in not_validated(self.inside, refused):
            if self.tables is None or of in self.tables:
                name = listed_name(f"{of} {check.name}", self.target.snapshot["codec"])
                self._note(Unmade("CHECK CONSTRAINT", name, words_of(refused[check]), "validated"))

    def validate(self, owner: str, check: Check) -> psycopg.Error | None:
        """Look whether rows hold a check, with the rights of an owner; why they don't.

        Raises:
            RestoreError: if it is the server that fails.
        """
        with self._session(owner) as connection:
            try:
                connection.execute(check.validated())
            except psycopg.Error as error:
                self.refuse_fault(connection, error)
                return error
        return None

    def _execute(self, check: Check, statement: Composed) -> None:
        doing = translated_errors(f"Postponing a check of {check.of}", RestoreError)
        with self._session(self._loader(check)) as connection, doing:
            connection.execute(statement, binary=True)

    def _loader(self, check: Check) -> str:
        return next(owner for owner, role in self.loaders.roles.items() if role == check.role)

    @contextmanager
    def _session(self, loader: str) -> Iterator[Connection]:
        there, database = self.loaders.server(self.server, loader), self.inside.info.dbname
        with there.connect(database, row_security="on", check_function_bodies="off") as connection:
            if self.target.facts["encoding"] != "SQL_ASCII":  # whose texts are read as they are
                connection.execute(SQL("SET client_encoding TO {}").format(Literal(self.target.facts["encoding"])))
            path = _search_path(self.target, loader, self.roles)
            if self.tables is not None:
                path = _trusted(connection, path, loader)
            connection.execute("SELECT set_config('search_path', %s, false)", [path])
            yield connection

    def refuse_fault(self, connection: Connection, error: psycopg.Error) -> None:
        """Refuse what says nothing of a definition: a server that works would have made it.

        Raises:
            RestoreError: if it is such an error.
        """
        state = error.sqlstate or ""
        if connection.closed or not state or state.startswith(_FAULTS) or isinstance(error, errors.LockNotAvailable):
            with translated_errors(f"Restoring {self.inside.info.dbname}", RestoreError):
                raise error


def _search_path(target: Target, owner: str, roles: Mapping[str, Facts]) -> str:
    """The search path that an owner has in a database of a set."""
    in_database = target.facts["settings"] or {}
    all_settings = (*(values or () for values in (in_database.get(owner), roles.get(owner, {}).get("settings"), in_database.get(""))),)
    found = (value for values in all_settings for value in values if value.startswith(_SEARCH_PATH))
    return next(found, f'{_SEARCH_PATH}"$user", public').removeprefix(_SEARCH_PATH).replace('"$user"', quoted_name(owner))


def _trusted(connection: Connection, path: str, owner: str) -> str:
    """The schemas of a search path that have nothing of others: else a name in a definition could mean what these have made."""
    with connection.transaction(force_rollback=True):
        row = connection.execute("SELECT set_config('search_path', %s, true), current_schemas(false)", [path]).fetchone()
    assert row is not None
    return ", ".join(name for (name,) in connection.execute(_TRUSTED, {"schemas": row[1], "owner": owner}).fetchall())


def words_of(error: psycopg.Error) -> str:
    """The server's words, where they have no values of rows: else what kind of error it is, as of one that a function raises."""
    if (error.sqlstate or "").startswith(_NAMES_ONLY):
        words = (error.diag.message_primary or "").strip()
        return words if len(words) <= _WORDS else f"{words[:_WORDS]}…"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
