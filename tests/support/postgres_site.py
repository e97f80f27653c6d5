"""A PostgreSQL server as the tests of the kind ``postgres`` use it."""

import os
import subprocess
from pathlib import Path

from recovery.common.connections import Endpoint
from recovery.packs.content_index import read_rows
from recovery.plan.kinds.postgres import PostgresSettings
from recovery.runners.local import LOCAL
from recovery.sources.postgres.source import Postgres
from tests.support.local_restore import LocalRestore, back_up

HARD = Path(__file__).with_name("postgres_hard.sql")


class Site:
    """A server, and what the tests of a file do with it.

    Args:
        server: a running one, which others may use too.
        folder: for backups.
        names: what the names of the file's own databases begin with.
        roles: the file's own.
    """

    def __init__(self, server, folder: Path, names: tuple[str, ...] = (), roles: tuple[str, ...] = ()) -> None:
        self.server = server
        self.folder = folder
        self._names = names
        self._roles = roles
        self._number = 0

    def source(
        self,
        *databases,
        user="postgres",
        password=None,
        tools=None,
        renamed=None,
        host="127.0.0.1",
        runner=LOCAL,
        terms=None,
        port=None,
        **settings,
    ):
        endpoint = Endpoint("pg", host, port or self.server.port, user, password or self.server.password)
        tools = [self.server.bin] if tools is None else tools
        settings = PostgresSettings(connection="pg", databases=databases, **settings)
        return Postgres("main", settings, endpoint, tools, renamed, runner=runner, **(terms or {}))

    def sql(self, database, *statements, **who):
        with self.server.connect(database, **who) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def databases(self):
        return {name for (name,) in self.sql("postgres", "SELECT datname FROM pg_database")}

    def own_databases(self):
        return {name for name in self.databases() if name.startswith(self._names)}

    def own_roles(self):
        return {role for (role,) in self.sql("postgres", "SELECT rolname FROM pg_roles") if role in self._roles}

    def clean(self):
        self.clean_databases()
        self.sql("postgres", "SELECT", *(f"DROP ROLE IF EXISTS {role}" for role in self._roles))

    def clean_databases(self):
        self.sql("postgres", "SELECT", *(f'DROP DATABASE "{name}" WITH (FORCE)' for name in self.own_databases()))

    def number(self, database):
        return self.sql("postgres", f"SELECT oid FROM pg_database WHERE datname = '{database}'")[0][0]

    def state(self, database):
        return self.sql(database, "SELECT state FROM t")[0][0]

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

    def back_up(self, source):
        return back_up(source, self.new_folder())

    def restore(self, set_folder, **options):
        return LocalRestore(set_folder, self.new_folder(), **options)


def contents(set_folder, artifact, *kinds):
    return {(kind, name): facts for kind, name, facts in read_rows(set_folder / f"{artifact}.contents.jsonl", *kinds)}


def texts(source, restore, level):
    return "\n".join(finding.text for finding in source.preflight(restore).findings if finding.level == level)
