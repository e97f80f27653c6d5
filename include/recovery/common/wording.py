"""Lists in sentences: the first few, and how many more."""

from __future__ import annotations

from collections.abc import Sequence


def shortened(names: Sequence[object], *, at_most: int = 20, between: str = ", ") -> str:
    """Names for a message: the first ones, and how many more.

    Args:
        names: of things, or what is shown as one.
        at_most: so many are named.
        between: stands between two; after a line feed, how many more there are has a line of its own.
    """
    space = "\n" if between == "\n" else " "
    more = f"{space}and {len(names) - at_most} more" if len(names) > at_most else ""
    return between.join(map(str, names[:at_most])) + more
