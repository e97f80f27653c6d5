"""How many records a source has, and whether it has lost what it had."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from recovery.common.errors import SourceError
from recovery.common.paths import readable
from recovery.common.wording import shortened
from recovery.packs.content_index import Row


def noting(
    counted: Callable[[Row], tuple[str, int] | None], counts: dict[str, int], changed: list[str], rows: Iterable[Row]
) -> Iterator[Row]:
    """Pass rows on, and note what they say.

    Args:
        counted: how many records a row speaks of, and for which name they count.
        counts: gets the records, by that name.
        changed: gets, in words, what changed while it was read.
        rows: contents of an artifact.
    """
    for kind, name, facts in rows:
        if (records := counted((kind, name, facts))) is not None:
            counts[records[0]] = counts.get(records[0], 0) + records[1]
        if kind == "changed":
            changed.append(f"{readable(name)}: {facts['what']}")
        yield kind, name, facts


def refuse_lost(
    source_id: str, before: Mapping[str, int], counts: Mapping[str, int], artifacts: Collection[str], *, everything: bool
) -> list[str]:
    """What a source had in the last valid set and has no more, which is more likely a loss than meant.

    One of several databases of an artifact may be drained each night, as a queue is: that is only said.

    Args:
        source_id: whose.
        before: records in the last valid set, by what they count for.
        counts: records now.
        artifacts: names of what was dumped.
        everything: whether all databases are backed up, so that one that is not there is gone, and not left out by the plan.

    Returns:
        What is only said, in words.

    Raises:
        SourceError: if an artifact is empty that was not, or all of the source, or if a database that had records is gone.
    """
    had = {name: records for name, records in before.items() if records}
    gone = [f"{name} had {records} records in the last valid set, and is gone now" for name, records in had.items() if name not in counts]
    emptied = {
        name: f"{name} had {records} records in the last valid set, and has none now"
        for name, records in had.items()
        if name in counts and not counts[name]
    }
    refused = [words for name, words in emptied.items() if name in artifacts or not any(counts.values())]
    if lost := [*(gone if everything else ()), *refused]:
        raise SourceError(
            f"{source_id}: {shortened(lost)}.",
            "If that is right, trigger the backup with allow_empty; if not, restore it.",
        )
    return list(emptied.values())
