"""A PostgreSQL server as the tests of the component use it."""

import os
import subprocess
from pathlib import Path

from recovery.components.postgres.component import Postgres
from recovery.connections import Endpoint
from recovery.contents import read_rows
from recovery.plan_sources import PostgresSource
from tests.harness import LocalRestore, back_up

HARD = Path(__file__).with_name("postgres_hard.sql")


class Site:
    def __init__(self, server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self._number = 0

    def component(self, *databases, user="postgres", password=None, tools=None, renamed=None, host="127.0.0.1", **settings):
        endpoint = Endpoint("pg", host, self.server.port, user, password or self.server.password)
        tools = [self.server.bin] if tools is None else tools
        return Postgres("main", PostgresSource(connection="pg", databases=databases, **settings), endpoint, tools, renamed)

    def sql(self, database, *statements, **who):
        with self.server.connect(database, **who) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def databases(self):
        return {name for (name,) in self.sql("postgres", "SELECT datname FROM pg_database")}

    def create(self, database, *statements):
        self.sql("postgres", f'CREATE DATABASE "{database}"')
        if statements:
            self.sql(database, *statements)

    def load(self, database, file):
        env = {
            **os.environ,
            "PGPASSWORD": self.server.password,
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.server.port),
            "PGUSER": "postgres",
        }
        argv = [self.server.bin / "psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-f", file]
        subprocess.run(argv, env={**env, "PGDATABASE": database}, check=True, stderr=subprocess.DEVNULL)

    def new_folder(self):
        self._number += 1
        return self.folder / str(self._number)

    def back_up(self, component):
        return back_up(component, self.new_folder())

    def restore(self, set_folder, **options):
        return LocalRestore(set_folder, self.new_folder(), **options)


def contents(set_folder, artifact, *kinds):
    return {(kind, name): facts for kind, name, facts in read_rows(set_folder / f"{artifact}.contents.jsonl", *kinds)}
