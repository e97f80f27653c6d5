"""Words that messages share: lists of names, how a failed restore goes on, and texts of others on one line."""

from __future__ import annotations

from collections.abc import Sequence

ROLLS_BACK = (
    "A failed restore rolls itself back: then trigger a new one. If the rollback failed, clear roll_back, discard and report together."
)
"""What follows an error that any step of a restore and its rollback can meet."""


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


def counted(number: int, what: str) -> str:
    """So many things, such as ``1 file`` and ``2,000 files``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def escaped(text: str) -> str:
    r"""A text on one line; what can't be printed is written as ``\n``, ``\x1b``, ``\u202e``."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
