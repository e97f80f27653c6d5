"""Makes the data of the sample system of docker-compose.yaml, once; what is there already is left as it is.

Each part is complete or has a sign that it is not, by which the next start makes it anew if this one is killed. It writes files
only where there are none: nobody loses an OpenManus whose folders are named in ``.env``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psycopg
from pymongo import MongoClient

from sandbox import sample
from tools.compose.sample_folders import SampleFolders

_UNFINISHED = "unfinished_sample"
"""Name of the PostgreSQL database, and of a collection, that are there only while the sample is made."""


@dataclass(frozen=True)
class SamplePostgres:
    """The PostgreSQL server of the sample, as :mod:`sandbox.sample` wants it."""

    host: str
    password: str

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of its superuser, in autocommit mode."""
        return psycopg.connect(host=self.host, user="postgres", password=self.password, dbname=database, autocommit=True)

    def has_data(self) -> bool:
        """Whether the sample's database exists."""
        with self.connect() as connection:
            found = connection.execute("SELECT count(*) FROM pg_database WHERE datname = %s", [sample.DATABASE]).fetchone()
        return found != (0,)

    def make(self, scale: float) -> None:
        """Make it under another name, so that half a database never has the name of the whole."""
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {_UNFINISHED} WITH (FORCE)".encode())
        sample.fill_postgres(self, scale, _UNFINISHED)
        with self.connect() as connection:
            connection.execute(f"ALTER DATABASE {_UNFINISHED} RENAME TO {sample.DATABASE}".encode())


@dataclass(frozen=True)
class SampleMongo:
    """The MongoDB server of the sample, as :mod:`sandbox.sample` wants it."""

    host: str
    password: str

    def client(self) -> MongoClient[dict[str, Any]]:
        """A client of its root user."""
        return MongoClient(self.host, username="root", password=self.password, authSource="admin", directConnection=True)

    def has_data(self) -> bool:
        """Whether the sample's database has a collection, and is not one that was left half made."""
        with self.client() as client:
            names = client[sample.DATABASE].list_collection_names()
        return bool(names) and _UNFINISHED not in names

    def make(self, scale: float) -> None:
        """Make its collections; a database can't be renamed here, so the sign of half of it is a collection."""
        with self.client() as client:
            database = client[sample.DATABASE]
            if _UNFINISHED in database.list_collection_names():
                for name in sample.COLLECTIONS:
                    database.drop_collection(name)
            else:
                database.create_collection(_UNFINISHED)
            sample.fill_mongo(self, scale)
            database.drop_collection(_UNFINISHED)


@dataclass(frozen=True)
class SampleBucket:
    """The bucket of the plan's destination ``offsite``."""

    url: str
    password: str
    name: str

    def client(self) -> Any:
        """A client of the sample's S3 server."""
        return boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="sample", aws_secret_access_key=self.password
        )

    def exists(self) -> bool:
        """Whether it is there."""
        return self.name in [bucket["Name"] for bucket in self.client().list_buckets()["Buckets"]]

    def make(self) -> None:
        """Make it."""
        self.client().create_bucket(Bucket=self.name)


def main() -> int:
    """Make what is missing."""
    password, scale = os.environ["SAMPLE_PASSWORD"], float(os.environ["SAMPLE_SCALE"])
    home, files = Path(os.environ["OPENMANUS_HOME"]), Path(os.environ["OPENMANUS_FILES"])
    postgres, mongo = SamplePostgres("sample-postgres", password), SampleMongo("sample-mongo", password)
    bucket = SampleBucket("http://sample-s3:8333", password, os.environ["BACKUP_BUCKET"])
    folders = SampleFolders(home, files)
    parts = [
        (f"the bucket {bucket.name}", bucket.exists, bucket.make),
        ("the PostgreSQL database", postgres.has_data, lambda: postgres.make(scale)),
        ("the MongoDB collections", mongo.has_data, lambda: mongo.make(scale)),
        (f"uploads in {files}, and configuration in {home}", folders.has_data, lambda: folders.make(scale)),
    ]
    for what, exists, make in parts:
        there = exists()
        if not there:
            make()
        print(f"{what}: {'there already' if there else 'made'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
