"""Sets in a bucket of Amazon S3 or of a server that speaks its protocol and confirms SHA-256 checksums."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, NoCredentialsError

from recovery.common.errors import DestinationError
from recovery.destinations.base import Destination, Entry, Missing, Reading, Refused, Source

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, MultipartUploadTypeDef, ObjectIdentifierTypeDef

log = logging.getLogger(__name__)

_PART = 8 << 20
_MAX_PARTS = 10_000
_THREADS = 4
_CHUNK = 1 << 20
_ABANDONED = timedelta(days=1)

_NEXT = {
    "NoSuchBucket": "Create the bucket, or correct its name in the plan.",
    "AccessDenied": "Give the Connection's keys the right to list, read, write and delete below the plan's prefix.",
    "InvalidAccessKeyId": "Correct the keys in the Connection.",
    "SignatureDoesNotMatch": "Correct the secret key in the Connection.",
    "RequestTimeTooSkewed": "Set this worker's clock; it differs too much from the server's.",
    "403": "Correct the keys in the Connection, or give them the right to list, read, write and delete.",
}


class S3(Destination):
    """A bucket, and a prefix in it.

    Files above 8 MiB go in parts, several at once. The server gets the SHA-256 of every part and refuses a part that
    arrives damaged; the checksum that it then reports for the whole is compared with the one computed here. Nothing can
    be seen under the key before that.
    """

    parallel = 2

    def __init__(self, name: str, client: S3Client, bucket: str, prefix: str = "") -> None:
        super().__init__(name)
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def describe(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put(self, path: Path, key: str, sha256: str, sent: Callable[[int], None]) -> bool:
        """See :meth:`Destination.put`."""
        parts = _hash_parts(path)
        if parts.sha256 != sha256:
            raise self.changed_here(path)
        with self._errors(f"write {key}"):
            if self._is_there(key, parts):
                return False
            if len(parts.digests) == 1:
                confirmed = self._put_whole(path, key, parts)
                sent(parts.size)
            else:
                confirmed = self._put_parts(path, key, parts, sent)
        if confirmed != parts.checksum:
            self.delete([key])
            raise self.not_as_sent(key)
        return True

    def _is_there(self, key: str, parts: _Parts) -> bool:
        """Whether the server has an object of this size whose checksum, computed by it when it arrived, is this."""
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + key, ChecksumMode="ENABLED")
        except ClientError as error:
            if _code(error) in {"404", "NoSuchKey"}:
                return False
            raise
        return head["ContentLength"] == parts.size and head.get("ChecksumSHA256") == parts.checksum

    def _put_whole(self, path: Path, key: str, parts: _Parts) -> str | None:
        with path.open("rb") as body:
            answer = self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + key, Body=body, ContentLength=parts.size, ChecksumSHA256=parts.checksum
            )
        return answer.get("ChecksumSHA256")

    def _put_parts(self, path: Path, key: str, parts: _Parts, sent: Callable[[int], None]) -> str | None:
        bucket, key = self._bucket, self._prefix + key
        self._abort_uploads(key, lambda upload: upload["Key"] == key)
        upload = self._client.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm="SHA256")["UploadId"]

        def send(number: int) -> CompletedPartTypeDef:
            start = (number - 1) * parts.part
            length = min(parts.part, parts.size - start)
            checksum = _base64(parts.digests[number - 1])
            with path.open("rb") as file:
                body = cast(IO[bytes], _Slice(file, start, length))
                answer = self._client.upload_part(
                    Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body, ChecksumSHA256=checksum
                )
            sent(length)
            return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

        try:
            done = _in_threads(send, range(1, len(parts.digests) + 1))
            answer = self._client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": done})
        except BaseException:
            self._abort(key, upload)
            raise
        return answer.get("ChecksumSHA256")

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
            body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"]
        with Reading(cast(Source, body), lambda: self._errors(what)).buffered() as reader:
            yield reader

    def list(self, prefix: str) -> Iterator[Entry]:
        """See :meth:`Destination.list`."""
        with self._errors(f"list {prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for item in page.get("Contents", []):
                    yield Entry(item["Key"].removeprefix(self._prefix), item["Size"], item["LastModified"].astimezone(UTC))

    def folders(self, prefix: str) -> Iterator[str]:
        """See :meth:`Destination.folders`."""
        whole = self._prefix + prefix
        with self._errors(f"list {prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=whole, Delimiter="/"):
                yield from (item["Prefix"].removeprefix(whole).rstrip("/") for item in page.get("CommonPrefixes", []))

    def delete(self, keys: Iterable[str]) -> None:
        """See :meth:`Destination.delete`. In a bucket with versions the server keeps what its own rules say."""
        with self._errors("delete"):
            left = iter(keys)
            while batch := list(islice(left, 1000)):
                objects: list[ObjectIdentifierTypeDef] = [{"Key": self._prefix + key} for key in batch]
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
                for fault in answer.get("Errors", []):
                    raise Refused(
                        f"Could not delete {fault.get('Key')} at {self.describe()}: {fault.get('Code')} {fault.get('Message')}.",
                        _NEXT.get(fault.get("Code", ""), "Look at the bucket's policy and object locks."),
                    )

    def now(self) -> datetime:
        """See :meth:`Destination.now`. The ``Date`` of the server's answer."""
        with self._errors("ask for its clock"):
            headers = self._client.head_bucket(Bucket=self._bucket)["ResponseMetadata"]["HTTPHeaders"]
        return parsedate_to_datetime(headers["date"]).astimezone(UTC)

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
        except ClientError as error:
            raise self._in_words(error, what) from error
        except NoCredentialsError as error:
            raise Refused(f"Could not {what} at {self.describe()}: no keys.", "Put the keys into the Connection.") from error
        except (ConnectionError, HTTPClientError) as error:
            raise DestinationError(
                f"Could not {what} at {self.describe()}: it does not answer ({error}).",
                "Check the network and the endpoint in the Connection.",
            ) from error
        except BotoCoreError as error:
            raise DestinationError(f"Could not {what} at {self.describe()}: {error}", "Check the Connection and the network.") from error

    def _in_words(self, error: ClientError, what: str) -> DestinationError:
        code = _code(error)
        said = f"Could not {what} at {self.describe()}: {code} {error.response.get('Error', {}).get('Message', '')}".rstrip(". ") + "."
        if code == "NoSuchKey":
            return Missing(said, "Look at what was removed there, and when.")
        if code in {"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "InvalidDigest"}:
            return self.not_as_sent(what.removeprefix("write "))
        if code in _NEXT:
            return Refused(said, _NEXT[code])
        return DestinationError(said, "Look at the server's log; the task is tried again.")


class _Parts:
    """A file cut into the parts in which it is sent, and the checksum that S3 reports for it then.

    Of one part: the SHA-256 of the file. Of several: the SHA-256 of the parts' SHA-256, and how many they are.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.part = max(_PART, math.ceil(size / _MAX_PARTS / _CHUNK) * _CHUNK)
        self.digests: list[bytes] = []
        self.sha256 = ""

    @property
    def checksum(self) -> str:
        if len(self.digests) == 1:
            return _base64(self.digests[0])
        return f"{_base64(hashlib.sha256(b''.join(self.digests)).digest())}-{len(self.digests)}"


def _hash_parts(path: Path) -> _Parts:
    parts = _Parts(path.stat().st_size)
    whole = hashlib.sha256()
    with path.open("rb") as source:
        for start in range(0, max(parts.size, 1), parts.part):
            digest = hashlib.sha256()
            left = min(parts.part, parts.size - start)
            while left and (chunk := source.read(min(left, _CHUNK))):
                whole.update(chunk)
                digest.update(chunk)
                left -= len(chunk)
            parts.digests.append(digest.digest())
    parts.sha256 = whole.hexdigest()
    return parts


class _Slice(io.RawIOBase):
    """A piece of a file as a file of its own, so that parts are sent without being in memory."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file = file
        self._start = start
        self._length = length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self._length - self._position)
        data = os.pread(self._file.fileno(), count, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _in_threads(send: Callable[[int], CompletedPartTypeDef], numbers: Iterable[int]) -> list[CompletedPartTypeDef]:
    """Call for every number, a few at once; after a failure no new one is begun."""
    running: set[Future[CompletedPartTypeDef]] = set()
    done: list[CompletedPartTypeDef] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for number in numbers:
            if len(running) == _THREADS:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                done += [future.result() for future in ended]
            running.add(pool.submit(send, number))
        done += [future.result() for future in running]
    return sorted(done, key=lambda part: part["PartNumber"])


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
