"""The names that things of a set have at a target: databases and collections may be called otherwise there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recovery.common.errors import PlanError
from recovery.plan.kinds.mongo import MongoTarget
from recovery.sources.mongo.catalog import Namespace, marked_id, split_name

_LONGEST_DATABASE = 63
"""Bytes."""
_NOT_IN_DATABASES = set('/\\. "$*<>:|?\0')


@dataclass(frozen=True)
class Names:
    """What is called otherwise at a target, by its name in the set."""

    accounts: bool = True
    """Whether users and roles are brought there."""
    databases: Mapping[str, str] = field(default_factory=dict)
    collections: Mapping[str, str] = field(default_factory=dict)
    """By ``<database>.<name>`` of the set; the new names are without a database, since collections may have dots."""

    @classmethod
    def of(cls, there: MongoTarget | None) -> Names:
        """The names at a target of a plan; None is the live system.

        Raises:
            PlanError: if one is none that a database or collection can have.
        """
        if there is None:
            return cls()
        for old, new in (*there.databases.items(), *there.collections.items()):
            if why := _unfit_database(new) if old in there.databases else _unfit(new):
                raise PlanError(f"At the target {old} can't become {new!r}: {why}.", "Correct the target in the plan.")
        return cls(there.accounts, there.databases, there.collections)

    def database(self, name: str) -> str:
        """What a database is called there."""
        return self.databases.get(name, name)

    def full(self, full: str) -> str:
        """``<database>.<name>`` there."""
        database, name = split_name(full)
        return f"{self.database(database)}.{self.collections.get(full, name)}"

    def namespace(self, namespace: Namespace) -> Namespace:
        """A collection, time series or view as it is there; what a view reads is called as it is there too."""
        database, name = split_name(self.full(namespace.full))
        options = self._view(namespace.database, namespace.options) if namespace.type == "view" else namespace.options
        return replace(namespace, database=database, name=name, options=options)

    def view_text(self, database: str, text: str) -> str:
        """A view's options in a row, which are JSON, as they are there; to the letter the same if nothing in them changes its name."""
        options = json.loads(text)
        there = self._view(database, options)
        return text if there == options else json.dumps(there)

    def _view(self, database: str, options: Mapping[str, Any]) -> dict[str, Any]:
        return renamed_view(options, lambda name: self.collections.get(f"{database}.{name}", name))

    def faults(self, wanted: Iterable[str], known: Iterable[str]) -> Iterator[tuple[bool, str]]:
        """What is wrong with the names, as ``(whether nothing can be done, words)``.

        Args:
            wanted: ``<database>.<name>`` of what is restored.
            known: the same of all that the set has.
        """
        wanted, known = sorted(wanted), set(known)
        counted = Counter(map(self.full, wanted))
        for taken in sorted(name for name, count in counted.items() if count > 1):
            both = [name for name in wanted if self.full(name) == taken]
            yield (
                True,
                f"{' and '.join(both)} would both become {taken} at the target. Give one of them another name in the plan's targets.",
            )
        for name in sorted({*self.databases} - {split_name(full)[0] for full in known} | {*self.collections} - known):
            yield False, f"The plan's target renames {name}, which the set does not have."


def _unfit_database(name: str) -> str:
    if name in {"admin", "config", "local"}:
        return "that database is the server's own"
    if set(name) & _NOT_IN_DATABASES or len(name.encode()) > _LONGEST_DATABASE:
        return "that is no name of a database"
    return ""


def _unfit(name: str) -> str:
    if not name or "$" in name or "\0" in name or name.startswith(".") or name.endswith(".") or ".." in name:
        return "that is no name of a collection"
    if name.startswith("system.") or marked_id(name):
        return "names like that are not the users' own"
    return ""


# Views ----------------------------------------------------------------------------------------------------------------


def renamed_view(options: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """A view's options with other names for the collections that it reads, in BSON's form or in JSON's."""
    named = {"viewOn": rename(str(options["viewOn"])), "pipeline": _pipeline(options.get("pipeline", []), rename)}
    return {key: named.get(key, value) for key, value in options.items()}


def read_by(options: Mapping[str, Any]) -> set[str]:
    """The names of the collections and views, of the same database, that a view reads."""
    found: set[str] = set()

    def note(name: str) -> str:
        found.add(name)
        return name

    renamed_view(options, note)
    return found


def _pipeline(stages: Sequence[Any], rename: Callable[[str], str]) -> list[Any]:
    return [
        {operator: _operand(operator, value, rename) for operator, value in stage.items()} if isinstance(stage, Mapping) else stage
        for stage in stages
    ]


def _operand(operator: str, value: Any, rename: Callable[[str], str]) -> Any:
    """Only these stages name collections or have pipelines of their own; what looks like it elsewhere is data."""
    if operator == "$unionWith" and isinstance(value, str):
        return rename(value)
    if operator in {"$lookup", "$graphLookup", "$unionWith"} and isinstance(value, Mapping):
        return {key: _argument(key, inner, rename) for key, inner in value.items()}
    if operator == "$facet" and isinstance(value, Mapping):
        return {name: _pipeline(inner, rename) for name, inner in value.items()}
    return value


def _argument(key: str, value: Any, rename: Callable[[str], str]) -> Any:
    if key in {"from", "coll"} and isinstance(value, str):
        return rename(value)
    return _pipeline(value, rename) if key == "pipeline" and isinstance(value, list) else value
