"""An object while it is read. A connection that breaks off in the middle of a large one costs only what comes after."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import ConnectionError, HTTPClientError, IncompleteReadError

from recovery.destinations.base import Source

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

log = logging.getLogger(__name__)

PAUSES = (1, 2, 4, 8, 16)
"""Seconds before each new request, while none brings anything; then it is given up."""


class Body:
    """Reads an object, and asks for the rest of it where an answer breaks off.

    Args:
        get: asks for the object; of its arguments only those for a part of it are given.

    Raises:
        ClientError: if there is none, or it was replaced while it was read.
        BotoCoreError: if it can't be read.
    """

    def __init__(self, get: Callable[..., GetObjectOutputTypeDef]) -> None:
        self._get = get
        answer = get()
        self._etag = answer.get("ETag")
        self._body: Source | None = cast(Source, answer["Body"])
        self._read = 0
        self._failures = 0

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Read what comes, up to the buffer's size; 0 at the end."""
        while True:
            try:
                self._body = self._body or self._rest()
                count = self._body.readinto(buffer)
            except (ConnectionError, HTTPClientError, IncompleteReadError) as error:
                self._pause(error)
                continue
            self._read += count
            self._failures = 0
            return count

    def close(self) -> None:
        """Give it up."""
        if self._body:
            self._body.close()

    def _pause(self, error: Exception) -> None:
        if self._failures == len(PAUSES):
            raise error
        log.info("the answer broke off after %d bytes (%s); asking for the rest", self._read, error)
        self.close()
        self._body = None
        time.sleep(PAUSES[self._failures])
        self._failures += 1

    def _rest(self) -> Source:
        same: dict[str, Any] = {"IfMatch": self._etag} if self._etag else {}
        answer = self._get(Range=f"bytes={self._read}-", **same)
        if not answer.get("ContentRange", "").startswith(f"bytes {self._read}-"):
            raise IncompleteReadError(actual_bytes=self._read, expected_bytes=answer["ContentLength"])
        return cast(Source, answer["Body"])
