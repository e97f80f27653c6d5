"""What goes wrong with a bucket, in words for the operator."""

from __future__ import annotations

from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, NoCredentialsError

from recovery.common.errors import DestinationError
from recovery.destinations.base import NO_ROOM, Missing, Refused

DAMAGED = {"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "InvalidDigest"}
"""What servers say of an object that arrived with another content than they were told."""

_KEYS = "Correct the keys in the Connection."
_REGION = "Write the bucket's region as region_name, and its address as endpoint_url, into the Connection's extra."
_STYLE = 'Write {"config_kwargs": {"s3": {"addressing_style": "virtual"}}} into the Connection\'s extra.'

NEXT = {
    "301": _REGION,
    "403": "Correct the keys in the Connection, or give them the right to list, read, write and delete.",
    "405": "Correct endpoint_url in the Connection's extra; no S3 server answers there.",
    "AccessDenied": "Give the Connection's keys the right to list, read, write and delete below the plan's prefix.",
    "AuthorizationHeaderMalformed": _REGION,
    "EntityTooLarge": "Write a smaller pack into the plan; this server takes no object of this size.",
    "ExpiredToken": _KEYS,
    "IllegalLocationConstraintException": _REGION,
    "InvalidAccessKeyId": _KEYS,
    "InvalidBucketName": "Correct the bucket's name in the plan.",
    "InvalidToken": _KEYS,
    "NoSuchBucket": "Create the bucket, or correct its name in the plan.",
    "NotImplemented": "Choose another server; this one lacks what a destination needs.",
    "PathStyleDomainForbidden": _STYLE,
    "PermanentRedirect": _REGION,
    "RequestTimeTooSkewed": "Set this worker's clock; it differs too much from the server's.",
    "SecondLevelDomainForbidden": _STYLE,
    "SignatureDoesNotMatch": "Correct the secret key in the Connection.",
    "VirtualHostDomainRequired": _STYLE,
}
"""What to do about a refusal, by its code; a second try does not help."""

_FULL = {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
_BUSY = {"429", "503", "ServiceUnavailable", "SlowDown", "TooManyRequests"}


def code_of(error: Exception) -> str:
    """The server's word for an error, or the status where it had none; empty if the server said nothing."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def in_words(error: Exception, failure: str) -> DestinationError:
    """An error of boto3, as an operator needs it.

    Args:
        error: of boto3.
        failure: what could not be done, and where.
    """
    if isinstance(error, ClientError):
        return _answered(
            code_of(error), f"{failure}: {code_of(error)} {error.response.get('Error', {}).get('Message', '')}".rstrip(". ") + "."
        )
    if isinstance(error, NoCredentialsError):
        return Refused(f"{failure}: no keys.", "Put the keys into the Connection.")
    if isinstance(error, (ConnectionError, HTTPClientError)):
        return DestinationError(f"{failure}: it does not answer ({error}).", "Check the network and the endpoint in the Connection.")
    return DestinationError(f"{failure}: {error}", "Check the Connection and the network.")


def _answered(code: str, said: str) -> DestinationError:
    if code == "NoSuchKey":
        return Missing(said, "Look at what was removed there, and when.")
    if code in NEXT:
        return Refused(said, NEXT[code])
    if code in _FULL:
        return DestinationError(said, NO_ROOM)
    if code in _BUSY:
        return DestinationError(said, "The server is too busy; try again later.")
    return DestinationError(said, "Look at the server's log, and at the endpoint in the Connection.")
