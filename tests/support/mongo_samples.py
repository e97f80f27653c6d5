"""MongoDB data of every kind that tests back up and restore."""

import datetime
import uuid
from pathlib import Path

import bson
from bson import Binary, Code, DatetimeMS, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp

from recovery.common.connections import Endpoint
from recovery.packs.content_index import read_rows
from recovery.plan.kinds.mongo import MongoSettings
from recovery.runners.local import LOCAL
from recovery.sources.mongo.source import Mongo
from tests.support.local_restore import back_up

TOOLS = [Path(".venv/mongo-tools").absolute()]
OLD = datetime.datetime(2001, 1, 1)
FAR = DatetimeMS(8_640_000_000_000_000)
"""Where the calendar of JavaScript ends, beyond that of Python."""


def endpoint(server, **changes) -> Endpoint:
    values = {"id": "test_mongo", "host": "127.0.0.1", "port": server.port, "extra": {"directConnection": True}}
    if server.auth:
        values |= {"login": "root", "password": server.password}
    return Endpoint(**values | changes)


def mongo(where, *databases, collections=(), exclude=(), there=None, jobs=2, runner=LOCAL, **changes) -> Mongo:
    """A source on a server."""
    settings = MongoSettings(connection="test_mongo", databases=databases, collections=collections, exclude=exclude, jobs=jobs)
    return Mongo("documents", settings, endpoint(where, **changes), TOOLS, there, runner=runner)


def rows_of(set_folder):
    """All that a set has, but its users and roles."""
    return [row for row in read_rows(set_folder / "documents.contents.jsonl") if row[0] not in {"user", "role"}]


def state(source, folder):
    """What is live now, by an independent backup of it."""
    return rows_of(back_up(source, folder))


def every_type():
    return {
        "double": 1.5,
        "nan": float("nan"),
        "string": "naïve ☃ \0 in the middle",
        "document": {"b": 1, "a": {"$odd": 2, "dot.ted": 3}},
        "array": [1, [2, [3]], {}],
        "binary": Binary(b"\0\1\2", 0),
        "uuid": Binary.from_uuid(uuid.UUID(int=7)),
        "function": Binary(b"x", 1),
        "own": Binary(b"y", 0x80),
        "id": ObjectId(),
        "true": True,
        "date": OLD,
        "null": None,
        "regex": Regex("^a.*b$", "imx"),
        "code": Code("function(){return 1}"),
        "scoped": Code("function(){return x}", {"x": 1}),
        "int": 2**31 - 1,
        "timestamp": Timestamp(1700000000, 3),
        "long": Int64(2**63 - 1),
        "small long": Int64(1),
        "decimal": Decimal128("1234567890.123456789E-10"),
        "decimals": [
            Decimal128(text) for text in ("NaN", "-Infinity", "-0", "1.10", "1.1", "9.999999999999999999999999999999999E+6144", "1E-6176")
        ],
        "min": MinKey(),
        "max": MaxKey(),
        "ref": DBRef("elsewhere", 1, "other"),
    }


def indexes(db):
    many = db.indexed
    many.insert_many(
        [{"_id": n, "a": n, "b": [n], "text": f"word {n}", "place": [n % 90, 1], "u": n, "h": n, "at": OLD} for n in range(50)]
    )
    many.create_index([("a", 1), ("b", -1)], name="compound with a space")
    many.create_index([("text", "text"), ("a", 1)], weights={"text": 3}, default_language="german")
    many.create_index("sub.$**", name="wild")
    many.create_index([("place", "2dsphere")])
    many.create_index([("place", "2d")], bits=20, min=-200, max=200)
    many.create_index("at", expireAfterSeconds=1_700_000_000, name="ttl")
    many.create_index(
        "u", unique=True, partialFilterExpression={"u": {"$gte": 3}, "a": {"$exists": True}, "c": {"z": 1, "y": 2, "x": 3, "w": 4}}
    )
    many.create_index("h", hidden=True)
    many.create_index([("h", "hashed")])
    many.create_index("s", sparse=True)
    many.create_index("text", collation={"locale": "de", "strength": 2}, name="collated")
    many.create_index("u", unique=True, collation={"locale": "fr"}, sparse=True, name="unique, sparse and collated")
    many.create_index("at", expireAfterSeconds=1_600_000_000, partialFilterExpression={"a": {"$lt": Decimal128("3.5")}}, name="partial ttl")
    many.create_index("$**", wildcardProjection={"sub": 0, "place": 0, "_id": 1}, hidden=True, name="wild but for some")
    many.create_index([("a", 1), ("place", "2dsphere"), ("b", -1)], name="where and what")
    many.create_index([("h", "hashed"), ("a", -1)], name="hashed and more")
    many.create_index([("b", 1)], storageEngine={"wiredTiger": {"configString": "prefix_compression=false"}}, name="stored its own way")


def hard_content(client, name: str) -> None:
    """A database with every kind of collection, index, option and type."""
    db = client[name]
    db.types.insert_many([every_type() for _ in range(3)] + [{"_id": key} for key in (1, 1.5, "one", {"a": 1}, None, True, Binary(b"id"))])
    db.big.insert_one({"_id": 0, "data": b"x" * (9 << 20)})
    db.big.insert_many([{"_id": 10 + n, "n": n} for n in range(200)])
    indexes(db)
    kinds = [
        Decimal128("1.10"),
        Decimal128("-2"),
        ObjectId(),
        OLD,
        {"b": 1, "a": 2},
        Binary.from_uuid(uuid.UUID(int=9)),
        MinKey(),
        Timestamp(1, 1),
    ]
    db.ids.insert_many([{"_id": key, "": "no name", "$odd": 1, "a.b": 2} for key in kinds])
    largest = 16 * 1024 * 1024
    db.largest.insert_one({"_id": 1, "data": b"x" * (largest - len(bson.encode({"_id": 1, "data": b""})))})
    deep = {"_id": 1}
    for _ in range(90):
        deep = {"_id": 1, "deep": deep, "list": [[]]}
    db.deep.insert_one(deep)
    db.create_collection("empty", comment="nothing in it")
    db.create_collection("empty indexed").create_index("x")
    strict = {"$jsonSchema": {"bsonType": "object", "required": ["kind"], "properties": {"kind": {"bsonType": "string"}}}}
    db.create_collection("validated")
    db.validated.insert_many([{"_id": 1, "kind": "a"}, {"_id": 2, "old": "was there before the validator"}])
    db.command("collMod", "validated", validator=strict, validationLevel="moderate", validationAction="error")
    db.create_collection("expected", validator={"$expr": {"$lt": ["$a", "$b"]}}, validationAction="warn")
    db.expected.insert_one({"a": 2, "b": 1})
    db.command("create", "mails", validator={"mail": {"$regex": "@", "$options": "i"}, "name": {"$regex": "^[a-z]"}})
    db.mails.insert_one({"mail": "a@b", "name": "a"})
    db.mails.create_index("until", partialFilterExpression={"until": {"$lt": FAR}})
    db.create_collection("mailing", viewOn="mails", pipeline=[{"$match": {"mail": {"$regex": "^a"}, "until": {"$ne": FAR}}}])
    for name in ("two..dots", "dot at the end."):
        db.command("insert", name, documents=[{"_id": 1}])
        db.command("createIndexes", name, indexes=[{"key": {"a": 1}, "name": "a"}])
    db.create_collection("watched", changeStreamPreAndPostImages={"enabled": True})
    db.create_collection("tuned", storageEngine={"wiredTiger": {"configString": "block_compressor=zlib"}})
    db.tuned.insert_one({"_id": 1})
    db.create_collection("collated", collation={"locale": "fr", "strength": 1, "caseLevel": True})
    db.collated.insert_many([{"name": word} for word in ("été", "Été", "Ete", "ETE")])
    db.collated.create_index("name")
    db.collated.create_index("name", collation={"locale": "simple"}, unique=True, name="told apart")
    db.create_collection("capped", capped=True, size=1 << 16, max=500)
    db.capped.insert_many([{"n": n} for n in range(20)])
    db.create_collection("full", capped=True, size=4096)
    db.full.insert_many([{"n": n, "data": "x" * 100} for n in range(200)])
    db.full.create_index("n")
    db.create_collection("clustered plainly", clusteredIndex={"key": {"_id": 1}, "unique": True})
    db["clustered plainly"].insert_many([{"_id": n, "a": -n} for n in (3, 1, 2)])
    db["clustered plainly"].create_index("a")
    db.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True, "name": "by id"}, expireAfterSeconds=1_700_000_000)
    db.clustered.insert_many([{"_id": OLD + datetime.timedelta(days=n)} for n in range(10)])
    series(db, "weather")
    db.create_collection("no meta", timeseries={"timeField": "t"})
    db["no meta"].insert_many([{"t": OLD + datetime.timedelta(hours=n), "v": Decimal128("1.0")} for n in range(30)])
    db.create_collection("no documents", timeseries={"timeField": "t", "metaField": "m"})
    db.create_collection("top", viewOn="indexed", pipeline=[{"$match": {"a": {"$gt": 10}}}])
    db.create_collection("a view on it", viewOn="top", pipeline=[{"$project": {"a": 1}}])
    odd = [{"$match": {"at": {"$gte": OLD}, "_id": Regex("^a", "i"), "d": {"$in": [Decimal128("1.10"), Int64(3), 2.0, None]}}}]
    db.create_collection(
        "on views",
        viewOn="a view on it",
        pipeline=[*odd, {"$unionWith": "hourly"}, {"$lookup": {"from": "top", "pipeline": [], "as": "t"}}],
    )
    db.create_collection("collated view", viewOn="collated", pipeline=[], collation={"locale": "fr", "strength": 1, "caseLevel": True})
    db.create_collection("hourly", viewOn="weather", pipeline=[{"$group": {"_id": "$where"}}])
    db["system.js"].insert_one({"_id": "twice", "value": Code("function(x){return 2*x}")})
    for odd in ("with space", "dot.ted.name", "ünïcödé ☃", "per%cent+plus", "a/b\\c:d", "-dash", "quote\"'`", "é" * 100):
        db[odd].insert_one({"name": odd})
    db["fs.files"].insert_one({"_id": 1, "filename": "f", "length": 300, "chunkSize": 255})
    db["fs.chunks"].insert_many([{"files_id": 1, "n": n, "data": Binary(b"c" * 255)} for n in range(2)])
    db["fs.chunks"].create_index([("files_id", 1), ("n", 1)], unique=True)


def series(db, name: str, count: int = 500, start: datetime.datetime = OLD) -> None:
    db.create_collection(
        name, timeseries={"timeField": "at", "metaField": "where", "granularity": "hours"}, expireAfterSeconds=1_700_000_000
    )
    db[name].insert_many([{"at": start + datetime.timedelta(minutes=n), "where": n % 3, "t": n / 7} for n in range(count)])
    db[name].create_index([("where", 1), ("at", -1)])


def read_bson(path):
    return bson.decode_all(path.read_bytes())
