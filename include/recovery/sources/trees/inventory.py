"""What a scan saw, and whether an archive of it has it all.

The inventory's rows: ``("named", path, {})`` for every folder or file that the source names, then
``("listed", path, facts)`` for every entry in the order of packing. Facts are what ``lstat`` tells (``type``, ``size``,
``mtime``, and ``target`` of a hard link, as in :mod:`recovery.sources.trees.entries`), ``stored`` for the bytes on disk, and
``group`` for hard links; then ``("tree", path, facts)`` for every named path, with the counts and bytes of
:class:`~recovery.sources.trees.entries.Totals`, and ``("landmark", path, facts)`` for what must still be there, the same,
while the entries are packed: :data:`~recovery.sources.trees.walk.Landmark`. Whoever packs them adds ``("read", path, facts)`` for
each that changed or vanished meanwhile, with ``what``: later, and elsewhere, nobody could find that out.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from recovery.common.errors import ArtifactError, SourceError
from recovery.common.held_folder import Reach
from recovery.common.paths import raw, readable, shown, text
from recovery.common.trusted_path import where
from recovery.common.units import human_duration, human_size
from recovery.common.wording import shortened
from recovery.packs.artifact import Artifact, Member, write_listing
from recovery.packs.content_index import Facts, Row, read_rows, write_rows
from recovery.packs.tar_writer import Disturbance
from recovery.sources.model import Dump, RecoveryPoint
from recovery.sources.trees import filesystem
from recovery.sources.trees.entries import COUNTS, Totals, fingerprint
from recovery.sources.trees.places import Places
from recovery.sources.trees.walk import EntriesProgress, Found, Landmark, Walk, in_order, landmark

log = logging.getLogger(__name__)

_SEEN = {
    "hardlink": ("type", "target"),
    "folder": ("type",),
    "link": ("type", "mtime"),
    "fifo": ("type", "mtime"),
    "file": ("type", "size", "mtime"),
}


_FEW = 10
_FEW_OF_MANY = 0.1
"""So many entries, or of a large tree this part of them, may vanish between listing and packing."""


def take(name: str, walk: Walk, folder: Path, opened: Callable[[], None]) -> Dump:
    """Scan a tree: write inventory and listing of its one artifact, which is then read where it is.

    Without start points there is no artifact.

    Raises:
        SourceError: if anything can't be read, with all of their names.
    """
    opened()
    started = datetime.now(UTC)
    inventory = folder / f"{name}.inventory.jsonl"
    scan = _Scan(walk)
    write_rows(inventory, scan.rows())
    if walk.problems:
        raise SourceError(
            f"{name}: {len(walk.problems)} {'entry' if len(walk.problems) == 1 else 'entries'} can't be read: {shortened(walk.problems)}.",
            "Give the worker the right to read them, correct the plan's paths, or exclude them in the plan.",
        )
    write_listing(folder / f"{name}.listing", map(_member, read_rows(inventory, "listed")))
    closed = datetime.now(UTC)
    took = human_duration(closed - started)
    log.info("%s: %d entries, %s to pack, below %s, in %s", name, scan.progress.entries, human_size(scan.progress.done), walk.root, took)
    warnings = tuple(f"{name}: sockets and devices are left out: {shortened(walk.left_out)}." for _ in walk.left_out[:1])
    warnings += tuple(
        f"{name}: named like work folders of restores, so left out: {shortened(walk.look_alikes)}." for _ in walk.look_alikes[:1]
    )
    warnings += tuple(f"{name}: not there, so not in the set: {shortened(walk.gone)}." for _ in walk.gone[:1])
    for warning in warnings:
        log.warning("%s", warning)
    artifact = Artifact(name=name, root=str(walk.root), listing=f"{name}.listing", bytes=scan.progress.done, live=True)
    artifacts = (artifact,) if walk.starts else ()
    return Dump(artifacts=artifacts, point=RecoveryPoint(opened=started, closed=closed), consistency="scan", warnings=warnings)


class _Scan:
    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self.progress = EntriesProgress(f"scanning {walk.root}")

    def rows(self) -> Iterator[Row]:
        totals = {text(start): dict.fromkeys(COUNTS, 0) for start in self._walk.starts}
        yield from (("named", start, {}) for start in totals)
        for found, target, group in in_order(self._readable()):
            facts = _facts(found, target, group)
            self.progress.entry(text(found.path), facts.get("stored", 0))
            total = totals[_named(text(found.path), totals)]
            total[facts["type"] + "s"] += 1
            total["bytes"] += facts.get("size", 0)
            total["stored"] += facts.get("stored", 0)
            yield "listed", text(found.path), facts
        yield from (("tree", start, total) for start, total in totals.items())
        yield from (("landmark", text(path), dict(facts)) for path, facts in self._walk.landmarks.items())

    def _readable(self) -> Iterator[Found]:
        for found in self._walk:
            if found.kind == "file" and not _may_read(self._walk.at(found.path)):
                self._walk.problems.append(f"{shown(self._walk.root, found.path)} (Permission denied)")
            yield found


def _facts(found: Found, target: Found | None, group: int | None) -> Facts:
    status = found.status
    facts: Facts = {} if group is None else {"group": group}
    if target is not None:
        return facts | {"type": "hardlink", "target": text(target.path)}
    facts |= {"type": found.kind, "mtime": status.st_mtime_ns}
    if found.kind == "file":
        facts |= {"size": status.st_size, "stored": found.stored}
    return facts


def _seen(path: str, facts: Facts) -> int:
    """What tells whether an entry is the one that was listed, and unchanged."""
    return fingerprint(path, facts, _SEEN[facts["type"]])


def _may_read(path: bytes) -> bool:
    return os.access(path, os.R_OK, effective_ids=True) or not os.path.lexists(path)


def _member(row: Row) -> Member:
    _, path, facts = row
    return Member(raw(path), facts.get("stored", 0), facts.get("group"))


_MAKE_UP_INODES = frozenset("cifs smb3 smbfs vboxsf 9p vfat exfat".split())


def hold(source_id: str, root: Path, inventory: Path) -> Reach:
    """Hold the folders of what was listed; refuse to take what lies there now for something else.

    Where a mount is gone, or an empty folder took a full one's place, every entry looks as if it had vanished by itself.

    Raises:
        SourceError: if a landmark of the inventory is another folder or file system now, or can't be looked at.
    """
    places = Places.above(root, [raw(path) for _, path, _ in read_rows(inventory, "named")])
    for _, path, was in read_rows(inventory, "landmark"):
        if (what := _moved(places, raw(path), was)) is not None:
            raise SourceError(
                f"{source_id}: {shown(root, path)} {what}.",
                "Look whether all that belongs there is mounted, on every worker; then clear the dump task of this source to list again.",
            )
    return places


def _moved(places: Places, path: bytes, was: Landmark) -> str | None:
    try:
        point = places.at(path)
        now = landmark(point, os.lstat(point))
    except OSError as error:
        return f"was there when it was listed, and can't be looked at now: {error.strerror}"
    if not was or (now and (now["inode"] == was["inode"] or _makes_up_inodes(point)) and now["mounted"] >= was["mounted"]):
        return None
    return "was another folder or file system when it was listed"


def _makes_up_inodes(folder: bytes) -> bool:
    """Some file systems number their entries as they come across them, each worker's in its own order."""
    kind = filesystem.mount_of(Path(os.fsdecode(where(folder)))).partition(" ")[0]
    return kind.startswith("fuse") or kind in _MAKE_UP_INODES


def note_archived(source_id: str, inventory: Path, changes: Sequence[tuple[bytes, Disturbance]]) -> None:
    """Keep which entries changed or vanished while they were packed.

    Raises:
        SourceError: if so many vanished that it is not the life of a folder in use.
    """
    gone = [path for path, what in changes if what == "vanished"]
    if len(gone) > _FEW:
        listed = sum(1 for _ in read_rows(inventory, "listed"))
        if len(gone) > listed * _FEW_OF_MANY:
            raise SourceError(
                f"{source_id}: {len(gone)} of {listed} entries vanished after they were listed: {shortened(list(map(readable, gone)))}.",
                "Exclude in the plan what comes and goes; if they were removed for good, clear the dump task of this source to list again.",
            )
    with inventory.open("a", encoding="ascii") as out:
        out.writelines(json.dumps(["read", text(path), {"what": what}]) + "\n" for path, what in changes)


def cover(name: str, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
    """Put together what was read of an archive, what the scan saw and what happened since: the rows that the set keeps.

    They are ``entry`` rows, a ``tree`` row (:class:`~recovery.sources.trees.entries.Totals`) for every named path, and
    ``("changed", path, {"what": "changed while read" | "vanished"})`` for entries that the archive does not have as
    the scan saw them, and for files that changed while they were packed, even if size and time are what they were: such a file may
    be torn. A folder's time is not looked at: that entries came and went is said of these. Other rows pass through.

    An entry that the archive lacks has vanished only if it was gone when it was packed; else the archive is at fault.

    Raises:
        ArtifactError: if the archive lacks an entry that did not vanish, or has one that the scan did not see, or has something else
            in place of a folder, below which nothing could be unpacked.
    """
    wanted = {_seen(path, facts) for _, path, facts in read_rows(inventory, "listed")}
    totals = {path: Totals() for _, path, _ in read_rows(inventory, "named")}
    odd: dict[str, str] = {}
    for kind, path, facts in read:
        yield kind, path, facts
        if kind == "entry":
            totals[_named(path, totals)].add(path, facts)
            if (seen := _seen(path, facts)) not in wanted:
                odd[path] = facts["type"]
            wanted.discard(seen)
    torn, gone = ({path for _, path, facts in read_rows(inventory, "read") if facts["what"] == what} for what in ("changed", "vanished"))
    yield from _changed(name, inventory, wanted, odd, torn, gone)
    yield from (("tree", path, total.facts()) for path, total in totals.items())


def _named(path: str, names: Iterable[str]) -> str:
    for name in names:
        if name == "." or path == name or path.startswith(name + "/"):
            return name
    raise ArtifactError(f"The archive has {readable(path)}, which is below nothing that the source names.", "Run the backup again.")


def _changed(name: str, inventory: Path, wanted: set[int], odd: dict[str, str], torn: set[str], gone: set[str]) -> Iterator[Row]:
    if not (wanted or odd or torn):
        return
    lacking = []
    for _, path, facts in read_rows(inventory, "listed"):
        lacks = _seen(path, facts) in wanted
        if path in odd if lacks else path in torn and facts["type"] != "folder":
            if facts["type"] == "folder" and odd[path] != "folder":
                raise ArtifactError(
                    f"{name}: the folder {readable(path)} became a {odd[path]} while it was packed; what lay below could not be unpacked.",
                    "Run the backup again, while nobody moves folders.",
                )
            odd.pop(path, None)
            log.warning("%s: changed while it was read: %s", name, readable(path))
            yield "changed", path, {"what": "changed while read"}
        elif lacks and path in gone:
            log.warning("%s: vanished while the source was read: %s", name, readable(path))
            yield "changed", path, {"what": "vanished"}
        elif lacks:
            lacking.append(readable(path))
    if lacking or odd:
        what = (
            f"lacks {shortened(lacking)}, which had not vanished"
            if lacking
            else f"has {shortened(sorted(map(readable, odd)))}, which the scan did not see"
        )
        raise ArtifactError(f"The archive of {name} {what}.", "Run the backup again; if it happens again, report it.")
