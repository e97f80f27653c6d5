"""Age: the identity that opens a plan's sets, and the recipients that they are encrypted to.

The identity is kept in an Airflow Connection, as a password of one line: the ``AGE-SECRET-KEY-1…`` line. The whole file is
understood too, also without its line breaks: a browser's password field drops them.
"""

from __future__ import annotations

import hashlib
import re

import pyrage

from recovery.common.connections import Endpoint
from recovery.common.errors import KeyMaterialError

IDENTITY_FILE = "identity.txt"


def parse_identity(endpoint: Endpoint) -> pyrage.x25519.Identity:
    """The age identity in a Connection's password.

    Raises:
        KeyMaterialError: if there is none.
    """
    lines = re.findall(r"AGE-SECRET-KEY-1[0-9A-Z]+", endpoint.password)
    try:
        if len(lines) == 1:
            return pyrage.x25519.Identity.from_str(lines[0])
    except pyrage.IdentityError:
        lines = []
    raise KeyMaterialError(
        f"The Connection {endpoint.id!r} has {'several' if lines else 'no'} age identities as its password.",
        f"Put the one line that begins with AGE-SECRET-KEY-1 there, from {IDENTITY_FILE} of the recovery kit.",
    )


def recipient_fingerprint(recipient: str) -> str:
    """16 hexadecimal digits of the SHA-256 of an age recipient's text.

    Sets carry this and not the recipient: a public key that nobody can read can't be attacked later.
    """
    return hashlib.sha256(recipient.encode()).hexdigest()[:16]
