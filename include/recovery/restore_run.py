"""One restore: its folder in staging, what was asked, found, approved and done. The steps are in ``restore.py``.

::

    <staging>/<plan>/restores/<restore id>/
      request.json            what was asked, and by whom
      set/                    manifest and packs.jsonl of the set, believed before they were kept
      rows/<source>/          the set's contents, by artifact
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
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tarfile import TarInfo
from typing import Literal

from pydantic import BaseModel, ConfigDict

from recovery import components
from recovery.approvals import Gate, Question, digest, read_approval
from recovery.artifact import Identity, Pack, extract, open_pack, safe_name
from recovery.components.base import Component
from recovery.connections import Connect, s3_client
from recovery.contents import Row, read_rows
from recovery.destinations import make_destination
from recovery.destinations.base import Destination, Progress
from recovery.errors import ApprovalError, ArtifactError, DestinationError, KeyMaterialError, RestoreError
from recovery.journal import Journal
from recovery.keys import SigningKey, VerifyKey, parse_identity
from recovery.manifest import File, Manifest, StoredPack, decode_manifest, parse_packs
from recovery.plan import Plan
from recovery.shipping import download
from recovery.staging import locked, make_private, read_record

log = logging.getLogger(__name__)


class Request(BaseModel):
    """What was asked of a restore, and by whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    requester: str
    started: datetime
    set: str = "latest"
    """``latest`` or a set id."""
    newest_before: str | None = None
    """A moment with its offset; the newest set of before it, in place of ``set``."""
    sources: tuple[str, ...]
    """Source ids to restore."""
    config: Literal["missing", "all"] = "missing"
    allow_stale: bool = False
    """Restore a set that is older than the RPO allows."""


class Findings(BaseModel):
    """What preflight found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    """Markdown: the text of the first gate."""
    targets: dict[str, str]
    """Identity of each source's target."""


class RestoreRun:
    """Paths and checks of one restore; cheap to make, in every task anew."""

    def __init__(self, plan: Plan, run_id: str, connect: Connect) -> None:
        self.plan = plan
        self.run_id = run_id
        self.connect = connect
        self.id = hashlib.sha256(f"{plan.plan} {run_id}".encode()).hexdigest()[:8]
        self.folder = plan.staging.folder / plan.plan / "restores" / self.id
        self.journal = Journal(self.folder / "journal.jsonl")

    @property
    def plan_digest(self) -> str:
        """SHA-256 of the plan as it is now."""
        return digest(self.plan.model_dump_json())

    def close_unbegun(self) -> None:
        """End a restore that has not chosen a set, so that clearing it does not begin it in somebody's name."""
        make_private(self.folder)
        if not self.journal.closed:
            self.journal.say("closed", reason="no set was chosen", unkept=[])

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

    @cached_property
    def _packs(self) -> dict[tuple[str, str], list[StoredPack]]:
        """The set's packs by source and artifact, in order."""
        found: dict[tuple[str, str], list[StoredPack]] = {}
        for pack in parse_packs((self.folder / "set/packs.jsonl").read_bytes(), self.manifest()):
            found.setdefault((pack.source, pack.artifact), []).append(pack)
        return {key: sorted(packs, key=lambda pack: pack.number) for key, packs in found.items()}

    def manifest(self) -> Manifest:
        """The set's manifest, whose signature was checked when it was fetched."""
        return decode_manifest((self.folder / "set/manifest.json").read_bytes(), "staging")

    def packs(self, source_id: str, artifact: str) -> list[StoredPack]:
        """The packs of an artifact, in order."""
        return self._packs.get((source_id, artifact), [])

    def artifacts(self, source_id: str) -> list[str]:
        """The artifacts that the set has of a source."""
        return [artifact for source, artifact in self._packs if source == source_id]

    def rows_file(self, source_id: str, artifact: str) -> Path:
        """File of an artifact's contents."""
        return self.folder / "rows" / source_id / f"{safe_name(artifact)}.jsonl"

    def places_file(self, source_id: str, artifact: str) -> Path:
        """File of which member is in which pack, and of each pack's checksum before encryption."""
        return self.rows_file(source_id, artifact).with_suffix(".places")

    def gate_file(self, gate: Gate, suffix: str) -> Path:
        """What a gate showed (``.md``), or the approval that it became (``.json``)."""
        return self.folder / "gates" / f"{gate}{suffix}"

    def signing_key(self) -> SigningKey:
        """The key that signs approvals."""
        return SigningKey.from_endpoint(self.connect(self.plan.approvals.signing or self.plan.signing))

    def set_key(self) -> SigningKey:
        """The key that signs sets and their records."""
        return SigningKey.from_endpoint(self.connect(self.plan.signing))

    def verify_key(self) -> VerifyKey:
        """What a set's signature is checked with; it comes from the plan, never from where the set lies."""
        return self.set_key().verify_key

    def identity(self) -> Identity:
        """What opens the packs.

        Raises:
            KeyMaterialError: if the plan names none, or it is not one.
        """
        name = self.plan.encryption.identity
        if name is None:
            raise KeyMaterialError(
                "The plan names no identity, so nothing can be decrypted.", "Name its Connection under encryption.identity."
            )
        identity: Identity = parse_identity(self.connect(name))
        return identity

    def destination(self, name: str) -> Destination:
        """A destination of the plan."""
        return make_destination(name, self.plan.destinations[name], s3_client)

    def destinations(self) -> list[Destination]:
        """All destinations of the plan."""
        return [self.destination(name) for name in self.plan.destinations]

    def holders(self) -> list[Destination]:
        """The destinations that have the chosen set."""
        return [self.destination(name) for name in self.journal.said("chosen")[-1].facts["destinations"] if name in self.plan.destinations]

    def component(self, source_id: str) -> Component:
        """A source's component."""
        return components.make(self.plan, source_id, self.connect)

    def source(self, source_id: str) -> SourceRestore:
        """What a component gets of this restore."""
        return SourceRestore(self, source_id)

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

        Args:
            gate: the gate whose approval is needed.
            source_id: whose target is looked at again; None for changes that have none.

        Raises:
            ApprovalError: if the gate was not approved, or the plan, the findings or the target are not those of then.
        """
        approval = read_approval(self.gate_file(gate, ".json"), self.signing_key().verify_key)
        if changed := approval.question.changed(self.question(gate)):
            raise ApprovalError(
                f"Since {approval.approver} approved the gate {gate}, this changed: {', '.join(changed)}; the approval is void.",
                "Trigger a new restore, and have it approved as it is now.",
            )
        if source_id:
            self.same_target(source_id)

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
            request=digest(self.request().model_dump_json()),
            text=digest(shown.read_text(encoding="utf-8", errors="surrogateescape")),
            targets=self.findings().targets,
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


class SourceRestore:
    """:class:`recovery.components.base.Restore` for one source of one restore."""

    def __init__(self, run: RestoreRun, source_id: str) -> None:
        self._run = run
        self._source_id = source_id

    @property
    def id(self) -> str:
        """The restore's id."""
        return self._run.id

    @property
    def folder(self) -> Path:
        """Scratch folder of this source, made when it is asked for."""
        folder = self._run.folder / "work" / self._source_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def options(self) -> dict[str, str]:
        """The request's choices."""
        return {"config": self._run.request().config}

    def artifacts(self) -> Sequence[str]:
        """The set's artifacts of this source."""
        return self._run.artifacts(self._source_id)

    def rows(self, artifact: str, *kinds: str) -> Iterator[Row]:
        """The set's rows of an artifact."""
        return read_rows(self._run.rows_file(self._source_id, artifact), *kinds)

    def unpack(self, artifact: str, folder: Path, only: Callable[[TarInfo], bool] | None = None) -> None:
        """Fetch, check, decrypt and extract; one pack at a time, so staging needs room for one."""
        identity = self._run.identity()
        for pack, path in self.fetch(artifact):
            with path.open("rb") as source, open_pack(source, pack, [identity]) as reader:
                extract(reader, folder, only)

    def fetch(self, artifact: str) -> Iterator[tuple[Pack, Path]]:
        """An artifact's packs, each as a file that is there until the next one is asked for."""
        folder = self._run.folder / "fetch" / self._source_id
        folder.mkdir(parents=True, exist_ok=True)
        sums = {pack: facts["raw_sha256"] for _, pack, facts in read_rows(self._run.places_file(self._source_id, artifact), "pack")}
        holders, prefix = self._run.holders(), self._run.manifest().path
        for stored in self._run.packs(self._source_id, artifact):
            path = folder / Path(stored.file).name
            file = File(bytes=stored.stored_bytes, sha256=stored.sha256)
            download_from_any(holders, f"{prefix}/{stored.file}", path, file)
            sizes = {"raw_bytes": stored.raw_bytes, "stored_bytes": stored.stored_bytes}
            yield Pack(file=path.name, raw_sha256=sums[path.name], sha256=stored.sha256, **sizes), path
            path.unlink()

    def journal(self, step: str, **facts: object) -> None:
        """Say a step of this source; apart from the steps of the restore itself, whatever they are called."""
        self._run.journal.say(f"{self._source_id}: {step}", **facts)

    def journalled(self, step: str) -> list[dict[str, object]]:
        """What was said of a step of this source."""
        return [entry.facts for entry in self._run.journal.said(f"{self._source_id}: {step}")]

    def clean(self) -> None:
        """Remove the scratch folders."""
        for name in ("work", "fetch"):
            shutil.rmtree(self._run.folder / name / self._source_id, ignore_errors=True)


def download_from_any(holders: Sequence[Destination], key: str, path: Path, file: File) -> None:
    """Fetch an object from the first destination that has it whole.

    Raises:
        RestoreError: if none has.
        StagingError: if the file can't be written.
    """
    faults = []
    for destination in holders:
        progress = Progress(f"fetching {key} from {destination.name}", file.bytes)
        try:
            download(destination, key, path, file, progress.add)
        except (ArtifactError, DestinationError) as error:
            log.error("%s", error)
            faults.append(f"{destination.name}: {error}")
        else:
            log.info("%s: %s", key, progress.summary())
            return
    raise RestoreError(f"{key} could not be fetched from any destination:\n" + "\n".join(faults), "Choose another set.")
