"""Restoring single schemas and tables into a live database, while everything else in it stays as it is.

They are made, loaded and verified in schemas ``<schema>__stage_<id>`` of the live database. The swap is one transaction
there: the live tables go to schemas ``<schema>__before_<id>``, the staged ones get their names, and what uses them is
pointed to these. Whether a database is swapped is said by these schemas. The rollback is the same exchange, and leaves
the restored tables in ``<schema>__replaced_<id>``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

from psycopg import errors
from psycopg.sql import SQL, Identifier

from recovery.common.errors import RestoreError, VerificationError
from recovery.common.units import human_size
from recovery.common.wording import shortened
from recovery.packs.content_diff import Change, Difference
from recovery.plan.location import Location
from recovery.sources.base import RestoreView
from recovery.sources.postgres import exceptions
from recovery.sources.postgres.accounts import loaders
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.compare import alike, changes_within, to_be_read
from recovery.sources.postgres.databases.custody import undisturbed
from recovery.sources.postgres.databases.stage import drop
from recovery.sources.postgres.definitions.reading import kept
from recovery.sources.postgres.dump.pg_dump import SET_ASIDE
from recovery.sources.postgres.dump.table_reader import table_texts
from recovery.sources.postgres.exceptions import Unmade
from recovery.sources.postgres.locations import location_of
from recovery.sources.postgres.tables import beside, create, keys, late_checks, rehearsal, staged, swap
from recovery.sources.postgres.tables import stage as tables_stage
from recovery.sources.postgres.tables.contents import Chosen, relations
from recovery.sources.postgres.tables.dependents import ForeignKey, Uses, leaving, relations_in
from recovery.sources.postgres.targets import Objects

log = logging.getLogger(__name__)

_SWAP = "switch tables"
"""Journal step; facts ``database``, its ``name`` there, ``foreign_keys`` that the rollback makes again, ``schemas`` that were created."""
_BACK = "switch back tables"
_PENDING = "foreign keys to validate"
"""Said before each exchange is committed; facts ``database``, ``foreign_keys`` that are NOT VALID until they are validated."""


@dataclass(frozen=True)
class _Done:
    """What an exchange did."""

    linked: Uses
    schemas: list[str]
    """Those that were created."""
    pending: list[ForeignKey]
    """Those that are to be validated once it is committed."""


def stage(server: Server, jobs: int, restore: RestoreView, parts: Sequence[Chosen]) -> None:
    """Restore the parts beside the live databases."""
    for part in parts if restore.beside else ():
        beside.refuse_taken(server, part)
    for part in parts:
        tables_stage.stage(server, jobs, restore, part)


def verify_staged(server: Server, jobs: int, restore: RestoreView, parts: Sequence[Chosen]) -> list[Difference]:
    """Compare what was staged with the set; unless it stays there, rehearse the swap, and check the foreign keys to and from the rest.

    Raises:
        RestoreError: if the swap would fail.
    """
    differences = []
    for part in parts:
        if restore.beside and beside.is_left(server, part):
            continue
        if found := staged.verify(server, jobs, part, kept(restore, part.target.saved), exceptions.kept(restore, part.target.saved)):
            differences += found
            continue
        if restore.beside:
            continue
        crossing = rehearsal.rehearse(server, jobs, restore, part, partial(_rehearsed, restore, part))
        differences += keys.not_holding(server, part, crossing)
        log.info("%s: %d relations are verified and can be swapped", part.target.name, len(part.names))
    return differences


def _as_begun(restore: RestoreView, parts: Sequence[Chosen]) -> list[Chosen]:
    """The parts by the names that their databases had when these were swapped, whatever the plan calls them now."""
    names = {facts["database"]: str(facts["name"]) for facts in restore.recorded_facts(_SWAP)}
    return [replace(part, target=replace(part.target, name=names.get(part.target.saved, part.target.name))) for part in parts]


def _rehearsed(restore: RestoreView, part: Chosen, copy: Connection, unmade: Sequence[Unmade]) -> list[ForeignKey]:
    return _put_in_place(copy, restore, part, [], rehearsed_without=unmade).pending


def swap_tables(server: Server, restore: RestoreView, parts: Sequence[Chosen]) -> None:
    """Put the staged tables in the place of the live ones, each database in one transaction. Done again, it resumes."""
    for part in parts:
        with server.connect(part.target.name) as live:
            if _is_swapped(live, restore):
                log.info("the tables of %s are swapped already", part.target.name)
            else:
                _swap_database(server, live, restore, part)
            keys.validate(server, part, _pending(restore, part))
            late_checks.validate(server, restore, part)
            staged.drop_roles(live, part)


def _swap_database(server: Server, live: Connection, restore: RestoreView, part: Chosen) -> None:
    staged.refuse_unstaged(live, part)
    with swap.at_once(server, live, f"Swapping the tables of {part.target.name}") as waiting:
        done = _put_in_place(live, restore, part, waiting)
        outgoing = [asdict(key) for key in done.linked.outgoing]
        _record_pending(restore, part, done.pending)
        restore.record(_SWAP, database=part.target.saved, name=part.target.name, foreign_keys=outgoing, schemas=done.schemas)
    log.info("swapped: %d relations of %s", len(part.names), part.target.name)


def _record_pending(restore: RestoreView, part: Chosen, pending: Sequence[ForeignKey]) -> None:
    restore.record(_PENDING, database=part.target.saved, foreign_keys=[asdict(key) for key in pending])


def _pending(restore: RestoreView, part: Chosen) -> list[ForeignKey]:
    """The foreign keys that the last exchange left NOT VALID."""
    facts = [facts for facts in restore.recorded_facts(_PENDING) if facts["database"] == part.target.saved]
    return [ForeignKey(**key) for key in cast("list[dict[str, Any]]", facts[-1]["foreign_keys"])] if facts else []


def _is_swapped(live: Connection, restore: RestoreView) -> bool:
    return bool(swap.aside_schemas(live, "before", restore.id))


def _put_in_place(
    live: Connection, restore: RestoreView, part: Chosen, waiting_for: list[str], *, rehearsed_without: Sequence[Unmade] | None = None
) -> _Done:
    """Exchange the live relations for the staged ones, in the transaction that is open.

    The rows are compared again, since only now nobody else can write to them: a function that ran while they were loaded
    may have left a way.

    Args:
        live: to the database, or to its copy in a rehearsal.
        restore: the restore.
        part: what was asked for.
        waiting_for: see :func:`recovery.sources.postgres.tables.swap.locked`.
        rehearsed_without: for a rehearsal, which has no rows: what its copy lacks besides.

    Raises:
        VerificationError: if what is there then is not equal to the set, or what is beside it has changed.
    """
    out, linked = swap.locked(live, partial(leaving, live, part), part.names, waiting_for)
    unchanged = swap.as_pointed(live, linked, swap.beside(live, linked))
    differences = staged.left_by_load(live, part)
    schemas = create.create_schemas(live, part)
    swap.set_aside(live, out, linked, "before", restore.id, part.schemas)
    staged.move_in(live, part)
    create.hand_over(live, part)
    swap.point(live, linked)
    pending = [key for key in (*keys.outgoing(part), *linked.incoming) if keys.make(live, key)]
    texts = create.contents(live, part) if rehearsed_without is None else None
    unmade = [*exceptions.kept(restore, part.target.saved), *(rehearsed_without or ())]
    differences += create.verified(live, part, texts, pending, kept(restore, part.target.saved), unmade)
    differences += swap.changed(unchanged, keys.as_validated(swap.beside(live, linked), pending))
    differences += swap.left_behind(live, "before", restore.id)
    if differences:
        words = shortened(differences, between="; ")
        raise VerificationError(
            f"The tables of {part.target.name} would not be the set's, or something else would change: {words}.",
            "Nothing was changed. Try again if others changed it meanwhile; else restore what is named, too, or the whole database.",
        )
    return _Done(linked, schemas, pending)


# The rollback -----------------------------------------------------------------------------------------------------------


def roll_back(server: Server, restore: RestoreView, parts: Sequence[Chosen]) -> None:
    """Put the tables back as they were, each database in one transaction; the restored ones are set aside."""
    for part in reversed(_as_begun(restore, parts)):
        with server.connect(part.target.name) as live:
            if not _is_swapped(live, restore):
                log.info("the tables of %s are those of before", part.target.name)
            else:
                restore.record(_BACK, database=part.target.saved)
                with swap.at_once(server, live, f"Swapping the tables of {part.target.name} back") as waiting:
                    _record_pending(restore, part, _take_back(live, restore, part, waiting))
                log.info("rolled back: the tables of %s", part.target.name)
            if any(facts["database"] == part.target.saved for facts in restore.recorded_facts(_BACK)):
                keys.validate(server, part, _pending(restore, part), forgiving=True)


def _take_back(live: Connection, restore: RestoreView, part: Chosen, waiting_for: list[str]) -> list[ForeignKey]:
    facts = next(facts for facts in reversed(restore.recorded_facts(_SWAP)) if facts["database"] == part.target.saved)
    came_from = swap.aside_schemas(live, "before", restore.id)
    coming = relations_in(live, list(came_from))
    returning = _quoted(live, [(came_from[each.schema], each.name) for each in coming])
    out, linked = swap.locked(live, partial(leaving, live, part), returning, waiting_for)
    unchanged = swap.as_pointed(live, linked, swap.beside(live, linked))
    swap.set_aside(live, out, linked, "replaced", restore.id, part.schemas)
    swap.move(live, coming, came_from.__getitem__)
    swap.point(live, linked)
    outgoing = [ForeignKey(**key) for key in cast("list[dict[str, Any]]", facts["foreign_keys"])]
    incoming = keys.as_meant(linked.incoming, _pending(restore, part))
    pending = [key for key in (*outgoing, *incoming) if keys.make(live, key, forgiving=True)]
    live.execute(SQL("DROP SCHEMA {}").format(SQL(", ").join(map(Identifier, came_from))))
    _drop_created(live, cast("list[str]", facts["schemas"]))
    unchanged = keys.as_validated(unchanged, incoming)
    for difference in swap.changed(unchanged, keys.as_validated(swap.beside(live, linked), pending)):
        log.warning("the rollback changed %s", difference)
    for difference in swap.left_behind(live, "replaced", restore.id):
        log.warning("%s: it stays with the restored tables that were set aside", difference)
    return pending


def _quoted(connection: Connection, names: Sequence[tuple[str, str]]) -> set[str]:
    """Names as the catalogs quote them."""
    query = "SELECT format('%%I.%%I', s, n) FROM unnest(%s::text[], %s::text[]) t (s, n)"
    rows = connection.execute(query, [[schema for schema, _ in names], [name for _, name in names]]).fetchall()
    return {name for (name,) in rows}


def _drop_created(live: Connection, schemas: Iterable[str]) -> None:
    for schema in schemas:
        try:
            with live.transaction():
                live.execute(SQL("DROP SCHEMA {}").format(Identifier(schema)))
        except errors.DependentObjectsStillExist:
            log.warning("schema %s, which this restore created, is in use by now and stays", schema)


# The end ----------------------------------------------------------------------------------------------------------------


def finalize(restore: RestoreView, parts: Sequence[Chosen]) -> None:
    """The set-aside tables stay; nothing had to wait."""
    for part in parts:
        log.info("the replaced tables of %s are kept in schemas ...%s", part.target.name, swap.aside("", "before", restore.id))


def discard(server: Server, restore: RestoreView, parts: Sequence[Chosen]) -> None:
    """Drop what was staged, and restored tables that were rolled back; never what is live or was before."""
    there = server.databases()
    for part in _as_begun(restore, parts):
        with undisturbed(server, [part.target.stage]) as connection:
            drop(connection, part.target.stage)
            drop(connection, rehearsal.copy_of(restore))
            if part.target.name not in there:
                loaders.drop(connection, staged.purpose(part))
        if part.target.name in there:
            staged.clear(server, part)
            with server.connect(part.target.name) as live:
                if not _is_swapped(live, restore):
                    swap.drop_schemas(live, swap.aside_schemas(live, "replaced", restore.id))


def replaced_copies(server: Server, named: Collection[str]) -> list[str]:
    """Ids of restores whose set-aside tables are still there.

    Args:
        server: where to look.
        named: databases, by their names there; none for all.
    """
    found = set()
    for database, usable in server.databases().items():
        if usable and not SET_ASIDE.search(database) and (not named or database in named):
            with server.connect(database) as connection, translated_errors(f"Listing the schemas of {database}"):
                found |= swap.all_aside(connection)
    return sorted(found)


def drop_replaced(server: Server, restore: RestoreView, parts: Sequence[Chosen]) -> None:
    """Drop the tables that a restore set aside."""
    there = server.databases()
    for part in _as_begun(restore, parts):
        if part.target.name in there:
            with server.connect(part.target.name) as live:
                for kind in ("before", "replaced"):
                    swap.drop_schemas(live, swap.aside_schemas(live, kind, restore.id))


# What is there ----------------------------------------------------------------------------------------------------------


def locations(server: Server, parts: Sequence[Chosen]) -> set[Location]:
    """The databases that the parts are restored into."""
    return {location_of(server, part.target.name) for part in parts}


def occupied_locations(server: Server, parts: Sequence[Chosen]) -> dict[Location, str]:
    """The live relations that would be replaced, in words with sizes."""
    there = server.databases()
    found = {}
    for part in parts:
        if part.target.name in there:
            with server.connect(part.target.name) as live, translated_errors(f"Looking at {part.target.name}", RestoreError):
                for each in leaving(live, part):
                    words = f"{part.target.name}.{each.qualified}, {human_size(each.bytes)}"
                    found[(*location_of(server, part.target.name), each.qualified)] = words
    return found


def compare(server: Server, jobs: int, parts: Sequence[Chosen]) -> list[Change]:
    """What a restore would change, object by object; a name begins with that of its database in the set."""
    there = server.databases()
    found_changes: list[Change] = []
    for part in parts:
        expected: Objects = dict(part.objects)
        found: Objects = {}
        if part.target.name in there:
            expected, found = alike(expected, _live_objects(server, jobs, part), part.target.major)
        found_changes += changes_within(part.target, expected, found)
    return found_changes


def _live_objects(server: Server, jobs: int, part: Chosen) -> Objects:
    with server.connect(part.target.name) as connection:
        found = relations(connection, {relation.qualified for relation in leaving(connection, part)})
    to_read = dict(to_be_read(found, part.objects))
    for name, facts in table_texts(server, part.target.name, part.target.facts["encoding"], to_read, jobs).items():
        found["table", name] |= facts
    return found
