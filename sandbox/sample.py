"""A system like OpenManus to back up: made of the same parts, from the same seed always the same, and of any size."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import psycopg
from bson import Binary, Decimal128, ObjectId
from pymongo import ASCENDING, DESCENDING, TEXT, MongoClient
from pymongo.errors import OperationFailure

DATABASE = "openmanus"
"""Name of the PostgreSQL and of the MongoDB database."""
COLLECTIONS = ("agent_states", "documents", "drafts", "sessions")
"""What :func:`fill_mongo` makes in it, views included."""

_SEED = 20261123
_EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
_SQL = Path(__file__).with_suffix(".sql")
_WORDS = (
    "pump hose filter drum bearing board sensor valve seal belt motor lamp door hinge relay fuse heater drain leak noise error reset "
    "replaced checked ordered cleaned tested measured customer warranty invoice appointment technician photo manual estimate delivery"
).split()


class Postgres(Protocol):
    """A PostgreSQL server."""

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of its superuser, in autocommit mode."""


class Mongo(Protocol):
    """A MongoDB server."""

    def client(self) -> MongoClient[dict[str, Any]]:
        """A client of its root user."""


def fill_postgres(server: Postgres, scale: float = 1.0, database: str = DATABASE) -> None:
    """Make the database with customers, requests and invoices; scale 1.0 is about 120 MB, and 5 s on two cores."""
    with closing(server.connect()) as connection:
        for role in ("openmanus_app LOGIN PASSWORD 'sample-only'", "openmanus_reports NOLOGIN"):
            with suppress(psycopg.errors.DuplicateObject):
                connection.execute(f"CREATE ROLE {role}".encode())
        connection.execute(f"CREATE DATABASE {database}".encode())
    with closing(server.connect(database)) as connection:
        connection.execute("SELECT set_config('sample.scale', %s, false)", [str(scale)])
        connection.execute(_SQL.read_bytes())


def fill_mongo(server: Mongo, scale: float = 1.0) -> None:
    """Make the collections with agent states and documents; scale 1.0 is about 50 MB."""
    chance = random.Random(_SEED)
    with server.client() as client:
        database = client[DATABASE]
        database.create_collection("documents", validator=_DOCUMENT_SCHEMA, validationAction="error")
        database.create_collection("drafts", viewOn="documents", pipeline=[{"$match": {"status": "draft"}}])
        for name, make, count in (("agent_states", _agent_state, 9000), ("documents", _document, 7000), ("sessions", _session, 1000)):
            for batch in _batches(chance, make, max(10, round(count * scale))):
                database[name].insert_many(batch, ordered=False)
        database["agent_states"].create_index([("request_id", ASCENDING), ("updated_at", DESCENDING)])
        database["agent_states"].create_index("status", partialFilterExpression={"status": {"$in": ["running", "waiting"]}})
        database["documents"].create_index([("title", TEXT), ("tags", TEXT)], default_language="english", weights={"title": 5, "tags": 1})
        database["documents"].create_index("number", unique=True, collation={"locale": "de", "strength": 2})
        database["sessions"].create_index("expires_at", expireAfterSeconds=0)
        with suppress(OperationFailure):  # it exists where a sample was made before
            database.command("createUser", "openmanus_app", pwd="sample-only", roles=["readWrite"])


def fill_files(folder: Path, scale: float = 1.0) -> None:
    """Make the uploads: scale 1.0 is 2,000 photos, scans and notes by year and month, about 30 MB."""
    chance = random.Random(_SEED)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [_upload(folder, chance, number) for number in range(max(10, round(2000 * scale)))]
    latest = folder / "latest"
    latest.symlink_to(paths[-1].relative_to(folder))
    (paths[0].parent / f"again-{paths[0].name}").hardlink_to(paths[0])
    odd = folder / "2025" / "für Zoë: 'quoted', spaced.txt"
    odd.write_text("Umlauts, quotes and spaces are in this file's name.\n")
    os.utime(odd, ns=(_nanoseconds(chance),) * 2)


def fill_config(folder: Path) -> None:
    """Make ``.env`` with mode 0600, ``docker-compose.yml`` and ``custom/`` with code."""
    folder.mkdir(parents=True, exist_ok=True)
    secret = folder / ".env"
    secret.touch(0o600)
    secret.write_text(_ENV)
    (folder / "docker-compose.yml").write_text(_COMPOSE)
    for name, (mode, text) in _CUSTOM.items():
        path = folder / "custom" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)


def disaster(
    *, postgres: Postgres | None = None, mongo: Mongo | None = None, files: Path | None = None, config: Path | None = None
) -> None:
    """Destroy what is given: drop the database, drop every collection, delete every upload, delete ``.env``."""
    if postgres:
        with closing(postgres.connect()) as connection:
            connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())
    if mongo:
        with mongo.client() as client:
            for name in client[DATABASE].list_collection_names(filter={"name": {"$not": {"$regex": "^system\\."}}}):
                client[DATABASE].drop_collection(name)
    if files:
        for entry in files.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    if config:
        (config / ".env").unlink()


def _batches(chance: random.Random, make: Any, count: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, count, 500):
        yield [make(chance, number) for number in range(start, min(start + 500, count))]


def _object_id(chance: random.Random) -> ObjectId:
    return ObjectId(chance.randbytes(12))


def _moment(chance: random.Random) -> datetime:
    return _EPOCH + timedelta(milliseconds=chance.randrange(690 * 86_400_000))


def _nanoseconds(chance: random.Random) -> int:
    return int(_EPOCH.timestamp()) * 10**9 + chance.randrange(690 * 86400 * 10**9)


def _sentence(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words)).capitalize() + "."


def _agent_state(chance: random.Random, number: int) -> dict[str, Any]:
    steps = [
        {
            "n": step,
            "tool": chance.choice(["look_up_customer", "read_manual", "book_visit", "draft_mail", "ask_human"]),
            "arguments": {"id": chance.randrange(10**6), "limit": chance.choice([5, 10, 50]), "exact": chance.random() < 0.5},
            "answer": _sentence(chance, 28),
            "at": _moment(chance),
            "cost": Decimal128(f"0.{chance.randrange(10**6):06d}"),
        }
        for step in range(chance.randrange(3, 9))
    ]
    return {
        "_id": _object_id(chance),
        "request_id": number + 1,
        "agent": chance.choice(["intake", "diagnosis", "scheduling", "billing"]),
        "status": chance.choice(["running", "waiting", "done", "done", "done", "failed"]),
        "memory": {
            "summary": _sentence(chance, 60),
            "facts": {"floor": chance.randrange(6), "pets": None, "keys": ["neighbour", "office"][: number % 3]},
        },
        "steps": steps,
        "embedding": Binary(chance.randbytes(512)),
        "updated_at": _moment(chance),
    }


def _document(chance: random.Random, number: int) -> dict[str, Any]:
    return {
        "_id": _object_id(chance),
        "number": f"DOC-{number:07d}",
        "title": _sentence(chance, 6),
        "status": chance.choice(["draft", "sent", "sent", "signed"]),
        "tags": chance.sample(_WORDS, 4),
        "total": Decimal128(f"{chance.randrange(10**5)}.{chance.randrange(100):02d}"),
        "pages": [{"n": page, "text": _sentence(chance, 150), "checked": chance.random()} for page in range(chance.randrange(1, 5))],
        "created_at": _moment(chance),
    }


def _session(chance: random.Random, number: int) -> dict[str, Any]:
    # far off, so that the server's clean-up of old sessions does not change the sample while it is looked at
    return {
        "_id": chance.randbytes(16).hex(),
        "user": number % 40,
        "expires_at": _moment(chance) + timedelta(days=3650),
        "ip": f"192.0.2.{number % 256}",
    }


def _upload(folder: Path, chance: random.Random, number: int) -> Path:
    moment = _moment(chance)
    size = int(chance.lognormvariate(9.2, 0.9))
    kind = chance.choices(["jpg", "pdf", "txt"], weights=[6, 3, 1])[0]
    path = folder / f"{moment:%Y}" / f"{moment:%m}" / f"request-{number:05d}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "jpg":
        content = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + chance.randbytes(size) + b"\xff\xd9"
    elif kind == "pdf":
        content = b"%PDF-1.7\n" + _sentence(chance, size // 16).encode() + chance.randbytes(size // 2) + b"\n%%EOF\n"
    else:
        content = _sentence(chance, max(5, size // 8)).encode() + b"\n"
    path.write_bytes(content)
    path.chmod(0o640 if number % 3 else 0o644)
    os.utime(path, ns=(_nanoseconds(chance),) * 2)
    return path


_DOCUMENT_SCHEMA = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["number", "title", "status"],
        "properties": {"status": {"enum": ["draft", "sent", "signed"]}, "total": {"bsonType": "decimal"}},
    }
}

_ENV = """\
# Settings of OpenManus. Holds secrets: mode 0600.
DATABASE_URL=postgresql://openmanus_app:sample-only@postgres:5432/openmanus
MONGODB_URI=mongodb://openmanus_app:sample-only@mongodb:27017/openmanus?replicaSet=rs0
STORAGE_PATH=/srv/openmanus/storage
SESSION_SECRET=3c1f0a5e9d7b4b8a8a2f6f0d5c9e1b7a
LLM_API_KEY=sample-key-that-opens-nothing
LOG_LEVEL=info
"""

_COMPOSE = """\
services:
  app:
    image: openmanus/app:2.4.1
    env_file: .env
    ports: ["8000:8000"]
    volumes: ["./storage:/srv/openmanus/storage", "./custom:/app/custom:ro"]
    depends_on: [postgres, mongodb]
  worker:
    image: openmanus/app:2.4.1
    command: ["python", "-m", "openmanus.worker"]
    env_file: .env
    depends_on: [postgres, mongodb]
  postgres:
    image: postgres:18
    volumes: ["postgres:/var/lib/postgresql"]
  mongodb:
    image: mongo:6.0
    command: ["--replSet", "rs0"]
    volumes: ["mongodb:/data/db"]
volumes: {postgres: {}, mongodb: {}}
"""

_CUSTOM: dict[str, tuple[int, str]] = {
    "__init__.py": (0o644, ""),
    "pricing.py": (
        0o644,
        '"""Prices of this shop."""\n\n\ndef price(minutes: int, rate: float) -> float:\n    return max(minutes, 30) / 60 * rate\n',
    ),
    "tools/diagnose.py": (0o644, '"""What the diagnosis agent may do."""\n\nTOOLS = ["read_manual", "ask_human"]\n'),
    "prompts/intake.md": (0o644, "# Intake\n\nAsk for the appliance, its model and what it does. Be short.\n"),
    "bin/close-day.sh": (0o755, "#!/bin/sh\nset -eu\nexec python -m openmanus.jobs close-day\n"),
}
