"""Variables in the texts of a plan file: ``${NAME:-default}`` means what it means in Compose."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recovery.plan.yaml_file import MAX_BYTES

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<braced>\w+)(?:(?P<how>:?[-?+])(?P<value>[^{}]*))?\}|(?P<plain>[A-Za-z_]\w*)|(?P<bad>))", re.ASCII
)
"""A default has no brace: it could not be told which of two ends it, and to look for it would take the square of a text's length."""

MOST_ERRORS = 100
"""Of a file, as many as somebody reads. There is one more where there are more."""


def filled(values: Any, environ: Mapping[str, str]) -> tuple[Any, list[str]]:
    """Values with each text's variables replaced, and one sentence for each that can't be, with the key's path.

    Raises:
        ValueError: if the texts grow larger than a plan needs. The message is a sentence whose subject is the file.
    """
    filling = _Filling(environ)
    return filling.fill(values, ""), filling.errors


class _Filling:
    """One file."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._room = MAX_BYTES
        self.errors: list[str] = []

    def fill(self, value: Any, path: str) -> Any:
        """A value, with all that is inside it."""
        if isinstance(value, dict):
            return {key: self.fill(item, f"{path}.{key}".lstrip(".")) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item, f"{path}.{number}") for number, item in enumerate(value)]
        return self._text(value, path) if isinstance(value, str) else value

    def _text(self, text: str, path: str) -> str:
        text = _VARIABLE.sub(lambda match: self._replaced(match, path), text)
        if "\0" in text:
            self._refuse(path, "has a NUL character, which neither a path nor an argument can hold; take it out")
        if any("\ud800" <= char <= "\udfff" for char in text):
            self._refuse(path, "an environment variable in it is not UTF-8; set it to a text that is")
        return text

    def _refuse(self, path: str, why: str) -> None:
        if len(self.errors) <= MOST_ERRORS:
            self.errors.append(f"{path}: {why}")

    def _replaced(self, match: re.Match[str], path: str) -> str:
        value = self._value(match, path)
        self._room -= len(value)
        if self._room < 0:
            raise ValueError(f"grows larger than {MAX_BYTES // 1024} KiB where {path} is filled in from the environment")
        return value

    def _value(self, match: re.Match[str], path: str) -> str:
        if match["escaped"]:
            return "$"
        name = match["braced"] or match["plain"]
        if name is None:
            self._refuse(path, "a $ must be followed by a name; write $$ for a $ itself, and no braces in a default")
            return ""
        return self._variable(name, match["how"] or "", match["value"] or "", path)

    def _variable(self, name: str, how: str, value: str, path: str) -> str:
        found = self._environ.get(name)
        usable = found is not None and (found != "" or not how.startswith(":"))
        if how.endswith("+"):
            return value if usable else ""
        if usable:
            return found or ""
        if how.endswith("-"):
            return value
        why = f" ({value})" if value else ""
        self._refuse(path, f"the environment variable {name} is not set{why}; set it, or write ${{{name}:-default}}")
        return ""
