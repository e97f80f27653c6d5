"""Places where sets are kept; ``make_destination`` gives the one that a plan describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from recovery.common.errors import PlanError, RecoveryError
from recovery.common.extras import extra
from recovery.destinations.base import Destination, Unusable
from recovery.plan.model import Destination as Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def make_destination(name: str, settings: Settings, s3_client: Callable[[str], S3Client]) -> Destination:
    """The destination of a plan; one whose client can't be made fails whatever it is asked, so that it never stops the others.

    Args:
        name: the plan's name for it.
        settings: what the plan says of it.
        s3_client: gives the S3 client of a Connection's id; only asked for S3 destinations.

    Raises:
        PlanError: if the settings name no place, or a package that it needs is not installed.
    """
    if settings.folder is not None:
        from recovery.destinations.folder import Folder

        return Folder(name, settings.folder, settings.mount)
    if settings.s3 is not None:
        with extra("s3", f"the destination {name}"):
            from recovery.destinations.s3 import S3

        try:
            client = s3_client(settings.s3.connection)
        except RecoveryError as error:
            return Unusable(name, error)
        return S3(name, client, settings.s3.bucket, settings.s3.prefix)
    raise PlanError(f"The destination {name} is neither a folder nor s3.", "Write one of them in the plan.")
