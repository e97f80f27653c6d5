"""A server in front of the S3 server of the tests, which takes away or breaks one thing that other servers lack or break.

Requests are signed anew on the way, so the server behind it believes what was changed.
"""

import hashlib
import http.client
import re
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.client import Config
from botocore.credentials import Credentials

from recovery.destinations.s3 import CONFIG

CHECKSUMS = ("x-amz-checksum-", "x-amz-sdk-checksum-")
_KEPT = ("x-amz-", "range", "if-", "content-type")
_OF_ONE_CONNECTION = {"connection", "content-length", "transfer-encoding", "date", "server"}


@dataclass
class Request:
    method: str
    path: str
    """With the query."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""
    ends_after: int | None = None
    """Bytes of the body after which the connection breaks off."""


def refusal(status, code, message="No"):
    text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, {"content-type": "application/xml"}, text.encode())


class Gateway:
    """Answers as the server behind it does, but for its behaviours: functions of a request and of what asks the server behind."""

    def __init__(self, server):
        self._server = server
        self._address = urlsplit(server.url)
        self.behaviours = []
        self.seen = []
        """Each request that came, as its method and path."""

    def client(self, **config):
        """A client as the product makes it."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self._server.access_key,
            aws_secret_access_key=self._server.secret_key,
            region_name="us-east-1",
            config=CONFIG.merge(Config(connect_timeout=2, read_timeout=20, **{"retries": {"total_max_attempts": 1}} | config)),
        )

    def answer(self, request):
        self.seen.append(f"{request.method} {request.path}")
        ask = self._forward
        for behaviour in self.behaviours:
            ask = lambda asked, behaviour=behaviour, ask=ask: behaviour(asked, ask)  # noqa: E731
        return ask(request)

    def _forward(self, request):
        kept = {name: value for name, value in request.headers.items() if name.startswith(_KEPT) and name != "x-amz-date"}
        kept["x-amz-content-sha256"] = hashlib.sha256(request.body).hexdigest()
        signed = AWSRequest(request.method, self._server.url + request.path, kept, request.body)
        S3SigV4Auth(Credentials(self._server.access_key, self._server.secret_key), "s3", "us-east-1").add_auth(signed)
        connection = http.client.HTTPConnection(self._address.hostname, self._address.port)
        try:
            connection.request(request.method, request.path, request.body, dict(signed.headers))
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@contextmanager
def gateway(server):
    """A gateway that runs as long as the block."""
    made = Gateway(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            answer = made.answer(Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(answer.status)
            length = answer.headers.get("content-length", "0") if self.command == "HEAD" else str(len(answer.body))
            for name, value in (
                {n: v for n, v in answer.headers.items() if n not in _OF_ONE_CONNECTION} | {"content-length": length}
            ).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: answer.ends_after])
            self.close_connection = answer.ends_after is not None

        def log_message(self, *_):
            pass

    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        made.url = f"http://127.0.0.1:{listener.server_port}"
        thread = Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            listener.shutdown()
            thread.join()


# What other servers do


def _without_checksums(headers):
    return {name: value for name, value in headers.items() if not name.startswith(CHECKSUMS)}


def ignores_checksums(request, ask):
    """Most servers that are not Amazon's, and not new."""
    request.headers = _without_checksums(request.headers)
    return ask(request)


def refuses_checksums(request, ask):
    """Servers that know every header, and not these."""
    if any(name.startswith(CHECKSUMS) for name in request.headers):
        return refusal(400, "InvalidArgument", "Unsupported header 'x-amz-checksum-sha256' received for this API call.")
    return ask(request)


class RepeatsChecksums:
    """A server that says of an object what it was told, and computes nothing."""

    def __init__(self):
        self.told = {}

    def __call__(self, request, ask):
        if told := request.headers.get("x-amz-checksum-sha256"):
            self.told[request.path] = told
        answer = ignores_checksums(request, ask)
        if request.method in {"PUT", "HEAD"} and request.path in self.told:
            answer.headers["x-amz-checksum-sha256"] = self.told[request.path]
        return answer


def _with_etag(request, answer, change):
    """An answer that has another ETag of an object; those of parts stay, since the server wants them back."""
    if "partNumber" not in request.path:
        answer.headers = {name: change(value) if name == "etag" else value for name, value in answer.headers.items()}
        answer.body = re.sub(rb"(?<=<ETag>).*?(?=</ETag>)", lambda found: change(found[0].decode()).encode(), answer.body)
    return answer


def other_etags(request, ask):
    """A server whose ETag is not the MD5 of the object, as that of encrypted buckets."""
    return _with_etag(request, ask(request), lambda etag: "other")


def capital_etags(request, ask):
    return _with_etag(request, ask(request), lambda etag: etag.replace("&#34;", "").replace("&quot;", "").upper())


def lists_in_small_pages(request, ask):
    if "list-type=2" in request.path:
        request.path += "&max-keys=2"
    return ask(request)


def lists_as_long_ago(request, ask):
    """A server that takes ListObjectsV2 for ListObjects."""
    answer = ask(request)
    answer.body = re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", answer.body)
    return answer


def no_bulk_delete(request, ask):
    if request.method == "POST" and request.path.endswith("?delete"):
        return refusal(501, "NotImplemented", "A header you provided implies functionality that is not implemented.")
    return ask(request)


# What goes wrong on the way


def _flipped(body):
    return body[:-1] + bytes([body[-1] ^ 1])


def damages_what_arrives(request, ask):
    if request.method == "PUT" and request.body:
        request.body = _flipped(request.body)
    return ask(request)


def damages_what_is_read(request, ask):
    answer = ask(request)
    if request.method == "GET" and "list-type" not in request.path and answer.body:
        answer.body = _flipped(answer.body)
    return answer


def breaks_off(request, ask):
    """The connection ends in the middle of an object."""
    answer = ask(request)
    if request.method == "GET" and "list-type" not in request.path:
        answer.ends_after = (len(answer.body) + 1) // 2
    return answer


def breaks_off_at_once(request, ask):
    answer = breaks_off(request, ask)
    answer.ends_after = answer.ends_after and 0
    return answer


def ignores_ranges(request, ask):
    request.headers.pop("range", None)
    return ask(request)


def loses_the_answer(request, ask):
    """The object is complete, and its writer does not hear of it."""
    answer = ask(request)
    if request.method == "POST" and "uploadId" in request.path:
        answer.ends_after = 10
    return answer


class Busy:
    """Refuses the first requests of a kind."""

    def __init__(self, method, times):
        self.method, self.left = method, times

    def __call__(self, request, ask):
        if request.method == self.method and self.left:
            self.left -= 1
            return refusal(503, "SlowDown", "Please reduce your request rate.")
        return ask(request)
