"""The benchmark's results as a table that a person reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from recovery.common.units import human_size

_AIMS = {"times_as_fast_as_script": {"verified": 3.0, "not verified": 4.5}, "times_the_floor": {"verified": 2.0, "not verified": 1.5}}
_MEMORY_AIM = 150 << 20
_AIRFLOW_AIM = 10.0


def table(results: Mapping[str, Any]) -> str:
    """The whole table."""
    return "\n".join([*_head(results), *_backup(results["backup"]), *_memory(results["memory"]), *_rest(results)])


def _head(results: Mapping[str, Any]) -> Iterator[str]:
    data = results["data"]
    yield ""
    yield (
        f"PostgreSQL {human_size(data['postgres_bytes'])} with {data['rows']:,} rows, MongoDB {human_size(data['mongo_bytes'])} with"
        f" {data['documents']:,} documents; {results['processors']} processors, load before {results['load_before']:.1f};"
        f" medians of {results['rounds']} rounds in turns"
    )


def _backup(backup: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"{'backup':<16}{'seconds':>9}{'core-s':>9}{'kept':>11}{'script ÷ it':>14}{'it ÷ floor':>13}"
    for name, seconds in backup["seconds"].items():
        last = backup["rounds"][name][-1]
        kept = human_size(last["bytes"]) if last["bytes"] else ""
        line = f"{name:<16}{seconds:>9.1f}{last['cpu_seconds']:>9.1f}{kept:>11}"
        for what, width, sign in (("times_as_fast_as_script", 14, "≥"), ("times_the_floor", 13, "≤")):
            ratio = backup[what].get(name)
            line += f"{f'{ratio:.1f} ({sign}{_AIMS[what][name]})' if ratio else '':>{width}}"
        yield line
    for name, rounds in backup["rounds"].items():
        yield f"  {name}: " + ", ".join(f"{part} {seconds:.1f}" for part, seconds in rounds[-1]["parts"].items())
    yield "  script and floor take one source after the other; the others take both sources side by side, each in its own process"


def _memory(memory: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Iterator[str]:
    small, large = memory.values()
    yield ""
    yield f"{'peak memory':<30}{'Python above idle':>28}{'tools':>24}"
    yield f"{'':<30}{'small':>14}{'4 × larger':>14}{'small':>12}{'4 × larger':>12}"
    for step, peaks in large.items():
        before = small[step]
        sign = "" if peaks["python"] <= _MEMORY_AIM else "  above 150 MiB"
        yield (
            f"{step:<30}{human_size(before['python']):>14}{human_size(peaks['python']):>14}"
            f"{human_size(before['tools']):>12}{human_size(peaks['tools']):>12}{sign}"
        )


def _rest(results: Mapping[str, Any]) -> Iterator[str]:
    restore, airflow = results["restore"], results["airflow"]
    plain = ", ".join(f"{tool} {seconds:.1f}" for tool, seconds in restore["plain"].items())
    yield ""
    yield f"restore beside the live data, with proof: {restore['seconds']:.1f} s; plain: {plain} s, × {restore['times_plain']:.2f}"
    yield "  " + ", ".join(f"{part} {seconds:.1f}" for part, seconds in restore["parts"].items())
    yield (
        f"Airflow adds {airflow['adds']:.1f} s (≤{_AIRFLOW_AIM:.0f}) to a backup run of {airflow['tasks']} tasks:"
        f" runs {', '.join(f'{run:.1f}' for run in airflow['runs'])} s, the same steps directly"
        f" {', '.join(f'{run:.1f}' for run in airflow['directly'])} s"
    )
    yield f"The benchmark took {results['seconds']:.0f} s."
