"""The swap of PostgreSQL databases and the rollback: renames, settings and roles in one transaction each.

What is set aside belongs to us until it is put back: see :mod:`recovery.sources.postgres.databases.custody`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, cast

from psycopg.sql import SQL, Identifier

from recovery.common.errors import RestoreError, VerificationError
from recovery.common.wording import ROLLS_BACK
from recovery.packs.content_diff import compare
from recovery.sources.base import RestoreView
from recovery.sources.postgres.accounts import server_globals
from recovery.sources.postgres.accounts.query_roles import drop_left
from recovery.sources.postgres.accounts.roles import asleep, awaken, created_roles, drop_role
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.databases.custody import Former, allow, close, former, give_back, number, undisturbed
from recovery.sources.postgres.databases.stage import drop
from recovery.sources.postgres.targets import Target

log = logging.getLogger(__name__)

_SWAP = "switch"
"""Journal step; facts ``live``: of each live database whether it let connections in, null for one that is not there; ``ours``: of
the one that takes its place the number (oid), which a rename does not change; ``owners``: of each live database whose it was."""
_BACK = "switch back"


def swap_databases(server: Server, restore: RestoreView, chosen: Sequence[Target]) -> None:
    """Put the staged databases in the place of the live ones; see :meth:`recovery.sources.base.Restorer.swap`."""
    with undisturbed(server, _involved(chosen)) as connection:
        if _is_swapped(connection, chosen, restore):
            log.info("the databases are swapped already")
            return
        _refuse_unstaged(connection, chosen)
        _refuse_prepared(connection, chosen)
        refuse_taken(connection, [target.before for target in chosen])
        restore.record(
            _SWAP,
            live={target.name: _lets_in(connection, target.name) for target in chosen},
            ours={target.name: number(connection, target.stage) for target in chosen},
            owners={target.name: asdict(was) for target in chosen if (was := former(connection, target.name))},
        )
        live = [target.name for target in chosen if _lets_in(connection, target.name) is not None]
        close(connection, [*live, *(target.stage for target in chosen)])
        with translated_errors("Swapping the databases", RestoreError), connection.transaction():
            for target in chosen:
                _swap_one(connection, target, target.name in live)
            awaken(connection, restore)
    log.info("swapped: %s", ", ".join(target.name for target in chosen))


def _involved(chosen: Sequence[Target]) -> list[str]:
    return [name for target in chosen for name in (target.name, target.stage, target.before)]


def _lets_in(connection: Connection, database: str) -> bool | None:
    """Whether a database lets connections in; None if there is none of that name."""
    row = connection.execute("SELECT datallowconn FROM pg_database WHERE datname = %s", [database]).fetchone()
    return None if row is None else bool(row[0])


def _is_swapped(connection: Connection, chosen: Sequence[Target], restore: RestoreView) -> bool:
    """Said by the names and by which database has them: the transaction renames all or none, and only one that was begun can have.

    Of those that were begun only the last one can have ended: after it, no other is.
    """
    begun = restore.recorded_facts(_SWAP)
    if not begun or not chosen:
        return False
    was_open = _was_open(begun)

    def renamed(target: Target) -> bool:
        before = _lets_in(connection, target.before) is not None
        return _is_ours(connection, target, begun) and before == (was_open[target.name] is not None)

    return all(map(renamed, chosen))


def _is_ours(connection: Connection, target: Target, begun: list[dict[str, object]]) -> bool:
    """Whether what has the live name is what this restore has put there, and not what somebody else did."""
    ours = begun[-1]["ours"]
    assert isinstance(ours, dict)
    return bool(number(connection, target.name) == ours[target.name])


def _was_open(begun: list[dict[str, object]]) -> dict[str, bool | None]:
    """Of each live database, whether it let connections in before the first swap; None for one that was not there."""
    live = begun[0]["live"]
    assert isinstance(live, dict)
    return live


def _was_owned(begun: list[dict[str, object]]) -> dict[str, Former]:
    """Of each live database, whose it was before the first swap."""
    owners = cast("dict[str, dict[str, Any]]", begun[0]["owners"])
    return {name: Former(**was) for name, was in owners.items()}


def _as_begun(restore: RestoreView, chosen: Sequence[Target]) -> Sequence[Target]:
    """The databases by the names that they had when the swap was begun, whatever the plan calls them now."""
    begun = restore.recorded_facts(_SWAP)
    return [replace(target, name=name) for target, name in zip(chosen, _was_open(begun), strict=True)] if begun else chosen


def _refuse_unstaged(connection: Connection, chosen: Sequence[Target]) -> None:
    if missing := [target.stage for target in chosen if _lets_in(connection, target.stage) is None]:
        raise RestoreError(f"There is no staged database {', '.join(missing)} to swap to.", "Trigger a new restore.")


def refuse_taken(connection: Connection, names: Sequence[str]) -> None:
    """Everybody who may create databases can take the name of a copy, once the restore's id is known."""
    for name in names:
        if was := former(connection, name):
            raise RestoreError(
                f"{was.owner} has a database {name}, which is the name of a copy of this restore; nothing was renamed.",
                f"Drop or rename it. {ROLLS_BACK}",
            )


def _refuse_prepared(connection: Connection, chosen: Sequence[Target]) -> None:
    """A prepared transaction blocks the rename for as long as it lives."""
    names = [target.name for target in chosen]
    if found := connection.execute("SELECT database, gid FROM pg_prepared_xacts WHERE database = ANY (%s)", [names]).fetchall():
        raise RestoreError(
            f"Prepared transactions block the swap: {', '.join(f'{gid!r} in {database}' for database, gid in found)}.",
            f"COMMIT PREPARED or ROLLBACK PREPARED them. {ROLLS_BACK}",
        )


def rename(connection: Connection, old: str, new: str) -> None:
    """Rename a database that nobody uses."""
    connection.execute(SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(old), Identifier(new)))


def _swap_one(connection: Connection, target: Target, has_live: bool) -> None:
    if has_live:
        rename(connection, target.name, target.before)
    rename(connection, target.stage, target.name)
    dress(connection, target)
    allow(connection, target.name, True)


def dress(connection: Connection, target: Target) -> None:
    """Make a database that has the live name what the set has on the outside: owner, rights, settings, comment.

    Raises:
        VerificationError: if it is not that afterwards.
    """
    for statement in server_globals.database_statements(target.name, target.brought):
        connection.execute(statement)
    found = server_globals.database_facts(connection, target.name)
    if differences := compare([("database", target.name, target.brought)], [("database", target.name, found or {})]):
        raise VerificationError(
            f"The settings of the restored database are not the set's: {'; '.join(map(str, differences))}.",
            f"The statements were undone; report it. {ROLLS_BACK}",
        )


def roll_back(server: Server, restore: RestoreView, chosen: Sequence[Target]) -> None:
    """Put the databases back as they were; see :meth:`recovery.sources.base.Restorer.roll_back`."""
    begun = restore.recorded_facts(_SWAP)
    if not begun:
        log.info("no swap was begun, so nothing is rolled back")
        return
    was_open, was_owned, chosen = _was_open(begun), _was_owned(begun), _as_begun(restore, chosen)
    with undisturbed(server, _involved(chosen)) as connection:
        restore.record(_BACK)
        if _is_swapped(connection, chosen, restore):
            refuse_taken(connection, [target.stage for target in chosen])
            _refuse_prepared(connection, chosen)
            close(connection, [target.name for target in chosen])
            with translated_errors("Swapping the databases back", RestoreError), connection.transaction():
                for target in reversed(chosen):
                    rename(connection, target.name, target.stage)
                    if was_open[target.name] is not None:
                        rename(connection, target.before, target.name)
                        _as_it_was(connection, target, was_open, was_owned)
                for statement in asleep(connection, restore):
                    connection.execute(statement)
            log.info("rolled back: %s", ", ".join(target.name for target in chosen))
            return
        _refuse_other_names(connection, [each for each in chosen if not _is_former(connection, each, was_owned)], begun)
        with translated_errors("Opening the databases again", RestoreError):
            for target in chosen:
                if was_open[target.name] is not None:
                    with connection.transaction():
                        _as_it_was(connection, target, was_open, was_owned)
        log.info("the live databases have their names, and are open again: %s", ", ".join(target.name for target in chosen))


def _is_former(connection: Connection, target: Target, was_owned: dict[str, Former]) -> bool:
    """Whether what has the live name is what had it before the swap, so that a stranger took the copy's name."""
    return target.name in was_owned and number(connection, target.name) == was_owned[target.name].number


def _as_it_was(connection: Connection, target: Target, was_open: dict[str, bool | None], was_owned: dict[str, Former]) -> None:
    allow(connection, target.name, bool(was_open[target.name]))
    if target.name in was_owned:
        give_back(connection, target.name, was_owned[target.name])


def _refuse_other_names(connection: Connection, chosen: Sequence[Target], begun: list[dict[str, object]]) -> None:
    """Neither swapped nor as before the swap: somebody renamed or dropped a database, so nothing here is known to be back."""
    was_open = _was_open(begun)
    for target in chosen:
        there = [name for name in (target.stage, target.name, target.before) if _lets_in(connection, name) is not None]
        if there != [target.stage, target.name][: 1 if was_open[target.name] is None else 2]:
            stranger = target.name in there and not _is_ours(connection, target, begun)
            whose = f", and {target.name} is not the one that was restored" if stranger else ""
            raise RestoreError(
                f"Of {target.stage}, {target.name} and {target.before} there is now: {', '.join(there) or 'none'}{whose};"
                " somebody changed names.",
                f"Give the database of before the name {target.before}, and the restored one {target.name}; then clear this task.",
            )


def finalize(server: Server, chosen: Sequence[Target]) -> None:
    """Make sure that the set-aside copies stay as they are; see :meth:`recovery.sources.base.Restorer.finalize`."""
    with server.maintenance(_involved(chosen)) as connection, translated_errors("Closing the set-aside databases", RestoreError):
        for target in chosen:
            if _lets_in(connection, target.before) is not None:
                allow(connection, target.before, False)
                log.info("the replaced database %s is kept as %s", target.name, target.before)
        for target in chosen:
            drop_left(connection, target.name)


def discard(server: Server, restore: RestoreView, chosen: Sequence[Target]) -> None:
    """Drop what was staged and not swapped; see :meth:`recovery.sources.base.Restorer.discard`."""
    chosen = _as_begun(restore, chosen)
    with undisturbed(server, _involved(chosen)) as connection:
        if (restore.recorded_facts(_SWAP) and not restore.recorded_facts(_BACK)) or _is_swapped(connection, chosen, restore):
            log.info("the restored databases are in use; nothing is discarded")
            return
        for target in chosen:
            drop(connection, target.stage)
            drop_left(connection, target.name)
        for role in created_roles(restore):
            drop_role(connection, restore, role)


def _copies(connection: Connection, named: Sequence[str]) -> list[tuple[str, str]]:
    """``(database, restore id)`` of every set-aside copy of this source's databases."""
    found = []
    with translated_errors("Listing the databases"):
        for (name,) in connection.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall():
            match = re.fullmatch(r"(.+)__before_([0-9a-f]{8})", name, re.DOTALL)
            if match and (not named or match[1] in named):
                found.append((name, match[2]))
    return found


def replaced_copies(server: Server, named: Sequence[str]) -> list[str]:
    """Ids of restores whose set-aside databases are still there."""
    with server.maintenance() as connection:
        return sorted({restore_id for _, restore_id in _copies(connection, named)})


def drop_replaced(server: Server, restore: RestoreView, chosen: Sequence[Target]) -> None:
    """Drop the databases that a restore set aside, by the names that they had then."""
    chosen = _as_begun(restore, chosen)
    with undisturbed(server, _involved(chosen)) as connection:
        for target in chosen:
            if _lets_in(connection, target.before) is not None:
                drop(connection, target.before)
                log.info("database %s, replaced by restore %s, is dropped", target.before, restore.id)
