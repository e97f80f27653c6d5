"""What a restore says, on disk, before it does it: so that a kill, a retry or a failure half way resumes or takes back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recovery.common.errors import RestoreError
from recovery.common.files import locked, written_in
from recovery.common.json_text import read_json
from recovery.common.units import iso, parse_moment
from recovery.runs.journal_steps import Step


@dataclass(frozen=True)
class Entry:
    """One thing that was said."""

    time: datetime
    step: str
    source: str
    """Source id; empty for what concerns the whole restore."""
    facts: dict[str, Any]


class Journal:
    """An append-only file of one JSON object a line; whatever is returned from is on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def record(self, step: Step, source: str = "", /, **facts: object) -> None:
        """Write that a step begins or is done; returns once it can't be lost.

        Raises:
            RestoreError: if the journal is closed.
        """
        self._write(step, source, facts)

    def record_of(self, source: str, step: str, facts: Mapping[str, object]) -> None:
        """Write a step that only a source itself knows, apart from those of the restore, whatever it is called; as :meth:`record`."""
        self._write(f"{source}: {step}", "", facts)

    def entries_of(self, source: str, step: str) -> list[Entry]:
        """Every entry of a step that only the source knows."""
        return [entry for entry in self.everything() if entry.step == f"{source}: {step}"]

    def _write(self, step: str, source: str, facts: Mapping[str, object]) -> None:
        with locked(self._path.with_suffix(".lock")):
            if self.closed:
                raise RestoreError("This restore has ended; its journal is closed.", "Trigger a new restore.")
            line = json.dumps({"time": iso(datetime.now(UTC)), "step": step, "source": source, "facts": dict(facts)}) + "\n"
            with written_in(self._path.parent):
                self._append(line.encode())

    def _append(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            data = self._mend() + line
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _mend(self) -> bytes:
        """A line that a kill cut off is ended, and then passed over when reading."""
        if not self._path.exists() or not self._path.stat().st_size:
            return b""
        with self._path.open("rb") as journal:
            journal.seek(-1, os.SEEK_END)
            return b"" if journal.read(1) == b"\n" else b"\n"

    def everything(self) -> Iterator[Entry]:
        """Every entry, oldest first.

        Raises:
            RestoreError: if a line is none.
        """
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                said = read_json(line)
            except ValueError:
                continue  # a kill cut this line off before the step that it announces began
            yield self._entry(said)

    def _entry(self, said: Any) -> Entry:
        try:
            return Entry(parse_moment(said["time"]), said["step"], said["source"], said["facts"])
        except (KeyError, TypeError, ValueError) as error:
            raise RestoreError(
                f"{self._path} has a line that is no entry of a journal ({type(error).__name__}: {error}): somebody changed it.",
                "Find out who can write to the staging folder, and compare the live data with the set. Then trigger a new restore.",
            ) from None

    def entries(self, step: Step, source: str | None = None) -> list[Entry]:
        """Every entry of a step, for one source or for any."""
        return [entry for entry in self.everything() if entry.step == step and source in {None, entry.source}]

    def last(self, step: Step) -> Entry | None:
        """The last entry of a step."""
        return next(reversed(self.entries(step)), None)

    @property
    def closed(self) -> bool:
        """Whether the restore has ended; nothing may be changed in its name any more."""
        return bool(self.entries(Step.CLOSED))
