import hashlib
import os
import shutil
from datetime import timedelta

import pytest

from recovery.common.errors import ArtifactError, DestinationError, ManifestError, StagingError
from recovery.destinations.base import Destination
from recovery.destinations.folder import Folder
from recovery.sets.catalog import list_destination
from recovery.sets.layout import MANIFEST_FILE, SIGNATURE_FILE
from recovery.sets.manifest import File
from recovery.sets.transfer import download, upload_set
from tests.support.sets import KEY, NOW, keys_of, make_set, put, run_python

MIB = 1 << 20


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sets_at(destination, plan="openmanus"):
    return [manifest.set_id for manifest in list_destination(destination, plan, KEY.verify_key).manifests]


def watch(destination, monkeypatch):
    puts = []
    real = destination.put

    def watched(path, key, sha256, sent):
        done = real(path, key, sha256, sent)
        puts.append((key.split("/", 2)[2], done))
        return done

    monkeypatch.setattr(destination, "put", watched)
    return puts


def test_upload_sends_all_files_of_a_set_and_the_manifest_last(destination, tmp_path, monkeypatch):
    folder, manifest = make_set(tmp_path / "staging", sizes=(1000, 9 * MIB, 10))
    puts = watch(destination, monkeypatch)
    upload = upload_set(folder, destination)
    assert puts[-2:] == [(SIGNATURE_FILE, True), (MANIFEST_FILE, True)]
    assert all("/" in name for name, _ in puts[:3])
    there = {key.split("/", 2)[2]: destination.read(key, 10 * MIB) for key in keys_of(destination, f"{manifest.path}/")}
    assert there == files_of(folder)
    assert (upload.files, upload.bytes) == (8, sum(map(len, there.values()))) == (8, upload.sent_bytes)
    assert upload.confirmed_by == (("reading it back",) if isinstance(destination, Folder) else ("SHA-256",))
    assert sets_at(destination) == [folder.name]


def test_upload_repeated_sends_nothing(destination, tmp_path, monkeypatch):
    folder, _ = make_set(tmp_path / "staging", sizes=(1000, 9 * MIB))
    upload_set(folder, destination)
    puts = watch(destination, monkeypatch)
    again = upload_set(folder, destination)
    assert again.sent_bytes == 0
    assert not any(sent for _, sent in puts)


def test_upload_repeated_sends_missing_and_damaged_packs_again(destination, tmp_path, monkeypatch):
    folder, manifest = make_set(tmp_path / "staging")
    upload_set(folder, destination)
    destination.delete([f"{manifest.path}/postgres/main/shop.000.tar.zst.age"])
    put(destination, f"{manifest.path}/postgres/main/shop.001.tar.zst.age", bytes(2000), tmp_path)
    puts = watch(destination, monkeypatch)
    upload_set(folder, destination)
    assert {name for name, sent in puts if sent} == {f"postgres/main/shop.00{number}.tar.zst.age" for number in (0, 1)}


def test_upload_never_overwrites_another_manifest_of_the_same_set_id(destination, tmp_path):
    folder, _ = make_set(tmp_path / "staging", run_id="r", seed=1)
    upload_set(folder, destination)
    other, manifest = make_set(tmp_path / "other", run_id="r", seed=2)
    assert other.name == folder.name
    with pytest.raises(ManifestError, match="never overwritten"):
        upload_set(other, destination)
    assert destination.read(f"{manifest.path}/{MANIFEST_FILE}", MIB) == (folder / MANIFEST_FILE).read_bytes()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from recovery.common.progress import Progress
    from recovery.sets.transfer import upload_set
    folder, limit = Path(sys.argv[1]), int(sys.argv[2])
    add = Progress.add
    def count_and_die(self, count):
        add(self, count)
        if self.done >= limit:
            os.kill(os.getpid(), signal.SIGKILL)
    Progress.add = count_and_die
    {destination}
    upload_set(folder, destination)
"""
TO_FOLDER = "from recovery.destinations.folder import Folder; destination = Folder('local', Path(sys.argv[3]))"
TO_S3 = (
    "import boto3; from recovery.destinations.s3 import S3; destination = S3('offsite', boto3.client('s3', endpoint_url=sys.argv[3],"
    " aws_access_key_id=sys.argv[4], aws_secret_access_key=os.environ['SECRET'], region_name='us-east-1'), sys.argv[5], sys.argv[6])"
)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9999, 1])
def test_upload_killed_at_any_point_leaves_no_set_and_the_next_upload_finishes(destination, request, tmp_path, share):
    folder, manifest = make_set(tmp_path / "staging", sizes=(9 * MIB, 17 * MIB, 100))
    total = sum(len(data) for data in files_of(folder).values())
    limit = int(total * share) if share < 1 else total  # at 1 the manifest itself is just being written
    if isinstance(destination, Folder):
        ended = run_python(KILLED.format(destination=TO_FOLDER), folder, limit, destination.root)
    else:
        server = request.getfixturevalue("s3_server")
        arguments = (folder, limit, server.url, server.access_key, destination._bucket, destination._prefix.rstrip("/"))
        ended = run_python(KILLED.format(destination=TO_S3), *arguments, SECRET=server.secret_key)
    assert ended.returncode == -9, ended.stderr
    listing = list_destination(destination, "openmanus", KEY.verify_key)
    if isinstance(destination, Folder) or share < 1:  # an S3 server may have the manifest before anybody here knows
        assert listing.manifests == ()
    whole = files_of(folder)
    for key in keys_of(destination, f"{manifest.path}/"):
        assert destination.read(key, 20 * MIB) == whole[key.split("/", 2)[2]]
    upload_set(folder, destination)
    assert sets_at(destination) == [folder.name]
    if isinstance(destination, Folder):
        assert files_of(destination.root / manifest.path) == whole


@pytest.mark.parametrize(
    "name", ["postgres/main/shop.001.tar.zst.age", "contents.jsonl.zst.age", "packs.jsonl", "RESTORE.md", "manifest.json.sig"]
)
def test_upload_fails_and_makes_no_set_when_a_file_is_missing_in_staging(local, tmp_path, name):
    folder, _ = make_set(tmp_path / "staging")
    (folder / name).unlink()
    with pytest.raises(StagingError, match=f"Staging has no .*{name}"):
        upload_set(folder, local)
    assert sets_at(local) == []


@pytest.mark.parametrize("name", ["postgres/main/shop.001.tar.zst.age", "contents.jsonl.zst.age", "packs.jsonl", "RESTORE.md"])
def test_upload_fails_and_makes_no_set_when_a_file_is_damaged_in_staging(destination, tmp_path, name):
    folder, manifest = make_set(tmp_path / "staging")
    data = bytearray((folder / name).read_bytes())
    data[10] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises((DestinationError, ArtifactError), match=r"is not what the manifest says|is not the one that its manifest names"):
        upload_set(folder, destination)
    assert sets_at(destination) == []
    assert f"{manifest.path}/{name}" not in keys_of(destination)


def test_upload_fails_before_the_first_write_when_free_space_is_too_small(local, tmp_path, monkeypatch):
    folder, manifest = make_set(tmp_path / "staging")
    needed = manifest.stored_bytes
    monkeypatch.setattr(local, "free_space", lambda: needed - 1)
    with pytest.raises(DestinationError, match="free; the set needs"):
        upload_set(folder, local)
    assert keys_of(local) == set()
    monkeypatch.setattr(local, "free_space", lambda: needed)
    upload_set(folder, local)
    monkeypatch.setattr(local, "free_space", lambda: 0)
    upload_set(folder, local)


def test_upload_fails_before_the_manifest_when_a_sent_pack_disappears(local, tmp_path, monkeypatch):
    folder, manifest = make_set(tmp_path / "staging")
    real = local.put

    def thief(path, key, sha256, sent):
        if key.endswith("RESTORE.md"):
            local.delete([f"{manifest.path}/postgres/main/shop.000.tar.zst.age"])
        return real(path, key, sha256, sent)

    monkeypatch.setattr(local, "put", thief)
    with pytest.raises(DestinationError, match="does not list it"):
        upload_set(folder, local)
    assert sets_at(local) == []


def test_destination_stores_sets_of_two_plans_under_the_same_set_id(local, tmp_path):
    one, _ = make_set(tmp_path / "one", plan="openmanus", run_id="r")
    two, _ = make_set(tmp_path / "two", plan="other", run_id="r")
    upload_set(one, local)
    upload_set(two, local)
    assert sets_at(local, "openmanus") == sets_at(local, "other") == [one.name]


def describe(data):
    return File(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def test_download_creates_the_file_only_when_its_checksum_matches(destination: Destination, tmp_path):
    data = os.urandom(9 * MIB)
    put(destination, "p/s/x", data, tmp_path)
    seen = []
    download(destination, "p/s/x", tmp_path / "x", describe(data), seen.append)
    assert (tmp_path / "x").read_bytes() == data
    assert sum(seen) == len(data)
    for wrong in (data[:-1], data + b"x", data[:-1] + b"?", b""):
        with pytest.raises(ArtifactError, match="is not what the manifest says"):
            download(destination, "p/s/x", tmp_path / "y", describe(wrong), lambda count: None)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("y")]


def test_download_of_a_missing_object_leaves_no_partial_file(local, tmp_path):
    with pytest.raises(DestinationError, match="There is no p/s/x"):
        download(local, "p/s/x", tmp_path / "x", describe(b"x"), lambda count: None)
    assert not (tmp_path / "x.partial").exists()


def test_download_into_a_missing_folder_raises_a_staging_error(local, tmp_path):
    put(local, "p/s/x", b"x", tmp_path)
    with pytest.raises(StagingError, match="could not be written"):
        download(local, "p/s/x", tmp_path / "gone/x", describe(b"x"), lambda count: None)


def test_upload_of_several_runs_keeps_every_set(local, tmp_path):
    for day in range(3):
        folder, _ = make_set(tmp_path / "staging", NOW - timedelta(days=day))
        upload_set(folder, local)
        shutil.rmtree(folder)
    assert len(sets_at(local)) == 3
