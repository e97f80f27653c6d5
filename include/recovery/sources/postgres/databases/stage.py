"""Loading PostgreSQL databases from a set: beside the live ones, or under a live name."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tarfile import TarInfo

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from recovery.common.errors import RestoreError
from recovery.common.files import empty_folder
from recovery.common.progress import telling
from recovery.common.units import human_size
from recovery.sources.base import RestoreView
from recovery.sources.postgres.accounts import server_globals
from recovery.sources.postgres.accounts.roles import create_roles
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.dump import archive
from recovery.sources.postgres.targets import Target

log = logging.getLogger(__name__)

_ALONE = (re.compile(r"\d+; \d+ \d+ INDEX ATTACH "), re.compile(r"\d+; \d+ \d+ TRIGGER "))
_RIGHTS = re.compile(r"\d+; 0 0 ACL ")


def stage(server: Server, jobs: int, restore: RestoreView, chosen: Sequence[Target]) -> None:
    """Restore databases beside the live ones; see :meth:`recovery.sources.base.Restorer.stage`."""
    log.info("restoring with the client tools in %s", server.bin)  # looked for before anything is changed
    with server.maintenance() as connection:
        for target in chosen:
            drop(connection, target.stage)
        create_roles(connection, restore, chosen)
    for target in chosen:
        load(server, jobs, restore, target)


def drop(connection: Connection, database: str) -> None:
    """Drop a database, if it is there, and end whoever uses it."""
    with translated_errors(f"Dropping database {database}", RestoreError):
        if connection.execute("SELECT FROM pg_database WHERE datname = %s AND datistemplate", [database]).fetchone() is not None:
            connection.execute(SQL("ALTER DATABASE {} IS_TEMPLATE false").format(Identifier(database)))
        connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(database)))


@dataclass(frozen=True)
class Excerpt:
    """What is restored of a database, if not all of it."""

    member: Callable[[TarInfo], bool]
    """Whether a file of the dump is needed."""
    entries: Callable[[list[str]], list[str]]
    """Picks of the dump's table of contents what is restored."""
    options: tuple[str, ...] = ()
    """More of pg_restore."""


def load(
    server: Server,
    jobs: int,
    restore: RestoreView,
    target: Target,
    excerpt: Excerpt | None = None,
    unpacked: Callable[[], None] | None = None,
) -> None:
    """Create a target's database and restore into it: all that is inside, and not yet its owner, rights and settings.

    A database of that name is dropped, once the set's is unpacked.

    Args:
        server: where to.
        jobs: how many work side by side.
        restore: whose set it is.
        target: the database.
        excerpt: what is restored of it, if not all.
        unpacked: done in between.

    Raises:
        RestoreError: if the server refuses.
        ToolError: if pg_restore fails.
    """
    argv: list[str | Path] = [server.bin / "pg_restore", "--format=directory", "--exit-on-error", "--no-password", "--no-subscriptions"]
    folder = restore.folder / "database"
    empty_folder(folder)
    log.info("unpacking database %s", target.saved)
    restore.unpack(target.artifact, folder, excerpt.member if excerpt else None)
    if unpacked:
        unpacked()
    with server.maintenance([target.loaded]) as connection:
        drop(connection, target.loaded)
    _create_database(server, restore, target)
    size = int(target.snapshot["bytes"])
    argv += [*(excerpt.options if excerpt else ()), f"--dbname={server.target(target.loaded)}", folder]
    entries = archive.entries(server.runner, server.bin, folder)
    log.info("restoring database %s as %s with %d jobs", target.saved, target.loaded, jobs)
    with server.maintenance([target.loaded]) as watch, telling(lambda: _so_far(watch, target, size)):
        for chosen, side_by_side in in_steps(excerpt.entries(entries) if excerpt else entries, jobs):
            with archive.use_list(chosen) as option:
                with server.runner.tool([*argv, option, f"--jobs={side_by_side}"], env=server.environment(target.facts["encoding"])):
                    pass
    shutil.rmtree(folder)
    log.info("collecting the planner's statistics of %s", target.loaded)
    with server.connect(target.loaded) as connection, translated_errors(f"Analyzing {target.loaded}", RestoreError):
        _analyze(connection)


def _analyze(connection: Connection) -> None:
    """Collect the planner's statistics; tables of which that fails are named, since all that they hold is there nevertheless."""
    if _analyzed(connection, SQL("ANALYZE")):
        return
    tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p', 'm') AND NOT relisshared ORDER BY relkind, 1"
    for (name,) in connection.execute(tables).fetchall():
        if not _analyzed(connection, SQL("ANALYZE {}").format(SQL(name))):
            log.warning("table %s has no statistics, or not all: ANALYZE it once that is mended", name)


def _analyzed(connection: Connection, statement: SQL | Composed) -> bool:
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        if connection.closed:
            raise
        log.warning("ANALYZE of %s: %s", connection.info.dbname, str(error).strip())
        return False
    return True


def in_steps(entries: list[str], jobs: int) -> list[tuple[list[str], int]]:
    """Entries of a dump in steps, each with the number of jobs that may work on it.

    Some kinds are restored one by one: attaching indexes of partitions side by side ends in deadlocks, and a partition's
    trigger is turned off or on by an entry that does not wait for the one of the parent's, which makes it. Rights come
    last, as pg_restore has them in a single run.
    """
    rights = [entry for entry in entries if _RIGHTS.match(entry)]
    others = [entry for entry in entries if not _RIGHTS.match(entry)]
    alone: set[int] = set()
    for kind in _ALONE:
        places = [place for place, entry in enumerate(others) if kind.match(entry)]
        alone.update(range(places[0], places[-1] + 1) if places else ())
    end = max(alone, default=-1) + 1
    groups = groupby(range(end), key=alone.__contains__)
    steps = [([others[place] for place in places], 1 if by_itself else jobs) for by_itself, places in groups]
    return [*steps, (others[end:] + rights, jobs)]


def _so_far(connection: Connection, target: Target, size: int) -> str:
    try:
        row = connection.execute("SELECT pg_database_size(%s)", [target.loaded]).fetchone()
    except psycopg.Error as error:
        return f"{target.loaded}: its size can't be read now: {error}"
    assert row is not None
    return f"{target.loaded}: {human_size(row[0])} restored, it had {human_size(size)} at the source"


def _create_database(server: Server, restore: RestoreView, target: Target) -> None:
    """Create the database to restore into, empty of what the source did not have, and closed to everybody else."""
    name = Identifier(target.loaded)
    with server.maintenance([target.loaded]) as connection, translated_errors(f"Creating database {target.loaded}", RestoreError):
        connection.execute(server_globals.create_statement(target.loaded, target.facts, server.about.major))
        connection.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
    schemas = {schema: facts for _, schema, facts in restore.rows(target.artifact, "schema")}
    extensions = {extension for _, extension, _ in restore.rows(target.artifact, "extension")}
    with server.connect(target.loaded) as connection, translated_errors(f"Preparing database {target.loaded}", RestoreError):
        if "public" not in schemas:
            connection.execute("DROP SCHEMA public")
        elif target.major < 15:  # whose pg_dump leaves it as it is in a new database, which is not the same in a newer server
            comments = {name: facts["text"] for _, name, facts in restore.rows(target.artifact, "comment")}
            for statement in server_globals.schema_statements(Identifier("public"), schemas["public"], comments.get("schema public")):
                connection.execute(statement)
        if "plpgsql" not in extensions:
            connection.execute("DROP EXTENSION plpgsql")
