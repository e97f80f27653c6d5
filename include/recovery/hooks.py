"""What the plan's owner wants done before and after backups and restores: commands, SQL, MongoDB commands.

One that fails before stops the run. Those after are all done, whatever became of the run, and then fail it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from recovery import components
from recovery.closing import manifests, not_stored
from recovery.connections import Connect
from recovery.deadline import within
from recovery.errors import HookError, RecoveryError, RestoreError, StagingError
from recovery.plan import Plan
from recovery.plan_restore import Hook
from recovery.restore_run import RestoreRun
from recovery.restore_state import timed
from recovery.services import run_one

log = logging.getLogger(__name__)

_SHOWN = 2000
_LOCK = "hooks"
_NEXT = "Read what it said in this task's log; mend the cause, or the hook in the plan."


def run_all(hooks: Iterable[tuple[str, Hook]], plan: Plan, connect: Connect) -> None:
    """Run hooks in order, each to its end.

    Args:
        hooks: as :meth:`recovery.plan_restore.Hooks.of` gives them.
        plan: whose hooks they are; they work on its live system.
        connect: looks Connections up.

    Raises:
        HookError: at the first that fails or takes longer than it may.
    """
    for key, hook in hooks:
        run_hook(key, hook, plan, connect)


def run_hook(key: str, hook: Hook, plan: Plan, connect: Connect) -> None:
    """Run one hook, its words in the log.

    Raises:
        HookError: if it fails or takes longer than it may.
    """
    log.info("hook %s: %s", key, hook.title)
    try:
        if hook.argv:
            _command(hook)
        elif hook.sql:
            _sql(hook, components.make(plan, hook.sql.source, connect))
        else:
            _mongo(hook, components.make(plan, str(hook.source), connect))
    except RecoveryError as error:
        raise HookError(f"The hook {key} ({hook.title}) failed: {error.what}", _NEXT) from error


def _command(hook: Hook) -> None:
    assert hook.argv
    outcome = run_one(hook.argv, hook.timeout, hook.title)
    if not outcome.ok:
        raise HookError(outcome.words, _NEXT)


def _sql(hook: Hook, component: Any) -> None:
    assert hook.sql
    sql = hook.sql
    for answer in within(hook.timeout, lambda: component.ask(sql.database, sql.statement, hook.timeout)):
        log.info("%s", answer.status)
        for row in answer.rows or ():
            log.info("  %s", " | ".join(map(str, row)))


def _mongo(hook: Hook, component: Any) -> None:
    from bson import json_util

    assert hook.mongo
    mongo = hook.mongo
    answer = within(hook.timeout, lambda: component.ask(mongo.database, mongo.command, hook.timeout))
    log.info("%s", json.dumps(answer, default=json_util.default)[:_SHOWN])


def _faults(hooks: Iterable[tuple[str, Hook]], plan: Plan, connect: Connect) -> list[str]:
    """Run all hooks, whatever becomes of each; what failed, in sentences."""
    faults = []
    for key, hook in hooks:
        if fault := _fault(key, hook, partial(run_hook, key, hook, plan, connect)):
            faults.append(fault)
    return faults


def _fault(key: str, hook: Hook, work: Callable[[], None]) -> str:
    """What made it fail, in a sentence; empty if nothing did. Also what nobody has foreseen: the other hooks still have to run."""
    try:
        work()
    except HookError as error:
        log.error("%s", error.what)
        return error.what
    except Exception as error:
        log.exception("hook %s", key)
        return f"The hook {key} ({hook.title}) failed: {type(error).__name__}, see the log."
    return ""


# Backups ------------------------------------------------------------------------------------------------------------


def before_backup(plan: Plan, connect: Connect) -> None:
    """Run the hooks before a backup.

    Raises:
        HookError: if one fails; then nothing is dumped.
    """
    run_all(plan.hooks.of("before_backup"), plan, connect)


def after_backup(plan: Plan, set_id: str, sources: Collection[str], failed: Collection[str], connect: Connect) -> None:
    """Run the hooks after a backup, also those after a failed one where a destination lacks what was to be backed up.

    Raises:
        StagingError: if the backup did not succeed: in Airflow the task that runs the last hooks decides for the run.
        HookError: if only hooks failed.
    """
    lacking = list(not_stored(manifests(plan, set_id, connect), set_id, sources).values())
    hooks = plan.hooks.of("after_backup") + (plan.hooks.of("after_failed_backup") if lacking else [])
    faults = _faults(hooks, plan, connect)
    if lacking or failed:
        tasks = [f"These tasks failed: {', '.join(sorted(failed))}."] if failed else []
        raise StagingError(" ".join(["The backup did not succeed.", *lacking, *tasks, *faults]), "Look at the first task that failed.")
    if faults:
        raise HookError(" ".join(faults), _NEXT)


# Restores -----------------------------------------------------------------------------------------------------------


def before_restore(run: RestoreRun) -> bool:
    """Run the hooks before the switch of the live system; one that is done is not done again.

    Returns:
        False if there are none for this restore.

    Raises:
        ApprovalError: if the switch was not approved.
        HookError: if one fails; nothing was stopped or switched then.
    """
    if not run.plan.hooks.before_restore or not _concerns(run):
        return False
    with timed(run, "hooks before"):
        for key, hook in run.plan.hooks.of("before_restore"):
            with run.changing(_LOCK):
                run.authorise("switch")
                if run.journal.said("stopping services"):
                    raise RestoreError("The switch has begun, so it is too late for what comes before it.", "Trigger a new restore.")
                _once(run, key, hook)
    return True


def after_restore(run: RestoreRun) -> bool:
    """Run the hooks after a restore of the live system, once one before it was begun or the switch began; each once.

    Returns:
        False if there are none for this restore, or it did not come that far.

    Raises:
        HookError: if one fails; the others are run. Done again, only those that failed are.
    """
    if run.journal.closed or not _due_after(run):
        return False
    faults = []
    for key, hook in run.plan.hooks.of("after_restore"):
        with run.changing(_LOCK, forward=False):
            if fault := _fault(key, hook, partial(_once, run, key, hook)):
                faults.append(fault)
    if faults:
        raise HookError(" ".join(faults), _NEXT)
    return True


def undone_after_restore(run: RestoreRun) -> list[str]:
    """The keys of the hooks after this restore that have to run, and did not or failed."""
    return [key for key, _ in run.plan.hooks.of("after_restore") if not _done(run, key)] if _due_after(run) else []


def _due_after(run: RestoreRun) -> bool:
    if not run.plan.hooks.after_restore or not run.began or not _concerns(run):
        return False
    return bool(run.journal.said("hook") or run.journal.said("stopping services"))


def _concerns(run: RestoreRun) -> bool:
    request = run.request()
    return run.place.live and not request.drill and not request.dry_run


def _once(run: RestoreRun, key: str, hook: Hook) -> None:
    if _done(run, key):
        log.info("hook %s: %s was done before", key, hook.title)
        return
    run.journal.say("hook", key=key, title=hook.title)
    run_hook(key, hook, run.plan, run.connect)
    run.journal.say("hook done", key=key)


def _done(run: RestoreRun, key: str) -> bool:
    return any(entry.facts["key"] == key for entry in run.journal.said("hook done"))
