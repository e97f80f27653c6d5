"""What a system holds, found out without the code that is to be verified: counts and digests from its own tools, before and after.

Each function returns ``{name: (count, digest)}``. Copies that a restore keeps beside the live data are left out.
"""

from __future__ import annotations

import hashlib
import json
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import bson
from psycopg import Connection, sql

from sandbox.sample import DATABASE, Mongo, Postgres

Fingerprints = dict[str, tuple[int, str]]

_KEPT_COLLECTIONS = ("__before_", "__stage_", "__replaced_")
_KEPT_FOLDERS = ".recovery-"

_RELATIONS = """
    SELECT n.nspname, c.relname, c.relkind::text
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm', 'S') AND n.nspname !~ '^pg_|__(before|stage|replaced)_[0-9a-f]{8}$' AND n.nspname <> 'information_schema'
    ORDER BY 1, 2
"""

_SCHEMA = {
    "columns": """
        SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
            pg_get_expr(adbin, adrelid), attacl::text, col_description(attrelid, attnum)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'm', 'v') AND relnamespace = 'public'::regnamespace""",
    "constraints": """
        SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "functions": """
        SELECT oid::regprocedure::text, pg_get_functiondef(oid), proacl::text
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace""",
    "indexes": """
        SELECT pg_get_indexdef(indexrelid), indisvalid
        FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relnamespace = 'public'::regnamespace""",
    "owners and grants": """
        SELECT relname, relowner::regrole::text, relacl::text, obj_description(oid, 'pg_class')
        FROM pg_class WHERE relkind IN ('r', 'm', 'v', 'S') AND relnamespace = 'public'::regnamespace""",
    "settings": """
        SELECT unnest(setconfig)
        FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase WHERE datname = current_database()""",
    "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "types": """
        SELECT typname, typtype, enumlabel, enumsortorder
        FROM pg_type LEFT JOIN pg_enum ON enumtypid = pg_type.oid WHERE typnamespace = 'public'::regnamespace""",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'",
}

_DIGEST = """
    SELECT count(*), md5(coalesce(string_agg(h, '' ORDER BY h), ''))
    FROM (SELECT md5(t::text) COLLATE "C" AS h FROM ({}) AS t) AS hashes
"""


def postgres(server: Postgres, database: str = DATABASE) -> Fingerprints:
    """Rows of every table and materialized view, the value of every sequence, and what the schema is made of."""
    found: Fingerprints = {}
    with closing(server.connect(database)) as connection:
        connection.execute("SET extra_float_digits = 1; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET bytea_output = 'hex'")
        for schema, name, kind in connection.execute(_RELATIONS).fetchall():
            columns = sql.SQL("last_value, is_called" if kind == "S" else "*")
            rows = sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier(schema, name))
            found[name] = _md5_of_rows(connection, rows)
        for part, query in _SCHEMA.items():
            found[f"({part})"] = _md5_of_rows(connection, sql.SQL(query))
    return found


def mongo(server: Mongo, database: str = DATABASE) -> Fingerprints:
    """Documents of every collection, and its indexes and options."""
    found: Fingerprints = {}
    with server.client() as client:
        for entry in sorted(client[database].list_collections(), key=lambda entry: str(entry["name"])):
            name = entry["name"]
            if name.startswith((*_KEPT_COLLECTIONS, "system.")):
                continue
            batches = cast("Iterable[bytes]", client[database][name].find_raw_batches({}))
            found[name] = _sorted_hashes(record for batch in batches for record in _records(batch))
            described: list[Mapping[str, Any]] = [{"options": entry["options"]}]
            if entry["type"] == "collection":
                described += client[database][name].list_indexes()
            found[f"{name} (indexes, options)"] = _sorted_hashes(bson.encode(part) for part in described)
    return found


def files(folder: Path) -> Fingerprints:
    """Entries of a folder by the name of their first folder: kind, mode, content, link target, and the time of files."""
    groups: dict[str, list[bytes]] = {}
    first_of: dict[tuple[int, int], str] = {}
    for path in _entries(folder):
        name = path.relative_to(folder)
        group = name.parts[0] if len(name.parts) > 1 or (path.is_dir() and not path.is_symlink()) else "(top)"
        groups.setdefault(group, []).append(_entry(path, str(name), first_of))
    return {name: _sorted_hashes(entries) for name, entries in sorted(groups.items())}


def config(folder: Path) -> Fingerprints:
    """``.env``, ``docker-compose.yml`` and ``custom``: kind, mode and content of each."""
    found: Fingerprints = {}
    for name in (".env", "docker-compose.yml", "custom"):
        path = folder / name
        entries = [path, *_entries(path)] if path.is_dir() else [path] if path.exists() else []
        if entries:
            found[name] = _sorted_hashes(_entry(entry, str(entry.relative_to(folder)), {}) for entry in entries)
    return found


def _md5_of_rows(connection: Connection, rows: sql.Composable) -> tuple[int, str]:
    answer = connection.execute(sql.SQL(_DIGEST).format(rows)).fetchone()
    assert answer is not None
    return answer[0], answer[1]


def _sorted_hashes(records: Iterable[bytes]) -> tuple[int, str]:
    hashes = sorted(hashlib.sha256(record).digest() for record in records)
    return len(hashes), hashlib.sha256(b"".join(hashes)).hexdigest()[:32]


def _records(batch: bytes) -> Iterator[bytes]:
    # BSON documents one after another, each with its length in its first four bytes
    position = 0
    while position < len(batch):
        (length,) = struct.unpack_from("<i", batch, position)
        yield batch[position : position + length]
        position += length


def _entries(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(_KEPT_FOLDERS):
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _entries(path)


def _entry(path: Path, name: str, first_of: dict[tuple[int, int], str]) -> bytes:
    status = path.lstat()
    told: list[object] = [name, stat.filemode(status.st_mode), status.st_uid, status.st_gid]
    if stat.S_ISLNK(status.st_mode):
        told.append(str(path.readlink()))
    elif stat.S_ISREG(status.st_mode):
        linked = first_of.setdefault((status.st_dev, status.st_ino), name)
        told += [status.st_mtime_ns, linked, hashlib.sha256(path.read_bytes()).hexdigest()]
    return json.dumps(told).encode()
