"""What a server does with the checksums that it is given. Servers that speak the protocol of S3 differ most in that.

It is tried in uploads that are never completed: no object can be seen, and none is left where nobody may delete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from recovery.destinations.s3_parts import base64_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SENT = b"recovery"


def verifies_sha256(client: S3Client, bucket: str, key: str) -> bool:
    """Whether a server computes the SHA-256 of a part that arrives, says it, and refuses the part if it was told another one.

    Args:
        client: of the server.
        bucket: of the upload.
        key: of the upload; an object that is there is not touched.

    Raises:
        ClientError: if the server fails. One that refuses everything confirms nothing; :func:`try_upload` finds that out.
    """
    right, wrong = (base64_of(hashlib.sha256(data).digest()) for data in (_SENT, b""))
    try:
        with _unfinished(client, bucket, key, ChecksumAlgorithm="SHA256") as part:
            if client.upload_part(**part, ChecksumSHA256=right).get("ChecksumSHA256") != right:
                return False
            return _refuses(client, part, wrong)
    except ClientError as error:
        if failed(error):
            raise
        return False


def try_upload(client: S3Client, bucket: str, key: str) -> None:
    """Begin an upload without checksums.

    Raises:
        ClientError: if the server refuses it or fails.
    """
    with _unfinished(client, bucket, key) as part:
        client.upload_part(**part)


@contextmanager
def _unfinished(client: S3Client, bucket: str, key: str, **more: Any) -> Iterator[dict[str, Any]]:
    """What a part of an upload needs, which is aborted in the end."""
    upload: dict[str, Any] = {"Bucket": bucket, "Key": key}
    upload["UploadId"] = client.create_multipart_upload(**upload, **more)["UploadId"]
    try:
        yield upload | {"PartNumber": 1, "Body": _SENT}
    finally:
        with suppress(ClientError):  # a sweep aborts it
            client.abort_multipart_upload(**upload)


def _refuses(client: S3Client, part: dict[str, Any], sha256: str) -> bool:
    try:
        client.upload_part(**part, ChecksumSHA256=sha256)
    except ClientError as error:
        if failed(error):
            raise
        return True
    return False


def failed(error: ClientError) -> bool:
    """Whether a server failed at something that it may well do the next time; else it does not do this."""
    status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return status == HTTPStatus.TOO_MANY_REQUESTS or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED)
