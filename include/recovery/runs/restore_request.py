"""What was asked of a restore, and what preflight found."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from recovery.plan.field_types import LIVE, Method

NOTHING_DUE = "nothing was due"
"""Why a drill ended before it had chosen a set, where that is no fault."""


class Request(BaseModel):
    """What was asked of a restore, and by whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    requester: str
    started: datetime
    set: str = "latest"
    """``latest`` or a set id."""
    newest_before: str | None = None
    """A moment with its offset; the newest set of before it, in place of ``set``."""
    sources: tuple[str, ...]
    """Source ids to restore."""
    only: dict[str, tuple[str, ...]] = {}
    """By source id, the parts of it to restore, as the person wrote them; a source that is not here is restored whole."""
    target: str = LIVE
    """``live``, the name of one of the plan's targets, or for a drill ``scratch``."""
    overwrite: str = ""
    """The target's name again: what is there already may be set aside or replaced."""
    method: Method = "swap"
    config: Literal["missing", "all"] = "missing"
    allow_stale: bool = False
    """Restore a set that is older than the RPO allows."""
    compare: bool = False
    """Read what is live, and say what would change, before the first gate."""
    dry_run: bool = False
    """Only find out and compare; change nothing."""
    drill: bool = False
    """For practice: no gates, and nothing stays."""
    destination: str | None = None
    """Fetch the set from here; None for wherever it is."""


class Findings(BaseModel):
    """What preflight found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    """Markdown: the text of the first gate."""
    targets: dict[str, str]
    """Identity of each source's target."""
    plan: str
    """SHA-256 of the plan as it was then."""
    request: str
    """SHA-256 of what was asked."""
