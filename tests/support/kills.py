"""The end of a process in the middle of its work, and the ways to bring it about at a chosen point.

A point is a step of the journal, or a real boundary where none lies: a statement that a server gets, a call of the
operating system, the start of a tool. No private name is patched, so none can break a campaign by its renaming.
"""

import itertools
import os
import re
import signal
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pymongo.synchronous.pool
import pytest
from psycopg.sql import Composable

from recovery.runners.local import LOCAL
from recovery.runs.journal import Journal


class Killed(BaseException):
    """The process ends here: nothing after it runs, and no code may catch it."""


def die(*_args, **_named):
    """End the process, whatever is asked for."""
    raise Killed


# Counted ----------------------------------------------------------------------------------------------------------------


class Killer:
    """Ends the process at the first point after ``left`` others; never while that is None."""

    def __init__(self):
        self.left = None

    def point(self, *_args):
        """A point at which the process may end."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Killed

    def before(self, do):
        """The same function, with a point before each call."""

        def doing(*given, **named):
            self.point()
            return do(*given, **named)

        return doing

    def watch(self, monkeypatch, *functions):
        """Have a point before each call of public functions of modules, found by their own names."""
        for function in functions:
            module = os if function.__module__ == os.name else sys.modules[function.__module__]
            monkeypatch.setattr(module, function.__name__, self.before(function))

    def watch_unpacking(self, restore):
        """Have a point before each member that a :class:`tests.support.local_restore.LocalRestore` unpacks."""
        unpack = type(restore).unpack
        restore.unpack = lambda artifact, folder, only: unpack(restore, artifact, folder, self.before(only))

    def dies(self, at, work):
        """Whether the work was killed at the first point after ``at`` others."""
        self.left = at
        try:
            work()
        except Killed:
            return True
        finally:
            self.left = None
        return False


def killed_at_each_point(killer, do):
    """For each n: whether doing it was killed at its nth point; ends after the first time that nothing is left to kill."""
    for points in itertools.count():
        killer.left = points
        try:
            do(points)
        except Killed:
            yield points
        else:
            killer.left = None
            return


class MongoKiller(Killer):
    """Has a point before each command that changes something on a MongoDB server, and before and after each mongorestore."""

    CHANGES = ("renameCollection", "collMod", "create", "drop", "dropUser", "dropRole", "createUser", "createIndexes", "insert")

    def __init__(self, monkeypatch):
        super().__init__()
        real = pymongo.synchronous.pool.Connection.command

        def command(connection, database, spec, *args, **named):
            if next(iter(spec)) in self.CHANGES:
                self.point()
            return real(connection, database, spec, *args, **named)

        monkeypatch.setattr(pymongo.synchronous.pool.Connection, "command", command)
        _around_tool(monkeypatch, "mongorestore", self.point, self.point)


# Named ------------------------------------------------------------------------------------------------------------------


def dies_at_step(name, *, nth=1):
    """For ``LocalRestore.on_journal`` or ``after_journal``: the end at the nth time that a step is said."""
    seen = itertools.count(1)

    def said(step, _facts):
        if step == name and next(seen) == nth:
            raise Killed

    return said


@contextmanager
def killed_at_step(restore, name, *, after, nth=1):
    """A block that is killed at a step of a ``LocalRestore``: just before it is written, or just after."""
    hook = "after_journal" if after else "on_journal"
    usual = getattr(restore, hook)
    setattr(restore, hook, dies_at_step(name, nth=nth))
    try:
        with pytest.raises(Killed):
            yield
    finally:
        setattr(restore, hook, usual)


@contextmanager
def killed_at_statement(monkeypatch, pattern, *, after=False, nth=1, since=None):
    """A block that is killed at the nth statement that a PostgreSQL server gets and a pattern is found in: before it, or after.

    The end of a transaction is the statement COMMIT. Statements count from the first one on that the pattern ``since`` is found
    in, or once a restore has written a step: ``since=(restore, step)``.
    """
    statements = _Statements(pattern, after, nth)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if since is not None:
            statements.start_at(patch, since)
        for name in ("execute", "copy"):
            patch.setattr(psycopg.Cursor, name, statements.around(getattr(psycopg.Cursor, name)))
        patch.setattr(psycopg.Transaction, "__exit__", statements.around_end(psycopg.Transaction.__exit__))
        yield


class _Statements:
    """Counts the statements that a pattern is found in, and ends the process at the nth."""

    def __init__(self, pattern, after, nth):
        self._pattern = pattern
        self._after = after
        self._seen = itertools.count(1)
        self._nth = nth
        self._since = None

    def start_at(self, monkeypatch, since):
        if isinstance(since, str):
            self._since = since
            return
        restore, name = since
        self._since = "(?!)"  # no statement, but the step

        def said(step, _facts):
            if step == name:
                self._since = None

        monkeypatch.setattr(restore, "after_journal", said)

    def _is_it(self, text):
        if self._since is not None:
            if re.search(self._since, text):
                self._since = None
            return False
        return bool(re.search(self._pattern, text)) and next(self._seen) == self._nth

    def around(self, call):
        def doing(cursor, query, *given, **named):
            text = query.as_string(cursor) if isinstance(query, Composable) else query
            found = self._is_it(text.decode("latin1") if isinstance(text, bytes) else text)
            if found and not self._after:
                raise Killed
            result = call(cursor, query, *given, **named)
            if found:
                raise Killed
            return result

        return doing

    def around_end(self, leave):
        def end(transaction, kind, error, trace):
            found = kind is None and not transaction.savepoint_name and self._is_it("COMMIT")
            if found and not self._after:
                leave(transaction, Killed, Killed(), None)
                raise Killed
            result = leave(transaction, kind, error, trace)
            if found:
                raise Killed
            return result

        return end


@contextmanager
def killed_at_tool(monkeypatch, program, *, after=False):
    """A block that is killed before a program is started, or after it has ended well."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        _around_tool(patch, program, *((lambda: None, die) if after else (die, lambda: None)))
        yield


def _around_tool(monkeypatch, program, before, after):
    runner = type(LOCAL)
    real = runner.tool

    @contextmanager
    def tool(self, argv, **named):
        ours = Path(os.fsdecode(argv[0])).name == program
        if ours:
            before()
        with real(self, argv, **named) as running:
            yield running
        if ours:
            after()

    monkeypatch.setattr(runner, "tool", tool)


# In whole systems -------------------------------------------------------------------------------------------------------


def _around_journal(set_attribute, before, after):
    """Call something before and after each step that any journal writes, with the step as its file has it."""
    record, record_of = Journal.record, Journal.record_of

    def watched_record(journal, step, source="", /, **facts):
        before(step, journal)
        record(journal, step, source, **facts)
        after(step, journal)

    def watched_record_of(journal, source, step, facts):
        before(f"{source}: {step}", journal)
        record_of(journal, source, step, facts)
        after(f"{source}: {step}", journal)

    set_attribute(Journal, "record", watched_record)
    set_attribute(Journal, "record_of", watched_record_of)


def killed_in_process(work, kill_at, *, early):
    """Do work in a process that gets SIGKILL at the n-th step that its journal has: before it is written, or after.

    Returns:
        True if it was killed, False if it did not come so far.
    """
    pid = os.fork()
    if pid == 0:
        count = 0

        def before(_step, journal):
            nonlocal count
            count += not journal.closed
            if count == kill_at and early:
                os.kill(os.getpid(), signal.SIGKILL)

        def after(_step, _journal):
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        _around_journal(setattr, before, after)
        try:
            work()
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the work failed by itself; see its traceback"
    return os.WIFSIGNALED(status)
