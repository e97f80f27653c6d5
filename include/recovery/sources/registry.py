"""Every kind of source there is: a package of this folder with a ``TYPE``, and settings of the same name in ``plan/kinds``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recovery.common.errors import ArtifactError
from recovery.common.extras import extra
from recovery.plan.kinds import KINDS
from recovery.plan.source_id import kind_of, name_of
from recovery.plan.source_settings import TargetSettings
from recovery.runners.base import Runner
from recovery.sources.base import Access, Source
from recovery.sources.guide import Guide
from recovery.sources.model import SourceType
from recovery.sources.scratch_server import ScratchServer
from recovery.sources.set_reader import SetReader

if TYPE_CHECKING:
    from recovery.plan.model import Plan


def make(plan: Plan, source_id: str, access: Access, there: TargetSettings | None = None) -> Source:
    """A source of a plan; looks its Connection up, but does not connect.

    Args:
        plan: whose source it is.
        source_id: ``<kind>.<name>``.
        access: how it is reached.
        there: where it lies, if not in the live system.

    Raises:
        ConnectionUnusable: if the Connection is missing.
        PlanError: if a package that the kind needs is not installed.
    """
    return source_class(kind_of(source_id)).of(name_of(source_id), plan.source(source_id), there, access)


def source_class(kind: str) -> type[Source]:
    """The class of a kind's sources."""
    found: type[Source] = _load(_type_of(kind).source)
    return found


def reader(kind: str, runner: Runner, tools: Sequence[Path] = ()) -> SetReader:
    """What reads a kind's packs.

    Raises:
        ArtifactError: if nothing does.
    """
    if kind not in KINDS:
        raise ArtifactError(f"This version can't read packs of the kind {kind}.", "Use the version that wrote the set.")
    made: SetReader = _load(_type_of(kind).reader)(runner, tools)
    return made


def guide(kind: str) -> Guide:
    """How to get a kind's data back by hand."""
    found: Guide = _load(_type_of(kind).guide)
    return found


def scratch_server(kind: str) -> ScratchServer | None:
    """The server that a drill makes for a kind; None where a folder will do."""
    place = _type_of(kind).scratch
    found: ScratchServer | None = _load(place) if place else None
    return found


def _type_of(kind: str) -> SourceType:
    found: SourceType = import_module(f"recovery.sources.{kind}").TYPE
    return found


@cache
def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    kind = module.split(".")[2]
    with extra(kind, f"a source of the kind {kind}"):
        return getattr(import_module(module), name)
