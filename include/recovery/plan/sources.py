"""What a plan protects, and where else it may be restored to: settings by kind and name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import create_model, model_validator

from recovery.plan.field_types import Name, Part
from recovery.plan.kinds import KINDS
from recovery.plan.source_settings import SourceSettings, TargetSettings

P = TypeVar("P", bound=Part)
MOST_SOURCES = 100
"""Each is three tasks of a backup and three of a restore: more than some hundred take Airflow too long to parse."""


class _Sources(Part):
    """What is protected, by kind and a name of your choice."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        return _not_empty(self)

    def __iter__(self) -> Iterator[tuple[str, SourceSettings]]:  # type: ignore[override]
        """``(<kind>.<name>, settings)`` of every source, in the order in which a system is restored."""
        return _in_order(self)


class _TargetSources(Part):
    """Where each source goes, by kind and the source's name in the plan. What is not named can't be restored there."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        return _not_empty(self)

    def __iter__(self) -> Iterator[tuple[str, TargetSettings]]:  # type: ignore[override]
        """``(<kind>.<name>, settings)``, in the order in which a system is restored."""
        return _in_order(self)


def _not_empty(named: P) -> P:
    if not any(named):
        raise ValueError("name at least one source")
    if len(list(named)) > MOST_SOURCES:
        raise ValueError(f"name at most {MOST_SOURCES} sources; write several plans, or sources of several databases or paths")
    return named


def _in_order(named: Part) -> Iterator[tuple[str, Any]]:
    return ((f"{kind}.{name}", settings) for kind in KINDS for name, settings in getattr(named, kind).items())


def _fields(role: str) -> dict[str, Any]:
    types: dict[str, Any] = {name: getattr(kind, role) for name, kind in KINDS.items()}
    return {name: (dict.__class_getitem__((Name, settings)), {}) for name, settings in types.items()}


if TYPE_CHECKING:
    Sources = _Sources
    TargetSources = _TargetSources
else:  # their fields are the kinds that there are
    Sources = create_model("Sources", __base__=_Sources, __doc__=_Sources.__doc__, **_fields("settings"))
    TargetSources = create_model("TargetSources", __base__=_TargetSources, __doc__=_TargetSources.__doc__, **_fields("target"))
