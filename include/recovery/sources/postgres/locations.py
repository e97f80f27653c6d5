"""Where a restore puts databases: what that replaces, what is there already, and the room for a second copy."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from recovery.common.errors import RestoreError
from recovery.common.units import human_size
from recovery.plan.location import Location
from recovery.sources.model import Space
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.definitions import catalog
from recovery.sources.postgres.targets import Target

_ALWAYS_THERE = {("schema", "public"), ("extension", "plpgsql"), ("comment", "schema public")}


def location_of(server: Server, database: str) -> Location:
    """A database, below the system identifier of its server; see :data:`recovery.plan.location.Location`."""
    return ("postgres", server.about.system, database)


def of_databases(server: Server, chosen: Sequence[Target]) -> set[Location]:
    """Every database that is replaced; see :meth:`recovery.sources.base.Restorer.locations`."""
    return {location_of(server, target.name) for target in chosen}


def occupied_locations(server: Server, chosen: Sequence[Target]) -> dict[Location, str]:
    """The databases that are there and not empty; see :meth:`recovery.sources.base.Restorer.occupied_locations`."""
    known = server.databases()
    return {
        location_of(server, target.name): f"database {target.name}, {_size(server, target.name)}"
        for target in chosen
        if target.name in known and (not known[target.name] or _has_something(server, target.name))
    }


def _size(server: Server, database: str) -> str:
    with server.maintenance() as connection, translated_errors(f"Asking for the size of {database}", RestoreError):
        row = connection.execute("SELECT pg_database_size(%s)", [database]).fetchone()
    assert row is not None
    return human_size(row[0])


def _has_something(server: Server, database: str) -> bool:
    with server.connect(database) as connection, translated_errors(f"Looking into database {database}", RestoreError):
        if connection.execute("SELECT oid FROM pg_largeobject_metadata LIMIT 1").fetchone():
            return True
        return any((kind, name) not in _ALWAYS_THERE for kind, name, _ in catalog.object_rows(connection))


def second_copy(server: Server, connection: Connection, needs: Iterable[tuple[Target, int]]) -> Iterator[Space]:
    """What databases, or parts of them, need beside the live ones, by tablespace, and their load in the server's log (WAL).

    Args:
        server: of the target.
        connection: to it.
        needs: bytes for each.
    """
    by_tablespace: dict[str, int] = {}
    freed: Counter[str] = Counter()
    for target, size in needs:
        by_tablespace[target.facts["tablespace"]] = by_tablespace.get(target.facts["tablespace"], 0) + size
        freed.update(_freed(connection, target) if target.in_place else {})
    if by_tablespace:
        by_tablespace["pg_default"] = by_tablespace.get("pg_default", 0) + _log(server, connection, sum(by_tablespace.values()))
    for tablespace, needed in by_tablespace.items():
        folder = _folder(server, connection, tablespace)
        where = f"the server of {server.endpoint.id}" + ("" if tablespace == "pg_default" else f", tablespace {tablespace}")
        free = shutil.disk_usage(folder).free if folder else None
        yield Space(where, needed, free, str(folder) if folder else None, freed[tablespace])


def has_room(server: Server, connection: Connection, chosen: Sequence[Target]) -> bool:
    """Whether there is known to be room for databases beside the live ones, and a quarter to spare for what the live ones write.

    Args:
        server: of the target.
        connection: to it.
        chosen: the databases.
    """
    spaces = second_copy(server, connection, ((target, int(target.snapshot["bytes"])) for target in chosen))
    return all(space.free is not None and space.free > space.needed + space.needed // 4 for space in spaces)


def _log(server: Server, connection: Connection, load: int) -> int:
    """Bytes that the log of a load adds: a server without room for them stops. Beyond ``max_wal_size``, files of the log are used again.

    Args:
        server: of the target.
        connection: to it.
        load: bytes that are loaded.
    """
    folder = _folder(server, connection, "pg_default")
    if folder and (folder / "pg_wal").stat().st_dev != folder.stat().st_dev:  # on a disk of its own
        return 0
    query = """SELECT setting::bigint << 20, has_function_privilege('pg_ls_waldir()', 'EXECUTE')
        FROM pg_settings WHERE name = 'max_wal_size'"""
    row = connection.execute(query).fetchone()
    assert row is not None
    most, may_look = row
    there = connection.execute("SELECT size FROM pg_ls_waldir()").fetchall() if may_look else []
    return max(0, min(int(most), load) - sum(int(size) for (size,) in there))


def _freed(connection: Connection, target: Target) -> dict[str, int]:
    """The size of the live database, by its tablespace."""
    query = """SELECT spcname, pg_database_size(d.oid) FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace
        WHERE datname = %s"""
    return dict(connection.execute(query, [target.name]).fetchall())


def _folder(server: Server, connection: Connection, tablespace: str) -> Path | None:
    """The folder of a tablespace, if the server runs on this machine and the folder can be seen from here."""
    if not server.endpoint.on_this_machine:
        return None
    row = connection.execute("SELECT setting FROM pg_settings WHERE name = 'data_directory'").fetchone()
    if row is None:  # only members of pg_read_all_settings see it
        return None
    data = folder = Path(row[0])
    if tablespace != "pg_default":
        row = connection.execute("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = %s", [tablespace]).fetchone()
        folder = Path(row[0]) if row else data
    return folder if os.access(folder, os.F_OK) and _is_of(data, server.about.system) else None


def _is_of(data: Path, system: str) -> bool:
    """Whether a data folder is that of a server, and not of another one whose port leads into a container; if it can be read."""
    try:
        with (data / "global/pg_control").open("rb") as control:
            return int.from_bytes(control.read(8), "little") == int(system)
    except PermissionError:
        return True
    except OSError:
        return False
