"""The keys that sets are opened with, without a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pyrage

from recovery.common.errors import DestinationError, KeyMaterialError
from recovery.crypto.recipients import IDENTITY_FILE, recipient_fingerprint
from recovery.crypto.signing import PUBLIC_FILE, VerifyKey
from recovery.destinations.base import Destination
from recovery.packs.pack import Identity
from recovery.sets.find_sets import Unchecked
from recovery.sets.manifest import Manifest

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
    key: VerifyKey
    identities: Sequence[pyrage.x25519.Identity] = ()
    plan: str | None = None
    """Look at this plan's sets only."""

    @property
    def checked(self) -> bool:
        """Whether signatures are checked."""
        return not isinstance(self.key, Unchecked)

    def facts(self) -> dict[str, Any]:
        """What each command's JSON begins with."""
        return {"place": self.place.describe(), "signatures": "checked" if self.checked else "NOT CHECKED"}

    def heading(self) -> list[str]:
        """What each command's text begins with."""
        return [] if self.checked else [NOT_CHECKED, ""]

    @contextmanager
    def words(self) -> Iterator[None]:
        """A bucket's errors speak of Connections; here there are none."""
        try:
            yield
        except DestinationError as error:
            if not self.place.describe().startswith("s3://"):
                raise
            raise DestinationError(error.what, f"{error.next_step} {_KEYS}") from error

    def identity(self, manifest: Manifest) -> Identity:
        """The identity that opens a set.

        Raises:
            KeyMaterialError: if none of those that were given does.
        """
        for identity in self.identities:
            if _fingerprint(identity) in manifest.recipients:
                return cast(Identity, identity)
        raise KeyMaterialError(
            f"Set {manifest.set_id} was not encrypted to this identity, but to {', '.join(manifest.recipients)};"
            f" this is {', '.join(map(_fingerprint, self.identities))}.",
            "Take the identity of the kit that was in use when the set was made.",
        )


def _fingerprint(identity: pyrage.x25519.Identity) -> str:
    return recipient_fingerprint(str(identity.to_public()))
