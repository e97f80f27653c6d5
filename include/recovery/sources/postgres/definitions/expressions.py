"""SQL as PostgreSQL writes it from what it has stored, in a form that stays the same when it reads its own text.

A server that reads ``status = ANY ((ARRAY['a'::character varying])::text[])`` shows it as
``status = ANY (ARRAY[('a'::character varying)::text])``, and ``EXISTS ( SELECT 'x'::text)`` as
``EXISTS ( SELECT 'x'::text AS text)``: seen with 14 to 18.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from recovery.sources.postgres.definitions.names import raw

_TOKEN = re.compile(
    r"""[Ee]'(?:[^'\\]|\\.|'')*' | (?:[BbXxNn]|[Uu]&)?'(?:[^']|'')*' | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$
    | "(?:[^"]|"")*" | [^\W\d]\w* | \$?\d[\w.]* | :: | [-+*/<>=~!@#%^&|`?]+ | \S""",
    re.DOTALL | re.VERBOSE,
)
_NAME = re.compile(r'"|[^\W\dA-Z]')
"""How a name begins: PostgreSQL quotes those with capital letters, and writes its own words in these."""
_ATOM = re.compile(r"""["'$]|\w""")

_TYPE_NAMES = {
    "character varying": "varchar",
    "character": "bpchar",
    "bit varying": "varbit",
    "boolean": "bool",
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
    "real": "float4",
    "double precision": "float8",
    "time with time zone": "timetz",
    "time without time zone": "time",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
}
"""What types are called that SQL has other words for: so is a column whose only name is a cast."""
_SECOND_WORDS = {"character": {"varying"}, "bit": {"varying"}, "double": {"precision"}}
_FIELDS = {"year", "month", "day", "hour", "minute", "second", "to"}
_QUERY = {"SELECT", "WITH", "VALUES"}
_COLUMN_ENDS = {
    ",",
    "AS",
    "FROM",
    "WHERE",
    "GROUP",
    "HAVING",
    "WINDOW",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "FETCH",
}
_AT_THE_END = [""] * 4
"""So that one can look further than the last token."""


@dataclass(frozen=True)
class _Cast:
    name: str
    """What a column would be called by it."""


@dataclass(eq=False)
class _Group:
    """What stands between two brackets."""

    opening: str = ""
    items: list[str | _Cast | _Group] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    """Its canonical form, once it is closed."""
    name: str | None = None
    """What a column would be called that it is the expression of, if only a cast says so."""
    is_atom: bool = False
    is_one: bool = False
    """Whether it is a single expression, neither a list nor a query."""

    def close(self) -> None:
        self.name = _implied_name(self.items)
        kept = list(_without_casts(self.items))
        for place, item in enumerate(kept):
            before, after = (kept[place - 1] if place else ","), (kept[place + 1] if place + 1 < len(kept) else ",")
            if isinstance(item, str):
                self.words.append(item)
            elif _is_redundant(item, before, after):
                self.words += item.words
            else:
                self.words += [item.opening, *item.words, ")" if item.opening == "(" else "]"]
        self.is_one = bool(kept) and kept[0] not in _QUERY and "," not in kept
        self.is_atom = _is_atom(kept)


def canonical(text: str, *, qualified: bool = True) -> str:
    """Tokens of a text, without casts, brackets that change nothing, and names that only casts give to columns of a subselect.

    Texts that differ in casts alone are taken for equal. Two that differ in anything else, as ``(a + b) * c`` and ``a + b * c`` do,
    differ in this. Strings are kept as they are.

    Args:
        text: an expression or a statement.
        qualified: with names before a dot.
    """
    tokens = [match[0] for match in _TOKEN.finditer(text)]
    if not qualified:
        tokens = list(_unqualified(tokens))
    tokens += _AT_THE_END
    groups = [_Group()]
    place = 0
    while word := tokens[place]:
        place += 1
        if word in {"(", "["}:
            groups.append(_Group(word))
        elif word in {")", "]"} and len(groups) > 1:
            group = groups.pop()
            group.close()
            groups[-1].items.append(group)
        elif word == "::":
            name, place = _type(tokens, place)
            groups[-1].items.append(_Cast(name))
        else:
            groups[-1].items.append(word)
    if len(groups) > 1:  # not what the server writes, such as the default of a base type, which is a text
        return text
    [whole] = groups
    whole.close()
    return " ".join(whole.words)


def _unqualified(tokens: list[str]) -> Iterator[str]:
    skip = False
    for place, token in enumerate(tokens):
        dotted = tokens[place + 1 : place + 2] == ["."] and place + 2 < len(tokens) and _NAME.match(tokens[place + 2])
        if skip:
            skip = False
        elif _NAME.match(token) and dotted:
            skip = True
        else:
            yield token


def _type(tokens: list[str], place: int) -> tuple[str, int]:
    """What a column is called that is cast to the type which begins here, and where the type ends."""
    while tokens[place + 1] == ".":
        place += 2
    words = [tokens[place]]
    place += 1
    if tokens[place] in _SECOND_WORDS.get(words[0], set()):
        words.append(tokens[place])
        place += 1
    while words[0] == "interval" and tokens[place] in _FIELDS:
        place += 1
    if tokens[place] == "(" and ")" in tokens[place:]:
        place = tokens.index(")", place) + 1
    if tokens[place] in {"with", "without"}:
        words += tokens[place : place + 3]
        place += 3
    while tokens[place : place + 2] == ["[", "]"]:
        place += 2
    name = " ".join(words)
    return _TYPE_NAMES.get(name, raw(name)), place


def _implied_name(items: list[str | _Cast | _Group]) -> str | None:
    """What PostgreSQL calls an expression that ends in a cast, or the first column of a query; None if something else says it."""
    first = items.index("SELECT") + 1 if "SELECT" in items else 0
    ends = (place for place, item in enumerate(items) if place >= first and item in _COLUMN_ENDS) if first else ()
    return _name_before(items, next(iter(ends), len(items)))


def _name_before(items: list[str | _Cast | _Group], end: int) -> str | None:
    named = end - 1
    while named > 1 and items[named - 1] == ".":
        named -= 2
    if named > 0 and items[named - 1] == "COLLATE":
        end = named - 1
    while end > 1 and isinstance(item := items[end - 1], _Group) and item.opening == "[":
        end -= 1
    last = items[end - 1] if end else ""
    if isinstance(last, _Group) and end > 1 and _is_name(items[end - 2]):
        return None
    return None if isinstance(last, str) else last.name


def _without_casts(items: list[str | _Cast | _Group]) -> Iterator[str | _Group]:
    """Items without casts, and without the names that only these give."""
    place = 0
    while place < len(items):
        item = items[place]
        if item == "AS" and place + 1 < len(items) and isinstance(given := items[place + 1], str):
            name = _name_before(items, place)
            if name is not None and name == raw(given):
                place += 2
                continue
        if not isinstance(item, _Cast):
            yield item
        place += 1


def _is_name(item: object) -> bool:
    return isinstance(item, str) and _NAME.match(item) is not None


def _is_redundant(group: _Group, before: str | _Group, after: str | _Group) -> bool:
    """Whether brackets can go: they hold an atom, or are themselves all that others or commas hold; and are no call's."""
    if group.opening != "(" or not group.is_one or after == "." or isinstance(before, _Group) or _is_name(before):
        return False
    return group.is_atom or (before == "," and after == ",")


def _is_atom(items: list[str | _Group]) -> bool:
    """Whether nothing around it can take a part of it: a value, a column, a call, an array."""
    if len(items) == 1 and isinstance(items[0], _Group):
        return items[0].is_atom and _is_redundant(items[0], ",", ",")
    names = [item for item in items if isinstance(item, str)]
    calls = items[len(names) :]
    if not names or not all(isinstance(item, _Group) for item in calls) or (calls and names != ["ARRAY"] and not _is_name(names[-1])):
        return False
    return all(bool(_ATOM.match(name)) if place % 2 == 0 else name == "." for place, name in enumerate(names)) and len(names) % 2 == 1
