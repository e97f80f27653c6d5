"""What can be wrong with an Engine."""

from __future__ import annotations


class EngineError(Exception):
    """An Engine, or a program that needs one, failed; the message says how."""


class NoEngine(EngineError):
    """This machine, or this person, can have no Engine; the message says why, and what would help."""
