"""What stock tools take: the usual script, a plain restore, and the floor."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from recovery.common.connections import Endpoint
from recovery.sources.mongo.client import tool_config
from sandbox.bench.bed import Bed
from sandbox.bench.processes import Spent, tree_cpu_seconds
from sandbox.bench.rounds import Round, made_of
from sandbox.servers import Server


def script(bed: Bed, name: str) -> Round:
    """The usual script: pg_dump -Fc, mongodump, tar -czf of both, one after another."""
    folder = bed.folder / "script"
    os.sync()
    parts = dict(dump_by_script(bed, name, folder / "backup"))
    parts["tar -czf"] = _run(["tar", "-czf", folder / "backup.tar.gz", f"--directory={folder}", "backup"])
    size = (folder / "backup.tar.gz").stat().st_size
    shutil.rmtree(folder)
    return made_of(parts, size=size)


def dump_by_script(bed: Bed, name: str, folder: Path) -> Iterator[tuple[str, Spent]]:
    """The script's dumps, and what each took."""
    folder.mkdir(parents=True)
    yield "pg_dump -Fc", _postgres_tool(bed, "pg_dump", "-Fc", f"--file={folder / 'postgres.dump'}", f"--dbname={name}")
    yield "mongodump", _mongo_tool(bed, "mongodump", f"--db={name}", f"--out={folder / 'mongo'}")


def floor(bed: Bed, name: str) -> Round:
    """What the servers need to give their data away: pg_dump and mongodump into nothing, one after another."""
    os.sync()
    return made_of(
        {
            "pg_dump -Fc -Z0": _postgres_tool(bed, "pg_dump", "-Fc", "-Z0", f"--dbname={name}"),
            "mongodump --archive": _mongo_tool(bed, "mongodump", f"--db={name}", "--archive"),
        }
    )


def plain_restore(bed: Bed, name: str) -> Round:
    """pg_restore and mongorestore of the script's dumps under another name, one after another."""
    folder, target = bed.folder / "script", f"{name}_plain"
    dict(dump_by_script(bed, name, folder))
    with bed.postgres.connect() as connection:
        connection.execute(f"CREATE DATABASE {target}".encode())
    renamed = [f"--nsFrom={name}.*", f"--nsTo={target}.*"]
    os.sync()
    parts = {
        "pg_restore -j2": _postgres_tool(bed, "pg_restore", "-j2", f"--dbname={target}", folder / "postgres.dump"),
        "mongorestore": _mongo_tool(bed, "mongorestore", *renamed, folder / "mongo"),
    }
    with bed.postgres.connect() as connection:
        connection.execute(f"DROP DATABASE {target}".encode())
    with bed.mongo.client() as client:
        client.drop_database(target)
    shutil.rmtree(folder)
    return made_of(parts)


def _postgres_tool(bed: Bed, tool: str, *arguments: str | Path) -> Spent:
    environment = {"PGHOST": "127.0.0.1", "PGPORT": str(bed.postgres.port), "PGUSER": "postgres", "PGPASSWORD": bed.postgres.password}
    return _run([bed.postgres.bin / tool, *arguments], environment, bed.postgres)


def _mongo_tool(bed: Bed, tool: str, *arguments: str | Path) -> Spent:
    endpoint = Endpoint("bench", "127.0.0.1", bed.mongo.port, "root", bed.mongo.password)
    with tool_config(endpoint, bed.folder) as config:
        return _run([bed.mongo_tools / tool, f"--config={config}", "--quiet", *arguments], server=bed.mongo)


def _run(argv: Sequence[str | Path], environment: Mapping[str, str] | None = None, server: Server | None = None) -> Spent:
    """What a command takes, and the server that it talks to; what it prints goes nowhere."""
    started, before = time.monotonic(), _cpu_so_far(server)
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    return Spent(time.monotonic() - started, _cpu_so_far(server) - before)


def _cpu_so_far(server: Server | None) -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime + (tree_cpu_seconds(server.pid) if server else 0)
