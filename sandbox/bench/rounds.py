"""What one backup or restore took, as a whole and part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from sandbox.bench.processes import Spent


@dataclass
class Round:
    """What one backup or restore took."""

    seconds: float
    parts: dict[str, float]
    """Seconds by part; parts of different sources overlap where they ran side by side."""
    cpu_seconds: float
    """Of all processes: tasks, tools and servers."""
    parts_cpu: dict[str, float]
    """The same by part."""
    bytes: int = 0
    """Of what was kept."""

    @property
    def spent(self) -> Spent:
        """The whole."""
        return Spent(self.seconds, self.cpu_seconds)

    def part(self, name: str) -> Spent:
        """One part."""
        return Spent(self.parts[name], self.parts_cpu[name])


def made_of(parts: Mapping[str, Spent], seconds: float | None = None, size: int = 0) -> Round:
    """A round of parts, which ran one after another, unless it is said what they took together."""
    return Round(
        sum(spent.seconds for spent in parts.values()) if seconds is None else seconds,
        {name: spent.seconds for name, spent in parts.items()},
        round(sum(spent.cpu_seconds for spent in parts.values()), 3),
        {name: round(spent.cpu_seconds, 3) for name, spent in parts.items()},
        size,
    )


def medians(rounds: Iterable[Round], of: Callable[[Round], Spent] = lambda each: each.spent) -> Spent:
    """The medians of rounds, of the whole or of something else."""
    return Spent(*map(median, zip(*map(of, rounds), strict=True)))


def ratios(spent: Spent, to: Spent) -> Spent:
    """How many times as much something took as another thing, in seconds and in core-seconds."""
    return Spent(spent.seconds / to.seconds, spent.cpu_seconds / to.cpu_seconds)
