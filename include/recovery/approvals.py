"""Approvals: the signed statement that a gate's answer becomes, and what every changing task checks before it changes."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from recovery.errors import ApprovalError
from recovery.keys import SigningKey, VerifyKey
from recovery.plan import Approvals
from recovery.staging import write_atomically

Gate = Literal["plan", "switch", "accept"]


class Approval(BaseModel):
    """Who agreed to what: good for one gate of one run, for the findings shown and the targets named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["approval"] = "approval"
    run_id: str
    plan: str
    plan_digest: str
    """SHA-256 of the plan as it was when the gate was shown."""
    set_id: str
    gate: Gate
    shown_digest: str
    """SHA-256 of the text that the gate showed."""
    targets: dict[str, str]
    """Identity of each source's target, as preflight found it."""
    approver: str
    answered: datetime


def digest(text: str) -> str:
    """SHA-256 of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def write_approval(path: Path, approval: Approval, key: SigningKey) -> None:
    """Sign an approval and keep it."""
    body = approval.model_dump_json()
    signature = base64.b64encode(key.sign(body.encode())).decode()
    write_atomically(path, json.dumps({"approval": body, "signature": signature}).encode())


def read_approval(path: Path, key: VerifyKey) -> Approval:
    """Read an approval and check its signature.

    Raises:
        ApprovalError: if there is none, or it is not signed by the key.
    """
    try:
        signed = json.loads(path.read_bytes())
        if not key.verifies(signed["approval"].encode(), base64.b64decode(signed["signature"])):
            raise ValueError("not signed by the key")
        return Approval.model_validate_json(signed["approval"])
    except FileNotFoundError:
        raise ApprovalError(
            f"The gate {path.stem} was not approved by anyone: marking it as success does not open it.",
            "Trigger a new restore and let an approver answer its gates.",
        ) from None
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ApprovalError(f"The approval of the gate {path.stem} is not one.", "Trigger a new restore.") from error


def check_person(person: str, requester: str, approvals: Approvals) -> None:
    """Refuse an answer of somebody who may not approve.

    Raises:
        ApprovalError: if the person is no approver of the plan, or is who asked for the restore.
    """
    if person not in {approver.id for approver in approvals.approvers}:
        raise ApprovalError(f"{person} is no approver of this plan.", "Let one of the plan's approvers answer.")
    if person == requester:
        raise ApprovalError(f"{person} asked for this restore and can't approve it.", "Let another approver answer.")
