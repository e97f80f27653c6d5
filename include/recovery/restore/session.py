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
      work/<source>/          scratch of each source's component
      report.md report.json   how it ended
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from recovery.common.errors import ApprovalError, RestoreError
from recovery.common.files import locked, make_private, read_record
from recovery.crypto.signing import SigningKey
from recovery.destinations.base import Destination
from recovery.plan.field_types import LIVE, Gate
from recovery.restore.approvals import Question, digest, read_approval
from recovery.restore.source_view import SourceRestore
from recovery.runs.context import PlanContext
from recovery.runs.journal import Journal
from recovery.runs.restore_request import Findings, Request
from recovery.sets.local_copy import FetchedSet
from recovery.sets.manifest import Manifest
from recovery.sources.base import Component
from recovery.targets import scratch
from recovery.targets.resolve import place_named
from recovery.targets.target import Place

log = logging.getLogger(__name__)


class RestoreRun:
    """Paths and checks of one restore; cheap to make, in every task anew."""

    def __init__(self, context: PlanContext, run_id: str) -> None:
        self.context = context
        self.plan = plan = context.plan
        self.run_id = run_id
        self.id = hashlib.sha256(f"{plan.plan} {run_id}".encode()).hexdigest()[:8]
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
            self.journal.say("closed", reason=reason, unkept=[])

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
        return bool(self.journal.said("chosen"))

    @property
    def set(self) -> FetchedSet:
        """The chosen set."""
        return FetchedSet(self.folder)

    @property
    def safety(self) -> FetchedSet:
        """The set of the live data from before it was replaced in place; empty unless there was need for one."""
        return FetchedSet(self.folder / "safety")

    def manifest(self) -> Manifest:
        """The chosen set's manifest."""
        return self.set.manifest()

    @cached_property
    def place(self) -> Place:
        """Where this restore goes."""
        return self.place_of(self.request())

    def place_of(self, request: Request) -> Place:
        """Where a restore with this request goes.

        Raises:
            PlanError: if the plan has no such target.
        """
        return place_named(self.context, request.target, lambda: scratch.place(self.context, self.folder))

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates that have to be opened."""
        request = self.request()
        return () if request.dry_run or (request.drill and request.target != LIVE) else self.place.gates

    @property
    def in_place(self) -> bool:
        """Whether the live data is dropped and the set loaded in its place."""
        return self.request().method == "in place"

    def gate_file(self, gate: Gate, suffix: str) -> Path:
        """What a gate showed (``.md``), or the approval that it became (``.json``)."""
        return self.folder / "gates" / f"{gate}{suffix}"

    def signing_key(self) -> SigningKey:
        """The key that signs approvals."""
        return SigningKey.from_endpoint(self.context.endpoint(self.plan.approvals.signing or self.plan.signing))

    def holders(self) -> list[Destination]:
        """The destinations that have the chosen set, or the one that it is to be fetched from."""
        names = [name for name in self.journal.said("chosen")[-1].facts["destinations"] if name in self.plan.destinations]
        wanted = self.request().destination
        return [self.context.destination(name) for name in names if wanted in {None, name}]

    def component(self, source_id: str) -> Component:
        """A source's component, as it is where this restore goes."""
        return self.place.component(source_id)

    def source(self, source_id: str) -> SourceRestore:
        """What a component gets of this restore."""
        return SourceRestore(self, source_id, self.set, self.holders)

    def whole_source(self, source_id: str) -> SourceRestore:
        """The same, as if all of the source had been asked for."""
        return SourceRestore(self, source_id, self.set, self.holders, whole=True)

    def safe_source(self, source_id: str) -> SourceRestore:
        """What a component gets to bring back, in place, what was live before."""
        return SourceRestore(self, source_id, self.safety, self.safe_places, way_back=True)

    def safe_places(self) -> list[Destination]:
        """The destinations that have the safety set."""
        return [self.context.destination(name) for name in self.journal.said("safe")[-1].facts["destinations"]]

    @contextmanager
    def changing(self, what: str, *, forward: bool = True) -> Iterator[None]:
        """Hold the lock around a change: a task whose run was ended by hand lives on for seconds.

        Args:
            what: a source id, or ``services``: changes of different things may happen at the same time.
            forward: refuse once the way back or the clean-up began.

        Raises:
            RestoreError: if this restore has ended.
        """
        with locked(self.folder / "locks" / what):
            if self.journal.closed:
                raise RestoreError("This restore has ended; nothing is changed in its name any more.", "Trigger a new restore.")
            if forward and (self.journal.said("turning back") or self.journal.said("discarding")):
                raise RestoreError("This restore is being taken back.", "Read the report; then trigger a new restore.")
            yield

    def authorise(self, gate: Gate, source_id: str | None = None) -> None:
        """Verify the approval that a change needs, and that nothing it was given for has changed since.

        A gate that the place of this restore does not have needs none; the target must be the same all the same.

        Args:
            gate: the gate whose approval is needed.
            source_id: whose target is looked at again; None for changes that have none.

        Raises:
            ApprovalError: if the gate was not approved, or the plan, the findings or the target are not those of then.
        """
        if self.request().dry_run:
            raise ApprovalError("This is a dry run: nothing is changed.", "Trigger a restore without dry_run.")
        if self.request().drill and self.request().target == LIVE:
            raise ApprovalError("A drill never goes into the live system.", "Trigger a restore.")
        if gate in self.gates:
            self._check_approval(gate)
        else:
            self._same_wish()
        if source_id:
            self.same_target(source_id)

    def _same_wish(self) -> None:
        """Where nobody is asked, nothing may change behind preflight's back either."""
        found = self.findings()
        then, now = (found.plan, found.request), (self.plan_digest, self.request_digest)
        if then != now:
            what = " and ".join(name for name, old, new in zip(("plan", "request"), then, now, strict=True) if old != new)
            raise ApprovalError(f"Since preflight looked, the {what} changed.", "Trigger a new restore.")

    def _check_approval(self, gate: Gate) -> None:
        approval = read_approval(self.gate_file(gate, ".json"), self.signing_key().verify_key)
        if changed := approval.question.changed(self.question(gate)):
            raise ApprovalError(
                f"Since {approval.approver} approved the gate {gate}, this changed: {', '.join(changed)}; the approval is void.",
                "Trigger a new restore, and have it approved as it is now.",
            )

    def question(self, gate: Gate) -> Question:
        """What a gate asks, as everything is now.

        Raises:
            ApprovalError: if the text that it showed is gone.
        """
        shown = self.gate_file(gate, ".md")
        if not shown.exists():
            raise ApprovalError(f"The text that the gate {gate} showed is gone.", "Trigger a new restore.")
        return Question(
            run_id=self.run_id,
            gate=gate,
            set_id=self.manifest().set_id,
            plan=self.plan_digest,
            request=self.request_digest,
            text=digest(shown.read_text(encoding="utf-8", errors="surrogateescape")),
            targets=self.findings().targets,
            checks=len(self.journal.said("checking")) if gate == "accept" else 0,
        )

    def same_target(self, source_id: str) -> None:
        """Make sure that a source's target is the one that preflight found, and the gates showed.

        Raises:
            ApprovalError: if it is another one.
        """
        approved = self.findings().targets.get(source_id)
        found = self.component(source_id).identity(self.source(source_id))
        if found != approved:
            raise ApprovalError(
                f"The target of {source_id} is not the one that was approved: it was {approved}, now it is {found}.",
                "Put the Connection or the path back as it was, or trigger a new restore for the new target.",
            )
