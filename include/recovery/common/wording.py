"""Lists in sentences: the first few, and how many more."""

from __future__ import annotations

from collections.abc import Sequence

_NAMED = 20


def shortened(names: Sequence[str]) -> str:
    """Names for a message: the first ones, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
