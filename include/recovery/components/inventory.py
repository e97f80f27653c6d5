"""What a scan saw, and whether an archive of it has it all.

The inventory's rows: ``("named", path, {})`` for every folder or file that the source names, then
``("listed", path, facts)`` for every entry in the order of packing. Facts are what ``lstat`` tells (``type``, ``size``,
``mtime``, and ``target`` of a hard link, as in :mod:`recovery.components.entries`), ``ctime`` and ``ino`` to recognise
the entry by later, ``stored`` for the bytes on disk, and ``group`` for hard links.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from recovery.artifact import Member, write_listing
from recovery.components.base import Artifact, Dump, RecoveryPoint
from recovery.components.entries import Totals, fingerprint
from recovery.components.tree import Found, Progress, Walk, at, in_order, raw, readable, shown, text
from recovery.contents import Facts, Row, read_rows, write_rows
from recovery.errors import ArtifactError, SourceError
from recovery.units import human_duration, human_size

log = logging.getLogger(__name__)

_SEEN = {
    "hardlink": ("type", "target"),
    "folder": ("type",),
    "link": ("type", "mtime"),
    "fifo": ("type", "mtime"),
    "file": ("type", "size", "mtime"),
}
_NAMED = 20


def take(name: str, walk: Walk, folder: Path, opened: Callable[[], None]) -> Dump:
    """Scan a tree: write inventory and listing of its one artifact, which is then read where it is.

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
    log.info("%s: %d entries, %s to pack, below %s, in %s", name, scan.progress.entries, human_size(scan.progress.bytes), walk.root, took)
    warnings = tuple(f"{name}: sockets and devices are left out: {shortened(walk.left_out)}." for _ in walk.left_out[:1])
    for warning in warnings:
        log.warning("%s", warning)
    artifact = Artifact(name=name, root=str(walk.root), listing=f"{name}.listing", bytes=scan.progress.bytes, live=True)
    return Dump(artifacts=(artifact,), point=RecoveryPoint(opened=started, closed=closed), consistency="scan", warnings=warnings)


def shortened(names: Sequence[str]) -> str:
    """Names for a message: the first ones, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


class _Scan:
    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self.progress = Progress(f"scanning {walk.root}")

    def rows(self) -> Iterator[Row]:
        yield from (("named", text(start), {}) for start in self._walk.starts)
        for found, target, group in in_order(self._readable()):
            facts = _facts(found, target, group)
            self.progress.add(text(found.path), facts.get("stored", 0))
            yield "listed", text(found.path), facts

    def _readable(self) -> Iterator[Found]:
        for found in self._walk:
            if found.kind == "file" and not _may_read(at(self._walk.root, found.path)):
                self._walk.problems.append(f"{shown(self._walk.root, found.path)} (Permission denied)")
            yield found


def _facts(found: Found, target: Found | None, group: int | None) -> Facts:
    status = found.status
    facts: Facts = {"ctime": status.st_ctime_ns, "ino": status.st_ino}
    if group is not None:
        facts["group"] = group
    if target is not None:
        return facts | {"type": "hardlink", "target": text(target.path)}
    facts |= {"type": found.kind, "mtime": status.st_mtime_ns}
    if found.kind == "file":
        facts |= {"size": status.st_size, "stored": min(status.st_size, status.st_blocks * 512)}
    return facts


def _seen(path: str, facts: Facts) -> int:
    """What tells whether an entry is the one that was listed, and unchanged."""
    return fingerprint(path, facts, _SEEN[facts["type"]])


def _may_read(path: bytes) -> bool:
    return os.access(path, os.R_OK, effective_ids=True) or not os.path.lexists(path)


def _member(row: Row) -> Member:
    _, path, facts = row
    return Member(raw(path), facts.get("stored", 0), facts.get("group"))


def cover(name: str, root: Path, inventory: Path, read: Iterable[Row]) -> Iterator[Row]:
    """Put together what was read of an archive and what the scan saw: the rows that the set keeps.

    They are ``entry`` rows, a ``tree`` row (:class:`~recovery.components.entries.Totals`) for every named path, and
    ``("changed", path, {"what": "changed while read" | "vanished"})`` for entries that the archive does not have as
    the scan saw them. A folder's time is not looked at: that entries came and went is said of these. Other rows pass through.

    An entry that the archive lacks has vanished only if the source, looked at now, has it no more, or has another one in
    its place. If it is still there, or if the source can't be seen from here, the archive is at fault.

    Raises:
        ArtifactError: if the archive lacks an entry that did not vanish, or has one that the scan did not see.
    """
    wanted = {_seen(path, facts) for _, path, facts in read_rows(inventory, "listed")}
    totals = {path: Totals() for _, path, _ in read_rows(inventory, "named")}
    odd: set[str] = set()
    for kind, path, facts in read:
        yield kind, path, facts
        if kind == "entry":
            totals[_named(path, totals)].add(path, facts)
            if (seen := _seen(path, facts)) not in wanted:
                odd.add(path)
            wanted.discard(seen)
    yield from _changed(name, root, inventory, wanted, odd)
    yield from (("tree", path, total.facts()) for path, total in totals.items())


def _named(path: str, names: Iterable[str]) -> str:
    for name in names:
        if name == "." or path == name or path.startswith(name + "/"):
            return name
    raise ArtifactError(f"The archive has {readable(path)}, which is below nothing that the source names.", "Run the backup again.")


def _changed(name: str, root: Path, inventory: Path, wanted: set[int], odd: set[str]) -> Iterator[Row]:
    if not (wanted or odd):
        return
    lacking = []
    for _, path, facts in read_rows(inventory, "listed"):
        if _seen(path, facts) not in wanted:
            continue
        if path in odd:
            odd.discard(path)
            log.warning("%s: changed while it was read: %s", name, readable(path))
            yield "changed", path, {"what": "changed while read"}
        elif _vanished(name, root, path, facts):
            log.warning("%s: vanished while the source was read: %s", name, readable(path))
            yield "changed", path, {"what": "vanished"}
        else:
            lacking.append(readable(path))
    if lacking or odd:
        what = (
            f"lacks {shortened(lacking)}, which still exist"
            if lacking
            else f"has {shortened(sorted(map(readable, odd)))}, which the scan did not see"
        )
        raise ArtifactError(
            f"The archive of {name} {what}.", "Run the backup again; if it happens again, report it with tar's messages in the log."
        )


def _vanished(name: str, root: Path, path: str, facts: Facts) -> bool:
    try:
        os.lstat(at(root, b"."))
    except OSError as error:
        raise ArtifactError(
            f"The archive of {name} lacks {readable(path)}, and {root} can't be seen here ({error.strerror}): did it vanish?",
            "Let verify run where the source is mounted, and run the backup again.",
        ) from error
    try:
        now = os.lstat(at(root, raw(path)))
    except (FileNotFoundError, NotADirectoryError):
        return True
    same = now.st_ino == facts["ino"] and (facts["type"] == "folder" or now.st_ctime_ns == facts["ctime"])
    return not same
