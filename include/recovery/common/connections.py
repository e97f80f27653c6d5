"""The one module that turns Airflow Connections into plain objects. Nothing else here knows Airflow's hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Endpoint:
    """Where something answers, and as whom. ``repr`` shows no secret."""

    id: str
    """The Connection's id, for messages."""
    host: str = ""
    port: int | None = None
    login: str = ""
    password: str = field(default="", repr=False)
    schema: str = ""
    """Database name or path, as the kind of connection has it."""
    extra: dict[str, Any] = field(default_factory=dict, repr=False)


Connect = Callable[[str], Endpoint]
"""Looks a Connection up by its id."""
