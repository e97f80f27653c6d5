"""Users and roles: which of them a source's databases need, and how they lie in a dump.

They lie where mongodump puts them, so that stock mongorestore takes them:

- all databases are the source: ``admin/system.users.bson``, ``admin/system.roles.bson``, for ``mongorestore --dir``;
- databases are named: ``<db>/$admin.system.users.bson``, ``<db>/$admin.system.roles.bson``, for
  ``mongorestore --restoreDbUsersAndRoles --db <db>``. Then those of these databases, those who were granted anything
  in them, and what these build on. An account of another database (mostly ``admin``) lies in that one's folder; who
  only holds a role over every database, such as ``root``, is not one of theirs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bson
from bson.json_util import RELAXED_JSON_OPTIONS, dumps
from pymongo.errors import OperationFailure

from recovery.packs.content_index import Facts, Row
from recovery.sources.mongo.client import Client, unauthorized
from recovery.sources.mongo.extended_json import CODEC

Document = Mapping[str, Any]
_FILES = {"system.users": "user", "system.roles": "role"}
_VERSION = "system.version"


@dataclass(frozen=True)
class Accounts:
    """Users and roles as ``admin.system.users`` and ``admin.system.roles`` have them, password hashes included."""

    users: tuple[Document, ...] = ()
    roles: tuple[Document, ...] = ()
    version: tuple[Document, ...] = field(default=(), repr=False)
    """The ``authSchema`` document of ``admin.system.version``, which mongorestore wants to see."""

    def __repr__(self) -> str:
        return f"{len(self.users)} users and {len(self.roles)} roles"

    def __bool__(self) -> bool:
        return bool(self.users or self.roles)

    def rows(self) -> Iterator[Row]:
        """Their rows, without password hashes."""
        yield from (account_row("user", user) for user in self.users)
        yield from (account_row("role", role) for role in self.roles)

    def only(self, names: Collection[tuple[str, str]]) -> Accounts:
        """Those whose ``(kind, id)`` is among ``names``."""
        users = tuple(user for user in self.users if ("user", str(user["_id"])) in names)
        roles = tuple(role for role in self.roles if ("role", str(role["_id"])) in names)
        return Accounts(users, roles, self.version)

    def names(self) -> set[tuple[str, str]]:
        """``(kind, id)`` of each."""
        return {(kind, name) for kind, name, _ in self.rows()}


def account_row(kind: str, document: Document) -> Row:
    """The row of a user or role: all but ids, credentials and their hashes."""
    facts: dict[str, Any] = {"roles": sorted(f"{role['db']}.{role['role']}" for role in document.get("roles", []))}
    if kind == "user":
        facts["mechanisms"] = sorted(document.get("credentials", {}))
        facts["custom_data"] = dumps(document.get("customData"), json_options=RELAXED_JSON_OPTIONS)
    else:
        facts["privileges"] = sorted(dumps(privilege, json_options=RELAXED_JSON_OPTIONS) for privilege in document.get("privileges", []))
    facts["restrictions"] = dumps(document.get("authenticationRestrictions") or [], json_options=RELAXED_JSON_OPTIONS)
    return kind, str(document["_id"]), facts


def read_accounts(client: Client, databases: Collection[str]) -> Accounts | None:
    """The users and roles that databases need, all of them if none is named; None where this user may not read them."""
    try:
        users: list[Document] = list(client.admin["system.users"].find())
        roles: list[Document] = list(client.admin["system.roles"].find())
        version = list(client.admin[_VERSION].find({"_id": "authSchema"}))
    except OperationFailure as error:
        if unauthorized(error):
            return None
        raise
    if databases:
        users, roles = _needed(users, roles, set(databases))
    return Accounts(tuple(users), tuple(roles), tuple(version))


def _needed(users: list[Document], roles: list[Document], databases: set[str]) -> tuple[list[Document], list[Document]]:
    known = {str(role["_id"]): role for role in roles}
    giving = {name for name, role in known.items() if role["db"] in databases or _grants(role, databases)}
    while more := {name for name, role in known.items() if _held(role) & giving} - giving:
        giving |= more
    chosen = [user for user in users if user["db"] in databases or _in(user, databases) or _held(user) & giving]
    names = giving | {name for user in chosen for name in _held(user)}
    while more := {name for held in names & known.keys() for name in _held(known[held])} - names:
        names |= more
    return chosen, [role for name, role in known.items() if name in names]


def _grants(role: Document, databases: set[str]) -> bool:
    named = {privilege["resource"].get("db") for privilege in role.get("privileges", [])}
    return bool(named & databases) or _in(role, databases)


def _in(account: Document, databases: set[str]) -> bool:
    return any(role["db"] in databases for role in account.get("roles", []))


def _held(account: Document) -> set[str]:
    return {f"{role['db']}.{role['role']}" for role in account.get("roles", [])}


def names_needed(rows: Mapping[tuple[str, str], Facts], databases: Collection[str]) -> set[tuple[str, str]]:
    """``(kind, id)`` of the users and roles that databases need, of those whose rows are given."""
    users, roles = ([_from_row(name, facts) for (kind, name), facts in rows.items() if kind == wanted] for wanted in ("user", "role"))
    users, roles = _needed(users, roles, set(databases))
    return {("user", str(user["_id"])) for user in users} | {("role", str(role["_id"])) for role in roles}


def _from_row(name: str, facts: Facts) -> Document:
    """As much of a user or role as :func:`_needed` looks at."""
    held = [dict(zip(("db", "role"), text.split(".", 1), strict=True)) for text in facts["roles"]]
    privileges = [json.loads(text) for text in facts.get("privileges", [])]
    return {"_id": name, "db": name.partition(".")[0], "roles": held, "privileges": privileges}


def reaching(rows: Mapping[tuple[str, str], Facts], account: tuple[str, str], databases: Collection[str]) -> list[str]:
    """The rights that an account has beyond some databases, its own and those through roles whose rows are given, in words."""
    found: dict[str, None] = {}
    waiting, seen = [account], {account}
    while waiting:
        facts = rows[waiting.pop()]
        inherited = [("role", role) for role in facts["roles"]]
        found |= dict.fromkeys(role for _, role in inherited if ("role", role) not in rows and role.partition(".")[0] not in databases)
        for text in facts.get("privileges", ()):
            resource = json.loads(text)["resource"]
            if resource.get("db") not in databases:
                found[f"privileges in {resource['db']}" if resource.get("db") else "privileges in all databases or the server"] = None
        waiting += [role for role in inherited if role in rows and role not in seen]
        seen.update(inherited)
    return sorted(found)


def write_accounts(accounts: Accounts, root: Path, *, whole_server: bool) -> int:
    """Write them below a dump's root; the number of bytes. Nothing is written where there are none."""
    if not accounts:
        return 0
    places = {"admin": accounts} if whole_server else _by_database(accounts)
    size = 0
    for database, theirs in places.items():
        folder = root / database
        folder.mkdir(exist_ok=True)
        for name, found in (("system.users", theirs.users), ("system.roles", theirs.roles), (_VERSION, accounts.version)):
            data = b"".join(map(bson.encode, found))
            (folder / f"{'' if whole_server else '$admin.'}{name}.bson").write_bytes(data)
            size += len(data)
    return size


def _by_database(accounts: Accounts) -> dict[str, Accounts]:
    def home(account: Document) -> str:
        return "admin" if account["db"].startswith("$") else str(account["db"])

    homes = sorted({home(account) for account in (*accounts.users, *accounts.roles)})
    return {
        name: Accounts(
            tuple(user for user in accounts.users if home(user) == name), tuple(role for role in accounts.roles if home(role) == name)
        )
        for name in homes
    }


def account_kind(path: str) -> str | None:
    """``user``, ``role`` or ``version`` for a file of accounts in a dump; None for any other file."""
    folder, _, file = path.rpartition("/")
    name = file.removesuffix(".bson")
    if not (name.startswith("$admin.") or folder == "admin"):
        return None
    name = name.removeprefix("$admin.")
    return "version" if name == _VERSION else _FILES.get(name)


def decode(found: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Documents of users or roles."""
    return (bson.decode(document, CODEC) for document in found)
