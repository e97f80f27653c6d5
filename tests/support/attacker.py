"""Another user of the machine, who exchanges what root is about to use."""

import ctypes
import os
import random
import signal
import time
from contextlib import contextmanager
from pathlib import Path

from tests.support.file_zoo import NOBODY

_libc = ctypes.CDLL(None)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def state(folder: Path) -> dict:
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        found[str(path)] = status.st_uid, status.st_mode, status.st_ino, path.read_text() if path.is_file() else None
    return found


@contextmanager
def attacker(do):
    """A process of the application's user that does something again and again, whatever fails."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            while True:
                try:
                    do()
                except OSError:
                    continue
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def swapping(path: Path, target: Path):
    """Has now an entry, now a link to somewhere else in its place."""
    link = path.with_name(f"{path.name} link")

    def do() -> None:
        if not os.path.lexists(link):
            link.symlink_to(target)
        exchange(path, link)
        time.sleep(random.random() / 2000)

    return do


def exchange(one: Path, other: Path) -> None:
    """Give two entries each other's name at once, if both are there; see ``renameat2(2)``."""
    _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
