"""Files of ``KEY=value`` lines, such as ``.env``: which keys changed, never their values.

A value is known by a digest of path, key and value, so that two files are compared without either being at hand.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from recovery.common.paths import text

LARGEST = 1 << 20
"""Bytes; a larger file is not one of settings."""

_NAME = re.compile(r"(.*/)?(\.env(\.[^/]*)?|[^/]*\.env)")
OTHER = "other lines"
"""Stands in the place of a key for all that is not clearly ``KEY=value``; no key has a space."""

_SETTING = re.compile(
    r"""[ \t]*+(?:export[ \t]++)?(?P<key>[A-Za-z_][A-Za-z0-9_.-]*+)[ \t]*+=[ \t]*+(?P<value>
    (?:"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\[^'])*+'|`[^`\\]*+`)[ \t\r]*+(?=\#|\n|\Z)   # over several lines
    |(?:[^"'`\\\n#]|(?<![ \t])\#|\\[^\n]|"[^"\\\n]*+"|'[^'\\\n]*+')*+   # on one line: no quote is open, and it is not continued
    )(?:\#[^\n]*+)?(?:\n|\Z)""",
    re.DOTALL | re.VERBOSE,
)
_BLANK = re.compile(r"[^\S\n]*(?:\n|\Z)")
_COMMENT = re.compile(r"[ \t]*#[^\n]*(?:\n|\Z)")
_KEY = re.compile(r"[A-Z][A-Z0-9_]{0,79}|[a-z][a-z0-9_.-]{0,79}")
_OPEN = frozenset("\"'`\\")


def is_settings_file(path: str) -> bool:
    """Whether a path names such a file: ``.env``, ``.env.*`` or ``*.env``."""
    return _NAME.fullmatch(path) is not None


def key_digests(path: str, data: bytes) -> dict[str, str]:
    """The keys of a file and what stands for their values; :data:`OTHER` for the rest, if there is any.

    A line of a value that runs over several is never taken for a key. Values in quotes go on until their quote ends. Others go on in
    ways that nobody can know, so no key is told of lines between two blank ones that are not all ``KEY=value``, and of nothing that
    follows an open quote or a continued line. For the same reason a key is in upper or in lower case throughout, which a line of
    base64 hardly is.
    """
    values: dict[str, str] = {}
    others: list[str] = []
    for lines in _between_blank_lines(text(data)):
        settings = _settings(lines)
        if settings is None:
            others.append(lines)
        else:
            values |= settings
    if others:
        values[OTHER] = "\n".join(others)
    return {
        key: hashlib.sha256(f"{path}\0{key}\0{value}".encode("utf-8", "surrogateescape")).hexdigest()[:16] for key, value in values.items()
    }


def _between_blank_lines(content: str) -> Iterator[str]:
    """The lines of each paragraph; a blank line in a value in quotes ends none."""
    start = position = 0
    while position < len(content):
        if blank := _BLANK.match(content, position):
            yield content[start:position]
            start = position = blank.end()
            continue
        if found := _SETTING.match(content, position) or _COMMENT.match(content, position):
            position = found.end()
            continue
        end = content.find("\n", position) + 1 or len(content)
        if _OPEN.intersection(content[position:end]):
            break
        position = end
    yield content[start:]


def _settings(lines: str) -> dict[str, str] | None:
    """The values by key; None if anything else is among them."""
    values: dict[str, str] = {}
    position = 0
    while position < len(lines):
        if comment := _COMMENT.match(lines, position):
            position = comment.end()
            continue
        setting = _SETTING.match(lines, position)
        if not setting or not _KEY.fullmatch(setting["key"]):
            return None
        values[setting["key"]] = setting["value"].rstrip()
        position = setting.end()
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
