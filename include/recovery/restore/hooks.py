"""The hooks around a restore."""

from __future__ import annotations

import logging

from recovery.common.errors import HookError, RestoreError
from recovery.plan.hooks import Hook
from recovery.restore import answers
from recovery.restore.session import RestoreSession
from recovery.restore.state import timed
from recovery.runs.hooks import NEXT_STEP, hook_faults, name_of, run_hook
from recovery.runs.journal_steps import Step

log = logging.getLogger(__name__)
_LOCK = "hooks"


def before_restore(session: RestoreSession) -> bool:
    """Run the hooks before the cutover of the live system; one that is done is not done again.

    Returns:
        False if there are none for this restore.

    Raises:
        ApprovalError: if the cutover was not approved.
        HookError: if one fails; nothing was stopped or cut over then.
    """
    if not session.plan.hooks.before_restore or not _concerns(session):
        return False
    with timed(session, "hooks before"):
        for key, hook in session.plan.hooks.of("before_restore"):
            with session.changing(_LOCK):
                answers.authorise(session, "cutover")
                if session.journal.entries(Step.STOPPING_SERVICES):
                    raise RestoreError("The cutover has begun, so it is too late for what comes before it.", "Trigger a new restore.")
                _once(session, key, hook)
    return True


def after_restore(session: RestoreSession) -> bool:
    """Run the hooks after a restore of the live system, once one before it was begun or the cutover began; each once.

    Returns:
        False if there are none for this restore, or it did not come that far.

    Raises:
        HookError: if one fails; the others are run. Done again, only those that failed are.
    """
    if session.journal.closed or not _due_after(session):
        return False
    faults = hook_faults()
    for key, hook in session.plan.hooks.of("after_restore"):
        with session.changing(_LOCK, forward=False), faults.noted(name_of(key, hook)):
            _once(session, key, hook)
    if faults:
        raise HookError(" ".join(faults.sentences), NEXT_STEP)
    return True


def undone_after_restore(session: RestoreSession) -> list[str]:
    """The keys of the hooks after this restore that have to run, and did not or failed."""
    return [key for key, _ in session.plan.hooks.of("after_restore") if not _done(session, key)] if _due_after(session) else []


def _due_after(session: RestoreSession) -> bool:
    if not session.plan.hooks.after_restore or not session.began or not _concerns(session):
        return False
    return bool(session.journal.entries(Step.HOOK) or session.journal.entries(Step.STOPPING_SERVICES))


def _concerns(session: RestoreSession) -> bool:
    request = session.request()
    return session.target.live and not request.drill and not request.dry_run


def _once(session: RestoreSession, key: str, hook: Hook) -> None:
    if _done(session, key):
        log.info("hook %s: %s was done before", key, hook.title)
        return
    session.journal.record(Step.HOOK, key=key, title=hook.title)
    run_hook(key, hook, session.context)
    session.journal.record(Step.HOOK_DONE, key=key)


def _done(session: RestoreSession, key: str) -> bool:
    return any(entry.facts["key"] == key for entry in session.journal.entries(Step.HOOK_DONE))
