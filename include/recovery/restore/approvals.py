"""Approvals: the signed statement that a gate's answer becomes, and what every changing task checks before it changes."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from recovery.common.errors import ApprovalError
from recovery.common.files import write_atomically
from recovery.common.json_text import read_json
from recovery.crypto.signing import SigningKey, VerifyKey
from recovery.plan.field_types import Gate
from recovery.plan.model import Approvals


class Question(BaseModel):
    """What a gate asks, as it was when it was shown: signed then, so that nothing can be slipped under the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["question"] = "question"
    run_id: str
    gate: Gate
    set_id: str
    plan: str
    """SHA-256 of the plan."""
    request: str
    """SHA-256 of what was asked of the restore."""
    text: str
    """SHA-256 of the text that the gate showed."""
    targets: dict[str, str]
    """Identity of each source's target, as preflight found it."""
    left_out: dict[str, list[str]]
    """What can't be made of the set, by source, which the second gate is about; empty at the others."""
    checks: int
    """How often checks of the restored system had begun, which the last gate is about; 0 at the others."""

    def changed(self, now: Question) -> list[str]:
        """The names of the fields that are others now."""
        return [name for name, value in self if value != getattr(now, name)]


class Approval(BaseModel):
    """Who agreed to what: good for one gate of one run, for the findings shown and the targets named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["approval"] = "approval"
    question: Question
    approver: str
    answered: datetime


def digest(text: str) -> str:
    """SHA-256 of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def write_signed(path: Path, statement: Question | Approval, key: SigningKey) -> None:
    """Sign a question or an approval and keep it."""
    body = statement.model_dump_json()
    signature = base64.b64encode(key.sign(body.encode())).decode()
    write_atomically(path, json.dumps({"statement": body, "signature": signature}).encode())


def read_question(path: Path, key: VerifyKey) -> Question:
    """Read what a gate asked and check its signature.

    Raises:
        ApprovalError: if it was not asked, or is not signed by the key.
    """
    try:
        return Question.model_validate_json(_signed(path, key))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ApprovalError(f"What the gate {path.name.partition('.')[0]} asked can't be believed.", "Trigger a new restore.") from error


def read_approval(path: Path, key: VerifyKey) -> Approval:
    """Read an approval and check its signature.

    Raises:
        ApprovalError: if there is none, or it is not signed by the key.
    """
    try:
        return Approval.model_validate_json(_signed(path, key))
    except FileNotFoundError:
        raise ApprovalError(
            f"The gate {path.stem} was not approved by anyone: marking it as success does not open it.",
            "Trigger a new restore and let an approver answer its gates.",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ApprovalError(f"The approval of the gate {path.stem} is not one.", "Trigger a new restore.") from error


def _signed(path: Path, key: VerifyKey) -> str:
    signed = read_json(path.read_bytes())
    statement = str(signed["statement"])
    if not key.verifies(statement.encode(), base64.b64decode(signed["signature"])):
        raise ValueError("not signed by the key")
    return statement


def check_person(person: str, user_id: str, requester: str, approvals: Approvals) -> None:
    """Refuse an answer of somebody who may not approve. It counts as none, so the gate may ask again.

    Args:
        person: the user name of who answered, as the auth manager has it. No user may change their own.
        user_id: the id of who answered, as the auth manager has it.
        requester: the user name of who asked for the restore, as the auth manager has it.
        approvals: of the plan.

    Raises:
        ApprovalError: if the person is no approver of the plan, or is who asked for the restore.
    """
    if not any(approver.answers_as(person, user_id) for approver in approvals.approvers):
        who = person if user_id in {"", person} else f"{person} (id {user_id})"
        raise ApprovalError(f"{who} is no approver of this plan.", "Let one of the plan's approvers answer.", retryable=True)
    if person == requester:
        raise ApprovalError(f"{person} asked for this restore and can't approve it.", "Let another approver answer.", retryable=True)
