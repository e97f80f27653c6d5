"""The hooks around a backup."""

from __future__ import annotations

from collections.abc import Collection

from recovery.backup.stored import manifests, not_stored
from recovery.common.errors import HookError, StagingError
from recovery.runs.context import PlanContext
from recovery.runs.hooks import NEXT_STEP, hook_faults, name_of, run_all, run_hook


def before_backup(context: PlanContext) -> None:
    """Run the hooks before a backup.

    Raises:
        HookError: if one fails; then nothing is dumped.
    """
    run_all(context.plan.hooks.of("before_backup"), context)


def after_backup(context: PlanContext, set_id: str, sources: Collection[str], failed: Collection[str]) -> None:
    """Run the hooks after a backup, also those after a failed one where a destination lacks what was to be backed up.

    Raises:
        StagingError: if the backup did not succeed: in Airflow the task that runs the last hooks decides for the run.
        HookError: if only hooks failed.
    """
    lacking = list(not_stored(manifests(context, set_id), set_id, sources).values())
    hooks = context.plan.hooks.of("after_backup") + (context.plan.hooks.of("after_failed_backup") if lacking else [])
    faults = hook_faults()
    for key, hook in hooks:
        with faults.noted(name_of(key, hook)):
            run_hook(key, hook, context)
    if lacking or failed:
        tasks = [f"These tasks failed: {', '.join(sorted(failed))}."] if failed else []
        raise StagingError(
            " ".join(["The backup did not succeed.", *lacking, *tasks, *faults.sentences]), "Look at the first task that failed."
        )
    if faults:
        raise HookError(" ".join(faults.sentences), NEXT_STEP)
