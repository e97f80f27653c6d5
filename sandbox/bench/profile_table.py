"""A profile as tables: of each source the core-seconds of its steps, by process, and below those in Python by function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

FUNCTIONS = {
    "packs.pack:_Compressing._flush": "zstd, and pieces for its threads",
    "packs.pack:_encrypting.encrypt": "age, SHA-256, file",
    "packs.pack:PackReader.read": "pipe",
    "packs.decrypt_worker:Count.add": "SHA-256",
    "packs.decrypt_worker:unseal": "age",
    "packs.decrypt_worker:_Decompressing.write": "zstd",
    "packs.decrypt_worker:_Sink.write": "pipe",
    "packs.content_index:RecordDigest.add": "XXH3 of records",
    "sources.postgres.dump.copy_text:lines": "rows cut apart",
    "sources.postgres.dump.table_reader:table_texts.read": "psql's rows cut apart, XXH3",
    "sources.mongo.raw_bson:split": "documents cut apart",
    "sources.mongo.snapshot:in_threads.guarded": "the driver, XXH3 or file",
}
"""Functions that hand their work to a library, and which work that is."""
_TITLE = 84
_LEAST, _SHARE = 0.05, 0.03
"""Core-seconds, and share of a step's, that a function has at least if it is shown alone."""


def profile_lines(profile: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A table for each source, and one for the steps of all."""
    by_source: dict[str, dict[str, Any]] = {}
    for title, found in profile.items():
        step, _, source = title.partition(" ")
        by_source.setdefault(source, {})[step] = found
    for source, steps in by_source.items():
        yield ""
        yield f"{f'core-s of {source}':<{_TITLE}}" + "".join(f"{step:>15}" for step in steps) + f"{'all':>8}"
        yield from _rows(list(steps.values()))
    yield "  below Python processes their functions; behind > the library that worked for one"


def _rows(steps: list[Mapping[str, Any]]) -> Iterator[str]:
    all_of = [step["core_seconds"] for step in steps]
    for process, figures in _by_name([step["processes"] for step in steps]):
        yield _line(process, figures)
        functions = _by_name([step["functions"].get(process, {}) for step in steps])
        shown = [(name, used) for name, used in functions if _is_large(used, all_of)]
        yield from (_line(f"  {_words(name)}", used) for name, used in shown)
        if rest := [used for _, used in functions if not _is_large(used, all_of)]:
            yield _line(f"  {len(rest)} others", list(map(sum, zip(*rest, strict=True))))
    yield _line("all", all_of)


def _is_large(used: list[float], all_of: list[float]) -> bool:
    return any(figure >= max(_LEAST, _SHARE * whole) for figure, whole in zip(used, all_of, strict=True))


def _by_name(found: Sequence[Mapping[str, float]]) -> list[tuple[str, list[float]]]:
    """What each step has under a name, the largest first."""
    rows = {name: [each.get(name, 0.0) for each in found] for each in found for name in each}
    return sorted(rows.items(), key=lambda row: -sum(row[1]))


def _words(function: str) -> str:
    return f"{FUNCTIONS[function]}: {function}" if function in FUNCTIONS else function


def _line(title: str, figures: list[float]) -> str:
    return (
        f"{title:<{_TITLE}}"
        + "".join(f"{figure:>15.2f}" if figure >= 0.005 else f"{'':>15}" for figure in figures)
        + f"{sum(figures):>8.2f}"
    )
