"""Files of ``KEY=value`` lines, such as ``.env``: which keys changed, never their values.

A value is known by a digest of path, key and value, so that two files are compared without either being at hand.
"""

from __future__ import annotations

import hashlib
import re

from recovery.common.paths import text

LARGEST = 1 << 20
"""Bytes; a larger file is not one of settings."""

_NAME = re.compile(r"(.*/)?(\.env(\.[^/]*)?|[^/]*\.env)")
_LINE = re.compile(r"\s*(?:export\s+)?([A-Z][A-Z0-9_]{0,79}|[a-z][a-z0-9_.-]{0,79})\s*=\s*(.*)")
_END = {quote: re.compile(rf"(\\.|[^\\{quote}])*{quote}") for quote in "\"'"}
"""The part of a line up to the quote that ends a value. Each line is looked at alone: a backslash at its end hides no quote."""


def is_settings_file(path: str) -> bool:
    """Whether a path names such a file: ``.env``, ``.env.*`` or ``*.env``."""
    return _NAME.fullmatch(path) is not None


def key_digests(path: str, data: bytes) -> dict[str, str]:
    """The keys of a file and what stands for their values.

    A quoted value goes on until its quote ends, over several lines, so that no line of a value is taken for a key; for
    the same reason a key is in upper or in lower case throughout, which a line of base64 hardly is.
    """
    values: dict[str, str] = {}
    lines = iter(text(data).splitlines())
    for line in lines:
        if match := _LINE.fullmatch(line):
            key, parts = match[1], [match[2].rstrip()]
            if end := _END.get(parts[0][:1]):
                closed = end.match(parts[0], 1)
                while not closed and (following := next(lines, None)) is not None:
                    parts.append(following.rstrip())
                    closed = end.match(parts[-1])
            value = "\n".join(parts)
            values[key] = hashlib.sha256(f"{path}\0{key}\0{value}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return values


def changed_keys(expected: dict[str, str], found: dict[str, str]) -> str:
    """The names of keys that differ, for people; empty if none does."""
    common = expected.keys() & found.keys()
    said = {
        "other values": sorted(key for key in common if expected[key] != found[key]),
        "only in the set": sorted(expected.keys() - found.keys()),
        "only there now": sorted(found.keys() - expected.keys()),
    }
    return "; ".join(f"{what}: {', '.join(keys)}" for what, keys in said.items() if keys)
