"""The benchmark's measurements: one backup in each way, the memory of each step, one restore in each way."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recovery.common.connections import Endpoint
from recovery.sources.mongo.client import tool_config
from sandbox.bench.bed import APPROVER, MONGO, POSTGRES, Bed, Tasks, take
from sandbox.bench.processes import Spent, cpu_seconds

SOURCES = (POSTGRES, MONGO)


@dataclass
class Round:
    """What one backup or restore took."""

    seconds: float
    parts: dict[str, float]
    """Seconds by part; parts of different sources overlap where they ran side by side."""
    cpu_seconds: float
    """Of all processes: tasks, tools and servers."""
    parts_cpu: dict[str, float]
    """Processor seconds by part, without the servers'."""
    bytes: int = 0
    """Of what was kept."""


def _round(seconds: float, parts: Mapping[str, Spent], servers_cpu: float, size: int = 0) -> Round:
    by_part = {name: spent.cpu_seconds for name, spent in parts.items()}
    total = round(servers_cpu + sum(by_part.values()), 2)
    return Round(seconds, {name: spent.seconds for name, spent in parts.items()}, total, by_part, size)


def _one_after_another(parts: Mapping[str, Spent], servers_cpu: float, size: int = 0) -> Round:
    return _round(sum(spent.seconds for spent in parts.values()), parts, servers_cpu, size)


def script(bed: Bed, name: str) -> Round:
    """The usual script: pg_dump -Fc, mongodump, tar -czf of both, one after another."""
    folder = bed.folder / "script"
    with _servers_cpu(bed) as used:
        parts = dict(dump_by_script(bed, name, folder / "backup"))
        parts["tar -czf"] = _run(["tar", "-czf", folder / "backup.tar.gz", f"--directory={folder}", "backup"])
    size = (folder / "backup.tar.gz").stat().st_size
    shutil.rmtree(folder)
    return _one_after_another(parts, used[0], size)


def dump_by_script(bed: Bed, name: str, folder: Path) -> Iterator[tuple[str, Spent]]:
    """The script's dumps, and what each took."""
    folder.mkdir(parents=True)
    yield "pg_dump -Fc", _postgres_tool(bed, "pg_dump", "-Fc", f"--file={folder / 'postgres.dump'}", f"--dbname={name}")
    yield "mongodump", _mongo_tool(bed, "mongodump", f"--db={name}", f"--out={folder / 'mongo'}")


def floor(bed: Bed, name: str) -> Round:
    """What the servers need to give their data away: pg_dump and mongodump into nothing, one after another."""
    with _servers_cpu(bed) as used:
        parts = {
            "pg_dump -Fc -Z0": _postgres_tool(bed, "pg_dump", "-Fc", "-Z0", f"--dbname={name}"),
            "mongodump --archive": _mongo_tool(bed, "mongodump", f"--db={name}", "--archive"),
        }
    return _one_after_another(parts, used[0])


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
    with _servers_cpu(bed) as used:
        seconds = take(chains, [upload])
    parts = _steps({**dict(zip(SOURCES, chains, strict=True)), "both": upload})
    size = sum(path.stat().st_size for path in bed.backups.rglob("*") if path.is_file())
    _end(bed, name, run)
    return _round(seconds, parts, used[0], size)


def _steps(taken: Mapping[str, Tasks]) -> dict[str, Spent]:
    return {f"{step.name} {what}": Spent(step.seconds, step.cpu_seconds) for what, tasks in taken.items() for step in tasks.steps}


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
    """A restore beside the live data, with its verification, against pg_restore and mongorestore of the script's dumps."""
    plain = _plain_restore(bed, name)
    chains, upload, run = _backup_tasks(bed, name, "verify")
    take(chains, [upload])
    _end(bed, name, run, keep=True)
    bed.restore(name, run).choose(APPROVER)
    chains = [bed.tasks(name, run, f"stage:{source}", f"verify_staged:{source}") for source in SOURCES]
    with _servers_cpu(bed) as used:
        seconds = take(chains)
    verified = _round(seconds, _steps(dict(zip(SOURCES, chains, strict=True))), used[0])
    bed.restore(name, run).discard("")
    shutil.rmtree(bed.backups / name)
    return {"rounds": {"with verification": asdict(verified), "plain": asdict(plain)}, "times_plain": seconds / plain.seconds}


def _plain_restore(bed: Bed, name: str) -> Round:
    folder, target = bed.folder / "script", f"{name}_plain"
    dict(dump_by_script(bed, name, folder))
    with bed.postgres.connect() as connection:
        connection.execute(f"CREATE DATABASE {target}".encode())
    renamed = [f"--nsFrom={name}.*", f"--nsTo={target}.*"]
    with _servers_cpu(bed) as used:
        parts = {
            "pg_restore -j2": _postgres_tool(bed, "pg_restore", "-j2", f"--dbname={target}", folder / "postgres.dump"),
            "mongorestore": _mongo_tool(bed, "mongorestore", *renamed, folder / "mongo"),
        }
    with bed.postgres.connect() as connection:
        connection.execute(f"DROP DATABASE {target}".encode())
    with bed.mongo.client() as client:
        client.drop_database(target)
    shutil.rmtree(folder)
    return _one_after_another(parts, used[0])


def describe(bed: Bed, name: str) -> dict[str, Any]:
    """How much data there is."""
    with bed.postgres.connect(name) as connection:
        count = "SELECT sum(reltuples)::bigint FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        connection.execute("ANALYZE")
        size, rows = connection.execute(f"SELECT pg_database_size(current_database()), ({count})").fetchone() or (0, 0)
    with bed.mongo.client() as client:
        stats = client[name].command("dbStats")
    return {"postgres_bytes": size, "rows": rows, "mongo_bytes": round(stats["dataSize"]), "documents": stats["objects"]}


def _postgres_tool(bed: Bed, tool: str, *arguments: str | Path) -> Spent:
    environment = {"PGHOST": "127.0.0.1", "PGPORT": str(bed.postgres.port), "PGUSER": "postgres", "PGPASSWORD": bed.postgres.password}
    return _run([bed.postgres.bin / tool, *arguments], environment)


def _mongo_tool(bed: Bed, tool: str, *arguments: str | Path) -> Spent:
    endpoint = Endpoint("bench", "127.0.0.1", bed.mongo.port, "root", bed.mongo.password)
    with tool_config(endpoint, bed.folder) as config:
        return _run([bed.mongo_tools / tool, f"--config={config}", "--quiet", *arguments])


def _run(argv: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Spent:
    """What a command takes; what it prints goes nowhere."""
    started, before = time.monotonic(), _children_cpu()
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    return Spent(time.monotonic() - started, round(_children_cpu() - before, 3))


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def _servers_cpu(bed: Bed) -> Iterator[list[float]]:
    """Processor seconds of the servers and of everything that they started in a block, there once it has ended."""
    os.sync()
    before, used = _servers_so_far(bed), [0.0]
    yield used
    time.sleep(0.3)  # PostgreSQL counts a session's once its process was waited for
    used[0] = _servers_so_far(bed) - before


def _servers_so_far(bed: Bed) -> float:
    return cpu_seconds(bed.postgres.pid) + cpu_seconds(bed.mongo.pid)
