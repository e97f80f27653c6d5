"""One restore: its folder in staging, what was asked, found, approved and done. The steps are in :mod:`recovery.restore.steps`.

::

    <staging>/<plan>/restores/<restore id>/
      request.json            what was asked, and by whom
      set/ rows/              the chosen set: see :mod:`recovery.sets.local_copy`
      safety/                 the same of the set that was made of the live data before it was replaced in place
      findings.json           what preflight found, and the identity of each target
      gates/<gate>.md         the text that a gate showed
      gates/<gate>.asked.json the signed question: that text, and everything else that an answer is about
      gates/<gate>.json       the signed approval that an answer became
      journal.jsonl           what was done, said before it was done
      work/<source>/          scratch of each source
      report.md report.json   how it ended
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from functools import cached_property
from pathlib import Path

from recovery.common.errors import RestoreError
from recovery.common.files import locked, make_private, read_record
from recovery.destinations.base import Destination
from recovery.plan.field_types import LIVE, Gate, Method
from recovery.restore.approvals import digest
from recovery.runs.context import PlanContext
from recovery.runs.journal import Journal
from recovery.runs.journal_steps import Step
from recovery.runs.restore_request import Findings, Request
from recovery.sets.local_copy import LocalSet
from recovery.sets.manifest import Manifest
from recovery.sources.base import BesideRestorer, InPlaceRestorer, Restorer
from recovery.sources.model import LeftOut
from recovery.targets import scratch
from recovery.targets.resolve import resolve
from recovery.targets.target import RestoreTarget

_ROLES: dict[Method, type[Restorer]] = {"swap": Restorer, "in place": InPlaceRestorer, "beside": BesideRestorer}


class RestoreSession:
    """Paths and checks of one restore; cheap to make, in every task anew."""

    def __init__(self, context: PlanContext, run_id: str) -> None:
        self.context = context
        self.plan = plan = context.plan
        self.run_id = run_id
        self.id = hashlib.sha256(f"{plan.plan} {run_id}".encode("utf-8", "backslashreplace")).hexdigest()[:8]
        self.folder = plan.staging.folder / plan.plan / "restores" / self.id
        self.journal = Journal(self.folder / "journal.jsonl")

    @property
    def plan_digest(self) -> str:
        """SHA-256 of the plan as it is now."""
        return digest(self.plan.model_dump_json())

    @property
    def request_digest(self) -> str:
        """SHA-256 of what was asked."""
        return digest(self.request().model_dump_json())

    def close_unbegun(self, reason: str = "no set was chosen") -> None:
        """End a restore that has not chosen a set, so that clearing it does not begin it in somebody's name."""
        make_private(self.folder)
        if not self.journal.closed:
            self.journal.record(Step.CLOSED, reason=reason, unkept=[])

    def request(self) -> Request:
        """What was asked.

        Raises:
            StagingError: if this restore has not begun.
        """
        return read_record(self.folder / "request.json", Request)

    def findings(self) -> Findings:
        """What preflight found."""
        return read_record(self.folder / "findings.json", Findings)

    @property
    def began(self) -> bool:
        """Whether a set was chosen."""
        return bool(self.journal.entries(Step.CHOSEN))

    @property
    def set(self) -> LocalSet:
        """The chosen set."""
        return LocalSet(self.folder)

    @property
    def safety(self) -> LocalSet:
        """The set of the live data from before it was replaced in place; empty unless there was need for one."""
        return LocalSet(self.folder / "safety")

    def manifest(self) -> Manifest:
        """The chosen set's manifest."""
        return self.set.manifest()

    @cached_property
    def target(self) -> RestoreTarget:
        """Where this restore goes."""
        return self.target_of(self.request())

    def target_of(self, request: Request) -> RestoreTarget:
        """Where a restore with this request goes.

        Raises:
            PlanError: if the plan has no such target.
        """
        return resolve(self.context, request.target, lambda: scratch.target(self.context, self.folder))

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates that have to be opened."""
        request = self.request()
        if request.dry_run or (request.drill and request.target != LIVE):
            return ()
        return tuple(gate for gate in self.target.gates if gate == "plan" or not self.beside)

    @property
    def in_place(self) -> bool:
        """Whether the live data is dropped and the set loaded in its place."""
        return self.request().method == "in place"

    @property
    def beside(self) -> bool:
        """Whether what was restored stays beside the live data, and nothing is cut over."""
        return self.request().method == "beside"

    @property
    def left_beside(self) -> dict[str, list[str]]:
        """What stays beside the live data, by source: where it is and how it is dropped, in sentences."""
        return {entry.source: list(entry.facts["words"]) for entry in self.journal.entries(Step.LEFT_BESIDE)}

    @property
    def maybe_left_beside(self) -> dict[str, list[str]]:
        """As :attr:`left_beside`; also of sources whose task did not end, so that it may have left something."""
        words = f"The task that was to leave it there did not end. Look for what has {self.id} in its name; drop it if you do not need it."
        return {entry.source: [words] for entry in self.journal.entries(Step.LEAVING_BESIDE)} | self.left_beside

    def record_left_out(self, step: Step, source_id: str, found: Iterable[LeftOut]) -> None:
        """Say a step of a source that was loaded from a set, and what of it is left out."""
        self.journal.record(step, source_id, left_out=[astuple(each) for each in found])

    def left_out(self, *steps: Step) -> dict[str, list[LeftOut]]:
        """What was said to be left out of each source with the last of some steps; only sources of which something is."""
        found = {entry.source: entry.facts.get("left_out", ()) for entry in self.journal.everything() if entry.step in steps}
        return {source_id: [LeftOut(*each) for each in lacking] for source_id, lacking in found.items() if lacking}

    def gate_file(self, gate: Gate, suffix: str) -> Path:
        """What a gate showed (``.md``), or the approval that it became (``.json``)."""
        return self.folder / "gates" / f"{gate}{suffix}"

    def holders(self) -> list[Destination]:
        """The destinations that have the chosen set, or the one that it is to be fetched from."""
        names = [name for name in self.journal.entries(Step.CHOSEN)[-1].facts["destinations"] if name in self.plan.destinations]
        wanted = self.request().destination
        return [self.context.destination(name) for name in names if wanted in {None, name}]

    def source(self, source_id: str) -> Restorer:
        """A source, as it is where this restore goes.

        Raises:
            PlanError: if its kind can't be restored by the method of this restore.
        """
        return self.target.source(source_id, _ROLES[self.request().method])

    @contextmanager
    def changing(self, what: str, *, forward: bool = True) -> Iterator[None]:
        """Hold the lock around a change: a task whose run was ended by hand lives on for seconds.

        Args:
            what: a source id, or ``services``: changes of different things may happen at the same time.
            forward: refuse once the rollback or the clean-up began.

        Raises:
            RestoreError: if this restore has ended.
        """
        with locked(self.folder / "locks" / what):
            if self.journal.closed:
                raise RestoreError("This restore has ended; nothing is changed in its name any more.", "Trigger a new restore.")
            if forward and (self.journal.entries(Step.ROLLING_BACK) or self.journal.entries(Step.DISCARDING)):
                raise RestoreError("This restore is being rolled back.", "Read the report; then trigger a new restore.")
            yield
