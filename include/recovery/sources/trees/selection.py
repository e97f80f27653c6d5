"""Which entries of a set were asked for: patterns of people, and what has to come along with the entries that they match."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from recovery.common.paths import raw, readable
from recovery.packs.content_index import Facts
from recovery.plan.excludes import Excludes

Entries = Callable[[], Iterable[tuple[str, Facts]]]
"""Gives the set's entries, in the order of packing, as often as it is called."""

_WILD = frozenset("*?[")
_NEAR = 5


class Only:
    """Paths and patterns of what is wanted; a folder is wanted with everything below it.

    What has no ``*``, ``?`` or ``[`` is the path of one entry. The rest is a pattern as in
    :class:`~recovery.plan.excludes.Excludes`: without ``/`` it is matched with names, however deep, with ``/`` with
    whole paths. An entry whose path is written exactly like a pattern is wanted too.

    Args:
        patterns: as the person wrote them.
        wild: whether there are patterns; else all are paths.
    """

    def __init__(self, patterns: Sequence[str], *, wild: bool = True) -> None:
        self.patterns = {pattern: pattern.strip("/") for pattern in patterns}
        """What each pattern, as the person wrote it, is as a path."""
        self._paths = frozenset(self.patterns.values())
        self._wild = {pattern: Excludes([pattern]) for pattern, path in self.patterns.items() if wild and _WILD & set(path)}

    def malformed(self) -> list[str]:
        """The patterns that can't match anything in any tree."""
        return [pattern for pattern, path in self.patterns.items() if {"", ".", ".."} & set(path.split("/")) or "\0" in path]

    def top(self, path: str) -> str | None:
        """The entry through which a path is wanted: itself, or the topmost of its folders that is; None if it is not."""
        return next((start for start in ways(path) if self._matches(start)), None) if path != "." else None

    def _matches(self, path: str) -> bool:
        return path in self._paths or any(wild(raw(path)) for wild in self._wild.values())

    def unmatched(self, entries: Entries) -> dict[str, list[str]]:
        """The patterns that match nothing, each with some entries of the set that lie nearest to it."""
        left = dict(self.patterns)
        for path in (path for path, _ in entries() if path != "."):
            for pattern in [
                each for each, wanted in left.items() if path == wanted or (each in self._wild and self._wild[each](raw(path)))
            ]:
                del left[pattern]
            if not left:
                return {}
        return {pattern: _near(path, entries) for pattern, path in left.items()}


def _near(path: str, entries: Entries) -> list[str]:
    """What the set has in the deepest folder of a path that it has, and by the same name elsewhere; names like the missing one first."""
    known = {each for each, _ in entries() if each != "."}
    name = path.rpartition("/")[2]
    parent = next((start for start in reversed(list(ways(path))) if start in known), None)
    missing = (path[len(parent) + 1 :] if parent else path).partition("/")[0]
    there: dict[str, list[str]] = {}
    elsewhere = []
    for each in sorted(known):
        above, _, last = each.rpartition("/")
        if above == parent or (parent is None and above not in known):
            there.setdefault(last, []).append(each)
        elif last.lower() == name.lower():
            elsewhere.append(each)
    like = dict.fromkeys(last for each in (missing, name) for last in difflib.get_close_matches(each, there, _NEAR))
    near = [*elsewhere[:_NEAR], *(each for last in like or there for each in there[last])]
    return [readable(each) for each in near[:_NEAR]]


def ways(path: str) -> Iterator[str]:
    """A path's folders from the top down, and the path itself."""
    end = path.find("/")
    while end >= 0:
        yield path[:end]
        end = path.find("/", end + 1)
    yield path


def at_or_below(paths: Collection[str]) -> Callable[[str], bool]:
    """Whether a path is one of some, or lies below one."""
    return lambda path: any(start in paths for start in ways(path))


class Part:
    """Some entries of a set as a tree of its own: the wanted ones, and the folders that they lie in.

    Hard links whose target is not wanted become a group of their own, led by the first of them. An archive has them as links to
    a member that is not extracted, so they have to be extracted apart, together with it.
    """

    def __init__(self, entries: Entries, wanted: Callable[[str], bool] | None = None) -> None:
        self._entries = entries
        self.wanted = wanted or (lambda path: True)
        """Whether an entry was asked for; all of them if nothing else is said."""
        self.above: set[str] = set()
        """Folders that wanted entries lie in, and that are not wanted themselves."""
        self.orphans: dict[str, str] = {}
        """Hard links whose target is not wanted, and that target."""
        for path, facts in entries() if wanted else ():
            if self.wanted(path):
                self._note(path, facts)
        self._targets = set(self.orphans.values())
        self._lost = {path: facts for path, facts in entries() if path in self._targets} if self.orphans else {}

    def _note(self, path: str, facts: Facts) -> None:
        if facts["type"] == "hardlink" and not self.wanted(facts["target"]):
            self.orphans[path] = facts["target"]
        parent = path.rpartition("/")[0]
        while parent and parent not in self.above and not self.wanted(parent):
            self.above.add(parent)
            parent = parent.rpartition("/")[0]

    def __contains__(self, path: str) -> bool:
        return path in self.above or self.wanted(path)

    def entries(self) -> Iterator[tuple[str, Facts]]:
        """The entries, in the order of packing."""
        leaders: dict[str, str] = {}
        for path, facts in self._entries():
            if target := self.orphans.get(path):
                leader = leaders.setdefault(target, path)
                yield path, self._lost[target] if leader == path else {"type": "hardlink", "target": leader}
            elif path in self:
                yield path, facts

    def apart(self) -> set[str]:
        """What has to be extracted apart: ``orphans``, and what they are links to."""
        return self.orphans.keys() | self._targets
