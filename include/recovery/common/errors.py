"""The one exception tree. A message says what happened, to what, and what to do next."""

from __future__ import annotations


class RecoveryError(Exception):
    """Root of everything this package raises on purpose.

    Args:
        what: what happened and to what, one sentence, without secrets.
        next_step: what the operator does now.
        retryable: where this one is not as its kind is.
    """

    retryable = False
    """True where the same task may succeed a minute later without anyone doing anything."""

    def __init__(self, what: str, next_step: str, *, retryable: bool | None = None) -> None:
        self.what = what
        self.next_step = next_step
        if retryable is not None:
            self.retryable = retryable
        super().__init__(what, next_step)

    def __str__(self) -> str:
        return f"{self.what} Next: {self.next_step}"


class PlanError(RecoveryError):
    """A plan file, a parameter or a setting is not usable as written."""


class KeyMaterialError(RecoveryError):
    """An identity, a recipient or a signing key is missing or is not one."""


class ConnectionUnusable(RecoveryError):
    """An Airflow Connection is missing or lacks a field."""


class StagingError(RecoveryError):
    """The staging folder is missing, full, or does not hold what the last task wrote."""


class ToolError(RecoveryError):
    """A client tool is missing, or it ran and failed."""

    retryable = True


class ContainerError(RecoveryError):
    """A Docker Engine does not answer or refuses, or a container is missing, does not run, or is not the only one."""


class ContainerUnwell(ContainerError):
    """A container was started, and is not well; nothing more can be started."""

    retryable = True


class SourceError(RecoveryError):
    """A source can't be read, or its dump lacks something that its inventory has."""


class SourceUnreachable(SourceError):
    """A source does not answer; it may in a minute."""

    retryable = True


class ArtifactError(RecoveryError):
    """A pack is damaged, incomplete, or not what its record says."""


class ManifestError(RecoveryError):
    """A manifest or a record can't be believed: signature, kind, path or format."""


class DestinationError(RecoveryError):
    """A destination refused, or what arrived is not what was sent."""

    retryable = True


class HookError(RecoveryError):
    """A hook of the plan failed."""


class RetentionError(RecoveryError):
    """Pruning would not be safe."""


class ApprovalError(RecoveryError):
    """A change was asked for without the approval that it needs."""


class RestoreError(RecoveryError):
    """A restore was refused, rejected, or stopped."""


class RestoreUnderWay(RestoreError):
    """A restore is under way, and what was asked for has to wait until it has ended."""


class VerificationError(RestoreError):
    """What was restored is not equal to what the set holds."""
