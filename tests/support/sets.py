"""Sets as staging has them, without real databases: the packs hold random bytes, everything around them is real."""

import contextlib
import hashlib
import os
import random
import secrets
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recovery.crypto.signing import SigningKey
from recovery.destinations.s3 import S3
from recovery.sets.layout import CONTENTS_FILE, INSTRUCTIONS_FILE, PACKS_FILE, new_set_id, pack_path
from recovery.sets.manifest import File, Files, Manifest, SourceEntry, StoredPack, Totals, describe_file, skew, write_manifest, write_packs
from recovery.sources.model import RecoveryPoint

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
KEY = SigningKey.generate()
NOTHING = File(bytes=0, sha256=hashlib.sha256(b"").hexdigest())


def source(
    opened: datetime = NOW, closed: datetime | None = None, consistency="snapshot", level="decoded", warnings=(), packs=1, stored=10
):
    return SourceEntry(
        level=level,
        point=RecoveryPoint(opened=opened, closed=closed or opened + timedelta(minutes=1)),
        consistency=consistency,
        warnings=warnings,
        totals=Totals(artifacts=1, packs=packs, raw_bytes=stored, stored_bytes=stored),
    )


def manifest(created: datetime = NOW, plan="openmanus", missing=None, files=None, sources=None, run_id=None, **changes) -> Manifest:
    run_id = run_id or f"run {secrets.token_hex(4)}"
    sources = sources or {
        "postgres.main": source(created - timedelta(minutes=5), **{k: changes.pop(k) for k in ("level",) if k in changes})
    }
    return Manifest(
        plan=plan,
        set_id=changes.pop("set_id", None) or new_set_id(created, run_id),
        run_id=run_id,
        created=created,
        sources=sources,
        missing=missing or {},
        complete=not missing,
        skew_seconds=skew(sources),
        files=files or Files(contents=NOTHING, instructions=NOTHING, packs=NOTHING),
        recipients=("0123456789abcdef",),
        **changes,
    )


def make_set(
    staging: Path, created: datetime = NOW, sizes=(1000, 2000, 3000), key: SigningKey = KEY, seed=1, **changes
) -> tuple[Path, Manifest]:
    """A whole set in ``staging/<set id>``; its packs are those of one PostgreSQL source."""
    data = random.Random(seed)
    run_id = changes.pop("run_id", None) or f"run {secrets.token_hex(4)}"
    folder = staging / new_set_id(created, run_id)
    packs = []
    for number, size in enumerate(sizes):
        path = folder / pack_path("postgres.main", f"shop.{number:03d}.tar.zst.age")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.randbytes(size))
        there = describe_file(path)
        packs.append(
            StoredPack(
                source="postgres.main",
                artifact="shop",
                number=number,
                file=path.relative_to(folder).as_posix(),
                raw_bytes=size * 3,
                stored_bytes=there.bytes,
                sha256=there.sha256,
            )
        )
    write_packs(folder / PACKS_FILE, packs)
    (folder / CONTENTS_FILE).write_bytes(data.randbytes(500))
    (folder / INSTRUCTIONS_FILE).write_text(f"# How to restore {folder.name}\n")
    files = Files(
        contents=describe_file(folder / CONTENTS_FILE),
        instructions=describe_file(folder / INSTRUCTIONS_FILE),
        packs=describe_file(folder / PACKS_FILE),
    )
    sources = changes.pop("sources", None) or {"postgres.main": source(created, packs=len(packs), stored=sum(sizes))}
    return folder, write_manifest(folder, manifest(created, run_id=run_id, files=files, sources=sources, **changes), key)


def s3_destination(server) -> S3:
    """An empty place of a running server: one bucket for all, since each takes several of its volumes, and a new prefix."""
    client = server.client()
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        client.create_bucket(Bucket="sets-at-rest")
    return S3("offsite", client, "sets-at-rest", f"prod-{secrets.token_hex(4)}")


def put(destination, key: str, data: bytes, folder: Path) -> None:
    path = folder / secrets.token_hex(8)
    path.write_bytes(data)
    destination.put(path, key, hashlib.sha256(data).hexdigest(), lambda count: None)
    path.unlink()


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def keys_of(destination, prefix="") -> set[str]:
    return {entry.key for entry in destination.list(prefix)}


def run_python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, which may be killed or limited."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | environment
    argv = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(argv, check=False, capture_output=True, text=True, env=environ)
