"""Database servers in containers: the servers of the tests, with users and rules of access as official images have them."""

import os
import secrets
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import psycopg
import pymongo
import pymongo.errors

from recovery.common.connections import Endpoint
from recovery.plan.docker import DockerContainer, Reach
from recovery.plan.kinds.mongo import MongoSettings
from recovery.plan.kinds.postgres import PostgresSettings, PostgresTarget
from recovery.runners.docker.address import address_of
from recovery.runners.docker.engine import Container, Engine
from recovery.runners.docker.relay import BASH, Relay
from recovery.runners.docker.tunnel import Tunnel
from recovery.runners.local import LOCAL
from recovery.runners.ways import Ways
from recovery.sources.base import Access
from recovery.sources.mongo.source import Mongo
from recovery.sources.postgres.source import Postgres
from sandbox import toolchain
from sandbox.containers import stand_ins
from sandbox.servers import postgres_bin
from tests.support.postgres_site import Site

NOBODY = "65534:65534"
_POSTGRES = """set -eu
export LC_ALL=C.UTF-8 PATH=$SERVER:$PATH
if [ ! -e /data/db ]; then
  (umask 077; cat /secret/password > /data/password)
  initdb -D /data/db -U postgres --pwfile=/data/password --auth-local=trust --auth-host=trust -E UTF8 --no-sync >/dev/null
  echo 'host all all all scram-sha-256' >> /data/db/pg_hba.conf
fi
exec postgres -D /data/db -c fsync=off -c listen_addresses='*' -c unix_socket_directories=/data "$@"
"""
_MONGO = """set -eu
mkdir -p /data/db
(umask 077; cat /secret/key > /data/key)
exec $SERVER/mongod --dbpath /data/db --bind_ip_all --keyFile /data/key --wiredTigerCacheSizeGB 0.5 "$@"
"""


def engine_of(host: str) -> Engine:
    return Engine(address_of(Endpoint("engine", host, extra={"tls": False})))


class ServerContainer:
    """A server in a container, from :meth:`start` to :meth:`stop`."""

    port: int
    script: str
    secrets: tuple[str, ...]
    server: Path
    """The folder of its programs."""
    programs: tuple[Path, ...]
    """All that they need of this machine."""
    image = stand_ins.BASE
    stop_signal = "SIGKILL"

    def __init__(self, engine: Engine, folder: Path, name: str, options=(), network="bridge", password="") -> None:
        self.engine = engine
        self.name = name
        self.password = password or secrets.token_hex(12)
        self.options = list(options)
        self.network = network
        self._folder = folder
        self.id = ""

    def start(self):
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o755)
        os.chown(data, 65534, 65534)
        data.chmod(0o700)
        for secret in self.secrets:
            path = self._folder / secret
            path.write_text(self.password)
            os.chown(path, 65534, 65534)
            path.chmod(0o400)
        binds = [f"{path}:{path}:ro" for path in self.programs] + [f"{self._folder}:/secret:ro", f"{data}:/data"]
        host = self.engine.client.create_host_config(binds=binds, network_mode=self.network)
        created = self.engine.client.create_container(
            self.image,
            entrypoint=["bash", "-c", self.script, "server", *self.options],
            name=self.name,
            user=NOBODY,
            host_config=host,
            stop_signal=self.stop_signal,
            environment={"SERVER": str(self.server)},
        )
        self.id = created["Id"]
        self.engine.client.start(self.id)
        deadline = time.monotonic() + 60
        while not self.ready():
            if time.monotonic() > deadline or self.details["State"]["Status"] != "running":
                words = self.engine.client.logs(self.id).decode(errors="replace")
                self.stop()
                raise RuntimeError(f"{self.name} did not start:\n{words[-2000:]}")
            time.sleep(0.1)
        return self

    def stop(self):
        with suppress(Exception):
            self.engine.client.remove_container(self.id, force=True, v=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()

    @property
    def details(self):
        return self.engine.client.inspect_container(self.id)

    @property
    def address(self) -> str:
        return self.details["NetworkSettings"]["Networks"][self.network]["IPAddress"]

    @property
    def reach(self) -> DockerContainer:
        return DockerContainer(connection="engine", container=self.name)

    def processes(self) -> list[str]:
        """The commands that run there."""
        return [row[-1] for row in self.engine.client.top(self.id, "-eo pid,args")["Processes"]]

    def ready(self) -> bool:
        raise NotImplementedError


class PostgresContainer(ServerContainer):
    """PostgreSQL, whose rules of access are those of the official image: trust at loopback, a password from elsewhere."""

    port = 5432
    script = _POSTGRES
    secrets = ("password",)

    def __init__(self, *arguments, major=18, **others) -> None:
        super().__init__(*arguments, **others)
        self.bin = postgres_bin(major)
        self.server = self.bin.resolve()
        package = self.server.parent.parent
        self.programs = (package, package.with_name(f"{package.name}.libs"))

    @classmethod
    def of_image(cls, image, *arguments, **others):
        """With the server and the client tools that an image has: the stand-in for the official one."""
        made = cls(*arguments, **others)
        made.image, made.server, made.programs = image, Path("/usr/lib/postgresql/15/bin"), ()
        return made

    def ready(self) -> bool:
        with suppress(psycopg.OperationalError):
            self.connect().close()
            return True
        return False

    def connect(self, database="postgres", **changes):
        values = {"user": "postgres", "password": self.password} | changes
        values = {"host": self.address if "host" not in changes else ""} | values
        return psycopg.connect(port=self.port, dbname=database, autocommit=True, connect_timeout=5, **values)


class MongoContainer(ServerContainer):
    """MongoDB with a root user; a replica set whose member has a name that nobody else can resolve, or standalone."""

    port = 27017
    script = _MONGO
    secrets = ("key",)

    def __init__(self, *arguments, replica_set=True, **others) -> None:
        super().__init__(*arguments, **others)
        self.server = toolchain.mongod().parent.resolve()
        self.programs = (self.server, Path("/usr"))
        self.replica_set = replica_set
        self.options += ["--replSet", "rs0"] if replica_set else []
        self.auth = True

    def ready(self) -> bool:
        """Only a client inside makes the first user; the only member's name leads a client outside to somebody else."""
        try:
            with self.inside() as client:
                if self.replica_set:
                    with suppress(pymongo.errors.OperationFailure):
                        member = {"_id": 0, "host": f"localhost:{self.port}"}
                        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
                if not client.admin.command("hello")["isWritablePrimary"]:
                    return False
                with suppress(pymongo.errors.OperationFailure):
                    client.admin.command("createUser", "root", pwd=self.password, roles=["root"])
                return True
        except pymongo.errors.PyMongoError:
            return False

    @contextmanager
    def inside(self, **login):
        """A client at the container's own loopback, through a tunnel."""
        relay = Relay("bash", "127.0.0.1", ["bash", "-c", BASH, "127.0.0.1", str(self.port)])
        tunnel = Tunnel(self.engine, Container(self.id, self.name, "running", {}), relay, "mongodb.sock")
        try:
            address = f"mongodb://{quote(str(tunnel.socket), safe='')}/?directConnection=true"
            with pymongo.MongoClient(address, serverSelectionTimeoutMS=2000, **login) as client:
                yield client
        finally:
            tunnel.close()

    def client(self, anonymous=False, **changes):
        values = {} if anonymous else {"username": "root", "password": self.password} | changes
        return pymongo.MongoClient(self.address, self.port, directConnection=True, serverSelectionTimeoutMS=2000, **values)


class MongoWithoutNetwork(MongoContainer):
    """MongoDB in no network at all: a tunnel is the only way to it."""

    def __init__(self, *arguments, **others) -> None:
        super().__init__(*arguments, network="none", **others)

    def client(self):
        return self.inside(username="root", password=self.password)


class Reached:
    """Sources and targets whose servers run in containers, each step with ways of its own.

    Args:
        engine: address of the Engine.
        in_containers: staging, if PostgreSQL's client tools are those of the server's image.
    """

    def __init__(self, engine: str, in_containers: Path | None = None) -> None:
        self._engine = Endpoint("engine", engine, extra={"tls": False})
        self._in_containers = in_containers
        self.ways = Ways()

    def access(self, server: ServerContainer, tools: list[Path], **changes) -> Access:
        extra = changes.pop("extra", {})
        login = {"login": "postgres" if isinstance(server, PostgresContainer) else "root", "password": server.password}
        found = Endpoint(**{"id": "db", "host": "nowhere.invalid", "extra": extra, **login, **changes})
        return Access({"engine": self._engine, "db": found}.__getitem__, LOCAL, tools, self.ways, self._in_containers)

    def postgres(self, server: PostgresContainer, *databases, changes=None, runner=LOCAL, there=None, **settings) -> Postgres:
        access = replace(self.access(server, [server.bin], **changes or {}), runner=runner)
        reach = Reach(docker=server.reach)
        there = there and PostgresTarget(connection="db", reach=reach, **there)
        return Postgres.of("main", PostgresSettings(connection="db", databases=databases, reach=reach, **settings), there, access)

    def mongo(self, server: MongoContainer, *databases, changes=None, **settings) -> Mongo:
        access = self.access(server, [toolchain.mongo_tools()], **changes or {})
        settings = MongoSettings(connection="db", databases=databases, reach=Reach(docker=server.reach), **settings)
        return Mongo.of("documents", settings, None, access)


class ReachedSite(Site):
    """A PostgreSQL server in a container, and what tests do with it."""

    def __init__(self, server: PostgresContainer, folder: Path, reached: Reached, names=(), roles=()) -> None:
        super().__init__(server, folder, names, roles)
        self.reached = reached

    def source(self, *databases, **how):
        return self.reached.postgres(self.server, *databases, **how)

    def load(self, database, file):
        env = {
            **os.environ,
            "PGPASSWORD": self.server.password,
            "PGHOST": self.server.address,
            "PGUSER": "postgres",
            "PGDATABASE": database,
        }
        argv = [self.server.bin / "psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-f", file]
        subprocess.run(argv, env=env, check=True, stderr=subprocess.DEVNULL)


class CuttingProxy:
    """Stands before an Engine's socket, and cuts all streams of commands once a number of bytes has gone through them, either way."""

    def __init__(self, engine: str, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        self._engine = engine.removeprefix("unix://")
        self._tls = tls
        self.socket = folder / "engine.sock"
        self.passed = 0
        self.limit = None
        self.cut = False
        self._lock = threading.Lock()
        self._streams: list[socket.socket] = []
        self._listening = socket.socket(socket.AF_INET if tls else socket.AF_UNIX)
        self._listening.bind(("127.0.0.1", 0) if tls else str(self.socket))
        self._listening.listen(100)
        self.port = self._listening.getsockname()[1] if tls else None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, limit) -> None:
        with self._lock:
            self.passed, self.limit, self.cut = 0, limit, False

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if self._tls:
                    try:
                        client = self._tls.wrap_socket(client, server_side=True)
                    except OSError:
                        client.close()
                        continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._engine)
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        first, counts = True, False
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if first:
                    counts = b"/start HTTP/1.1" in data or data.startswith(b"HTTP/1.1 101")
                    first = False
                    if counts:
                        with self._lock:
                            self._streams.append(source)
                if counts and self._count(len(data)):
                    return
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _count(self, number: int) -> bool:
        with self._lock:
            self.passed += number
            if self.cut or self.limit is None or self.passed < self.limit:
                return False
            self.cut = True
            for each in self._streams:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            self._streams.clear()
            return True
