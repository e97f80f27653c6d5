"""Replacing live databases in place: dropped, and loaded from the set under their own names; and the rollback.

The rollback is the same with the safety set. What it has to bring back is told by the numbers of the databases: one
that still has the number which it had before anything was dropped was never replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from recovery.common.errors import RestoreError
from recovery.common.wording import ROLLS_BACK
from recovery.sources.base import RestoreView, announce_drop
from recovery.sources.postgres.accounts import loaders
from recovery.sources.postgres.accounts.roles import asleep, awaken, create_roles, created_roles, drop_role, roles
from recovery.sources.postgres.blockers import blockers
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.databases.custody import Former, allow, close, former, give_back, number, undisturbed
from recovery.sources.postgres.databases.stage import drop, load
from recovery.sources.postgres.databases.swap import dress
from recovery.sources.postgres.targets import Target

log = logging.getLogger(__name__)

_REPLACE = "replace"
"""Journal step, said before anything is dropped; facts ``live``: the number of each live database, null for one that is not there;
``owners``: of each that is there, whose it was."""


def replace(server: Server, jobs: int, restore: RestoreView, chosen: Sequence[Target]) -> None:
    """Drop databases and load the set's, closed to their users; see :meth:`recovery.sources.base.InPlaceRestorer.replace`."""
    if not restore.rolling_back and not restore.recorded_facts("dropping"):
        with server.maintenance() as connection:
            was = {target.name: former(connection, target.name) for target in chosen}
            live = {name: one.number if one else None for name, one in was.items()}
            restore.record(_REPLACE, live=live, owners={name: asdict(one) for name, one in was.items() if one})
    live = _live_before(restore)
    besides = [*live, *(target.name for target in chosen)]
    with undisturbed(server, besides) as connection:
        replaced = _replaced(connection, restore, chosen, live)
        _refuse_blocked(connection, replaced)
        if restore.rolling_back:
            _put_to_sleep(connection, restore)
            _open_again(connection, restore)

    def begin() -> None:
        loaders.probe(server)
        announce_drop(restore)
        with undisturbed(server, besides) as connection:
            create_roles(connection, restore, replaced)
            close(connection, [target.name for target in replaced if number(connection, target.name) is not None])
            for target in replaced:  # all, so that nobody writes to one while another is loaded
                drop(connection, target.name)

    if not replaced:
        begin()
    for target in replaced:
        load(server, jobs, restore, target, unpacked=begin if target is replaced[0] else None)
    log.info("loaded in place: %s", ", ".join(target.name for target in replaced) or "nothing")


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
