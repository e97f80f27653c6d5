"""Reaching a MongoDB server: an Airflow Connection as driver options and as a tool's config file, and who answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pymongo
from bson.errors import InvalidBSON
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidName,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)

from recovery.common.connections import Endpoint
from recovery.common.errors import ConnectionUnusable, SourceError, SourceUnreachable
from recovery.runners.base import Runner, need_shared_files

Client = pymongo.MongoClient[dict[str, Any]]

_OWN = {"srv", "allow_insecure", "ssl", "auth_source"}
_ANSWER_WITHIN_MS = 10_000
_AUTHENTICATION_FAILED = 18
_UNAUTHORIZED = 13
NAMESPACE_NOT_FOUND = 26


def options(endpoint: Endpoint) -> dict[str, Any]:
    """Driver options of a Connection, read as Airflow's own MongoHook reads it.

    Every key of the extra is a connection string option, but ``srv``, ``allow_insecure`` (of TLS), ``ssl`` (an older
    name of ``tls``) and ``auth_source``. The authentication database is ``authSource``, else the Connection's schema,
    else ``admin``.
    """
    extra = endpoint.extra
    chosen = {key: value for key, value in extra.items() if key not in _OWN and not key.startswith("__")}
    if _true(extra.get("ssl", False)) or _true(extra.get("tls", False)):
        chosen["tls"] = True
        if _true(extra.get("allow_insecure", False)):
            chosen["tlsAllowInvalidCertificates"] = True
    if "authsource" not in {key.lower() for key in chosen} and endpoint.login:
        chosen["authSource"] = extra.get("auth_source") or endpoint.schema or "admin"
    return chosen


def address(endpoint: Endpoint) -> str:
    """The connection string without credentials and options."""
    if endpoint.host.startswith("/"):  # a Unix socket
        return f"mongodb://{quote(endpoint.host, safe='')}/"
    port = f":{endpoint.port}" if endpoint.port else ""
    return f"{_scheme(endpoint)}://{endpoint.host or 'localhost'}{port}/"


def tool_uri(endpoint: Endpoint) -> str:
    """The connection string with everything in it, password included: for a file that only its owner reads."""
    values = options(endpoint)
    if values.pop("tlsAllowInvalidCertificates", False):
        values["tlsInsecure"] = True
    login = f"{quote(endpoint.login, safe='')}:{quote(endpoint.password, safe='')}@" if endpoint.login else ""
    query = urlencode({key: str(value).lower() if isinstance(value, bool) else value for key, value in values.items()})
    return address(endpoint).replace("://", f"://{login}", 1) + (f"?{query}" if query else "")


@dataclass(frozen=True)
class ClientTools:
    """The plan's mongodump and mongorestore."""

    runner: Runner
    folders: Sequence[Path]
    """Where the plan says that they are."""

    def find(self, name: str) -> str:
        """The path of one of them.

        Raises:
            ToolError: if it is not installed; or runs where this worker's folders are not seen, since dumps and passwords are
                handed over in files.
        """
        need_shared_files(self.runner, "mongodump and mongorestore")
        return self.runner.find_tool(name, self.folders)


@contextmanager
def tool_config(endpoint: Endpoint, folder: Path) -> Iterator[Path]:
    """A config file for mongodump and mongorestore, mode 0600, removed at the end of the block."""
    path = folder / ".mongo-tools.yaml"
    path.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(f"uri: {json.dumps(tool_uri(endpoint))}\n")
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def connect(endpoint: Endpoint) -> Iterator[Client]:
    """A client for the length of a block; what the driver raises in it comes out as this package's errors.

    Raises:
        ConnectionUnusable: if the Connection has options that don't exist, or the server refuses the login.
        SourceUnreachable: if nobody answers.
        SourceError: if the server refuses something, with its own words.
    """
    settings = {"appname": "recovery", "serverSelectionTimeoutMS": _ANSWER_WITHIN_MS, "connectTimeoutMS": _ANSWER_WITHIN_MS}
    if endpoint.login:
        settings |= {"username": endpoint.login, "password": endpoint.password}
    with _in_own_words(endpoint), _client(endpoint, settings | options(endpoint)) as client:
        yield client


def listed(client: Client, database: str, command: str, value: str | int = 1, **options: Any) -> Iterator[dict[str, Any]]:
    """What ``listCollections`` or ``listIndexes`` list.

    The driver's own methods fail with dates beyond Python's and with names such as ``a..b``, which a server takes.

    Raises:
        SourceError: if a name or definition is no text.
    """
    try:
        yield from client[database].cursor_command(command, value, codec_options=client.codec_options, **options)
    except InvalidBSON as error:
        raise SourceError(
            f"The database {database} has a name or definition that is no UTF-8 text: {error}.",
            "Find it in listCollections and listIndexes of mongosh, and drop or rename it.",
        ) from error


def rename(client: Client, database: str, old: str, new: str, **options: Any) -> None:
    """Rename a collection, to any name that a server takes."""
    client.admin.command("renameCollection", f"{database}.{old}", to=f"{database}.{new}", **options)


def _client(endpoint: Endpoint, settings: Mapping[str, Any]) -> Client:
    try:
        return pymongo.MongoClient(address(endpoint), **settings, datetime_conversion="DATETIME_AUTO")
    except (ConfigurationError, InvalidURI, TypeError, ValueError) as error:
        raise ConnectionUnusable(f"Connection {endpoint.id!r} is not usable: {words(error)}.", "Correct its host and extra.") from error


@contextmanager
def _in_own_words(endpoint: Endpoint) -> Iterator[None]:
    name = f"The MongoDB server of Connection {endpoint.id!r}"
    try:
        yield
    except (ConnectionFailure, ExecutionTimeout) as error:
        raise SourceUnreachable(
            f"{name} does not answer: {words(error)}.", "Check that it runs and can be reached from this worker."
        ) from error
    except OperationFailure as error:
        if error.code == _AUTHENTICATION_FAILED:
            raise ConnectionUnusable(
                f"{name} refuses the login {endpoint.login!r}.", "Correct login, password and authSource of the Connection."
            ) from error
        if error.code == _UNAUTHORIZED:
            raise SourceError(
                f"{name} does not permit what is needed: {words(error)}.",
                f"Grant the user {endpoint.login!r} what is missing: the role backup is enough to back up, backup and restore to restore.",
            ) from error
        raise SourceError(f"{name} refused: {words(error)}.", "Read what it said; its own log says more.") from error
    except InvalidName as error:
        raise SourceError(
            f"{name} has a collection whose name the driver can't use: {error}.", "Rename that collection: no '..', no '.' at either end."
        ) from error
    except InvalidBSON as error:
        raise SourceError(
            f"{name} has a user, a role or another text that is no UTF-8: {error}.", "Find it in mongosh, and drop it."
        ) from error
    except PyMongoError as error:
        raise SourceError(f"{name} could not be worked with: {words(error)}.", "Read what it said; its own log says more.") from error


def words(error: Exception) -> str:
    """What the server or the driver said, short, and without the command that was refused."""
    details = getattr(error, "details", None)
    said = details.get("errmsg") if isinstance(details, dict) else None
    text = str(said or error).split(" to execute command {")[0]
    return (text if len(text) <= 400 else f"{text[:400]}…").rstrip(".")


def unauthorized(error: OperationFailure) -> bool:
    """Whether the server said that rights are missing."""
    return error.code == _UNAUTHORIZED


@dataclass(frozen=True)
class Server:
    """Who answers."""

    version: tuple[int, ...]
    replica_set: str
    """Its name; empty for a standalone server."""
    primary: bool

    @property
    def version_text(self) -> str:
        """The version as ``6.0.5``."""
        return ".".join(map(str, self.version))


def server(client: Client) -> Server:
    """Ask who answers.

    Raises:
        SourceError: if it is ``mongos``: a sharded cluster can't be read or replaced as one server is.
    """
    hello = client.admin.command("hello")
    if hello.get("msg") == "isdbgrid":
        raise SourceError(
            "The Connection leads to mongos, the router of a sharded cluster, which this source can't save or restore.",
            "Use the cluster's own backup, or name a replica set.",
        )
    version = tuple(client.server_info()["versionArray"][:3])
    return Server(version=version, replica_set=hello.get("setName", ""), primary=bool(hello.get("isWritablePrimary")))


def identity(client: Client, endpoint: Endpoint) -> str:
    """What the deployment is, and where it was found: a clone has the same UUID, so the address belongs to it."""
    name = server(client).replica_set
    kind = f"replica set {name}" if name else "standalone"
    place = endpoint.place or address(endpoint).partition("://")[2].rstrip("/")
    return f"{kind} {deployment(client)} at {place}"


def deployment(client: Client) -> str:
    """A UUID by which a deployment is recognized, however it is reached.

    It is the one that the server gave its own ``admin.system.version`` when its data folder was first used: all
    members of a replica set share it, a server set up anew has another, and any user who may list collections
    reads it, while the replica set's own id needs cluster rights. A copy of the data folder has it too.
    """
    found = client.admin.command("listCollections", filter={"name": "system.version"}, authorizedCollections=True)
    first: Sequence[Mapping[str, Any]] = found["cursor"]["firstBatch"]
    if not first or "uuid" not in first[0].get("info", {}):
        raise SourceError(
            "The server does not show the UUID of admin.system.version, by which it is recognized.",
            "Grant the user of the Connection the role backup, which may list the collections of admin.",
        )
    return bytes(first[0]["info"]["uuid"]).hex()


def _scheme(endpoint: Endpoint) -> str:
    return "mongodb+srv" if _true(endpoint.extra.get("srv", False)) else "mongodb"


def _true(value: object) -> bool:
    return str(value).lower() == "true"
