"""What a set holds of a PostgreSQL server, as a restore sees it, and the names that its steps give to databases."""

from __future__ import annotations

from dataclasses import dataclass

from recovery.components.base import Restore
from recovery.contents import Facts

NAME_BYTES = 63
"""PostgreSQL cuts longer names silently (NAMEDATALEN - 1)."""
CREATED_ROLE = "create role"
"""Journal step: a role that the server lacks, or that a restore left asleep, is about to be made the set's; fact ``role``."""


@dataclass(frozen=True)
class Target:
    """A database that a restore replaces."""

    name: str
    artifact: str
    restore_id: str
    facts: Facts
    """Its ``database`` row."""
    snapshot: Facts
    """Its ``snapshot`` row."""

    @property
    def stage(self) -> str:
        """The database that is restored into."""
        return f"{self.name}__stage_{self.restore_id}"

    @property
    def before(self) -> str:
        """What the live database is called after the switch."""
        return f"{self.name}__before_{self.restore_id}"


def targets(restore: Restore) -> list[Target]:
    """The databases of a set, in the order of its artifacts."""
    found = []
    for artifact in restore.artifacts():
        rows = {kind: (name, facts) for kind, name, facts in restore.rows(artifact, "database", "snapshot")}
        if "database" in rows:
            name, facts = rows["database"]
            found.append(Target(name, artifact, restore.id, facts, rows["snapshot"][1]))
    return found


def globals_artifact(restore: Restore) -> str | None:
    """The artifact with the roles; None if the set or the choice of the run has none."""
    for artifact in restore.artifacts():
        if next(restore.rows(artifact, "server"), None):
            return artifact
    return None


def roles(restore: Restore) -> dict[str, Facts]:
    """The set's roles."""
    artifact = globals_artifact(restore)
    return {name: facts for _, name, facts in restore.rows(artifact, "role")} if artifact else {}


def created_roles(restore: Restore) -> list[str]:
    """The roles that this restore created or took over, by its journal, without repetition."""
    return list(dict.fromkeys(str(facts["role"]) for facts in restore.journalled(CREATED_ROLE)))
