"""The swap of MongoDB, its rollback, and what waits for acceptance: steps that can each be done again."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pymongo.errors import OperationFailure

from recovery.common.errors import RestoreError
from recovery.common.wording import ROLLS_BACK, shortened
from recovery.packs.content_index import Facts
from recovery.sources.base import RestoreView
from recovery.sources.mongo.accounts import Accounts
from recovery.sources.mongo.catalog import LONGEST_NAME, Namespace, by_uuid, mark, read_database
from recovery.sources.mongo.client import NAMESPACE_NOT_FOUND, Client, listed, rename
from recovery.sources.mongo.extended_json import from_text, to_text
from recovery.sources.mongo.restore import timeseries
from recovery.sources.mongo.restore.load import Target, create_views, drop_marked
from recovery.sources.mongo.restore.swap_plan import Move, SwapPlan, Ttl, View
from recovery.sources.mongo.restore.users import create_accounts, drop_accounts

log = logging.getLogger(__name__)

PLAN = "mongo switch planned"
_NEVER_EXPIRES = 2_147_483_647
"""The longest that a TTL index takes, 68 years. What is older was deleted while the index had a shorter time."""

_INDEX_NOT_FOUND = 27
_GONE = {NAMESPACE_NOT_FOUND, _INDEX_NOT_FOUND}

Places = dict[str, tuple[str, str]]


def recorded_plan(restore: RestoreView) -> SwapPlan | None:
    """The plan that the journal has."""
    plans = restore.recorded_facts(PLAN)
    return SwapPlan.model_validate(plans[-1]["plan"]) if plans else None


def record(restore: RestoreView, plan: SwapPlan) -> None:
    """Journal a plan; only then may anything be changed."""
    restore.record(PLAN, plan=plan.model_dump(mode="json"))
    log.info(
        "%d collections change names, %d and %d time series change places", len(plan.moves), len(plan.series_before), len(plan.series_after)
    )


def forward(
    target: Target, restore: RestoreView, plan: SwapPlan, staged_files: Path, expected: Mapping[str, Facts], accounts: Accounts
) -> None:
    """Carry a plan out, from wherever it stands.

    Args:
        target: the server.
        restore: the restore that the names are marked with.
        plan: as it was journalled.
        staged_files: dump with the files of the set's time series.
        expected: facts of the set's time series, by ``<database>.<name>``.
        accounts: the set's users and roles.

    Raises:
        RestoreError: if something else took a name meanwhile.
        VerificationError: if a time series is not what it has to be.
    """
    client = target.client
    places = _places(client, plan)
    for ttl in plan.ttls:
        _collmod_ttl(client, places, ttl, off=True)
    _drop_views(client, plan.views_before)
    timeseries.set_aside(target, restore, plan.series_before)
    for move in plan.moves:
        _move(client, places, move.database, move.uuid, move.new)
    _refuse_exchanged(client, plan)
    timeseries.bring(target, restore, staged_files, plan.series_after, dict(expected))
    _create_views(client, plan.views_after, replace=False)
    create_accounts(target, restore.folder / "accounts", plan.accounts, accounts)


def backward(target: Target, restore: RestoreView, plan: SwapPlan) -> None:
    """Take a plan back, from wherever it stands: the restored set goes back to its staged names.

    What was made under a name that the live data needs back, and a restored time series that was written to, is set
    aside as ``__replaced_<id>_<name>``.

    Raises:
        RestoreError: if a set-aside collection is gone.
    """
    client = target.client
    _drop_views(client, plan.views_after)
    drop_accounts(client, plan.accounts)
    timeseries.take_away(target, restore, plan.series_after, {one.uuid for one in plan.series_before})
    places = _places(client, plan)
    for move in reversed(plan.moves):
        _move_back(client, places, restore.id, move)
    timeseries.bring_back(target, restore, plan.series_before)
    _create_views(client, plan.views_before, replace=True)
    for ttl in plan.ttls:
        _collmod_ttl(client, places, ttl, off=False)


def put_ttls(client: Client, namespaces: Iterable[Namespace]) -> None:
    """Let documents expire as the set says; what was dropped meanwhile is passed over with a warning."""
    for namespace in namespaces:
        for index in namespace.indexes:
            if "expireAfterSeconds" in index:
                change = {"index": {"name": index["name"], "expireAfterSeconds": index["expireAfterSeconds"]}}
                _expire(client, namespace, f"TTL index {index['name']}", change)
        if "expireAfterSeconds" in namespace.options:
            _expire(client, namespace, "expiry", {"expireAfterSeconds": namespace.options["expireAfterSeconds"]})


def _expire(client: Client, namespace: Namespace, what: str, change: Mapping[str, Any]) -> None:
    try:
        client[namespace.database].command("collMod", namespace.name, **change)
    except OperationFailure as error:
        if error.code not in _GONE:
            raise
        log.warning("%s: its %s was not put on, because it was dropped since the swap", namespace.full, what)
    else:
        log.info("%s: %s is on", namespace.full, what)


def drop_replaced(client: Client, databases: Collection[str], restore_id: str) -> None:
    """Drop what a restore set aside."""
    drop_marked(client, databases, mark("before", restore_id))
    drop_marked(client, databases, mark("replaced", restore_id))


# Collections ----------------------------------------------------------------------------------------------------------


def _places(client: Client, plan: SwapPlan) -> Places:
    return by_uuid(client, {move.database for move in plan.moves})


def _move(client: Client, places: Places, database: str, uuid: str, name: str) -> None:
    if uuid not in places:
        raise RestoreError(f"The collection that has to become {database}.{name} is missing.", f"Find out who dropped it. {ROLLS_BACK}")
    current = places[uuid][1]
    if current == name:
        return
    if (database, name) in places.values():
        raise RestoreError(
            f"{database}.{name} was created while its location was empty: something still writes.",
            f"Stop what uses the database, and rename or drop {database}.{name}. {ROLLS_BACK}",
        )
    rename(client, database, current, name)
    places[uuid] = (database, name)
    log.info("%s: %s is now %s", database, current, name)


def _refuse_exchanged(client: Client, plan: SwapPlan) -> None:
    """A rename goes by names, which somebody may have exchanged just before it; so each collection must be where it has to be."""
    places = _places(client, plan)
    exchanged = [f"{move.database}.{move.new}" for move in plan.moves if places.get(move.uuid) != (move.database, move.new)]
    if exchanged:
        raise RestoreError(
            f"Somebody exchanged collections while they were put in place: {shortened(exchanged)}.",
            f"Stop what uses the database. {ROLLS_BACK}",
        )


def _move_back(client: Client, places: Places, restore_id: str, move: Move) -> None:
    staged = move.old.startswith(mark("stage", restore_id))
    if move.uuid not in places and staged:
        log.warning("%s.%s, which was restored, was dropped since", move.database, move.new)
        return
    occupant = next((uuid for uuid, place in places.items() if place == (move.database, move.old) and uuid != move.uuid), None)
    if occupant:
        log.warning("%s.%s was made since the swap; it is set aside", move.database, move.old)
        _move(client, places, move.database, occupant, _free_name(places, restore_id, move, occupant))
    _clear_name(client, move.database, move.old)
    _move(client, places, move.database, move.uuid, move.old)


def _clear_name(client: Client, database: str, name: str) -> None:
    """Drop a view that somebody made under a name which a collection needs back; its definition is in the log.

    Raises:
        RestoreError: if it is a time series, which can't be renamed either.
    """
    entry = next(listed(client, database, "listCollections", filter={"name": name}), None)
    if entry and entry["type"] == "timeseries":
        raise RestoreError(
            f"The time series {database}.{name} was made since the swap, where a collection has to come back.",
            f"Save it, if it is needed, and drop it. {ROLLS_BACK}",
        )
    if entry and entry["type"] == "view":
        log.warning("the view %s.%s was made since the swap and is dropped; it was %s", database, name, to_text(entry["options"]))
        client[database].drop_collection(name)


def _free_name(places: Places, restore_id: str, move: Move, occupant: str) -> str:
    """What becomes of something in the way of a rollback; nobody stops that by a name that is long or taken already."""
    name = mark("replaced", restore_id, move.old)
    taken = (move.database, name) in places.values() or len(f"{move.database}.{name}".encode()) > LONGEST_NAME
    return mark("replaced", restore_id, occupant) if taken else name


def _collmod_ttl(client: Client, places: Places, ttl: Ttl, *, off: bool) -> None:
    database, name = places.get(ttl.uuid, (ttl.database, ""))
    if not name:
        raise RestoreError(f"A collection of {database} with a TTL is missing.", f"Find out who dropped it. {ROLLS_BACK}")
    seconds = from_text(ttl.seconds)
    if ttl.index is None:
        client[database].command("collMod", name, expireAfterSeconds="off" if off else seconds)
        return
    try:
        client[database].command("collMod", name, index={"name": ttl.index, "expireAfterSeconds": _NEVER_EXPIRES if off else seconds})
    except OperationFailure as error:
        if error.code != _INDEX_NOT_FOUND:
            raise
        log.warning("%s.%s: its TTL index %s was dropped since the swap was planned", database, name, ttl.index)


# Views ----------------------------------------------------------------------------------------------------------------


def _live_views(client: Client, views: Sequence[View]) -> dict[tuple[str, str], Mapping[str, Any]]:
    databases = {view.database for view in views}
    live = (now for database in databases for now in read_database(client, database) if now.type == "view")
    return {(now.database, now.name): now.options for now in live}


def _drop_views(client: Client, views: Sequence[View]) -> None:
    """Drop those of the views that are there with this definition."""
    live = _live_views(client, views)
    for view in views:
        if live.get((view.database, view.name)) == from_text(view.options):
            client[view.database].drop_collection(view.name)


def _create_views(client: Client, views: Sequence[View], *, replace: bool) -> None:
    """Create those of the views that are not there yet; another view of the name is replaced or an error."""
    live = _live_views(client, views)
    wanted = [view for view in views if live.get((view.database, view.name)) != from_text(view.options)]
    for view in wanted:
        other = live.get((view.database, view.name))
        if other and not replace:
            raise RestoreError(
                f"The view {view.database}.{view.name} was made or changed since the swap was planned.",
                f"Stop what uses the database. {ROLLS_BACK}",
            )
        if other:
            log.warning("the view %s.%s was made since the swap and is dropped; it was %s", view.database, view.name, to_text(other))
            client[view.database].drop_collection(view.name)
    create_views(client, [view.namespace() for view in wanted])
