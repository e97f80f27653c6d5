"""The roles that a restore brings: created without any right, awakened once they are in use, dropped if they never are."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from psycopg import errors
from psycopg.sql import SQL, Composed, Identifier

from recovery.common.errors import RestoreError, VerificationError
from recovery.common.files import empty_folder
from recovery.common.wording import ROLLS_BACK
from recovery.packs.content_diff import Difference, compare
from recovery.packs.content_index import Facts, Row
from recovery.sources.base import RestoreView
from recovery.sources.postgres.accounts import server_globals, versions
from recovery.sources.postgres.client import Connection
from recovery.sources.postgres.definitions.names import quoted_name, quoted_names
from recovery.sources.postgres.targets import Target

log = logging.getLogger(__name__)

CREATED_ROLE = "create role"
"""Journal step: a role that the server lacks, or that a restore left asleep, is about to be made the set's; fact ``role``."""
_AWAKEN = "awaken"
"""Journal step; fact ``roles``: those that this restore created and that it gives to the live system."""


def globals_artifact(restore: RestoreView) -> str | None:
    """The artifact with the roles; None if the set has none."""
    for artifact in restore.artifacts():
        if next(restore.rows(artifact, "server"), None):
            return artifact
    return None


def roles(restore: RestoreView) -> dict[str, Facts]:
    """The set's roles."""
    artifact = globals_artifact(restore)
    return {name: facts for _, name, facts in restore.rows(artifact, "role")} if artifact else {}


def needed_roles(restore: RestoreView, chosen: Sequence[Target]) -> dict[str, Facts]:
    """The set's roles that a restore brings: all of them, or where parts were asked for, those that the databases among these need.

    These are owners, who has rights, and the roles that they are members of. None is needed where everything gets one owner.
    """
    known = {} if any(target.terms.heir for target in chosen) else roles(restore)
    if not restore.only:
        return known
    needed: set[str] = set()
    found = {name for target in chosen for name in target.snapshot["roles"] if name in known}
    while found:
        needed |= found
        found = {group for name in found for group, *_ in known[name]["member of"] or () if group in known} - needed
    return {name: facts for name, facts in known.items() if name in needed}


def coming_roles(connection: Connection, restore: RestoreView) -> dict[str, Facts]:
    """The set's roles that the server lacks, or that are asleep there."""
    awake = {name for _, name, facts in server_globals.role_rows(connection) if not server_globals.is_asleep(facts)}
    return {name: facts for name, facts in roles(restore).items() if name not in awake}


def created_roles(restore: RestoreView) -> list[str]:
    """The roles that this restore created or took over, by its journal, without repetition."""
    return list(dict.fromkeys(str(facts["role"]) for facts in restore.recorded_facts(CREATED_ROLE)))


def create_roles(connection: Connection, restore: RestoreView, chosen: Sequence[Target]) -> None:
    """Create the roles that the restore brings and the server lacks, without any right until they are in use.

    Raises:
        RestoreError: if the server refuses, or a role waits for another restore that has not ended.
    """
    artifact, needed = globals_artifact(restore), needed_roles(restore, chosen)
    if artifact is None or not needed:
        return
    roles = {name: role for name, role in set_roles(restore, artifact).items() if name in needed}
    existing = {name: facts for _, name, facts in server_globals.role_rows(connection)}
    others = restore.others
    for name, role in roles.items():
        if name not in existing:
            restore.record(CREATED_ROLE, role=name)
            server_globals.create_role(connection, role, restore.id)
            log.info("role %s created, without rights until the swap", quoted_name(name))
        elif owner := server_globals.waits_for(existing[name]):
            if owner in others:
                raise RestoreError(
                    f"The role {quoted_name(name)} waits for the swap of the restore {owner}.", "Wait until that one has ended."
                )
            restore.record(CREATED_ROLE, role=name)
            server_globals.adopt_role(connection, role, existing[name], restore.id)
            log.info("role %s, which a restore left without LOGIN, taken over", quoted_name(name))


def set_roles(restore: RestoreView, artifact: str) -> dict[str, dict[str, Any]]:
    """The set's roles with their password hashes, by name; the file that held them is gone afterwards."""
    folder = empty_folder(restore.folder / "globals")
    try:
        restore.unpack(artifact, folder)
        return server_globals.read_roles(folder / "roles.jsonl")
    finally:
        shutil.rmtree(folder)


def awaken(connection: Connection, restore: RestoreView) -> None:
    """Make the created roles the set's, take their mark off, and give them back to their members, whoever those are.

    Only roles that are still asleep: another restore that took one over may have given it to the live system already.

    Raises:
        RestoreError: if one is gone.
        VerificationError: if a role is not the set's then, or a member has not what the set has.
    """
    known = {name: facts for _, name, facts in server_globals.role_rows(connection)}
    created, wanted = set(created_roles(restore)), roles(restore)
    if gone := sorted(wanted.keys() & created - known.keys()):
        raise RestoreError(
            f"Roles that this restore created are gone: {quoted_names(gone)}.",
            "Somebody dropped them. Trigger a new restore.",
        )
    sleeping = {
        name
        for name in created & wanted.keys()
        if server_globals.is_asleep(known[name]) or (wanted[name]["login"] and not known[name]["login"])
    }
    restore.record(_AWAKEN, roles=sorted(sleeping))
    if differences := wake(connection, restore, sleeping):
        raise VerificationError(
            f"The restored roles are not the set's: {'; '.join(map(str, differences))}.",
            f"The statements were undone; report it. {ROLLS_BACK}",
        )


def wake(connection: Connection, restore: RestoreView, sleeping: Collection[str]) -> list[Difference]:
    """Awaken roles in the transaction that is open; how they and their members differ from the set's then."""
    known = {name for _, name, _ in server_globals.role_rows(connection)}
    created, wanted = set(created_roles(restore)), roles(restore)
    members: dict[str, list[list[Any]]] = {}
    for name in sorted(sleeping):
        for statement in server_globals.wake(name, wanted[name]):
            connection.execute(statement)
    for name, facts in wanted.items():
        groups = [group for group in facts["member of"] or () if name in sleeping or group[0] in sleeping]
        if name in sleeping or (groups and name in known - created):
            for statement in server_globals.grants(name, groups):
                connection.execute(statement)
            if name not in sleeping:
                members[name] = groups
    now = {name: facts for _, name, facts in server_globals.role_rows(connection)}
    return changed(wanted, now, sleeping) + _lacking(now, members)


def changed(wanted: Mapping[str, Facts], now: Mapping[str, Facts], awake: Collection[str]) -> list[Difference]:
    """How roles that are in use differ from the set's."""

    def rows(known: Mapping[str, Facts]) -> list[Row]:
        return [("role", name, _lasting(known[name])) for name in sorted(awake)]

    return compare(rows(wanted), rows(now))


def _lasting(role: Facts) -> Facts:
    """A role, in which valid for ever is said in one of two ways."""
    role = versions.membership(role)
    return role | {"valid until": None if role["valid until"] == "infinity" else role["valid until"]}


def _lacking(now: Mapping[str, Facts], members: Mapping[str, list[list[Any]]]) -> list[Difference]:
    """What roles that were there before have less of their groups than the set has; whoever creates a group has more."""
    lacking = []
    for name, groups in members.items():
        has = {group: flags for group, *flags in versions.membership(now[name])["member of"] or ()}
        for group, *flags in versions.membership({**now[name], "member of": groups})["member of"]:
            if group not in has or any(wanted and not found for wanted, found in zip(flags, has[group], strict=True)):
                lacking.append(Difference("role", name, f"it has less of {quoted_name(group)} than in the set"))
    return lacking


def asleep(connection: Connection, restore: RestoreView) -> list[Composed]:
    """Statements that put the roles to sleep again that were awakened."""
    known = {name: facts for _, name, facts in server_globals.role_rows(connection)}
    awake = known.keys() & {name for facts in restore.recorded_facts(_AWAKEN) for name in cast("list[str]", facts["roles"])}
    statements = [statement for name in sorted(awake) for statement in server_globals.sleep(name, known[name], restore.id)]
    for name, facts in roles(restore).items():
        if name in known.keys() - set(created_roles(restore)):
            groups = [group[0] for group in facts["member of"] or () if group[0] in awake]
            statements += [SQL("REVOKE {} FROM {}").format(Identifier(group), Identifier(name)) for group in groups]
    return statements


def drop_role(connection: Connection, restore: RestoreView, role: str) -> None:
    """Drop a role that carries the mark of this very restore: any other of the name is somebody's by now."""
    facts = next((facts for _, name, facts in server_globals.role_rows(connection) if name == role), None)
    if facts is None:
        return
    if server_globals.waits_for(facts) != restore.id:
        log.info("role %s, which this restore created, is in use or another restore's by now, and stays", role)
        return
    try:
        with connection.transaction():
            for statement in server_globals.parameter_revokes(role, facts):
                connection.execute(statement)
            connection.execute(SQL("DROP ROLE IF EXISTS {}").format(Identifier(role)))
        log.info("role %s, which this restore created, is dropped", role)
    except errors.DependentObjectsStillExist as error:
        log.warning("role %s, which this restore created, is in use and stays: %s", role, error.diag.message_detail)
