import base64
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from recovery.common.errors import DestinationError
from recovery.destinations import s3_body, s3_parts
from recovery.destinations.base import Missing, Refused
from recovery.destinations.s3 import S3
from sandbox.servers import free_port
from tests.support.s3_gateway import (
    Answer,
    Busy,
    RepeatsChecksums,
    breaks_off,
    breaks_off_at_once,
    capital_etags,
    damages_what_arrives,
    damages_what_is_read,
    gateway,
    ignores_checksums,
    ignores_ranges,
    lists_as_long_ago,
    lists_in_small_pages,
    loses_the_answer,
    no_bulk_delete,
    other_etags,
    refusal,
    refuses_checksums,
)
from tests.support.sets import keys_of, run_python, s3_destination

MIB = 1 << 20


@pytest.fixture
def destination(s3_server):
    return s3_destination(s3_server)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(20 * MIB))
    return path


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(os.urandom(1000))
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def put(destination, path, key="p/s/x"):
    return destination.put(path, key, sha256(path), lambda count: None)


def uploads(destination):
    answer = destination._client.list_multipart_uploads(Bucket=destination._bucket, Prefix=destination._prefix)
    return [upload["Key"].removeprefix(destination._prefix) for upload in answer.get("Uploads", [])]


KILLED = """
    import os, signal, sys, boto3
    from pathlib import Path
    from recovery.destinations.s3 import S3
    url, access, bucket, prefix, path, sha256 = sys.argv[1:]
    keys = {"aws_access_key_id": access, "aws_secret_access_key": os.environ["SECRET"]}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
    S3("offsite", client, bucket, prefix).put(Path(path), "p/s/x", sha256, lambda count: os.kill(os.getpid(), signal.SIGKILL))
"""


def kill_an_upload(server, destination, file):
    arguments = (server.url, server.access_key, destination._bucket, destination._prefix.rstrip("/"), file, sha256(file))
    assert run_python(KILLED, *arguments, SECRET=server.secret_key).returncode == -9


def test_put_killed_midway_leaves_no_object_and_the_next_put_removes_its_upload(s3_server, destination, file):
    kill_an_upload(s3_server, destination, file)
    assert uploads(destination) == ["p/s/x"]
    assert keys_of(destination) == set()
    with pytest.raises(Missing):
        destination.read("p/s/x", MIB)
    assert put(destination, file)
    assert uploads(destination) == []
    assert destination.read("p/s/x", 20 * MIB) == file.read_bytes()


def test_sweep_aborts_old_uploads_and_keeps_recent_uploads(s3_server, destination, file, monkeypatch):
    kill_an_upload(s3_server, destination, file)
    destination.sweep("p/")
    assert uploads(destination) == ["p/s/x"]
    monkeypatch.setattr(destination, "now", lambda: datetime.now(UTC) + timedelta(days=2))
    destination.sweep("elsewhere/")
    assert uploads(destination) == ["p/s/x"]
    destination.sweep("p/")
    assert uploads(destination) == []


@pytest.mark.parametrize("size", [1000, 20 * MIB])
def test_put_fails_when_data_is_damaged_on_the_wire(destination, tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))

    def damage(request, **_):
        if request.method == "PUT":
            body = bytearray(request.body.read())
            body[len(body) // 2] ^= 1
            request.body = bytes(body)

    destination._client.meta.events.register("before-send.s3", damage)
    with pytest.raises(DestinationError):
        put(destination, path)
    assert keys_of(destination) == set()
    assert uploads(destination) == []


@pytest.mark.parametrize(("size", "operation"), [(1000, "PutObject"), (20 * MIB, "CompleteMultipartUpload")])
def test_put_fails_when_the_server_confirms_another_checksum(destination, tmp_path, size, operation):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))

    def lie(parsed, **_):
        parsed["ChecksumSHA256"] = "AAAA" + parsed["ChecksumSHA256"][4:]

    destination._client.meta.events.register(f"after-call.s3.{operation}", lie)
    with pytest.raises(DestinationError, match="is not what was sent"):
        put(destination, path)
    assert keys_of(destination) == set()


@pytest.fixture
def others(s3_server):
    """Gives the destination at a server with these behaviours, and its gateway."""
    with gateway(s3_server) as server:

        def make(*behaviours, **config):
            server.behaviours = behaviours
            there = s3_destination(s3_server)
            return S3("offsite", server.client(**config), there._bucket, there._prefix.rstrip("/")), server

        yield make


OTHERS = {
    "no SHA-256": ((ignores_checksums,), "MD5"),
    "SHA-256 refused, MD5 in capitals": ((refuses_checksums, capital_etags), "MD5"),
    "SHA-256 repeated, not computed": ((RepeatsChecksums(),), "MD5"),
    "no SHA-256, no MD5": ((ignores_checksums, other_etags), "reading it back"),
}


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 5 MiB, the least that servers take."""
    monkeypatch.setattr(s3_parts, "_PART", 5 * MIB)


@pytest.mark.parametrize("size", [1000, 6 * MIB])
@pytest.mark.parametrize(("behaviours", "confirmed_by"), OTHERS.values(), ids=OTHERS)
def test_put_is_confirmed_by_the_best_that_the_server_offers(others, small_parts, tmp_path, behaviours, confirmed_by, size):
    destination, _ = others(*behaviours)
    path = tmp_path / "file"
    for content in (os.urandom(size), os.urandom(size)):
        path.write_bytes(content)
        assert put(destination, path)
        assert not put(destination, path)
        assert destination.read("p/s/x", size) == content
    assert destination.confirmed_by == {confirmed_by}
    assert uploads(destination) == []


@pytest.mark.parametrize("size", [1000, 6 * MIB])
@pytest.mark.parametrize("behaviours", [behaviours for behaviours, _ in OTHERS.values()], ids=OTHERS)
def test_put_fails_when_other_content_arrives_whatever_the_server_confirms(others, small_parts, tmp_path, behaviours, size):
    destination, server = others(*behaviours)
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    put(destination, path, "p/s/first")
    server.behaviours = (damages_what_arrives, *behaviours)
    with pytest.raises(DestinationError, match="is not what was sent") as caught:
        put(destination, path)
    assert caught.value.retryable
    assert keys_of(destination) == {"p/s/first"}
    assert uploads(destination) == []


def test_try_out_says_how_objects_are_confirmed_and_leaves_none(others):
    for behaviour, said in ((refuses_checksums, "MD5, or by reading it back"), (RepeatsChecksums(), "MD5, or by reading it back")):
        destination, _ = others(behaviour)
        assert destination.try_out("p/check").startswith(said)
        assert keys_of(destination) == set()
        assert uploads(destination) == []


def test_put_does_not_believe_a_server_that_stopped_to_compute_checksums(others, small):
    destination, server = others()
    put(destination, small)
    assert destination.confirmed_by == {"SHA-256"}
    server.behaviours = (ignores_checksums, damages_what_arrives)
    with pytest.raises(DestinationError, match="is not what was sent"):
        put(destination, small, "p/s/y")
    assert keys_of(destination) == {"p/s/x"}


def test_put_does_not_believe_the_checksum_of_an_object_that_a_server_only_repeats(others, tmp_path):
    destination, server = others(RepeatsChecksums())
    path = tmp_path / "file"
    path.write_bytes(b"right")
    told = base64.b64encode(hashlib.sha256(b"right").digest()).decode()
    server.client().put_object(Bucket=destination._bucket, Key=f"{destination._prefix}p/s/x", Body=b"wrong", ChecksumSHA256=told)
    assert put(destination, path)
    assert destination.read("p/s/x", 10) == b"right"


def test_put_fails_when_the_file_changes_before_it_is_sent(others, small):
    def change(request, ask):
        if request.method == "HEAD":
            small.write_bytes(bytes(1000))
        return ask(request)

    destination, _ = others(ignores_checksums, change)
    with pytest.raises(DestinationError):
        put(destination, small)
    assert keys_of(destination) == set()


def test_put_of_damaged_content_is_retryable_and_replaces_it_where_deletion_is_refused(others, small):
    def keeps(request, ask):
        return refusal(403, "AccessDenied") if request.method == "DELETE" or request.path.endswith("?delete") else ask(request)

    destination, server = others(damages_what_arrives, ignores_checksums, keeps)
    with pytest.raises(DestinationError, match="is not what was sent") as caught:
        put(destination, small)
    assert caught.value.retryable
    server.behaviours = (ignores_checksums, keeps)
    assert put(destination, small)
    assert destination.read("p/s/x", 20 * MIB) == small.read_bytes()


@pytest.mark.parametrize("fault", [damages_what_is_read, breaks_off_at_once])
def test_put_fails_as_retryable_when_the_object_cannot_be_read_back(others, small, fault, no_pauses):
    destination, _ = others(ignores_checksums, other_etags, fault)
    with pytest.raises(DestinationError, match="p/s/x") as caught:
        put(destination, small)
    assert caught.value.retryable


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(s3_body, "PAUSES", (0, 0))


def test_open_reads_on_where_an_answer_breaks_off(others, file, no_pauses):
    destination, server = others()
    put(destination, file)
    server.behaviours = (breaks_off,)
    assert destination.read("p/s/x", 20 * MIB) == file.read_bytes()
    assert sum(request.startswith("GET") for request in server.seen) > 10


@pytest.mark.parametrize("behaviours", [(breaks_off_at_once,), (breaks_off, ignores_ranges)])
def test_open_fails_as_retryable_when_the_rest_does_not_come(others, small, no_pauses, behaviours):
    destination, server = others()
    put(destination, small)
    server.behaviours = behaviours
    with pytest.raises(DestinationError, match="Could not read p/s/x") as caught:
        destination.read("p/s/x", 20 * MIB)
    assert caught.value.retryable


def test_open_fails_when_the_object_is_replaced_while_it_is_read(others, small, no_pauses):
    destination, server = others()
    put(destination, small)
    server.behaviours = (breaks_off,)
    with pytest.raises(DestinationError, match="412 Precondition"), destination.open("p/s/x") as source:
        assert source.read(1)
        small.write_bytes(bytes(1000))
        put(destination, small)
        source.read()


def test_put_whose_answer_is_lost_fails_as_retryable_and_its_repetition_sends_nothing(others, file):
    destination, server = others(loses_the_answer)
    with pytest.raises(DestinationError) as caught:
        put(destination, file)
    assert caught.value.retryable
    server.behaviours = ()
    assert not put(destination, file)


def test_list_goes_through_all_pages_and_refuses_a_listing_without_a_next_page(others, small):
    destination, server = others(lists_in_small_pages)
    keys = {f"p/{name}/x" for name in "abcde"}
    for key in keys:
        put(destination, small, key)
    assert keys_of(destination) == keys
    server.behaviours = (lists_in_small_pages, lists_as_long_ago)
    for listing in (destination.list, destination.folders):
        with pytest.raises(Refused, match="only the first objects below p/"):
            list(listing("p/"))


def test_delete_asks_for_each_object_where_one_request_cannot_delete_several(others, small):
    destination, server = others(no_bulk_delete)
    for key in "abc":
        put(destination, small, key)
    destination.delete(["a", "b", "missing"])
    destination.delete(["c"])
    assert keys_of(destination) == set()
    assert sum(request.endswith("?delete") for request in server.seen) == 1


def test_put_to_a_busy_server_is_repeated_and_fails_as_retryable_when_it_stays_busy(others, small):
    destination, server = others(Busy("PUT", 1), retries={"mode": "standard", "total_max_attempts": 2})
    put(destination, small)
    server.behaviours = (Busy("PUT", 1000),)
    with pytest.raises(DestinationError, match="SlowDown") as caught:
        put(destination, small, "p/s/y")
    assert caught.value.retryable
    assert keys_of(destination) == {"p/s/x"}


def test_put_replaces_an_object_of_the_same_size_without_the_same_checksum(destination, file):
    destination._client.put_object(Bucket=destination._bucket, Key=f"{destination._prefix}p/s/x", Body=bytes(20 * MIB))
    assert put(destination, file)
    assert destination.read("p/s/x", 20 * MIB) == file.read_bytes()


def test_put_stores_objects_below_the_prefix(s3_server, destination, file):
    put(destination, file)
    whole = S3("other", s3_server.client(), destination._bucket)
    assert keys_of(whole, destination._prefix) == {f"{destination._prefix}p/s/x"}
    assert f"{whole.describe()}/{destination._prefix}" == f"{destination.describe()}/"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "RequestTimeTooSkewed", "Set this worker's clock"),
        (400, "AuthorizationHeaderMalformed", "Write the bucket's region"),
        (403, "SecondLevelDomainForbidden", "addressing_style"),
    ],
)
def test_put_refused_without_words_asks_once_more_for_the_reason(others, small, status, code, words):
    def refuse(request, ask):
        return Answer(status, {}) if request.method == "HEAD" else refusal(status, code, "the server's reason")

    destination, _ = others(refuse)
    with pytest.raises(Refused, match=f"{code} the server's reason. Next: .*{words}"):
        put(destination, small)
    with pytest.raises(Refused, match=words):
        destination.now()


def test_put_to_a_web_page_is_refused_with_a_remedy(others, small):
    destination, _ = others(lambda request, ask: Answer(200 if request.method == "GET" else 405, {}, b"<html>Hello<br></html>"))
    with pytest.raises(Refused, match="Correct endpoint_url"):
        put(destination, small)
    with pytest.raises(DestinationError, match="the endpoint in the Connection"):
        destination.now()


def test_put_with_wrong_keys_is_refused_as_not_retryable(s3_server, destination, file):
    stranger = boto3.client(
        "s3", endpoint_url=s3_server.url, aws_access_key_id="nobody", aws_secret_access_key="x", region_name="us-east-1"
    )
    with pytest.raises(Refused, match=r"keys.*Connection") as caught:
        put(S3("offsite", stranger, destination._bucket), file)
    assert not caught.value.retryable


def test_put_to_an_unreachable_server_fails_as_retryable(file):
    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{free_port()}", aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}, connect_timeout=1),
    )  # fmt: skip
    with pytest.raises(DestinationError, match="does not answer") as caught:
        put(S3("offsite", client, "bucket"), file)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("NoSuchBucket", "Create the bucket"),
        ("AccessDenied", "Give the Connection's keys"),
        ("RequestTimeTooSkewed", "Set this worker's clock"),
    ],
)
def test_put_refused_by_the_server_reports_a_remedy(destination, file, code, words):
    def refuse(**_):
        raise ClientError({"Error": {"Code": code, "Message": "No"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "PutObject")

    destination._client.meta.events.register("before-call.s3.CreateMultipartUpload", refuse)
    with pytest.raises(Refused, match=words):
        put(destination, file)


def test_list_and_delete_handle_more_than_a_thousand_objects(destination):
    client = destination._client
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda number: client.put_object(Bucket=destination._bucket, Key=f"{destination._prefix}p/s/{number}", Body=b""),
                range(1003),
            )
        )
    assert len(keys_of(destination, "p/s/")) == 1003
    destination.delete(keys_of(destination, "p/s/"))
    assert keys_of(destination) == set()
