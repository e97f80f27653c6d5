"""``make bench``: the data path against the usual script and against the floor, its memory, a restore, parsing, and what Airflow adds.

Prints a table and writes ``bench.json``. ``make bench ARGS="parse restore"`` measures these parts only. ``ARGS=--profile`` shows where the
core-seconds of backup and restore go instead; ``ARGS="--against COMMIT"`` measures their steps beside those of another commit.
``BENCH_SCALE`` (1.0: 8 million rows and 600,000 documents) and ``BENCH_ROUNDS`` (2) make it quicker or steadier; ``BENCH_JSON`` names the
file. What is compared is measured in one run, in turns, on the same disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.bench import against, airflow, measure, parse, profiling
from sandbox.bench.bed import Bed
from sandbox.bench.tables import table

SMALL, LARGE = "small", "bench"
"""Names of the two sizes of data, the second four times the first."""
STEPS = ("backup", "restore")
"""Parts that consist of this project's steps."""
ON_DATA = ("backup", "memory", "restore")
PARTS = (*ON_DATA, "parse", "airflow")
"""What can be measured apart."""


def main(*arguments: str) -> int:
    """Measure some parts or all, print, write."""
    asked = _options().parse_args(arguments)
    there = STEPS if asked.profile or asked.against else PARTS
    if unknown := set(asked.parts) - set(there):
        print(f"There is no part {', '.join(sorted(unknown))}; there are {', '.join(there)}.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="recovery-bench-"))
    folder.chmod(0o755)
    started = time.monotonic()
    try:
        scale, rounds = float(os.environ.get("BENCH_SCALE", "1")), int(os.environ.get("BENCH_ROUNDS", "2"))
        parts = asked.parts or there
        if asked.profile:
            results = profiled(folder, scale, parts)
        elif asked.against:
            results = compared(folder, scale, rounds, asked.against, parts)
        else:
            results = measured(folder, scale, rounds, parts)
    except against.NoSuchTree as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results["seconds"] = round(time.monotonic() - started, 1)
    Path(os.environ.get("BENCH_JSON", "bench.json")).write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure this project, and write bench.json.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"any of {', '.join(PARTS)}; all, if none is named")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--profile", action="store_true", help=f"show where the core-seconds of {' and '.join(STEPS)} go")
    instead.add_argument("--against", metavar="COMMIT", help=f"measure the steps of {' and '.join(STEPS)} beside those of another commit")
    return parser


def measured(folder: Path, scale: float, rounds: int, parts: Collection[str] = PARTS) -> dict[str, Any]:
    """What some parts take."""
    results = _circumstances(scale, rounds)
    if set(parts) & set(ON_DATA):
        with _filled(folder, results, {SMALL: scale / 4, LARGE: scale}) as bed:
            results |= _on_data(bed, rounds, parts)
    if "parse" in parts:
        _say("Parsing the DAG folder")
        results["parse"] = parse.parse(folder / "parse")
    if "airflow" in parts:
        _say("Running the real DAG on a tiny system")
        results["airflow"] = airflow.added(folder / "airflow")
    return results


def profiled(folder: Path, scale: float, parts: Collection[str] = STEPS) -> dict[str, Any]:
    """Where the core-seconds of some parts go."""
    results = _circumstances(scale, 1)
    with _filled(folder, results, {LARGE: scale}) as bed:
        _say("Taking the steps one after another")
        results["profile"] = profiling.profile(bed, LARGE, parts)
    return results


def compared(folder: Path, scale: float, rounds: int, commit: str, parts: Collection[str] = STEPS) -> dict[str, Any]:
    """What some parts take with this tree and with another commit's.

    Raises:
        NoSuchTree: if there is no such commit, or it has no steps that could be measured.
    """
    results = _circumstances(scale, rounds)
    results["trees"] = {against.THIS: against.describe(), against.OTHER: against.describe(commit)}
    with against.checked_out(commit, folder / "other") as other, _filled(folder, results, {LARGE: scale}) as bed:
        results["against"] = against.compare(bed, LARGE, rounds, other, parts, _say)
    return results


def _circumstances(scale: float, rounds: int) -> dict[str, Any]:
    return {"scale": scale, "rounds": rounds, "processors": os.cpu_count(), "load_before": os.getloadavg()[0]}


@contextmanager
def _filled(folder: Path, results: dict[str, Any], sizes: Mapping[str, float]) -> Iterator[Bed]:
    """Servers with data for the length of a block; the results say how much."""
    with Bed(folder / "bed", sizes) as bed:
        _say("Making the data")
        bed.fill()
        results["data"] = measure.describe(bed, LARGE)
        yield bed


def _on_data(bed: Bed, rounds: int, parts: Collection[str]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if "backup" in parts:
        results["backup"] = measure.backup(bed, LARGE, rounds, _say)
    if "memory" in parts:
        _say("Measuring memory, with a small and a four times larger source")
        results["memory"] = {name: measure.memory(bed, name) for name in (SMALL, LARGE)}
    if "restore" in parts:
        _say("Restoring")
        results["restore"] = measure.restore(bed, LARGE)
    return results


def _say(what: str) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
