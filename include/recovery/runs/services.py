"""Services of a plan or target, stopped and started: commands and containers, by what a journal says of them."""

from __future__ import annotations

from recovery.common.connections import Connect
from recovery.common.errors import ContainerError, ContainerUnwell, RecoveryError
from recovery.common.faults import Faults
from recovery.plan.services import Services
from recovery.runners.commands import run_all
from recovery.runs.journal import Journal
from recovery.runs.journal_steps import Step


def stop(services: Services, connect: Connect, journal: Journal) -> None:
    """Write down which containers run; then the commands that stop; then stop these containers.

    Raises:
        ToolError: if a command fails.
        ContainerError: if a container can't be found or stopped, or should not be.
        ConnectionUnusable: if the Connection of an Engine is missing or describes none.
    """
    if services.in_containers:
        from recovery.runs import containers

        containers.note(services, connect, journal)
    run_all(services.stop, services)
    if services.in_containers:
        containers.stop_noted(connect, journal, services.timeout)


def stop_again(services: Services, connect: Connect, journal: Journal, faults: Faults) -> None:
    """The same before a rollback: all that can be stopped is stopped, and what can't is noted."""
    if services.in_containers:
        from recovery.runs import containers

        with faults.noted("services"):
            containers.note(services, connect, journal, refusing=False)
    with faults.noted("services"):
        run_all(services.stop, services)
    if services.in_containers:
        with faults.noted("services"):
            containers.stop_noted(connect, journal, services.timeout)


def start(services: Services, connect: Connect, journal: Journal) -> None:
    """Start the containers that the journal has, whatever the plan says now; then the commands that start. All of both are tried.

    Raises:
        ToolError: if a command fails, and there are no containers.
        ContainerUnwell: if all were started, and a container is not well.
        ContainerError: if a container does not start, or a command fails; it names all of them.
    """
    if not journal.entries(Step.CONTAINERS_FOUND):
        run_all(services.start, services)
        return
    from recovery.runs import containers

    faults = Faults(_in_short)
    with faults.noted("containers"):
        containers.start_noted(services, connect, journal)
    with faults.noted("commands"):
        run_all(services.start, services)
    if faults:
        next_step = "Read the log of this task. Mend the cause and clear it, or start by hand what does not run."
        kind = ContainerUnwell if all(isinstance(error, ContainerUnwell) for error in faults.errors) else ContainerError
        raise kind(" ".join(faults.sentences), next_step, retryable=True)


def _in_short(what: str, error: Exception) -> str:
    return error.what if isinstance(error, RecoveryError) else f"Starting the {what} failed with {type(error).__name__}."


def take_over(journal: Journal, left: Journal) -> None:
    """Let a run start what another one has stopped and not started yet; before it looks what runs, and finds that down.

    Args:
        journal: of the run.
        left: of the other one.
    """
    for entry in left.entries(Step.CONTAINERS_FOUND):
        journal.record(Step.CONTAINERS_FOUND, **entry.facts)


def running_again(services: Services, connect: Connect, journal: Journal) -> list[str]:
    """Names of containers that run, or ran since the services were stopped; none of services that commands stop, which can't be asked.

    Raises:
        ContainerError: if a container is missing, or an Engine does not answer.
    """
    if not services.in_containers:
        return []
    from recovery.runs import containers

    return containers.ran_since(services, connect, journal)


def foresee(services: Services, connect: Connect) -> list[str]:
    """Why containers could not be stopped now, a sentence each.

    Raises:
        ContainerError: if a container is missing, or an Engine does not answer.
        ConnectionUnusable: if the Connection of an Engine is missing or describes none.
    """
    if not services.in_containers:
        return []
    from recovery.runs import containers

    return containers.look(services, connect)[1]
