"""Whole sets verified in real folders, with real packs, by the engine alone."""

import os
import re
import shutil

import pyrage
import pytest
import zstandard

from recovery.backup import steps
from recovery.common.errors import ArtifactError
from recovery.common.progress import Progress
from recovery.common.units import now
from recovery.crypto.key_kit import create_keys
from recovery.crypto.recipients import parse_identity
from recovery.crypto.signing import SigningKey
from recovery.destinations.folder import Folder
from recovery.sets.find_sets import Unchecked, find_sets, pick
from recovery.sets.key_ring import KeyRing
from recovery.sets.layout import CONTENTS_FILE, MANIFEST_FILE, PACKS_FILE
from recovery.sets.local_copy import LocalSet
from recovery.sets.manifest import decode_manifest, describe_file, parse_packs, write_manifest, write_packs
from recovery.sets.records import Record, add_record
from recovery.sets.verify import VerificationStatus, verify_set
from sandbox.servers import postgres_bin
from tests.support.sets import flip
from tests.support.system import SampleSystem


@pytest.fixture(scope="module")
def made(postgres_server, mongo_server, tmp_path_factory):
    """A system of all four kinds, and a set of it with a record."""
    made = SampleSystem(tmp_path_factory.mktemp("made") / "small", "whole", postgres=postgres_server, mongo=mongo_server)
    made.set_id = made.back_up()
    made.drop()
    run = made.restore()
    record = Record(kind="proof", plan="whole", set_id=made.set_id, time=now(), by="run drill", text="verified", facts={})
    add_record(run.context.destination("near"), record, run.context.signing_key())
    return made


@pytest.fixture
def place(made, tmp_path):
    """A copy of a destination, to be damaged."""
    return shutil.copytree(made.folder / "near", tmp_path / "place")


@pytest.fixture
def folder(made, place):
    return place / "whole" / made.set_id


def keys(system, *, identity=True):
    """Both keys of a system's kit, or only the public one."""
    context = system.context()
    return KeyRing(context.verify_key(), [parse_identity(system.connect(f"{system.name}_backup_identity"))] if identity else [])


def verified(place, set_id, ring, **more):
    return verify_set(pick(find_sets(Folder("place", place), ring.public), set_id), ring, **more)


class Told(Progress):
    """Notes what it is told."""

    made = ()

    def __init__(self, what, total):
        super().__init__(what, total)
        Told.made = (*Told.made, self)


def test_verify_reads_every_byte_of_an_undamaged_set_and_reports_valid(made, place, folder, monkeypatch):
    monkeypatch.setattr(Told, "made", ())
    result = verified(place, made.set_id, keys(made), progress=Told)
    assert (result.status, result.faults, result.unable, result.notes) == (VerificationStatus.VALID, [], [], [])
    files = [path for path in folder.rglob("*") if path.is_file() and path.name.endswith((".age", "packs.jsonl", "RESTORE.md"))]
    size = sum(path.stat().st_size for path in files)
    assert (result.files, result.bytes) == (len(files), size)
    assert (result.set, result.plan) == (made.set_id, "whole")
    assert result.things >= 20
    (told,) = Told.made
    assert told.done == told.total == size


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\n")


DAMAGES = {
    "a pack": (lambda folder: flip(folder / "files/uploads/uploads.001.tar.zst.age"), "uploads.001.tar.zst.age at "),
    "a pack cut off": (
        lambda folder: os.truncate(folder / "postgres/main/whole.000.tar.zst.age", 99),
        "is not what the manifest says: 99 bytes",
    ),
    "a pack gone": (lambda folder: (folder / "mongo/documents/documents.000.tar.zst.age").unlink(), "There is no whole/"),
    "contents": (lambda folder: flip(folder / "contents.jsonl.zst.age"), "contents.jsonl.zst.age is not what the manifest says"),
    "list of packs": (lambda folder: flip(folder / "packs.jsonl"), "packs.jsonl of set"),
    "list of packs, longer": (lambda folder: lengthen(folder / "packs.jsonl"), "packs.jsonl at "),
    "instructions": (lambda folder: flip(folder / "RESTORE.md"), "RESTORE.md is not what the manifest says"),
    "manifest": (lambda folder: flip(folder / "manifest.json"), "manifest at"),
    "signature": (lambda folder: (folder / "manifest.json.sig").unlink(), "was not signed by the key"),
    "record": (lambda folder: flip(next((folder / "records").glob("*-proof.json"))), "is not believed"),
}


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("name", ["files/uploads/uploads.001.tar.zst.age", "contents.jsonl.zst.age", "RESTORE.md"])
def test_verify_does_not_read_a_lengthened_file_to_its_end(made, place, folder, monkeypatch, name, identity):
    """A hole costs who writes there nothing, and would be read for years."""
    monkeypatch.setattr(Told, "made", ())
    os.truncate(folder / name, 100 << 20)
    result = verified(place, made.set_id, keys(made, identity=identity), progress=Told)
    assert (result.status, len(result.faults)) == (VerificationStatus.INVALID, 1)
    assert name in result.faults[0]
    (told,) = Told.made
    assert told.done < 50 << 20


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_finds_damage_of_every_kind_of_file(made, place, folder, damage):
    action, words = DAMAGES[damage]
    action(folder)
    result = verified(place, made.set_id, keys(made))
    assert (result.status, result.unable) == (VerificationStatus.INVALID, [])
    assert any(words in fault for fault in result.faults), result


def test_verify_reports_all_damaged_packs_and_unknown_files_at_once(made, place, folder):
    for path in (folder / "files/uploads").iterdir():
        flip(path)
    for number in range(7):
        (folder / f"stranger{number}").touch()
    result = verified(place, made.set_id, keys(made, identity=False))
    assert len(result.faults) == len(list((folder / "files/uploads").iterdir())) > 2
    (note,) = result.notes
    assert note == "beside it lies what is no part of it: stranger0, stranger1, stranger2, stranger3, stranger4 and 2 more"


def sign(made, folder, **changes):
    """Change a manifest as whoever has the key can."""
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes(), "here")
    write_manifest(folder, manifest.model_copy(update=changes), SigningKey.from_endpoint(made.connect("whole_backup_signing")))


def test_verify_needs_an_identity_to_find_damaged_packs_with_signed_checksums(made, place, folder):
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes(), "here")
    packs = parse_packs((folder / PACKS_FILE).read_bytes(), manifest)
    for exchanged in ("mongo/documents/documents.000.tar.zst.age", "files/uploads/uploads.000.tar.zst.age"):
        flip(folder / exchanged)
        there = describe_file(folder / exchanged)
        packs = [pack.model_copy(update={"sha256": there.sha256}) if pack.file == exchanged else pack for pack in packs]
    write_packs(folder / PACKS_FILE, packs)
    sign(made, folder, files=manifest.files.model_copy(update={"packs": describe_file(folder / PACKS_FILE)}))
    assert verified(place, made.set_id, keys(made, identity=False)).status == VerificationStatus.VALID
    result = verified(place, made.set_id, keys(made))
    assert (result.status, len(result.faults)) == (VerificationStatus.INVALID, 2), result


def sealed_again(made, folder, *lines):
    """Contents that whoever has the keys encrypted and signed."""
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes(), "here")
    recipient = keys(made).identities[0].to_public()
    (folder / CONTENTS_FILE).write_bytes(pyrage.encrypt(zstandard.compress(b"".join(line + b"\n" for line in lines)), [recipient]))
    sign(made, folder, files=manifest.files.model_copy(update={"contents": describe_file(folder / CONTENTS_FILE)}))


@pytest.mark.parametrize(
    "line",
    [b"{}", b"7", b"[]", b'["files.uploads", "uploads", "file", "x"]', b'["files.uploads", "uploads", 7, "x", {}]', b"\xff",
     b'["files.uploads", "uploads", "file", "\\ud800", {}]', b'["files.uploads", "uploads", "file", "x", []]', b"[" * 100_000],
)  # fmt: skip
def test_contents_of_a_wrong_shape_are_refused_in_words(made, place, folder, tmp_path, line):
    sealed_again(made, folder, line)
    result = verified(place, made.set_id, keys(made))
    assert result.status == VerificationStatus.INVALID
    assert any("contents.jsonl.zst.age is no list of what is in the packs" in fault for fault in result.faults), result
    local = LocalSet(tmp_path / "local")
    local.choose(decode_manifest((folder / MANIFEST_FILE).read_bytes(), "here"))
    with pytest.raises(ArtifactError, match="is no list of what is in the packs"):
        local.fetch([Folder("place", place)], keys(made).identities[0], ())


def test_verify_with_an_unreadable_file_reports_not_fully_verified(made, place, folder):
    """A folder where the file should be: reading fails there as it does on a bad disk, for root too."""
    path = folder / "files/uploads/uploads.000.tar.zst.age"
    path.unlink()
    path.mkdir()
    (path / "x").touch()
    result = verified(place, made.set_id, keys(made))
    assert (result.status, result.faults, len(result.unable)) == (VerificationStatus.NOT_FULLY_VERIFIED, [], 1)


def test_verify_without_public_key_reports_perhaps_not_genuine_at_best(made, place, folder):
    ring = KeyRing(Unchecked(), keys(made).identities)
    assert verified(place, made.set_id, ring).status == VerificationStatus.PERHAPS_NOT_GENUINE
    sign(made, folder, complete=False, missing={"files.other": "it does not answer"})
    result = verified(place, made.set_id, ring)
    assert (result.status, result.missing) == (VerificationStatus.NOT_COMPLETE, ["files.other"])
    assert result.notes == ["it is not complete: it lacks files.other"]
    flip(folder / "RESTORE.md")
    assert verified(place, made.set_id, ring).status == VerificationStatus.INVALID


def test_verify_with_wrong_identity_reads_all_files_and_reports_not_fully_verified(made, place, tmp_path):
    text = (create_keys(tmp_path / "other", "other").folder / "identity.txt").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("AGE-SECRET-KEY-1")]
    other = type(keys(made).identities[0]).from_str(line)
    right = keys(made)
    result = verified(place, made.set_id, KeyRing(right.public, [other]))
    assert (result.status, result.faults, result.things) == (VerificationStatus.NOT_FULLY_VERIFIED, [], None)
    assert "was not encrypted to this identity" in result.unable[0]
    assert result.files > 5
    assert verified(place, made.set_id, KeyRing(right.public, [other, *right.identities])).status == VerificationStatus.VALID


@pytest.fixture(scope="module")
def unopened(postgres_server, mongo_server, tmp_path_factory):
    """A system whose plan has no identity: its sets are stored without being opened."""
    made = SampleSystem(tmp_path_factory.mktemp("unopened") / "small", "unopened", postgres=postgres_server, mongo=mongo_server)
    path = made.plans / "unopened.yaml"
    path.write_text(path.read_text().replace(", identity: unopened_backup_identity", "") + "verification: checksum\n")
    made.set_id = made.back_up("whole")
    yield made
    made.drop()


@pytest.fixture
def opened_now(unopened, monkeypatch):
    """Verify one of its sets with an identity; the tools of its PostgreSQL are known."""
    monkeypatch.setenv("RECOVERY_POSTGRES_BIN", str(postgres_bin(18)))
    return lambda set_id: verified(unopened.folder / "near", set_id, keys(unopened))


def test_verify_of_a_never_decrypted_set_is_valid_only_after_its_contents_are_read(unopened, opened_now, monkeypatch):
    assert (
        verified(unopened.folder / "near", unopened.set_id, keys(unopened, identity=False)).status == VerificationStatus.CONTENTS_NOT_READ
    )
    assert opened_now(unopened.set_id).status == VerificationStatus.VALID
    monkeypatch.setenv("RECOVERY_POSTGRES_BIN", "")
    monkeypatch.setattr("recovery.sources.postgres.client.tool_places", lambda *_: [])
    result = opened_now(unopened.set_id)
    expected = (VerificationStatus.NOT_FULLY_VERIFIED, [])
    assert (result.status, result.faults) == expected, "whether it holds everything can't be told without pg_restore"
    assert "PostgreSQL 18 client tools" in result.unable[0]


MONGO_LACKS = "mongo.documents, documents: The dump lacks what its source has: "


@pytest.mark.parametrize(
    ("source", "lost", "words"),
    [
        ("mongo.documents", rb"unopened/states\..*", f"{MONGO_LACKS}collection unopened.states"),
        ("mongo.documents", rb"unopened/states\.bson", f"{MONGO_LACKS}the documents of unopened.states"),
        ("mongo.documents", rb".*", MONGO_LACKS),
        ("postgres.main", rb"\d+\.dat", "postgres.main, unopened: The dump lacks what the source has: the file"),
        ("files.uploads", rb"top\.txt", "files.uploads, uploads: The archive of uploads lacks top.txt"),
        ("config.settings", rb".*flow\.py", "config.settings, settings: The archive of settings lacks "),
    ],
)
def test_verify_reports_invalid_when_packs_lack_content_of_the_inventory(unopened, opened_now, monkeypatch, source, lost, words):
    members = steps._members

    def fewer(work, artifact):
        return (member for member in members(work, artifact) if not re.fullmatch(lost, member.path))

    monkeypatch.setattr(steps, "_members", fewer)
    set_id = unopened.back_up(f"without {lost}", sources=(source,))
    result = opened_now(set_id)
    assert (result.status, len(result.faults)) == (VerificationStatus.INVALID, 1), result
    assert words in result.faults[0]
