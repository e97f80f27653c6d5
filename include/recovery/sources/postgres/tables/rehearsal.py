"""Before a swap: it is done without rows on a copy of the live definitions.

So what the swap would fail at, such as a view that shows a column which the set lacks, is known while nothing waits for
it. The copy is loaded as any database is: each owner's definitions by a role that has no right elsewhere.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from psycopg.sql import SQL, Identifier

from recovery.common.errors import RestoreError
from recovery.sources.base import RestoreView
from recovery.sources.postgres.accounts import server_globals
from recovery.sources.postgres.client import Connection, Server, codec, translated_errors
from recovery.sources.postgres.databases.custody import undisturbed
from recovery.sources.postgres.databases.stage import Dump, drop, fill
from recovery.sources.postgres.definitions.catalog import SET_ASIDE_SCHEMA
from recovery.sources.postgres.definitions.names import pattern
from recovery.sources.postgres.dump import archive
from recovery.sources.postgres.tables import staged
from recovery.sources.postgres.tables.contents import Chosen, objects
from recovery.sources.postgres.tables.dependents import ForeignKey
from recovery.sources.postgres.tables.keys import Crossing, crossing
from recovery.sources.postgres.targets import Target

log = logging.getLogger(__name__)

_COPY = "__rehearsal"
_NOT_NEEDED = (
    "EVENT TRIGGER",
    "COMMENT - EVENT TRIGGER",
    "USER MAPPING",
    "COMMENT - SUBSCRIPTION",
    "STATISTICS DATA ",
)


def copy_of(restore: RestoreView) -> str:
    """The database that a restore rehearses in."""
    return f"{_COPY}__stage_{restore.id}"


def rehearse(
    server: Server, jobs: int, restore: RestoreView, part: Chosen, swap: Callable[[Connection], list[ForeignKey]]
) -> list[Crossing]:
    """Swap in a copy of the live database without its rows, and of what is staged in it.

    Args:
        server: where the live database is.
        jobs: how many work side by side.
        restore: the restore.
        part: what was asked for.
        swap: does it, in a transaction that is kept for the length of this function; which foreign keys have to be validated.

    Returns:
        The foreign keys that cross between what is restored and what stays.

    Raises:
        RestoreError: if it would fail.
    """
    live, folder = part.target.name, restore.folder / "live"
    copy = _target(server, restore, part)
    assert copy.stage == copy_of(restore)
    with undisturbed(server, [live, copy.stage]) as connection:
        drop(connection, copy.stage)
        _create(server, connection, copy.stage, live)
    try:
        fill(server, jobs, copy, _dump(server, part, folder, copy))
        log.info("rehearsing the swap of %s on a copy of its definitions", live)
        with (
            server.connect(copy.stage) as connection,
            translated_errors(f"Restoring to {live} would fail", RestoreError),
            connection.transaction(force_rollback=True),
        ):
            return crossing(connection, part, swap(connection))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with undisturbed(server, [live, copy.stage]) as connection:
            drop(connection, copy.stage)


def _target(server: Server, restore: RestoreView, part: Chosen) -> Target:
    with server.connect(part.target.name) as live:
        facts = server_globals.database_facts(live, part.target.name)
        owners = [name for (name,) in live.execute("SELECT rolname FROM pg_roles").fetchall()]
        snapshot = {"codec": codec(live), "roles": owners, "bytes": 0, "major": server.about.major}
    assert facts is not None
    return Target(_COPY, part.target.name, "", restore.id, facts, snapshot)


def _dump(server: Server, part: Chosen, folder: Path, copy: Target) -> Dump:
    """The definitions of the live database, and of what this restore has staged there: what others have is theirs."""
    shutil.rmtree(folder, ignore_errors=True)
    query = "SELECT nspname FROM pg_namespace WHERE nspname ~ %s AND nspname <> ALL (%s)"
    ours = [staged.schema_of(part, schema) for schema in part.schemas]
    with server.connect(part.target.name) as live, translated_errors(f"Reading the schemas of {part.target.name}", RestoreError):
        others = [name for (name,) in live.execute(query, [SET_ASIDE_SCHEMA, ours]).fetchall()]
    argv: list[str | bytes | Path] = [server.bin / "pg_dump", "--schema-only", "--format=directory", f"--file={folder}"]
    argv += ["--no-publications", "--no-subscriptions", "--no-password", f"--dbname={server.target(part.target.name)}"]
    argv += [f"--exclude-schema={pattern(name)}".encode(copy.snapshot["codec"]) for name in others]
    server.runner.run(argv, env=server.environment(copy.facts["encoding"]))
    lines = [line for line in archive.entries(server.runner, server.bin, folder) if not line.split(" ", 3)[3].startswith(_NOT_NEEDED)]
    with server.connect(part.target.name) as live, translated_errors(f"Reading {part.target.name}", RestoreError):
        found = objects(live) | staged.definitions(live, part, "stage")
        roles = {name: facts for _, name, facts in server_globals.role_rows(live)}
    return Dump(folder, lines, found, roles)


def _create(server: Server, connection: Connection, name: str, live: str) -> None:
    with translated_errors(f"Creating database {name}", RestoreError):
        facts = server_globals.database_facts(connection, live)
        assert facts is not None
        connection.execute(server_globals.create_statement(name, facts, server.about.major))
        connection.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(Identifier(name)))
    with server.connect(live) as original, server.connect(name) as copy, translated_errors(f"Preparing database {name}", RestoreError):
        for query, statement in (
            ("SELECT FROM pg_namespace WHERE nspname = 'public'", "DROP SCHEMA public"),
            ("SELECT FROM pg_extension WHERE extname = 'plpgsql'", "DROP EXTENSION plpgsql"),
        ):
            if original.execute(query).fetchone() is None:
                copy.execute(statement)
