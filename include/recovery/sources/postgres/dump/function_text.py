"""What the text of a function mentions, word by word. It is no parser: it may see a name where there is none, or miss one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Kind = Literal["relation", "function", "type", "operator", "text search"]
Name = tuple[Kind, str | None, str]
"""What it would name, its schema if that is written, and the name."""

_PART = r'(?:"(?:[^"]|"")*"|[^\W\d][\w$]*)'
_TOKEN = re.compile(
    rf"""(?P<blank>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<string>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)|'(?:[^']|'')*(?:'|\Z)|(?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?:(?P=tag)|\Z))
    |(?P<name>{_PART}(?:\s*\.\s*{_PART})*)
    |(?P<sign>::|:=|[-+*/<>=~!@\#%^&|`?]+|\$?\d[\w.]*|.)""",
    re.DOTALL | re.VERBOSE,
)
"""Each begins where the one before ends, and what is not closed goes to the end: so a long text is read once."""
_BEFORE_TABLES = frozenset({"from", "join", "update", "into", "table"})
_WITH_MORE_TABLES = frozenset({"from", "join"})
_BETWEEN = frozenset({"only", "lateral"})
_AFTER_TABLES = frozenset(
    {"select", "where", "on", "set", "values", "group", "having", "window", "order", "limit", "offset", "fetch", "for", "union", "except"}
    | {"intersect", "returning", "loop", "then"}
)
_ASKING = frozenset(
    {"now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday", "random"}
    | {"current_setting", "current_database", "current_schemas"}
)
_ASKING_WORDS = frozenset(
    {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "current_user", "session_user", "current_role"}
    | {"user", "current_schema", "current_catalog", "system_user"}
)


@dataclass(frozen=True)
class Mentions:
    """What a text mentions."""

    names: frozenset[Name]
    asks: bool
    """Whether it asks for the time, the user or a setting."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str

    @property
    def word(self) -> str:
        """A word of the language, if it is one."""
        return self.text.lower() if self.kind == "name" else self.text

    @property
    def parts(self) -> list[str]:
        """The parts of a name, without quotes."""
        found = re.findall(_PART, self.text) if self.kind == "name" else []
        return [part[1:-1].replace('""', '"') if part.startswith('"') else part.lower() for part in found]


_END = _Token("sign", "")


def mentions(text: str) -> Mentions:
    """What a text in SQL or PL/pgSQL mentions, outside of comments; of constants only those that may name a configuration."""
    tokens = [_Token(match.lastgroup or "", match[0]) for match in _TOKEN.finditer(text) if match.lastgroup != "blank"]
    local = {
        first.parts[-1] for first, second, third in zip(tokens, tokens[1:], tokens[2:], strict=False) if _is_local(first, second, third)
    }
    relations = {name for name in _relations(tokens) if name[1] or name[2] not in local}
    return Mentions(frozenset(relations | set(_others(tokens))), any(_asks(one, following) for one, following in pairwise([*tokens, _END])))


def _is_local(first: _Token, second: _Token, third: _Token) -> bool:
    """The name of a WITH query."""
    return bool(first.parts) and second.word == "as" and third.word in {"(", "materialized", "not"}


def _relations(tokens: list[_Token]) -> Iterator[Name]:
    """What stands where tables do: after FROM and its like, and after commas there; and before ``%TYPE``."""
    expected, depth, lists = False, 0, set[int]()
    for token, following in pairwise([*tokens, _END]):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.word in _BEFORE_TABLES:
            expected = True
            lists |= {depth} if token.word in _WITH_MORE_TABLES else set()
        elif token.word in _AFTER_TABLES or token.text in {")", ";"}:
            expected = False
            lists -= {depth + 1} if token.text == ")" else {depth}
        elif token.text == ",":
            expected = depth in lists
        elif token.text != "(" and token.word not in _BETWEEN:
            if token.parts and (expected or following.text == "%"):
                yield from _tables(token.parts, of_column=following.text == "%")
            expected = False


def _tables(parts: list[str], *, of_column: bool) -> Iterator[Name]:
    for known in [parts, parts[:-1]] if of_column else [parts]:
        if known:
            yield "relation", known[-2] if len(known) > 1 else None, known[-1]


def _others(tokens: list[_Token]) -> Iterator[Name]:
    for before, token, after in zip([_END, *tokens], tokens, [*tokens[1:], _END], strict=False):
        schema, name = ([None, None, *token.parts])[-2:] if token.parts else (None, None)
        if name is not None and after.text == "(":
            yield "function", schema, name
        if name is not None and (before.text == "::" or (before.kind == "name" and after.text in {";", ":="})):
            yield "type", schema, name
        if token.kind == "sign":
            yield "operator", None, token.text
        if token.kind == "string" and before.text == "(":
            yield "text search", None, token.text.strip("'")


def _asks(token: _Token, following: _Token) -> bool:
    word = token.word.removeprefix("pg_catalog.")
    return token.kind == "name" and (word in _ASKING_WORDS or (word in _ASKING and following.text == "("))
