"""The benchmark's measurements on a bed, as ``bench.json`` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from recovery.common.units import human_duration
from sandbox.bench import stock_tools
from sandbox.bench.bed import Bed
from sandbox.bench.own_steps import MeasuredSet
from sandbox.bench.processes import Spent
from sandbox.bench.rounds import Round, medians, ratios

Say = Callable[[str], None]
"""Takes a line about how far it is."""


def verified(bed: Bed, name: str) -> Round:
    """This project's way, with verify."""
    with MeasuredSet(bed, name) as measured:
        return measured.back_up()


def not_verified(bed: Bed, name: str) -> Round:
    """The same without verify."""
    with MeasuredSet(bed, name) as measured:
        return measured.back_up("trust")


WAYS: Mapping[str, Callable[[Bed, str], Round]] = {
    "script": stock_tools.script,
    "verified": verified,
    "not verified": not_verified,
    "floor": stock_tools.floor,
}
"""The ways to back up that are measured in turns."""


def backup(bed: Bed, name: str, rounds: int, say: Say) -> dict[str, Any]:
    """Backups in each way, in turns."""
    found: dict[str, list[Round]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way, run in WAYS.items():
            found[way].append(run(bed, name))
            say(f"Round {number + 1}, {way}: {spent_words(found[way][-1].spent)}")
    spent = {way: medians(taken) for way, taken in found.items()}
    ours = ("verified", "not verified")
    return {
        "medians": _named(spent),
        "times_as_fast_as_script": _named({way: ratios(spent["script"], spent[way]) for way in ours}),
        "times_the_floor": _named({way: ratios(spent[way], spent["floor"]) for way in ours}),
        "rounds": {way: [asdict(each) for each in taken] for way, taken in found.items()},
    }


def memory(bed: Bed, name: str) -> dict[str, dict[str, int]]:
    """Highest resident bytes of each step of a backup, one source after another.

    ``python`` is above a process that only imported, with the project's own helper processes; ``tools`` are pg_dump, tar and the like.
    """
    with MeasuredSet(bed, name, watch=True) as measured:
        taken, idle = measured.back_up_in_turn()
    return {
        title: {"python": max(step.memory.python - idle[title.partition(" ")[2]], 0), "tools": step.memory.tools}
        for title, step in taken.items()
    }


def restore(bed: Bed, name: str) -> dict[str, Any]:
    """A restore beside the live data, with its verification, against pg_restore and mongorestore of the script's dumps."""
    plain = stock_tools.plain_restore(bed, name)
    with MeasuredSet(bed, name) as measured:
        measured.back_up()
        ours = measured.restore()
    rounds = {"with verification": asdict(ours), "plain": asdict(plain)}
    return {"rounds": rounds, "times_plain": ratios(ours.spent, plain.spent)._asdict()}


def describe(bed: Bed, name: str) -> dict[str, Any]:
    """How much data there is."""
    with bed.postgres.connect(name) as connection:
        count = "SELECT sum(reltuples)::bigint FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        connection.execute("ANALYZE")
        size, rows = connection.execute(f"SELECT pg_database_size(current_database()), ({count})").fetchone() or (0, 0)
    with bed.mongo.client() as client:
        stats = client[name].command("dbStats")
    return {"postgres_bytes": size, "rows": rows, "mongo_bytes": round(stats["dataSize"]), "documents": stats["objects"]}


def spent_words(spent: Spent) -> str:
    """Seconds and core-seconds, in words."""
    return f"{human_duration(spent.seconds)}, {spent.cpu_seconds:.1f} core-s"


def _named(found: Mapping[str, Spent]) -> dict[str, dict[str, float]]:
    return {name: spent._asdict() for name, spent in found.items()}
