"""Create a plan's keys, and the recovery kit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyrage

from recovery.common.errors import KeyMaterialError
from recovery.common.units import iso
from recovery.crypto.recipients import IDENTITY_FILE
from recovery.crypto.signing import PUBLIC_FILE, SIGNING_FILE, SigningKey, VerifyKey

CONNECTIONS_FILE = "connections.json"


@dataclass(frozen=True)
class CreatedKeys:
    """What :func:`create_keys` made; nothing of it is secret but the files' content."""

    folder: Path
    recipient: str
    """For ``encryption.recipients`` of the plan."""
    verify_key: VerifyKey
    identity_connection: str
    signing_connection: str


def create_keys(folder: Path, prefix: str) -> CreatedKeys:
    """Write a new recovery kit into a folder: identity, signing key, its public key, and Connections to import.

    Everything but the public key gets mode 0600.

    Args:
        folder: made if it isn't there, with mode 0700.
        prefix: begins the ids of the Connections: ``<prefix>_backup_identity``, ``<prefix>_backup_signing``.

    Raises:
        KeyMaterialError: if one of the files is already there, or can't be written.
    """
    identity = pyrage.x25519.Identity.generate()
    signing = SigningKey.generate()
    created = CreatedKeys(folder, str(identity.to_public()), signing.verify_key, f"{prefix}_backup_identity", f"{prefix}_backup_signing")
    lines = [f"# created: {iso(datetime.now(UTC).replace(microsecond=0))}", f"# public key: {created.recipient}", str(identity)]
    connections = {
        created.identity_connection: {
            "conn_type": "recovery_identity",
            "description": "age identity: opens the backups",
            "password": str(identity),
        },
        created.signing_connection: {
            "conn_type": "recovery_signing",
            "description": "Ed25519 key: signs the backups",
            "password": signing.line,
        },
    }
    files = {
        IDENTITY_FILE: ("\n".join(lines) + "\n").encode(),
        SIGNING_FILE: signing.pem,
        PUBLIC_FILE: signing.verify_key.pem,
        CONNECTIONS_FILE: json.dumps(connections, indent=2).encode(),
    }
    _refuse_to_overwrite(folder, files)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in files.items():
            _write_new(folder / name, content, 0o644 if name == PUBLIC_FILE else 0o600)
    except OSError as error:
        raise KeyMaterialError(
            f"The keys could not be written: {error}.", "Name a folder that can be written, and is not in use."
        ) from error
    return created


def _refuse_to_overwrite(folder: Path, names: Iterable[str]) -> None:
    there = [name for name in names if os.path.lexists(folder / name)]
    if there:
        raise KeyMaterialError(
            f"{folder} already has {', '.join(there)}; keys are never overwritten, since the sets made with them would be lost.",
            "Name another folder.",
        )


def _write_new(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
