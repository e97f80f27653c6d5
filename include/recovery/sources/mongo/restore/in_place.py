"""A restore in place: the live collections are dropped, and the set's loaded under their names.

Before anything is dropped, the journal says what the restore replaces, and which users and roles it makes. Whatever is
done in its name later, again after a kill or with the safety set during the rollback, stays within that.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from recovery.common.errors import RestoreError
from recovery.common.files import empty_folder
from recovery.sources.base import RestoreView, announce_drop
from recovery.sources.mongo.accounts import Accounts
from recovery.sources.mongo.catalog import Namespace, mark
from recovery.sources.mongo.client import Client, rename
from recovery.sources.mongo.restore.inspect import live_within
from recovery.sources.mongo.restore.load import Target, create_views, drop_marked, lay_out, load_stacks, stacks
from recovery.sources.mongo.restore.selection import Parts, Planned
from recovery.sources.mongo.restore.users import create_accounts, drop_accounts, existing

log = logging.getLogger(__name__)

_PLAN = "mongo replacement planned"
_DUMPS = "replacing"


class Replacement(BaseModel):
    """What a restore replaces in place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    whole: tuple[str, ...]
    """Databases of which all is replaced."""
    single: tuple[str, ...]
    """``<database>.<name>`` of everything that the set has and that was asked for."""
    users: tuple[str, ...]
    """Ids of users that the server lacked and the set has."""
    roles: tuple[str, ...]

    @property
    def parts(self) -> Parts:
        """What is dropped and loaded."""
        return Parts(frozenset(self.whole), frozenset(self.single))

    @property
    def accounts(self) -> set[tuple[str, str]]:
        """``(kind, id)`` of the users and roles."""
        return {("user", name) for name in self.users} | {("role", name) for name in self.roles}


def recorded(restore: RestoreView) -> Replacement:
    """What the journal says.

    Raises:
        RestoreError: if nothing was replaced yet.
    """
    said = restore.recorded_facts(_PLAN)
    if not said:
        raise RestoreError("Nothing was replaced in place yet.", "Trigger a new restore.")
    return Replacement.model_validate(said[0]["plan"])


def replaced_parts(restore: RestoreView, wanted: Planned) -> Parts:
    """What the journal says that is replaced, or would say."""
    return recorded(restore).parts if restore.rolling_back or restore.recorded_facts(_PLAN) else wanted.scope


def planned_replacement(client: Client, restore: RestoreView, wanted: Planned) -> Replacement:
    """What the journal says already, or what is wanted now, which it then says."""
    if restore.rolling_back or restore.recorded_facts(_PLAN):
        return recorded(restore)
    missing = wanted.accounts.keys() - existing(client) if wanted.accounts else set()
    plan = Replacement(
        whole=tuple(sorted(wanted.whole)),
        single=tuple(sorted(wanted.names)),
        users=tuple(sorted(name for kind, name in missing if kind == "user")),
        roles=tuple(sorted(name for kind, name in missing if kind == "role")),
    )
    restore.record(_PLAN, plan=plan.model_dump(mode="json"))
    return plan


def drop_and_load(
    target: Target, restore: RestoreView, folder: Path, plan: Replacement, namespaces: Sequence[tuple[Namespace, Namespace]]
) -> None:
    """Drop what is replaced, and load what was unpacked, without any TTL.

    Args:
        target: the server.
        restore: whose names may be used for a moment.
        folder: below which the unpacked files lie; only the definitions stay there.
        plan: what is replaced.
        namespaces: what was unpacked, each as the set has it and as it will be.
    """
    dumps = stacks(empty_folder(restore.folder / _DUMPS), namespaces)
    for dump, stack in dumps:
        lay_out(folder, stack, dump)
    new = [after for _, after in namespaces]
    target.tools.find("mongorestore")  # before anything is dropped that can't be loaded again
    announce_drop(restore)
    _drop(target.client, restore.id, plan.parts, new)
    load_stacks(target, dumps)
    create_views(target.client, [after for after in new if after.type == "view"])
    shutil.rmtree(restore.folder / _DUMPS)


def _drop(client: Client, restore_id: str, parts: Parts, new: Sequence[Namespace]) -> None:
    """Drop what is live, and what an attempt that was killed left under a new name: buckets may be there without their series."""
    live = {(now.database, now.name) for now in live_within(client, parts)}
    aside = mark("replaced", restore_id)
    for database, name in sorted(live | {(after.database, after.name) for after in new}):
        if not name.startswith("system."):
            client[database].drop_collection(name)
        elif (database, name) in live:  # the server drops no system.js, but lets it be renamed
            rename(client, database, name, aside + name, dropTarget=True)
    drop_marked(client, parts.databases, aside)
    log.info("dropped %d collections and views", len(live))


def put_accounts(target: Target, folder: Path, plan: Replacement, wanted: Planned, accounts: Accounts) -> None:
    """Make the users and roles that were missing before; during the rollback, drop them, since the safety set lacks them."""
    create_accounts(target, folder, plan.accounts & wanted.accounts.keys(), accounts)
    drop_accounts(target.client, plan.accounts - wanted.accounts.keys())
