"""A target: where a restore goes, and what is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from recovery.common.errors import PlanError
from recovery.plan.checks import Check
from recovery.plan.field_types import LIVE, Gate
from recovery.plan.model import Plan
from recovery.plan.services import Services
from recovery.plan.source_settings import TargetSettings
from recovery.runs.context import PlanContext, R
from recovery.sources.set_reader import SetReader


@dataclass(frozen=True)
class RestoreTarget:
    """Where a restore goes, and what is there."""

    name: str
    """``live``, ``scratch``, or a target's name."""
    context: PlanContext = field(repr=False)
    settings: Mapping[str, TargetSettings] = field(default_factory=dict)
    """Of each source that is restored somewhere else; empty for the live system."""
    gates: tuple[Gate, ...] = ()
    services: Services = field(default_factory=Services)
    checks: tuple[Check, ...] = ()

    @property
    def plan(self) -> Plan:
        """The plan whose data is restored."""
        return self.context.plan

    @property
    def live(self) -> bool:
        """Whether it is the system that the plan protects."""
        return self.name == LIVE

    @property
    def sources(self) -> list[str]:
        """The sources that have a place here, in the order of restoring."""
        return [source_id for source_id in self.plan.source_ids if self.live or source_id in self.settings]

    def asked(self, sources: Collection[str]) -> list[Check]:
        """The checks to ask after a restore of some sources: of all that is live, elsewhere of what was brought there."""
        return [check for check in self.checks if self.live or check.source in {None, *sources}]

    def unasked(self, sources: Collection[str]) -> list[str]:
        """Titles of the checks of plan and target that are not asked after that, so that nobody takes them for answered."""
        asked = self.asked(sources)
        return list(dict.fromkeys(check.title for check in (*self.plan.checks, *self.checks) if check not in asked))

    def source(self, source_id: str, role: type[R]) -> R:
        """A source of the plan, as it is here.

        Raises:
            PlanError: if the target does not name the source, or the source lacks the role.
            ConnectionUnusable: if its Connection is missing.
        """
        if source_id not in self.sources:
            raise PlanError(f"The target {self.name} does not name {source_id}.", f"It has {', '.join(self.sources)}.")
        return self.context.source(source_id, role, self.settings.get(source_id))

    def reader(self, source_id: str) -> SetReader:
        """What reads a source's packs, by the client tools that are used here; raises as :meth:`PlanContext.reader`."""
        return self.context.reader(source_id, self.settings.get(source_id))


def portable_checks(plan: Plan, settings: Mapping[str, TargetSettings]) -> tuple[Check, ...]:
    """The plan's checks that make sense somewhere else than in the live system: those of sources that are there."""
    return tuple(check for check in plan.checks if check.source in settings)
