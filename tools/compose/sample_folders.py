"""The files of the sample, in folders that may be those of a real OpenManus: nothing is written beside anything that is not its own.

All is made in folders apart, and then moved. So files that are half made are never taken for the sample, and a start that
follows goes on where this one was killed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sandbox import sample

_OWN = ".openmanus-sample-"
"""What names begin with that are the sample's, and gone once it is complete."""


@dataclass(frozen=True)
class SampleFolders:
    """The folders of the sample.

    Args:
        home: where its configuration is.
        files: where its uploads are; it may be in ``home``.
    """

    home: Path
    files: Path

    def has_data(self) -> bool:
        """Whether something is in one of them that is not an unfinished sample's.

        Both must be empty: beside a configuration, empty uploads may be a mount of a real system that is missing.
        """
        known = json.loads(self._list.read_text()) if self._list.exists() else []
        return any(entry.lstat().st_ino not in known for folder in (self.home, self.files) for entry in self._entries(folder))

    def make(self, scale: float) -> None:
        """Make what is missing; :meth:`has_data` must be false."""
        stages = {folder: folder / f"{_OWN}unfinished" for folder in (self.files, self.home)}
        if not self._list.exists():
            for stage in stages.values():
                shutil.rmtree(stage, ignore_errors=True)
            sample.fill_files(stages[self.files], scale)
            sample.fill_config(stages[self.home])
            made = [entry.lstat().st_ino for stage in stages.values() for entry in stage.iterdir()]
            new = self._list.with_suffix(".new")
            new.write_text(json.dumps(made))
            new.rename(self._list)
        for folder, stage in stages.items():
            if stage.exists():
                for entry in stage.iterdir():
                    entry.rename(folder / entry.name)
                stage.rmdir()
        self._list.unlink()

    @property
    def _list(self) -> Path:
        """The inodes of what is to be moved, once all of it is made."""
        return self.home / f"{_OWN}inodes"

    def _entries(self, folder: Path) -> Iterator[Path]:
        return (entry for entry in folder.iterdir() if entry != self.files and not entry.name.startswith(_OWN))
