"""Tables that have parents or children of another owner: who attaches them.

Only who owns both may attach one to the other, or give a trigger to both. That runs code of both owners: expressions of
the key, checks, and what compares the bounds. So each such family of tables has a role of its own, which loads nothing
and has no rights. It owns these tables, and nothing else, for as long as some of them are attached.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

from psycopg.sql import SQL, Composed

from recovery.common.errors import RestoreError
from recovery.common.wording import shortened
from recovery.sources.postgres.accounts.loaders import EVERYONE, Family, Loaders
from recovery.sources.postgres.client import Connection, translated_errors
from recovery.sources.postgres.databases.entries import Step
from recovery.sources.postgres.databases.ownership import OWNED, in_parts, owned_by
from recovery.sources.postgres.definitions.names import first_name, listed, raw, split, table_of_index
from recovery.sources.postgres.targets import Objects

_CHECKS = re.compile(r"(?:CHECK|NOT NULL) (?!.* NO INHERIT(?: NOT VALID| NOT ENFORCED)?\Z)", re.DOTALL)
"""The beginning of a constraint that children have, too."""
_CALLING = """WITH t AS (SELECT c.* FROM unnest(%s::text[]) n (relation) JOIN pg_class c ON c.oid = to_regclass(relation))
    SELECT t.oid::regclass::text, 'column ' || attname,
        concat_ws(' ', format_type(atttypid, atttypmod), attgenerated, pg_get_expr(adbin, adrelid), attacl)
      FROM t JOIN pg_attribute ON attrelid = t.oid AND attnum > 0 AND NOT attisdropped
        LEFT JOIN pg_attrdef ON adrelid = t.oid AND adnum = attnum
    UNION ALL SELECT t.oid::regclass::text, 'constraint ' || conname, pg_get_constraintdef(k.oid)
      FROM t JOIN pg_constraint k ON conrelid = t.oid AND conparentid = 0 AND contype NOT IN ('n', 't')
    UNION ALL SELECT t.oid::regclass::text, 'trigger ' || tgname, pg_get_triggerdef(g.oid)
      FROM t JOIN pg_trigger g ON tgrelid = t.oid AND tgparentid = 0 AND NOT tgisinternal
    UNION ALL SELECT t.oid::regclass::text, 'rule ' || rulename, pg_get_ruledef(r.oid) FROM t JOIN pg_rewrite r ON ev_class = t.oid
    UNION ALL SELECT t.oid::regclass::text, 'policy ' || polname,
        concat_ws(' ', polcmd, polpermissive, polroles, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
      FROM t JOIN pg_policy ON polrelid = t.oid
    UNION ALL SELECT t.oid::regclass::text, 'index ' || indexrelid::regclass, pg_get_indexdef(indexrelid)
      FROM t JOIN pg_index ON indrelid = t.oid
    UNION ALL SELECT t.oid::regclass::text, 'statistics ' || stxname, pg_get_statisticsobjdef(s.oid)
      FROM t JOIN pg_statistic_ext s ON stxrelid = t.oid
    UNION ALL SELECT t.oid::regclass::text, 'parent ' || inhparent::regclass, '' FROM t JOIN pg_inherits ON inhrelid = t.oid
    UNION ALL SELECT t.oid::regclass::text, 'rights', concat_ws(' ', relrowsecurity, relforcerowsecurity, relacl) FROM t"""
"""All at tables that can call a function, or lets others add something that does: table, name, and what it is."""

_Found = Mapping[tuple[str, str], str]
"""By table and name."""
_NOT_VALIDATED = """SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint k
    WHERE contype = 'c' AND conrelid <> 0 AND NOT convalidated AND coalesce((to_jsonb(k) ->> 'conenforced')::bool, true) ORDER BY oid"""


@dataclass(frozen=True)
class _Check:
    """A constraint that the children of a table have, too. Where an entry of its own adds it, that comes after the rows."""

    table: str
    name: str
    """As the catalogs write it, like the table's."""
    definition: str

    @property
    def is_valid(self) -> bool:
        return not self.definition.endswith((" NOT VALID", " NOT ENFORCED"))

    def added(self) -> Composed:
        """What adds it, and looks at no row."""
        definition = f"{self.definition} NOT VALID" if self.is_valid else self.definition
        return SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(SQL(self.table), SQL(self.name), SQL(definition))

    def validated(self) -> Composed:
        """What looks at the rows, of the children too, and asks for no right on these."""
        return SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(SQL(self.table), SQL(self.name))


def _tables(objects: Objects) -> dict[str, str]:
    """The owner of each table."""
    return {name: facts["owner"] for (kind, name), facts in objects.items() if kind == "table" and "owner" in facts}


def _with_parents(objects: Objects) -> Iterator[tuple[str, str]]:
    """Each table and its parent, if both have an owner."""
    owner_of = _tables(objects)
    return ((name, parent) for name in owner_of for parent in objects["table", name]["parents"] or () if parent in owner_of)


def shared_tables(objects: Objects) -> list[str]:
    """Tables whose parent belongs to somebody else."""
    owner_of = _tables(objects)
    return list(dict.fromkeys(name for name, parent in _with_parents(objects) if owner_of[name] != owner_of[parent]))


def families(objects: Objects) -> dict[str, Family]:
    """Trees of tables that belong to several owners, by what stands for one in :attr:`Loaders.roles`."""
    owner_of, above = _tables(objects), dict[str, str]()

    def root(name: str) -> str:
        while name in above:
            name = above[name]
        return name

    for name, parent in _with_parents(objects):
        if root(name) != root(parent):
            above[root(name)] = root(parent)
    trees: dict[str, set[str]] = {}
    for pair in _with_parents(objects):
        trees.setdefault(root(pair[0]), set()).update(pair)
    found = {f"{EVERYONE}{name}": Family(frozenset(tree), frozenset(map(owner_of.__getitem__, tree))) for name, tree in trees.items()}
    return {key: family for key, family in found.items() if len(family.owners) > 1}


def attaching(objects: Objects, codec: str) -> dict[str, str]:
    """As whom entries are restored that make or attach a child, or give a partitioned table a trigger, as they are listed."""
    owner_of = _tables(objects)
    loader_of = owner_of | {name: key for key, family in families(objects).items() for name in family.tables}
    through_top = any(facts.get("hashed by enum") for facts in objects.values())  # pg_dump then loads all partitions so
    found: dict[str, str] = {}
    for name, _ in _with_parents(objects):
        words = f"{_words(name, codec)} {listed(owner_of[name], codec)}"
        found |= {f"{what} {words}": loader_of[name] for what in ("TABLE", "FOREIGN TABLE", "TABLE ATTACH")}
        if through_top and objects["table", name].get("bound"):
            found[f"TABLE DATA {words}"] = loader_of[name]
    indexes = {name: facts["definition"] for (kind, name), facts in objects.items() if kind == "index"}
    table_of = {name: table_of_index(definition) for name, definition in indexes.items()}
    for name, table in table_of.items():
        above = table_of.get(objects["index", name]["parent"] or "")
        if above in owner_of and table in owner_of:
            words = f"INDEX ATTACH {_words(name, codec)}"
            found |= {
                words: loader_of[table],
                f"{words} {listed(owner_of[above], codec)}": loader_of[table],
            }  # nobody's before PostgreSQL 15
    for words, check in _checks(objects, loader_of, codec).items():
        if loader_of[check.table] != owner_of[check.table]:
            owner = listed(owner_of[check.table], codec)
            found |= {f"{what} {words} {owner}": loader_of[check.table] for what in ("CHECK CONSTRAINT", "CONSTRAINT")}
    for table, trigger in (first_name(name) for kind, name in objects if kind == "trigger"):
        if loader_of.get(table) != owner_of.get(table) and objects["table", table].get("partition key"):
            found[f"TRIGGER {_words(table, codec)} {listed(raw(trigger), codec)} {listed(owner_of[table], codec)}"] = loader_of[table]
    return found


def _checks(objects: Objects, tables: Collection[str], codec: str) -> dict[str, _Check]:
    """Constraints of tables that their children have, too, by what is listed of them but for the owner."""
    found = {}
    for (kind, name), facts in objects.items():
        table, own = first_name(name)
        if kind == "constraint" and table in tables and _CHECKS.match(facts["definition"]):
            found[f"{_words(table, codec)} {listed(raw(own), codec)}"] = _Check(table, own, facts["definition"])
    return found


def _words(name: str, codec: str) -> str:
    return " ".join(listed(word, codec) for word in split(name))


def attach(
    connection: Connection,
    loaders: Loaders,
    step: Step,
    objects: Objects,
    codec: str,
    restored: Callable[[Step], None],
    executed: Callable[[str, Composed], None],
) -> None:
    """Restore entries as the role of a family, which owns its tables meanwhile, and nothing afterwards.

    Code that ran could have left something at a table of the other owner, which runs once his rows are loaded. So the
    tables may only have become what the entries say.

    Args:
        connection: to the database, as ourselves.
        loaders: its roles.
        step: the entries; its loader is the family's key.
        objects: what the set has of the database.
        codec: Python's name of the dump's encoding.
        restored: restores entries.
        executed: makes a statement as what stands for a role in :attr:`Loaders.roles`.

    Raises:
        RestoreError: if the server refuses, or something else was changed.
    """
    checks = _checks(objects, loaders.families[step.loader].tables, codec)
    added = []
    with _lent(connection, loaders, step.loader, objects) as tables:
        before = _definitions(connection, tables)
        for part in _parts(step):
            check = checks.get(part.entries[0].name) if part.entries[0].what.endswith("CONSTRAINT") else None
            if check:
                executed(step.loader, check.added())
                added.append(check)
            else:
                restored(part)
            after = _definitions(connection, tables)
            expected = _at_children(check, after, objects) if check else _triggers(part, after, codec)
            _refuse_others(connection, before, after, expected | _links(objects))
            before = after
    owner_of = _tables(objects)
    for check in added:
        if check.is_valid:
            executed(owner_of[check.table], check.validated())


def validate(connection: Connection, loaders: Loaders, objects: Objects, executed: Callable[[str, Composed], None]) -> None:
    """Validate checks of children that are valid in the set while their parents' are not: pg_restore leaves both not valid.

    Args:
        connection: to the database, as ourselves.
        loaders: its roles.
        objects: what the set has of the database.
        executed: makes a statement as what stands for a role in :attr:`Loaders.roles`.

    Raises:
        RestoreError: if the server refuses, or something else was changed.
    """
    owner_of = _tables(objects)
    loader_of = owner_of | {name: key for key, family in loaders.families.items() for name in family.tables}
    with translated_errors(f"Listing the checks of {connection.info.dbname}", RestoreError):
        found = [_Check(*row) for row in connection.execute(_NOT_VALIDATED).fetchall()]
    for check in found:
        if not objects.get(("constraint", f"{check.table} {check.name}"), {}).get("validated"):
            continue
        loader = loader_of[check.table]
        if loader not in loaders.families:
            executed(loader, check.validated())
            continue
        with _lent(connection, loaders, loader, objects) as tables:
            before = _definitions(connection, tables)
            executed(loader, check.validated())
            after = _definitions(connection, tables)
            _refuse_others(connection, before, after, _at_children(check, after, objects))


@contextmanager
def _lent(connection: Connection, loaders: Loaders, key: str, objects: Objects) -> Iterator[list[str]]:
    """The tables of a family, which belong to its role for as long as a block runs. Afterwards it has nothing."""
    role, tables, owner_of = loaders.roles[key], sorted(loaders.families[key].tables), _tables(objects)
    _give(connection, dict.fromkeys(tables, role))
    yield tables
    _give(connection, {name: loaders.roles[owner_of[name]] for name in tables})
    with translated_errors(f"Listing what {role} has in {connection.info.dbname}", RestoreError):
        _refuse(connection, [f"{kind} {name}" for kind, name in connection.execute(OWNED, [role]).fetchall()])


def _parts(step: Step) -> Iterator[Step]:
    """What makes something one by one, so that it is known what has come by which."""
    for key, group in groupby(step.entries, key=lambda entry: "" if entry.what.endswith(" ATTACH") else entry.line):
        yield replace(step, entries=tuple(group), alone=step.alone or bool(key))


def _give(connection: Connection, roles: Mapping[str, str]) -> None:
    """Give tables to roles, as far as they are there."""
    query = """SELECT relation, i.type, i.identity FROM unnest(%s::text[]) t (relation),
        LATERAL pg_identify_object('pg_class'::regclass, to_regclass(relation), 0) i WHERE to_regclass(relation) IS NOT NULL"""
    with translated_errors(f"Attaching tables in {connection.info.dbname}", RestoreError):
        found = connection.execute(query, [list(roles)]).fetchall()
        in_parts(connection, [owned_by(kind, identity, roles[name]) for name, kind, identity in found])


def _definitions(connection: Connection, tables: Sequence[str]) -> _Found:
    """What :data:`_CALLING` says of tables."""
    with translated_errors(f"Reading tables of {connection.info.dbname}", RestoreError):
        rows = connection.execute(_CALLING, [list(tables)]).fetchall()
    return {(table, name): text for table, name, text in rows}


def _refuse_others(connection: Connection, before: _Found, after: _Found, expected: Collection[tuple[str, str]]) -> None:
    """Refuse what has changed at tables that were there, but for what was expected; other tables are what an entry has made."""
    known = {table for table, _ in before}
    changed = {place for place, _ in after.items() - before.items() if place[0] in known}
    _refuse(connection, [f"{name} of {table}" for table, name in sorted(changed - set(expected))])


def _links(objects: Objects) -> set[tuple[str, str]]:
    return {(name, f"parent {parent}") for name, parent in _with_parents(objects)}


def _at_children(check: _Check, there: _Found, objects: Objects) -> set[tuple[str, str]]:
    """A constraint at its table, and the same one at the table's children, theirs and so on."""
    name, below = f"constraint {raw(check.name)}", {check.table}
    while more := {child for child, parent in _with_parents(objects) if parent in below} - below:
        below |= more
    return {(table, name) for table in below if there.get((table, name)) == there.get((check.table, name))}


def _triggers(part: Step, there: Iterable[tuple[str, str]], codec: str) -> set[tuple[str, str]]:
    """Of what there is at tables, the triggers that a part has: those of children come with them."""
    names = {entry.name for entry in part.entries if entry.what == "TRIGGER"}
    return {(table, name) for table, name in there if f"{_words(table, codec)} {listed(name.removeprefix('trigger '), codec)}" in names}


def _refuse(connection: Connection, changed: Sequence[str]) -> None:
    if changed:
        raise RestoreError(
            f"While tables of several owners were attached to each other in {connection.info.dbname}, code of one of these owners made"
            f" or changed {shortened(changed)}.",
            "Restore the other databases of the set by name, and look at what these tables call.",
        )
