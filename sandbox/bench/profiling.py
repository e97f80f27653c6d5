"""Where core-seconds go: each step of a backup and of a restore by process, and the project's own Python by function."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sandbox.bench.bed import MONGO, POSTGRES, Bed
from sandbox.bench.own_steps import MeasuredSet, Taken
from sandbox.bench.tasks import Step

SERVERS = {POSTGRES: "PostgreSQL server", MONGO: "MongoDB server"}


def profile(bed: Bed, name: str, parts: Collection[str]) -> dict[str, dict[str, Any]]:
    """What each step takes, one source after another, in core-seconds: ``processes``, and of those in Python ``functions``."""
    folder = bed.folder / "profile"
    folder.mkdir()
    with MeasuredSet(bed, name, profile=folder) as measured:
        taken, _ = measured.back_up_in_turn()
        restored: Taken = measured.restore_in_turn() if "restore" in parts else {}
    return {title: _of(title.partition(" ")[2], step) for title, step in ({**taken, **restored}).items()}


def _of(source: str, step: Step) -> dict[str, Any]:
    server = {SERVERS[source]: step.server_cpu_seconds} if source in SERVERS else {}
    return {
        "seconds": step.seconds,
        "core_seconds": step.cpu_seconds + step.server_cpu_seconds,
        "processes": {**server, **step.programs},
        "functions": step.functions,
    }
