"""MongoDB data of every kind that tests back up and restore."""

import datetime
import uuid

import bson
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp

from recovery.connections import Endpoint

OLD = datetime.datetime(2001, 1, 1)


def endpoint(server, **changes) -> Endpoint:
    values = {"id": "test_mongo", "host": "127.0.0.1", "port": server.port, "extra": {"directConnection": True}}
    if server.auth:
        values |= {"login": "root", "password": server.password}
    return Endpoint(**values | changes)


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
    many.create_index("u", unique=True, partialFilterExpression={"u": {"$gte": 3}})
    many.create_index("h", hidden=True)
    many.create_index([("h", "hashed")])
    many.create_index("s", sparse=True)
    many.create_index("text", collation={"locale": "de", "strength": 2}, name="collated")


def hard_content(client, name: str) -> None:
    """A database with every kind of collection, index, option and type."""
    db = client[name]
    db.types.insert_many([every_type() for _ in range(3)] + [{"_id": key} for key in (1, 1.5, "one", {"a": 1}, None, True, Binary(b"id"))])
    db.big.insert_many([{"_id": n, "data": b"x" * (16 * 1024 * 1024 - 100)} for n in range(2)])
    db.big.insert_many([{"_id": 10 + n, "n": n} for n in range(200)])
    indexes(db)
    db.create_collection("empty", comment="nothing in it")
    db.create_collection("empty indexed").create_index("x")
    strict = {"$jsonSchema": {"bsonType": "object", "required": ["kind"], "properties": {"kind": {"bsonType": "string"}}}}
    db.create_collection("validated")
    db.validated.insert_many([{"_id": 1, "kind": "a"}, {"_id": 2, "old": "was there before the validator"}])
    db.command("collMod", "validated", validator=strict, validationLevel="moderate", validationAction="error")
    db.create_collection("collated", collation={"locale": "fr", "strength": 1, "caseLevel": True})
    db.collated.insert_many([{"name": word} for word in ("été", "Ete", "ETE")])
    db.collated.create_index("name")
    db.create_collection("capped", capped=True, size=1 << 16, max=500)
    db.capped.insert_many([{"n": n} for n in range(20)])
    db.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True, "name": "by id"}, expireAfterSeconds=1_700_000_000)
    db.clustered.insert_many([{"_id": OLD + datetime.timedelta(days=n)} for n in range(10)])
    series(db, "weather")
    db.create_collection("top", viewOn="indexed", pipeline=[{"$match": {"a": {"$gt": 10}}}])
    db.create_collection("a view on it", viewOn="top", pipeline=[{"$project": {"a": 1}}])
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
