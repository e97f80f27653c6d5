"""Settings and custom code: named files and folders anywhere, such as ``.env``, the Compose file and ``custom/``.

They hold secrets: what is staged lies in folders that only this worker can enter, and nothing here logs a value.
"""

# pathlib has no paths of bytes.
# ruff: noqa: PTH118

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tarfile import TarInfo
from typing import IO

from recovery.components import entries, filesystem
from recovery.components.base import Finding, Preflight, Restore
from recovery.components.by_rename import ByRename, Place
from recovery.components.inventory import shortened
from recovery.components.settings_file import LARGEST, changed_keys, is_settings_file, key_digests
from recovery.components.tree import Excludes, Found, Walk, at, mark, raw, readable, shown
from recovery.contents import Facts, Row
from recovery.errors import RestoreError, SourceError
from recovery.plan import ConfigSource

log = logging.getLogger(__name__)

_NOT_COMPARED = frozenset({"mtime"})


@dataclass(frozen=True)
class Compared:
    """An entry of the set beside the live one: the topmost ones that are not equal, and all that are."""

    path: str
    facts: Facts
    state: str
    """``missing``, ``equal``, ``differs``; ``folder differs`` if only a folder's own mode or owner does."""
    how: str = ""
    """What differs, in words."""


class Config(ByRename):
    """Named files and folders. A named link is kept with what it points to.

    A restore brings what is missing; with the option ``config: all`` it also replaces what differs in content, mode or
    owner (a time alone is no difference). What is equal stays, and so does what the set does not have. Folders that
    entries went into or out of keep the time of that, also after the way back. Staged in
    ``.recovery-<id>-<source>/new`` beside each named path, below which the set's paths are the same as below ``/``.
    """

    kind = "config"
    root = Path("/")

    def __init__(self, name: str, settings: ConfigSource) -> None:
        super().__init__(name)
        self.suffix = name
        self._paths = settings.paths
        self._excluded = Excludes(settings.exclude)

    # Backup ---------------------------------------------------------------------------------------------------------

    def walk(self) -> Walk:
        """A look at every named path.

        Raises:
            SourceError: if one is not there, is ``/``, or is named and excluded at once.
        """
        named = self._named()
        if missing := [str(path) for path in named if not os.path.lexists(path)]:
            raise SourceError(f"{self.id}: not there: {shortened(missing)}.", "Bring them back, or correct the paths in the plan.")
        starts = [path for path in named if not any(self._inside(path, other) for other in named)]
        return Walk(self.root, [os.fsencode(path.relative_to(self.root)) for path in starts], self._excluded)

    def _named(self) -> list[Path]:
        named = dict.fromkeys(self._paths)
        named |= dict.fromkeys(Path(os.path.realpath(path)) for path in self._paths if path.is_symlink())
        if self.root in named:
            raise SourceError(f"{self.id} names / itself.", "Name the files and folders that hold settings.")
        return list(named)

    def _inside(self, path: Path, other: Path) -> bool:
        if other not in path.parents:
            return False
        below = path.relative_to(other)
        if any(self._excluded(os.fsencode(part)) for part in (below, *below.parents) if part.name):
            raise SourceError(f"{self.id} names {path}, but excludes it from {other}.", "Correct the plan's paths or exclude.")
        return True

    @staticmethod
    def read_pack(artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
        """As for files, and a row ``("keys", path, {key: digest})`` for every file of settings."""
        keys: list[Row] = []

        def noted() -> Iterator[tuple[TarInfo, IO[bytes] | None]]:
            for info, data in members:
                if data is not None and info.size <= LARGEST and is_settings_file(info.name):
                    content = data.read()
                    keys.append(("keys", info.name, key_digests(info.name, content)))
                    data = io.BytesIO(content)
                yield info, data

        yield from entries.of_members(noted())
        yield from keys

    # Restore --------------------------------------------------------------------------------------------------------

    def homes(self) -> Sequence[Path]:
        """The folders of the named paths."""
        return list(dict.fromkeys(path.parent for path in self._named()))

    def places(self, restore: Restore) -> Sequence[Place]:
        """The folders of the paths that the set names, which may be others than the plan names now."""
        homes: dict[Path, list[str]] = {}
        for artifact in restore.artifacts():
            for _, path, _ in restore.rows(artifact, "tree"):
                homes.setdefault((self.root / path).parent, []).append(path)
        return [Place(home, home / mark(restore.id, self.suffix), self.root, tuple(starts)) for home, starts in sorted(homes.items())]

    def changes(self, restore: Restore, place: Place) -> tuple[Iterable[bytes], Iterable[tuple[str, Facts]]]:
        """What is missing, and with ``config: all`` what differs."""
        replaced = {"missing", "differs"} if self._replaces(restore) else {"missing"}
        compared = list(self._compare(restore, place))
        folders = [(one.path, one.facts) for one in compared if one.state == "folder differs"]
        return [raw(one.path) for one in compared if one.state in replaced], folders if self._replaces(restore) else []

    def _replaces(self, restore: Restore) -> bool:
        choice = restore.options.get("config", "missing")
        if choice not in {"missing", "all"}:
            raise RestoreError(f"config: {choice!r} is not a choice.", "Choose config: missing or config: all.")
        return choice == "all"

    def _compare(self, restore: Restore, place: Place) -> Iterator[Compared]:
        able = filesystem.abilities(filesystem.nearest(place.home))
        wanted = dict(self.expected(restore, place))
        keys = {path: digests for artifact in restore.artifacts() for _, path, digests in restore.rows(artifact, "keys")}
        covered: str | None = None
        for path in sorted(wanted, key=lambda path: path.split("/")):
            if covered is not None and path.startswith(covered + "/"):
                continue
            facts = wanted[wanted[path]["target"]] if wanted[path]["type"] == "hardlink" else wanted[path]
            compared = self._beside_live(path, facts, able, keys.get(path))
            if compared.state in {"missing", "differs"}:
                covered = path
            yield compared

    def _beside_live(self, path: str, facts: Facts, able: entries.Abilities, keys: dict[str, str] | None) -> Compared:
        live = self._live(path)
        if live is None:
            return Compared(path, facts, "missing")
        _, _, expected = able.comparable(("entry", path, facts))
        _, _, found = able.comparable(("entry", path, live))
        names = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        differing = sorted(set(names) - _NOT_COMPARED - {"size"})
        if not differing:
            return Compared(path, facts, "equal")
        if facts["type"] != live["type"]:
            return Compared(path, facts, "differs", f"a {live['type']} where the set has a {facts['type']}")
        if facts["type"] == "folder":
            return Compared(path, facts, "folder differs", ", ".join(differing))
        how = ", ".join("content" if name == "sha256" else name for name in differing)
        if keys is not None and live["size"] <= LARGEST:
            changed = changed_keys(keys, key_digests(path, Path(os.fsdecode(at(self.root, raw(path)))).read_bytes()))
            how += f"; {changed}" if changed else ""
        return Compared(path, facts, "differs", how)

    def _live(self, path: str) -> Facts | None:
        try:
            return entries.of_found(self.root, Found(raw(path), os.lstat(at(self.root, raw(path)))))
        except (FileNotFoundError, NotADirectoryError):
            return None

    # Preflight ------------------------------------------------------------------------------------------------------

    def preflight(self, restore: Restore) -> Preflight:
        """What is missing, equal or differs, by path, with the names of changed keys; and what would be in the way."""
        findings: list[Finding] = []
        for place in self.places(restore):
            findings += self.common_findings(restore, place)
            try:
                compared = list(self._compare(restore, place))
            except OSError as error:
                findings.append(Finding("refusal", f"{readable(error.filename)} can't be compared: {error.strerror}."))
                continue
            findings += self._compared_findings(restore, place, compared)
            findings += self._obstacles(restore, place)
        return Preflight(self.identity(restore), tuple(findings), self.bytes_needed(restore))

    def _compared_findings(self, restore: Restore, place: Place, compared: Sequence[Compared]) -> Iterator[Finding]:
        by_state: dict[str, list[str]] = {}
        for one in compared:
            how = f" ({one.how})" if one.how else ""
            by_state.setdefault(one.state, []).append(shown(self.root, one.path) + how)
        replaces = self._replaces(restore)
        if missing := by_state.get("missing"):
            yield Finding("fact", f"Missing, and brought back: {shortened(missing)}.")
        for differs in (by_state.get("differs", []), by_state.get("folder differs", [])):
            if differs and replaces:
                yield Finding("warning", f"Differs, and replaced by what the set has, old passwords included: {shortened(differs)}.")
            elif differs:
                yield Finding("fact", f"Differs, and stays as it is (config: all replaces it): {shortened(differs)}.")
        if equal := by_state.get("equal"):
            yield Finding("fact", f"Equal, and left alone: {shortened(equal)}.")
        if extra := self._extra(restore, place):
            yield Finding("fact", f"Not in the set, and left alone: {shortened(extra)}.")
        unnamed = [shown(self.root, start) for start in place.starts if self.root / start not in self._named()]
        if unnamed:
            yield Finding("warning", f"In the set, but no longer named in the plan: {shortened(unnamed)}.")

    def _extra(self, restore: Restore, place: Place) -> list[str]:
        starts = [raw(start) for start in place.starts if (self.root / start).is_dir()]
        known = {path for path, _ in self.expected(restore, place)}
        live = (os.fsdecode(found.path) for found in Walk(self.root, starts, self._excluded))
        return sorted(shown(self.root, path) for path in live if path not in known)

    def _obstacles(self, restore: Restore, place: Place) -> Iterator[Finding]:
        paths, _ = self.changes(restore, place)
        reasons = list(filesystem.obstacles(place.home, ())) if place.home.is_dir() else []
        for path in (Path(os.fsdecode(at(self.root, path))) for path in paths):
            if path.parent.is_dir():
                exists = os.path.lexists(path)
                reasons += filesystem.obstacles(path.parent, [os.fsencode(path.name)] if exists else [])
            reasons += _mounted(path, place.home)
        if reasons:
            yield Finding("refusal", f"Not everything can be replaced: {shortened(list(dict.fromkeys(reasons)))}.")


def _mounted(path: Path, home: Path) -> Iterator[str]:
    """Mounts at, in, or above an entry, but below the folder that it is set aside in."""
    inside = os.path.realpath(home).rstrip("/") + "/"
    place = os.path.join(os.path.realpath(path.parent), path.name)
    for point in filesystem.mounts():
        if point == place:
            yield f"{path} is a mount point of its own, which can't be renamed: mount its folder instead, or restore it where it lies"
        elif point.startswith(place + "/") or (place.startswith(point + "/") and point.startswith(inside)):
            yield f"{point} is a mount point, so {path} can't be exchanged by rename"
