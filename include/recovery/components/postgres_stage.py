"""Restoring PostgreSQL databases beside the live ones, and proving that what stands there equals the set."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from recovery.components import postgres_archive as archive
from recovery.components import postgres_catalog as catalog
from recovery.components import postgres_globals as server_globals
from recovery.components.base import Restore
from recovery.components.postgres_client import Connection, Server, in_words, telling
from recovery.components.postgres_dump import large_object_inventory
from recovery.components.postgres_read import large_object_digest, table_texts
from recovery.components.postgres_set import CREATED_ROLE, Target, created_roles, globals_artifact, targets
from recovery.contents import Difference, Facts, Row, compare
from recovery.errors import ProofError, RestoreError
from recovery.runners.local import tool
from recovery.units import human_size

log = logging.getLogger(__name__)

_ATTACH = re.compile(r"\d+; \d+ \d+ INDEX ATTACH ")
_RIGHTS = re.compile(r"\d+; 0 0 ACL ")
_LITERAL = re.compile(r"('(?:[^']|'')*')")
_CAST = re.compile(r'::[\w."]+(?: varying| precision)?(?:\(\d+(?:,\d+)?\))?(?: with(?:out)? time zone)?(?:\[\])*')


def stage(server: Server, jobs: int, restore: Restore) -> None:
    """Restore every database of the set beside the live one; see :meth:`recovery.components.base.Component.stage`."""
    chosen = targets(restore)
    with server.maintenance() as connection:
        for target in chosen:
            drop(connection, target.stage)
        _create_roles(connection, restore)
    for target in chosen:
        _stage_database(server, jobs, restore, target)


def drop(connection: Connection, database: str) -> None:
    """Drop a database, if it is there, and end whoever uses it."""
    with in_words(f"Dropping database {database}", RestoreError):
        connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(database)))


def _create_roles(connection: Connection, restore: Restore) -> None:
    artifact = globals_artifact(restore)
    if artifact is None:
        return
    roles = set_roles(restore, artifact)
    existing = {name: facts for _, name, facts in server_globals.role_rows(connection)}
    for name, role in roles.items():
        if name not in existing:
            restore.journal(CREATED_ROLE, role=name)
            server_globals.create_role(connection, role, restore.id)
            log.info("role %s created, without LOGIN until the switch", name)
        elif server_globals.is_asleep(existing[name]):
            restore.journal(CREATED_ROLE, role=name)
            server_globals.adopt_role(connection, role, existing[name], restore.id)
            log.info("role %s, which a restore left without LOGIN, taken over", name)
    for name in created_roles(restore):
        if name in roles:
            server_globals.finish_role(connection, roles[name])


def set_roles(restore: Restore, artifact: str) -> dict[str, dict[str, Any]]:
    """The set's roles with their password hashes, by name; the file that held them is gone afterwards."""
    folder = restore.folder / "globals"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(0o700)
    try:
        restore.unpack(artifact, folder)
        return server_globals.read_roles(folder / "roles.jsonl")
    finally:
        shutil.rmtree(folder)


def _stage_database(server: Server, jobs: int, restore: Restore, target: Target) -> None:
    folder = restore.folder / "database"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(0o700)
    log.info("unpacking database %s", target.name)
    restore.unpack(target.artifact, folder)
    _create_database(server, restore, target)
    size = int(target.snapshot["bytes"])
    argv: list[str | Path] = [server.bin / "pg_restore", "--format=directory", "--exit-on-error", "--no-password", "--no-subscriptions"]
    argv += [f"--dbname={server.target(target.stage)}", folder]
    log.info("restoring database %s as %s with %d jobs", target.name, target.stage, jobs)
    with server.maintenance([target.stage]) as watch, telling(lambda: _so_far(watch, target, size)):
        for chosen, side_by_side in _steps(archive.entries(server.bin, folder), jobs):
            with archive.use_list(chosen) as option:
                with tool([*argv, option, f"--jobs={side_by_side}"], env=server.environment(target.facts["encoding"])):
                    pass
    shutil.rmtree(folder)
    with server.connect(target.stage) as connection, in_words(f"Analyzing {target.stage}", RestoreError):
        log.info("collecting the planner's statistics of %s", target.stage)
        connection.execute("ANALYZE")


def _steps(entries: list[str], jobs: int) -> list[tuple[list[str], int]]:
    """Entries of a dump in steps, each with the number of jobs that may work on it.

    Attaching indexes of partitions side by side ends in deadlocks, so that is done one by one. Rights come last, as
    pg_restore has them in a single run.
    """
    attached = [place for place, entry in enumerate(entries) if _ATTACH.match(entry)]
    if not attached:
        return [(entries, jobs)]
    first, end = attached[0], attached[-1] + 1
    rights = [entry for entry in entries[:end] if _RIGHTS.match(entry)]
    steps = [(entries[:first], jobs), (entries[first:end], 1)]
    return [([entry for entry in step if not _RIGHTS.match(entry)], number) for step, number in steps] + [(rights + entries[end:], jobs)]


def _so_far(connection: Connection, target: Target, size: int) -> str:
    try:
        row = connection.execute("SELECT pg_database_size(%s)", [target.stage]).fetchone()
    except psycopg.Error as error:
        return f"{target.stage}: its size can't be read now: {error}"
    assert row is not None
    return f"{target.stage}: {human_size(row[0])} restored, it had {human_size(size)} at the source"


def _create_database(server: Server, restore: Restore, target: Target) -> None:
    """Create the database to restore into, empty of what the source did not have, and closed to everybody else."""
    name = Identifier(target.stage)
    with server.maintenance() as connection, in_words(f"Creating database {target.stage}", RestoreError):
        connection.execute(server_globals.create_statement(target.stage, target.facts))
        connection.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
    schemas = {schema for _, schema, _ in restore.rows(target.artifact, "schema")}
    extensions = {extension for _, extension, _ in restore.rows(target.artifact, "extension")}
    with server.connect(target.stage) as connection, in_words(f"Preparing database {target.stage}", RestoreError):
        if "public" not in schemas:
            connection.execute("DROP SCHEMA public")
        if "plpgsql" not in extensions:
            connection.execute("DROP EXTENSION plpgsql")


# Proof ------------------------------------------------------------------------------------------------------------------


def prove(server: Server, jobs: int, restore: Restore) -> list[Difference]:
    """Compare every staged database, and the roles created, with the set; see :meth:`recovery.components.base.Component.prove`."""
    differences = _prove_roles(server, restore)
    for target in targets(restore):
        differences += _prove_database(server, jobs, restore, target)
    return differences


def _prove_roles(server: Server, restore: Restore) -> list[Difference]:
    """Roles that this restore created or took over must be the set's, but for what the switch gives them; others must be there."""
    artifact = globals_artifact(restore)
    if artifact is None:
        return []
    created = set(created_roles(restore))

    def looked_at(rows: Iterator[Row]) -> Iterator[Row]:
        for kind, name, facts in rows:
            yield kind, name, _staged(facts) if name in created else {}

    expected = list(looked_at(restore.rows(artifact, "role")))
    names = {name for _, name, _ in expected}
    with server.maintenance() as connection:
        found = looked_at(row for row in server_globals.role_rows(connection) if row[1] in names)
        return compare(expected, found)


def _staged(role: Facts) -> Facts:
    """What a role has before the switch; that it is valid for ever can be said in two ways."""
    kept = {key: value for key, value in role.items() if key not in {"login", "comment"}}
    return kept | {"valid until": None if kept["valid until"] == "infinity" else kept["valid until"]}


def _prove_database(server: Server, jobs: int, restore: Restore, target: Target) -> list[Difference]:
    expected = {(kind, name): facts for kind, name, facts in restore.rows(target.artifact) if kind not in {"snapshot", "text"}}
    found = {(kind, name): facts for kind, name, facts in _found(server, jobs, target, expected)}
    for key, facts in found.items():
        if key in expected:
            expected[key], found[key] = _alike(key[0], expected[key], facts)
    differences = compare(_rows(expected), _rows(found))
    log.info("database %s: %d things compared, %d differ", target.name, len(expected), len(differences))
    return differences


def _rows(facts: dict[tuple[str, str], Facts]) -> Iterator[Row]:
    return ((kind, name, values) for (kind, name), values in facts.items())


def _found(server: Server, jobs: int, target: Target, expected: dict[tuple[str, str], Facts]) -> Iterator[Row]:
    yield "database", target.name, _outside(server, target)
    wanted = {name: facts for (kind, name), facts in expected.items() if kind == "table" and facts["data"]}
    texts = table_texts(server, target.stage, target.facts["encoding"], wanted, jobs)
    with server.connect(target.stage, autocommit=False) as connection:
        rows = list(catalog.object_rows(connection))
        names = [name for kind, name, _ in rows if kind == "sequence"]
        values = {name: {"value": value, "called": called} for name, value, called in catalog.sequence_values(connection, names)}
        for kind, name, facts in rows:
            facts.pop("at", None)
            yield kind, name, facts | (values[name] if kind == "sequence" else texts.get(name, {}) if kind == "table" else {})
        large_objects = large_object_inventory(connection)
        del large_objects["numbers"], large_objects["sizes"]
        yield "large objects", "all", large_objects | {"digest": large_object_digest(connection)}


def _outside(server: Server, target: Target) -> Facts:
    """What the staged database will be on the outside: its owner, rights and settings are tried, read, and taken back."""
    with server.maintenance() as connection, in_words(f"Trying the settings of database {target.name}", RestoreError):
        with connection.transaction(force_rollback=True):
            for statement in server_globals.database_statements(target.stage, target.facts):
                connection.execute(statement)
            facts = server_globals.database_facts(connection, target.stage)
    if facts is None:
        raise ProofError(f"Database {target.stage} is not there.", "Stage again.")
    return facts


def _alike(kind: str, expected: Facts, found: Facts) -> tuple[Facts, Facts]:
    """Take out what a restore by pg_dump's own script changes without changing the database."""
    expected, found = dict(expected), dict(found)
    if kind == "extension":  # a restore creates the version that the server has; preflight shows the difference
        expected.pop("version", None)
        found.pop("version", None)
    if kind == "table" and sorted(expected["copy"] or ()) == sorted(found["copy"] or ()):  # children of INHERITS get another order
        found["copy"] = expected["copy"]
    for name, value in expected.items():
        if found.get(name) != value and _plain(found.get(name)) == _plain(value):
            found[name] = value
    return expected, found


def _plain(value: Any) -> Any:
    """An expression without the casts and brackets that PostgreSQL writes differently once it has read its own output.

    ``status IN ('a', 'b')`` of a varchar is shown as ``ANY ((ARRAY['a'::character varying, …])::text[])``, and after a
    restore of exactly that as ``ANY (ARRAY[('a'::character varying)::text, …])``.
    """
    if isinstance(value, str):
        parts = _LITERAL.split(value)
        parts[::2] = ["".join(re.sub(r"[()]", "", _CAST.sub("", part)).split()) for part in parts[::2]]
        return "".join(parts)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value
