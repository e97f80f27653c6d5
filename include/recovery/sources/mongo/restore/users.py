"""Users and roles that a server lacks: brought back, and dropped in a rollback."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Collection
from pathlib import Path

from recovery.common.errors import RestoreError
from recovery.common.files import empty_folder
from recovery.common.wording import ROLLS_BACK
from recovery.sources.mongo.accounts import Accounts, Document, account_kind, decode, read_accounts, write_accounts
from recovery.sources.mongo.client import Client
from recovery.sources.mongo.raw_bson import blocks, documents
from recovery.sources.mongo.restore.load import Target

log = logging.getLogger(__name__)


def load_accounts(root: Path) -> Accounts:
    """Read them back from below a dump's root."""
    read: dict[str, list[Document]] = {"user": [], "role": [], "version": []}
    for path in sorted(root.glob("*/*.bson")):
        kind = account_kind(path.relative_to(root).as_posix())
        if kind:
            with path.open("rb") as stream:
                read[kind] += [document for found in documents(blocks(stream)) for document in decode(found)]
    version = {document["_id"]: document for document in read["version"]}
    return Accounts(tuple(read["user"]), tuple(read["role"]), tuple(version.values()))


# At a server ----------------------------------------------------------------------------------------------------------


def existing(client: Client) -> set[tuple[str, str]]:
    """``(kind, id)`` of every user and role of the server."""
    users = {("user", str(user["_id"])) for user in client.admin["system.users"].find({}, {"_id": 1})}
    return users | {("role", str(role["_id"])) for role in client.admin["system.roles"].find({}, {"_id": 1})}


def create_accounts(target: Target, folder: Path, wanted: Collection[tuple[str, str]], accounts: Accounts) -> None:
    """Make those of the wanted users and roles that are not there, by stock mongorestore; ``folder`` is for its files.

    It keeps them in collections of ``admin`` for a moment, and drops what has their names before; so these are new ones.

    Raises:
        RestoreError: if one was not made as the set has it.
    """
    missing = accounts.only(set(wanted) - existing(target.client)) if wanted else Accounts()
    if not missing:
        return
    write_accounts(missing, empty_folder(folder), whole_server=True)
    passing = secrets.token_hex(8)
    target.load(folder, f"--tempUsersColl=recovery_users_{passing}", f"--tempRolesColl=recovery_roles_{passing}")
    made = list((read_accounts(target.client, ()) or Accounts()).rows())
    if wrong := [f"{kind} {name}" for kind, name, facts in missing.rows() if (kind, name, facts) not in made]:
        raise RestoreError(
            f"mongorestore did not make {', '.join(sorted(wrong))} as in the set.", f"Read what it said in the log above. {ROLLS_BACK}"
        )
    log.info("created %r", missing)


def drop_accounts(client: Client, names: Collection[tuple[str, str]]) -> None:
    """Drop those of the users and roles that are there."""
    there = existing(client) if names else set()
    for kind, command in (("user", "dropUser"), ("role", "dropRole")):
        for name in sorted(name for found, name in there & set(names) if found == kind):
            database, _, own = name.partition(".")
            client[database].command(command, own)
