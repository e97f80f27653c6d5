"""Folders of this process alone that are gone with it, or else removed by the next one: sockets of tunnels, lists for tools."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NEW = 60.0
_LOCK = "lock"
"""A file, since NFS locks no folders."""


class PrivateFolder:
    """A new folder that only this process's user enters, held by this process until it is closed.

    Args:
        place: the folder that it is made in. What processes left there that were killed is removed.
        prefix: what its name begins with.
    """

    def __init__(self, place: Path, prefix: str) -> None:
        for folder in place.glob(f"{prefix}*"):
            with suppress(OSError), _unused(folder):
                shutil.rmtree(folder)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        self._held = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._held)


@contextmanager
def _unused(folder: Path) -> Iterator[None]:
    """Hold a folder of ours whose process has ended.

    Raises:
        OSError: if it is somebody else's, in use, or so new that its process may not hold it yet.
    """
    there = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(there)
        if status.st_uid != os.geteuid() or status.st_mtime > time.time() - _NEW:
            raise PermissionError(folder)
        held = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=there)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(held)
    finally:
        os.close(there)
