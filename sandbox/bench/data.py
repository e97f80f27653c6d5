"""The benchmark's data: a PostgreSQL database and a MongoDB database of two collections, made inside their servers."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from sandbox.servers import Mongo, Postgres

_SQL = Path(__file__).with_name("data.sql")
_DOCUMENTS = {"agent_states": 300_000, "documents": 300_000}
"""Collections, and how many documents each has at scale 1.0."""
_BATCH = 20_000


def fill_postgres(server: Postgres, database: str, scale: float) -> None:
    """Make a database of five tables; scale 1.0 is 8 million rows, 0.96 GB as COPY text."""
    with closing(server.connect()) as connection:
        connection.execute(f"CREATE DATABASE {database}".encode())
    with closing(server.connect(database)) as connection:
        connection.execute("SELECT set_config('bench.scale', %s, false)", [str(scale)])
        connection.execute(_SQL.read_bytes())


def fill_mongo(server: Mongo, database: str, scale: float) -> None:
    """Make a database of two collections; scale 1.0 is 600,000 documents of 0.45 GB."""
    with server.client() as client:
        for name, at_scale_one in _DOCUMENTS.items():
            count = max(10, round(at_scale_one * scale))
            for start in range(0, count, _BATCH):
                numbers = {"$range": [start, min(start + _BATCH, count)]}
                pipeline: list[dict[str, Any]] = [
                    {"$documents": {"$map": {"input": numbers, "as": "n", "in": {"_id": "$$n"}}}},
                    {"$set": _fields(name)},
                    {"$merge": {"into": {"db": database, "coll": name}, "whenMatched": "fail"}},
                ]
                client[database].aggregate(pipeline)
            client[database][name].create_index("status")


def _upto(highest: int) -> dict[str, Any]:
    return {"$toInt": {"$multiply": [{"$rand": {}}, highest]}}


def _pick(*choices: str) -> dict[str, Any]:
    return {"$arrayElemAt": [list(choices), _upto(len(choices))]}


def _text(sentences: int) -> dict[str, Any]:
    return {"$concat": [part for _ in range(sentences) for part in (_pick(*_SENTENCES), {"$toString": _upto(100_000)}, ". ")]}


_SENTENCES = (
    "The customer says that the drum does not turn, meter ",
    "Looked up the manual of the device, page ",
    "Asked the warehouse in Kassel for the part, order ",
    "A visit is possible in the morning, slot ",
    "The warranty of the device has ended, invoice ",
    "Heater measured and found in order, ohms ",
)


def _fields(name: str) -> dict[str, Any]:
    common: dict[str, Any] = {"status": _pick("running", "waiting", "done", "failed"), "at": {"$add": ["$$NOW", _upto(10**9)]}}
    if name == "documents":
        return common | {"number": {"$concat": ["DOC-", {"$toString": "$_id"}]}, "text": _text(12), "total": _upto(10**6)}
    step = {"tool": _pick("look_up", "read_manual", "book_visit"), "answer": _text(3), "cost": {"$rand": {}}}
    return common | {"request": _upto(10**6), "score": {"$rand": {}}, "steps": [step, step, step]}
