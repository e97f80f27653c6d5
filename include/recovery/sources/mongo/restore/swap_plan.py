"""What a swap of MongoDB changes, as one plan that is journalled before anything is.

A rename keeps a collection's UUID. So where everything stands, after a kill at any point, can be read from the
server: the plan says which UUID goes by which name, and what is not there yet is moved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from recovery.common.errors import RestoreError
from recovery.sources.mongo.catalog import Namespace, mark, rows
from recovery.sources.mongo.extended_json import from_text, to_text


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Item(_Frozen):
    database: str


class Move(_Item):
    """A collection that gets another name."""

    uuid: str
    old: str
    new: str


class Ttl(_Item):
    """A TTL that is off while its collection is set aside."""

    uuid: str
    index: str | None
    """None where the collection is clustered: then it is an option of the collection."""
    seconds: str
    """Its value, as text of Extended JSON."""


class View(_Item):
    """A view's definition."""

    name: str
    options: str
    """As text of Extended JSON."""

    def namespace(self) -> Namespace:
        """As the catalog has it."""
        return Namespace(self.database, self.name, "view", from_text(self.options))


class Series(_Item):
    """A time series."""

    name: str
    uuid: str = ""
    """Of the buckets that are live before the swap; empty for a series that the set brings."""

    @property
    def full(self) -> str:
        """``<database>.<name>``."""
        return f"{self.database}.{self.name}"


class SwapPlan(_Frozen):
    """Everything that a swap changes."""

    moves: tuple[Move, ...] = ()
    """In this order; rolled back in reverse."""
    ttls: tuple[Ttl, ...] = ()
    views_before: tuple[View, ...] = ()
    views_after: tuple[View, ...] = ()
    series_before: tuple[Series, ...] = ()
    series_after: tuple[Series, ...] = ()
    users: tuple[str, ...] = ()
    """Ids of users that the server lacks and the set has."""
    roles: tuple[str, ...] = ()

    @property
    def databases(self) -> set[str]:
        """Those that it changes."""
        parts = (self.moves, self.ttls, self.views_before, self.views_after, self.series_before, self.series_after)
        return {item.database for items in parts for item in items}

    @property
    def accounts(self) -> set[tuple[str, str]]:
        """``(kind, id)`` of both."""
        return {("user", name) for name in self.users} | {("role", name) for name in self.roles}


def make_plan(
    restore_id: str,
    live: Sequence[Namespace],
    restored: Sequence[Namespace],
    staged: Sequence[Namespace],
    missing: Collection[tuple[str, str]],
) -> SwapPlan:
    """Work out a swap.

    Args:
        restore_id: marks the names of what is set aside.
        live: what is replaced or set aside: see :func:`recovery.sources.mongo.restore.inspect.live_within`.
        restored: what the set has.
        staged: what of it is staged, under the names it will have.
        missing: ``(kind, id)`` of users and roles that the server lacks.

    Raises:
        RestoreError: if something of the set is not staged.
    """
    uuids = {(namespace.database, namespace.name): namespace.uuid for namespace in staged if namespace.type == "collection"}
    changed = {view.full for view in _views(live)} - _same(live, restored)
    return SwapPlan(
        moves=tuple(_moves(restore_id, live, restored, uuids)),
        ttls=tuple(ttl for namespace in live if namespace.type == "collection" for ttl in _ttls(namespace)),
        views_before=tuple(_view(view) for view in _views(live) if view.full in changed),
        views_after=tuple(_view(view) for view in _views(restored) if view.full not in _same(live, restored)),
        series_before=tuple(Series(database=s.database, name=s.name, uuid=s.uuid) for s in live if s.type == "timeseries"),
        series_after=tuple(Series(database=s.database, name=s.name) for s in restored if s.type == "timeseries"),
        users=tuple(sorted(name for kind, name in missing if kind == "user")),
        roles=tuple(sorted(name for kind, name in missing if kind == "role")),
    )


def _moves(restore_id: str, live: Sequence[Namespace], restored: Sequence[Namespace], uuids: dict[tuple[str, str], str]) -> Iterator[Move]:
    aside = {
        (now.database, now.name): Move(database=now.database, uuid=now.uuid, old=now.name, new=mark("before", restore_id, now.name))
        for now in live
        if now.type == "collection"
    }
    for new in restored:
        if new.type == "collection":
            place = (new.database, new.name)
            if place not in uuids:
                raise RestoreError(f"{new.full} is not staged.", "Somebody dropped what was staged. Trigger a new restore.")
            if place in aside:
                yield aside.pop(place)
            yield Move(database=new.database, uuid=uuids[place], old=mark("stage", restore_id, new.name), new=new.name)
    yield from aside.values()


def _ttls(namespace: Namespace) -> Iterator[Ttl]:
    for index in namespace.indexes:
        if "expireAfterSeconds" in index:
            seconds = to_text(index["expireAfterSeconds"])
            yield Ttl(database=namespace.database, uuid=namespace.uuid, index=str(index["name"]), seconds=seconds)
    if "expireAfterSeconds" in namespace.options:
        yield Ttl(database=namespace.database, uuid=namespace.uuid, index=None, seconds=to_text(namespace.options["expireAfterSeconds"]))


def _views(namespaces: Iterable[Namespace]) -> list[Namespace]:
    return [namespace for namespace in namespaces if namespace.type == "view"]


def _view(view: Namespace) -> View:
    return View(database=view.database, name=view.name, options=to_text(view.options))


def _same(live: Sequence[Namespace], restored: Sequence[Namespace]) -> set[str]:
    """Views that both sides define alike; they stay as they are."""
    there = {view.full: list(rows(view)) for view in _views(live)}
    return {view.full for view in _views(restored) if there.get(view.full) == list(rows(view))}
