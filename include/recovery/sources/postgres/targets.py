"""What a set holds of a PostgreSQL server, as a restore sees it, and the names that its steps give to databases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recovery.packs.content_index import Facts
from recovery.sources.base import RestoreView
from recovery.sources.postgres.selection import parse

Objects = dict[tuple[str, str], Facts]
"""Rows by kind and name."""
UNTRIED = "timescaledb"
"""An extension that needs steps of its own at a restore, which nobody has tried with this project."""
LEFT_OUT = "left out"
"""Kind of the rows that say what the plan left out of a database on purpose; see :mod:`recovery.sources.postgres.dump.exclusions`."""
NO_OBJECTS = frozenset({"snapshot", "text", LEFT_OUT})
"""Kinds of rows that say something about a dump, and not what is in it."""
NAME_BYTES = 63
"""PostgreSQL cuts longer names silently (NAMEDATALEN - 1)."""


DATABASE_OWNER = "pg_database_owner"
"""Who owns a database, whoever that is."""


@dataclass(frozen=True)
class Terms:
    """Who gets what is restored as a whole."""

    heir: str | None = None
    """Who owns all of it; None: the owners that the set has."""
    rights: bool = True
    """Whether others have the rights that the set has; else nobody has any but the owners."""

    def owner(self, owner: str) -> str:
        """Who owns what a role of the set owned."""
        return self.heir if self.heir and owner != DATABASE_OWNER else owner

    def database(self, facts: Facts) -> Facts:
        """The ``database`` row of a set, as it is brought: settings of roles need these roles."""
        own = {role: values for role, values in (facts["settings"] or {}).items() if not role}
        return self._outside(facts, "CONNECT", "CREATE", "TEMPORARY") | ({"settings": own or None} if self.heir else {})

    def schema(self, facts: Facts) -> Facts:
        """The row of a schema, as it is brought."""
        return self._outside(facts, "CREATE", "USAGE")

    def _outside(self, facts: Facts, *privileges: str) -> Facts:
        owner = self.owner(facts["owner"])
        return facts | {"owner": owner} | ({} if self.rights else {"acl": [[owner, privilege, False] for privilege in privileges]})

    def expected(self, objects: Objects) -> Objects:
        """What a set holds of a database, as it is brought: of rights, only who has some."""
        if self == KEPT:
            return objects
        brought: Objects = {}
        for (kind, name), facts in self._comparable(objects).items():
            if kind == "default rights" and not self.rights:
                continue
            changed = self.database(facts) if kind == "database" else dict(facts)
            if kind != "database" and facts.get("owner"):
                changed["owner"] = self.owner(facts["owner"])
                if not self.rights and "acl" in facts:
                    changed["acl"] = [changed["owner"]]
            if not self.rights and isinstance(facts.get("columns"), dict):
                changed["columns"] = {column: {k: v for k, v in own.items() if k != "acl"} for column, own in facts["columns"].items()}
            brought[kind, name] = changed
        return brought

    def found(self, objects: Objects) -> Objects:
        """What was restored, to be compared with what is expected."""
        if self.rights:
            return self._comparable(objects)

        def holders(kind: str, facts: Facts) -> Facts:
            if kind == "database" or "acl" not in facts:
                return facts
            return facts | {"acl": sorted({grantee or "" for grantee, *_ in facts["acl"] or ()})}

        return {(kind, name): holders(kind, facts) for (kind, name), facts in self._comparable(objects).items()}

    def _comparable(self, objects: Objects) -> Objects:
        """Without rights on what is the server's own, and without digests that have rights and owners in them."""
        if self == KEPT:
            return objects
        kept = {key: facts for key, facts in objects.items() if self.rights or key[0] != "rights"}
        large = {key: {k: v for k, v in facts.items() if k != "rights"} for key, facts in kept.items() if key[0] == "large objects"}
        return kept | large


KEPT = Terms()
"""As the set has it."""


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
    terms: Terms = KEPT

    @property
    def brought(self) -> Facts:
        """Its ``database`` row, as it is brought."""
        return self.terms.database(self.facts)

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


def databases(restore: RestoreView, renamed: Mapping[str, str] | None = None, terms: Terms = KEPT) -> list[Target]:
    """Every database of a set, in the order of its artifacts, whatever was asked for."""
    if restore.rolling_back:  # to what was there
        terms = KEPT
    found = []
    for artifact in restore.artifacts():
        rows = {kind: (name, facts) for kind, name, facts in restore.rows(artifact, "database", "snapshot")}
        if "database" in rows:
            saved, facts = rows["database"]
            name = (renamed or {}).get(saved, saved)
            found.append(Target(name, saved, artifact, restore.id, facts, rows["snapshot"][1], restore.in_place, terms))
    return found


def targets(restore: RestoreView, renamed: Mapping[str, str] | None = None, terms: Terms = KEPT) -> list[Target]:
    """The databases of a set that were asked for as a whole."""
    wanted = parse(restore.only).databases
    return [target for target in databases(restore, renamed, terms) if not restore.only or target.saved in wanted]


def expected_objects(restore: RestoreView, target: Target) -> Objects:
    """What a set holds of a database."""
    return {(kind, name): facts for kind, name, facts in restore.rows(target.artifact) if kind not in NO_OBJECTS}
