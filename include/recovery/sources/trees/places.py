"""Where the entries of a live tree lie: each is reached through the held folder of its home."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from recovery.common.held_folder import HeldFolder


class Places:
    """Entries below a root. Links of the operator's lead to a home; below a home none is followed.

    Args:
        root: what the paths of entries are relative to.
        homes: folders at or below the root, of which every entry has one above it. Each is opened once, when it is first needed.
    """

    def __init__(self, root: Path, homes: Iterable[Path]) -> None:
        self.root = root
        self._homes = {_relative(home, root): home for home in homes}
        self._prefixes = sorted(self._homes, key=len, reverse=True)
        self._held: dict[bytes, HeldFolder] = {}

    @classmethod
    def above(cls, root: Path, starts: Iterable[bytes]) -> Places:
        """Some entries, each below the folder that it lies in; ``.`` is the root itself."""
        return cls(root, [root if start == b"." else (root / os.fsdecode(start)).parent for start in starts])

    def _home(self, path: bytes) -> tuple[HeldFolder, bytes]:
        """The innermost home of an entry, and its path below that."""
        prefix = next(each for each in self._prefixes if not each or path.startswith(each + b"/"))
        if prefix not in self._held:
            self._held[prefix] = HeldFolder.open(self._homes[prefix])
        return self._held[prefix], path[len(prefix) + 1 :] if prefix else path

    def at(self, path: bytes) -> bytes:
        """See :meth:`recovery.common.held_folder.HeldFolder.at`."""
        home, rest = self._home(path)
        return home.at(rest)

    def has(self, path: bytes) -> bool:
        """See :meth:`recovery.common.held_folder.HeldFolder.has`. Nothing is in a home that is gone."""
        try:
            home, rest = self._home(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return home.has(rest)

    def below(self, path: bytes) -> HeldFolder:
        """See :meth:`recovery.common.held_folder.HeldFolder.below`; a home is one too."""
        home, rest = self._home(path + b"/.")
        return home.below(rest)

    def make_way(self, path: bytes) -> bytes:
        """See :meth:`recovery.common.held_folder.HeldFolder.make_way`."""
        home, rest = self._home(path)
        return home.make_way(rest)

    @property
    def held(self) -> Iterable[HeldFolder]:
        """The homes that were opened."""
        return self._held.values()

    def home(self, folder: Path) -> HeldFolder:
        """The held folder of a home."""
        return next(self._home(prefix + b"/." if prefix else b".")[0] for prefix, home in self._homes.items() if home == folder)


def _relative(home: Path, root: Path) -> bytes:
    relative = os.fsencode(home.relative_to(root))
    return b"" if relative == b"." else relative
