"""The benchmark's results as tables that a person reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from recovery.common.units import human_size
from sandbox.bench.profile_table import profile_lines

_AIMS = {"times_as_fast_as_script": {"verified": 3.0, "not verified": 4.5}, "times_the_floor": {"verified": 2.0, "not verified": 1.5}}
_MEMORY_AIM = 150 << 20
_AIRFLOW_AIM = 10.0
_PARSE_AIM = 60.0
"""Milliseconds of one processor for a plan."""


def table(results: Mapping[str, Any]) -> str:
    """The parts that were measured."""
    sections: dict[str, Callable[[Any], Iterator[str]]] = {
        "backup": _backup,
        "memory": _memory,
        "restore": _restore,
        "parse": _parse,
        "airflow": _airflow,
        "profile": profile_lines,
        "against": _against,
    }
    lines = [line for part, lines_of in sections.items() if part in results for line in lines_of(results[part])]
    return "\n".join([*_head(results), *lines, f"The benchmark took {results['seconds']:.0f} s."])


def _head(results: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    if data := results.get("data"):
        rounds = results["rounds"]
        yield (
            f"PostgreSQL {human_size(data['postgres_bytes'])} with {data['rows']:,} rows, MongoDB {human_size(data['mongo_bytes'])} with"
            f" {data['documents']:,} documents; " + (f"medians of {rounds} rounds in turns" if rounds > 1 else "one round")
        )
    yield (
        f"{results['processors']} processors, load before {results['load_before']:.1f}. core-s: of all processors together; on a busy"
        " machine they say more than seconds"
    )
    for tree, words in results.get("trees", {}).items():
        yield f"{tree}: {words}"


def _parts(name: str, measured: Mapping[str, Any]) -> str:
    """Of one round: seconds of each part, and in brackets its core-seconds."""
    parts = measured["parts"].items()
    return f"  {name}: " + ", ".join(f"{part} {seconds:.1f} ({measured['parts_cpu'][part]:.1f})" for part, seconds in parts)


def _backup(backup: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"{'backup':<14}{'seconds':>9}{'core-s':>8}{'kept':>11}{'script ÷ it':>14}{'core-s':>8}{'it ÷ floor':>13}{'core-s':>8}"
    for name, spent in backup["medians"].items():
        last = backup["rounds"][name][-1]
        kept = human_size(last["bytes"]) if last["bytes"] else ""
        line = f"{name:<14}{spent['seconds']:>9.1f}{spent['cpu_seconds']:>8.1f}{kept:>11}"
        for what, width, sign in (("times_as_fast_as_script", 14, "≥"), ("times_the_floor", 13, "≤")):
            if ratio := backup[what].get(name):
                line += f"{ratio['seconds']:.1f} ({sign}{_AIMS[what][name]})".rjust(width) + f"{ratio['cpu_seconds']:>8.1f}"
        yield line
    for name, rounds in backup["rounds"].items():
        yield _parts(name, rounds[-1])
    yield "  in brackets: core-s; each part of the last round"
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


def _restore(restore: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"{'restore':<18}{'seconds':>9}{'core-s':>8}{'it ÷ plain':>13}{'core-s':>8}"
    for name, measured in restore["rounds"].items():
        line = f"{name:<18}{measured['seconds']:>9.1f}{measured['cpu_seconds']:>8.1f}"
        ratio = restore["times_plain"]
        yield line + (f"{ratio['seconds']:>13.1f}{ratio['cpu_seconds']:>8.1f}" if name != "plain" else "")
    for name, measured in restore["rounds"].items():
        yield _parts(name, measured)
    yield "  in brackets: core-s"


def _parse(counts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield f"{'parsing':<16}{'seconds':>9}{'core-s':>9}{'core-ms a plan':>17}{'to serialize':>15}{'stored a plan':>16}{'imports before':>17}"
    for count, found in counts.items():
        plans = int(count)
        (seconds, used), (_, storing), (_, importing) = (found[what] for what in ("parse", "serialize", "imports"))
        each = f"{used * 1000 / plans:.0f} (≤{_PARSE_AIM:.0f})"
        yield (
            f"{plans:>3} {'plans' if plans > 1 else 'plan':<12}{seconds:>9.2f}{used:>9.2f}{each:>17}"
            f"{storing * 1000 / plans:>15.0f}{human_size(found['bytes'] // plans):>16}{importing:>10.1f} core-s"
        )


def _airflow(airflow: Mapping[str, Any]) -> Iterator[str]:
    runs, alone = (", ".join(f"{seconds:.1f} ({used:.1f})" for seconds, used in airflow[which]) for which in ("runs", "directly"))
    seconds, used = airflow["adds"]
    yield ""
    yield f"Airflow adds {seconds:.1f} s (≤{_AIRFLOW_AIM:.0f}) and {used:.1f} core-s to a backup run of {airflow['tasks']} tasks"
    yield f"  runs {runs}, the same steps directly {alone}"
    yield "  in brackets: core-s of all Airflow processes, its database and the tasks, without those of the system's servers"


def _against(compared: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> Iterator[str]:
    for part, steps in compared.items():
        yield ""
        yield f"{part:<30}{'seconds:':>10}{'this':>8}{'other':>8}{'ratio':>8}{'core-s:':>12}{'this':>8}{'other':>8}{'ratio':>8}"
        for step, trees in steps.items():
            yield f"{step:<30}" + _beside(trees, "seconds", 10) + _beside(trees, "cpu_seconds", 12)
    yield "  ratio: this ÷ other. core-s have the servers' too; parts of different sources run side by side"


def _beside(trees: Mapping[str, Mapping[str, float]], what: str, space: int) -> str:
    """What both trees took, and how many times as much this one did; where only one has a step, the other is blank."""
    this, other = (trees[tree][what] if tree in trees else None for tree in ("this", "other"))
    figures = "".join(f"{figure:>8.2f}" if figure is not None else f"{'':>8}" for figure in (this, other))
    return " " * space + figures + (f"{this / other:>8.2f}" if this is not None and other else f"{'':>8}")
