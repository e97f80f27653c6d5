"""The two secrets of a plan: the age identity that opens its sets, and the Ed25519 key that signs them.

Both are kept in Airflow Connections, as passwords of one line: the ``AGE-SECRET-KEY-1…`` line of the identity, and the
line between ``BEGIN`` and ``END`` of the signing key's PEM file. The whole files are understood too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyrage
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from recovery.connections import Endpoint
from recovery.errors import KeyMaterialError
from recovery.units import iso

SIGNATURE_BYTES = 64
"""Length of an Ed25519 signature (RFC 8032)."""

IDENTITY_FILE = "identity.txt"
SIGNING_FILE = "signing.pem"
PUBLIC_FILE = "public.pem"
CONNECTIONS_FILE = "connections.json"


def parse_identity(endpoint: Endpoint) -> pyrage.x25519.Identity:
    """The age identity in a Connection's password.

    Raises:
        KeyMaterialError: if there is none.
    """
    lines = [word for word in endpoint.password.split() if word.startswith("AGE-SECRET-KEY-1")]
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


class VerifyKey:
    """The public half: tells whether something was signed."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key

    @classmethod
    def from_pem(cls, text: str) -> VerifyKey:
        """Read ``public.pem``, or only the line between its ``BEGIN`` and ``END``.

        Raises:
            KeyMaterialError: if it is not an Ed25519 public key.
        """
        try:
            key = serialization.load_der_public_key(_der(text))
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise KeyMaterialError("This is not an Ed25519 public key in PEM.", f"Take {PUBLIC_FILE} of the recovery kit.")
        return cls(key)

    @property
    def pem(self) -> bytes:
        """The key as ``public.pem`` has it."""
        return self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the key's DER, for messages."""
        der = self._key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(der).hexdigest()[:16]

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """Whether the signature was made of these bytes with this key's private half."""
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """The private half: signs. ``repr`` shows nothing of it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_endpoint(cls, endpoint: Endpoint) -> SigningKey:
        """The signing key in a Connection's password.

        Raises:
            KeyMaterialError: if there is none.
        """
        try:
            key = serialization.load_der_private_key(_der(endpoint.password), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyMaterialError(
                f"The password of the Connection {endpoint.id!r} is not an Ed25519 private key.",
                f"Put the line between BEGIN and END of {SIGNING_FILE} of the recovery kit there.",
            )
        return cls(key)

    @property
    def verify_key(self) -> VerifyKey:
        """The public half."""
        return VerifyKey(self._key.public_key())

    @property
    def pem(self) -> bytes:
        """The key as ``signing.pem`` has it: PKCS #8, not encrypted."""
        return self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    @property
    def line(self) -> str:
        """The key as a Connection's password."""
        return "".join(_body(self.pem.decode()))

    def sign(self, data: bytes) -> bytes:
        """The signature of these bytes, 64 bytes."""
        return self._key.sign(data)


def _body(text: str) -> Iterable[str]:
    return (line.strip() for line in text.strip().splitlines() if not line.startswith("-----"))


def _der(text: str) -> bytes:
    try:
        return base64.b64decode("".join(_body(text)), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


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
        created.identity_connection: {"conn_type": "generic", "description": "age identity: opens the backups", "password": str(identity)},
        created.signing_connection: {"conn_type": "generic", "description": "Ed25519 key: signs the backups", "password": signing.line},
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
