"""Tables that have parents or children of another owner: who attaches them.

Only who owns both may attach one to the other, or give a trigger to both. That runs code of both owners: expressions of
the key, checks, and what compares the bounds. So each such family of tables has a role of its own, which loads nothing
and has no rights. It owns these tables, and nothing else, for as long as some of them are attached.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from recovery.common.errors import RestoreError
from recovery.sources.postgres.accounts.loaders import EVERYONE, Family, Loaders
from recovery.sources.postgres.client import Connection, translated_errors
from recovery.sources.postgres.databases.entries import listed
from recovery.sources.postgres.databases.ownership import OWNED, in_parts, owned_by
from recovery.sources.postgres.definitions.names import NAME, QUALIFIED, raw, split
from recovery.sources.postgres.targets import Objects

_INDEX = re.compile(rf"CREATE (?:UNIQUE )?INDEX {NAME} ON (?:ONLY )?({QUALIFIED}) ")
_TRIGGER = re.compile(rf"({QUALIFIED}) ({NAME})")


def _tables(objects: Objects) -> dict[str, str]:
    """The owner of each table."""
    return {name: facts["owner"] for (kind, name), facts in objects.items() if kind == "table" and "owner" in facts}


def _parents(objects: Objects) -> Iterator[tuple[str, str]]:
    """Each table and its parent, if both have an owner."""
    owner_of = _tables(objects)
    return ((name, parent) for name in owner_of for parent in objects["table", name]["parents"] or () if parent in owner_of)


def shared_tables(objects: Objects) -> list[str]:
    """Tables whose parent belongs to somebody else."""
    owner_of = _tables(objects)
    return list(dict.fromkeys(name for name, parent in _parents(objects) if owner_of[name] != owner_of[parent]))


def families(objects: Objects) -> dict[str, Family]:
    """Trees of tables that belong to several owners, by what stands for one in :attr:`Loaders.roles`."""
    owner_of, above = _tables(objects), dict[str, str]()

    def root(name: str) -> str:
        while name in above:
            name = above[name]
        return name

    for name, parent in _parents(objects):
        if root(name) != root(parent):
            above[root(name)] = root(parent)
    trees: dict[str, set[str]] = {}
    for pair in _parents(objects):
        trees.setdefault(root(pair[0]), set()).update(pair)
    found = {f"{EVERYONE}{name}": Family(frozenset(tree), frozenset(map(owner_of.__getitem__, tree))) for name, tree in trees.items()}
    return {key: family for key, family in found.items() if len(family.owners) > 1}


def attaching(objects: Objects, codec: str) -> dict[str, str]:
    """As whom entries are restored that make or attach a child, or give a partitioned table a trigger, as they are listed."""
    owner_of = _tables(objects)
    loader_of = owner_of | {name: key for key, family in families(objects).items() for name in family.tables}
    found: dict[str, str] = {}
    for name, _ in _parents(objects):
        words = f"{_words(name, codec)} {listed(owner_of[name], codec)}"
        found |= {f"TABLE {words}": loader_of[name], f"TABLE ATTACH {words}": loader_of[name]}
    indexes = {name: facts["definition"] for (kind, name), facts in objects.items() if kind == "index"}
    table_of = {name: match[1] for name, definition in indexes.items() if (match := _INDEX.match(definition))}
    for name, table in table_of.items():
        above = table_of.get(objects["index", name]["parent"] or "")
        if above in owner_of and table in owner_of:
            words = f"INDEX ATTACH {_words(name, codec)}"
            found |= {
                words: loader_of[table],
                f"{words} {listed(owner_of[above], codec)}": loader_of[table],
            }  # nobody's before PostgreSQL 15
    for table, trigger in (match.groups() for kind, name in objects if kind == "trigger" and (match := _TRIGGER.fullmatch(name))):
        if loader_of.get(table) != owner_of.get(table) and objects["table", table].get("partition key"):
            found[f"TRIGGER {_words(table, codec)} {listed(raw(trigger), codec)} {listed(owner_of[table], codec)}"] = loader_of[table]
    return found


def _words(name: str, codec: str) -> str:
    return " ".join(listed(word, codec) for word in split(name))


def take(connection: Connection, loaders: Loaders, key: str) -> None:
    """Give those of a family's tables that are there to the role that attaches them.

    Raises:
        RestoreError: if the server refuses.
    """
    query = """SELECT i.type, i.identity FROM unnest(%s::text[]) t (relation),
        LATERAL pg_identify_object('pg_class'::regclass, to_regclass(relation), 0) i WHERE to_regclass(relation) IS NOT NULL"""
    with translated_errors(f"Attaching tables in {connection.info.dbname}", RestoreError):
        found = connection.execute(query, [sorted(loaders.families[key].tables)]).fetchall()
        in_parts(connection, [owned_by(kind, identity, loaders.roles[key]) for kind, identity in found])


def give_back(connection: Connection, loaders: Loaders, key: str, objects: Objects) -> None:
    """Give what the role of a family has to the roles in the place of its owners.

    Raises:
        RestoreError: if the server refuses.
    """
    owner_of = _tables(objects)
    with translated_errors(f"Sharing out the tables of {connection.info.dbname}", RestoreError):
        found = connection.execute(OWNED, [loaders.roles[key]]).fetchall()
        tables = [(kind, name) for kind, name in found if kind in {"table", "foreign table"} and name in owner_of]
        in_parts(connection, [owned_by(kind, name, loaders.roles[owner_of[name]]) for kind, name in tables])
