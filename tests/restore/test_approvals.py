import json
from datetime import UTC, datetime

import pytest

from recovery.common.errors import ApprovalError
from recovery.crypto.signing import SigningKey
from recovery.plan.model import Approvals
from recovery.restore.approvals import Approval, Question, check_person, digest, read_approval, read_question, write_signed

KEY = SigningKey.generate()
QUESTION = Question(
    run_id="run 1",
    gate="plan",
    set_id="20261123T010000Z-4f2a",
    plan="a",
    request="b",
    text="c",
    targets={"files.uploads": "1:2"},
    left_out={},
    checks=0,
)
APPROVAL = Approval(question=QUESTION, approver="alice", answered=datetime(2026, 11, 23, tzinfo=UTC))
APPROVERS = Approvals(approvers=({"user": "alice", "name": "Alice"}, {"user": "bob", "name": "Bob"}))


def test_signed_approval_and_question_are_read_unchanged(tmp_path):
    path = tmp_path / "plan.json"
    write_signed(path, APPROVAL, KEY)
    assert read_approval(path, KEY.verify_key) == APPROVAL
    asked = tmp_path / "plan.asked.json"
    write_signed(asked, QUESTION, KEY)
    assert read_question(asked, KEY.verify_key) == QUESTION


def test_read_approval_and_read_question_refuse_missing_file(tmp_path):
    with pytest.raises(ApprovalError, match="The gate cutover was not approved by anyone"):
        read_approval(tmp_path / "cutover.json", KEY.verify_key)
    with pytest.raises(ApprovalError, match="What the gate cutover asked can't be believed"):
        read_question(tmp_path / "cutover.asked.json", KEY.verify_key)


MALFORMED = {
    "empty": b"",
    "no keys": b"{}",
    "a list": b"[]",
    "null": b"null",
    "bytes": b"\xff\xfe",
    "a number": b'{"statement": 1, "signature": ""}',
    "no signature": b'{"statement": "{}"}',
    "a list as signature": b'{"statement": "{}", "signature": []}',
    "letters as signature": '{"statement": "{}", "signature": "é"}'.encode(),
    "half a character": b'{"statement": "\\ud800", "signature": ""}',
    "deeply nested": b"[" * 200_000,
    "a deeply nested statement": b'{"signature": "", "statement": ' + b'{"a":' * 200_000,
    "a long number": b'{"statement": ' + b"9" * 100_000 + b', "signature": ""}',
    "no number": b'{"statement": NaN, "signature": ""}',
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_read_approval_and_read_question_refuse_malformed_file(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(ApprovalError):
        read_approval(path, KEY.verify_key)
    with pytest.raises(ApprovalError):
        read_question(path, KEY.verify_key)


def test_read_approval_refuses_statement_changed_after_signing(tmp_path):
    path = tmp_path / "plan.json"
    write_signed(path, APPROVAL, KEY)
    signed = json.loads(path.read_text())
    for old, new in (("alice", "bobby"), ("run 1", "run 2"), ('"plan"', '"cuto"'), ("1:2", "1:3")):
        assert old in signed["statement"]
        path.write_text(json.dumps(signed | {"statement": signed["statement"].replace(old, new)}))
        with pytest.raises(ApprovalError):
            read_approval(path, KEY.verify_key)


def test_read_approval_refuses_other_signing_key_and_other_kind_of_statement(tmp_path):
    path = tmp_path / "plan.json"
    write_signed(path, APPROVAL, SigningKey.generate())
    with pytest.raises(ApprovalError):
        read_approval(path, KEY.verify_key)
    write_signed(path, QUESTION, KEY)
    with pytest.raises(ApprovalError):
        read_approval(path, KEY.verify_key)
    write_signed(path, APPROVAL, KEY)
    with pytest.raises(ApprovalError):
        read_question(path, KEY.verify_key)


def test_question_names_each_changed_field():
    assert QUESTION.changed(QUESTION) == []
    now = QUESTION.model_copy(update={"plan": "x", "targets": {}})
    assert QUESTION.changed(now) == ["plan", "targets"]
    for name in ("run_id", "gate", "set_id", "plan", "request", "text", "targets", "checks"):
        assert QUESTION.changed(QUESTION.model_copy(update={name: "other"})) == [name]


def test_check_person_accepts_only_approvers_other_than_requester():
    check_person("alice", "", "operator", APPROVERS)
    check_person("bob", "7", "alice", APPROVERS)
    for person, requester, words in (
        ("alice", "alice", "asked for this restore"),
        ("operator", "operator", "no approver"),
        ("carol", "operator", "no approver"),
        ("", "", "no approver"),
        ("Alice", "operator", "no approver"),
    ):
        with pytest.raises(ApprovalError, match=words) as refused:
            check_person(person, "", requester, APPROVERS)
        assert refused.value.retryable, "the gate asks again"


@pytest.mark.parametrize(
    ("named", "accepted", "refused"),
    [
        ({"user": "alice"}, [("alice", "3"), ("alice", "")], [("Alice", "3"), ("3", "alice"), ("bob", "alice"), ("", "alice")]),
        ({"id": "3"}, [("alice", "3"), ("bob", "3")], [("3", "4"), ("3", ""), ("alice", "03"), ("alice", "")]),
        ({"user": "alice", "id": "3"}, [("alice", "3")], [("alice", "4"), ("bob", "3"), ("3", "alice"), ("alice", "")]),
        ({"user": "a@example.org"}, [("a@example.org", "3")], [("A@example.org", "3"), ("a", "a@example.org")]),
    ],
)
def test_check_person_compares_user_name_and_id_each_with_its_own_kind(named, accepted, refused):
    """An auth manager may let people choose their user name: one that is the id of another person makes nobody an approver."""
    approvals = Approvals(approvers=({**named, "name": "Alice"},))
    for person, user_id in accepted:
        check_person(person, user_id, "operator", approvals)
    for person, user_id in refused:
        with pytest.raises(ApprovalError, match="no approver"):
            check_person(person, user_id, "operator", approvals)


def test_approver_with_neither_user_nor_id_is_refused():
    with pytest.raises(ValueError, match="write user, the name with which the person logs in, or id"):
        Approvals(approvers=({"name": "Alice"},))


def test_digest_accepts_text_with_undecodable_file_names():
    assert digest("naïve \udcff") != digest("naïve \udcfe")
