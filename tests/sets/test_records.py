import json
import subprocess
from datetime import timedelta

import pytest
from pydantic import ValidationError

from recovery.crypto.signing import SigningKey
from recovery.sets.manifest import encode
from recovery.sets.records import Record, add_record, hold, read_records, release
from tests.support.sets import KEY, NOW, manifest, put


@pytest.fixture
def destination(local):
    return local


@pytest.fixture
def made():
    return manifest()


def read(destination, made):
    return read_records(destination, made.path, KEY.verify_key, made)


def path_of(made, record):
    return f"{made.path}/records/{record.name}.json"


def test_read_records_of_a_new_set_is_empty(destination, made):
    found = read(destination, made)
    assert (found.verified, found.holds, found.findings) == ((), (), ())


def test_hold_is_in_force_until_a_release_record_is_added(destination, made):
    held = hold(made, NOW, "alice", "an audit")
    add_record(destination, held, KEY)
    add_record(destination, held, KEY)
    [in_force] = read(destination, made).holds
    assert in_force.name == held.name
    assert in_force.why == "held by alice: an audit"
    ended = release(made, held.name, NOW + timedelta(seconds=1), "bob", "audit is over")
    add_record(destination, ended, KEY)
    found = read(destination, made)
    assert found.holds == ()
    assert found.verified == (held, ended)
    assert found.of("release") == (ended,)
    assert found.findings == ()


def test_release_ends_only_the_named_hold(destination, made):
    holds = [hold(made, NOW + timedelta(microseconds=number), "alice", f"reason {number}") for number in range(3)]
    for each in holds:
        add_record(destination, each, KEY)
    add_record(destination, release(made, holds[1].name, NOW + timedelta(seconds=1), "bob", "done"), KEY)
    assert [each.name for each in read(destination, made).holds] == [holds[0].name, holds[2].name]


def test_hold_of_the_manifest_is_in_force_until_a_release_record_is_added(destination):
    made = manifest(hold=True)
    assert [each.name for each in read(destination, made).holds] == ["manifest"]
    add_record(destination, release(made, "manifest", NOW, "bob", "no longer needed"), KEY)
    assert read(destination, made).holds == ()


def test_record_signature_is_verified_by_stock_openssl(destination, made, tmp_path):
    held = hold(made, NOW, "alice", "an audit")
    add_record(destination, held, KEY)
    (tmp_path / "public.pem").write_bytes(KEY.verify_key.pem)
    path = destination.root / path_of(made, held)
    argv = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "public.pem", "-rawin", "-in", path, "-sigfile", f"{path}.sig"]
    subprocess.run(argv, check=True, capture_output=True)


def forge(destination, made, tmp_path, record, key=None, name=None, signature=None):
    data = encode(record)
    path = f"{made.path}/records/{name or record.name}.json"
    put(destination, path, data, tmp_path)
    if signature != b"":
        put(destination, f"{path}.sig", signature or (key or SigningKey.generate()).sign(data), tmp_path)


def test_release_without_a_valid_signature_ends_no_hold(destination, made, tmp_path):
    held = hold(made, NOW, "alice", "an audit")
    add_record(destination, held, KEY)
    ended = release(made, held.name, NOW + timedelta(seconds=1), "mallory", "delete it")
    for forgery in ({"key": None}, {"signature": b""}, {"signature": KEY.sign(b"something else")}, {"signature": b"short"}):
        forge(destination, made, tmp_path, ended, **forgery)
        found = read(destination, made)
        assert [each.name for each in found.holds] == [held.name]
        assert found.verified == (held,)
        [finding] = found.findings
        assert ended.name in finding
        destination.delete([path_of(made, ended), path_of(made, ended) + ".sig"])


def test_release_of_another_set_ends_no_hold(destination, made, tmp_path):
    other = manifest(NOW - timedelta(days=1))
    held = hold(made, NOW, "alice", "an audit")
    add_record(destination, held, KEY)
    stolen = release(other, held.name, NOW, "bob", "done")
    forge(destination, made, tmp_path, stolen, KEY)
    found = read(destination, made)
    assert [each.name for each in found.holds] == [held.name]
    assert "somebody moved or copied it" in found.findings[0]


def test_record_under_another_name_is_not_verified(destination, made, tmp_path):
    ended = release(made, "manifest", NOW, "bob", "done")
    forge(destination, made, tmp_path, ended, KEY, name="20270101T000000.000000Z-release")
    assert read(destination, made).verified == ()


def test_read_records_refuses_a_signed_manifest(destination, tmp_path):
    made = manifest(hold=True)
    data = encode(made)
    for name, content in (("", data), (".sig", KEY.sign(data))):
        put(destination, f"{made.path}/records/20261123T120000.000000Z-release.json{name}", content, tmp_path)
    found = read(destination, made)
    assert [each.name for each in found.holds] == ["manifest"]
    assert "no record" in found.findings[0]


def test_hold_without_a_valid_signature_is_in_force_until_a_valid_release(destination, made, tmp_path):
    held = hold(made, NOW, "mallory", "fill the disk")
    forge(destination, made, tmp_path, held)
    found = read(destination, made)
    assert [each.name for each in found.holds] == [held.name]
    assert "can't be verified" in found.holds[0].why
    assert found.verified == ()
    assert len(found.findings) == 1
    add_record(destination, release(made, held.name, NOW + timedelta(days=1), "bob", "looked at it"), KEY)
    assert read(destination, made).holds == ()


@pytest.mark.parametrize("left", [".sig", ""])
@pytest.mark.parametrize("kind", ["hold", "release", "proof"])
def test_leftover_of_a_removed_record_is_reported_and_a_hold_still_protects(destination, made, kind, left):
    held = hold(made, NOW, "alice", "an audit")
    add_record(destination, held, KEY)
    values = held.model_dump() | {"kind": kind, "time": NOW + timedelta(hours=1)}
    record = Record(**values | {"releases": held.name if kind == "release" else None})
    add_record(destination, record, KEY)
    destination.delete([path_of(made, record) + {".sig": "", "": ".sig"}[left]])
    found = read(destination, made)
    assert record.name in found.findings[0]
    assert len(found.findings) == 1
    assert [each.name for each in found.holds] == ([held.name, record.name] if kind == "hold" else [held.name])
    ended = [release(made, each.name, NOW + timedelta(days=1, seconds=number), "bob", "done") for number, each in enumerate(found.holds)]
    for each in ended:
        add_record(destination, each, KEY)
    assert read(destination, made).holds == ()


def test_hold_with_damaged_content_is_in_force(destination, made):
    held = hold(made, NOW, "alice", "an audit")
    add_record(destination, held, KEY)
    path = destination.root / path_of(made, held)
    for damage in (b"", b"not json", path.read_bytes()[:-5], b"x" * 5_000_000):
        path.write_bytes(damage)
        assert [each.name for each in read(destination, made).holds] == [held.name]


def test_report_record_is_read_back_with_its_facts(destination, made):
    report = Record(
        kind="report", plan=made.plan, set_id=made.set_id, time=NOW, by="run r", text="restored", facts={"seconds": 12.5, "steps": [1]}
    )
    add_record(destination, report, KEY)
    assert read(destination, made).of("report") == (report,)
    assert json.loads((destination.root / path_of(made, report)).read_text())["kind"] == "report"


def test_record_refuses_unknown_kinds_and_wrong_use_of_the_released_hold(made):
    values = {"plan": made.plan, "set_id": made.set_id, "time": NOW, "by": "a", "text": "b"}
    for wrong in ({"kind": "release"}, {"kind": "hold", "releases": "x"}, {"kind": "manifest"}, {"kind": "approval"}):
        with pytest.raises(ValidationError):
            Record(**values, **wrong)
