"""Exchanging live relations for others of the same names, in one transaction, with all that uses them pointing to the new ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from psycopg import errors
from psycopg.sql import SQL, Identifier

from recovery.common.errors import RestoreError, SourceUnreachable
from recovery.common.wording import ROLLS_BACK, shortened
from recovery.packs.content_diff import Difference, compare
from recovery.sources.postgres.accounts.server_globals import grantee_name
from recovery.sources.postgres.blockers import CREATE_AGAIN
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.compare import alike, rows_of
from recovery.sources.postgres.tables.contents import objects, relations, routines
from recovery.sources.postgres.tables.dependents import Relation, Uses, relations_in, subscribed, uses
from recovery.sources.postgres.targets import Objects

log = logging.getLogger(__name__)

LOCK_TIMEOUT = "20s"
"""How long a swap waits for a lock that others hold."""
_ASIDE = re.compile("__(?:before|replaced)_([0-9a-f]{8})$")
_HOLDERS = """SELECT coalesce(quote_ident(a.usename), 'a prepared transaction'), coalesce(a.application_name, ''), l.pid,
      coalesce(a.state, ''), l.relation::regclass::text
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.granted AND l.relation::regclass::text = ANY (%s)
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.pid IS DISTINCT FROM pg_backend_pid()
    ORDER BY l.pid, 5"""


def aside(schema: str, kind: str, restore_id: str) -> str:
    """The schema that relations are set aside in: of ``kind`` before, or replaced."""
    return f"{schema}__{kind}_{restore_id}"


def aside_schemas(connection: Connection, kind: str, restore_id: str) -> dict[str, str]:
    """The schemas that a restore set relations aside in, and where these came from.

    Schemas of others are left out, who know the restore's id once there is one: they would say that the swap is done.
    """
    ending = f"__{kind}_{restore_id}"
    query = """SELECT nspname FROM pg_namespace JOIN pg_roles o ON o.oid = nspowner
        WHERE right(nspname, %s) = %s AND (o.rolsuper OR o.rolname = current_user) ORDER BY 1"""
    rows = connection.execute(query, [len(ending), ending])
    return {name: name.removesuffix(ending) for (name,) in rows.fetchall()}


def all_aside(connection: Connection) -> set[str]:
    """Ids of all restores that set relations of this database aside."""
    rows = connection.execute("SELECT nspname FROM pg_namespace").fetchall()
    return {match[1] for (name,) in rows if (match := _ASIDE.search(name))}


@contextmanager
def at_once(server: Server, connection: Connection, doing: str) -> Iterator[list[str]]:
    """One transaction that waits for locks no longer than :data:`LOCK_TIMEOUT`.

    Args:
        server: to ask who holds a lock.
        connection: to the database.
        doing: in words.

    Yields:
        A list for the names of relations that are locked.

    Raises:
        RestoreError: if the server refuses; nothing was changed then.
    """
    waiting_for: list[str] = []
    try:
        with translated_errors(doing, RestoreError), connection.transaction():
            limit_waiting(connection)
            yield waiting_for
    except SourceUnreachable as error:
        if not isinstance(error.__cause__, (errors.LockNotAvailable, errors.DeadlockDetected)):
            raise
        with server.connect(connection.info.dbname) as other:
            rows = other.execute(_HOLDERS, [waiting_for]).fetchall()
        found: dict[str, list[str]] = {}
        for user, application, pid, state, name in rows:
            found.setdefault(f"{user} ({application or 'no name'}, process {pid}, {state or 'waiting'})", []).append(name)
        holders = "; ".join(f"{who} holds {', '.join(dict.fromkeys(names))}" for who, names in found.items())
        raise RestoreError(
            f"{doing}: sessions hold locks for longer than {LOCK_TIMEOUT}: {holders or 'they are gone by now'}. Nothing was changed.",
            f"End what they do (pg_terminate_backend). {ROLLS_BACK}",
            retryable=True,
        ) from error


def limit_waiting(connection: Connection) -> None:
    """Wait for locks for some time only, in this transaction."""
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])


def found_uses(connection: Connection, out: Sequence[Relation], returning: Collection[str]) -> Uses:
    """As :func:`recovery.sources.postgres.tables.dependents.uses`.

    Raises:
        RestoreError: if something uses or feeds them that can't be pointed to others.
    """
    if feeding := [f"the {subscription} would stay with the replaced {fed}" for subscription, fed in subscribed(connection, out)]:
        raise RestoreError(f"Not restored: {'; '.join(feeding)}.", CREATE_AGAIN)
    found = uses(connection, out, returning)
    if found.refused:
        raise RestoreError(
            f"Tables can't be swapped, since this would be left with those that leave: {shortened(found.refused, between='; ')}.",
            "Drop it before and create it again afterwards, restore it too, or restore the whole database.",
        )
    return found


def locked(
    connection: Connection, find: Callable[[], list[Relation]], returning: Collection[str], waiting_for: list[str]
) -> tuple[list[Relation], Uses]:
    """Keep everybody from relations that leave, and from tables that foreign keys link with them.

    Args:
        connection: in a transaction of :func:`at_once`.
        find: finds the relations.
        returning: names that there are again afterwards.
        waiting_for: gets the names of what is locked, before it is.

    Raises:
        RestoreError: if something uses or feeds them that can't be pointed to others, or others changed it meanwhile.
    """
    out = find()
    linked = found_uses(connection, out, returning)
    waiting_for += [*(relation.qualified for relation in out), *linked.related, *linked.views]
    tables = [SQL("ONLY {}").format(relation.identifier) for relation in out if relation.kind in "rp"]
    tables += [SQL("ONLY {}").format(SQL(name)) for name in linked.related]
    for view in linked.views:  # so that it stays what it is from the check of its constants until it is made anew
        connection.execute(SQL("ALTER VIEW {} OWNER TO {}").format(SQL(view), Identifier(_owner(connection, view))))
    for function in linked.functions:
        function.hold(connection)
    if tables:
        connection.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(SQL(", ").join(tables)))
    if [each.oid for each in find()] != [each.oid for each in out] or found_uses(connection, out, returning) != linked:
        raise RestoreError(
            "Others changed the tables, or what uses them, while these were locked.",
            f"Stop what changes them. {ROLLS_BACK}",
            retryable=True,
        )
    return out, linked


def _owner(connection: Connection, view: str) -> str:
    row = connection.execute("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = %s::regclass", [view]).fetchone()
    assert row is not None
    return str(row[0])


def set_aside(connection: Connection, out: Sequence[Relation], linked: Uses, kind: str, restore_id: str, schemas: Collection[str]) -> None:
    """Move relations to schemas of their own, without what links them with what stays."""
    for key in (*linked.incoming, *linked.outgoing):
        connection.execute(key.dropped())
    for function in linked.functions:
        function.drop(connection)
    for schema in sorted({*schemas, *(relation.schema for relation in out)}):
        create_closed_schema(connection, aside(schema, kind, restore_id))
    move(connection, out, lambda schema: aside(schema, kind, restore_id))


def create_closed_schema(connection: Connection, name: str) -> None:
    """Create a schema that nobody else can use but superusers, whatever ALTER DEFAULT PRIVILEGES gives others."""
    connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(name)))
    query = """SELECT DISTINCT r.rolname FROM pg_namespace CROSS JOIN aclexplode(nspacl) LEFT JOIN pg_roles r ON r.oid = grantee
        WHERE nspname = %s AND grantee <> nspowner"""
    for (grantee,) in connection.execute(query, [name]).fetchall():
        connection.execute(SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(Identifier(name), grantee_name(grantee)))


def move(connection: Connection, moved: Sequence[Relation], to: Callable[[str], str]) -> None:
    """Give relations other schemas, with their indexes, constraints, sequences and statistics."""
    own = {relation.qualified for relation in moved}
    statistics = """SELECT s.stxname, n.nspname, t.nspname FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
        JOIN pg_class c ON c.oid = s.stxrelid JOIN pg_namespace t ON t.oid = c.relnamespace WHERE s.stxrelid = ANY (%s)"""
    for name, schema, of in connection.execute(statistics, [[relation.oid for relation in moved]]).fetchall():
        connection.execute(SQL("ALTER STATISTICS {} SET SCHEMA {}").format(Identifier(schema, name), Identifier(to(of))))
    for relation in moved:
        if relation.owner not in own:  # a sequence of a column goes with its table
            connection.execute(SQL("ALTER TABLE {} SET SCHEMA {}").format(relation.identifier, Identifier(to(relation.schema))))


def point(connection: Connection, linked: Uses) -> None:
    """Point the views and functions of what stays to what has the names now."""
    _point_views(connection, linked)
    for function in linked.functions:
        function.make(connection)


def _point_views(connection: Connection, linked: Uses) -> None:
    for view in linked.views.values():
        connection.execute(view)


def as_pointed(connection: Connection, linked: Uses, unchanged: Objects) -> Objects:
    """What is not to change, with those views as the server shows them once they are made anew: maybe in another text."""
    with connection.transaction(force_rollback=True):
        _point_views(connection, linked)
        query = "SELECT name, pg_get_viewdef(name::regclass) FROM unnest(%s::text[]) name"
        shown: dict[str, str] = dict(connection.execute(query, [list(linked.views)]).fetchall())
    return unchanged | {
        ("view", name): unchanged["view", name] | {"definition": text} for name, text in shown.items() if ("view", name) in unchanged
    }


def drop_schemas(connection: Connection, schemas: Mapping[str, str]) -> None:
    """Drop schemas that hold what was set aside, if nothing else is lost with them.

    Raises:
        RestoreError: if something else uses what they hold; nothing was dropped then.
    """
    if not schemas:
        return
    names = SQL(", ").join(map(Identifier, schemas))
    with translated_errors(f"Dropping {', '.join(schemas)}", RestoreError), connection.transaction():
        before = objects(connection)
        connection.execute(SQL("DROP SCHEMA {} CASCADE").format(names))
        if lost := compare(rows_of(before), rows_of(objects(connection))):
            raise RestoreError(
                f"Dropping {', '.join(schemas)} would take more with it: {'; '.join(map(str, lost))}.",
                "Drop or change these first, then try again.",
            )
    log.info("dropped: %s", ", ".join(schemas))


def beside(connection: Connection, linked: Uses) -> Objects:
    """What a swap touches and leaves where it is: the tables at the other end of foreign keys, views, and functions."""
    return relations(connection, [*linked.related, *linked.views]) | routines(connection, [each.signature for each in linked.functions])


def left_behind(connection: Connection, kind: str, restore_id: str) -> list[Difference]:
    """What uses relations that were set aside: others made it while these were exchanged, as what only names their types."""
    gone = relations_in(connection, list(aside_schemas(connection, kind, restore_id)))
    return [Difference("use", each, "was made meanwhile") for each in uses(connection, gone, ()).refused]


def changed(before: Objects, after: Objects) -> list[Difference]:
    """What became of what was not to change."""
    expected, found = alike(before, after)
    differences = compare(rows_of(expected), rows_of(found))
    return [
        Difference(each.kind, each.name, each.what.replace("the set has", "it had").replace("in the set", "before")) for each in differences
    ]
