"""Sets where they lie: a destination's folder or bucket, one plan's part of it, or a single set that was copied somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from recovery.common.errors import PlanError
from recovery.common.extras import extra
from recovery.destinations.base import Destination
from recovery.destinations.folder import Folder


def open_place(text: str, endpoint_url: str | None = None) -> Destination:
    """A folder, or ``s3://bucket/prefix`` with the keys that boto3 finds in its environment variables and files.

    Raises:
        PlanError: if it is neither.
    """
    if text.startswith("s3://"):
        return _bucket(text, endpoint_url)
    folder = Path(text)
    if not folder.is_dir():
        raise PlanError(f"There is no folder {text}.", "Name a folder that has sets, or write s3://bucket/prefix.")
    return Folder("place", folder.absolute())


def _bucket(text: str, endpoint_url: str | None) -> Destination:
    with extra("s3", text):
        import boto3
        from botocore.exceptions import BotoCoreError

        from recovery.destinations.s3 import CONFIG, S3

    match = re.fullmatch(r"s3://([^/]+)/*(.*?)/*", text)
    if not match:
        raise PlanError(f"{text} names no bucket.", "Write s3://bucket or s3://bucket/prefix.")
    try:
        client = boto3.client("s3", endpoint_url=endpoint_url, config=CONFIG)
    except (BotoCoreError, ValueError) as error:
        raise PlanError(f"{text} can't be reached: {error}.", "Correct --endpoint-url and the AWS_ variables.") from None
    return S3("place", client, match[1], match[2])
