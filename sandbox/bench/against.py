"""Two commits beside each other: the steps of both, in turns, on the same servers and data."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.bench.bed import Bed
from sandbox.bench.measure import Say, spent_words
from sandbox.bench.own_steps import MeasuredSet
from sandbox.bench.processes import Spent
from sandbox.bench.rounds import Round, medians
from sandbox.bench.tasks import PROJECT

_STEPS = Path("sandbox/bench/steps.py")
THIS, OTHER = "this", "other"
WHOLE = "all"


class NoSuchTree(Exception):
    """There is no commit to compare with, or it has no steps that could be measured."""


def describe(commit: str = "") -> str:
    """A commit's short name and subject; of this tree, too, whether it has changes that are not committed.

    Raises:
        NoSuchTree: if there is no such commit.
    """
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit or 'HEAD'}^{{commit}}")
    changed = not commit and _git("status", "--porcelain")
    return _git("log", "-1", "--format=%h %s", found) + (", with changes that are not committed" if changed else "")


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A commit's tree, in a worktree of its own for the length of a block.

    Args:
        commit: any name that git knows it by.
        folder: where; it is made, and removed at the end.

    Raises:
        NoSuchTree: if there is no such commit, or it has no steps.
    """
    try:
        _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
        if not (folder / _STEPS).exists():
            raise NoSuchTree(f"{describe(commit)} has no {_STEPS}, so its steps can't be measured. Name a later commit.")
        yield folder
    finally:
        if folder.exists():
            _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> str:
    """What git answers. It has a session of its own: Ctrl-C in a terminal would end it before it has tidied up.

    Raises:
        NoSuchTree: if it refuses.
    """
    done = subprocess.run(["git", "-C", PROJECT, *arguments], capture_output=True, text=True, start_new_session=True)
    if done.returncode:
        said = done.stderr.strip() or "there is no such commit"
        raise NoSuchTree(f"git {' '.join(arguments)} failed: {said}. Name a commit of this repository, such as HEAD~1.")
    return done.stdout.strip()


def compare(bed: Bed, name: str, rounds: int, other: Path, parts: Collection[str], say: Say) -> dict[str, dict[str, dict[str, Any]]]:
    """Medians of both trees, by ``backup`` or ``restore``, then by step or :data:`WHOLE`, then by tree."""
    trees = {THIS: PROJECT, OTHER: other}
    found: dict[str, dict[str, list[Round]]] = {part: {tree: [] for tree in trees} for part in ("backup", "restore") if part in parts}
    for number in range(rounds):
        for tree in trees if number % 2 == 0 else reversed(trees):
            for part, taken in _round(bed, name, trees[tree], parts).items():
                found[part][tree].append(taken)
                say(f"Round {number + 1}, {part}, {tree}: {spent_words(taken.spent)}")
    return {part: _medians(taken) for part, taken in found.items()}


def _round(bed: Bed, name: str, tree: Path, parts: Collection[str]) -> dict[str, Round]:
    with MeasuredSet(bed, name, tree) as measured:
        taken = {"backup": measured.back_up()}
        if "restore" in parts:
            taken["restore"] = measured.restore()
    return {part: each for part, each in taken.items() if part in parts}


def _medians(taken: Mapping[str, list[Round]]) -> dict[str, dict[str, Any]]:
    steps = dict.fromkeys(step for rounds in taken.values() for each in rounds for step in each.parts)
    found: dict[str, dict[str, Spent]] = {WHOLE: {tree: medians(rounds) for tree, rounds in taken.items()}}
    for step in steps:
        with_it = {tree: rounds for tree, rounds in taken.items() if all(step in each.parts for each in rounds)}
        found[step] = {tree: medians(rounds, lambda each: each.part(step)) for tree, rounds in with_it.items()}  # noqa: B023 - called at once
    return {step: {tree: spent._asdict() for tree, spent in by_tree.items()} for step, by_tree in found.items()}
