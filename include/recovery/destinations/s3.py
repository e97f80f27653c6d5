"""Sets in a bucket of Amazon S3 or of a server that speaks its protocol, whichever checksums that one knows."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from recovery.common.errors import DestinationError
from recovery.destinations.base import Destination, Entry, Missing, Reading, Refused
from recovery.destinations.s3_body import Body
from recovery.destinations.s3_parts import Parts, Slice, base64_of, cut, in_threads
from recovery.destinations.s3_probe import failed, try_upload, verifies_sha256
from recovery.destinations.s3_words import DAMAGED, NEXT, code_of, in_words

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        CompletedPartTypeDef,
        HeadObjectOutputTypeDef,
        ListObjectsV2OutputTypeDef,
        MultipartUploadTypeDef,
        ObjectIdentifierTypeDef,
    )

log = logging.getLogger(__name__)

_ABANDONED = timedelta(days=1)

CONFIG = Config(request_checksum_calculation="when_required", response_checksum_validation="when_required")
"""What a client is made with. The checksums that boto3 adds on its own are unknown to many servers, and weaker than ours."""


class S3(Destination):
    """A bucket, and a prefix in it.

    Files above 8 MiB go in parts, several at once. Each object is confirmed by the best that the server offers:

    1. The SHA-256 of what arrived. A server that ignores a wrong one is not believed: see :mod:`recovery.destinations.s3_probe`.
    2. The ETag, where it is the MD5 of what arrived. The server is never told it, so it computed it.
    3. What it gives back: the object is read once, as a whole.

    Only the first is known before the object can be seen. One that is not confirmed is deleted.

    Args:
        name: the plan's name for it.
        client: made with :data:`CONFIG`.
        bucket: its name.
        prefix: without a slash at its ends.
    """

    parallel = 2

    def __init__(self, name: str, client: S3Client, bucket: str, prefix: str = "") -> None:
        super().__init__(name)
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._sha256: bool | None = None
        """Whether the SHA-256 that the server says is believed; None until something is sent."""
        self._deletes_together = True
        """Whether one request may delete several objects; until the server refuses it."""

    def describe(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put(self, path: Path, key: str, sha256: str, sent: Callable[[int], None]) -> bool:
        """See :meth:`Destination.put`."""
        parts = cut(path)
        if parts.sha256 != sha256:
            raise self.changed_here(path)
        with self._errors(f"write {key}"):
            self._probe(key)
            there = self._head(key)
            if there and there["ContentLength"] == parts.size and self._confirms(there, key, parts):
                return False
            answer = self._put_parts(key, parts, sent) if parts.several else self._put_whole(key, parts, sent)
            if self._confirms(answer, key, parts):
                return True
        self._give_up(key)
        raise self.not_as_sent(key)

    def _give_up(self, key: str) -> None:
        try:
            self.delete([key])
        except DestinationError as error:
            log.warning("%s: %s is not what was sent, and could not be deleted: %s", self.describe(), key, error)

    def _probe(self, key: str) -> None:
        """Find out which checksums count, once: a server may be exchanged, but hardly while a task runs, and each answer is looked at."""
        if self._sha256 is None:
            self._sha256 = verifies_sha256(self._client, self._bucket, self._prefix + key)

    def _head(self, key: str) -> HeadObjectOutputTypeDef | None:
        """What the server says of an object; None if there is none."""
        mode: Any = {"ChecksumMode": "ENABLED"} if self._sha256 else {}
        try:
            return self._client.head_object(Bucket=self._bucket, Key=self._prefix + key, **mode)
        except ClientError as error:
            if code_of(error) in {"404", "NoSuchKey"}:
                return None
            self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, Range="bytes=0-0")["Body"].close()  # its failure has words
            raise

    def _confirms(self, answer: Mapping[str, Any], key: str, parts: Parts) -> bool:
        """Whether the server has exactly this file, by what it says or, where that tells nothing, by what it gives back."""
        if self._sha256 and (said := answer.get("ChecksumSHA256")):
            how, right = "SHA-256", bool(said == parts.checksum)
        elif answer.get("ETag", "").strip('"').lower() == parts.etag():
            how, right = "MD5", True
        else:
            how, right = "reading it back", self._stored_sha256(key) == parts.sha256
        if right:
            self.confirmed_by.add(how)
        return right

    def _stored_sha256(self, key: str) -> str:
        with self.open(key) as source:
            return hashlib.file_digest(cast(BufferedReader, source), "sha256").hexdigest()

    def _checksum(self, digest: bytes) -> Any:
        """The argument of a call that tells the SHA-256; none for a server that may refuse it."""
        return {"ChecksumSHA256": base64_of(digest)} if self._sha256 else {}

    def _put_whole(self, key: str, parts: Parts, sent: Callable[[int], None]) -> Mapping[str, Any]:
        with parts.path.open("rb") as body:
            answer = self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + key, Body=body, ContentLength=parts.size, **self._checksum(parts.digests[0])
            )
        sent(parts.size)
        return answer

    def _put_parts(self, key: str, parts: Parts, sent: Callable[[int], None]) -> Mapping[str, Any]:
        bucket, key = self._bucket, self._prefix + key
        self._abort_uploads(key, lambda upload: upload["Key"] == key)
        algorithm: Any = {"ChecksumAlgorithm": "SHA256"} if self._sha256 else {}
        upload = self._client.create_multipart_upload(Bucket=bucket, Key=key, **algorithm)["UploadId"]

        def send(number: int) -> CompletedPartTypeDef:
            start = (number - 1) * parts.part
            length = min(parts.part, parts.size - start)
            checksum = self._checksum(parts.digests[number - 1])
            with parts.path.open("rb") as file:
                body = cast(IO[bytes], Slice(file, start, length))
                answer = self._client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body, **checksum)
            sent(length)
            return cast("CompletedPartTypeDef", {"PartNumber": number, "ETag": answer["ETag"]} | checksum)

        try:
            done = in_threads(send, range(1, len(parts.digests) + 1))
            return self._client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": done})
        except BaseException:
            self._abort(key, upload)
            raise

    def _abort(self, full_key: str, upload: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=full_key, UploadId=upload)
        except (ClientError, BotoCoreError) as error:
            log.warning("%s: could not abort the upload of %s, prune will: %s", self.describe(), full_key, error)

    def _abort_uploads(self, full_prefix: str, abandoned: Callable[[MultipartUploadTypeDef], bool]) -> None:
        for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=full_prefix):
            for upload in page.get("Uploads", []):
                if abandoned(upload):
                    log.info("%s: aborting the upload of %s, left by a writer that was killed", self.describe(), upload["Key"])
                    self._abort(upload["Key"], upload["UploadId"])

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """See :meth:`Destination.open`."""
        what = f"read {key}"
        with self._errors(what):
            body = Body(partial(self._client.get_object, Bucket=self._bucket, Key=self._prefix + key))
        with Reading(body, lambda: self._errors(what)).buffered() as reader:
            yield reader

    def list(self, prefix: str) -> Iterator[Entry]:
        """See :meth:`Destination.list`."""
        with self._errors(f"list {prefix}"):
            for page in self._pages(prefix):
                for item in page.get("Contents", []):
                    yield Entry(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"].astimezone(UTC))

    def folders(self, prefix: str) -> Iterator[str]:
        """See :meth:`Destination.folders`."""
        whole = self._prefix + prefix
        with self._errors(f"list {prefix}"):
            for page in self._pages(prefix, Delimiter="/"):
                yield from (item["Prefix"].removeprefix(whole).rstrip("/") for item in page.get("CommonPrefixes", []))

    def _pages(self, prefix: str, **more: Any) -> Iterator[ListObjectsV2OutputTypeDef]:
        """A server that does not know this kind of listing may answer with the older kind, of which boto3 takes the first page for all."""
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix + prefix, **more):
            if page.get("IsTruncated") and not page.get("NextContinuationToken"):
                raise Refused(
                    f"{self.describe()} lists only the first objects below {prefix}, and does not say how to go on.",
                    "Choose another server; this one does not know ListObjectsV2.",
                )
            yield page

    def delete(self, keys: Iterable[str]) -> None:
        """See :meth:`Destination.delete`. In a bucket with versions the server keeps what its own rules say."""
        left = iter(keys)
        while batch := list(islice(left, 1000)):
            if self._deletes_together:
                self._delete_together(batch)
            if not self._deletes_together:
                self._delete_singly(batch)

    def _delete_together(self, keys: Sequence[str]) -> None:
        objects: list[ObjectIdentifierTypeDef] = [{"Key": self._prefix + key} for key in keys]
        with self._errors("delete"):
            try:
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
            except ClientError as error:
                if failed(error):
                    raise
                log.info("%s: one request can't delete several objects (%s), so each gets its own", self.describe(), code_of(error))
                self._deletes_together = False
                return
        for fault in answer.get("Errors", []):
            if fault.get("Code") != "NoSuchKey":
                raise Refused(
                    f"Could not delete {fault.get('Key')} at {self.describe()}: {fault.get('Code')} {fault.get('Message')}.",
                    NEXT.get(fault.get("Code", ""), "Look at the bucket's policy and object locks."),
                )

    def _delete_singly(self, keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(Missing), self._errors(f"delete {key}"):
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def now(self) -> datetime:
        """See :meth:`Destination.now`. The ``Date`` of the server's answer."""
        with self._errors("ask for its clock"):
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC)

    def try_out(self, key: str) -> str:
        """See :meth:`Destination.try_out`. Whether an ETag is the MD5, only an object tells."""
        with self._errors("write to it"):
            self._probe(key)
            try_upload(self._client, self._bucket, self._prefix + key)
        return "SHA-256" if self._sha256 else "MD5, or by reading it back, which doubles the transfer"

    def free_space(self) -> int | None:
        """See :meth:`Destination.free_space`. A bucket does not say."""
        return None

    def sweep(self, prefix: str) -> None:
        """See :meth:`Destination.sweep`. Uploads that were begun more than a day ago and never completed are aborted."""
        with self._errors("list uploads"):
            oldest = self.now() - _ABANDONED
            self._abort_uploads(self._prefix + prefix, lambda upload: upload["Initiated"] < oldest)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            if code_of(error) in DAMAGED:
                raise self.not_as_sent(what.removeprefix("write ")) from error
            raise in_words(error, f"Could not {what} at {self.describe()}") from error
