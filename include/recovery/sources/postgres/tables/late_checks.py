"""Checks that rows did not hold while their table was staged: looked at once more when all that was restored has its last name.

A function of a check names what it reads. Before the exchange these are the live tables, even if they are restored, too.
"""

from __future__ import annotations

import logging
from functools import partial

from recovery.sources.base import RestoreView
from recovery.sources.postgres import exceptions
from recovery.sources.postgres.accounts import loaders
from recovery.sources.postgres.accounts.roles import roles
from recovery.sources.postgres.client import Connection, Server
from recovery.sources.postgres.databases.postponed_checks import Check, checks_of
from recovery.sources.postgres.databases.second_try import SecondTry, words_of
from recovery.sources.postgres.exceptions import Unmade
from recovery.sources.postgres.tables import staged
from recovery.sources.postgres.tables.contents import Chosen, relations
from recovery.sources.postgres.tables.load import refusal_of

log = logging.getLogger(__name__)


def validate(server: Server, restore: RestoreView, part: Chosen) -> None:
    """Validate these checks, each with the rights of its table's owner. One that rows do not hold stays an exception.

    Done again, it resumes.

    Raises:
        RestoreError: if it is the server that fails.
    """
    unmade = exceptions.kept(restore, part.target.saved)
    if not any(map(_is_check, unmade)):
        return
    with server.connect(part.target.name) as live:
        checks = _not_valid(live, part)
        with loaders.members(server, live, part.target.name, {check.role for check in checks}, staged.purpose(part)) as members:
            tried = SecondTry(
                server, live, members, part.target, restore.folder, roles(restore), partial(refusal_of, part), tables=part.names
            )
            for check in checks:
                if error := tried.validate(check.role, check):
                    log.warning("check %s of %s stays not valid: %s", check.name, check.of, words_of(error))
        found = relations(live, part.names)
    exceptions.keep(restore, part.target, exceptions.still_lacking(part.objects, found, unmade, part.target.snapshot["codec"]))


def _is_check(unmade: Unmade) -> bool:
    return (unmade.what, unmade.lacks) == ("CHECK CONSTRAINT", "validated")


def _not_valid(live: Connection, part: Chosen) -> list[Check]:
    """The checks of the tables that are valid in the set, and not in the database."""
    found = dict.fromkeys(check for name in part.tables for check in checks_of(live, name) if check.of in part.names and not check.valid)
    return [check for check in found if part.objects.get(("constraint", f"{check.of} {check.name}"), {}).get("validated")]
