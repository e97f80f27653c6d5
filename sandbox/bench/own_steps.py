"""What this project's steps take, on a bed: of this tree, or of another commit's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox.bench.bed import APPROVER, SOURCES, Bed
from sandbox.bench.processes import Spent
from sandbox.bench.rounds import Round, made_of
from sandbox.bench.tasks import PROJECT, Step, Tasks, take

BOTH = "both"
"""What a step is of that is no source's own."""
Taken = Mapping[str, Step]
"""Steps that were taken, by what they are and of what."""


class MeasuredSet:
    """A set that steps make, and restore from where it was stored, for the length of a block.

    Args:
        bed: where.
        name: the size of its data.
        tree: the checked-out project whose steps they are.
        watch: take samples of memory.
        profile: a folder, if the steps are to be profiled; see :mod:`sandbox.bench.profiled`.
    """

    def __init__(self, bed: Bed, name: str, tree: Path = PROJECT, *, watch: bool = False, profile: Path | None = None) -> None:
        self._bed = bed
        self._name = name
        self._tree = tree
        self._watch = watch
        self._profile = profile
        self._run = bed.new_set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A restore that was never reported has not ended, and the next one would be refused; so nothing of it stays.
        for folder in (self._bed.backups, self._bed.staging):
            shutil.rmtree(folder / self._name, ignore_errors=True)

    def _tasks(self, *steps: str) -> Tasks:
        return self._bed.tasks(self._name, self._run, *steps, tree=self._tree, watch=self._watch, profile=self._profile)

    def back_up(self, last: str = "verify") -> Round:
        """Dump, compress and verify each source in a process of its own, side by side; then upload.

        Args:
            last: another step in the place of ``verify``.
        """
        chains, upload = self._backup(last)
        os.sync()
        seconds = take(chains.values(), [upload])
        take([self._tasks("finish:")])
        size = sum(path.stat().st_size for path in self._bed.backups.rglob("*") if path.is_file())
        return made_of(_spent(_taken({**chains, BOTH: upload})), seconds, size)

    def restore(self) -> Round:
        """Stage each source beside its live data, and compare it with the set, in a process of its own, side by side; then discard."""
        chains = self._restore()
        os.sync()
        seconds = take(chains.values())
        take([self._tasks("discard:")])
        return made_of(_spent(_taken(chains)), seconds)

    def back_up_in_turn(self) -> tuple[Taken, Mapping[str, int]]:
        """The steps of a backup, one source after another, so that what they take is not mixed up; and what each process had in
        memory once everything was imported.
        """
        chains, upload = self._backup("verify")
        everything = {**chains, BOTH: upload}
        for tasks in everything.values():
            take([tasks])
        take([self._tasks("finish:")])
        return _taken(everything), {what: tasks.idle for what, tasks in everything.items()}

    def restore_in_turn(self) -> Taken:
        """The steps of a restore, one source after another."""
        chains = self._restore()
        for tasks in chains.values():
            take([tasks])
        take([self._tasks("discard:")])
        return _taken(chains)

    def _backup(self, last: str) -> tuple[Mapping[str, Tasks], Tasks]:
        take([self._tasks("prepare:")])
        chains = {source: self._tasks(f"dump:{source}", f"compress:{source}", f"{last}:{source}") for source in SOURCES}
        return chains, self._tasks("upload:local")

    def _restore(self) -> Mapping[str, Tasks]:
        take([self._tasks(f"choose:{APPROVER}")])
        return {source: self._tasks(f"stage:{source}", f"verify_staged:{source}") for source in SOURCES}


def _taken(chains: Mapping[str, Tasks]) -> Taken:
    return {f"{step.name} {what}": step for what, tasks in chains.items() for step in tasks.steps}


def _spent(taken: Taken) -> dict[str, Spent]:
    return {name: Spent(step.seconds, step.cpu_seconds + step.server_cpu_seconds) for name, step in taken.items()}
