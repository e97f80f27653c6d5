"""The hooks around a restore."""

from __future__ import annotations

import logging

from recovery.common.errors import HookError, RestoreError
from recovery.plan.hooks import Hook
from recovery.restore import answers
from recovery.restore.session import RestoreRun
from recovery.restore.state import timed
from recovery.runs.hooks import NEXT_STEP, hook_faults, name_of, run_hook
from recovery.runs.journal_steps import Step

log = logging.getLogger(__name__)
_LOCK = "hooks"


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
                answers.authorise(run, "switch")
                if run.journal.said(Step.STOPPING_SERVICES):
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
    faults = hook_faults()
    for key, hook in run.plan.hooks.of("after_restore"):
        with run.changing(_LOCK, forward=False), faults.noted(name_of(key, hook)):
            _once(run, key, hook)
    if faults:
        raise HookError(" ".join(faults.sentences), NEXT_STEP)
    return True


def undone_after_restore(run: RestoreRun) -> list[str]:
    """The keys of the hooks after this restore that have to run, and did not or failed."""
    return [key for key, _ in run.plan.hooks.of("after_restore") if not _done(run, key)] if _due_after(run) else []


def _due_after(run: RestoreRun) -> bool:
    if not run.plan.hooks.after_restore or not run.began or not _concerns(run):
        return False
    return bool(run.journal.said(Step.HOOK) or run.journal.said(Step.STOPPING_SERVICES))


def _concerns(run: RestoreRun) -> bool:
    request = run.request()
    return run.place.live and not request.drill and not request.dry_run


def _once(run: RestoreRun, key: str, hook: Hook) -> None:
    if _done(run, key):
        log.info("hook %s: %s was done before", key, hook.title)
        return
    run.journal.say(Step.HOOK, key=key, title=hook.title)
    run_hook(key, hook, run.context)
    run.journal.say(Step.HOOK_DONE, key=key)


def _done(run: RestoreRun, key: str) -> bool:
    return any(entry.facts["key"] == key for entry in run.journal.said(Step.HOOK_DONE))
