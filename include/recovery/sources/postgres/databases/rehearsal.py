"""Whether databases can be loaded from a set: found out beside the live ones, before a restore in place drops these."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from recovery.common.errors import RestoreError
from recovery.packs.content_diff import Difference
from recovery.sources.base import RestoreView
from recovery.sources.model import Rehearsal
from recovery.sources.postgres import exceptions
from recovery.sources.postgres.client import Server
from recovery.sources.postgres.databases.stage import stage
from recovery.sources.postgres.databases.swap import discard
from recovery.sources.postgres.locations import has_room
from recovery.sources.postgres.targets import Target

log = logging.getLogger(__name__)


def rehearse(
    server: Server, jobs: int, restore: RestoreView, chosen: Sequence[Target], verify: Callable[[Sequence[Target]], list[Difference]]
) -> Rehearsal:
    """Load databases of a set, one after another, beside the live ones; see :meth:`recovery.sources.base.InPlaceRestorer.rehearse`.

    With all rows, and verified by ``verify``, where the server has room for that. Else their definitions, without rows.
    """
    words: list[str] = []
    differences: list[Difference] = []
    whole = True
    for target in (replace(target, in_place=False) for target in chosen):
        with server.maintenance() as connection:
            with_rows = has_room(server, connection, [target])
        log.info("rehearsing the load of database %s %s", target.saved, "with all rows" if with_rows else "without rows")
        stage(server, jobs, restore, [target], with_rows=with_rows)
        if with_rows:
            differences += verify([target])
            words.append(f"Database {target.saved} was loaded with all rows beside the live one, verified, and dropped again.")
        else:
            whole = False
            words.append(
                f"⚠ The definitions of database {target.saved} were loaded beside the live one without rows, since there is no known room"
                " for more. A foreign key, for example, that the rows do not hold shows only once the live one is dropped."
            )
        discard(server, restore, [target])
    return Rehearsal(words, differences, whole)


def rehearse_way_back(server: Server, jobs: int, restore: RestoreView, chosen: Sequence[Target]) -> None:
    """Load the definitions of the safety set, without rows, so that the databases which are about to be dropped can be made again.

    Raises:
        RestoreError: if one can't be made again whole.
    """
    for target in (replace(target, in_place=False) for target in chosen):
        log.info("rehearsing the rollback of database %s: its definitions are loaded without rows", target.name)
        stage(server, jobs, restore, [target], with_rows=False)
        lacking = list(exceptions.left_out(restore, [target.saved]))
        discard(server, restore, [target])
        if lacking:
            raise RestoreError(
                f"Database {target.name} would not come back whole if it were dropped now: {lacking[0].sentence}",
                "Nothing was dropped. Mend that definition at the live database, or make room for a second copy of it.",
            )
