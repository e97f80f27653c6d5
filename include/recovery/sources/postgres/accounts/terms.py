"""What the first gate says of a target that has its own terms: who owns what is restored, and who has rights on it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from recovery.common.wording import shortened
from recovery.sources.base import RestoreView
from recovery.sources.model import Finding, refusal, warning
from recovery.sources.postgres.client import Connection, Server
from recovery.sources.postgres.definitions.names import NAME, quoted_name, quoted_names, raw
from recovery.sources.postgres.targets import Target

_OWNED_PUBLIC_SINCE = 15
"""Before, the schema ``public`` of a new database belongs to a superuser."""
_USER = re.compile(rf"({NAME}) on server ", re.DOTALL)


def findings(server: Server, connection: Connection, restore: RestoreView, target: Target) -> Iterator[Finding]:
    """What they mean for a database, and what speaks against them."""
    me, terms = quoted_name(server.about.user), target.terms
    if terms.heir is None:
        if not terms.rights:
            yield warning(f"Nobody but the owners gets rights on what is in database {target.name} (grants: none).")
        return
    yield warning(
        f"All of database {target.name} will belong to {me}, and nobody else gets rights on it (owners: mine, grants: none)."
        f" Views and functions of the set that run with their owner's rights then run with those of {me}."
    )
    if server.about.superuser:
        yield refusal(
            f"With owners: mine, code of the set would run with the rights of {me}, who is a superuser. Name a user who is none in the"
            " target's Connection, or write owners: keep."
        )
    if server.about.major < _OWNED_PUBLIC_SINCE:
        yield refusal(f"owners: mine needs PostgreSQL {_OWNED_PUBLIC_SINCE} or newer; the server is {server.about.version}.")
    known = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    for kind, name, facts in restore.rows(target.artifact, "policy", "user mapping"):
        if lacking := sorted(_named(kind, name, facts.get("roles")) - known):
            yield refusal(
                f"The {kind} {name} of database {target.saved} names roles that the server lacks: {quoted_names(lacking)}."
                " Create them first."
            )
    if others := sorted(role for role in target.facts["settings"] or {} if role):
        yield warning(f"Settings of roles in database {target.saved} are not brought: {shortened(list(map(quoted_name, others)))}.")


def _named(kind: str, name: str, roles: list[str | None] | None) -> set[str]:
    """The roles that a policy or a user mapping is for; ``public`` is everybody."""
    if kind == "policy":
        return set(filter(None, roles or ()))
    match = _USER.match(name)
    return {raw(match[1])} - {"public"} if match else set()
