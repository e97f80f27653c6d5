"""Settings and custom code: named files and folders anywhere, such as ``.env``, the Compose file and ``custom/``.

They hold secrets: what is staged lies in folders that only this worker can enter, and nothing here logs a value.
"""

# pathlib has no paths of bytes.

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from recovery.common.errors import RestoreError
from recovery.common.held_folder import HeldFolder
from recovery.common.paths import at, raw, readable, shown, text
from recovery.common.trusted_path import where
from recovery.common.wording import shortened
from recovery.packs.content_diff import Change, Difference
from recovery.packs.content_index import Facts, Row
from recovery.plan.excludes import Excludes
from recovery.plan.kinds.config import ConfigSettings, ConfigTarget
from recovery.plan.location import Location
from recovery.runners.base import Runner
from recovery.sources.base import Access, RestoreView, announce_drop
from recovery.sources.config.named_paths import TOP, NamedPaths
from recovery.sources.model import Finding, Preflight
from recovery.sources.trees import filesystem, preflight
from recovery.sources.trees.diff import Compared, amount, changes, one_beside
from recovery.sources.trees.in_place import InPlace
from recovery.sources.trees.places import Places
from recovery.sources.trees.selection import Only, Part, at_or_below
from recovery.sources.trees.source import TreeSource, translated_errors
from recovery.sources.trees.swap import ExchangePlan, SwapPoint
from recovery.sources.trees.walk import Walk, mark
from recovery.sources.trees.work_folder import WorkFolder, homes_of_works


class Config(TreeSource):
    """Named files and folders. A named link is kept with what it points to.

    A restore brings what is missing; with the option ``config: all`` it also replaces what differs in content, mode or
    owner (a time alone is no difference). What is equal stays, and so does what the set does not have. Folders that
    entries went into or out of keep the time of that, also after the rollback. Staged in
    ``.recovery-<id>-<source>/new`` beside each named path, below which the set's paths are the same as below ``/``.

    A part that was asked for by its path is replaced if it differs, whatever the option says. In place is the same with
    nothing set aside: settings are small, so they are staged all the same, and what differs is then removed and not kept.
    """

    kind = "config"
    before_paths = "/"
    a_part = "the path of a named file or folder, or of something in it, from / on"

    def __init__(self, name: str, settings: ConfigSettings, there: Path | None = None, *, runner: Runner) -> None:
        super().__init__(name, settings, runner)
        self.suffix = name
        self.root = there or TOP
        self.made_mode = 0o700 if there else self.made_mode
        self._excluded = Excludes(settings.exclude)
        self._named = NamedPaths(self.id, settings.paths, self._excluded)

    @classmethod
    def of(cls, name: str, settings: ConfigSettings, there: ConfigTarget | None, access: Access) -> Self:
        """See :meth:`recovery.sources.base.Source.of`."""
        return cls(name, settings, there.folder if there else None, runner=access.runner)

    def lost_folder(self, location: Location) -> Path | None:
        """See :meth:`TreeSource.lost_folder`."""
        folder = Path(*location[1:]).parent
        return folder if location[1] == "/" and not folder.is_dir() else None

    # Backup ---------------------------------------------------------------------------------------------------------

    def walk(self) -> Walk:
        """A look at every named path; see :meth:`NamedPaths.walk`."""
        return self._named.walk(damaged=self.damaged)

    def _named_here(self) -> list[Path]:
        """What the plan names, where this source lies."""
        return [self.root / path.relative_to(TOP) for path in self._named.all()]

    # Restore --------------------------------------------------------------------------------------------------------

    def homes(self) -> Sequence[Path]:
        """The folders of the named paths."""
        return list(dict.fromkeys(path.parent for path in self._named_here()))

    def swap_points(self, restore: RestoreView) -> Sequence[SwapPoint]:
        """The folders of the paths that the set names, which may be others than the plan names now; of a part, those with some of it."""
        only = self._only(restore)
        homes: dict[Path, list[str]] = {}
        for start in self._starts(restore):
            if not restore.only or only.top(start) or any(path.startswith(start + "/") for path in only.patterns.values()):
                homes.setdefault((self.root / start).parent, []).append(start)
        name = mark(restore.id, self.suffix)

        def plan(number: int) -> ExchangePlan:
            return ExchangePlan(restore.folder / f"exchange-{number}.jsonl")

        return [
            SwapPoint(home, name, self.root, tuple(starts), plan(number)) for number, (home, starts) in enumerate(sorted(homes.items()))
        ]

    def live(self, restore: RestoreView) -> Places:
        """What is in the folders of the paths that the set names, or where this restore left a work folder."""
        return Places(self.root, {*(point.home for point in self.swap_points(restore)), *homes_of_works(restore)})

    def _only(self, restore: RestoreView) -> Only:
        return Only(restore.only, wild=False)

    def _starts(self, restore: RestoreView) -> list[str]:
        """The paths that the set names."""
        return [path for artifact in restore.artifacts() for _, path, _ in restore.rows(artifact, "tree")]

    def part(self, restore: RestoreView, point: SwapPoint) -> Part:
        """What belongs to a place, and was asked for."""
        only = self._only(restore)
        return Part(
            lambda: self.entries_of(restore),
            lambda path: point.start_of(path) is not None and (not restore.only or only.top(path) is not None),
        )

    def changes(
        self, restore: RestoreView, point: SwapPoint, live: Places, new: HeldFolder
    ) -> tuple[Iterable[bytes], Iterable[tuple[str, Facts | None]]]:
        """See :meth:`_changes`; what is staged does not matter."""
        return self._changes(restore, point, live)

    def _changes(self, restore: RestoreView, point: SwapPoint, live: Places) -> tuple[list[bytes], list[tuple[str, Facts]]]:
        """What is missing, and with ``config: all`` or asked for by its path what differs."""
        replaces, part = self._replaces(restore), self.part(restore, point)
        topmost = list(self._topmost(restore, point, live))
        for one in topmost:
            if one.state == "differs" and not part.wanted(one.path):
                raise RestoreError(
                    f"{shown(self.root, one.path)} is {one.how}, and what was asked for lies in it.",
                    "Ask for all of it, or move what is there away.",
                )
        made = set(self.created(restore))
        changing = [
            one for one in topmost if one.state == "missing" or (part.wanted(one.path) and (replaces or self.root / one.path in made))
        ]
        folders = [(one.path, one.facts) for one in changing if one.state == "folder differs"]
        return [raw(one.path) for one in changing if one.state in {"missing", "differs"}], folders

    def _replaces(self, restore: RestoreView) -> bool:
        choice = restore.options.get("config", "missing")
        if choice not in {"missing", "all"}:
            raise RestoreError(f"config: {choice!r} is not a choice.", "Choose config: missing or config: all.")
        return choice == "all" or bool(restore.only)

    def _topmost(self, restore: RestoreView, point: SwapPoint, live: Places) -> Iterator[Compared]:
        """The set's entries beside the live ones, but for what lies below one that is missing or differs."""
        covered: str | None = None
        for one in self._compare(restore, point, live):
            if covered is not None and one.path.startswith(covered + "/"):
                continue
            if one.state in {"missing", "differs"}:
                covered = one.path
            yield one

    def _compare(self, restore: RestoreView, point: SwapPoint, live: Places) -> Iterator[Compared]:
        """Each of the set's entries beside the live one, folders before what is in them."""
        able = filesystem.abilities(filesystem.nearest(point.home))
        wanted = dict(self.part(restore, point).entries())
        keys = {path: digests for artifact in restore.artifacts() for _, path, digests in restore.rows(artifact, "keys")}
        for path in sorted(wanted, key=lambda path: path.split("/")):
            facts = wanted[wanted[path]["target"]] if wanted[path]["type"] == "hardlink" else wanted[path]
            yield one_beside(live, path, facts, able, keys.get(path))

    # Preflight ------------------------------------------------------------------------------------------------------

    def preflight(self, restore: RestoreView) -> Preflight:
        """What is missing, equal or differs, by path, with the names of changed keys; and what would be in the way."""
        with translated_errors(self.id, "looked at"):
            return self._preflight(restore)

    def _preflight(self, restore: RestoreView) -> Preflight:
        findings = list(self.unmatched(restore, self._only(restore)))
        if findings:
            return Preflight(self.fingerprint(restore), tuple(findings))
        live = self.live(restore)
        for point in self.swap_points(restore):
            findings += preflight.common_findings(restore, point, self.part(restore, point))
            try:
                compared = list(self._topmost(restore, point, live))
            except OSError as error:
                findings.append(Finding("refusal", f"{readable(where(error.filename))} can't be compared: {error.strerror}."))
                continue
            findings += self._compared_findings(restore, point, compared)
            findings += self._obstacles(restore, point, live)
        return Preflight(self.fingerprint(restore), tuple(findings), self._bytes_needed(restore))

    def _bytes_needed(self, restore: RestoreView) -> dict[str, int]:
        """Room for what is staged: in place too, so it is no matter of a second copy."""
        needed: dict[str, int] = {}
        for room in (preflight.room(point, self.part(restore, point)) for point in self.swap_points(restore)):
            needed[str(room.folder)] = needed.get(str(room.folder), 0) + room.needed
        return needed

    def _compared_findings(self, restore: RestoreView, point: SwapPoint, compared: Sequence[Compared]) -> Iterator[Finding]:
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
        if extra := self._extra(restore, point):
            yield Finding("fact", f"Not in the set, and left alone: {shortened(extra)}.")
        unnamed = [shown(self.root, start) for start in point.starts if self.root / start not in self._named_here()]
        if unnamed:
            yield Finding("warning", f"In the set, but no longer named in the plan: {shortened(unnamed)}.")

    def _asked(self, restore: RestoreView, point: SwapPoint) -> list[str]:
        """The named paths of a place, or the topmost of what was asked for."""
        if not restore.only:
            return list(point.starts)
        only, part = self._only(restore), self.part(restore, point)
        return list(dict.fromkeys(top for path, _ in part.entries() if (top := only.top(path)) is not None))

    def _extra(self, restore: RestoreView, point: SwapPoint) -> list[str]:
        starts = [raw(start) for start in self._asked(restore, point) if (self.root / start).is_dir()]
        known = {path for path, _ in self.part(restore, point).entries()}
        live = (os.fsdecode(found.path) for found in Walk(self.root, starts, self._excluded))
        return sorted(shown(self.root, path) for path in live if path not in known)

    def _obstacles(self, restore: RestoreView, point: SwapPoint, live: Places) -> Iterator[Finding]:
        try:
            paths = self._changes(restore, point, live)[0]
        except RestoreError as error:
            yield Finding("refusal", str(error))
            return
        reasons = list(filesystem.obstacles(point.home, ())) if point.home.is_dir() else []
        for path in (Path(os.fsdecode(at(self.root, path))) for path in paths):
            if path.parent.is_dir():
                exists = os.path.lexists(path)
                reasons += filesystem.obstacles(path.parent, [os.fsencode(path.name)] if exists else [])
            reasons += filesystem.mounts_in_the_way(path, point.home)
        if reasons:
            yield Finding("refusal", f"Not everything can be replaced: {shortened(list(dict.fromkeys(reasons)))}.")
        if restore.in_place and (unsaved := self._unsaved(live, paths)):
            yield Finding(
                "refusal",
                f"In place would remove what today's plan does not back up, so that no safety set has it:"
                f" {shortened(unsaved)}."
                " Add it to the plan's paths, or choose method: swap.",
            )

    def _unsaved(self, live: Places, units: Iterable[bytes]) -> list[str]:
        """What goes with live entries and is not in a backup made now."""
        named = [path for path in self._named_here() if os.path.lexists(path)]
        saved = {found.path for found in Walk(self.root, [os.fsencode(path.relative_to(self.root)) for path in named], self._excluded)}
        return [shown(self.root, found.path) for found in self._going(live, units) if found.path not in saved]

    def _going(self, live: Places, units: Iterable[bytes]) -> Walk:
        """A look at what goes with live entries."""
        return Walk(self.root, [unit for unit in units if live.has(unit)], reach=live)

    # Looking at what is live ----------------------------------------------------------------------------------------

    def locations(self, restore: RestoreView) -> set[Location]:
        """Every named path, or what was asked for."""
        return _locations_of(self.root / path for point in self.swap_points(restore) for path in self._asked(restore, point))

    def own_locations(self) -> set[Location]:
        """Every path that the plan names."""
        return _locations_of(self._named_here())

    def occupied_locations(self, restore: RestoreView) -> dict[Location, str]:
        """The named paths, or those that were asked for, that are there."""
        paths = [path for point in self.swap_points(restore) for path in self._asked(restore, point)]
        there = [(path, amount(Walk(self.root, [raw(path)], self._excluded))) for path in paths if os.path.lexists(self.root / path)]
        return {
            (*filesystem.location((self.root / path).parent), Path(path).name): f"{shown(self.root, path)}: {words or 'a socket or device'}"
            for path, words in there
        }

    def compare(self, restore: RestoreView) -> list[Change]:
        """Only what would be changed: what differs and stays, and what the set does not have, is left out."""
        wanted: list[Row] = []
        live: list[Row] = []
        with translated_errors(self.id, "compared"):
            places = self.live(restore)
            for point in self.swap_points(restore):
                part = self.part(restore, point)
                for one in self._compare(restore, point, places):
                    kept = one.state not in {"missing", "equal"} and not self._replaces(restore)
                    if not kept and (one.live is None or part.wanted(one.path)):
                        wanted.append(("entry", one.path, one.facts))
                        live += [("entry", one.path, one.facts if one.state == "equal" else one.live)] if one.live else []
        return changes(lambda: wanted, live)

    def changed_since_backup(self, restore: RestoreView) -> list[Change]:
        """See :meth:`TreeSource.changed_since_backup`.

        And what came since where something was missing, which goes only if that may be replaced.
        """
        parts = [self.part(restore, point) for point in self.swap_points(restore) if self._replaces(restore)]
        saved = {path for part in parts for path, _ in part.entries() if part.wanted(path)}
        going = ((text(found.path), found.kind) for found in self._going(self.live(restore), map(raw, self.replaced(restore).units)))
        came = [("entry", path, {"type": kind}) for path, kind in going if path not in saved]
        return super().changed_since_backup(restore) + changes(lambda: (), came)

    # In place -------------------------------------------------------------------------------------------------------

    def replace(self, restore: RestoreView) -> None:
        """Stage, remove what differs, and put what was staged there."""
        replaced, swap_points = self.replaced(restore), self.swap_points(restore)
        with translated_errors(self.id, "replaced in place"):
            try:
                self._make_ready(restore, replaced, swap_points)
            except Exception:
                if not restore.recorded_facts("dropping"):  # so there will be no rollback
                    self.discard(restore)
                raise
            announce_drop(restore)
            replaced.clear(lambda path: False)
            for point in swap_points:
                work = WorkFolder.open(restore, replaced.live.home(point.home), point.mark)
                self._put(replaced, work.refuse_another_new(restore), filter(point.start_of, replaced.units))
            replaced.finish(
                (path, facts) for point in swap_points for path, facts in self.part(restore, point).entries() if path in replaced.folders
            )
            for home in {*self.homes(), *homes_of_works(restore)}:
                if home.is_dir():
                    WorkFolder.remove(restore, HeldFolder.open(home), mark(restore.id, self.suffix))
            self.remove_created(restore)

    def _put(self, replaced: InPlace, new: HeldFolder, units: Iterable[str]) -> None:
        for unit in map(raw, units):
            if new.has(unit):
                replaced.put(new, unit)

    def _make_ready(self, restore: RestoreView, replaced: InPlace, swap_points: Sequence[SwapPoint]) -> None:
        for point in swap_points:
            self.stage_at(restore, point)
        if not replaced.begun:
            planned = [self._changes(restore, point, replaced.live) for point in swap_points]
            replaced.plan((path for paths, _ in planned for path in paths), [path for _, folders in planned for path, _ in folders])

    def verify_staged(self, restore: RestoreView) -> list[Difference]:
        """See :meth:`TreeSource.verify_staged`. In place: whether what was replaced is as the set has it."""
        if not restore.in_place:
            return super().verify_staged(restore)
        replaced = self.replaced(restore)
        covers, brought = at_or_below(replaced.units), set()
        differences = []
        with translated_errors(self.id, "verified"):
            live = self.live(restore)
            for point in self.swap_points(restore):
                for one in self._compare(restore, point, live):
                    if covers(one.path) or one.path in replaced.folders:
                        brought.add(one.path)
                        differences += [Difference("entry", one.path, one.how or "is missing")] if one.state != "equal" else []
            others = {unit: live.has(raw(unit)) for unit in replaced.units if unit not in brought}
        differences += [Difference("entry", unit, "is there, but not in the set") for unit, there in others.items() if there]
        lost = [unit for unit, there in others.items() if restore.rolling_back and replaced.units[unit] and not there]
        return differences + [Difference("entry", unit, "was there before, and no safety set has it") for unit in lost]


def _locations_of(paths: Iterable[Path]) -> set[Location]:
    return {(*folder, path.name) for path in paths for folder in filesystem.locations(path.parent)}
