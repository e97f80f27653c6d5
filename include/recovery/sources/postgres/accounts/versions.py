"""What a newer major version of PostgreSQL knows of an object and an older one, whose set is restored, can't have had."""

from __future__ import annotations

from collections.abc import Iterable

from recovery.packs.content_index import Facts

Right = tuple[str | None, str, bool]
"""Grantee or null for everybody, privilege, may grant; in a set a list of the three."""

_RIGHTS_SINCE = {"MAINTAIN": 17}
"""Privileges and the major version that brought them (https://www.postgresql.org/docs/17/ddl-priv.html).

Owners have all that their server knows, and so have those to whom a dump grants ``ALL``.
"""


def known_rights(major: int, rights: Iterable[Right] | None) -> list[Right]:
    """Those of an object's rights that a major version knows."""
    return [right for right in rights or () if _RIGHTS_SINCE.get(right[1], 0) <= major]


def as_known(major: int, expected: Facts, found: Facts, *, catalog_columns: bool) -> tuple[Facts, Facts]:
    """Both sides of an object's facts without what only one of the two versions can know.

    Args:
        major: version of PostgreSQL that the set is from, the older one.
        expected: the object's facts in the set.
        found: its facts on the server.
        catalog_columns: whether facts are the columns of a catalog, which other versions have more or fewer of.
    """
    if found.get("acl"):
        found = found | {"acl": known_rights(major, found["acl"]) or None}
    if catalog_columns:
        both = expected.keys() & found.keys()
        expected, found = ({key: facts[key] for key in facts if key in both} for facts in (expected, found))
    return expected, found


def membership(role: Facts) -> Facts:
    """A role whose memberships say all that they mean.

    Before PostgreSQL 16 it is the member that inherits or not, and everybody may SET ROLE to a group
    (https://www.postgresql.org/docs/16/release-16.html).
    """
    groups = [
        (group, admin, role["inherit"] if inherit is None else inherit, True if may_set is None else may_set)
        for group, admin, inherit, may_set in role["member of"] or ()
    ]
    return {**role, "member of": groups or None}
