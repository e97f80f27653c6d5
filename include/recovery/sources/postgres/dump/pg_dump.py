"""Dumping a PostgreSQL server: one snapshot a database, all of them open before the first is read."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from recovery.common.errors import SourceError
from recovery.common.files import check_space, folder_size, written_in
from recovery.common.progress import telling
from recovery.common.units import human_size
from recovery.common.wording import shortened
from recovery.packs.artifact import Artifact
from recovery.packs.content_index import RecordDigest, Row, read_rows, write_rows
from recovery.plan.kinds.postgres import PostgresSettings
from recovery.runners.base import Argv
from recovery.sources.model import Dump, RecoveryPoint
from recovery.sources.postgres.accounts import server_globals
from recovery.sources.postgres.client import Connection, Server, codec, translated_errors
from recovery.sources.postgres.definitions import catalog, dumped
from recovery.sources.postgres.definitions.held_names import hold_schemas, hold_sequences, hold_tables
from recovery.sources.postgres.definitions.names import quoted_name
from recovery.sources.postgres.dump import archive, exclusions
from recovery.sources.postgres.dump.exclusions import Exclusions
from recovery.sources.postgres.dump.hard_to_load import hard_to_load, refuse_unquoted
from recovery.sources.postgres.dump.left_out import left_out

log = logging.getLogger(__name__)

SET_ASIDE = re.compile(r"__(stage|before|replaced)_[0-9a-f]{8}\Z")
"""The end of the name of a database that a restore made; such a one is never a source."""
PROVIDERS = frozenset({"rdsadmin", "cloudsqladmin", "alloydbadmin", "azure_maintenance", "azure_sys", "_aiven"})
"""Databases that providers of managed servers keep there for themselves: Amazon, Google, Microsoft, Aiven."""
_NEEDED_ROLES = """SELECT jsonb_agg(DISTINCT pg_get_userbyid(needed.role)) FROM pg_database d, LATERAL (
      SELECT refobjid FROM pg_shdepend s WHERE refclassid = 'pg_authid'::regclass
        AND (dbid = d.oid OR classid = 'pg_database'::regclass AND objid = d.oid)
        AND NOT EXISTS (SELECT FROM unnest(%s::oid[], %s::oid[]) x (class, oid) WHERE x.class = s.classid AND x.oid = s.objid)
      UNION SELECT setrole FROM pg_db_role_setting WHERE setdatabase = d.oid AND setrole <> 0
      UNION SELECT 10) needed (role)
    WHERE d.datname = current_database()"""
"""Who owns something in a database, has rights there or settings; 10 is the server's first superuser, whom pg_shdepend leaves out."""

_SESSIONS_LEFT = """SELECT least(
      current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true), '0')::int - (SELECT sum(numbackends) FROM pg_stat_database),
      (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user AND rolconnlimit >= 0 AND NOT rolsuper)
        - (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user))::int"""
"""For users without special rights, and for this user."""


@dataclass
class _Snapshot:
    """A database, read as it was at one instant."""

    database: str
    connection: Connection
    name: str
    lsn: str
    opened: datetime
    encoding: str
    codec: str
    exclusions: Exclusions


def dump(server: Server, settings: PostgresSettings, folder: Path, opened: Callable[[], None], *, damaged: bool = False) -> Dump:
    """Dump databases and globals; see :meth:`recovery.sources.base.Dumper.dump`.

    Args:
        server: where they are.
        settings: what the plan says of them.
        folder: where the dump goes.
        opened: to be called once, when all snapshots are open.
        damaged: databases that the plan names and that are not there are left out, and said, where it would be an error; and what is
            there is all dumped, whatever the plan excludes, since nobody else has it once it is dropped.
    """
    bin_folder = server.bin
    databases, warnings = _chosen(server, settings.databases, damaged)
    names = _Names()
    artifacts: list[Artifact] = []
    found: list[Exclusions] = []
    began, position = datetime.now(UTC), None
    excluding = settings.model_copy(update={"exclude": (), "exclude_rows": ()}) if damaged else settings
    rounds = _rounds(server, databases, settings.jobs)
    for number, chosen in enumerate(rounds):
        with ExitStack() as stack:
            snapshots = [_open(server, database, excluding, stack) for database in chosen]
            found += [snapshot.exclusions for snapshot in snapshots]
            check_space(folder, sum(map(_table_bytes, snapshots)), f"the dump of {', '.join(chosen)}")
            if number == len(rounds) - 1:
                opened()
            position = position or (snapshots[0].lsn if snapshots else None)
            log.info("snapshots of %s open at %s", ", ".join(chosen) or "nothing", snapshots[0].lsn if snapshots else None)
            for snapshot in snapshots:
                artifacts += _dump_snapshot(server, settings, snapshot, databases.index(snapshot.database), folder, names, warnings)
                snapshot.connection.close()
    warnings += exclusions.unmatched(excluding, found)
    if len(rounds) > 1:
        warnings.append(_in_rounds(rounds))
    name = names.unique("globals")
    artifacts.insert(0, _dump_globals(server, folder / "globals", folder / f"{name}.inventory.jsonl", name, warnings))
    versions = {"postgres": server.about.version, "pg_dump": server.runner.version(bin_folder / "pg_dump")}
    point = RecoveryPoint(opened=began, closed=datetime.now(UTC), position=position)
    for warning in warnings:
        log.warning("%s", warning)
    return Dump(
        artifacts=tuple(artifacts),
        point=point,
        consistency="fuzzy" if len(rounds) > 1 else "snapshot",
        versions=versions,
        warnings=tuple(warnings),
    )


def _rounds(server: Server, databases: Sequence[str], jobs: int) -> list[Sequence[str]]:
    """The databases whose snapshots may be open at the same time; all of them, if the server has sessions for that.

    Half of the sessions that are left stay for others, who go on working.
    """
    with server.maintenance() as connection, translated_errors("Asking how many sessions are left"):
        row = connection.execute(_SESSIONS_LEFT).fetchone()
    assert row is not None
    at_once = max(1, (row[0] - jobs - 1) // 2)  # pg_dump has a session more than jobs
    return [databases[start : start + at_once] for start in range(0, len(databases), at_once)] or [[]]


def _in_rounds(rounds: Sequence[Sequence[str]]) -> str:
    return (
        f"The server has not enough sessions for snapshots of {sum(map(len, rounds))} databases at the same time. They were read in"
        f" {len(rounds)} rounds of at most {len(rounds[0])}, so databases of different rounds are of different moments."
        " Raise max_connections."
    )


class _Names:
    """Artifact names that are unique, and usable in file names of staging."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, wanted: str) -> str:
        name = wanted.replace("/", "%2F")
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _chosen(server: Server, named: Sequence[str], damaged: bool) -> tuple[list[str], list[str]]:
    """The databases to dump, and what is left out that somebody might miss."""
    known = server.databases()
    warnings: list[str] = []
    half_dropped = _half_dropped(server)
    if named:
        if set_aside := [name for name in named if SET_ASIDE.search(name)]:
            raise SourceError(
                f"The plan names the database {', '.join(set_aside)}, which a restore made.",
                "Name databases that are in use; drop its copies.",
            )
        there = known.keys() - half_dropped
        missing = [name for name in dict.fromkeys(named) if name not in there]
        if missing and not damaged:
            raise SourceError(
                f"The server has no database {', '.join(missing)}, which the plan names.",
                "Correct the plan's databases, or restore the database.",
            )
        warnings += [f"Database {name} is not there, and not in this set." for name in missing]
        return [name for name in dict.fromkeys(named) if name in there], warnings
    chosen = [name for name, usable in known.items() if usable and name not in PROVIDERS and not SET_ASIDE.search(name)]
    for name in sorted(known.keys() - chosen - {"template0", "template1"}):
        if name in half_dropped:
            warnings.append(f"Database {name} was left by a DROP DATABASE that did not end, and is not backed up. Drop it again.")
        elif SET_ASIDE.search(name):
            warnings.append(f"Database {name} has the name of a copy that a restore made, and is not backed up. Rename it if it is none.")
        elif name in PROVIDERS:
            warnings.append(f"Database {name} is that of the server's provider, and is not backed up.")
        else:
            warnings.append(f"Database {name} does not let {quoted_name(server.about.user)} in, and is not backed up.")
    if not chosen and not damaged:
        raise SourceError("The server has no database to back up.", "Check the Connection; a server has at least the database postgres.")
    return chosen, warnings


def _half_dropped(server: Server) -> set[str]:
    """Databases whose DROP DATABASE was cut short: they can only be dropped again."""
    with server.maintenance() as connection, translated_errors("Listing the databases"):
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database WHERE datconnlimit = -2").fetchall()}


def _open(server: Server, database: str, settings: PostgresSettings, stack: ExitStack) -> _Snapshot:
    """Open a snapshot and hold what it sees, so that pg_dump finds the same behind each name."""
    connection = stack.enter_context(server.connect(database, autocommit=False))
    with translated_errors(f"Opening a snapshot of {database}"):
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        hold_schemas(connection)
        connection.execute("SET TRANSACTION READ ONLY")
        row = connection.execute(
            """SELECT pg_export_snapshot(), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
            current_setting('server_encoding')"""
        ).fetchone()
        assert row is not None
    opened = datetime.now(UTC)
    excluding = exclusions.find(connection, settings)
    if unreadable := dumped.unreadable(connection, excluding.numbers):
        raise SourceError(
            f"User {quoted_name(server.about.user)} may not read all of database {database}: {shortened(unreadable, at_most=30)}.",
            "Grant it pg_read_all_data, SELECT on large objects, and BYPASSRLS where rows are hidden; or back up as a superuser; or name"
            " schemas and tables that are not yours to back up in the plan's exclude.",
        )
    hold_tables(connection, excluding.without(dumped.tables(connection)))
    hold_sequences(connection, excluding.without(dumped.sequences(connection)))
    dumped.refuse_owned_configuration(connection)
    refuse_unquoted(connection, excluding.numbers)
    return _Snapshot(database, connection, row[0], row[1], opened, row[2], codec(connection), excluding)


def _table_bytes(snapshot: _Snapshot) -> int:
    """Tables and large objects as they lie on the server's disk; about what their uncompressed dump takes."""
    row = snapshot.connection.execute(
        "SELECT coalesce(sum(pg_table_size(c.oid)), 0)::bigint FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace"
        " WHERE relkind = 'r' AND (nspname !~ '^pg_' AND nspname <> 'information_schema' OR relname = 'pg_largeobject')"
        " AND c.oid <> ALL (%s)",
        [snapshot.exclusions.without_rows],
    ).fetchone()
    assert row is not None
    return int(row[0])


def _dump_snapshot(
    server: Server, settings: PostgresSettings, snapshot: _Snapshot, number: int, folder: Path, names: _Names, warnings: list[str]
) -> Iterator[Artifact]:
    """Dump one database, and its definitions as SQL if the plan wants them."""
    name = names.unique(snapshot.database)
    root = folder / f"database-{number}"
    yield _dump_database(server, settings, snapshot, root, folder / f"{name}.inventory.jsonl", name, warnings)
    if settings.schema_sql:
        name = names.unique(f"{snapshot.database}.schema")
        root = folder / f"schema-{number}"
        yield _dump_schema(server, snapshot, root, folder / f"{name}.inventory.jsonl", name)


def _dump_database(
    server: Server, settings: PostgresSettings, snapshot: _Snapshot, root: Path, inventory: Path, name: str, warnings: list[str]
) -> Artifact:
    write_rows(inventory, _inventory(server, snapshot))
    warnings += [
        *snapshot.exclusions.sentences(snapshot.database),
        *left_out(snapshot.connection),
        *hard_to_load(snapshot.connection),
    ]
    argv: list[str | bytes | Path] = [
        server.bin / "pg_dump",
        "--format=directory",
        f"--jobs={settings.jobs}",
        "--compress=0",
        f"--file={root}",
    ]
    argv += [
        f"--exclude-schema={catalog.SET_ASIDE}",
        f"--snapshot={snapshot.name}",
        f"--encoding={snapshot.encoding}",
        "--no-password",
        f"--dbname={server.target(snapshot.database)}",
        *_excluded(snapshot),
    ]
    # The dump is temporary: it is read whole and checked before it counts, so its blocks need not reach the disk.
    argv += ["--no-sync"] + (["--no-unlogged-table-data"] if server.about.standby else [])
    if any(facts.get("hashed by enum") for _, _, facts in read_rows(inventory, "table")):
        argv.append(
            "--load-via-partition-root"
        )  # pg_dump does that by itself only where the key is an enum, and not inside of another type

    def heard(line: str) -> None:
        log.info("pg_dump: %s", line)
        if "warning:" in line:
            warnings.append(f"{snapshot.database}: {line}")

    def written() -> str:
        size = folder_size(root)
        return f"{snapshot.database}: {human_size(size)} dumped" if size else f"{snapshot.database}: pg_dump is starting"

    log.info("dumping database %s with %d jobs", snapshot.database, settings.jobs)
    root.mkdir(0o700)
    with telling(written), server.runner.tool(argv, env=server.environment(snapshot.encoding), on_line=heard, writes=root):
        pass
    size = folder_size(root)
    _check(server, root, inventory, snapshot)
    log.info("database %s dumped, %s", snapshot.database, human_size(size))
    return Artifact(name=name, root=str(root), bytes=size)


def _excluded(snapshot: _Snapshot) -> Iterator[bytes]:
    return (option.encode(snapshot.codec) for option in snapshot.exclusions.options)


def _check(server: Server, root: Path, inventory: Path, snapshot: _Snapshot) -> None:
    toc = archive.read_toc(server.runner, server.bin, root, snapshot.codec)
    missing = archive.uncovered(read_rows(inventory), toc)
    missing += [f"the file {file}" for file in toc.tables.values() if not (root / file).is_file()]
    if missing:
        raise SourceError(
            f"The dump of {snapshot.database} lacks what the source has: {shortened(missing)}.",
            "Look at pg_dump's messages above; give the backup user the rights, then run the backup again.",
        )


def _inventory(server: Server, snapshot: _Snapshot) -> Iterator[Row]:
    connection = snapshot.connection
    facts = server_globals.database_facts(connection, snapshot.database)
    assert facts is not None
    yield "database", snapshot.database, facts
    with translated_errors(f"Asking for the size of {snapshot.database}"):
        query = """SELECT pg_database_size(current_database()) - coalesce(sum(pg_total_relation_size(oid)), 0)::bigint
            FROM pg_class WHERE relkind IN ('r', 'm') AND oid = ANY (%s)"""
        row = connection.execute(query, [snapshot.exclusions.without_rows]).fetchone()
    assert row is not None
    with translated_errors(f"Listing the roles that {snapshot.database} needs"):
        gone = snapshot.exclusions.objects
        roles = connection.execute(_NEEDED_ROLES, [[catalog for catalog, _ in gone], [number for _, number in gone]]).fetchone()
    assert roles is not None
    about = {"version": server.about.version, "major": server.about.major, "system": server.about.system}
    yield (
        "snapshot",
        snapshot.database,
        {"lsn": snapshot.lsn, "opened": snapshot.opened.isoformat(), "codec": snapshot.codec, "bytes": row[0], "roles": roles[0]} | about,
    )
    yield from snapshot.exclusions.apply(catalog.object_rows(connection))
    yield "large objects", "all", large_object_inventory(connection)


def large_object_inventory(connection: Connection) -> dict[str, int | str]:
    """Count and bytes of large objects, and digests of their numbers, of their sizes, and of their owners and rights."""
    numbers, sizes, rights = RecordDigest(), RecordDigest(), RecordDigest()
    total = 0
    for oid, size, owner, acl in catalog.large_objects(connection):
        numbers.add([b"%d" % oid])
        sizes.add([archive.size_record(oid, size)])
        rights.add([f"{oid} {owner} {acl}".encode()])
        total += size
    return {
        "count": numbers.count,
        "bytes": total,
        "numbers": numbers.hexdigest(),
        "sizes": sizes.hexdigest(),
        "rights": rights.hexdigest(),
    }


def _dump_schema(server: Server, snapshot: _Snapshot, root: Path, inventory: Path, name: str) -> Artifact:
    root.mkdir(0o700)
    argv: list[str | bytes | Path] = [
        server.bin / "pg_dump",
        "--schema-only",
        f"--exclude-schema={catalog.SET_ASIDE}",
        f"--snapshot={snapshot.name}",
        "--no-password",
    ]
    argv += [f"--encoding={snapshot.encoding}", f"--dbname={server.target(snapshot.database)}", *_excluded(snapshot)]
    _save(server, argv, snapshot.encoding, root / "schema.sql")
    write_rows(inventory, [("schema of", snapshot.database, {})])
    return Artifact(name=name, root=str(root), bytes=folder_size(root))


def _in_use(roles: Iterable[Row], warnings: list[str]) -> Iterator[Row]:
    """Roles without the mark of a restore that left them asleep: in a set it would mean something else."""
    for kind, name, facts in roles:
        if server_globals.is_asleep(facts):
            warnings.append(f"Role {quoted_name(name)} was left without LOGIN by a restore ({facts['comment']}); so it is in this set.")
            facts = facts | {"comment": None}
        yield kind, name, facts


def _dump_globals(server: Server, root: Path, inventory: Path, name: str, warnings: list[str]) -> Artifact:
    root.mkdir(0o700)
    with server.maintenance() as connection:
        roles = list(_in_use(server_globals.role_rows(connection), warnings))
        hashes = server_globals.passwords(connection)
        about = {"version": server.about.version, "passwords": hashes is not None} | server_globals.server_facts(connection)
        rows: Iterable[Row] = [("server", "server", about), *roles]
        write_rows(inventory, [*rows, *server_globals.tablespace_rows(connection)])
        server_globals.write_roles(root / "roles.jsonl", roles, hashes)
        database, encoding = connection.info.dbname, connection.info.parameter_status("server_encoding") or "UTF8"
    if hashes is None:
        warnings.append(f"Role passwords are not saved: user {server.about.user} may not read them. Set them again after a restore.")
    argv: list[str | Path] = [server.bin / "pg_dumpall", "--globals-only", "--no-password"]
    argv += [f"--dbname={server.target(database)}", *(["--no-role-passwords"] if hashes is None else [])]
    _save(server, argv, encoding, root / "globals.sql")
    return Artifact(name=name, root=str(root), bytes=folder_size(root))


def _save(server: Server, argv: Argv, encoding: str, file: Path) -> None:
    """Run a tool, and write down what it prints, for this user alone."""
    with written_in(file.parent), file.open("xb") as written:
        os.fchmod(written.fileno(), 0o600)
        with server.runner.tool(argv, env=server.environment(encoding), output=True) as tool:
            shutil.copyfileobj(tool.stdout, written)
