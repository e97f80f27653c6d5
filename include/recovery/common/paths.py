"""Paths of any bytes as text, and back."""

# ruff: noqa: PTH118

from __future__ import annotations

import os
from pathlib import Path

PATH_MAX = 4095
"""Bytes of a path that Linux takes, without the zero at its end."""


def text(path: bytes) -> str:
    """A path as rows and people have it."""
    return path.decode("utf-8", "surrogateescape")


def raw(path: str) -> bytes:
    """A path as the file system has it."""
    return path.encode("utf-8", "surrogateescape")


def at(root: Path, path: bytes) -> bytes:
    """Where an entry lies."""
    return os.path.join(os.fsencode(root), path)


def readable(path: bytes | str) -> str:
    r"""A path for people and logs: what can't be printed is escaped, such as ``\n`` and ``\xff``."""
    decoded = (path if isinstance(path, bytes) else raw(path)).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in decoded)


def shown(root: Path, path: bytes | str) -> str:
    """Where an entry lies, for people."""
    return readable(os.path.normpath(at(root, path if isinstance(path, bytes) else raw(path))))
