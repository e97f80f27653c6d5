"""Replacing live databases in place: dropped, and loaded from the set under their own names; and the rollback.

Where the server has room for both, a live database is set aside by a rename, and dropped once the restored one is
accepted: the rollback is a rename then. Else the rollback is the same as the restore, with the safety set. What it has to
bring back is told by the numbers of the databases: one that still has the number which it had before anything was
dropped was never replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from threading import Event
from typing import Any, cast

from recovery.common.errors import RestoreError
from recovery.common.faults import Faults
from recovery.common.wording import ROLLS_BACK
from recovery.packs.content_diff import Difference
from recovery.sources.base import RestoreView, announce_drop
from recovery.sources.postgres import exceptions
from recovery.sources.postgres.accounts import loaders
from recovery.sources.postgres.accounts.query_roles import drop_left
from recovery.sources.postgres.accounts.roles import asleep, awaken, create_roles, created_roles, drop_role, roles
from recovery.sources.postgres.blockers import blockers
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.databases.custody import Former, allow, close, former, give_back, number, undisturbed
from recovery.sources.postgres.databases.stage import drop, load
from recovery.sources.postgres.databases.swap import dress, refuse_taken, rename
from recovery.sources.postgres.definitions import catalog
from recovery.sources.postgres.locations import has_room
from recovery.sources.postgres.targets import Target, expected_objects

log = logging.getLogger(__name__)

_REPLACE = "replace"
"""Journal step, said before anything is dropped; facts ``live``: the number of each live database, null for one that is not there;
``owners``: of each that is there, whose it was; ``aside``: whether they are set aside before they are dropped."""


def replace(
    server: Server, jobs: int, restore: RestoreView, chosen: Sequence[Target], verify: Callable[[Sequence[Target]], list[Difference]]
) -> None:
    """Drop databases and load the set's, closed to their users; see :meth:`recovery.sources.base.InPlaceRestorer.replace`.

    A rollback that is done again leaves alone what is equal to the set by ``verify``: somebody may have mended it by hand.
    """
    if not restore.rolling_back and not restore.recorded_facts("dropping"):
        _say_what_is_live(server, restore, chosen)
    live = _live_before(restore)
    besides = [*live, *(target.name for target in chosen)]
    with undisturbed(server, besides) as connection:
        if restore.rolling_back:
            _bring_back(connection, restore, live)
        replaced = _replaced(connection, restore, chosen, live)
        _refuse_blocked(connection, replaced)
        if restore.rolling_back:
            _put_to_sleep(connection, restore)
            _open_again(connection, restore)

    if restore.rolling_back:
        replaced = [target for target in replaced if not _is_mended(server, restore, target, verify)]

    def begin() -> None:
        loaders.probe(server)
        announce_drop(restore)
        with undisturbed(server, besides) as connection:
            create_roles(connection, restore, replaced)
            close(connection, [target.name for target in replaced if number(connection, target.name) is not None])
            for target in replaced:  # all, so that nobody writes to one while another is loaded
                if sets_aside(restore) and _is_the_former(connection, target.name, live):
                    _set_aside(connection, target)
                else:
                    drop(connection, target.name)

    if not replaced:
        begin()
    _load_all(server, jobs, restore, replaced, begin)
    log.info("loaded in place: %s", ", ".join(target.name for target in replaced) or "nothing")


def _load_all(server: Server, jobs: int, restore: RestoreView, replaced: Sequence[Target], begin: Callable[[], None]) -> None:
    """Load databases; ``begin`` drops all of them once the first is unpacked. A rollback then goes on after one that fails."""
    faults, begun = Faults(), Event()

    def first() -> None:
        begin()
        begun.set()

    for target in replaced:
        with faults.noted(target.name) if restore.rolling_back else nullcontext():
            load(server, jobs, restore, target, unpacked=None if begun.is_set() else first)
        if not begun.is_set():
            break
    if faults:
        raise RestoreError(" ".join(faults.sentences), "Mend what is named, then try again.", retryable=faults.retryable)


def _say_what_is_live(server: Server, restore: RestoreView, chosen: Sequence[Target]) -> None:
    with server.maintenance() as connection:
        was = {target.name: former(connection, target.name) for target in chosen}
        live = {name: one.number if one else None for name, one in was.items()}
        owners = {name: asdict(one) for name, one in was.items() if one}
        restore.record(_REPLACE, live=live, owners=owners, aside=has_room(server, connection, chosen))


def sets_aside(restore: RestoreView) -> bool:
    """Whether the live databases are set aside first, so that the rollback needs no safety set."""
    begun = restore.recorded_facts(_REPLACE)
    return bool(begun and begun[-1]["aside"])


def _is_the_former(connection: Connection, name: str, live: Mapping[str, int | None]) -> bool:
    """Whether a database is the live one of before, whole, so that it can be renamed."""
    return live[name] is not None and number(connection, name) == live[name]


def _set_aside(connection: Connection, target: Target) -> None:
    refuse_taken(connection, [target.before])
    with translated_errors(f"Setting database {target.name} aside", RestoreError):
        rename(connection, target.name, target.before)
    log.info("database %s is %s until the restored one is accepted", target.name, target.before)


def _bring_back(connection: Connection, restore: RestoreView, live: Mapping[str, int | None]) -> None:
    """Give databases their names again that were set aside."""
    for name, before in _aside(connection, restore, live).items():
        drop(connection, name)
        with translated_errors(f"Bringing database {name} back", RestoreError):
            rename(connection, before, name)
        log.info("database %s is the one of before again", name)


def _aside(connection: Connection, restore: RestoreView, live: Mapping[str, int | None]) -> dict[str, str]:
    """The databases that are set aside: what each was called, and is called now."""
    names = {name: f"{name}__before_{restore.id}" for name, was in live.items() if was is not None}
    return {name: before for name, before in names.items() if number(connection, before) == live[name]}


def finalize(server: Server, restore: RestoreView, chosen: Sequence[Target]) -> None:
    """Drop what was set aside, once the restored databases stay; see :meth:`recovery.sources.base.Restorer.finalize`."""
    live = _live_before(restore)
    with undisturbed(server, [*live, *(target.before for target in chosen)]) as connection:
        for name, before in _aside(connection, restore, live).items():
            drop(connection, before)
            log.info("the replaced database %s is dropped", name)
        for target in chosen:
            drop_left(connection, target.name)


def _is_mended(server: Server, restore: RestoreView, target: Target, verify: Callable[[Sequence[Target]], list[Difference]]) -> bool:
    """Whether a database that a rollback has loaded, but not whole, is whole by now."""
    if not exceptions.was_loaded(restore, target) or target.name not in server.databases():
        return False
    log.info("looking whether database %s was mended by hand", target.name)
    if verify([target]):
        return False
    with server.connect(target.name) as connection, translated_errors(f"Looking into {target.name}", RestoreError):
        found = {(kind, name): facts for kind, name, facts in catalog.object_rows(connection)}
    unmade = exceptions.kept(restore, target.saved)
    codec = str(target.snapshot["codec"])
    exceptions.keep(restore, target, exceptions.still_lacking(expected_objects(restore, target), found, unmade, codec))
    return True


def let_in(server: Server, restore: RestoreView, chosen: Sequence[Target]) -> None:
    """Give what was loaded its owner and its users; see :meth:`recovery.sources.base.InPlaceRestorer.let_in`."""
    live = _live_before(restore)
    with undisturbed(server, [*live, *(target.name for target in chosen)]) as connection:
        replaced = _replaced(connection, restore, chosen, live)
        with translated_errors("Letting roles log in", RestoreError), connection.transaction():
            for target in replaced:
                dress(connection, target)
            awaken(connection, restore)
        if restore.rolling_back:
            _remove_what_was_not(connection, restore, chosen, live)
    log.info("open to their users: %s", ", ".join(target.name for target in replaced) or "nothing")


def touched(server: Server, restore: RestoreView, chosen: Sequence[Target]) -> list[Target]:
    """The databases that :func:`replace` has replaced, or during the rollback has brought back."""
    live = _live_before(restore)
    with server.maintenance([*live]) as connection:
        return _replaced(connection, restore, chosen, live)


def _live_before(restore: RestoreView) -> dict[str, int | None]:
    """The number of each database before the first was dropped, by its name; None for one that was not there."""
    begun = restore.recorded_facts(_REPLACE)
    live = begun[-1]["live"] if begun else {}
    assert isinstance(live, dict)
    return live


def _open_again(connection: Connection, restore: RestoreView) -> None:
    """Give those back that were closed and never dropped."""
    begun = restore.recorded_facts(_REPLACE)
    owners = cast("dict[str, dict[str, Any]]", begun[-1]["owners"]) if begun else {}
    for name, was in ((name, Former(**facts)) for name, facts in owners.items()):
        if number(connection, name) == was.number:
            with translated_errors(f"Opening {name} again", RestoreError), connection.transaction():
                allow(connection, name, True)
                give_back(connection, name, was)


def _replaced(connection: Connection, restore: RestoreView, chosen: Sequence[Target], live: dict[str, int | None]) -> list[Target]:
    """The databases to load: all; during the rollback those that are not the ones of before any more."""
    if not restore.rolling_back:
        return list(chosen)
    return [target for target in chosen if target.name in live and number(connection, target.name) != live[target.name]]


def _refuse_blocked(connection: Connection, chosen: Sequence[Target]) -> None:
    """Nothing is dropped if one of the databases can't be."""
    found = [finding.text for target in chosen for finding in blockers(connection, target) if finding.level == "refusal"]
    if found:
        raise RestoreError(" ".join(found), ROLLS_BACK)


def _put_to_sleep(connection: Connection, restore: RestoreView) -> None:
    with translated_errors("Putting roles to sleep", RestoreError), connection.transaction():
        for statement in asleep(connection, restore):
            connection.execute(statement)


def _remove_what_was_not(connection: Connection, restore: RestoreView, chosen: Sequence[Target], live: dict[str, int | None]) -> None:
    """Drop the databases and the roles that this restore made and that were not there before.

    Raises:
        RestoreError: if the set lacks a database that was there.
    """
    lost = []
    for name in live.keys() - {target.name for target in chosen}:
        if live[name] is None:
            drop(connection, name)
        elif number(connection, name) != live[name]:
            lost.append(name)
    for role in created_roles(restore):
        if role not in roles(restore):
            drop_role(connection, restore, role)
    if lost:
        raise RestoreError(
            f"The safety set lacks {', '.join(sorted(lost))}, which was there before; what was restored stays.",
            "Restore it from another set, or keep it.",
        )
