"""What a server does with the checksums that it is given. Servers that speak the protocol of S3 differ most in that."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from recovery.destinations.s3_parts import base64_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SENT = b"recovery"


def verifies_sha256(client: S3Client, bucket: str, key: str) -> bool:
    """Whether a server computes the SHA-256 of a part that arrives, says it, and refuses the part if it was told another one.

    It is tried in an upload that is never completed: no object can be seen, and none is left where nobody may delete.

    Args:
        client: of the server.
        bucket: of the upload.
        key: of the upload; an object that is there is not touched.

    Raises:
        ClientError: if the server fails. One that refuses everything confirms nothing; the caller finds out why.
    """
    upload: dict[str, Any] = {"Bucket": bucket, "Key": key}
    try:
        upload["UploadId"] = client.create_multipart_upload(**upload, ChecksumAlgorithm="SHA256")["UploadId"]
    except ClientError as error:
        if failed(error):
            raise
        return False
    try:
        right, wrong = (base64_of(hashlib.sha256(data).digest()) for data in (_SENT, b""))
        return _confirmed(client, upload, right) == right and _confirmed(client, upload, wrong) is None
    finally:
        with suppress(ClientError):  # a sweep aborts it
            client.abort_multipart_upload(**upload)


def _confirmed(client: S3Client, upload: dict[str, Any], sha256: str) -> str | None:
    """The SHA-256 that the server says of a part that comes with this one; None if it refuses the part."""
    try:
        return client.upload_part(**upload, PartNumber=1, Body=_SENT, ChecksumSHA256=sha256).get("ChecksumSHA256", "")
    except ClientError as error:
        if failed(error):
            raise
        return None


def failed(error: ClientError) -> bool:
    """Whether a server failed at something that it may well do the next time; else it does not do this."""
    status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return status == HTTPStatus.TOO_MANY_REQUESTS or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED)
