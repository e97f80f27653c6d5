"""Cold backups: the services are stopped while the sources are read, and start again as soon as the last one is.

A journal in the set's staging says what is done to the services, before it is done. So a task that is retried or cleared,
the next run, and the maintenance of the plan know whether they are down.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from recovery.common.errors import ContainerUnwell, RestoreUnderWay, StagingError
from recovery.common.files import locked
from recovery.common.units import human_duration, now
from recovery.common.wording import shortened
from recovery.plan.field_types import LIVE
from recovery.plan.model import Plan
from recovery.runs import active, services
from recovery.runs.active import ActiveRestore
from recovery.runs.context import PlanContext
from recovery.runs.journal_steps import Step
from recovery.runs.staged_set import StagedSet, staged_sets
from recovery.runs.stalled import refuse_during_restore, services_down

log = logging.getLogger(__name__)


def stop_services(context: PlanContext, staged: StagedSet) -> bool:
    """Stop what uses the sources.

    Returns:
        False if this backup is a hot one.

    Raises:
        RestoreUnderWay: if a restore has begun to stop them, too.
        StagingError: if they were started again since: this set would not be cold.
        RecoveryError: as :func:`recovery.runs.services.stop`; they are started again then.
    """
    if staged.run().mode == "hot":
        return False
    with locked(active.services_lock(context.plan)):
        refuse_during_restore(context.plan)
        if staged.services.entries(Step.STARTING_SERVICES) or staged.services.entries(Step.SERVICES_STARTED):
            raise _running_again(staged)
        staged.services.record(Step.STOPPING_SERVICES)
        services.stop(context.plan.services, context.clients.connect, staged.services)
        staged.services.record(Step.SERVICES_STOPPED)
    return True


@contextmanager
def reading(context: PlanContext, staged: StagedSet) -> Iterator[None]:
    """Around the reading of a source: in a cold backup the services are down from its begin to its end.

    Raises:
        StagingError: if they are not.
        ContainerError: if that can't be asked.
    """
    is_cold = staged.run().mode == "cold"
    if is_cold:
        _refuse_running(context, staged)
    yield
    if is_cold:
        _refuse_running(context, staged)


def _refuse_running(context: PlanContext, staged: StagedSet) -> None:
    if [entry.step for entry in staged.services.everything()][-1:] != [Step.SERVICES_STOPPED]:
        raise _running_again(staged)
    if running := services.running_again(context.plan.services, context.clients.connect, staged.services):
        raise StagingError(
            f"{shortened(running)} ran while the sources of set {staged.id} were to be read, so it would not be cold.",
            "Find out who started it; then trigger a new backup run.",
        )


def _running_again(staged: StagedSet) -> StagingError:
    return StagingError(
        f"The services were not down all the time while the sources of set {staged.id} were read, so it would not be cold.",
        "Read the logs of stop_services, limit_downtime and start_services; then trigger a new backup run.",
    )


def start_services(context: PlanContext, staged: StagedSet) -> bool:
    """Start what uses the sources again, if this backup has stopped it.

    Returns:
        False if there is nothing to start.

    Raises:
        RecoveryError: as :func:`recovery.runs.services.start`.
        StagingError: if they were down for longer than the plan allows; they run again then.
    """
    if not staged.begun or not _to_start(staged):
        return False
    _start(context, staged)
    if (down := downtime(staged)) > limit(context.plan):
        raise _too_long(context.plan, down)
    return True


def limit_downtime(context: PlanContext, staged: StagedSet) -> bool:
    """Start the services if they have been down for as long as the plan allows, whatever is read by then.

    Returns:
        Whether they are still down, so that this has to look again.

    Raises:
        StagingError: if they were down for longer, also if they run again: a task that started them may have died before it said so.
        RecoveryError: as :func:`recovery.runs.services.start`.
    """
    if not staged.begun:
        return False
    if (down := downtime(staged)) <= limit(context.plan):
        return services_down(staged.services)
    _start(context, staged)
    raise _too_long(context.plan, down)


def limit(plan: Plan) -> timedelta:
    """How long services may be down; not at all by a plan that has lost that key meanwhile."""
    return plan.services.down_at_most or timedelta()


def _too_long(plan: Plan, down: timedelta) -> StagingError:
    return StagingError(
        f"The services were down for {human_duration(down)}, longer than the plan's {human_duration(limit(plan))}. They run again.",
        "Find out in the logs of the dumps what took so long. Raise services.down_at_most, or make hot backups.",
    )


def _start(context: PlanContext, staged: StagedSet) -> None:
    with locked(active.services_lock(context.plan)):
        if not _to_start(staged):
            return
        if restore := _restore_with_services_down(context.plan):
            log.warning("the %s has stopped the services by now, and starts them itself", restore)
            staged.services.record(Step.SERVICES_STARTED, left_to=restore.key)
            return
        staged.services.record(Step.STARTING_SERVICES)
        try:
            services.start(context.plan.services, context.clients.connect, staged.services)
        except ContainerUnwell:
            staged.services.record(Step.SERVICES_STARTED, unwell=True)
            raise
        staged.services.record(Step.SERVICES_STARTED)
    log.info("the services were down for %s", human_duration(downtime(staged)))


def _to_start(staged: StagedSet) -> bool:
    """Whether the services are down; or were not well when they were started, so that the task that did so fails until they are."""
    started = staged.services.last(Step.SERVICES_STARTED)
    return services_down(staged.services) or bool(started and started.facts.get("unwell"))


def _restore_with_services_down(plan: Plan) -> ActiveRestore | None:
    """The restore that starts the services of this plan itself. One that has ended starts nothing, whatever its journal says last.

    Raises:
        RestoreUnderWay: if one of another plan, or to another target, works on the same data: that starts other services.
    """
    for each in active.into_live(plan):
        if each.journal.closed or not services_down(each.journal):
            continue
        if each.plan.plan == plan.plan and each.target == LIVE:
            return each
        raise RestoreUnderWay(
            f"The {each} changes what {plan.plan} protects, too. The services of {plan.plan} are STOPPED until it ends.",
            "Let it end. Then clear this task, or start the services by hand.",
            retryable=True,
        )
    return None


def downtime(staged: StagedSet) -> timedelta:
    """How long a cold backup has kept the services stopped, until now if they still are; nothing for a hot one."""
    stopping, started = staged.services.entries(Step.STOPPING_SERVICES), staged.services.last(Step.SERVICES_STARTED)
    if not stopping:
        return timedelta()
    return max(timedelta(), (started.time if started else now()) - stopping[0].time)  # clocks jump, and those of workers differ


def start_left_down(context: PlanContext, own: StagedSet) -> None:
    """Start what a backup before has stopped, if no task of it did: its DAG was deleted or paused, or Airflow was down.

    What is not well is started once more, too. If it still is not, that is no reason to make no backup any more.

    Raises:
        RecoveryError: as :func:`recovery.runs.services.start`, but for that.
    """
    for staged in staged_sets(context.plan):
        if staged.id != own.id and _to_start(staged):
            log.error(
                "the backup of set %s stopped the services %s ago, and some do not run well", staged.id, human_duration(downtime(staged))
            )
            try:
                _start(context, staged)
            except ContainerUnwell as error:
                log.error("%s", error)
