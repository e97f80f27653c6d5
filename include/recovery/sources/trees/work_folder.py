"""A restore's work folder. It lies on the file system of the live entries, beside them, and holds

- ``new/``: what was staged, and again after the rollback;
- ``before/``: the live entries that were set aside, as long as there are any;
- ``late/``: what somebody wrote in the way of an entry that came back;
- ``apart/``: for moments, what is unpacked apart.

The folder that it lies in often belongs to the application's user, who may rename it and put another in its place. So nobody but this
worker may enter it, the journal knows its inode, and it is held while it is used: what is in it changes by this worker alone.
"""

# pathlib has no paths of bytes.

# ruff: noqa: PTH102, PTH106

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from recovery.common.errors import RestoreError
from recovery.common.held_folder import HeldFolder
from recovery.common.xattrs import read_xattrs
from recovery.sources.base import RestoreView
from recovery.sources.trees import filesystem

NEW, BEFORE, LATE, APART = b"new", b"before", b"late", b"apart"
_STEP = "work folder"
_ACLS = frozenset({"system.posix_acl_access", "system.posix_acl_default"})


@dataclass(frozen=True)
class WorkFolder:
    """An open work folder, and the folder that it lies in."""

    home: HeldFolder
    folder: HeldFolder

    @classmethod
    def make(cls, restore: RestoreView, home: HeldFolder, mark: str) -> Self:
        """Make a work folder with an empty ``new``, and say in the journal which it is. One of an earlier try is removed.

        Raises:
            RestoreError: if there is another one by this name, or somebody exchanged the new one meanwhile.
        """
        cls.remove(restore, home, mark)
        name = os.fsencode(mark)
        os.mkdir(home.at(name), 0o700)
        work = cls(home, home.below(name))
        if work.folder.status.st_uid != os.geteuid() or work.folder.names():
            raise _exchanged(work.path)
        make_private(work.folder)
        work.folder.make(NEW)
        restore.record(_STEP, home=str(home.path), inode=work.folder.status.st_ino, new=work.folder.below(NEW).status.st_ino)
        return work

    @classmethod
    def open(cls, restore: RestoreView, home: HeldFolder, mark: str) -> Self:
        """Open the work folder that this restore made.

        Raises:
            RestoreError: if it is gone, or another one is in its place.
        """
        name = os.fsencode(mark)
        if not home.has(name):
            raise RestoreError(
                f"{home.path / mark} is gone: this restore made it, and did not remove it.",
                f"Find out who may write to {home.path}. Put the folder back, and clear the task; or trigger a new restore.",
            )
        work = cls(home, _opened(home, mark))
        made = _made(restore, home.path)
        if not made or not work._is(made):
            raise _exchanged(work.path)
        return work

    @classmethod
    def remove(cls, restore: RestoreView, home: HeldFolder, mark: str) -> None:
        """Remove the work folder that this restore made, with all that is in it; it is no error if there is none.

        Raises:
            RestoreError: if another one is in its place.
        """
        name = os.fsencode(mark)
        if not home.has(name):
            return
        made = _made(restore, home.path)
        work = cls(home, _opened(home, mark))
        if not (made and work._is(made)) and not work._is_begun():
            raise _exchanged(work.path)
        for each in work.folder.names():
            filesystem.remove(work.folder, each)
        os.rmdir(home.at(name))

    def _is(self, made: dict[str, Any]) -> bool:
        same = self.folder.status.st_ino == made["inode"] and self.folder.status.st_dev == self.home.status.st_dev
        return same and self.folder.is_closed()

    def _is_begun(self) -> bool:
        """Whether this is what a kill leaves before the journal knows it: a folder of ours, and nothing in it but an empty ``new``."""
        names = self.folder.names() if self.folder.is_closed() else [BEFORE]
        return not names or (names == [NEW] and not self.folder.below(NEW).names())

    @property
    def path(self) -> Path:
        """Where it was made, for messages."""
        return self.folder.path

    def refuse_another_new(self, restore: RestoreView) -> HeldFolder:
        """The folder ``new``, if it is the one that this restore unpacked to.

        Raises:
            RestoreError: if it is another.
        """
        made = _made(restore, self.home.path)
        new = self.folder.below(NEW)
        if not made or new.status.st_ino != made["new"]:
            raise _exchanged(new.path)
        return new

    @property
    def set_aside(self) -> bool:
        """Whether entries that were live lie in ``before``."""
        return self.folder.has(BEFORE)

    def has(self, part: bytes, path: bytes) -> bool:
        """Whether a part of it, such as ``new``, has an entry."""
        return self.folder.has(part + b"/" + path)

    def at(self, part: bytes, path: bytes) -> bytes:
        """A path that leads to an entry of a part, and that holds until another one is asked for."""
        return self.folder.at(part + b"/" + path)

    def make_way(self, part: bytes, path: bytes) -> bytes:
        """The same, for an entry that comes: the folders above it are made."""
        return self.folder.make_way(part + b"/" + path)

    def tidy(self, part: bytes, path: bytes) -> None:
        """Remove the folders above an entry that is gone, and the part itself, as far as they are empty."""
        above = part + b"/" + path
        while above := above.rpartition(b"/")[0]:
            if self.folder.has(above) and not self.folder.remove_empty(above):
                return


def make_private(folder: HeldFolder) -> None:
    """Close a folder that was just made to all others; its entries inherit nothing from the folder that it lies in."""
    for name in read_xattrs(folder.at(b".")).keys() & _ACLS:
        os.removexattr(folder.fileno(), name)
    folder.chmod(0o700)


def _opened(home: HeldFolder, mark: str) -> HeldFolder:
    try:
        return home.below(os.fsencode(mark))
    except NotADirectoryError:
        raise _exchanged(home.path / mark) from None


def _made(restore: RestoreView, home: Path) -> dict[str, Any] | None:
    """What the journal knows of the last work folder that this restore made in a place."""
    return next((facts for facts in reversed(restore.recorded_facts(_STEP)) if facts["home"] == str(home)), None)


def homes_of_works(restore: RestoreView) -> set[Path]:
    """Where this restore made work folders, as its journal knows."""
    return {Path(str(facts["home"])) for facts in restore.recorded_facts(_STEP)}


def _exchanged(path: Path) -> RestoreError:
    return RestoreError(
        f"{path} is not the folder that this restore made: somebody exchanged it, or opened it to others. Nothing in it was changed.",
        f"Find out who may write to {path.parent}. Put the restore's own folder back under its name, and clear the task;"
        " or trigger a new restore.",
    )
