"""Reading the rows of a database as COPY text, several tables at a time, for the same digests as an artifact's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from psycopg.sql import SQL, Composed, Identifier

from recovery.common.errors import VerificationError
from recovery.common.progress import Progress
from recovery.packs.content_index import Facts
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.dump.archive import LargeObjects
from recovery.sources.postgres.dump.copy_text import LongLine, TableText, blocks_of, lines

_TABLE_ENDS = b"\\."
_LARGE_OBJECT_PART = 1 << 20


def table_texts(server: Server, database: str, encoding: str, tables: Mapping[str, Facts], jobs: int) -> dict[str, Facts]:
    """Count, digest and size of tables, by name as the catalogs quote it, with the columns and order of ``copy``.

    A table that is not there is left out.

    Raises:
        ToolError: if a table can't be read.
        VerificationError: if the server refuses, or psql gave fewer tables than were asked for.
    """
    with server.connect(database) as connection, translated_errors(f"Preparing to read the tables of {database}", VerificationError):
        rows = connection.execute("SELECT name FROM unnest(%s::text[]) name WHERE to_regclass(name) IS NOT NULL", [list(tables)]).fetchall()
        statements = {name: _copy(name, tables[name]).as_string(connection) for (name,) in rows}
        scripts = []
        for group in _shared_out(list(statements), tables, jobs):
            text = "".join(f"{statements[name]};\n\\echo '\\\\.'\n" for name in group)
            row = connection.execute("SELECT convert_to(%s, %s)", [text, encoding]).fetchone()
            assert row is not None
            scripts.append((group, row[0]))
    progress = Progress(f"comparing {database}", sum(facts.get("bytes", 0) for facts in tables.values()))

    def read(job: tuple[list[str], bytes]) -> dict[str, Facts]:
        group, script = job
        with tempfile.NamedTemporaryFile(suffix=".sql", dir=server.runner.scratch) as file:
            file.write(script)
            file.flush()
            argv: list[str | Path] = [
                server.bin / "psql",
                "--no-psqlrc",
                "--quiet",
                "--no-password",
                "--set=ON_ERROR_STOP=1",
                f"--file={file.name}",
            ]
            argv.append(f"--dbname={server.target(database)}")
            with server.runner.tool(argv, env=server.environment(encoding), output=True) as psql:
                found = dict(zip(group, texts_of(progress.counted(blocks_of(psql.stdout))), strict=False))
        if len(found) != len(group):
            raise VerificationError(
                f"Only {len(found)} of {len(group)} tables of {database} could be read.", "See psql's messages above; verify again."
            )
        return found

    with ThreadPoolExecutor(jobs) as pool:
        return {name: facts for found in pool.map(read, scripts) for name, facts in found.items()}


def _copy(name: str, facts: Facts) -> Composed:
    columns = SQL(", ").join(map(Identifier, facts["copy"] or ()))
    table = SQL(name)
    if facts.get("filter"):
        return SQL("COPY (SELECT {} FROM {} {}) TO STDOUT").format(columns, table, SQL(facts["filter"]))
    if facts["copy"]:
        return SQL("COPY {} ({}) TO STDOUT").format(table, columns)
    return SQL("COPY {} TO STDOUT").format(table)


def _shared_out(names: list[str], tables: Mapping[str, Facts], jobs: int) -> list[list[str]]:
    """Tables in as many groups as there are jobs, about equally large."""
    groups: list[list[str]] = [[] for _ in range(jobs)]
    loads = [0] * jobs
    for name in sorted(names, key=lambda name: -tables[name].get("bytes", 0)):
        lightest = loads.index(min(loads))
        groups[lightest].append(name)
        loads[lightest] += tables[name].get("bytes", 0) + 1000
    return [group for group in groups if group]


def texts_of(blocks: Iterable[bytes]) -> Iterator[Facts]:
    """Facts of each table of a stream in which every table is followed by a line that no row can be."""
    text = TableText()
    for found in lines(blocks):
        if isinstance(found, LongLine):
            text.add(found)
            continue
        start = 0
        for end in (place for place, line in enumerate(found) if line == _TABLE_ENDS) if _TABLE_ENDS in found else ():
            text.add(found[start:end])
            yield text.facts()
            text, start = TableText(), end + 1
        text.add(found[start:] if start else found)


def large_object_digest(connection: Connection) -> str:
    """Digest over the content of all large objects, each read in parts of 1 MiB."""
    large_objects = LargeObjects()
    with (
        translated_errors(f"Reading the large objects of {connection.info.dbname}", VerificationError),
        connection.cursor("contents", binary=True) as cursor,
    ):
        cursor.itersize = 16
        query = "SELECT oid::bigint, lo_get(oid, 0, %s) FROM pg_largeobject_metadata ORDER BY oid"
        for oid, first in cursor.execute(query, [_LARGE_OBJECT_PART]):
            large_objects.read(oid, _parts(connection, oid, first))
    return large_objects.content.hexdigest()


def _parts(connection: Connection, oid: int, part: bytes) -> Iterator[bytes]:
    offset = 0
    while part:
        yield part
        offset += len(part)
        if len(part) < _LARGE_OBJECT_PART:
            return
        row = connection.execute("SELECT lo_get(%s::oid, %s, %s)", [oid, offset, _LARGE_OBJECT_PART], binary=True).fetchone()
        assert row is not None
        part = row[0]
