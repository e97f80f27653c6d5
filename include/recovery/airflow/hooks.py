"""What is behind the button *Test* of this project's Connection types. Tasks read these Connections without a hook."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pyrage
from airflow.sdk import BaseHook

from recovery.airflow.connections import from_airflow
from recovery.common.connections import Endpoint
from recovery.common.errors import RecoveryError
from recovery.crypto.recipients import parse_identity
from recovery.crypto.signing import SigningKey

_MESSAGE = b"Airflow asks whether this key can be used"


class _KeyHook(BaseHook):
    """A Connection whose password is a key."""

    conn_name_attr = "conn_id"
    default_conn_name: ClassVar[str]
    conn_type: ClassVar[str]
    hook_name: ClassVar[str]

    def __init__(self, conn_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id

    def get_conn(self) -> Endpoint:
        """The Connection as tasks see it.

        Raises:
            ConnectionUnusable: if there is none.
        """
        return from_airflow(self.conn_id)

    def test_connection(self) -> tuple[bool, str]:
        """Whether the key can be used, and what to compare with the plan or the recovery kit."""
        try:
            return True, self.use(replace(self.get_conn(), id="under test"))  # Airflow tests it under a random id
        except RecoveryError as error:
            return False, str(error)

    def use(self, endpoint: Endpoint) -> str:
        """Do once with the key what it is for, and tell the public half.

        Raises:
            KeyMaterialError: if it is not such a key.
        """
        raise NotImplementedError


class IdentityHook(_KeyHook):
    """The age identity that opens the sets of a plan."""

    conn_type = "recovery_identity"
    hook_name = "Recovery: age identity"
    default_conn_name = "openmanus_backup_identity"

    def use(self, endpoint: Endpoint) -> str:
        """Seal and open a message."""
        identity = parse_identity(endpoint)
        recipient = identity.to_public()
        assert pyrage.decrypt(pyrage.encrypt(_MESSAGE, [recipient]), [identity]) == _MESSAGE
        return f"A message was sealed and opened. The plan's encryption.recipients must have {recipient}"


class SigningHook(_KeyHook):
    """The Ed25519 key that signs the sets of a plan."""

    conn_type = "recovery_signing"
    hook_name = "Recovery: signing key"
    default_conn_name = "openmanus_backup_signing"

    def use(self, endpoint: Endpoint) -> str:
        """Sign and verify a message."""
        key = SigningKey.from_endpoint(endpoint)
        assert key.verify_key.verifies(_MESSAGE, key.sign(_MESSAGE))
        return f"A message was signed and verified. Its public key has the fingerprint {key.verify_key.fingerprint}; compare public.pem."
