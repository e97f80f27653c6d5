"""A kind's part of ``RESTORE.md``: how to get its data back with stock tools alone."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from recovery.packs.content_index import Row
from recovery.plan.source_settings import SourceSettings

_ENVIRONMENT = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701 - Markdown, of our own names


@dataclass(frozen=True)
class GuidedSource:
    """A source that a set has, for whoever writes how to get it back."""

    id: str
    settings: SourceSettings
    versions: Mapping[str, str]
    """As :attr:`recovery.sources.model.Dump.versions`."""
    folders: Mapping[str, str]
    """The folder that each artifact's packs are unpacked into, by artifact."""
    members: Callable[[str], Iterable[Row]]
    """The rows of an artifact's members."""
    contents: Callable[[str, str], Iterable[Row]]
    """The rows of one kind of an artifact's contents."""


@dataclass(frozen=True)
class Guide:
    """How to get a kind's sources back. Templates are Jinja's; in them is what ``describe`` gives of each source, as ``sources``."""

    title: str
    tools: str
    """The stock tools that it takes, in words; empty if the common ones will do."""
    template: str
    describe: Callable[[GuidedSource], Mapping[str, Any]]
    as_root: bool = False
    """Whether owners are lost if somebody else unpacks and copies."""

    def section(self, sources: Sequence[GuidedSource]) -> str:
        """The Markdown below the title."""
        return render(self.template, sources=[self.describe(source) for source in sources])


def render(template: str, **values: Any) -> str:
    """Fill a template in; a value that is missing is an error."""
    return _ENVIRONMENT.from_string(template).render(values)


def quoted(path: Path | str) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))
