"""The order in which services of a Compose project stop, by what their containers say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter

from recovery.common.errors import ContainerError
from recovery.common.wording import escaped

DEPENDS_ON = "com.docker.compose.depends_on"
"""Compose's label: ``service:condition:restart`` of each service that has to be there first, with commas between them."""


def depends_on(labels: Mapping[str, str]) -> set[str]:
    """The services on which a container depends, by its labels."""
    return {entry.partition(":")[0] for entry in labels.get(DEPENDS_ON, "").split(",") if entry}


def stopping_levels(dependencies: Mapping[str, Collection[str]]) -> dict[str, int]:
    """The level of each service: 0 if nothing depends on it, else one more than the highest of those that depend on it.

    Args:
        dependencies: of every service of the project, what it depends on.

    Raises:
        ContainerError: if services depend on each other.
    """
    dependents: dict[str, set[str]] = {service: set() for service in dependencies}
    for service, needed in dependencies.items():
        for each in needed:
            dependents.setdefault(each, set()).add(service)
    levels: dict[str, int] = {}
    try:
        for service in TopologicalSorter(dependents).static_order():
            levels[service] = max((levels[each] + 1 for each in dependents[service]), default=0)
    except CycleError as error:
        circle = ", ".join(map(escaped, error.args[1][:-1]))
        raise ContainerError(f"Services depend on each other: {circle}.", "Mend depends_on in the Compose file.") from None
    return levels
