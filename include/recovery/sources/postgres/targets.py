"""What a set holds of a PostgreSQL server, as a restore sees it, and the names that its steps give to databases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recovery.packs.content_index import Facts
from recovery.sources.base import RestoreView
from recovery.sources.postgres.selection import parse

Objects = dict[tuple[str, str], Facts]
"""Rows by kind and name."""
LEFT_OUT = "left out"
"""Kind of the rows that say what the plan left out of a database on purpose; see :mod:`recovery.sources.postgres.dump.exclusions`."""
NO_OBJECTS = frozenset({"snapshot", "text", LEFT_OUT})
"""Kinds of rows that say something about a dump, and not what is in it."""
NAME_BYTES = 63
"""PostgreSQL cuts longer names silently (NAMEDATALEN - 1)."""


@dataclass(frozen=True)
class Target:
    """A database that a restore replaces."""

    name: str
    """Its name at the target; that of the set but for a plan's ``targets``."""
    saved: str
    """Its name in the set."""
    artifact: str
    restore_id: str
    facts: Facts
    """Its ``database`` row."""
    snapshot: Facts
    """Its ``snapshot`` row."""
    in_place: bool = False

    @property
    def major(self) -> int:
        """Version of PostgreSQL that it was dumped from."""
        return int(self.snapshot["major"])

    @property
    def stage(self) -> str:
        """The database that is restored into, beside the live one."""
        return f"{self.name}__stage_{self.restore_id}"

    @property
    def before(self) -> str:
        """What the live database is called after the swap."""
        return f"{self.name}__before_{self.restore_id}"

    @property
    def loaded(self) -> str:
        """The database that is restored into and verified."""
        return self.name if self.in_place else self.stage


def databases(restore: RestoreView, renamed: Mapping[str, str] | None = None) -> list[Target]:
    """Every database of a set, in the order of its artifacts, whatever was asked for."""
    found = []
    for artifact in restore.artifacts():
        rows = {kind: (name, facts) for kind, name, facts in restore.rows(artifact, "database", "snapshot")}
        if "database" in rows:
            saved, facts = rows["database"]
            name = (renamed or {}).get(saved, saved)
            found.append(Target(name, saved, artifact, restore.id, facts, rows["snapshot"][1], restore.in_place))
    return found


def targets(restore: RestoreView, renamed: Mapping[str, str] | None = None) -> list[Target]:
    """The databases of a set that were asked for as a whole."""
    wanted = parse(restore.only).databases
    return [target for target in databases(restore, renamed) if not restore.only or target.saved in wanted]


def expected_objects(restore: RestoreView, target: Target) -> Objects:
    """What a set holds of a database."""
    return {(kind, name): facts for kind, name, facts in restore.rows(target.artifact) if kind not in NO_OBJECTS}
