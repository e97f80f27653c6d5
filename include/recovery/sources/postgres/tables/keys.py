"""Foreign keys between what is restored and what stays: made in the swap, validated without running anybody's code as ourselves.

To validate one, the server plans and runs a query over both tables. This can run functions of their owners: expressions and
predicates of indexes are evaluated when a query is planned, and a cast or an operator of a column's type when it is run. So
a key of tables that have such functions is made NOT VALID, and validated after the swap by a role with the rights of its
table's owner. Until then it holds for all that is written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from psycopg import errors
from psycopg.sql import SQL, Composed, Identifier

from recovery.common.errors import RestoreError
from recovery.common.wording import ROLLS_BACK
from recovery.packs.content_diff import Difference
from recovery.packs.content_index import Facts
from recovery.sources.postgres.accounts import loaders
from recovery.sources.postgres.accounts.loaders import Loaders
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.definitions.names import first_name, parent_of, raw, split
from recovery.sources.postgres.tables import staged
from recovery.sources.postgres.tables.contents import Chosen
from recovery.sources.postgres.tables.dependents import ForeignKey
from recovery.sources.postgres.tables.swap import limit_waiting
from recovery.sources.postgres.targets import Objects

log = logging.getLogger(__name__)

_NOT_VALID = " NOT VALID"
_CODE = """WITH RECURSIVE
    tree (oid) AS (SELECT unnest(%(tables)s::text[])::regclass::oid
      UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid),
    written (oid) AS (SELECT p.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE l.lanname NOT IN ('c', 'internal')
      AND p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)),
    families (oid) AS (SELECT m.amprocfamily FROM pg_amproc m JOIN written w ON w.oid = m.amproc
      UNION SELECT m.amopfamily FROM pg_amop m JOIN pg_operator o ON o.oid = m.amopopr JOIN written w ON w.oid = o.oprcode),
    operators (oid) AS (SELECT o.oid FROM pg_operator o JOIN written w ON w.oid IN (o.oprcode, o.oprrest::oid, o.oprjoin::oid)
      UNION SELECT m.amopopr FROM pg_amop m JOIN families f ON f.oid = m.amopfamily),
    inside (classid, objid) AS (SELECT 'pg_class'::regclass::oid, oid FROM tree
      UNION SELECT 'pg_class'::regclass, indexrelid FROM pg_index JOIN tree ON indrelid = tree.oid
      UNION SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k JOIN tree ON k.conrelid = tree.oid WHERE k.contype = 'c'
      UNION SELECT 'pg_statistic_ext'::regclass, s.oid FROM pg_statistic_ext s JOIN tree ON s.stxrelid = tree.oid),
    columns (type) AS (SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid IN (SELECT unnest(%(tables)s::text[])::regclass)
      AND a.attnum > 0 AND NOT a.attisdropped AND (%(columns)s::text[] IS NULL OR a.attname = ANY (%(columns)s))),
    types (oid) AS (SELECT type FROM columns UNION SELECT t.typbasetype FROM types JOIN pg_type t USING (oid) WHERE t.typtype = 'd')
  SELECT EXISTS (SELECT FROM pg_depend d JOIN inside USING (classid, objid) WHERE CASE d.refclassid
        WHEN 'pg_proc'::regclass THEN d.refobjid IN (SELECT oid FROM written)
        WHEN 'pg_operator'::regclass THEN d.refobjid IN (SELECT oid FROM operators)
        WHEN 'pg_opclass'::regclass THEN (SELECT opcfamily FROM pg_opclass o WHERE o.oid = d.refobjid) IN (SELECT oid FROM families)
        WHEN 'pg_type'::regclass THEN d.objid NOT IN (SELECT oid FROM tree)
          AND NOT EXISTS (SELECT FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem
            WHERE t.oid = d.refobjid AND 'e' IN (t.typtype, e.typtype))
        ELSE false END)
    OR EXISTS (SELECT FROM types JOIN pg_type t USING (oid) WHERE t.oid >= 16384 AND t.typtype NOT IN ('d', 'e'))
    OR EXISTS (SELECT FROM types JOIN pg_cast c ON c.castsource = types.oid JOIN written w ON w.oid = c.castfunc)
    OR EXISTS (SELECT FROM unnest(%(operators)s::oid[]) o (oid) JOIN operators USING (oid))"""
"""Whether a query over tables can run a function that is not written in C, as only a superuser writes them.

Its parameters are the tables, the names of the columns that it compares (None for all), and the operators.
"""
_KEY = """SELECT array_agg(a.attname::text), (SELECT k.conpfeqop || k.conppeqop || k.conffeqop) FROM pg_constraint k JOIN pg_attribute a
      ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) OR a.attrelid = k.confrelid AND a.attnum = ANY (k.confkey)
    WHERE k.conrelid = %s::regclass AND k.conname = %s GROUP BY k.oid"""
_WHO = """SELECT r.rolsuper, p.rolsuper, 'p' IN (c.relkind, q.relkind)
    FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner, pg_class q JOIN pg_roles p ON p.oid = q.relowner
    WHERE c.oid = %s::regclass AND q.oid = %s::regclass"""


def outgoing(part: Chosen) -> list[ForeignKey]:
    """The foreign keys of the set's tables to tables that are not restored."""
    found = []
    for (_, name), facts in part.crossing.items():
        table, own = first_name(name)
        comment = part.crossing_comments.get(("comment", f"table constraint {own} on {table}"), {}).get("text")
        found.append(ForeignKey(0, table, raw(own), parent_of(facts["definition"]) or "", facts["definition"], comment))
    return found


def make(connection: Connection, key: ForeignKey, *, forgiving: bool = False) -> bool:
    """Make a foreign key, in the transaction of a swap or rollback.

    Args:
        connection: to the database.
        key: the foreign key.
        forgiving: leave one that does not hold NOT VALID, and say so: the rollback must go on.

    Returns:
        Whether it is NOT VALID yet, or in a rollback maybe not there, and :func:`validate` has to make it valid.

    Raises:
        RestoreError: if to validate it would run functions of others as a superuser, or its key can't be made of the set.
    """
    try:
        return _make(connection, key, forgiving=forgiving)
    except errors.InvalidForeignKey as error:
        raise RestoreError(
            f"The foreign key {key.name} of {key.table} needs a key of {key.parent} that can't be made of the set:"
            f" {error.diag.message_primary}.",
            "Drop the foreign key before and create it again once the rows are mended, or restore an older set.",
        ) from error


def _make(connection: Connection, key: ForeignKey, *, forgiving: bool) -> bool:
    row = connection.execute(_WHO, [key.table, key.parent]).fetchone()
    assert row is not None
    of_superuser, to_superuser, partitioned = row
    pending = False
    if not key.is_checked:
        connection.execute(key.made())
    elif partitioned:  # which can't be NOT VALID before PostgreSQL 18
        if (of_superuser and to_superuser) or not _runs_code(connection, [key.table, key.parent], None, ()):
            _check(connection, key, key.made(), forgiving=forgiving, otherwise=key.made(checked=False))
        elif forgiving and not of_superuser:
            return True
        else:
            raise _refused(connection, key)
    else:
        connection.execute(key.made(checked=False))
        compared = connection.execute(_KEY, [key.table, key.name]).fetchone()
        assert compared is not None
        if (of_superuser and to_superuser) or not _runs_code(connection, [key.table, key.parent], *compared):
            _check(connection, key, _validation(key), forgiving=forgiving)
        elif not of_superuser:
            pending = True
        elif forgiving:
            log.warning(
                "Foreign key %s of %s is there, NOT VALID: drop what runs functions of others there, then validate it.", key.name, key.table
            )
        else:
            raise _refused(connection, key)
    if (comment := key.commented()) is not None:
        connection.execute(comment)
    return pending


def _runs_code(connection: Connection, tables: Sequence[str], columns: Sequence[str] | None, operators: Sequence[int]) -> bool:
    """See :data:`_CODE`; of a superuser's transaction, in which nobody can make an index or statistics meanwhile."""
    if connection.info.parameter_status("is_superuser") == "on":
        connection.execute(SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(SQL(", ").join(map(SQL, tables))))
    values = {"tables": list(tables), "columns": columns, "operators": list(operators)}
    row = connection.execute(_CODE, values).fetchone()
    return bool(row and row[0])


def _refused(connection: Connection, key: ForeignKey) -> RestoreError:
    return RestoreError(
        f"To validate the foreign key {key.name} of {key.table} to {key.parent}, functions of others would run as {connection.info.user}.",
        "Drop the foreign key before and create it again afterwards, or restore the whole database.",
    )


def _validation(key: ForeignKey) -> Composed:
    return SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(SQL(key.table), Identifier(key.name))


def _check(connection: Connection, key: ForeignKey, statement: Composed, *, forgiving: bool, otherwise: Composed | None = None) -> None:
    try:
        with connection.transaction():
            connection.execute(statement)
    except errors.ForeignKeyViolation as error:
        if not forgiving:
            raise
        log.warning("%s Foreign key %s is there, NOT VALID: mend the rows, then validate it.", error.diag.message_detail, key.name)
        if otherwise is not None:
            connection.execute(otherwise)


def as_validated(found: Objects, pending: Iterable[ForeignKey]) -> Objects:
    """Objects of a database as they are once pending foreign keys are valid."""
    wanted = {(key.table, key.name) for key in pending}

    def validated(kind: str, name: str, facts: Facts) -> Facts:
        table, own = first_name(name)
        if kind != "constraint" or (table, raw(own)) not in wanted:
            return facts
        return facts | {"validated": True, "definition": facts["definition"].removesuffix(_NOT_VALID)}

    return {(kind, name): validated(kind, name, facts) for (kind, name), facts in found.items()}


def as_meant(found: Iterable[ForeignKey], pending: Iterable[ForeignKey]) -> list[ForeignKey]:
    """Foreign keys, of which those that an exchange left NOT VALID have to hold."""
    wanted = {(key.table, key.name) for key in pending}
    return [replace(key, definition=key.definition.removesuffix(_NOT_VALID)) if (key.table, key.name) in wanted else key for key in found]


def validate(server: Server, part: Chosen, pending: Sequence[ForeignKey], *, forgiving: bool = False) -> None:
    """Validate foreign keys that are there and NOT VALID, each with the rights of its table's owner. Done again, it resumes.

    Args:
        server: where the database is.
        part: what is restored of it.
        pending: the foreign keys.
        forgiving: leave one that does not hold NOT VALID, and say so.

    Raises:
        RestoreError: if one does not hold.
    """
    database = part.target.name
    query = """SELECT pg_get_userbyid(c.relowner), k.oid IS NULL FROM pg_class c
        LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.conname = %s
        WHERE c.oid = to_regclass(%s) AND k.convalidated IS NOT TRUE"""
    with server.connect(database) as live, translated_errors(f"Validating foreign keys of {database}", RestoreError):
        rows = [(key, *row) for key in pending for row in live.execute(query, [key.name, key.table]).fetchall()]
        with loaders.members(server, live, database, {owner for _, owner, _ in rows}, staged.purpose(part)) as members:
            for key, owner, is_missing in rows:
                with members.server(server, owner).connect(database) as there:
                    _validate(there, key, database, is_missing=is_missing, forgiving=forgiving)


def _validate(owner: Connection, key: ForeignKey, database: str, *, is_missing: bool, forgiving: bool) -> None:
    statement, otherwise = (key.made(), key.made(checked=False)) if is_missing else (_validation(key), None)
    try:
        _check(owner, key, statement, forgiving=forgiving, otherwise=otherwise)
        if is_missing and (comment := key.commented()) is not None:
            owner.execute(comment)
    except errors.ForeignKeyViolation as error:
        raise RestoreError(
            f"The foreign key {key.name} of {key.table} in {database} does not hold. {error.diag.message_detail}",
            f"Restore both tables, or mend the rows. {ROLLS_BACK}",
        ) from error


# Before -----------------------------------------------------------------------------------------------------------------


_CROSSING = """SELECT k.conname, k.conrelid::regclass::text, k.confrelid::regclass::text, child.relkind::text, parent.relkind::text,
      child.oid::regclass::text = ANY (%(names)s),
      ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u (num, place)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.place),
      ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u (num, place)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.place),
      ARRAY(SELECT format('OPERATOR(%%s.%%s)', o.oprnamespace::regnamespace, o.oprname)
        FROM unnest(k.conpfeqop) WITH ORDINALITY u (oid, place) JOIN pg_operator o USING (oid) ORDER BY u.place), k.conpfeqop
    FROM pg_constraint k JOIN pg_class child ON child.oid = k.conrelid JOIN pg_class parent ON parent.oid = k.confrelid
    WHERE k.contype = 'f' AND k.conparentid = 0 AND coalesce(to_jsonb(k) ->> 'conperiod', 'false') = 'false'
      AND (k.convalidated OR (k.conrelid::regclass::text, k.conname::text) IN (SELECT * FROM unnest(%(tables)s::text[], %(keys)s::text[])))
      AND (child.oid::regclass::text = ANY (%(names)s)) <> (parent.oid::regclass::text = ANY (%(names)s)) ORDER BY 2, 1"""
_EXAMPLES = 3
_FIRST_OF_USERS = 16384
"""The lowest number (oid) of what is not the server's own."""


@dataclass(frozen=True)
class Crossing:
    """A foreign key between a table that is restored and one that stays."""

    name: str
    child: str
    parent: str
    child_kind: str
    parent_kind: str
    from_restored: bool
    """The child is restored, the parent stays."""
    columns: list[str]
    referenced: list[str]
    operators: list[str]
    """Of each column, what compares the parent's with the child's."""
    numbers: list[int]
    """Of these operators, where they were found: the server's own have the same everywhere."""


@dataclass(frozen=True)
class Orphans:
    """Rows of a child that its parent lacks."""

    rows: int
    keys: int
    examples: list[str]
    """Some of the keys."""


def crossing(connection: Connection, part: Chosen, pending: Sequence[ForeignKey]) -> list[Crossing]:
    """The foreign keys between what is restored and what stays, once the swap is done; pending ones are NOT VALID yet."""
    values = {"names": list(part.names), "tables": [key.table for key in pending], "keys": [key.name for key in pending]}
    return [Crossing(*row) for row in connection.execute(_CROSSING, values).fetchall()]


def not_holding(server: Server, part: Chosen, found: Sequence[Crossing]) -> list[Difference]:
    """The foreign keys that would not hold: rows on one side that point to none on the other.

    Where functions of others can run, each is asked for with the rights of its table's owner, who may not be allowed to
    read the other table. Then only the swap shows whether it holds.
    """
    differences: list[Difference] = []
    if not found:
        return differences
    database = part.target.name
    with (
        server.connect(database) as live,
        translated_errors(f"Checking the foreign keys of {database}", RestoreError),
        loaders.members(server, live, database, _owners(live, part, found), staged.purpose(part)) as members,
    ):
        names = staged.names_in(live, part)
        for key in found:
            orphans = _orphans_as_ourselves(live, key, names) or _orphans_as_owner(server, live, part, key, names, members)
            if orphans and orphans.rows:
                left, right = ("the set", "the live database") if key.from_restored else ("the live database", "the set")
                what = (
                    f"{orphans.rows} rows of {key.child} in {left} point to {orphans.keys} rows of {key.parent} that {right} lacks, such as"
                )
                words = f"{what} ({', '.join(key.referenced)}) = {'; '.join(orphans.examples)}"
                differences.append(Difference("foreign key", f"{key.child} {key.name}", words))
    log.info("%d foreign keys to and from other tables checked, %d would not hold", len(found), len(differences))
    return differences


def _orphans_as_ourselves(live: Connection, key: Crossing, names: Mapping[str, str]) -> Orphans | None:
    """None if functions of others can run, or we are no superuser and have no right to be asked."""
    if live.info.parameter_status("is_superuser") != "on" or max(key.numbers) >= _FIRST_OF_USERS:
        return None
    tables = [names.get(table, table) for table in (key.child, key.parent)]
    with live.transaction():
        limit_waiting(live)
        if _runs_code(live, tables, [*key.columns, *key.referenced], key.numbers):
            return None
        return _orphans(live, key, names)


def _orphans_as_owner(
    server: Server, live: Connection, part: Chosen, key: Crossing, names: Mapping[str, str], members: Loaders
) -> Orphans | None:
    """None, and a warning, if the owner may not read a table."""
    owner = _owner(live, part, key)
    if members.roles[owner] in members.names():
        for statement in _readable(part, key, names, members.roles[owner]):
            live.execute(statement)
    try:
        with members.server(server, owner).connect(part.target.name) as there:
            return _orphans(there, key, names)
    except errors.InsufficientPrivilege as error:
        log.warning("whether foreign key %s of %s holds is known in the swap only: %s", key.name, key.child, str(error).strip())
        return None


def _owners(live: Connection, part: Chosen, found: Iterable[Crossing]) -> set[str]:
    return {_owner(live, part, key) for key in found}


def _owner(live: Connection, part: Chosen, key: Crossing) -> str:
    """The owner of a foreign key's table: in the set if it is restored, else in the live database."""
    if key.from_restored:
        return str(part.all["table", key.child]["owner"])
    row = live.execute("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = %s::regclass", [key.child]).fetchone()
    assert row is not None
    return str(row[0])


def _readable(part: Chosen, key: Crossing, names: Mapping[str, str], role: str) -> Iterator[Composed]:
    """Let a role read the columns of the key in the table that is staged."""
    table, columns = (key.child, key.columns) if key.from_restored else (key.parent, key.referenced)
    yield SQL("GRANT USAGE ON SCHEMA {} TO {}").format(Identifier(staged.schema_of(part, split(table)[0])), Identifier(role))
    of = SQL(", ").join(map(Identifier, columns))
    yield SQL("GRANT SELECT ({}) ON TABLE {} TO {}").format(of, SQL(names[table]), Identifier(role))


def _orphans(connection: Connection, key: Crossing, names: Mapping[str, str]) -> Orphans:
    columns = SQL(", ").join(SQL("c.{}").format(Identifier(column)) for column in key.columns)
    named = [Identifier(f"k{place}") for place in range(len(key.columns))]
    present = SQL(" AND ").join(SQL("c.{} IS NOT NULL").format(Identifier(column)) for column in key.columns)
    match = SQL(" AND ").join(
        SQL("p.{} {} k.{}").format(Identifier(column), SQL(operator), name)
        for column, operator, name in zip(key.referenced, key.operators, named, strict=True)
    )
    query = SQL("""WITH lost AS MATERIALIZED (SELECT * FROM (SELECT {columns}, count(*) FROM {child} c WHERE {present} GROUP BY {columns})
            k ({named}, times) WHERE NOT EXISTS (SELECT FROM {parent} p WHERE {match}))
        SELECT (SELECT coalesce(sum(times), 0)::bigint FROM lost), (SELECT count(*) FROM lost),
          ARRAY(SELECT concat_ws(', ', {named}) FROM lost ORDER BY 1 LIMIT {examples})""").format(
        columns=columns,
        child=_rows_of(names.get(key.child, key.child), key.child_kind),
        parent=_rows_of(names.get(key.parent, key.parent), key.parent_kind),
        present=present,
        match=match,
        named=SQL(", ").join(named),
        examples=SQL(str(_EXAMPLES)),
    )
    row = connection.execute(query).fetchone()
    assert row is not None
    return Orphans(row[0], row[1], [f"({example})" for example in row[2]])


def _rows_of(table: str, kind: str) -> Composed:
    """Of a partitioned table all, of any other its own: a foreign key does not see children."""
    return SQL("{} {}").format(SQL("ONLY" if kind == "r" else ""), SQL(table))
