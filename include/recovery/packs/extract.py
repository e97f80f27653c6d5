"""Members of a pack become files, none of them outside their folder: a guard stands between the stream and tar."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from tarfile import TarInfo

from recovery.common.errors import ArtifactError
from recovery.common.held_folder import HeldFolder
from recovery.packs import tar_reader
from recovery.runners.local import LOCAL

log = logging.getLogger(__name__)


def extract(reader: tar_reader.Source, folder: Path, only: Callable[[TarInfo], bool] | None = None) -> None:
    """Extract a pack's stream into a folder that exists, all members or some.

    No byte of a member reaches the tar that extracts before its name and target were found to stay inside. Nobody else may be able to
    enter the folder meanwhile.

    Raises:
        ArtifactError: if a member would be written outside, or is a device.
        ToolError: if tar fails, for example of a full disk.
    """
    argv = [find_tar(), "--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--preserve-permissions", "--sparse"]
    argv += ["--same-owner" if os.geteuid() == 0 else "--no-same-owner", "--delay-directory-restore", "--file=-"]
    way = _Way(folder)
    with LOCAL.tool(argv, env={"LC_ALL": "C"}, feed=True, folder=folder) as tar:
        try:
            for member in tar_reader.members(reader):
                refuse_escape(member.info)
                if only is not None and not only(member.info):
                    continue
                way.refuse_detour(member.info)
                for chunk in member.raw():
                    tar.stdin.write(chunk)
            tar.stdin.write(bytes(2 * tar_reader.BLOCK))
            tar.stdin.close()
        except BrokenPipeError:
            log.error("tar stopped reading")


def find_tar() -> str:
    """The path of the tar that extracts; on this worker, wherever a source's own tools run.

    Raises:
        ToolError: if it is not installed.
    """
    return LOCAL.find_tool("tar")


class _Way:
    """What lies between a folder and the members that are extracted to it: nothing but folders.

    An earlier pack may have left a link where this one has a folder, which the disk tells. What this pack itself has is told
    by its names: tar may not have read it from the pipe yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held = HeldFolder(os.open(folder, os.O_PATH | os.O_DIRECTORY), folder)
        self._real = {folder, *folder.parents}  # whatever leads to it is the operator's own
        self._ends: set[Path] = set()
        self._last: Path | None = None
        """The folder above the last member. Until a member of another one comes, none can take the place of what leads to it."""

    def refuse_detour(self, info: TarInfo) -> None:
        """Refuse a member, or a hard link's target, that has anything but folders above it.

        Raises:
            ArtifactError: if there is a link, or what this pack itself has as a link or file.
        """
        path = self._folder / info.name
        for name in [path, self._folder / info.linkname] if info.islnk() else [path]:
            if name.parent != self._last:
                self._look_above(name)
                self._last = name.parent
        if not info.isdir():
            self._ends.add(path)

    def _look_above(self, path: Path) -> None:
        for parent in path.parents:
            if parent in self._ends or (parent not in self._real and self._is_link(parent)):
                raise ArtifactError(
                    f"A pack's member would be written through the link {parent.relative_to(self._folder)}, or below what is no folder.",
                    "Don't restore this set; find out who made it.",
                )
            if parent == self._folder:
                return
            self._real.add(parent)

    def _is_link(self, path: Path) -> bool:
        """Whether a link is there, or on the way; as far as tar got, since nothing is there otherwise."""
        try:
            return stat.S_ISLNK(os.lstat(self._held.at(os.fsencode(path.relative_to(self._folder)))).st_mode)
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            return True


def refuse_escape(info: TarInfo) -> None:
    """Refuse a member that would be written outside the folder it is extracted to.

    Raises:
        ArtifactError: for absolute names, ``..``, devices, and hard links that point outside.
    """
    names = [info.name, info.linkname] if info.islnk() else [info.name]
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise ArtifactError(
                f"A pack's member would be written outside its target: {name!r}.", "Don't restore this set; find out who made it."
            )
    if info.ischr() or info.isblk():
        raise ArtifactError(f"A pack's member is a device: {info.name!r}.", "Don't restore this set; find out who made it.")
