"""What the plan's owner wants done before and after backups and restores: commands, SQL, MongoDB commands.

One that fails before stops the run. Those after are all done, whatever became of the run, and then fail it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta

from recovery.common.deadline import within
from recovery.common.errors import HookError, RecoveryError
from recovery.common.faults import Faults
from recovery.plan.hooks import Hook
from recovery.plan.source_settings import Statement
from recovery.runners.commands import run_one
from recovery.runs.context import PlanContext
from recovery.sources.base import Queryable

log = logging.getLogger(__name__)

NEXT_STEP = "Read what it said in this task's log; mend the cause, or the hook in the plan."


def run_all(hooks: Iterable[tuple[str, Hook]], context: PlanContext) -> None:
    """Run hooks in order, each to its end.

    Args:
        hooks: as :meth:`recovery.plan.hooks.Hooks.of` gives them.
        context: whose hooks they are; they work on its live system.

    Raises:
        HookError: at the first that fails or takes longer than it may.
    """
    for key, hook in hooks:
        run_hook(key, hook, context)


def run_hook(key: str, hook: Hook, context: PlanContext) -> None:
    """Run one hook, its words in the log.

    Raises:
        HookError: if it fails or takes longer than it may.
    """
    log.info("hook %s: %s", key, hook.title)
    try:
        if hook.argv:
            _command(hook)
        elif hook.statement:
            _statement(hook.statement, hook.timeout, context.source(hook.statement.source, Queryable))
    except RecoveryError as error:
        raise HookError(f"{name_of(key, hook)} failed: {error.what}", NEXT_STEP) from error


def _command(hook: Hook) -> None:
    assert hook.argv
    outcome = run_one(hook.argv, hook.timeout, hook.title)
    if not outcome.ok:
        raise HookError(outcome.words, NEXT_STEP)


def _statement(statement: Statement, timeout: timedelta, source: Queryable) -> None:
    for line in within(timeout, lambda: list(source.execute(statement, timeout))):
        log.info("%s", line)


def hook_faults() -> Faults:
    """Collects what becomes of hooks that are all run, each by the name of :func:`name_of`."""
    return Faults(_said)


def name_of(key: str, hook: Hook) -> str:
    """A hook in a sentence."""
    return f"The hook {key} ({hook.title})"


def _said(hook: str, error: Exception) -> str:
    return error.what if isinstance(error, RecoveryError) else f"{hook} failed: {type(error).__name__}, see the log."
