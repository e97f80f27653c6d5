"""The benchmark's measurements: one backup in each way, the memory of each step, one restore in each way."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recovery.common.connections import Endpoint
from recovery.sources.mongo.client import tool_config
from sandbox.bench.bed import APPROVER, MONGO, POSTGRES, Bed, Tasks, take
from sandbox.bench.processes import cpu_seconds

SOURCES = (POSTGRES, MONGO)


@dataclass
class Round:
    """What one backup took."""

    seconds: float
    parts: dict[str, float]
    """Seconds by part; parts of different sources overlap where they ran side by side."""
    cpu_seconds: float
    """Of all processes: tasks, tools and servers."""
    bytes: int = 0
    """Of what was kept."""
    parts_cpu: dict[str, float] = field(default_factory=dict)
    """Processor seconds by part, without the servers'."""


def script(bed: Bed, name: str) -> Round:
    """The usual script: pg_dump -Fc, mongodump, tar -czf of both, one after another."""
    folder = bed.folder / "script"
    with _cpu(bed) as cpu:
        parts = dict(dump_by_script(bed, name, folder / "backup"))
        parts["tar -czf"] = _run(["tar", "-czf", folder / "backup.tar.gz", f"--directory={folder}", "backup"])
    size = (folder / "backup.tar.gz").stat().st_size
    shutil.rmtree(folder)
    return Round(sum(parts.values()), parts, cpu[0], size)


def dump_by_script(bed: Bed, name: str, folder: Path) -> Iterator[tuple[str, float]]:
    """The script's dumps, and the seconds of each."""
    folder.mkdir(parents=True)
    yield "pg_dump -Fc", _postgres_tool(bed, "pg_dump", "-Fc", f"--file={folder / 'postgres.dump'}", f"--dbname={name}")
    yield "mongodump", _mongo_tool(bed, "mongodump", f"--db={name}", f"--out={folder / 'mongo'}")


def floor(bed: Bed, name: str) -> Round:
    """What the servers need to give their data away: pg_dump and mongodump into nothing, one after another."""
    with _cpu(bed) as cpu:
        parts = {
            "pg_dump -Fc -Z0": _postgres_tool(bed, "pg_dump", "-Fc", "-Z0", f"--dbname={name}"),
            "mongodump --archive": _mongo_tool(bed, "mongodump", f"--db={name}", "--archive"),
        }
    return Round(sum(parts.values()), parts, cpu[0])


def verified(bed: Bed, name: str) -> Round:
    """This project's path: dump, compress, verify of each source in a process of its own, side by side; then upload."""
    return _data_path(bed, name, "verify")


def not_verified(bed: Bed, name: str) -> Round:
    """The same without verify."""
    return _data_path(bed, name, "trust")


KINDS: Mapping[str, Callable[[Bed, str], Round]] = {"script": script, "verified": verified, "not verified": not_verified, "floor": floor}
"""The ways to back up that are measured in turns."""


def _data_path(bed: Bed, name: str, last: str) -> Round:
    chains, upload, run = _backup_tasks(bed, name, last)
    with _cpu(bed) as cpu:
        seconds = take(chains, [upload])
    parts: dict[str, float] = {}
    used: dict[str, float] = {}
    for what, tasks in zip((*SOURCES, "both"), (*chains, upload), strict=True):
        parts |= {f"{step.name} {what}": step.seconds for step in tasks.steps}
        used |= {f"{step.name} {what}": step.cpu_seconds for step in tasks.steps}
    size = sum(path.stat().st_size for path in bed.backups.rglob("*") if path.is_file())
    _end(bed, name, run)
    return Round(seconds, parts, cpu[0], size, used)


def _backup_tasks(bed: Bed, name: str, last: str, watch: bool = False) -> tuple[list[Tasks], Tasks, str]:
    run = bed.new_set()
    bed.backup(name, run).prepare("")
    os.sync()
    chains = [bed.tasks(name, run, f"dump:{source}", f"compress:{source}", f"{last}:{source}", watch=watch) for source in SOURCES]
    return chains, bed.tasks(name, run, "upload:local", watch=watch), run


def _end(bed: Bed, name: str, run: str, *, keep: bool = False) -> None:
    bed.backup(name, run).finish("")
    if not keep:
        shutil.rmtree(bed.backups / name)


def memory(bed: Bed, name: str) -> dict[str, dict[str, int]]:
    """Highest resident bytes of each step, one source after another.

    ``python`` is above a process that only imported, with the project's own helper processes; ``tools`` are pg_dump, tar and the like.
    """
    chains, upload, run = _backup_tasks(bed, name, "verify", watch=True)
    for tasks in (*chains, upload):
        take([tasks])
    _end(bed, name, run)
    return {
        f"{step.name} {what}": {"python": max(step.memory.python - tasks.idle, 0), "tools": step.memory.tools}
        for what, tasks in zip((*SOURCES, "both"), (*chains, upload), strict=True)
        for step in tasks.steps
    }


def restore(bed: Bed, name: str) -> dict[str, Any]:
    """A restore beside the live data, with its proof, against pg_restore and mongorestore of the script's dumps."""
    plain = _plain_restore(bed, name)
    chains, upload, run = _backup_tasks(bed, name, "verify")
    take(chains, [upload])
    _end(bed, name, run, keep=True)
    bed.restore(name, run).choose(APPROVER)
    os.sync()
    chains = [bed.tasks(name, run, f"stage:{source}", f"prove:{source}") for source in SOURCES]
    seconds = take(chains)
    parts = {f"{step.name} {source}": step.seconds for source, tasks in zip(SOURCES, chains, strict=True) for step in tasks.steps}
    bed.restore(name, run).discard("")
    shutil.rmtree(bed.backups / name)
    return {"plain": plain, "seconds": seconds, "parts": parts, "times_plain": seconds / sum(plain.values())}


def _plain_restore(bed: Bed, name: str) -> dict[str, float]:
    folder, target = bed.folder / "script", f"{name}_plain"
    dict(dump_by_script(bed, name, folder))
    os.sync()
    with bed.postgres.connect() as connection:
        connection.execute(f"CREATE DATABASE {target}".encode())
    renamed = [f"--nsFrom={name}.*", f"--nsTo={target}.*"]
    parts = {
        "pg_restore -j2": _postgres_tool(bed, "pg_restore", "-j2", f"--dbname={target}", folder / "postgres.dump"),
        "mongorestore": _mongo_tool(bed, "mongorestore", *renamed, folder / "mongo"),
    }
    with bed.postgres.connect() as connection:
        connection.execute(f"DROP DATABASE {target}".encode())
    with bed.mongo.client() as client:
        client.drop_database(target)
    shutil.rmtree(folder)
    return parts


def describe(bed: Bed, name: str) -> dict[str, Any]:
    """How much data there is."""
    with bed.postgres.connect(name) as connection:
        count = "SELECT sum(reltuples)::bigint FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        connection.execute("ANALYZE")
        size, rows = connection.execute(f"SELECT pg_database_size(current_database()), ({count})").fetchone() or (0, 0)
    with bed.mongo.client() as client:
        stats = client[name].command("dbStats")
    return {"postgres_bytes": size, "rows": rows, "mongo_bytes": round(stats["dataSize"]), "documents": stats["objects"]}


def _postgres_tool(bed: Bed, tool: str, *arguments: str | Path) -> float:
    environment = {"PGHOST": "127.0.0.1", "PGPORT": str(bed.postgres.port), "PGUSER": "postgres", "PGPASSWORD": bed.postgres.password}
    return _run([bed.postgres.bin / tool, *arguments], environment)


def _mongo_tool(bed: Bed, tool: str, *arguments: str | Path) -> float:
    endpoint = Endpoint("bench", "127.0.0.1", bed.mongo.port, "root", bed.mongo.password)
    with tool_config(endpoint, bed.folder) as config:
        return _run([bed.mongo_tools / tool, f"--config={config}", "--quiet", *arguments])


def _run(argv: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> float:
    """Seconds that a command takes; what it prints goes nowhere."""
    started = time.monotonic()
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    return time.monotonic() - started


@contextmanager
def _cpu(bed: Bed) -> Iterator[list[float]]:
    """Processor seconds of everything that this process and the servers started in a block, there once it has ended."""
    os.sync()
    before, used = _cpu_seconds(bed), [0.0]
    yield used
    time.sleep(0.3)  # PostgreSQL counts a session's once its process was waited for
    used[0] = round(_cpu_seconds(bed) - before, 2)


def _cpu_seconds(bed: Bed) -> float:
    """Of this process and what it waited for, and of the servers and theirs."""
    return sum(cpu_seconds(pid) for pid in (os.getpid(), bed.postgres.pid, bed.mongo.pid))
