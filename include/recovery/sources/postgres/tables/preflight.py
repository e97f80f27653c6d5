"""What a restore of single schemas and tables would replace, and what would fail later; nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from recovery.common.errors import RestoreError
from recovery.common.units import human_size
from recovery.common.wording import counted, shortened
from recovery.sources.base import RestoreView
from recovery.sources.model import Finding, fact, refusal, warning
from recovery.sources.postgres.blockers import CREATE_AGAIN
from recovery.sources.postgres.client import EVENT_TRIGGERS_OFF_SINCE, Connection, Server, translated_errors
from recovery.sources.postgres.databases.inheritance import shared_tables
from recovery.sources.postgres.definitions.names import QUALIFIED, last_name, parent_of, quoted_name, quoted_names, raw, split
from recovery.sources.postgres.selection import Part, quoted
from recovery.sources.postgres.tables import beside
from recovery.sources.postgres.tables.contents import RELATIONS, Chosen
from recovery.sources.postgres.tables.dependents import Relation, leaving, published, subscribed, taken, uses
from recovery.sources.postgres.tables.swap import aside
from recovery.sources.postgres.targets import LEFT_OUT, NAME_BYTES, UNTRIED

_STAYING = {"function", "procedure", "aggregate", "type", "enum", "domain", "operator", "collation"}
"""Kinds of things in a schema that are left as they are."""
_GRANTED_BY_ADMINS = 16_00_00
"""Before, a role that may create roles can give anybody the rights of any but a superuser."""


def needed_bytes(part: Chosen) -> int:
    """Room at the server: the rows with their indexes, about twice their text."""
    return 2 * part.bytes


def unpacked_bytes(part: Chosen) -> int:
    """Room in staging for the rows while they are staged."""
    return int(part.bytes * 1.05) + (64 << 20)


def findings(server: Server, restore: RestoreView, parts: Sequence[Chosen]) -> list[Finding]:
    """What speaks for and against restoring the parts.

    Args:
        server: the target.
        restore: what is to be restored.
        parts: of databases that the set has.
    """
    found: list[Finding] = []
    there = server.databases()
    for part in parts:
        if restore.in_place:
            found.append(refusal("Single tables are not restored in place: beside the live ones they need no copy of the database."))
        refusals = [*_left_out(restore, part), *_of_set(part), *_names(part), *_roles(server, part)]
        found += refusals
        if part.target.name not in there:
            found.append(refusal(f"Database {part.target.name} is not there. Restore it as a whole, or create it first."))
        elif not refusals:
            with server.connect(part.target.name) as live, translated_errors(f"Looking into {part.target.name}", RestoreError):
                found += _beside(live, part) if restore.beside else _live(live, part)
                found += _event_triggers(server, live)
                found += _rights_on_live(live, part) if not server.about.superuser and not restore.beside else ()
                found += _rights(live, part) if not server.about.superuser else ()
    return found


def _left_out(restore: RestoreView, part: Chosen) -> Iterator[Finding]:
    """What was asked for, or lies in a schema that was, and the plan left out of the backup on purpose."""
    for _, name, facts in restore.rows(part.target.artifact, LEFT_OUT):
        schema, *table = (raw(name),) if facts["what"] == "schema" else split(name)
        if name in part.names or any(one.schema == schema and (not table or one.table in {None, *table}) for one in part.parts):
            what = f"the rows of {name}" if facts["what"] == "rows" else f"{facts['what']} {name}"
            yield refusal(
                f"The set has not {what} of database {part.target.saved}: the plan's {facts['by']} left it out of the backup."
                " Choose other tables, by their names."
            )


def _of_set(part: Chosen) -> Iterator[Finding]:
    """Whether the set has what was asked for, and it can be restored without something else."""
    database = part.target.saved
    for missing in part.missing():
        if missing.table is None:
            schemas = sorted(quoted(raw(name)) for kind, name in part.all if kind == "schema")
            yield refusal(f"Database {database} of the set has no schema {missing}. It has {shortened(schemas)}.")
        else:
            near = [str(one) for one in sorted(Part(*split(name)) for name in _all_tables(part)) if one.schema == missing.schema]
            has = f"Its schema has {shortened(near)}." if near else "It has no such schema, or nothing in it."
            yield refusal(f"Database {database} of the set has no table {missing}. {has}")
    for name, parent in part.orphans():
        yield refusal(f"{name} is a part of {parent} and can't be restored alone. Choose {parent}.")
    if ("extension", UNTRIED) in part.all:
        yield refusal(f"Database {database} has the extension {UNTRIED}. Nobody has tried to restore its tables with this project.")
    for (kind, name), facts in part.objects.items():
        if kind == "statistics" and split(name)[0] != split(last_name(facts["definition"]))[0]:
            yield refusal(
                f"The statistics {name} lie in another schema than {last_name(facts['definition'])}, and would not come back there."
                f" Restore the whole database {database}."
            )
    for name in shared_tables(part.objects):
        yield refusal(
            f"{name} is a partition or child of another owner's table. Single tables are loaded with the rights of one owner each."
            f" Restore the whole database {database}."
        )


def _all_tables(part: Chosen) -> list[str]:
    return [name for (kind, name) in part.all if kind in {"table", "view", "materialized view", "sequence"}]


def _names(part: Chosen) -> Iterator[Finding]:
    names = [part.target.stage, *(aside(schema, "replaced", part.target.restore_id) for schema in part.schemas)]
    names += [beside.schema_of(part, schema) for schema in part.schemas]
    for name in names:
        if len(name.encode()) > NAME_BYTES:
            yield refusal(f"A name is too long: {name} would have {len(name.encode())} bytes, PostgreSQL keeps {NAME_BYTES}.")


def _roles(server: Server, part: Chosen) -> Iterator[Finding]:
    """The roles that the parts name must be there; none is created for single tables."""
    named: set[str] = set()
    for (kind, _), facts in part.objects.items():
        named |= {facts["owner"]} if facts.get("owner") else set()
        columns = facts["columns"].values() if isinstance(facts.get("columns"), dict) else ()
        for one in (facts, *columns):
            named |= {grantee for grantee, *_ in one.get("acl") or () if grantee}
        if kind == "policy":
            named |= set(filter(None, facts["roles"] or ()))
    with server.maintenance() as connection, translated_errors("Reading the roles", RestoreError):
        known = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    for name in sorted(named - known):
        yield refusal(
            f"Role {quoted_name(name)} owns tables of {part.target.saved} or has rights on them, and the server lacks it. Create it first."
        )


def _live(live: Connection, part: Chosen) -> Iterator[Finding]:
    database = part.target.name
    out = leaving(live, part)
    yield from _schemas(live, part)
    yield from _replaced(part, out)
    linked = uses(live, out, part.names)
    for what in linked.refused:
        yield refusal(
            f"In {database}, {what}, and can't be led to the restored one. Drop it before and create it again afterwards,"
            " restore it too, or restore the whole database."
        )
    for name in published(live, part.schemas):
        yield refusal(
            f"The publication {name} of {database} would send all restored rows to its subscribers, who have them already."
            " Drop it, and create it and its subscriptions again afterwards."
        )
    for subscription, fed in subscribed(live, out):
        yield refusal(f"The {subscription} of {database} would stay with the replaced {fed}. {CREATE_AGAIN}")
    wanted = {*part.names, *(name for kind, name in part.objects if kind == "index")}
    for name, what in taken(live, out, wanted):
        yield refusal(f"In {database} the name {name}, which the restored tables need, is that of {what}, which stays. Rename it first.")
    query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
    for (gid,) in live.execute(query).fetchall():
        yield refusal(f"The prepared transaction {gid!r} in {database} may block the swap. COMMIT PREPARED or ROLLBACK PREPARED it.")
    if linked.related:
        yield fact(f"Foreign keys link these with {shortened(list(linked.related))} in {database}; the verification checks that they hold.")
    if linked.views:
        yield fact(f"{counted(len(linked.views), 'view')} of {database} will show the restored tables.")
    if linked.functions:
        made = shortened([function.signature for function in linked.functions])
        yield fact(f"In {database} these functions, which take or give rows of the tables, are made anew with the same text: {made}.")


def _beside(live: Connection, part: Chosen) -> Iterator[Finding]:
    """What becomes of tables that stay beside the live ones, which play no part."""
    database, schemas = part.target.name, quoted_names(beside.schema_of(part, schema) for schema in sorted(part.schemas))
    for schema in beside.taken(live, part):
        yield refusal(f"Database {database} has a schema {schema} already. Drop or rename it first.")
    for name in published(live, ()):
        yield refusal(
            f"The publication {name} of {database} would send all restored rows to its subscribers, who have no such tables."
            " Restore into another target."
        )
    names = shortened(sorted(part.names)) or "none, since the set has none there"
    yield fact(f"These come into schema {schemas} of {database}, beside the live ones: {names}.")
    if views := [f"{view} ({', '.join(shown)})" for view, shown in _shown(part)]:
        yield warning(f"These views will show what is live, since the tables that they show are not restored: {shortened(views)}.")
    if left_out := [f"{name} to {parent_of(facts['definition'])}" for (_, name), facts in part.crossing.items()]:
        yield fact(f"Foreign keys to tables that are not restored are left out: {shortened(left_out)}.")


def _shown(part: Chosen) -> Iterator[tuple[str, list[str]]]:
    """Views whose definitions name relations that are not restored, and which."""
    others = {name for kind, name in part.all if kind in RELATIONS} - part.names
    for (kind, name), facts in part.objects.items():
        if kind in {"view", "materialized view"}:
            named = set(re.findall(rf"(?<![\w.]){QUALIFIED}", facts["definition"]))
            if shown := sorted(named & others):
                yield name, shown


def _event_triggers(server: Server, live: Connection) -> Iterator[Finding]:
    """Event triggers run in what a restore makes and moves: as the roles that load, and some of them as ourselves."""
    database, major = live.info.dbname, server.about.major
    query = """SELECT quote_ident(evtname), quote_ident(r.rolname), r.rolsuper OR r.rolname = current_user, evtenabled::text
        FROM pg_event_trigger JOIN pg_proc p ON p.oid = evtfoid JOIN pg_roles r ON r.oid = proowner
        WHERE evtenabled <> 'D' AND evtevent <> 'login' ORDER BY 1"""
    as_us = {"A", "O"} if not server.about.superuser else {"A", "R"} if major < EVENT_TRIGGERS_OFF_SINCE else set()
    for name, owner, is_trusted, enabled in live.execute(query).fetchall():
        if enabled in as_us and not is_trusted:
            yield refusal(
                f"The event trigger {name} of {database} would run a function of {owner} with the rights of"
                f" {quoted_name(server.about.user)}. ALTER EVENT TRIGGER {name} DISABLE until the restore has ended."
            )
        elif enabled in as_us | {"A", "O"}:
            yield warning(
                f"The event trigger {name} of {database} runs whenever the restore makes or moves something there. If it writes or"
                f" refuses, ALTER EVENT TRIGGER {name} DISABLE until the restore has ended."
            )


def _replaced(part: Chosen, out: Sequence[Relation]) -> Iterator[Finding]:
    database, restore_id = part.target.name, part.target.restore_id
    live = {relation.qualified: relation for relation in out}
    if both := [f"{name} ({human_size(live[name].bytes)})" for name in sorted(live.keys() & part.names)]:
        yield fact(f"In {database} these are replaced and kept in schemas {aside('...', 'before', restore_id)}: {shortened(both)}.")
    if new := sorted(part.names - live.keys()):
        yield fact(f"{database} lacks {shortened(new)}; created.")
    if extra := sorted(live.keys() - part.names):
        yield warning(f"The set does not have {shortened(extra)} of {database}; set aside with the others.")


def _schemas(live: Connection, part: Chosen) -> Iterator[Finding]:
    """Schemas that are created, and what they held besides tables."""
    there = {name for (name,) in live.execute("SELECT nspname FROM pg_namespace").fetchall()}
    for schema in [name for kind, name in part.all if kind == "schema"]:
        if raw(schema) in part.schemas - there:
            others = [f"{kind} {other}" for kind, other in part.all if kind in _STAYING and other.startswith(f"{schema}.")]
            lost = f" What else it had is not restored: {shortened(others)}. What needs these can't be restored without." if others else ""
            yield Finding("warning" if others else "fact", f"{part.target.name} lacks schema {schema}; created.{lost}")


def _rights(live: Connection, part: Chosen) -> Iterator[Finding]:
    """What a user that is no superuser needs."""
    row = live.execute(
        "SELECT rolname, rolcreatedb, rolcreaterole, has_database_privilege(current_database(), 'CREATE')"
        " FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    assert row is not None
    user, may_create, may_create_roles, may_make_schemas = row
    me = quoted_name(user)
    if not may_create:
        yield refusal(f"User {me} may not create databases. ALTER ROLE {me} CREATEDB, or restore as a superuser.")
    if not may_create_roles:
        yield refusal(
            f"User {me} may not create the roles that load tables, each with the rights of one owner. ALTER ROLE {me} CREATEROLE, or"
            " restore as a superuser."
        )
    if not may_make_schemas:
        yield refusal(f"User {me} may not create schemas in {part.target.name}. GRANT CREATE ON DATABASE, or restore as a superuser.")
    query = """SELECT rolname, rolsuper, pg_has_role(oid, 'USAGE'), pg_has_role(oid, 'MEMBER WITH ADMIN OPTION')
        FROM pg_roles WHERE rolname = ANY (%s) AND rolname <> current_user ORDER BY 1"""
    for name, is_superuser, is_member, may_grant in live.execute(query, [sorted(part.owners)]).fetchall():
        owner = quoted_name(name)
        if is_superuser:
            yield refusal(f"{owner}, who owns what is restored, is a superuser. Restore as a superuser.")
        elif not is_member:
            yield refusal(f"User {me} is not a member of {owner}, who owns what is restored. GRANT {owner} TO {me} WITH ADMIN OPTION.")
        elif not may_grant and live.info.server_version >= _GRANTED_BY_ADMINS:
            yield refusal(
                f"User {me} may not give the rights of {owner}, who owns what is restored, to the role that loads it."
                f" GRANT {owner} TO {me} WITH ADMIN OPTION."
            )


def _rights_on_live(live: Connection, part: Chosen) -> Iterator[Finding]:
    """What the swap changes, it may change; and put the tables where they belong."""
    me = quoted_name(live.info.user)
    out = leaving(live, part)
    linked = uses(live, out, part.names)
    names = [split(name) for name in (*(relation.qualified for relation in out), *linked.related, *linked.views)]
    query = """SELECT name, pg_get_userbyid(owner) FROM (
        SELECT c.oid::regclass::text, c.relowner FROM unnest(%s::text[], %s::text[]) w (schema, name)
          JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
        UNION ALL SELECT p.oid::regprocedure::text, p.proowner FROM pg_proc p WHERE p.oid = ANY (%s)
        ) o (name, owner) WHERE NOT pg_has_role(owner, 'USAGE') ORDER BY 1"""
    functions = [function.oid for function in linked.functions]
    changed = live.execute(query, [[schema for schema, _ in names], [name for _, name in names], functions]).fetchall()
    for name, owner in changed:
        owner = quoted_name(owner)
        yield refusal(f"User {me} may not change {name}, as the swap does, since it belongs to {owner}. GRANT {owner} TO {me}.")
    makers = {(split(name)[0], str(facts["owner"])) for (kind, name), facts in part.objects.items() if kind in RELATIONS}
    makers |= {(raw(function.schema), role) for function in linked.functions for role in (function.owner, live.info.user)}
    makers |= {(schema, live.info.user) for schema in part.schemas}
    query = """SELECT w.role, w.schema FROM unnest(%s::text[], %s::text[]) w (schema, role) JOIN pg_namespace n ON n.nspname = w.schema
        JOIN pg_roles r ON r.rolname = w.role WHERE NOT has_schema_privilege(r.oid, n.oid, 'CREATE') ORDER BY 1, 2"""
    for role, schema in live.execute(query, [[schema for schema, _ in makers], [role for _, role in makers]]).fetchall():
        role, schema = quoted_name(role), quoted_name(schema)
        yield refusal(f"{role} may not make anything in schema {schema} of {part.target.name}. GRANT CREATE ON SCHEMA {schema} TO {role}.")
