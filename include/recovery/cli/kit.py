"""What a person brings along: the place, and as much of the recovery kit as there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage

from recovery.cli.place import open_place
from recovery.common.errors import DestinationError, KeyMaterialError
from recovery.crypto.recipients import IDENTITY_FILE
from recovery.crypto.signing import PUBLIC_FILE, VerifyKey
from recovery.destinations.base import Destination
from recovery.sets.find_sets import Unchecked
from recovery.sets.key_ring import KeyRing

NOT_CHECKED = (
    "SIGNATURES NOT CHECKED: whoever can write there may have made or changed these sets."
    f" Give --public-key {PUBLIC_FILE} of the recovery kit."
)
NOT_READ = f"CONTENTS NOT READ: only sizes and SHA-256 were compared. Give --identity {IDENTITY_FILE} of the recovery kit."

_KEYS = "Instead of a Connection, boto3 is asked here: the AWS_ variables of the environment, ~/.aws, --endpoint-url."


@dataclass(frozen=True)
class Kit:
    """A place with sets, and the keys that were given."""

    place: Destination
    keys: KeyRing
    plan: str | None = None
    """Look at this plan's sets only."""

    def facts(self) -> dict[str, Any]:
        """What each command's JSON begins with."""
        return {"place": self.place.describe(), "signatures": "checked" if self.keys.checked else "NOT CHECKED"}

    def heading(self) -> list[str]:
        """What each command's text begins with."""
        return [] if self.keys.checked else [NOT_CHECKED, ""]

    @contextmanager
    def words(self) -> Iterator[None]:
        """A bucket's errors speak of Connections; here there are none."""
        try:
            yield
        except DestinationError as error:
            if not self.place.describe().startswith("s3://"):
                raise
            raise DestinationError(error.what, f"{error.next_step} {_KEYS}") from error


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
        KeyMaterialError: if a file is not what it should be, or the public key lies at the place.
        PlanError: if the place is none.
    """
    if public_key and not place.startswith("s3://") and public_key.resolve().is_relative_to(Path(place).resolve()):
        raise KeyMaterialError(
            f"{public_key} lies at {place}: the key may be of whoever made the sets there.",
            f"Name {PUBLIC_FILE} of the recovery kit, and keep the kit elsewhere.",
        )
    key = VerifyKey.from_pem(_text(public_key)) if public_key else Unchecked()
    identities = _identities(identity) if identity else []
    return Kit(open_place(place, endpoint_url), KeyRing(key, identities), plan)


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
