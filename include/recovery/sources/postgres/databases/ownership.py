"""Who owns what while a database is loaded, and afterwards: roles of the restore first, the set's owners last.

While it is loaded, each of these roles has the rights on tables, views and sequences that its owner had, and may put
things into schemas in which its owner has some. Nobody else can log in to the database meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import LiteralString

from psycopg.sql import SQL, Composed, Identifier

from recovery.common.errors import RestoreError
from recovery.common.wording import shortened
from recovery.packs.content_index import Facts
from recovery.sources.postgres.accounts.loaders import EVERYONE, Loaders, groups_of
from recovery.sources.postgres.accounts.server_globals import grant, grantee_name
from recovery.sources.postgres.client import Connection, translated_errors
from recovery.sources.postgres.definitions import catalog
from recovery.sources.postgres.definitions.names import NAME, last_name, listed, parent_of, raw, split
from recovery.sources.postgres.definitions.sql_snippets import ROUTINE
from recovery.sources.postgres.targets import Objects, Terms

_STATEMENTS_AT_ONCE = 50
"""In one transaction: each holds locks on a table and its indexes, of which a server has some thousands."""
_IN_SQL = {
    "table": "TABLE",
    "foreign table": "FOREIGN TABLE",
    "view": "VIEW",
    "materialized view": "MATERIALIZED VIEW",
    "sequence": "SEQUENCE",
    "function": "FUNCTION",  # no ROUTINE: a procedure may have its arguments as results, and that could mean both
    "procedure": "PROCEDURE",
    "aggregate": "FUNCTION",
    "type": "TYPE",
    "schema": "SCHEMA",
    "operator": "OPERATOR",
    "operator class": "OPERATOR CLASS",
    "operator family": "OPERATOR FAMILY",
    "collation": "COLLATION",
    "conversion": "CONVERSION",
    "text search dictionary": "TEXT SEARCH DICTIONARY",
    "text search configuration": "TEXT SEARCH CONFIGURATION",
    "server": "SERVER",
    "statistics object": "STATISTICS",
    "statistics": "STATISTICS",
    "large object": "LARGE OBJECT",
    "language": "LANGUAGE",
    "publication": "PUBLICATION",
    "foreign-data wrapper": "FOREIGN DATA WRAPPER",
    "event trigger": "EVENT TRIGGER",
}
"""How ALTER names a kind of object, by ``pg_identify_object``'s name of it, or that of a set."""
KINDS = frozenset(_IN_SQL)
"""Kinds of objects that have an owner."""
OWNED = SQL("""SELECT i.type,
      coalesce((SELECT {routine} FROM pg_proc p WHERE d.classid = 'pg_proc'::regclass AND p.oid = d.objid), i.identity)
    FROM pg_shdepend d, LATERAL pg_identify_object(d.classid, d.objid, 0) i
    WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = %s::regrole AND d.deptype = 'o'
      AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND NOT EXISTS (SELECT FROM pg_depend o WHERE o.classid = 'pg_class'::regclass AND d.classid = o.classid AND o.objid = d.objid
        AND o.refclassid = 'pg_class'::regclass AND o.deptype IN ('a', 'i') AND i.type = 'sequence')
    ORDER BY d.objid""").format(routine=ROUTINE)
"""What a role owns in a database. A column's sequence goes with its table."""
_OURS = """SELECT 'foreign-data wrapper', quote_ident(fdwname), pg_get_userbyid(fdwowner) FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'publication', quote_ident(pubname), pg_get_userbyid(pubowner) FROM pg_publication
    UNION ALL SELECT 'language', quote_ident(lanname), pg_get_userbyid(lanowner) FROM pg_language
    UNION ALL SELECT 'statistics', stxnamespace::regnamespace::text || '.' || quote_ident(stxname), pg_get_userbyid(stxowner)
      FROM pg_statistic_ext
    UNION ALL SELECT 'schema', 'public', pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'public'
    UNION ALL SELECT 'event trigger', quote_ident(evtname), pg_get_userbyid(evtowner) FROM pg_event_trigger"""
"""What we made ourselves, or was there, or may belong to somebody else than its table."""
IN_SCHEMA = re.compile(rf"({NAME})\.(.*)", re.DOTALL)
"""A name as the catalogs write it: a schema, and what it has there."""
_RELATIONS = {"table": "TABLE", "view": "TABLE", "materialized view": "TABLE", "sequence": "SEQUENCE"}
_RIGHTS_ON = {
    **_RELATIONS,
    **{kind: _IN_SQL[kind] for kind in ("function", "procedure", "aggregate", "type", "schema", "language", "foreign-data wrapper")},
    "enum": "TYPE",
    "domain": "TYPE",
    "foreign server": "FOREIGN SERVER",
}
"""How REVOKE names a kind of row."""


def owned_by(kind: str, identity: str, role: str) -> Composed:
    """The statement that gives an object to a role.

    Args:
        kind: as ``pg_identify_object`` says it.
        identity: likewise, with the server's own quotes.
        role: the new owner.
    """
    return SQL("ALTER {} {} OWNER TO {}").format(SQL(_IN_SQL[kind]), SQL(identity), Identifier(role))


def with_tables(objects: Objects, codec: str) -> dict[str, str]:
    """As whom statistics are restored that belong to somebody else than their table, as they are listed: only its owner may make them."""
    found = dict[str, str]()
    for name, owner, maker in _statistics(objects):
        schema, own = (listed(word, codec) for word in split(name))
        found |= {f"{what} {listed(owner, codec)}": maker for what in (f"STATISTICS {schema} {own}", f"COMMENT {schema} STATISTICS {own}")}
    return found


def _statistics(objects: Objects) -> Iterator[tuple[str, str, str]]:
    """Statistics, their owner, and that of their table, if he is another."""
    for (kind, name), facts in objects.items():
        if kind == "statistics":
            tables = (objects.get((each, last_name(facts["definition"])), {}) for each in _RELATIONS)
            maker = next((table["owner"] for table in tables if "owner" in table), facts["owner"])
            if maker != facts["owner"]:
                yield name, facts["owner"], maker


@contextmanager
def ours_meanwhile(connection: Connection, schemas: Sequence[str]) -> Iterator[None]:
    """Schemas belong to us for as long as a block runs, and nobody else has rights on them.

    The server keeps what the script of an extension grants on a schema, with the owner and all rights of that moment. They must
    not be those of a role that is dropped in the end: no dump of the database could be restored any more.

    Raises:
        RestoreError: if the server refuses.
    """
    query = """SELECT quote_ident(nspname), pg_get_userbyid(nspowner) FROM pg_namespace
        WHERE quote_ident(nspname) = ANY (%s) AND oid >= 16384 AND pg_get_userbyid(nspowner) <> current_user"""
    with translated_errors(f"Lending schemas of {connection.info.dbname} to extensions", RestoreError):
        owners = connection.execute(query, [list(schemas)]).fetchall()
        in_parts(connection, [owned_by("schema", name, connection.info.user) for name, _ in owners])
        yield
        in_parts(connection, [owned_by("schema", name, owner) for name, owner in owners])


def open_schemas(connection: Connection, loaders: Loaders, objects: Objects) -> None:
    """Let all that load use all schemas, put things where they have some at the source, and use what their foreign tables are made with.

    Raises:
        RestoreError: if the server refuses.
    """
    query = """SELECT r.rights, 'SCHEMA', quote_ident(nspname), CASE r.rights WHEN 'CREATE' THEN nspname END, pg_get_userbyid(nspowner)
          FROM pg_namespace, (VALUES ('USAGE'), ('CREATE')) r (rights) WHERE nspname !~ '^pg_|^information_schema$'
        UNION ALL SELECT 'USAGE', 'FOREIGN DATA WRAPPER', quote_ident(fdwname), '', '' FROM pg_foreign_data_wrapper
        UNION ALL SELECT 'USAGE', 'FOREIGN SERVER', quote_ident(srvname), srvname, pg_get_userbyid(srvowner) FROM pg_foreign_server"""
    users = _users(objects)
    for key, family in loaders.families.items():
        for table in family.tables:
            users.setdefault(("SCHEMA", split(table)[0]), set()).add(key)
            facts = objects["table", table]
            if (server := facts.get("server")) and facts["parents"] and not facts["bound"]:  # a partition is made by its owner
                users.setdefault(("FOREIGN SERVER", server), set()).add(key)
    with translated_errors(f"Opening the schemas of {connection.info.dbname}", RestoreError), connection.transaction():
        for rights, what, name, key, owner in connection.execute(query).fetchall():
            needing = loaders.roles.keys() if key is None else users.get((what, key), set())
            roles = [loaders.roles[each] for each in sorted(needing & loaders.roles.keys() - {EVERYONE})]
            if others := [Identifier(role) for role in roles if role != owner]:  # who has them anyway, and says so nowhere
                there = SQL(f"{what} {name}")
                connection.execute(SQL("GRANT {} ON {} TO {}").format(SQL(rights), there, SQL(", ").join(others)))


def _users(objects: Objects) -> dict[tuple[str, str], set[str]]:
    """Which owners have something in a schema or on a foreign server, and which have foreign servers, by kind and name of these."""
    users: dict[tuple[str, str], set[str]] = {}
    for (kind, name), facts in objects.items():
        if owner := facts.get("owner"):
            if match := IN_SCHEMA.match(name):
                users.setdefault(("SCHEMA", raw(match[1])), set()).add(owner)
            if server := facts.get("server"):
                users.setdefault(("FOREIGN SERVER", server), set()).add(owner)
            if kind == "foreign server":
                users.setdefault(("FOREIGN DATA WRAPPER", ""), set()).add(owner)
    for name, _, maker in _statistics(objects):
        users.setdefault(("SCHEMA", split(name)[0]), set()).add(maker)
    return users


def give_rights(connection: Connection, loaders: Loaders, objects: Objects, set_roles: Mapping[str, Facts]) -> None:
    """Give each role that loads the rights on relations that the set gives its owner, and what foreign keys need.

    Raises:
        RestoreError: if the server refuses.
    """
    with translated_errors(f"Giving rights in {connection.info.dbname}", RestoreError), connection.transaction():
        query = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p', 'f', 'v', 'm', 'S')"
        there = {name for (name,) in connection.execute(query).fetchall()}
        for statement in _rights(loaders, {key: facts for key, facts in objects.items() if key[1] in there}, set_roles):
            connection.execute(statement)
        for statement in _foreign_keys(loaders, objects, there):
            connection.execute(statement)


def _rights(loaders: Loaders, objects: Objects, set_roles: Mapping[str, Facts]) -> Iterator[Composed]:
    everybody = SQL(", ").join(map(Identifier, loaders.of_owners().values()))
    members = {owner: groups_of(owner, set_roles) for owner in loaders.of_owners()}
    for (kind, name), facts in objects.items():
        if facts.get("extension"):  # its owner is who created the extension, but its rows are the set's
            yield SQL("GRANT SELECT, INSERT ON TABLE {} TO {}").format(SQL(name), everybody)
        elif kind in _RELATIONS:
            what = SQL("{} {}").format(SQL(_RELATIONS[kind]), SQL(name))
            for grantee, privilege in _given(facts):
                yield from (grant(privilege, what, role, False) for role in _those_with(grantee, loaders, members))
            for column, own in (facts.get("columns") or {}).items():
                for grantee, privilege, _ in own.get("acl") or ():
                    columns = SQL(" ({})").format(Identifier(column))
                    yield from (grant(privilege, what, role, False, columns) for role in _those_with(grantee, loaders, members))


def _given(facts: Facts) -> Iterator[tuple[str | None, str]]:
    """Who has which right, but for the owner: who has nothing beyond what owners have anyway, says so nowhere."""
    return ((grantee, privilege) for grantee, privilege, _ in facts["acl"] or () if grantee != facts["owner"])


def _lends_rights(facts: Facts) -> bool:
    """Whether a function can do more than its caller: it runs with its owner's rights, or only a superuser can make it."""
    return bool(facts.get("privileged")) or "SECURITY DEFINER" in (facts.get("definition") or "")


def give_calls(connection: Connection, loaders: Loaders, objects: Objects, set_roles: Mapping[str, Facts]) -> None:
    """Let only those roles call a new function that lends rights whose owners could call it at the source.

    At the source a closed schema may be what keeps others from it, and while we load, all schemas are open.

    Raises:
        RestoreError: if the server refuses.
    """
    with translated_errors(f"Closing functions of {connection.info.dbname}", RestoreError), connection.transaction():
        for name, what, facts in _lending(connection, objects, "proacl IS NULL"):
            connection.execute(SQL("REVOKE ALL ON {} FROM PUBLIC").format(what))
            callers = _callers(name, facts, loaders, objects, set_roles)
            for key in (*callers, *(key for key, family in loaders.families.items() if family.owners <= callers)):
                connection.execute(grant("EXECUTE", what, loaders.roles[key], False))


def _lending(connection: Connection, objects: Objects, condition: LiteralString) -> Iterator[tuple[str, Composed, Facts]]:
    """Functions of the set that lend rights: each as the set and as GRANT names it."""
    there = _routines(connection, condition)
    for (kind, name), facts in objects.items():
        if kind in {"function", "procedure", "aggregate"} and name in there and _lends_rights(facts):
            yield name, SQL("{} {}").format(SQL(_RIGHTS_ON[kind]), SQL(there[name])), facts


def _routines(connection: Connection, condition: LiteralString) -> dict[str, str]:
    """Functions that users made, as ALTER and GRANT name them, by their names in a set."""
    query = SQL("SELECT oid::regprocedure::text, {} FROM pg_proc p WHERE oid >= 16384 AND {}").format(ROUTINE, SQL(condition))
    return dict(connection.execute(query, ()).fetchall())


def _callers(name: str, facts: Facts, loaders: Loaders, objects: Objects, set_roles: Mapping[str, Facts]) -> set[str]:
    """The owners that may call a function at the source, or have a table with a trigger that does."""
    match = IN_SCHEMA.match(name)
    schema = objects.get(("schema", match[1]), {}) if match else {}
    found = set()
    for owner in loaders.of_owners():
        groups = {*groups_of(owner, set_roles), None}
        may = [_may(groups, facts, "EXECUTE"), _may(groups, schema, "USAGE")]
        if all(may) or any(set_roles.get(group or "", {}).get("superuser") for group in groups):
            found.add(owner)
    called = f" FUNCTION {name.removesuffix(')')}"
    tables = {
        table
        for (kind, trigger), own in objects.items()
        if kind == "trigger" and called in own["definition"]
        for table in _tables_of(trigger)
    }
    owners = {str(own.get("owner")) for (kind, table), own in objects.items() if kind in _RELATIONS and table in tables}
    return found | (owners & loaders.of_owners().keys())


def _may(groups: Collection[str | None], facts: Facts, privilege: str) -> bool:
    return any(right == privilege and grantee in groups for grantee, right, *_ in facts.get("acl") or ())


def _those_with(grantee: str | None, loaders: Loaders, members: Mapping[str, set[str]]) -> Iterable[str | None]:
    """The roles that have a right which a role of the set has; None for everybody."""
    return [None] if grantee is None else [role for owner, role in loaders.of_owners().items() if grantee in members[owner]]


def _foreign_keys(loaders: Loaders, objects: Objects, there: set[str]) -> Iterator[Composed]:
    """Rights to point to tables of others: a superuser may have made these foreign keys."""
    owner_of = {name: facts["owner"] for (kind, name), facts in objects.items() if kind == "table" and "owner" in facts}
    for (kind, name), facts in objects.items():
        if kind == "constraint" and (parent := parent_of(facts["definition"])):
            child = next((table for table in _tables_of(name) if table in owner_of), None)
            if child and parent in there and owner_of.get(parent) != owner_of[child]:
                yield SQL("GRANT REFERENCES ON TABLE {} TO {}").format(SQL(parent), Identifier(loaders.roles[owner_of[child]]))


def _tables_of(constraint: str) -> Iterator[str]:
    """What may be the table in ``<table> <constraint>``: both names can have spaces."""
    yield from (constraint[:place] for place, character in enumerate(constraint) if character == " ")


def hand_over_schemas(connection: Connection, loaders: Loaders) -> None:
    """Give the schemas that were loaded to the set's owners.

    Raises:
        RestoreError: if the server refuses.
    """
    with translated_errors(f"Handing over the schemas of {connection.info.dbname}", RestoreError):
        for owner, role in loaders.of_owners().items():
            found = connection.execute(OWNED, [role]).fetchall()
            to = loaders.terms.owner(owner)
            in_parts(connection, [owned_by(kind, identity, to) for kind, identity in found if kind == "schema"])


def hand_over(connection: Connection, loaders: Loaders, objects: Objects) -> None:
    """Give all else that was loaded to the set's owners, and take the rights of those who loaded away.

    Raises:
        RestoreError: if the server refuses.
    """
    with translated_errors(f"Handing over {connection.info.dbname}", RestoreError):
        for owner, role in loaders.of_owners().items():
            found = connection.execute(OWNED, [role]).fetchall()
            to = loaders.terms.owner(owner)
            with _creating(connection, to, [identity for _, identity in found]):
                in_parts(connection, [owned_by(kind, identity, to) for kind, identity in found if kind in _IN_SQL])
        for role in loaders.names():
            left = [f"{kind} {identity}" for kind, identity in connection.execute(OWNED, [role]).fetchall() if kind in _IN_SQL]
            if left:
                raise RestoreError(
                    f"Of {connection.info.dbname} nobody owns {shortened(left)}.", "Report it: the set should say whose it is."
                )
        connection.execute(SQL("DROP OWNED BY {}").format(SQL(", ").join(map(Identifier, loaders.names()))))
        for _, what, facts in _lending(connection, objects, "proacl IS NOT NULL") if loaders.terms.rights else ():
            if _may({None}, facts, "EXECUTE"):
                connection.execute(grant("EXECUTE", what, None, False))


def in_parts(connection: Connection, statements: Sequence[Composed]) -> None:
    """Make statements, not too many in one transaction."""
    for start in range(0, len(statements), _STATEMENTS_AT_ONCE):
        with connection.transaction():
            for statement in statements[start : start + _STATEMENTS_AT_ONCE]:
                connection.execute(statement)


@contextmanager
def _creating(connection: Connection, owner: str, identities: Iterable[str]) -> Iterator[None]:
    """Let a new owner create in the schemas of what he gets: who is no superuser gives something to nobody else.

    The owner of a database may create in ``public``, but only once the database is his.
    """
    query = """SELECT quote_ident(nspname) FROM pg_namespace WHERE quote_ident(nspname) = ANY (%s)
        AND NOT has_schema_privilege(%s, oid, 'CREATE') AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"""
    schemas = {match[1] for match in map(IN_SCHEMA.match, identities) if match}
    lacking = [SQL("SCHEMA {}").format(SQL(name)) for (name,) in connection.execute(query, [sorted(schemas), owner]).fetchall()]
    in_parts(connection, [grant("CREATE", schema, owner, False) for schema in lacking])
    yield
    in_parts(connection, [SQL("REVOKE CREATE ON {} FROM {}").format(schema, Identifier(owner)) for schema in lacking])


def leave_rights_to_owners(connection: Connection) -> None:
    """Take all rights from everybody but the owners, also those that everybody has by default.

    Raises:
        RestoreError: if the server refuses.
    """
    with translated_errors(f"Taking rights in {connection.info.dbname}", RestoreError):
        procedures = _routines(connection, "p.prokind = 'p'")
        statements = [
            SQL("REVOKE ALL ON {} {} FROM {}").format(SQL(_RIGHTS_ON[kind]), SQL(procedures.get(name, name)), grantee_name(grantee))
            for kind, name, facts in catalog.object_rows(connection)
            if kind in _RIGHTS_ON
            for grantee in {grantee for grantee, *_ in facts.get("acl") or ()} - {facts["owner"]}
        ]
        in_parts(connection, statements)


def give_ours(connection: Connection, objects: Objects, set_roles: Mapping[str, Facts], terms: Terms) -> None:
    """Give what we made ourselves to the set's owners. Done again, it gives what has come since.

    A role of the set that is to be a superuser is none yet. It becomes one in the transaction that gives it something,
    and is none again at its end, so that nobody ever sees it as one.

    Raises:
        RestoreError: if the server refuses.
    """
    with translated_errors(f"Handing over {connection.info.dbname}", RestoreError):
        for kind, identity, owner in connection.execute(_OURS).fetchall():
            saved = objects.get((kind, identity), {}).get("owner")
            wanted = terms.owner(saved) if saved else owner
            if wanted != owner:
                with connection.transaction(), _as_superuser(connection, wanted, set_roles):
                    connection.execute(owned_by(kind, identity, wanted))


@contextmanager
def _as_superuser(connection: Connection, role: str, set_roles: Mapping[str, Facts]) -> Iterator[None]:
    query = "SELECT FROM pg_roles WHERE rolname = %s AND NOT rolsuper"
    raised = set_roles.get(role, {}).get("superuser") and connection.execute(query, [role]).fetchone() is not None
    if raised:
        connection.execute(SQL("ALTER ROLE {} SUPERUSER").format(Identifier(role)))
    yield
    if raised:
        connection.execute(SQL("ALTER ROLE {} NOSUPERUSER").format(Identifier(role)))
