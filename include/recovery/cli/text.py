"""What is printed: nothing that lies at a place may move the cursor, or begin a line of its own."""

from __future__ import annotations

import logging

from recovery.common.wording import escaped


def indented(text: str) -> str:
    """A text of several lines, the first of which alone begins at the margin."""
    return "\n  ".join(map(escaped, text.split("\n")))


class Lines(logging.Formatter):
    """A log, one line for each message."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, escaped."""
        return escaped(super().format(record))
