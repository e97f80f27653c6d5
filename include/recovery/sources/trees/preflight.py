"""What preflight finds of a tree in every place, whatever kind of source it is."""

from __future__ import annotations

import os
from collections.abc import Iterator

from recovery.common.errors import ToolError
from recovery.common.paths import PATH_MAX, at, raw, readable, shown
from recovery.common.wording import shortened
from recovery.packs.extract import find_tar
from recovery.sources.base import RestoreView
from recovery.sources.model import Finding, Space
from recovery.sources.trees import entries, filesystem
from recovery.sources.trees.selection import Part
from recovery.sources.trees.swap import SwapPoint
from recovery.sources.trees.walk import Walk

_ENTRY_COST = 4096


def common_findings(restore: RestoreView, point: SwapPoint, part: Part) -> Iterator[Finding]:
    """Folders that are gone, what can't be set, what is in the way."""
    try:
        find_tar()
    except ToolError as error:
        yield Finding("refusal", str(error))
    parent = filesystem.nearest(point.home)
    if parent != point.home:
        yield Finding("fact", f"{point.home} is gone; it is created again in {parent}.")
        yield from (Finding("refusal", f"{reason}.") for reason in filesystem.obstacles(parent, (), renamed=False))
    able = filesystem.abilities(parent)
    if not able.owners:
        yield Finding("warning", f"This worker is not root: what it restores in {point.home} belongs to itself; owners are not compared.")
    count, names, longest = 0, set(), ""
    for path, facts in part.entries():
        count += 1
        names |= facts.get("xattrs", {}).keys()
        longest = max(longest, path, key=lambda each: len(raw(each)))
    free = os.statvfs(parent)
    if not restore.in_place and free.f_files and free.f_favail < count:
        yield Finding("refusal", f"{parent} has room for {free.f_favail} more entries (inodes), {count} are needed.")
    if lost := sorted(names - able.settable(dict.fromkeys(names, "")).keys()):
        yield Finding("warning", f"Extended attributes that can't be set in {point.home} are not compared: {', '.join(lost)}.")
    if len(at(point.live if restore.in_place else point.work / "before", raw(longest))) > PATH_MAX:
        yield Finding(
            "refusal",
            f"Paths of the set get longer in {point.home} than the {PATH_MAX} bytes that Linux takes: {readable(longest)[:80]}…",
        )


def irremovable(walk: Walk) -> Iterator[Finding]:
    """What a restore in place would find once the rest is removed."""
    fixed, kept, closed = [], dict[str, None](), set[bytes]()
    for found in walk:
        above = found.path.rpartition(b"/")[0]
        if filesystem.is_fixed(walk.at(found.path), found.status):
            fixed.append(shown(walk.root, found.path))
        if filesystem.keeps_all(walk.at(found.path), found.status):
            closed.add(found.path)
        if above in closed:
            kept[shown(walk.root, above)] = None
    if fixed:
        yield Finding("refusal", f"Marked immutable or append-only (lsattr shows it), so they can't be removed: {shortened(fixed)}.")
    if kept:
        yield Finding("refusal", f"This worker may not remove what is in these folders of other users: {shortened(list(kept))}.")


def room(point: SwapPoint, part: Part) -> Space:
    """What the entries that were asked for need beside the live ones."""
    folder = filesystem.nearest(point.home)
    status = os.statvfs(folder)
    needed = sum(_ENTRY_COST + entries.stored(facts) for _, facts in part.entries())
    return Space(str(point.home), needed, status.f_bavail * status.f_frsize, str(folder))
