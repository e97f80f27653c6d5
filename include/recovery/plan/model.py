"""Plan files: one YAML file says which system is protected, how often, where to, kept how long. Validated and frozen.

Reading a plan opens no connection and needs no secret: credentials are Airflow Connections, named by id.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, create_model, model_validator

from recovery.plan import validation
from recovery.plan.checks import Check
from recovery.plan.field_types import (
    AbsolutePath,
    AirflowName,
    Bucket,
    ConnectionId,
    Duration,
    Level,
    Method,
    Mode,
    Name,
    Part,
    Prefix,
    Size,
    cron,
    recipient,
    timezone_name,
)
from recovery.plan.hooks import Hooks
from recovery.plan.kinds import KINDS
from recovery.plan.restore_targets import Drill, Target
from recovery.plan.services import Services
from recovery.plan.source_settings import SourceSettings
from recovery.plan.sources import Sources


class Objectives(Part):
    """What the business agreed to."""

    rpo: Duration = timedelta(hours=24)
    """How much data may be lost, as time: a restore of ``latest`` refuses an older set unless ``allow_stale`` confirms it."""
    rto: Duration = timedelta(hours=2)
    """How long a restore may take."""


class Encryption(Part):
    """Who can read the backups."""

    recipients: Annotated[tuple[Annotated[str, AfterValidator(recipient)], ...], Field(min_length=1)]
    """age public keys; any one of their identities opens the sets."""
    identity: ConnectionId | None = None
    """Connection with the age identity as its password, to verify and restore. Without it verify reaches only ``checksum``."""


class Retention(Part):
    """Which sets a destination keeps: all that any rule wants."""

    keep_within: Duration | None = None
    """Every set younger than this."""
    keep_last: Annotated[int, Field(ge=1)] | None = None
    """This many newest valid sets, and all that are younger than the oldest of them."""

    @model_validator(mode="after")
    def _some_rule(self) -> Self:
        if self.keep_within is None and self.keep_last is None:
            raise ValueError("write at least one rule, such as keep_within: 30d or keep_last: 14")
        return self


class S3Place(Part):
    """A bucket and where in it."""

    connection: ConnectionId
    bucket: Bucket
    prefix: Prefix = ""


class Destination(Retention):
    """A place where sets are kept: a folder or an S3 bucket."""

    folder: AbsolutePath | None = None
    mount: AbsolutePath | None = None
    """Of a folder: what must be mounted whenever it is used, the folder itself or one above it."""
    s3: S3Place | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.folder is None) == (self.s3 is None):
            raise ValueError("write either folder or s3")
        if self.mount and (self.folder is None or not self.folder.is_relative_to(self.mount)):
            raise ValueError(f"mount: {self.mount} must be the destination's folder or one above it")
        return self


class Approver(Part):
    """A person who may answer gates. Airflow knows who answers by two texts; all that are given here must be the same."""

    user: Annotated[str, Field(min_length=1)] | None = None
    """User name, as Airflow shows it. Where people log in with an e-mail address, that."""
    id: Annotated[str, Field(min_length=1)] | None = None
    """Id in the auth manager: the user name again in the simple one, a number in FAB, a UUID in Keycloak."""
    name: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.user is None and self.id is None:
            raise ValueError("write user, the name with which the person logs in, or id")
        return self

    def answers_as(self, user: str, user_id: str) -> bool:
        """Whether this is the person of a user name and an id, as the auth manager gives them."""
        return self.user in {None, user} and self.id in {None, user_id}

    def may_be(self, user: str) -> bool:
        """Whether this may be the person of a user name, of whom no id is known."""
        return user in {self.user, self.id}


class Approvals(Part):
    """Who opens the gates of a restore."""

    approvers: Annotated[tuple[Approver, ...], Field(min_length=1)]
    timeout: Duration = timedelta(hours=12)
    """How long a gate waits for an answer. None in time is a rejection, except at the last gate."""
    signing: ConnectionId | None = None
    """Connection with the key that signs approvals; default: the plan's signing key."""


class Mail(Part):
    """Mail to people when a backup or restore fails, or a gate waits."""

    connection: ConnectionId
    """An SMTP connection."""
    to: Annotated[tuple[str, ...], Field(min_length=1)]
    sender: str


class Alerts(Part):
    """Who is told."""

    mail: Mail | None = None
    heartbeat: ConnectionId | None = None
    """An HTTP Connection whose address is called after every complete backup, so that somebody outside notices when none comes."""


class Staging(Part):
    """Where dumps and packs lie until every destination has them; a folder that all workers share."""

    folder: AbsolutePath = Path("/var/lib/recovery/staging")
    keep: Duration = timedelta(days=3)
    """Packs that a destination still lacks stay this long, so that a failed upload can be cleared without a new dump."""
    cap: Size | None = None
    """Packs of older runs are removed, oldest first, when all of them together are larger than this."""


class _Tools(Part):
    """Folders with client tools, by kind, looked at before PATH; or ``container``, for those of a server's own image."""

    def folders(self, kind: str) -> tuple[Path, ...]:
        """The folders that the plan names for a kind."""
        return () if self.in_containers(kind) else getattr(self, kind, ())

    def in_containers(self, kind: str) -> bool:
        """Whether servers of a kind that run in containers bring their own client tools."""
        return getattr(self, kind, ()) == "container"


if TYPE_CHECKING:
    Tools = _Tools
else:  # with a key for each kind that takes tools
    Tools = create_model(
        "Tools", __base__=_Tools, __doc__=_Tools.__doc__, **{name: (kind.tools, ()) for name, kind in KINDS.items() if kind.tools}
    )


class Queues(Part):
    """Airflow queues, so that few workers need the keys."""

    backup: AirflowName | None = None
    """Of backups and maintenance; default: Airflow's own."""
    decode: AirflowName | None = None
    """Of what opens sets: the verification of backups, restores, and drills without a queue of their own; default: that of ``backup``."""
    approve: AirflowName | None = None
    """Of gates; default: that of ``decode``."""

    @property
    def opening(self) -> str | None:
        """The queue of what opens sets."""
        return self.decode or self.backup


class Plan(Part):
    """One system and how it is protected."""

    plan: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    """The plan's name: a lower-case letter, then letters, digits and _. DAGs and folders are named after it."""
    schedule: Annotated[str, AfterValidator(cron)] | None = "0 1 * * *"
    """Cron expression in ``timezone``; null for backups by hand only."""
    timezone: Annotated[str, AfterValidator(timezone_name)] = "UTC"
    """Name of the timezone in which ``schedule`` is meant, such as ``Europe/Berlin``."""
    owner: Annotated[str, Field(min_length=1, max_length=250)] = "operations"
    """Shown as the DAGs' owner."""
    objectives: Objectives = Objectives()
    sources: Sources
    encryption: Encryption
    signing: ConnectionId
    """Connection with the Ed25519 key that signs sets, as its password."""
    destinations: Annotated[dict[Name, Destination], Field(min_length=1, max_length=10)]
    verification: Literal["checksum", "content"] = "content"
    """What verify must reach before a set counts as valid: ``checksum`` or ``content``."""
    approvals: Approvals
    services: Services = Services()
    hooks: Hooks = Hooks()
    checks: tuple[Check, ...] = ()
    """What the restored system must answer: the runbook's "verify that the system works" as data."""
    mode: Mode = "hot"
    """Whether backups stop the services while they read the sources, unless whoever triggers one says otherwise."""
    restore_method: Method = "swap"
    """The method that the form of a restore offers first."""
    targets: dict[Name, Target] = {}
    """Where else a set may be restored to, by a name of your choice."""
    drill: Drill = Drill()
    queues: Queues = Queues()
    alerts: Alerts = Alerts()
    staging: Staging = Staging()
    tools: Tools = Tools()
    pack: Size = 1 << 30
    """Packs are filled to about this size, before compression."""
    compression: Annotated[int, Field(ge=1, le=19)] = 1
    """zstd level."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a backup's task is tried again after a failure that may pass."""
    retry_delay: Duration = timedelta(minutes=1)
    """Pause before the first retry; it doubles from one to the next."""
    timeout: Duration = timedelta(hours=6)
    """How long any one task may take."""
    keep_replaced: Duration = timedelta(days=7)
    """How long the copies that a restore set aside are kept."""

    @model_validator(mode="after")
    def _fits_together(self) -> Plan:
        if faults := list(validation.faults(self)):
            raise ValueError("; ".join(faults))
        return self

    @property
    def required_level(self) -> Level:
        """What must have been verified of a set before it counts as valid, as manifests say it."""
        return "decoded" if self.verification == "content" else "stored"

    def source(self, source_id: str) -> SourceSettings:
        """The settings of ``<kind>.<name>``.

        Raises:
            KeyError: if the plan has no such source.
        """
        return dict(self.sources)[source_id]

    @property
    def source_ids(self) -> Sequence[str]:
        """Every source's ``<kind>.<name>``, in the order of restoring."""
        return [source_id for source_id, _ in self.sources]
