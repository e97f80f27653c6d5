"""Paths whose links nobody else may exchange: a link is followed only where root or this user must have put it.

Somebody who may write to a folder may exchange an entry of it for a link to anywhere else. So a path is walked from the root on, one
name after another, with a look at each folder on the way.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from recovery.common.xattrs import read_xattrs

REACHED = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
"""Flags to open a folder that is no link, to go on from there."""
_LINKS = 40
"""As many links in one path are enough, as for Linux itself."""
_THROUGH = re.compile(r"/proc/self/fd/([0-9]+)(?=/|$)")


class ForeignLinkError(OSError):
    """A link where somebody else may have put it."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ELOOP, "A symbolic link in a folder that other users may write to is not followed", str(path))


def walk_to(path: Path) -> tuple[int, Path | None]:
    """Open a folder by its absolute path; and the first folder on the way in which another user may exchange what is next.

    Raises:
        OSError: if it is not there, or is no folder; :class:`ForeignLinkError` for a link that somebody else may have put there.
    """
    here, foreign, links = os.open("/", REACHED), None, 0
    todo = list(reversed(path.parts[1:]))
    try:
        while todo:
            name = todo.pop()
            foreign = foreign or (None if _stays(here, name) else Path(os.fsdecode(where(here))))
            target = _link(here, name)
            if target is None:
                inner = os.open(name, REACHED, dir_fd=here)
                os.close(here)
                here = inner
                continue
            links += 1
            if foreign or links > _LINKS:
                raise ForeignLinkError(path)
            todo += reversed([part for part in target.split("/") if part])
            if target.startswith("/"):
                os.close(here)
                here = os.open("/", REACHED)
    except OSError as error:
        os.close(here)
        raise error if isinstance(error, ForeignLinkError) else named(error, path) from None
    return here, foreign


def led_to(path: Path) -> Path:
    """Where a path leads in the end, through links that nobody else could have put there. What it leads to need not be there.

    Raises:
        OSError: as :func:`walk_to`.
    """
    for _ in range(_LINKS):
        try:
            folder, foreign = walk_to(path.parent)
        except FileNotFoundError:
            return path
        try:
            target, real = _link(folder, path.name), Path(os.fsdecode(where(folder)))
            if target is None:
                return real / path.name
            if foreign or not _stays(folder, path.name):
                raise ForeignLinkError(path)
        except FileNotFoundError:
            return path
        finally:
            os.close(folder)
        path = real / target
    raise ForeignLinkError(path)


def exchangeable(path: Path) -> Path | None:
    """The first folder on the way to another one in which somebody else than root and this user may exchange what is next; None for none.

    Raises:
        OSError: as :func:`walk_to`.
    """
    descriptor, foreign = walk_to(path)
    os.close(descriptor)
    return foreign


def where(path: bytes | str | int) -> bytes:
    """A path for people: a descriptor, and what leads through one, is said as the path that the folder has now."""
    found = f"/proc/self/fd/{path}" if isinstance(path, int) else os.fsdecode(path)
    with suppress(OSError):
        found = _THROUGH.sub(lambda through: str(Path(through[0]).readlink()), found, count=1)
    return os.fsencode(os.path.normpath(found)) if found else b""


def named(error: OSError, path: Path) -> OSError:
    """The same error, of a path that people know."""
    return OSError(error.errno, error.strerror, str(path))


def _stays(folder: int, name: str) -> bool:
    """Whether only root, its group and this user may exchange an entry. A group's bits also hold what an access control list allows."""
    ours, status = {0, os.geteuid()}, os.fstat(folder)
    if status.st_uid not in ours:
        return False
    roots = status.st_gid == 0 and "system.posix_acl_access" not in read_xattrs(folder)
    shared = status.st_mode & (stat.S_IWOTH if roots else stat.S_IWGRP | stat.S_IWOTH)
    return not shared or bool(status.st_mode & stat.S_ISVTX and os.lstat(name, dir_fd=folder).st_uid in ours)


def _link(folder: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None
