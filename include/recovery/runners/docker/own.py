"""In which container this process runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_OWN_FILES = {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}


def own_containers(process: Path = Path("/proc/self")) -> set[str]:
    """Ids of the container that this process runs in, and of the one whose network it shares; none on a plain machine.

    An Engine mounts these files from a folder with the container's id. Mounts elsewhere are no sign: the machine itself has those of all
    of its containers.
    """
    return set(_in_cgroups(process)) | set(_in_mounts(process))


def _in_cgroups(process: Path) -> Iterator[str]:
    for line in _lines(process / "cgroup"):
        yield from _ID.findall(line.rpartition("/")[2])


def _in_mounts(process: Path) -> Iterator[str]:
    for line in _lines(process / "mountinfo"):
        root, point = line.split(" ")[3:5]
        if point in _OWN_FILES:
            yield from _ID.findall(root)


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8", "replace").splitlines() if path.exists() else []
