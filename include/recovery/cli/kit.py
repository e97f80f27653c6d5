"""What a person brings along: the place, and as much of the recovery kit as there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage

from recovery.cli.place import open_place
from recovery.common.errors import KeyMaterialError
from recovery.crypto.recipients import IDENTITY_FILE
from recovery.crypto.signing import VerifyKey
from recovery.sets.find_sets import Unchecked
from recovery.sets.key_ring import Kit


@dataclass(frozen=True)
class Answer:
    """What a command found out."""

    facts: dict[str, Any]
    """For ``--json``."""
    lines: Sequence[str]
    """For people; whoever prints them escapes what can't be printed."""
    status: int = 0


def open_kit(place: str, endpoint_url: str | None, public_key: Path | None, identity: Path | None, plan: str | None) -> Kit:
    """Read what was given.

    Raises:
        KeyMaterialError: if a file is not what it should be.
        PlanError: if the place is none.
    """
    key = VerifyKey.from_pem(_text(public_key)) if public_key else Unchecked()
    identities = _identities(identity) if identity else []
    return Kit(open_place(place, endpoint_url), key, identities, plan)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyMaterialError(f"{path} can't be read: {error}.", "Name a file of the recovery kit.") from None


def _identities(path: Path) -> list[pyrage.x25519.Identity]:
    lines = [line.strip() for line in _text(path).splitlines() if line.startswith("AGE-SECRET-KEY-1")]
    try:
        found = [pyrage.x25519.Identity.from_str(line) for line in lines]
    except pyrage.IdentityError:
        found = []
    if not found:
        raise KeyMaterialError(f"{path} has no age identity.", f"Take {IDENTITY_FILE} of the recovery kit.")
    return found
