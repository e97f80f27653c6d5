"""Which entries of a dump some tables need: what belongs to them, and what these depend on. The rest of a database is not made.

So a restore of a table fails at nothing that has nothing to do with it, whatever a database has besides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.databases.entries import Entry
from recovery.sources.postgres.databases.ownership import IN_SCHEMA
from recovery.sources.postgres.definitions.names import first_name, listed, raw, split
from recovery.sources.postgres.dump import archive
from recovery.sources.postgres.targets import Objects

ENTRIES_OF_RELATIONS = frozenset({"TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE"})
"""What entries of relations are."""
_PARTS = frozenset(
    {
        "SEQUENCE",
        "SEQUENCE OWNED BY",
        "DEFAULT",
        "TABLE ATTACH",
        "INDEX",
        "INDEX ATTACH",
        "CONSTRAINT",
        "CHECK CONSTRAINT",
        "FK CONSTRAINT",
        "STATISTICS",
        "TRIGGER",
        "RULE",
        "POLICY",
        "ROW SECURITY",
        "COMMENT",
        "SECURITY LABEL",
    }
)
"""What belongs to what it depends on."""
_TYPES = frozenset({"TYPE", "DOMAIN"})
_OF_TYPES = frozenset({"CAST", "OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY"})
"""What the server looks for by types, so that nothing has to depend on it."""
_NAMED = ENTRIES_OF_RELATIONS | _TYPES | {"FUNCTION", "PROCEDURE", "AGGREGATE", "OPERATOR CLASS", "COLLATION"}
"""What a text can name."""
WITH_TEXTS = frozenset({"FUNCTION", "PROCEDURE", "CONSTRAINT"})
"""Entries whose texts say what they need."""
_CREATABLE = """SELECT a.name FROM pg_available_extensions a
      JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
    WHERE v.trusted OR NOT v.superuser OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"""


def needed(
    server: Server, connection: Connection, folder: Path, entries: Sequence[Entry], own: Iterable[int], texts: Mapping[str, str]
) -> list[Entry]:
    """The entries that some relations need.

    Only the text of a function says what it uses, and so does that of an exclusion: whatever has a name that is a word of
    it is needed too. So are all extensions that can be made.

    Args:
        server: whose tools read the dump.
        connection: to it.
        folder: the dump.
        entries: of its table of contents.
        own: the numbers of the relations' entries.
        texts: see :func:`texts_of`.
    """
    depends = archive.dependencies(server.runner, server.bin, folder)
    with translated_errors("Asking for the extensions that can be made"):
        creatable = {name for (name,) in connection.execute(_CREATABLE).fetchall()}
    by_number = {entry.number: entry for entry in entries}
    found = _with_parts(by_number, depends, set(own))
    found |= {number for number, entry in by_number.items() if entry.what == "EXTENSION" and entry.name.removeprefix("- ") in creatable}
    found = _with_uses(by_number, depends, found, texts)
    return [entry for entry in entries if entry.number in found]


def _with_uses(entries: Mapping[int, Entry], depends: Mapping[int, Sequence[int]], own: set[int], texts: Mapping[str, str]) -> set[int]:
    """Entries, and those of all that they need."""
    named = defaultdict[str, list[int]](list)
    for number, entry in entries.items():
        if entry.what in _NAMED and (words := _words(_key(entry.name))):
            named[words[-1]].append(number)
    of_types = {
        number: [each for each in depends.get(number, ()) if each in entries and entries[each].what in _TYPES]
        for number, entry in entries.items()
        if entry.what in _OF_TYPES
    }
    found, left = set(own), list(own)
    while left:
        number = left.pop()
        text = texts.get(_key(entries[number].name), "") if entries[number].what in WITH_TEXTS else ""
        more = {*depends.get(number, ()), *(each for word in set(_words(text)) for each in named.get(word, ()))} & entries.keys()
        if entries[number].what in _TYPES:
            more |= {each for each, types in of_types.items() if number in types and found.issuperset(types)}
        left += more - found
        found |= more
    return found


def _with_parts(entries: Mapping[int, Entry], depends: Mapping[int, Sequence[int]], own: set[int]) -> set[int]:
    """Entries, and those of what belongs to them; of foreign keys, those among them."""
    parts = {number: depends.get(number, ()) for number, entry in entries.items() if entry.what in _PARTS}
    more = own
    while more:
        own = own | more
        more = {number for number, on in parts.items() if number not in own and _belongs(entries, number, on, own)}
    return own


def _belongs(entries: Mapping[int, Entry], number: int, on: Sequence[int], own: Collection[int]) -> bool:
    if entries[number].what == "FK CONSTRAINT":
        return all(each in own for each in on if each in entries and entries[each].what in ENTRIES_OF_RELATIONS)
    return any(each in own for each in on)


def texts_of(objects: Objects, codec: str) -> dict[str, str]:
    """The definitions of functions and constraints, as entries name these, without parameters; those of the same name together."""
    found = defaultdict[str, str](str)
    for (kind, name), facts in objects.items():
        if kind in {"function", "procedure"} and (parts := IN_SCHEMA.match(name.partition("(")[0])):
            found[_key(listed(f"{raw(parts[1])} {raw(parts[2])}", codec))] += str(facts["definition"])
        elif kind == "constraint" and (on := first_name(name))[0]:
            found[_key(listed(f"{' '.join(split(on[0]))} {raw(on[1])}", codec))] += str(facts["definition"])
    return found


def _key(name: str) -> str:
    """A name as far as it has no brackets."""
    return name.partition("(")[0]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
