"""Names as PostgreSQL's catalogs write them: with quotes where they need them."""

from __future__ import annotations

import re
from collections.abc import Iterable

NAME = r'(?:"(?:[^"]|"")*"|[a-z_][a-z0-9_]*)'
"""A name, as a pattern."""
QUALIFIED = rf"{NAME}\.{NAME}"
"""A schema and a name in it."""

_COLUMNS = rf"(?:PERIOD )?{NAME}(?:, (?:PERIOD )?{NAME})*"
_FIRST = re.compile(rf"({QUALIFIED})[ .](.*)", re.DOTALL)
_LAST = re.compile(rf".* (?:ON|on|FROM) ({QUALIFIED})", re.DOTALL)
_INDEX = re.compile(rf"CREATE (?:UNIQUE )?INDEX {NAME} ON (?:ONLY )?({QUALIFIED}) USING ")
_FOREIGN_KEY = re.compile(rf"FOREIGN KEY \({_COLUMNS}\) REFERENCES ({QUALIFIED})\(")


def raw(name: str) -> str:
    """A name without the quotes that the catalogs give it."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def quoted_name(name: str) -> str:
    """A name as SQL writes it: in quotes unless it is a plain word, so that ``x y`` is not taken for two, and statements can be copied."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def quoted_names(names: Iterable[str]) -> str:
    """Names for a message, see :func:`quoted_name`."""
    return ", ".join(map(quoted_name, names))


def split(qualified: str) -> tuple[str, str]:
    """Schema and name of ``schema.name``, without quotes."""
    match = re.fullmatch(rf"({NAME})\.({NAME})", qualified)
    assert match is not None, qualified
    return raw(match[1]), raw(match[2])


def first_name(text: str) -> tuple[str, str]:
    """The table that a name begins with, and the rest: ``shop.orders orders_pkey``, ``shop.orders.id``."""
    match = _FIRST.fullmatch(text)
    return (match[1], match[2]) if match else ("", text)


def last_name(text: str) -> str:
    """The table that a text ends with: ``positive on shop.orders``, or the definition of statistics."""
    match = _LAST.fullmatch(text)
    return match[1] if match else ""


def table_of_index(definition: str) -> str:
    """The table that an index belongs to, by its definition."""
    match = _INDEX.match(definition)
    return match[1] if match else ""


def parent_of(definition: str) -> str | None:
    """The table that a constraint points to, by its definition; None if it is no foreign key."""
    match = _FOREIGN_KEY.match(definition)
    return match[1] if match else None


def pattern(name: str) -> str:
    """A name as pg_dump's options take it: as it is, and not as a pattern."""
    return '"' + name.replace('"', '""') + '"'


def listed(name: str, codec: str) -> str:
    """A name in the way that pg_restore's list is read: it lists bytes in the database's encoding, and sets quotes in some places only."""
    return plain(name.encode(codec, "surrogateescape").decode("utf-8", "surrogateescape"))


def plain(text: str) -> str:
    """A text of the list, or a name, without quotes; the list has no line feeds."""
    return re.sub(r"[\n\r]", " ", text.replace('"', ""))
