"""Ed25519 signatures: the key that signs, and the key that verifies.

The signing key is kept in an Airflow Connection, as a password of one line: the one between ``BEGIN`` and ``END`` of its PEM file. The
whole file is understood too, also without its line breaks: a browser's password field drops them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from recovery.common.connections import Endpoint
from recovery.common.errors import KeyMaterialError

SIGNATURE_BYTES = 64
"""Length of an Ed25519 signature (RFC 8032)."""
SIGNING_FILE = "signing.pem"
PUBLIC_FILE = "public.pem"


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
        return _body(self.pem.decode())

    def sign(self, data: bytes) -> bytes:
        """The signature of these bytes, 64 bytes."""
        return self._key.sign(data)


def _body(text: str) -> str:
    """A PEM file's base64: what is between its ``BEGIN`` and ``END``, or all of a text that has neither."""
    return "".join(re.sub(r"-----(BEGIN|END) [A-Z ]{1,40}-----", "", text).split())


def _der(text: str) -> bytes:
    try:
        return base64.b64decode(_body(text), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
