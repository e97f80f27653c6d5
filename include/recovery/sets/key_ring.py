"""The keys that sets are opened with, without a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import pyrage

from recovery.common.errors import KeyMaterialError
from recovery.crypto.recipients import recipient_fingerprint
from recovery.crypto.signing import VerifyKey
from recovery.packs.pack import Identity
from recovery.sets.find_sets import Unchecked
from recovery.sets.manifest import Manifest


@dataclass(frozen=True)
class KeyRing:
    """As much of a recovery kit as there is."""

    public: VerifyKey
    """Checks signatures; :class:`recovery.sets.find_sets.Unchecked` where nobody gave one."""
    identities: Sequence[pyrage.x25519.Identity] = ()
    """Of which one may open a set."""

    @property
    def checked(self) -> bool:
        """Whether signatures are checked."""
        return not isinstance(self.public, Unchecked)

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
