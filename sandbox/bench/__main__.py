"""``make bench``: the data path against the usual script and against the floor, its memory, a restore, parsing, and what Airflow adds.

Prints a table and writes ``bench.json``. ``make bench ARGS="parse restore"`` measures these parts only. ``BENCH_SCALE`` (1.0: 8 million
rows and 600,000 documents) and ``BENCH_ROUNDS`` (2) make it quicker or steadier; ``BENCH_JSON`` names the file. What is compared is
measured in one run, in turns, on the same disk.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from recovery.common.units import human_duration
from sandbox.bench import airflow, parse
from sandbox.bench import rounds as bench_rounds
from sandbox.bench.bed import Bed
from sandbox.bench.table import table

SMALL, LARGE = "small", "bench"
"""Names of the two sizes of data, the second four times the first."""


ON_DATA = ("backup", "memory", "restore")
PARTS = (*ON_DATA, "parse", "airflow")
"""What can be measured apart."""


def main(*parts: str) -> int:
    """Measure some parts or all, print, write."""
    if unknown := set(parts) - set(PARTS):
        print(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="recovery-bench-"))
    folder.chmod(0o755)
    started = time.monotonic()
    try:
        scale, rounds = float(os.environ.get("BENCH_SCALE", "1")), int(os.environ.get("BENCH_ROUNDS", "2"))
        results = measure(folder, scale, rounds, parts or PARTS)
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results["seconds"] = round(time.monotonic() - started, 1)
    Path(os.environ.get("BENCH_JSON", "bench.json")).write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    return 0


def measure(folder: Path, scale: float, rounds: int, parts: Collection[str] = PARTS) -> dict[str, Any]:
    """What some parts take."""
    results: dict[str, Any] = {"scale": scale, "rounds": rounds, "processors": os.cpu_count(), "load_before": os.getloadavg()[0]}
    if set(parts) & set(ON_DATA):
        with Bed(folder / "bed", {SMALL: scale / 4, LARGE: scale}) as bed:
            results |= _on_data(bed, rounds, parts)
    if "parse" in parts:
        _say("Parsing the DAG folder")
        results["parse"] = parse.parse(folder / "parse")
    if "airflow" in parts:
        _say("Running the real DAG on a tiny system")
        results["airflow"] = airflow.added(folder / "airflow")
    return results


def _on_data(bed: Bed, rounds: int, parts: Collection[str]) -> dict[str, Any]:
    _say("Making the data")
    bed.fill()
    results: dict[str, Any] = {"data": bench_rounds.describe(bed, LARGE)}
    if "backup" in parts:
        results["backup"] = _backup(bed, rounds)
    if "memory" in parts:
        _say("Measuring memory, with a small and a four times larger source")
        results["memory"] = {name: bench_rounds.memory(bed, name) for name in (SMALL, LARGE)}
    if "restore" in parts:
        _say("Restoring")
        results["restore"] = bench_rounds.restore(bed, LARGE)
    return results


def _backup(bed: Bed, rounds: int) -> dict[str, Any]:
    found: dict[str, list[bench_rounds.Round]] = {}
    for number in range(rounds):
        for name, run in bench_rounds.KINDS.items():
            found.setdefault(name, []).append(run(bed, LARGE))
            _say(f"Round {number + 1}, {name}: {human_duration(found[name][-1].seconds)}, {found[name][-1].cpu_seconds:.1f} core-s")
    seconds = {name: median(each.seconds for each in all_of) for name, all_of in found.items()}
    return {
        "seconds": seconds,
        "times_as_fast_as_script": {name: seconds["script"] / seconds[name] for name in ("verified", "not verified")},
        "times_the_floor": {name: seconds[name] / seconds["floor"] for name in ("verified", "not verified")},
        "rounds": {name: [asdict(each) for each in all_of] for name, all_of in found.items()},
    }


def _say(what: str) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
