"""Dotted names of what is in a database, as plans and restore forms write them, and patterns of such names."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r'"((?:[^"]|"")+)"|([^."]+)')


@dataclass(frozen=True)
class Name:
    """A name in a dotted text."""

    text: str
    quoted: bool

    @property
    def pattern(self) -> re.Pattern[str]:
        """What it fits: in a name without quotes, ``*`` stands for any characters."""
        return re.compile(re.escape(self.text), re.DOTALL) if self.quoted else glob(self.text)


def names_in(text: str) -> list[Name]:
    """The names of a dotted text; one with a dot or a quote is in double quotes, ``""`` is a quote in it. Empty if it is not written so."""
    names, place = [], 0
    while match := _NAME.match(text, place):
        names.append(Name(match[2], quoted=False) if match[1] is None else Name(match[1].replace('""', '"'), quoted=True))
        place = match.end()
        if place == len(text):
            return names
        if text[place] != ".":
            break
        place += 1
    return []


def glob(text: str) -> re.Pattern[str]:
    """A pattern in which ``*`` stands for any characters."""
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)
