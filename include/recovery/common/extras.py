"""Packages that only some plans need: the extras of the wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from recovery.common.errors import PlanError


@contextmanager
def extra(name: str, needed_for: str) -> Iterator[None]:
    """Load what needs an extra of ``openmanus-recovery`` in the block.

    Args:
        name: of the extra.
        needed_for: what of a plan needs it.

    Raises:
        PlanError: if one of its packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise PlanError(
            f"The Python package {error.name} is not installed, which {needed_for} needs.",
            f"Install the extra where Airflow's tasks run: pip install 'openmanus-recovery[{name}]'.",
        ) from None
