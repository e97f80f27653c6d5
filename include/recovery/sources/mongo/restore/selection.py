"""What a restore wants: the parts of a set that were asked for, under the names that they get."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from tarfile import TarInfo

from recovery.common.wording import shortened
from recovery.packs.content_index import Facts
from recovery.sources.base import RestoreView
from recovery.sources.mongo.accounts import account_kind, names_needed
from recovery.sources.mongo.catalog import LONGEST_NAME, Namespace, data_path, definitions, metadata_path, split_name
from recovery.sources.mongo.renames import Names, read_by

_SHOWN = 5


@dataclass(frozen=True)
class Parts:
    """Databases as a whole, and single collections, time series and views."""

    whole: frozenset[str]
    single: frozenset[str]
    """``<database>.<name>``."""

    @classmethod
    def of(cls, only: Sequence[str]) -> Parts:
        """What a person asked for, ``database`` or ``database.collection``; collections may have dots, databases have none."""
        return cls(frozenset(part for part in only if "." not in part), frozenset(part for part in only if "." in part))

    def has(self, full: str) -> bool:
        """Whether something is one of the parts, or in one."""
        return full in self.single or split_name(full)[0] in self.whole

    @property
    def databases(self) -> list[str]:
        """Every database that a part is in."""
        return sorted(self.whole | {split_name(full)[0] for full in self.single})


@dataclass(frozen=True)
class Planned:
    """What a restore wants, from the set's rows."""

    collections: Mapping[str, Facts]
    indexes: Mapping[str, Facts]
    views: Mapping[str, Facts]
    accounts: Mapping[tuple[str, str], Facts]
    whole: frozenset[str]
    """Databases that are wanted and that the set holds whole: what they have and the set has not goes."""

    def definitions(self) -> Iterator[tuple[str, Mapping[str, Facts]]]:
        """Rows that are staged, by kind."""
        yield from (("collection", self.collections), ("index", self.indexes), ("view", self.views))

    @property
    def names(self) -> set[str]:
        """``<database>.<name>`` of every collection, time series and view."""
        return {*self.collections, *self.views}

    @property
    def scope(self) -> Parts:
        """What is replaced."""
        return Parts(self.whole, frozenset(self.names))

    @property
    def databases(self) -> list[str]:
        """Every database it has something of."""
        return self.scope.databases

    @property
    def bytes(self) -> int:
        """All documents."""
        return sum(int(facts["bytes"]) for facts in self.collections.values())

    def within(self, parts: Parts) -> Planned:
        """What of it is in some parts; users and roles as they are."""
        return replace(
            self,
            collections={name: facts for name, facts in self.collections.items() if parts.has(name)},
            indexes={name: facts for name, facts in self.indexes.items() if parts.has(self._owner(name))},
            views={name: facts for name, facts in self.views.items() if parts.has(name)},
            whole=self.whole & parts.whole,
        )

    def without(self, names: Collection[str]) -> Planned:
        """The same but for some collections and their indexes."""
        return replace(
            self,
            collections={name: facts for name, facts in self.collections.items() if name not in names},
            indexes={name: facts for name, facts in self.indexes.items() if self._owner(name) not in names},
        )

    def only_collections(self) -> Planned:
        """What has documents and is renamed: no time series, view, user or role."""
        series = {name for name, facts in self.collections.items() if facts["type"] == "timeseries"}
        return replace(self.without(series), views={}, accounts={}, whole=frozenset())

    def only(self, parts: Parts) -> Planned:
        """What was asked for; of users and roles, those that whole databases need."""
        needed = names_needed(self.accounts, parts.whole) if parts.whole else set()
        accounts = {account: facts for account, facts in self.accounts.items() if account in needed}
        return replace(self.within(parts), accounts=accounts)

    def renamed(self, names: Names) -> Planned:
        """As it is at a target."""
        owners = {name: self._owner(name) for name in self.indexes}
        return Planned(
            collections={names.full(name): facts for name, facts in self.collections.items()},
            indexes={names.full(owners[name]) + name.removeprefix(owners[name]): facts for name, facts in self.indexes.items()},
            views={
                names.full(name): facts | {"options": names.view_text(split_name(name)[0], str(facts["options"]))}
                for name, facts in self.views.items()
            },
            accounts=self.accounts if names.accounts else {},
            whole=frozenset(map(names.database, self.whole)),
        )

    def _owner(self, index: str) -> str:
        """The collection of an index's row, ``<database>.<name>[<index>]``: both names may have brackets, an index's by the million."""
        heads = [index[:at] for at, sign in enumerate(index[: LONGEST_NAME + 1]) if sign == "["]
        return next((head for head in reversed(heads) if head in self.collections), heads[0])

    def missing(self, only: Sequence[str]) -> Iterator[str]:
        """What was asked for and is not there, in words."""
        databases = sorted({*self.databases, *self.whole})
        for part in only:
            database, dot, name = part.partition(".")
            if not database or (dot and not name):
                yield f"{part!r} is no part of a MongoDB source: write database or database.collection."
            elif database not in databases:
                yield f"The set does not have the database {database!r}; it has {_some(databases, database)}."
            elif dot and part not in self.names:
                inside = sorted(split_name(full)[1] for full in self.names if split_name(full)[0] == database)
                yield f"The set does not have {part!r}; of {database} it has {_some(inside, name)}."


def _some(names: Sequence[str], asked: str) -> str:
    """Some names, those first that may have been meant."""
    near = get_close_matches(asked, names, _SHOWN)
    return shortened([*near, *(name for name in names if name not in near)], at_most=_SHOWN) or "nothing"


def all_rows(restore: RestoreView) -> Planned:
    """All that the set has."""
    kinds: dict[str, dict[str, Facts]] = {kind: {} for kind in ("collection", "index", "view", "user", "role", "database")}
    for artifact in restore.artifacts():  # none in a safety set of a server on which nothing was left
        for kind, name, facts in restore.rows(artifact, *kinds):
            kinds[kind][name] = facts
    return Planned(
        collections=kinds["collection"],
        indexes=kinds["index"],
        views=kinds["view"],
        accounts={(kind, name): facts for kind in ("user", "role") for name, facts in kinds[kind].items()},
        whole=frozenset(name for name, facts in kinds["database"].items() if facts["whole"]),
    )


def chosen(restore: RestoreView) -> Planned:
    """What was asked for, with the names that it has in the set."""
    found = all_rows(restore)
    return found.only(Parts.of(restore.only)) if restore.only else found


def planned(restore: RestoreView, names: Names) -> Planned:
    """What was asked for, with the names that it gets."""
    return chosen(restore).renamed(names)


def unpack(restore: RestoreView, folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Unpack what was asked for into an empty folder, and nothing else.

    Args:
        restore: whose set it is.
        folder: empty.
        wanted: leaves out what was asked for, by its name in the set.
    """
    asked = chosen(restore)
    paths = {metadata_path(*split_name(name)) for name in asked.names if wanted(name)}
    paths |= {data_path(*split_name(name), str(facts["type"])) for name, facts in asked.collections.items() if wanted(name)}

    def needed(member: TarInfo) -> bool:
        return member.name in paths or (bool(asked.accounts) and account_kind(member.name) is not None)

    for artifact in restore.artifacts():
        restore.unpack(artifact, folder, needed)


def target_namespaces(folder: Path, names: Names) -> list[Namespace]:
    """What was unpacked, as it is at the target."""
    return [names.namespace(namespace) for namespace in definitions(folder)]


def lacking_sources(wanted: Planned, live: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Views that read what will not be there, neither brought nor live and staying, with its names."""
    stays = {full for full in live if split_name(full)[0] not in wanted.whole} | wanted.names
    for view, facts in sorted(wanted.views.items()):
        database = split_name(view)[0]
        lacking = sorted(name for name in read_by(json.loads(str(facts["options"]))) if f"{database}.{name}" not in stays)
        if lacking:
            yield view, lacking
